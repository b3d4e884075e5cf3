use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry::trace::{TraceContextExt as _, TraceFlags};
use tracing::{debug_span, info, info_span};

use super::{JSON, PLAIN, log_of, request, traced, within};
use crate::telemetry::logs::assemble;
use crate::telemetry::{Otlp, current_traceparent, parent_from};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE_ID: [u8; 16] =
    [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];

fn otlp(endpoint: impl Into<String>) -> Otlp {
    Otlp { endpoint: endpoint.into(), service_name: "doorward-test".into() }
}

fn traceparent(value: &str) -> Context {
    parent_from(|name| (name == "traceparent").then_some(value))
}

/// A collector that takes one request: its head in lower case, its body.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the request ended in its head: {head}");
        }
        let head = head.to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        sender.send((head, body)).unwrap();
    });
    (endpoint, received)
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn spans_reach_the_collector_from_inside_a_runtime() {
    let (endpoint, received) = collector();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let otlp = otlp(endpoint);
    runtime.block_on(async {
        // The log is off; traces are a matter of their own.
        traced(PLAIN, "off", Some(&otlp), || {
            within(request("r-1", "GET", "callback"), traceparent(PARENT), || {
                info_span!("provider_call", operation = "token").in_scope(|| info!("asked"));
                debug_span!("too_small_for_a_trace").in_scope(|| ());
                info_span!(target: "hyper::client", "canary_of_a_dependency").in_scope(|| ());
            });
        });
    });
    let (head, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    for part in
        ["service.name", "doorward-test", "service.version", "GET callback", "request_id", "provider_call"]
    {
        assert!(holds(&body, part.as_bytes()), "{part} is missing");
    }
    assert!(holds(&body, &TRACE_ID), "the visitor's trace was not carried on");
    for part in ["too_small_for_a_trace", "canary_of_a_dependency", "otel.name"] {
        assert!(!holds(&body, part.as_bytes()), "{part} was sent");
    }
}

#[test]
fn a_silent_collector_does_not_hold_up_the_end() {
    // It takes connections (the system does that for it) and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = otlp(format!("http://{}", listener.local_addr().unwrap()));
    let begun = Instant::now();
    traced(JSON, "info", Some(&otlp), || {
        within(request("r-2", "GET", "login"), Context::new(), || ());
    });
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn a_call_made_now_belongs_to_the_visitors_trace() {
    let (endpoint, _received) = collector();
    traced(PLAIN, "info", Some(&otlp(endpoint)), || {
        assert_eq!(current_traceparent(), None, "there is no span yet");
        within(request("r-3", "GET", "proxy"), traceparent(PARENT), || {
            let now = current_traceparent().unwrap();
            assert!(now.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && now.ends_with("-01"), "{now}");
            assert_ne!(now, PARENT, "the next house's parent is our span, not our parent's");
            let inner = info_span!("provider_call").in_scope(current_traceparent).unwrap();
            assert_ne!(inner, now);
            assert_eq!(inner[..36], now[..36]);
        });
    });
}

#[test]
fn a_trace_that_its_owner_does_not_keep_is_not_kept_here() {
    let (endpoint, _received) = collector();
    traced(PLAIN, "info", Some(&otlp(endpoint)), || {
        let parent = traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        let now = within(request("r-4", "GET", "proxy"), parent, current_traceparent).unwrap();
        assert!(now.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && now.ends_with("-00"), "{now}");
    });
}

#[test]
fn a_request_without_a_trace_begins_one() {
    let (endpoint, _received) = collector();
    traced(PLAIN, "info", Some(&otlp(endpoint)), || {
        let now = within(request("r-5", "GET", "proxy"), parent_from(|_| None), current_traceparent).unwrap();
        assert!(now.len() == 55 && now.ends_with("-01"), "{now}");
    });
}

#[test]
fn without_traces_there_is_no_traceparent() {
    log_of(PLAIN, "info", || {
        let now = within(request("r-6", "GET", "proxy"), traceparent(PARENT), current_traceparent);
        assert_eq!(now, None);
    });
}

#[test]
fn a_traceparent_is_read_and_its_state_with_it() {
    let context = parent_from(|name| match name {
        "traceparent" => Some(PARENT),
        "tracestate" => Some("vendor=opaque"),
        _ => None,
    });
    let span = context.span().span_context().clone();
    assert!(span.is_valid() && span.is_remote());
    assert_eq!(span.trace_id().to_bytes(), TRACE_ID);
    assert_eq!(span.span_id().to_string(), "b7ad6b7169203331");
    assert_eq!(span.trace_flags(), TraceFlags::SAMPLED);
    assert_eq!(span.trace_state().get("vendor"), Some("opaque"));
}

#[test]
fn an_odd_traceparent_is_none() {
    let long = format!("{PARENT}{}", "-0".repeat(400));
    for odd in [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        long.as_str(),
    ] {
        assert!(!traceparent(odd).span().span_context().is_valid(), "{odd}");
    }
}

#[test]
fn an_endpoint_that_cannot_serve_is_a_sentence() {
    for (endpoint, fault) in [
        ("127.0.0.1:4318", "is not a URL"),
        ("grpc://127.0.0.1:4317", "must begin with http"),
        ("http://user:canary@127.0.0.1:4318", "must not hold a password"),
        ("http://127.0.0.1:4318/?token=canary", "must not hold a password or a query"),
    ] {
        let said = assemble(PLAIN, "info", Some(&otlp(endpoint)), std::io::sink()).unwrap_err();
        assert!(said.contains(fault) && !said.contains("canary"), "{said}");
    }
}
