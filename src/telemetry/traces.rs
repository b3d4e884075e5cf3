//! The traces: OTLP over HTTP to the operator's collector, and the W3C `traceparent` that ties one request's
//! spans together from the browser through Doorward to provider and upstream (W3C Trace Context level 1).

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};
use url::Url;

use super::logs::OURS;

/// Where OTLP over HTTP takes spans (OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "v1/traces";
const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(10);
/// `traceparent` has 55 characters today; `tracestate` must be carried up to 512 (Trace Context section
/// 3.3.1.5).
const HEADER_MAX: usize = 512;

/// The operator's collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The base URL (`http://127.0.0.1:4318`); `/v1/traces` is added unless it is there.
    pub endpoint: String,
    /// `service.name` of the resource.
    pub service_name: String,
}

/// Opens the way to the collector. Spans wait in a bounded queue and leave in batches from a thread of their
/// own, so a collector that is away costs spans and no request.
pub(super) fn open(otlp: &Otlp) -> Result<SdkTracerProvider, String> {
    let endpoint = endpoint(&otlp.endpoint)?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(WHOLE)
        .build()
        .map_err(|error| format!("the trace collector cannot be used: {error}"))?;
    let resource = Resource::builder()
        .with_service_name(otlp.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        // Who began the trace decides whether it is kept; what begins here is kept.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_batch_exporter(exporter)
        .build())
}

/// Our own spans and events from `info` upwards, whatever the log's level: a quiet log shall not cut traces.
pub(super) fn layer(provider: &SdkTracerProvider) -> Box<dyn Layer<Registry> + Send + Sync> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(OURS))
        .with_location(false)
        .with_threads(false)
        .with_filter(Targets::new().with_target(OURS, LevelFilter::INFO))
        .boxed()
}

fn endpoint(text: &str) -> Result<String, String> {
    let fault = |what: &str| format!("the trace collector's endpoint {what}; try http://127.0.0.1:4318");
    let mut url = Url::parse(text).map_err(|error| fault(&format!("is not a URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault("must begin with http:// or https://"));
    }
    // The exporter names the URL when it complains, so nothing secret may be in it.
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(fault("must not hold a password or a query (use OTEL_EXPORTER_OTLP_HEADERS)"));
    }
    if !url.path().ends_with(PATH) {
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url.into())
}

/// A blocking client, because the batches leave from a plain thread without a runtime. It is made on such a
/// thread too: inside a runtime, which may be around us here, it cannot be.
fn client() -> Result<reqwest::blocking::Client, String> {
    let build = || {
        reqwest::blocking::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("doorward/", env!("CARGO_PKG_VERSION")))
            .build()
    };
    match std::thread::spawn(build).join() {
        Ok(client) => client.map_err(|error| format!("the trace collector cannot be used: {error}")),
        Err(_) => Err("the trace collector cannot be used: its client could not be made".into()),
    }
}

/// The trace that a request belongs to, from its `traceparent` and `tracestate`; an empty context when there
/// is none or it cannot be read. `headers` finds a header by its lower-case name.
pub fn parent_from<'h>(headers: impl Fn(&str) -> Option<&'h str>) -> Context {
    let found: HashMap<String, String> = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), headers(name)?.to_owned())))
        .filter(|(_, value)| value.len() <= HEADER_MAX)
        .collect();
    TraceContextPropagator::new().extract_with_context(&Context::new(), &found)
}

/// Makes a span that has not been entered yet a part of that trace; where traces are off it does nothing.
pub(super) fn adopt(span: &Span, parent: &Context) {
    if parent.span().span_context().is_valid() {
        // It fails where traces are off; the request matters more than its trace.
        let _ = span.set_parent(parent.clone());
    }
}

/// The `traceparent` for a call made now, from the span we are in; `None` where traces are off.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let current = Span::current();
    if current.is_disabled() {
        return None;
    }
    let context = current.context();
    let span = context.span();
    let span = span.span_context();
    let ids = || format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    span.is_valid().then(ids)
}
