//! Telemetry: logs, traces and metrics, and their names in one place.
//!
//! Owns: the line a log event becomes, what a dependency may say at most, the way to the trace collector,
//! every metric and its labels. Never does: decide what happened, read a request, or hold anything secret.
//! Callers pass outcomes as words; no code, token, cookie, password or person is a label, a span field or a
//! span name (security.md chapter 14).
//!
//! Nothing here is a static but what `tracing` itself keeps: [`init`] installs it once, [`Metrics`] is part
//! of `App`.

pub mod fields;
mod line;
mod logs;
mod metrics;
mod queue;
mod traces;

#[cfg(test)]
mod tests;

pub use logs::{Format, Guard, LostLines, init};
pub use metrics::{CONTENT_TYPE, Metrics};
pub use traces::{Otlp, current_traceparent, parent_from};

use opentelemetry::Context;
use tracing::Span;
use tracing::field::Empty;

/// What a label or a span says when the word is not one of the closed set.
pub const OTHER: &str = "other";

/// The span around one request. Everything logged inside it carries these fields; those that are not known
/// yet are recorded by their names in [`fields`]: `span.record(fields::STATUS, 303)`.
///
/// `path_class` is the route's own name for itself (`login`, `callback`, `proxy`), never the path that was
/// asked for: paths and query strings carry codes and ids. A method outside the registered ones becomes
/// [`OTHER`].
///
/// `parent` is the trace it belongs to, from [`parent_from`]; an empty context begins a new one.
///
/// Its level is the highest there is, because the level decides whether the request id is there at all: a
/// warning must carry it, whatever level the operator chose.
pub fn request_span(request_id: &str, method: &str, path_class: &'static str, parent: &Context) -> Span {
    let method = method_class(method);
    let span = tracing::error_span!(
        "request",
        otel.kind = "server",
        otel.name = %format_args!("{method} {path_class}"),
        { fields::REQUEST_ID } = request_id,
        { fields::METHOD } = method,
        { fields::PATH_CLASS } = path_class,
        { fields::ADDRESS } = Empty,
        { fields::PROVIDER } = Empty,
        { fields::USER } = Empty,
        { fields::SESSION } = Empty,
        { fields::STATUS } = Empty,
        { fields::OUTCOME } = Empty,
        { fields::REASON } = Empty,
    );
    traces::adopt(&span, parent);
    span
}

/// A request's method as a word of a closed set: those of RFC 9110 section 9 and PATCH (RFC 5789), else
/// [`OTHER`]. Methods are case-sensitive, so `get` is not GET.
#[must_use]
pub fn method_class(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}
