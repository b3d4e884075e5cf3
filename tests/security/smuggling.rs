//! Chapter 12: requests whose end two servers could see in different places. Each is followed by a second request that must never be served as a smuggled one.

use crate::house::upstream::Wire;
use crate::proxy::stage::{Stage, status};

/// Fields and body of a POST; all of these are refused.
const REFUSED: &[(&str, &str)] = &[
    ("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
    ("content-length: 5\r\ncontent-length: 6\r\n", "hello"),
    ("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
    ("content-length: 5, 5\r\n", "hello"),
    ("content-length: 5, 6\r\n", "hello"),
    ("content-length: +5\r\n", "hello"),
    ("content-length: -5\r\n", "hello"),
    ("content-length: 0x5\r\n", "hello"),
    ("content-length: 5a\r\n", "hello"),
    ("content-length: 5 5\r\n", "hello"),
    ("content-length: 5.0\r\n", "hello"),
    ("content-length: five\r\n", "hello"),
    ("content-length: \u{665}\r\n", "hello"),
    ("content-length:\r\n", "hello"),
    ("content-length: 99999999999999999999\r\n", "hello"),
    ("content-length: 18446744073709551616\r\n", "hello"),
    ("content-length : 5\r\n", "hello"),
    ("content-length\t: 5\r\n", "hello"),
    (" content-length: 5\r\n", "hello"),
    ("x: y\r\n content-length: 5\r\n", "hello"),
    ("x: y\r\n\tcontent-length: 5\r\n", "hello"),
    ("content-length: 5\r\n x\r\n", "hello"),
    ("content\0-length: 5\r\n", "hello"),
    ("content-length: 5\0\r\n", "hello"),
    ("content-length: \u{b}5\r\n", "hello"),
    ("x: a\rb\r\n", ""),
    ("x: a\rcontent-length: 5\r\n", "hello"),
    ("x: a\0b\r\n", ""),
    ("x\r\n", ""),
    (": x\r\n", ""),
    ("x y: z\r\n", ""),
    ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding: identity, chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\0\r\n", "0\r\n\r\n"),
    ("transfer-encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: ch\u{fc}nked\r\n", "0\r\n\r\n"),
    ("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding\n: chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "g\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "5\rhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "5\r\nhelloX\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 5\r\n", "hello"),
    ("upgrade: websocket\r\ncontent-length: 5\r\n", "hello"),
    ("upgrade: websocket\r\n", ""),
    ("host: evil.example\r\n", ""),
];

/// Accepted, with exactly one reading.
const ACCEPTED: &[(&str, &str, &str)] = &[
    ("content-length: 005\r\n", "hello", "hello"),
    ("content-length:5\r\n", "hello", "hello"),
    ("content-length: 5  \r\n", "hello", "hello"),
    ("transfer-encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ("transfer-encoding: chunked\r\n", "5;ext=1\r\nhello\r\n0\r\nx-t: 1\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
];

async fn send(stage: &Stage, fields: &str, body: &str) -> String {
    let second = stage.head("GET /pub/smuggled", "connection: close\r\n");
    let mut wire = Wire::open(stage.house.address).await;
    // Byte for byte: one `char` is one byte where it is below 256.
    let latin: Vec<u8> = fields
        .chars()
        .flat_map(|c| u8::try_from(u32::from(c)).map_or_else(|_| c.to_string().into_bytes(), |b| vec![b]))
        .collect();
    let head = format!("POST /pub/first HTTP/1.1\r\nhost: {}\r\n", stage.host());
    wire.send([head.as_bytes(), &latin, b"\r\n", body.as_bytes(), second.as_bytes()].concat()).await;
    String::from_utf8_lossy(&wire.rest().await).into_owned()
}

#[tokio::test]
async fn ht_01_ht_02_an_ambiguous_end_is_refused_and_what_follows_is_no_request() {
    assert!(REFUSED.len() >= 60, "only {}", REFUSED.len());
    let stage = Stage::open().await;
    for (fields, body) in REFUSED {
        stage.app.forget();
        let answer = send(&stage, fields, body).await;
        let case = format!("{fields:?} {body:?}: {answer}");
        // A body that turns out malformed while the request is under way may end the connection before its answer.
        let is_body = fields.starts_with("transfer-encoding: chunked\r\n") && answer.is_empty();
        assert!(is_body || status(&answer) == 400, "{case}");
        assert!(answer.matches("HTTP/1.").count() <= 1, "one answer, and the connection is closed: {case}");
        for seen in stage.app.seen() {
            assert!(seen.target() == "/pub/first", "{case}");
            assert!(!seen.body.ends_with(b"0\r\n\r\n"), "the app saw a whole body: {case}");
        }
    }
}

#[tokio::test]
async fn ht_03_what_is_accepted_has_one_reading_and_is_framed_afresh() {
    let stage = Stage::open().await;
    for (fields, body, expected) in ACCEPTED {
        stage.app.forget();
        let answer = send(&stage, fields, body).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{fields:?}: {answer}");
        let seen = stage.app.seen();
        assert_eq!(seen.len(), 2, "{fields:?}");
        assert_eq!(String::from_utf8_lossy(&seen[0].body), *expected, "{fields:?}");
        let framed = seen[0].all("content-length").len() + seen[0].all("transfer-encoding").len();
        assert_eq!(framed, 1, "{fields:?}: {}", seen[0].head);
        assert!(matches!(seen[0].one("content-length"), None | Some("5")), "{fields:?}");
        assert_eq!(seen[1].target(), "/pub/smuggled", "the second request is one of its own");
    }
}

#[tokio::test]
async fn ht_04_a_refusal_before_a_large_body_leaves_no_next_request_in_it() {
    let stage = Stage::open().await;
    for (line, fields, expected) in [
        ("POST /in/x", "content-length: 5000000\r\n", 401),
        ("POST /in/x", "transfer-encoding: chunked\r\n", 401),
        ("POST /nowhere", "content-length: 5000000\r\n", 404),
        ("POST /get/x", "content-length: 5000000\r\n", 405),
        ("POST /small/x", "content-length: 5000000\r\n", 413),
    ] {
        let mut wire = stage.wire().await;
        wire.send(stage.head(line, fields)).await;
        let answer = wire.head().await;
        assert_eq!(status(&answer), expected, "{line}");
        let smuggled = stage.head("GET /pub/smuggled", "");
        wire.send(if fields.starts_with("transfer") {
            format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())
        } else {
            smuggled
        })
        .await;
        let rest = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert!(!rest.contains("HTTP/1.1"), "{line} {fields}: {rest}");
        stage.app.assert_silent(line);
    }
}
