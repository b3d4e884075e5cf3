//! Bodies up and down: framed afresh, handed on piece by piece, and never taken for whole when they are not.

use std::time::Duration;

use super::stage::{Stage, body, cookie_line, status};
use crate::house::upstream::{Gate, Step};

#[tokio::test]
async fn a_body_is_framed_afresh_and_trailers_are_dropped() {
    let stage = Stage::open().await;
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /pub/x", "content-length: 005\r\n") + "12345").await;
    wire.until("hello").await;
    let seen = stage.app.last();
    assert_eq!((seen.one("content-length"), seen.body.as_slice()), (Some("5"), &b"12345"[..]));
    let chunks = "3;a=b\r\nabc\r\n0002\r\nde\r\n0\r\nx-auth-user: evil\r\nx-trailer: 1\r\n\r\n";
    wire.send(stage.head("POST /pub/x", "transfer-encoding: Chunked\r\ntrailer: x-trailer\r\n") + chunks)
        .await;
    wire.until("hello").await;
    let seen = stage.app.last();
    assert_eq!((seen.one("transfer-encoding"), seen.one("content-length")), (Some("chunked"), None));
    let text = String::from_utf8(seen.body).unwrap();
    assert!(!text.contains("trailer") && !text.contains("evil") && !text.contains(';'), "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "{text}");
    wire.send(stage.head("POST /pub/x", "content-length: 0\r\n")).await;
    wire.until("hello").await;
    assert_eq!(stage.app.last().one("content-length"), Some("0"));
    wire.send(stage.head("GET /pub/x", "content-length: 2\r\n") + "ab").await;
    wire.until("hello").await;
    assert_eq!(stage.app.last().body, b"ab", "a GET may have a body");
    assert_eq!(stage.app.connections(), 1, "all over one connection");
}

#[tokio::test]
async fn every_piece_is_handed_on_at_once_in_both_directions() {
    let stage = Stage::open().await;
    let (gate, last) = (Gate::closed(), Gate::closed());
    stage.app.always(vec![
        Step::Read(3),
        Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"),
        Step::Wait(gate.clone()),
        Step::send("1\r\nb\r\n"),
        Step::Read(3),
        Step::Wait(last.clone()),
        Step::send("0\r\n\r\n"),
    ]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /pub/x", "content-length: 6\r\n") + "123").await;
    stage.app.until("the first half came", |seen| seen.last().is_some_and(|seen| seen.body == b"123")).await;
    // The answer begins while the request is under way.
    wire.until("1\r\na\r\n").await;
    gate.open();
    wire.until("1\r\nb\r\n").await;
    wire.send("456").await;
    stage
        .app
        .until("the second half came", |seen| seen.last().is_some_and(|seen| seen.body == b"123456"))
        .await;
    last.open();
    wire.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn an_early_answer_comes_early_and_the_rest_of_the_body_is_no_next_request() {
    let stage = Stage::open().await;
    stage.app.always(vec![Step::answer("413 Too Large", "connection: close\r\n", "too much"), Step::Close]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /pub/x", "content-length: 5000000\r\n") + "GET /pub/smuggled HTTP/1.1\r\n")
        .await;
    let answer = wire.until("too much").await;
    assert_eq!(status(&answer), 413);
    wire.send(format!("host: {}\r\n\r\n", stage.host())).await;
    let rest = String::from_utf8_lossy(&wire.rest().await).into_owned();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    assert_eq!(stage.app.seen().len(), 1);
}

#[tokio::test]
async fn px_18_an_app_that_dies_in_its_answer_leaves_a_broken_answer_and_no_whole_one() {
    let stage = Stage::open().await;
    for (head, end) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nabc", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "nonsense\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "0\r\n"),
    ] {
        let gate = Gate::closed();
        stage.app.always(vec![Step::send(head), Step::Wait(gate.clone()), Step::send(end), Step::Close]);
        let mut wire = stage.wire().await;
        wire.send(stage.head("GET /pub/x", "")).await;
        wire.until("abc").await;
        gate.open();
        let rest = wire.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{head:?} {end:?}: {:?}", String::from_utf8_lossy(&rest));
    }
    // Only where the end of the connection is the end of the body is it one.
    stage.app.always(vec![Step::send("HTTP/1.1 200 OK\r\n\r\nabc"), Step::Close]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("GET /pub/x", "")).await;
    wire.until("3\r\nabc\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_visitor_who_leaves_takes_the_call_to_the_app_along() {
    let stage = Stage::open().await;
    stage.app.always(vec![Step::AwaitClose]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("GET /pub/thinking", "")).await;
    stage.app.until("the app was asked", |seen| seen.len() == 1).await;
    drop(wire);
    stage.app.until("the app's connection is closed", |seen| seen[0].is_closed).await;
    stage.app.always(vec![
        Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        Step::AwaitClose,
    ]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("GET /pub/streaming", "")).await;
    wire.until("abc").await;
    drop(wire);
    stage.app.until("that one too", |seen| seen[1].is_closed).await;
    // A body that ends early is never passed off as a whole one.
    stage.app.always(vec![Step::ReadBody, Step::answer("200 OK", "", "whole")]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /pub/half", "transfer-encoding: chunked\r\n") + "5\r\nhalf").await;
    stage.app.until("it began", |seen| seen.len() == 3).await;
    drop(wire);
    stage.app.until("and broke off", |seen| seen[2].is_closed).await;
}

#[tokio::test]
async fn a_body_over_its_limit_is_413_however_it_is_framed() {
    let stage = Stage::open().await;
    let announced = stage.ask("POST /small/x", "content-length: 1025\r\n").await;
    assert_eq!(status(&announced), 413);
    assert!(announced.contains("too_large"), "{announced}");
    stage.app.assert_silent("announced");
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /small/x", "content-length: 1024\r\n") + &"a".repeat(1024)).await;
    assert_eq!(status(&wire.until("hello").await), 200);
    for sizes in [vec![1024, 1], vec![1025], vec![500, 500, 500]] {
        let mut wire = stage.wire().await;
        wire.send(stage.head("POST /small/x", "transfer-encoding: chunked\r\n")).await;
        for size in &sizes {
            wire.send(format!("{size:x}\r\n{}\r\n", "a".repeat(*size))).await;
        }
        let answer = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert_eq!(status(&answer), 413, "{sizes:?}: {answer}");
        assert!(!stage.app.last().body.ends_with(b"0\r\n\r\n"), "the app never sees an end");
    }
    let mut wire = stage.wire().await;
    let chunk = format!("400\r\n{}\r\n0\r\n\r\n", "a".repeat(1024));
    wire.send(stage.head("POST /small/x", "transfer-encoding: chunked\r\n") + &chunk).await;
    assert_eq!(status(&wire.until("hello").await), 200);
}

#[tokio::test]
async fn ht_11_expect_pipelining_and_the_order_of_answers() {
    let stage = Stage::open().await;
    stage.app.plan(|seen| {
        let target = seen.target().to_owned();
        vec![Step::ReadBody, Step::answer("200 OK", "", &format!("[{target}]"))]
    });
    let mut wire = stage.wire().await;
    wire.send(stage.head("POST /pub/expect", "content-length: 3\r\nexpect: 100-continue\r\n")).await;
    wire.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    wire.send("abc").await;
    wire.until("[/pub/expect]").await;
    assert_eq!(stage.app.last().one("expect"), None);
    assert_eq!(stage.app.last().body, b"abc");
    let two = stage.head("GET /pub/1", "") + &stage.head("POST /pub/2", "content-length: 2\r\n") + "xy";
    wire.send(two + &stage.head("GET /pub/3", "connection: close\r\n")).await;
    let all = String::from_utf8(wire.rest().await).unwrap();
    let order: Vec<&str> = all.split('[').skip(1).filter_map(|part| part.split(']').next()).collect();
    assert_eq!(order, ["/pub/1", "/pub/2", "/pub/3"]);
}

#[tokio::test]
async fn time_limits_and_unusable_answers_are_said_so() {
    let stage = Stage::open().await;
    stage.app.always(vec![Step::AwaitClose]);
    let late = stage.ask("GET /impatient/x", "").await;
    assert_eq!(status(&late), 504, "{late}");
    assert!(late.contains("upstream_timeout"), "{late}");
    stage.app.until("the app is let go", |seen| seen[0].is_closed).await;
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y",
        "",
    ] {
        stage.app.always(vec![Step::send(answer), Step::Close]);
        let got = stage.ask("GET /pub/x", "").await;
        assert_eq!(status(&got), 502, "{answer:?}: {got}");
        assert!(body(&got).contains("upstream_error"), "{got}");
    }
    // The clock of a route counts to the head alone.
    stage.app.always(vec![
        Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"),
        Step::AwaitClose,
    ]);
    let mut wire = stage.wire().await;
    wire.send(stage.head("GET /impatient/x", "")).await;
    wire.until("1\r\na\r\n").await;
    assert!(!wire.closes_within(Duration::from_millis(700)).await);
}

#[tokio::test]
async fn what_an_app_says_after_its_answer_is_nobodys_answer() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&stage.signed_in().await);
    stage.app.always(vec![Step::send(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    )]);
    for _ in 0..3 {
        let answer = stage.ask("GET /in/x", &cookie).await;
        assert_eq!(body(&answer), "ok", "{answer}");
    }
    assert_eq!(stage.app.connections(), 3, "no connection with something left on it is used again");
}
