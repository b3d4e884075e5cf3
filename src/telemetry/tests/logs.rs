use std::io::{self, Write};
use std::pin::pin;
use std::sync::mpsc;
use std::task;
use std::time::{Duration, Instant};

use opentelemetry::Context;
use serde_json::Value;
use tracing::{debug, error, info, trace, warn};

use super::{JSON, PLAIN, log_of, request, within};
use crate::telemetry::logs::{Form, assemble};
use crate::telemetry::{Format, Metrics, carried, fields, method_class};

/// Line ends of three kinds, a terminal's colour and title, direction marks, invisible ones, JSON and pair
/// breakers.
const NASTY: &str = "a\r\nb\u{2028}c\u{85}\u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}31m\
    \u{200f}\u{202e}\u{feff}\u{e0041}\",\"level\":\"x\\ user=root |";

fn nasty_story() {
    within(request(NASTY, NASTY, "login"), Context::new(), || {
        let error = io::Error::other(NASTY);
        let error: &dyn std::error::Error = &error;
        info!(text = NASTY, shown = %NASTY, debugged = ?NASTY, error, "{NASTY}");
        info!(message = NASTY);
    });
}

fn assert_no_unsafe_character(log: &str) {
    for line in log.split('\n') {
        let odd =
            line.chars().find(|c| c.is_control() || "\u{2028}\u{200f}\u{202e}\u{feff}\u{e0041}".contains(*c));
        assert_eq!(odd, None, "in {line:?}");
    }
}

