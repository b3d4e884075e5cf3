//! One event, one line: nothing that a stranger sent can begin a line, colour a terminal, or turn the reading
//! direction (security.md LG-03). Whoever writes the value need not think of it; it happens here, once, for
//! both formats.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{fields, request};

/// The crate's JSON, with every unsafe character as `\uXXXX`. Unsafe characters stand only inside JSON
/// strings, so replacing them in the finished line changes no value.
pub struct JsonLine(pub tracing_subscriber::fmt::format::Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        let told = request::current(|request| {
            serde_json::json!([{
                "name": "request",
                fields::REQUEST_ID: &*request.id,
                fields::METHOD: request.method,
                fields::PATH_CLASS: request.path_class,
            }])
        });
        match (line.strip_suffix('}'), told) {
            (Some(open), Some(told)) => {
                escape_json(&mut out, open)?;
                escape_json(&mut out, &format!(",\"spans\":{told}}}"))?;
            }
            _ => escape_json(&mut out, line)?,
        }
        out.write_char('\n')
    }
}

fn escape_json(out: &mut impl fmt::Write, line: &str) -> fmt::Result {
    escape(out, line, |out, c| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
    })
}

/// For people: `time LEVEL target: message key=value … | request key=value …`, coloured on a terminal.
pub struct PrettyLine;

impl<S, N> FormatEvent<S, N> for PrettyLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let colours = out.has_ansi_escapes();
        let (dim, plain) = if colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let (level, bright) = level(*event.metadata().level());
        let bright = if colours { bright } else { "" };
        // Taken out while it is used: whoever logs while a value of theirs is spelled begins with nothing.
        let Scratch { mut line, mut fields } = SCRATCH.take();
        event.record(&mut fields);
        let target = fields.log_target.as_deref().unwrap_or_else(|| event.metadata().target());

        line.push_str(dim);
        put_time(&mut line);
        put_all(&mut line, [plain, " ", bright, level, plain, " ", dim]);
        escape_text(&mut line, target)?;
        put_all(&mut line, [plain, ": ", &fields.message]);
        if !fields.message.is_empty() && !fields.pairs.is_empty() {
            line.push(' ');
        }
        line.push_str(&fields.pairs);
        request::current(|told| {
            put_all(&mut line, [" ", dim, "|", plain, " request ", dim]);
            put_request(&mut line, told);
            line.push_str(plain);
        });
        line.push('\n');
        let written = out.write_str(&line);
        SCRATCH.set(Scratch::emptied(line, fields));
        written
    }
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The room of the line before, for the next one: an access log would else ask the allocator several times for each request.
#[derive(Default)]
struct Scratch {
    line: String,
    fields: Fields,
}

impl Scratch {
    fn emptied(mut line: String, mut fields: Fields) -> Self {
        if line.capacity() > KEPT {
            return Self::default();
        }
        line.clear();
        fields.message.clear();
        fields.pairs.clear();
        fields.log_target = None;
        Self { line, fields }
    }
}

/// Room for any ordinary line.
const KEPT: usize = 4 * 1024;

fn put_all<const N: usize>(line: &mut String, parts: [&str; N]) {
    for part in parts {
        line.push_str(part);
    }
}

/// What a line says of its request.
fn put_request(line: &mut String, request: &request::Request) {
    put(line, fields::REQUEST_ID, |out| out.push_str(&request.id));
    line.push(' ');
    put(line, fields::METHOD, |out| out.push_str(request.method));
    line.push(' ');
    put(line, fields::PATH_CLASS, |out| out.push_str(request.path_class));
}

/// RFC 3339 in UTC, with microseconds. Everything but those is spelled once a second.
#[expect(
    clippy::disallowed_methods,
    reason = "a line is written when it is written, whatever time a test has set"
)]
fn put_time(line: &mut String) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, spelled)| {
        if *second != now.as_secs() || spelled.is_empty() {
            let shape = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
            let at =
                i64::try_from(now.as_secs()).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            *spelled = at.and_then(|at| at.format(shape).ok()).unwrap_or_default();
            *second = now.as_secs();
        }
        line.push_str(spelled);
    });
    // A million more, so that there are always seven digits, of which the first is cut off.
    let mut digits = itoa::Buffer::new();
    let micros = digits.format(now.subsec_micros() + 1_000_000);
    put_all(line, [".", micros.get(1..).unwrap_or_default(), "Z"]);
}

