//! One event, one line: nothing that a stranger sent can begin a line, colour a terminal, or turn the reading
//! direction (security.md LG-03). Whoever writes the value need not think of it; it happens here, once, for
//! both formats.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

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
        escape(&mut out, line.trim_end_matches('\n'), |out, c| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        })?;
        out.write_char('\n')
    }
}

/// For people: `time LEVEL target: message key=value … | span key=value …`, coloured on a terminal.
pub struct PrettyLine;

impl<S, N> FormatEvent<S, N> for PrettyLine
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
        let colours = out.has_ansi_escapes();
        let (dim, plain) = if colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        out.write_str(dim)?;
        SystemTime.format_time(&mut out)?;
        out.write_str(plain)?;
        let level = *event.metadata().level();
        let bright = if colours { colour(level) } else { "" };
        write!(out, " {bright}{level:>5}{plain} ")?;

        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = fields.log_target.as_deref().unwrap_or_else(|| event.metadata().target());
        write!(out, "{dim}{}{plain}: ", Text(target))?;
        let gap = if fields.message.is_empty() || fields.pairs.is_empty() { "" } else { " " };
        write!(out, "{}{gap}{}", fields.message, fields.pairs)?;

        for span in ctx.event_scope().into_iter().flatten() {
            write!(out, " {dim}|{plain} {}", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(out, " {dim}{}{plain}", fields.fields)?;
            }
        }
        out.write_char('\n')
    }
}

/// The fields of a span in the pretty format.
pub struct PrettyFields;

impl<'w> FormatFields<'w> for PrettyFields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields::default();
        fields.record(&mut visitor);
        out.write_str(&visitor.pairs)
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
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
    fn take(&mut self, name: &str, value: &str) -> fmt::Result {
        match name {
            "message" => write!(self.message, "{}", Text(value)),
            "log.target" => {
                self.log_target = Some(value.to_owned());
                Ok(())
            }
            // Words for the trace collector, and the source lines of the `log` crate.
            _ if name.starts_with("otel.") || name.starts_with("log.") => Ok(()),
            _ => {
                let gap = if self.pairs.is_empty() { "" } else { " " };
                write!(self.pairs, "{gap}{name}={}", Value(value))
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Writing to a `String` does not fail.
        let _ = self.take(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = self.take(field.name(), &format!("{value:?}"));
    }
}

/// Text with its unsafe characters visible.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, |out, c| write!(out, "{}", c.escape_default()))
    }
}

/// A field's value; quoted unless it is one plain word, so that no value can pretend to be another field.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |c: char| !c.is_whitespace() && !is_unsafe(c) && !matches!(c, '"' | '\\' | '=' | '|');
        if !self.0.is_empty() && self.0.chars().all(word) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for part in self.0.split_inclusive(['"', '\\']) {
            match part.strip_suffix(['"', '\\']) {
                Some(before) => write!(f, "{}\\{}", Text(before), &part[before.len()..])?,
                None => write!(f, "{}", Text(part))?,
            }
        }
        f.write_char('"')
    }
}

fn escape<W: fmt::Write>(
    out: &mut W,
    text: &str,
    escaped: impl Fn(&mut W, char) -> fmt::Result,
) -> fmt::Result {
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
