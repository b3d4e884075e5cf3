//! Chapter 11: each way to be denied, and after each the spy behind the door says that the app was not called.

use super::signed_in;
use crate::house::upstream::Wire;
use crate::proxy::stage::{Stage, cookie_line, status};

/// What is asked, and the status that denies it.
fn denials(stage: &Stage, cookie: &str) -> Vec<(String, u16)> {
    let own = |line: &str, fields: &str| stage.head(line, &format!("{fields}connection: close\r\n"));
    let foreign = |host: &str| format!("GET /pub/x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let socket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let port = stage.house.address.port();
    vec![
        (foreign("evil.example"), 421),
        (foreign(&format!("evil.example:{port}")), 421),
        (foreign(&format!("127.0.0.1:{port}")), 303),
        (own("GET http://evil.example/pub/x", ""), 400),
        (own("TRACE /pub/x", ""), 405),
        (own("CONNECT /pub/x", ""), 405),
        (own("get /pub/x", ""), 400),
        (own("GET /pub/../in/x", cookie), 400),
        (own("GET /pub/%2e%2e/in/x", cookie), 400),
        (own("GET /pub;/in/x", cookie), 400),
        (own("GET /nowhere", cookie), 404),
        (own("GET /auth/nowhere", cookie), 404),
        (own("POST /get/x", &format!("{cookie}x-csrf: 1\r\ncontent-length: 0\r\n")), 405),
        (own("GET /in/x", ""), 401),
        (own("GET /in/x", "cookie: doorward=forged\r\n"), 401),
        (own("GET /in/x", &format!("{cookie}cookie: doorward=second\r\n")), 401),
        (own("GET /in/x", "authorization: Bearer x\r\n"), 401),
        (own("GET /in/x", "x-auth-user: alice\r\nx-forwarded-user: alice\r\n"), 401),
        (own("GET /in/x", "accept: text/html\r\nsec-fetch-mode: navigate\r\n"), 303),
        (own("GET /admins/x", cookie), 403),
        (own("POST /in/x", &format!("{cookie}content-length: 0\r\n")), 403),
        (own("POST /in/x", &format!("{cookie}content-length: 0\r\norigin: null\r\nx-csrf: 1\r\n")), 403),
        (own("DELETE /in/x", &format!("{cookie}sec-fetch-site: cross-site\r\n")), 403),
        (own("POST /small/x", "content-length: 1025\r\n"), 413),
        (own(&format!("GET /pub/{}", "a".repeat(9_000)), ""), 414),
        (own("GET /pub/x", &format!("x-long: {}\r\n", "a".repeat(17_000))), 431),
        (stage.head("GET /in/socket", &format!("{socket}{cookie}origin: https://evil.example\r\n")), 403),
        (stage.head("GET /in/socket", socket), 401),
        (stage.head("GET /in/socket", &format!("{socket}origin: {}\r\n", stage.house.url)), 401),
        (stage.head("POST /in/socket", &format!("{socket}{cookie}x-csrf: 1\r\n")), 400),
    ]
}

#[tokio::test]
async fn px_11_no_denial_of_any_kind_reaches_the_app() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&signed_in(&stage.house).await);
    for (request, expected) in denials(&stage, &cookie) {
        let mut wire = Wire::open(stage.house.address).await;
        wire.send(&request).await;
        let answer = wire.head().await;
        let case: String = request.chars().take(300).collect();
        assert_eq!(status(&answer), expected, "{case}: {answer}");
        stage.app.assert_silent(&case);
    }
    assert_eq!(status(&stage.ask("GET /in/x", &cookie).await), 200, "and who may pass does");
    assert_eq!(stage.app.seen().len(), 1);
}
