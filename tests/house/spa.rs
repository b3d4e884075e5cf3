//! A single-page app behind the door, under a content policy without any inline script: it fetches, listens to events and speaks WebSocket.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::upstream::{Seen, Step};

const POLICY: &str =
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the app does with a request below the folder where it lives.
pub fn answer(seen: &Seen) -> Vec<Step> {
    let page = |kind: &str, text: &str| {
        let headers = format!("content-type: {kind}\r\ncontent-security-policy: {POLICY}\r\n");
        vec![Step::ReadBody, Step::answer("200 OK", &headers, text)]
    };
    match seen.target().rsplit('/').next().unwrap_or_default() {
        "" => page("text/html; charset=utf-8", include_str!("spa/index.html")),
        "app.js" => page("text/javascript", include_str!("spa/app.js")),
        "notes" => page("text/plain", &format!("kept for {}", seen.one("x-auth-user").unwrap_or("nobody"))),
        "news" => vec![
            Step::send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nd\r\ndata: fresh\n\n\r\n",
            ),
            Step::AwaitClose,
        ],
        "talk" => vec![agree(seen), Step::Talk],
        _ => vec![Step::answer("404 Not Found", "", "")],
    }
}

/// RFC 6455 4.2.2.
fn agree(seen: &Seen) -> Step {
    let key = seen.one("sec-websocket-key").unwrap_or_default();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    Step::send(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    ))
}
