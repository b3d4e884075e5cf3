//! The log: who may speak how loudly, in which format, and how a line leaves without anyone waiting for it.

use std::io::{self, IsTerminal as _, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use super::line::{JsonLine, PrettyLine};
use super::queue::{self, Queue, QueueGuard};
use super::traces::{self, Otlp};

/// What our own events call themselves: the crate's module paths, or a target that begins so.
pub const OURS: &str = "doorward";

/// Lines that wait for a slow sink. At some hundred bytes each this is a few MiB, and minutes of an ordinary
/// day.
const LINES_MAX: usize = 16_384;
/// The longest that traces may hold up the end of the process; the log's own last lines take at most 1.1 s
/// more.
const FLUSH: Duration = Duration::from_secs(3);

/// How a line looks. Both are one line for each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal unless `NO_COLOR` is set (no-color.org).
    Pretty,
    /// One JSON object: `timestamp, level, fields{message, …}, target, spans[{name, …}]`.
    Json,
}

/// Keeps log and traces going; dropped at the very end it writes what is left, in bounded time.
#[must_use = "dropping it ends the log"]
#[derive(Debug)]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    lost: LostLines,
    // Dropped after `drop` has run, so that what the traces complain of at the end is still written.
    _writer: QueueGuard,
}

impl Guard {
    /// For [`super::Metrics::watch_log`].
    #[must_use]
    pub fn lost_lines(&self) -> LostLines {
        self.lost.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// How many lines were lost so far: dropped because the buffer was full, or refused by the sink.
#[derive(Clone, Debug)]
pub struct LostLines {
    queue: Queue,
    refused: Arc<AtomicU64>,
}

impl LostLines {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.queue.dropped().saturating_add(self.refused.load(Ordering::Relaxed))
    }
}

/// Installs log and traces for the whole process, once. Lines go to stderr, so that stdout stays free for
/// what a command prints.
///
/// `level` is a level or a list of directives (`info`, `doorward::flows=debug,warn`). Whatever it asks for,
/// everything but Doorward itself is heard from `warn` upwards only: the debug events of HTTP and SQL
/// libraries carry tokens (security.md LG-01, LG-02). So a `target:` of our own begins with `doorward` too,
/// or its `info` is not heard. A log that is blocked loses lines, counts them, and stops nobody (LG-07).
///
/// # Errors
/// A sentence for the operator: a level or an endpoint that cannot be read, or a second call.
pub fn init(format: Format, level: &str, otlp: Option<&Otlp>) -> Result<Guard, String> {
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (dispatch, guard) = assemble(Form { format, colours }, level, otlp, io::stderr())?;
    dispatch.try_init().map_err(|error| format!("the log cannot be installed: {error}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

#[derive(Clone, Copy)]
pub(super) struct Form {
    pub format: Format,
    pub colours: bool,
}

/// Everything of [`init`] but the installing.
pub(super) fn assemble(
    form: Form,
    level: &str,
    otlp: Option<&Otlp>,
    sink: impl Write + Send + 'static,
) -> Result<(Dispatch, Guard), String> {
    if level.contains('[') {
        return Err(format!(
            "log level {level:?} cannot be read: it names a span, and lines are chosen by level and target alone"
        ));
    }
    let asked = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(level)
        .map_err(|error| format!("log level {level:?} cannot be read: {error}"))?;
    let allowed = Targets::new()
        .with_default(LevelFilter::WARN)
        // What visitors and apps break off is told by us, once.
        .with_target("actix_http::h1::dispatcher", LevelFilter::OFF)
        .with_target(OURS, LevelFilter::TRACE);
    let traces = otlp.map(traces::open).transpose()?;

    let refused = Arc::new(AtomicU64::new(0));
    let sink = Sink { sink, refused: Arc::clone(&refused) };
    let (writer, guard) = queue::open(sink, LINES_MAX)
        .map_err(|error| format!("the log's thread cannot be started: {error}"))?;
    let lost = LostLines { queue: writer.clone(), refused };

    // A line names its request by itself (`request.rs`): spans are for traces.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is for one lifetime, the filter for all"
    )]
    let events = filter_fn(|told| told.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let lines = lines(form, writer).with_filter(asked.and(allowed).and(events));
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![lines.boxed()];
    if let Some(provider) = &traces {
        layers.push(traces::layer(provider));
    }
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layers));
    Ok((dispatch, Guard { traces, lost, _writer: guard }))
}

fn lines<S>(form: Form, writer: Queue) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // The layer would report its own failures to stderr, past the bounded buffer.
    let layer = fmt::layer().with_writer(writer).with_ansi(form.colours).log_internal_errors(false);
    match form.format {
        Format::Pretty => layer.event_format(PrettyLine).boxed(),
        Format::Json => {
            let json = fmt::format().json().with_current_span(false).with_span_list(false);
            layer.with_ansi(false).fmt_fields(JsonFields::new()).event_format(JsonLine(json)).boxed()
        }
    }
}

/// Counts what the sink refuses: a closed pipe or a full disk loses lines just as a full buffer does.
struct Sink<W> {
    sink: W,
    refused: Arc<AtomicU64>,
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        // The queue hands over whole lines.
        if self.sink.write_all(lines).is_err() {
            let count = lines.split(|byte| *byte == b'\n').count().saturating_sub(1);
            self.refused.fetch_add(count as u64, Ordering::Relaxed);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// A panic is an event like any other, on one line. Its text is shown only when it is a literal of the
/// program: a formatted one may hold a value that nobody may read (security.md LG-01).
pub(super) fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(text withheld)");
    tracing::error!(place, text, "panic");
}
