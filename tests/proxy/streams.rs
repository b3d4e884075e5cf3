//! Streams of events, and large bodies that must not fill the memory.

use std::time::{Duration, Instant};

use super::stage::{Stage, cookie_line, routes, status};
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, op_config};
use crate::house::upstream::{FakeUpstream, Step, Wire};

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

#[tokio::test]
async fn px_17_a_stream_of_events_ends_within_a_second_of_its_session_and_no_other_does() {
    let stage = Stage::open().await;
    let (leaves, stays) = (stage.signed_in().await, stage.signed_in().await);
    stage.app.always(vec![Step::send(EVENTS), Step::AwaitClose]);
    let mut open = Vec::new();
    for browser in [&leaves, &stays] {
        let mut wire = stage.wire().await;
        wire.send(stage.head("GET /in/events", &cookie_line(browser))).await;
        wire.until("data: 1\n\n").await;
        open.push(wire);
    }
    let mut nobody = stage.wire().await;
    nobody.send(stage.head("GET /pub/events", "")).await;
    nobody.until("data: 1\n\n").await;
    let ended = Instant::now();
    assert_eq!(leaves.post_form("/auth/logout", &[]).await.status, 303);
    stage.app.until("its call to the app is closed", |seen| seen[0].is_closed).await;
    assert!(ended.elapsed() < Duration::from_millis(1500), "{:?}", ended.elapsed());
    open[0].until("0\r\n\r\n").await;
    assert!(!open[1].closes_within(Duration::from_millis(800)).await, "another session's stream lives on");
    assert!(!nobody.closes_within(Duration::from_millis(50)).await);
    stage.suspend_everybody().await;
    stage.app.until("the user was suspended", |seen| seen[1].is_closed).await;
    assert!(!stage.app.seen()[2].is_closed, "nobody's stream belongs to no session");
}

/// The most memory that a process ever held, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn px_18_a_large_body_passes_through_little_memory_in_both_directions() {
    const SIZE: usize = 64 << 20;
    let (op, app) = (ScriptedOp::start().await, FakeUpstream::start().await);
    let home = Home::with_config(&op_config(&op, &routes(&format!("\"{}\"", app.url()))));
    home.write("secrets/op", op.script(|s| s.client_secret.clone()));
    home.write_key("secrets/k1");
    let house = home.open().await;
    let host = house.public_url.trim_start_matches("http://").to_owned();
    let before = peak_kib(house.id());
    // Down, to a visitor who reads slowly at first: the app has to wait.
    let big = vec![b'x'; SIZE];
    app.always(vec![
        Step::send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")),
        Step::Send(big.clone()),
    ]);
    let mut wire = Wire::open(house.public).await;
    wire.send(format!("GET /pub/big HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
    wire.head().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after_waiting = peak_kib(house.id());
    assert_eq!(wire.rest().await.len(), SIZE);
    // Up, to an app that reads nothing for a while.
    app.always(vec![Step::Read(SIZE), Step::answer("200 OK", "", "hello")]);
    let mut wire = Wire::open(house.public).await;
    wire.send(format!("POST /big/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: {SIZE}\r\n\r\n")).await;
    wire.send(&big).await;
    let answer = wire.head().await;
    let after = peak_kib(house.id());
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(after_waiting - before < 12 << 10, "{before} KiB became {after_waiting} KiB");
    assert!(after - before < 16 << 10, "{before} KiB became {after} KiB");
}
