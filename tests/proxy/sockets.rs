//! WebSockets through the door.

use std::time::{Duration, Instant};

use super::stage::{Stage, body, cookie_line, status};
use crate::house::browser::Browser;
use crate::house::upstream::{Step, Wire};
use crate::security::logout_tokens::tell;

/// The example of RFC 6455 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn agreed() -> Step {
    Step::send(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
    ))
}

fn handshake(stage: &Stage, path: &str, more: &str) -> String {
    let headers = format!(
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}"
    );
    stage.head(&format!("GET {path}"), &headers)
}

/// A masked text frame with an empty mask, so that its payload can be read in the test.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// The last word of a socket that the door closes (RFC 6455 5.5.1).
fn close_frame(reason: u16) -> Vec<u8> {
    [&[0x88, 2], reason.to_be_bytes().as_slice()].concat()
}

async fn opened(stage: &Stage, browser: &Browser) -> Wire {
    let mut wire = stage.wire().await;
    let more = format!("{}origin: {}\r\n", cookie_line(browser), stage.house.url);
    wire.send(handshake(stage, "/in/socket", &more)).await;
    let head = wire.head().await;
    assert_eq!(status(&head), 101, "{head}");
    assert!(
        head.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n"))
            && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    wire
}

#[tokio::test]
async fn a_socket_carries_both_ways_and_closes_from_both_sides() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![agreed(), Step::Echo]);
    let mut wire = opened(&stage, &browser).await;
    let seen = stage.app.last();
    assert_eq!((seen.one("upgrade"), seen.one("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!((seen.one("x-auth-user"), seen.one("cookie")), (Some("alice"), None));
    for text in ["hello", "wide", "world"] {
        wire.send(frame(text)).await;
        wire.until(text).await;
    }
    drop(wire);
    stage.app.until("the visitor's leave is the app's", |seen| seen[0].is_closed).await;
    stage.app.always(vec![agreed(), Step::Read(11), Step::send("bye"), Step::Close]);
    let mut wire = opened(&stage, &browser).await;
    wire.send(frame("hello")).await;
    assert!(wire.rest().await.ends_with(b"bye"));
}

#[tokio::test]
async fn ht_07_a_socket_opens_for_our_own_pages_alone() {
    let stage = Stage::with(|plan| plan.set("CORS__ORIGINS", r#"["https://spa.example"]"#)).await;
    let browser = stage.signed_in().await;
    let cookie = cookie_line(&browser);
    stage.app.always(vec![agreed(), Step::Echo]);
    let own = format!("origin: {}\r\n", stage.house.url);
    for (headers, passes) in [
        (own.as_str(), true),
        ("origin: https://spa.example\r\n", true),
        ("origin: https://evil.example\r\n", false),
        ("origin: null\r\n", false),
        ("origin: \r\n", false),
        ("sec-fetch-site: cross-site\r\n", false),
        ("sec-fetch-site: same-site\r\n", false),
        ("sec-fetch-site: same-origin\r\n", true),
        ("", false),
        ("x-csrf: 1\r\n", true),
    ] {
        stage.app.forget();
        let mut wire = stage.wire().await;
        wire.send(handshake(&stage, "/in/socket", &format!("{cookie}{headers}"))).await;
        let head = wire.head().await;
        assert_eq!(status(&head), if passes { 101 } else { 403 }, "{headers}: {head}");
        if !passes {
            stage.app.assert_silent(headers);
        }
    }
    stage.app.forget();
    let mut nobody = stage.wire().await;
    nobody.send(handshake(&stage, "/in/socket", &format!("{own}accept: text/html\r\n"))).await;
    assert_eq!(status(&nobody.head().await), 401, "a socket cannot be redirected");
    stage.app.assert_silent("without a session");
}

#[tokio::test]
async fn ht_06_a_malformed_handshake_is_refused_and_no_other_protocol_is_spoken() {
    let stage = Stage::open().await;
    let good = handshake(&stage, "/pub/socket", "");
    for (from, to) in [
        ("GET ", "POST "),
        ("connection: Upgrade", "connection: close"),
        ("version: 13", "version: 7"),
        (KEY, "short"),
        ("upgrade: websocket", "upgrade: websocket\r\ncontent-length: 5"),
        ("upgrade: websocket", "upgrade: websocket\r\nupgrade: websocket"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        let asked = good.replacen(from, to, 1);
        let mut wire = stage.wire().await;
        wire.send(asked.clone() + "GET /pub/smuggled HTTP/1.1\r\n\r\n").await;
        let answer = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert_eq!(status(&answer), 400, "{asked}: {answer}");
        assert_eq!(answer.matches("400 Bad Request").count(), 1, "{answer}");
        stage.app.assert_silent(&asked);
    }
    let h2c = stage
        .ask(
            "GET /pub/x",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        )
        .await;
    assert_eq!((status(&h2c), body(&h2c)), (200, "hello"));
    let seen = stage.app.last();
    assert_eq!((seen.one("upgrade"), seen.one("connection"), seen.one("http2-settings")), (None, None, None));
}

#[tokio::test]
async fn ht_07_what_the_app_says_instead_of_a_true_101_is_no_socket() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    let more = format!("{}origin: {}\r\n", cookie_line(&browser), stage.house.url);
    let ask = |step: Step| {
        stage.app.always(vec![step, Step::AwaitClose]);
        let stage = &stage;
        let more = more.clone();
        async move {
            let mut wire = stage.wire().await;
            wire.send(handshake(stage, "/in/socket", &more)).await;
            String::from_utf8_lossy(&wire.rest().await).into_owned()
        }
    };
    for lie in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: bm8=\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".to_owned(),
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"),
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"),
    ] {
        let answer = ask(Step::send(&lie)).await;
        assert_eq!(status(&answer), 502, "{lie}: {answer}");
    }
    let ordinary = ask(Step::answer("200 OK", "", "not today")).await;
    assert_eq!((status(&ordinary), body(&ordinary)), (200, "not today"), "{ordinary}");
    let refused = ask(Step::answer("404 Not Found", "", "no socket")).await;
    assert_eq!((status(&refused), body(&refused)), (404, "no socket"));
}

#[tokio::test]
async fn px_17_a_socket_closes_within_a_second_of_its_sessions_end_however_it_ends() {
    let stage = Stage::open().await;
    stage.app.always(vec![agreed(), Step::Echo]);
    for how in ["logout", "revoked elsewhere", "suspended"] {
        stage.app.forget();
        let (browser, neighbour) = (stage.signed_in().await, stage.signed_in().await);
        let mut wire = opened(&stage, &browser).await;
        let mut other = opened(&stage, &neighbour).await;
        let ended = Instant::now();
        match how {
            "logout" => assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303),
            "revoked elsewhere" => {
                assert_eq!(neighbour.with_header("x-csrf", "1").delete("/auth/sessions").await.status, 204);
            }
            _ => stage.suspend_everybody().await,
        }
        assert!(wire.closes_within(Duration::from_secs(3)).await, "{how}");
        assert!(ended.elapsed() < Duration::from_millis(1500), "{how}: {:?}", ended.elapsed());
        let others_end = other.closes_within(Duration::from_millis(800)).await;
        assert_eq!(others_end, how == "suspended", "{how}");
    }
}

/// Keycloak names one of the sessions that an administrator ended; each other one must prove itself, and an open socket cannot.
#[tokio::test]
async fn px_17_a_socket_closes_when_its_session_must_prove_itself_and_opens_again_with_the_proof() {
    let stage = Stage::of("keycloak", |plan| plan).await;
    stage.app.always(vec![agreed(), Step::Echo]);
    let (named, doubted) = (stage.signed_in().await, stage.signed_in().await);
    let mut wires = [opened(&stage, &named).await, opened(&stage, &doubted).await];
    let sid = stage.op.sids().remove(0);
    let token = stage.op.logout_token(Some("alice"), Some(&sid), |_| {});
    assert_eq!(tell(&stage.house, &token).await, 200);
    let told = Instant::now();
    for wire in &mut wires {
        assert_eq!(wire.rest().await, close_frame(1008));
    }
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert_eq!(stage.house.live_sessions().await, 1, "in doubt is not over");
    let mut again = opened(&stage, &doubted).await;
    assert!(!again.closes_within(Duration::from_millis(300)).await, "the provider still honours it");
}

/// Ends are told, not found out: the usual one closes a socket long before anybody would look at the session's row.
#[tokio::test]
async fn px_17_a_socket_usually_closes_within_a_tenth_of_a_second() {
    let stage = Stage::open().await;
    stage.app.always(vec![agreed(), Step::Echo]);
    let mut delays = Vec::new();
    for how in ["logout", "suspended", "logout", "suspended", "logout", "suspended", "logout"] {
        let browser = stage.signed_in().await;
        let mut wire = opened(&stage, &browser).await;
        if how == "logout" {
            assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303);
        } else {
            stage.suspend_everybody().await;
        }
        let began = Instant::now();
        assert_eq!(wire.rest().await, close_frame(1008), "{how}");
        delays.push(began.elapsed());
        stage.forgive_everybody().await;
    }
    delays.sort_unstable();
    assert!(delays[delays.len() / 2] < Duration::from_millis(100), "{delays:?}");
}

#[tokio::test]
async fn sockets_are_counted_and_one_too_many_is_refused() {
    let stage = Stage::with(|plan| plan.set("LIMITS__WEBSOCKETS", "1")).await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![agreed(), Step::Echo]);
    let first = opened(&stage, &browser).await;
    let more = format!("{}origin: {}\r\n", cookie_line(&browser), stage.house.url);
    let mut second = stage.wire().await;
    second.send(handshake(&stage, "/in/socket", &more)).await;
    let refused = second.head().await;
    assert_eq!(status(&refused), 503, "{refused}");
    assert_eq!(stage.app.seen().len(), 1);
    drop(first);
    stage.app.until("the first is closed", |seen| seen[0].is_closed).await;
    opened(&stage, &browser).await;
}

