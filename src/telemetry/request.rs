//! The request that is being answered, as every line that is logged meanwhile names it.
//!
//! A span of `tracing` would do the same and costs each request as much as reading its session; it is made only where traces are sent.

use std::sync::Arc;

use bytestring::ByteString;
use opentelemetry::Context;
use tracing::{Instrument as _, Span};

use super::{fields, method_class, traces};

tokio::task_local! {
    static CURRENT: Arc<Request>;
}

/// What a line says of its request.
#[derive(Debug)]
pub struct Request {
    pub id: ByteString,
    /// A word of a closed set; see [`method_class`].
    pub method: &'static str,
    /// The route's own name for itself (`auth`, `app`), never the path that was asked for: paths and query strings carry codes and ids.
    pub path_class: &'static str,
}

impl Request {
    #[must_use]
    pub fn new(id: ByteString, method: &str, path_class: &'static str) -> Self {
        Self { id, method: method_class(method), path_class }
    }

    /// Where traces are sent it becomes a span of its own, below `parent`: the trace that it belongs to, from [`super::parent_from`]; an empty
    /// context begins a new one.
    #[must_use]
    pub fn begin(self, parent: impl FnOnce() -> Context) -> Begun {
        Begun { span: self.span(parent), request: Arc::new(self) }
    }

    fn span(&self, parent: impl FnOnce() -> Context) -> Span {
        let Self { id, method, path_class } = self;
        // Only traces listen to spans; where there are none, this is nothing at all.
        let span = tracing::error_span!(
            "request",
            otel.kind = "server",
            otel.name = %format_args!("{method} {path_class}"),
            { fields::REQUEST_ID } = &**id,
            { fields::METHOD } = method,
            { fields::PATH_CLASS } = path_class,
        );
        if !span.is_disabled() {
            traces::adopt(&span, &parent());
        }
        span
    }
}

/// A request that nobody answers yet.
pub struct Begun {
    request: Arc<Request>,
    span: Span,
}

impl Begun {
    /// Runs what answers it: everything logged meanwhile names it.
    pub fn answer<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.request, work).instrument(self.span)
    }
}

/// Work for a task of its own, which belongs to the request that is being answered now.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let current = CURRENT.try_with(Arc::clone).ok();
    let work = async move {
        match current {
            Some(request) => CURRENT.scope(request, work).await,
            None => work.await,
        }
    };
    work.in_current_span()
}

/// The request that is being answered now.
pub(super) fn current<T>(look: impl FnOnce(&Request) -> T) -> Option<T> {
    CURRENT.try_with(|request| look(request)).ok()
}