#[test]
fn a_pretty_event_is_one_line_whatever_it_holds() {
    let log = log_of(PLAIN, "info", nasty_story);
    assert_eq!(log.lines().count(), 2, "{log}");
    assert_no_unsafe_character(&log);
    // Each value is closed in quotes, so `user=root` belongs to it.
    assert!(log.contains(r#"text="a\r\nb\u{2028}c\u{85}\u{1b}[31mred"#), "{log}");
    assert!(log.contains(r#"\",\"level\":\"x\\ user=root |""#), "{log}");
    assert!(log.contains("method=other path_class=login"), "{log}");
}

#[test]
fn a_json_event_is_one_object_whatever_it_holds() {
    let log = log_of(JSON, "info", nasty_story);
    assert_eq!(log.lines().count(), 2, "{log}");
    assert_no_unsafe_character(&log);
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["fields"]["message"], NASTY);
        assert_eq!(event["spans"][0][fields::REQUEST_ID], NASTY);
    }
    let event: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    for field in ["text", "shown", "error"] {
        assert_eq!(event["fields"][field], NASTY, "{field}");
    }
}

#[test]
fn a_coloured_line_holds_no_colour_but_ours() {
    let log = log_of(Form { format: Format::Pretty, colours: true }, "info", nasty_story);
    let ours =
        ["\x1b[0m", "\x1b[2m", "\x1b[32m"].into_iter().fold(log.clone(), |log, ours| log.replace(ours, ""));
    assert!(log.contains("\x1b[32m INFO\x1b[0m"), "{log:?}");
    assert_no_unsafe_character(&ours);
    assert_eq!(ours.lines().count(), 2);
}

#[test]
fn a_plain_event_reads_well() {
    let log = log_of(PLAIN, "info", || {
        within(request("r-1", "GET", "callback"), Context::new(), || {
            info!(
                provider = "keycloak",
                reason = "login_expired",
                tries = 2,
                note = "two words",
                empty = "",
                "login refused"
            );
        });
    });
    let (time, rest) = log.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "{time} is not a UTC time");
    assert_eq!(
        rest,
        " INFO doorward::telemetry::tests::logs: login refused provider=keycloak reason=login_expired tries=2 \
         note=\"two words\" empty=\"\" | request request_id=r-1 method=GET path_class=callback\n"
    );
}

#[test]
fn dependencies_stay_quiet_even_if_the_operator_asks_for_everything() {
    for level in [
        "trace",
        "trace,sqlx=trace,hyper=trace,h2=debug",
        "sqlx::query=trace,reqwest=info,actix_web=debug,trace",
    ] {
        for form in [PLAIN, JSON] {
            let log = log_of(form, level, || {
                let span = tracing::trace_span!(target: "hyper::client", "sending", header = "canary");
                let _inside = span.enter();
                debug!(target: "sqlx::query", "canary");
                trace!(target: "hyper_util::client", "canary");
                info!(target: "reqwest::connect", "canary");
                debug!(target: "h2::codec", "canary");
                info!(target: "actix_server", "canary");
                trace!(target: "rustls::client", "canary");
                debug!(target: "some_new_dependency", "canary");
                warn!(target: "sqlx::pool", "slow");
                trace!("ours");
            });
            assert!(!log.contains("canary"), "{level}: {log}");
            assert!(log.contains("slow") && log.contains("ours"), "{level}: {log}");
        }
    }
}

#[test]
fn the_level_may_be_a_list_of_directives() {
    let log = log_of(PLAIN, "warn,doorward::telemetry=debug", || {
        debug!("near");
        info!(target: "doorward::flows", "far");
        error!(target: "doorward::flows", "loud");
    });
    assert!(log.contains("near") && log.contains("loud") && !log.contains("far"), "{log}");
}

#[test]
fn an_unreadable_level_is_a_sentence() {
    let fault = assemble(PLAIN, "doorward=loud", None, io::sink()).unwrap_err();
    assert!(fault.starts_with("log level \"doorward=loud\" cannot be read: "), "{fault}");
    let fault = assemble(PLAIN, "info,[request{path_class=auth}]=debug", None, io::sink()).unwrap_err();
    assert!(fault.contains("it names a span"), "{fault}");
}

#[test]
fn a_warning_carries_the_request_id_at_every_level() {
    let log = log_of(PLAIN, "warn", || {
        within(request("r-7", "POST", "login"), Context::new(), || {
            info!("unheard");
            warn!("heard");
        });
    });
    assert!(log.contains("heard") && log.contains("request_id=r-7") && !log.contains("unheard"), "{log}");
}

#[test]
fn work_that_a_request_leaves_behind_still_names_it() {
    let log = log_of(JSON, "info", || {
        let left =
            within(request("r-8", "GET", "callback"), Context::new(), || carried(async { info!("later") }));
        assert!(pin!(left).poll(&mut task::Context::from_waker(task::Waker::noop())).is_ready());
        info!("nobody's");
    });
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let request = &events[0]["spans"][0];
    assert_eq!(request["name"], "request");
    assert_eq!(request[fields::REQUEST_ID], "r-8");
    assert_eq!(request[fields::METHOD], "GET");
    assert_eq!(request[fields::PATH_CLASS], "callback");
    assert_eq!(events[1].get("spans"), None);
}

#[test]
fn methods_are_a_closed_set() {
    assert_eq!(method_class("PATCH"), "PATCH");
    assert_eq!(method_class("get"), "other");
    assert_eq!(method_class("GET /\r\n"), "other");
}

/// Says when the first line has come, then waits until its gate is opened (or the test is over).
struct Blocked {
    came: mpsc::Sender<()>,
    gate: mpsc::Receiver<()>,
}

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.came.send(());
        let _ = self.gate.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_blocked_sink_stops_nobody_and_its_losses_are_counted() {
    let (came, has_come) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let (dispatch, guard) = assemble(PLAIN, "info", None, Blocked { came, gate }).unwrap();
    let metrics = Metrics::new();
    metrics.watch_log(guard.lost_lines());

    tracing::dispatcher::with_default(&dispatch, || {
        info!("the line that blocks");
        has_come.recv_timeout(Duration::from_secs(10)).unwrap();
        for n in 0..16_384 + 100 {
            info!(n, "one of many");
        }
    });
    assert_eq!(guard.lost_lines().count(), 100);
    assert!(metrics.encode().unwrap().contains("doorward_log_lines_lost_total 100\n"));

    let begun = Instant::now();
    drop(guard);
    assert!(begun.elapsed() < Duration::from_secs(5), "the end waited for a blocked sink");
    drop(open);
}

/// A full disk.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn lines_that_the_sink_refuses_are_counted() {
    let (dispatch, guard) = assemble(JSON, "info", None, Full).unwrap();
    let lost = guard.lost_lines();
    tracing::dispatcher::with_default(&dispatch, || {
        for n in 0..3 {
            info!(n, "to a full disk");
        }
    });
    drop(guard);
    assert_eq!(lost.count(), 3);
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let log = log_of(PLAIN, "info", || (0..5_000).for_each(|n| info!(n, "line")));
    assert_eq!(log.lines().count(), 5_000);
}
