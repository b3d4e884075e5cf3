//! Bodies, cookies and WebSockets behind a proxy that asks: the question has none of them, the app gets all of them.

use super::stage::{Stage, each};
use crate::house::upstream::Step;
use crate::proxy::stage::{cookie_line, status};
use crate::security::signed_in;

#[tokio::test]
async fn px_21_a_large_body_reaches_the_app_whole_and_only_for_our_own_pages() {
    each(|stage| async move {
        let cookie = cookie_line(&signed_in(&stage.house).await);
        let own = format!("{cookie}origin: {}\r\n", stage.house.url);
        let large = "x".repeat(3 << 20);
        let sized = format!("{own}content-length: {}\r\n\r\n{large}", large.len());
        let chunked =
            format!("{own}transfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
        for request in [sized, chunked] {
            let answer = stage.ask("POST /in/x?a=b", &request).await;
            assert_eq!(status(&answer), 200, "{:?} {answer}", stage.kind);
            let seen = stage.app.last();
            assert_eq!((seen.line(), seen.one("x-auth-user")), ("POST /in/x?a=b HTTP/1.1", Some("alice")));
            assert_eq!(
                String::from_utf8_lossy(&seen.body).matches('x').count(),
                large.len(),
                "{:?}",
                stage.kind
            );
        }
        stage.app.forget();
        for origin in
            ["origin: https://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n", ""]
        {
            let answer =
                stage.ask("POST /in/x", &format!("{cookie}{origin}content-length: 2\r\n\r\nab")).await;
            assert_eq!(status(&answer), 403, "{:?} {origin}: {answer}", stage.kind);
            stage.app.assert_silent(origin);
        }
        let proof = format!("{cookie}x-csrf: 1\r\ncontent-length: 2\r\n\r\nab");
        assert_eq!(status(&stage.ask("POST /in/x", &proof).await), 200, "{:?}", stage.kind);
    })
    .await;
}

#[tokio::test]
async fn px_14_px_21_cookies_and_credentials_of_the_door_are_not_the_apps_and_its_own_come_through() {
    each(|stage| async move {
        let browser = signed_in(&stage.house).await;
        let key = browser.cookie("doorward").expect("signed in");
        for (sent, kept) in [
            (format!("a=1; doorward={key}; b=\"2\""), "a=1; b=\"2\""),
            (format!("doorward={key}; b=2"), "b=2"),
            (format!("a=1; doorward={key}"), "a=1"),
            (format!("xdoorward=1; doorward={key}; doorwardx=2"), "xdoorward=1; doorwardx=2"),
            (format!("doorward={key}"), ""),
        ] {
            let fields = format!("cookie: {sent}\r\nauthorization: Basic canary\r\n");
            assert_eq!(status(&stage.ask("GET /in/x", &fields).await), 200, "{:?} {sent}", stage.kind);
            let seen = stage.app.last();
            let cookies = seen.one("cookie").unwrap_or_default().trim_matches([';', ' ']).to_owned();
            assert_eq!(cookies, kept, "{:?}: {}", stage.kind, seen.head);
            assert!(
                !seen.head.contains(&key) && !seen.head.contains("canary"),
                "{:?}: {}",
                stage.kind,
                seen.head
            );
        }
        stage.app.always(vec![Step::answer("200 OK", "set-cookie: theme=dark\r\nset-cookie: a=b\r\n", "ok")]);
        let names: Vec<String> =
            browser.get("/in/x").await.set_cookies().into_iter().map(|cookie| cookie.name).collect();
        assert_eq!(names, ["theme", "a"], "{:?}", stage.kind);
        stage.app.forget();
        let answer = stage.ask("GET /assert/x", &format!("cookie: doorward={key}\r\n")).await;
        assert_eq!(status(&answer), 200, "{:?}", stage.kind);
        let assertion = stage.app.last().one("x-auth-assertion").map(|token| token.split('.').count());
        assert_eq!(assertion, Some(3), "{:?}", stage.kind);
    })
    .await;
}

/// The example of RFC 6455 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake(stage: &Stage, more: &str) -> String {
    let headers = format!(
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}"
    );
    stage.head("GET /in/socket", &headers)
}

#[tokio::test]
async fn ht_06_ht_07_px_21_a_socket_passes_the_proxy_for_our_own_pages_alone() {
    each(|stage| async move {
        let cookie = cookie_line(&signed_in(&stage.house).await);
        let own = format!("origin: {}\r\n", stage.house.url);
        let agreed = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
        );
        stage.app.always(vec![Step::send(&agreed), Step::Echo]);
        stage.app.forget();
        for (fields, expected) in [
            (own.clone(), 401),
            (format!("{cookie}origin: https://evil.example\r\n"), 403),
            (format!("{cookie}origin: null\r\n"), 403),
            (format!("{cookie}sec-fetch-site: cross-site\r\nsec-fetch-mode: websocket\r\n"), 403),
            (cookie.clone(), 403),
        ] {
            let mut wire = stage.wire().await;
            wire.send(handshake(&stage, &fields)).await;
            let head = wire.head().await;
            assert_eq!(status(&head), expected, "{:?} {fields}: {head}", stage.kind);
            stage.app.assert_silent(&fields);
        }
        let mut wire = stage.wire().await;
        wire.send(handshake(&stage, &format!("{cookie}{own}"))).await;
        let head = wire.head().await;
        assert_eq!(status(&head), 101, "{:?} {head}", stage.kind);
        assert_eq!(stage.app.last().one("x-auth-user"), Some("alice"));
        for text in ["hello", "wide", "world"] {
            wire.send(text).await;
            wire.until(text).await;
        }
        // The proxy keeps its connections to Doorward: the next question is still answered.
        stage.app.always(vec![Step::ReadBody, Step::answer("200 OK", "", "hello")]);
        for _ in 0..8 {
            assert_eq!(status(&stage.ask("GET /in/x", &cookie).await), 200, "{:?}", stage.kind);
        }
        let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
        let mut wire = stage.wire().await;
        wire.send(stage.head("GET /in/x", &format!("{cookie}{h2c}"))).await;
        assert_eq!(status(&wire.head().await), 200, "{:?}", stage.kind);
        assert_eq!(stage.app.last().one("upgrade").unwrap_or_default(), "", "{:?}", stage.kind);
    })
    .await;
}