/// A level's name, five signs wide, and its colour.
fn level(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::ERROR => ("ERROR", "\x1b[31m"),
        Level::WARN => (" WARN", "\x1b[33m"),
        Level::INFO => (" INFO", "\x1b[32m"),
        Level::DEBUG => ("DEBUG", "\x1b[34m"),
        Level::TRACE => ("TRACE", "\x1b[35m"),
    }
}

/// Fields, already safe to print.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: String,
    /// Who wrote an event that came through the `log` crate; its own target says only "log".
    log_target: Option<String>,
}

impl Fields {
    fn take(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        match name {
            "message" => {
                write(&mut self.message);
                if !self.message.bytes().all(is_plain) {
                    let raw = std::mem::take(&mut self.message);
                    // Writing to a `String` does not fail.
                    let _ = escape_text(&mut self.message, &raw);
                }
            }
            "log.target" => write(self.log_target.insert(String::new())),
            // Words for the trace collector, and the source lines of the `log` crate.
            _ if name.starts_with("otel.") || name.starts_with("log.") => {}
            _ => {
                if !self.pairs.is_empty() {
                    self.pairs.push(' ');
                }
                put(&mut self.pairs, name, write);
            }
        }
    }
}

/// Adds `name=value`, the value quoted unless it is one plain word, so that no value can pretend to be another field.
fn put(pairs: &mut String, name: &str, write: impl FnOnce(&mut String)) {
    pairs.push_str(name);
    pairs.push('=');
    let at = pairs.len();
    write(pairs);
    let value = pairs.get(at..).unwrap_or_default();
    let is_word = |b: u8| is_plain(b) && !matches!(b, b' ' | b'"' | b'\\' | b'=' | b'|');
    if value.is_empty() || !value.bytes().all(is_word) {
        let value = pairs.split_off(at);
        let _ = quote(pairs, &value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), |out| out.push_str(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field.name(), |out| out.push_str(itoa::Buffer::new().format(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field.name(), |out| {
            let _ = write!(out, "{value:?}");
        });
    }
}

/// A printable sign of ASCII: nothing about it is unsafe.
fn is_plain(b: u8) -> bool {
    matches!(b, b' '..=b'~')
}

fn escape_text(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    escape(out, text, |out, c| write!(out, "{}", c.escape_default()))
}

fn quote(out: &mut String, value: &str) -> fmt::Result {
    let word = |c: char| !c.is_whitespace() && !is_unsafe(c) && !matches!(c, '"' | '\\' | '=' | '|');
    if !value.is_empty() && value.chars().all(word) {
        return out.write_str(value);
    }
    out.push('"');
    for part in value.split_inclusive(['"', '\\']) {
        let before = part.strip_suffix(['"', '\\']).unwrap_or(part);
        escape_text(out, before)?;
        if let Some(sign) = part.strip_prefix(before).filter(|sign| !sign.is_empty()) {
            out.push('\\');
            out.push_str(sign);
        }
    }
    out.push('"');
    Ok(())
}

fn escape<W: fmt::Write>(
    out: &mut W,
    text: &str,
    escaped: impl Fn(&mut W, char) -> fmt::Result,
) -> fmt::Result {
    if text.bytes().all(is_plain) {
        return out.write_str(text);
    }
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
        let (before, after) = rest.split_at(at);
        out.write_str(before)?;
        escaped(out, c)?;
        rest = after.strip_prefix(c).unwrap_or_default();
    }
    out.write_str(rest)
}

/// Control characters (C0, DEL, C1), what ends a line elsewhere, what is invisible, and what turns the
/// reading direction.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}