#[tokio::test]
async fn strangers_leave_half_of_the_sockets_to_people() {
    let stage = Stage::with(|plan| plan.set("LIMITS__WEBSOCKETS", "4")).await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![agreed(), Step::Echo]);
    let asked = handshake(&stage, "/pub/socket", &format!("origin: {}\r\n", stage.house.url));
    let mut wires = Vec::new();
    for expected in [101, 101, 503] {
        let mut wire = stage.wire().await;
        wire.send(&asked).await;
        assert_eq!(status(&wire.head().await), expected);
        wires.push(wire);
    }
    wires.push(opened(&stage, &browser).await);
    wires.push(opened(&stage, &browser).await);
}

#[tokio::test]
async fn a_stop_waits_neither_for_sockets_nor_for_streams_whosever_they_are() {
    let mut stage = Stage::with(|plan| plan.set("SERVER__SHUTDOWN", "30s")).await;
    let browser = stage.signed_in().await;
    stage.app.plan(|seen| match seen.target() {
        "/pub/events" => vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"),
            Step::AwaitClose,
        ],
        _ => vec![agreed(), Step::Echo],
    });
    let mut wires = vec![opened(&stage, &browser).await];
    let mut nobodys = stage.wire().await;
    nobodys.send(handshake(&stage, "/pub/socket", &format!("origin: {}\r\n", stage.house.url))).await;
    assert_eq!(status(&nobodys.head().await), 101);
    wires.push(nobodys);
    let mut events = stage.wire().await;
    events.send(stage.head("GET /pub/events", "")).await;
    events.until("data: 1\n\n\r\n").await;
    wires.push(events);
    let asked = Instant::now();
    stage.house.close();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let mut last = Vec::new();
    for wire in &mut wires {
        last.push(wire.rest().await);
    }
    assert_eq!(last, [close_frame(1001), close_frame(1001), b"0\r\n\r\n".to_vec()]);
}

/// Whoever ends it: once both have said their last word, nobody waits for anybody.
#[tokio::test]
async fn a_socket_that_both_sides_have_closed_is_over_at_once() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![agreed(), Step::Talk]);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let mut wire = opened(&stage, &browser).await;
        wire.send(frame("hello")).await;
        wire.until("echo: hello").await;
        let began = Instant::now();
        wire.send([0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]).await;
        assert_eq!(wire.rest().await, close_frame(1000), "the app's own word");
        delays.push(began.elapsed());
    }
    delays.sort_unstable();
    assert!(delays[2] < Duration::from_millis(500), "{delays:?}");
}

#[tokio::test]
async fn ht_07_a_message_beyond_its_limit_ends_the_socket() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![agreed(), Step::AwaitClose]);
    let mut wire = opened(&stage, &browser).await;
    wire.send([0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5]).await;
    assert_eq!(wire.rest().await, close_frame(1009));
    stage.app.until("the app's side too", |seen| seen[0].is_closed).await;
}
