//! Telemetry: logs, traces and metrics, and their names in one place.
//!
//! Owns: the line a log event becomes, what a dependency may say at most, the way to the trace collector,
//! every metric and its labels. Never does: decide what happened, read a request, or hold anything secret.
//! Callers pass outcomes as words; no code, token, cookie, password or person is a label, a span field or a
//! span name (security.md chapter 14).
//!
//! Nothing here is a static but what `tracing` itself keeps ([`init`] installs it once) and the name of the request that a task answers;
//! [`Metrics`] is part of `App`.

pub mod fields;
mod line;
mod logs;
mod metrics;
mod queue;
mod request;
mod traces;

#[cfg(test)]
mod tests;

pub use logs::{Format, Guard, LostLines, init};
pub use metrics::{CONTENT_TYPE, Metrics};
pub use request::{Begun, Request, carried};
pub use traces::{Otlp, current_traceparent, parent_from};

/// What a label or a span says when the word is not one of the closed set.
pub const OTHER: &str = "other";

/// A request's method as a word of a closed set: those of RFC 9110 section 9 and PATCH (RFC 5789), else
/// [`OTHER`]. Methods are case-sensitive, so `get` is not GET.
#[must_use]
pub fn method_class(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}
