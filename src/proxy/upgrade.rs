//! WebSockets: the handshake as both sides must speak it (RFC 6455 4), then bytes both ways until one side or the session ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::Stream as _;

use super::forward::{Curfew, Over};
use super::frames::{self, Meter};
use super::upstream::{Answer, Connection};

/// Waiting to be taken by the app; beyond it the visitor waits.
const GATHER: usize = 32 * 1024;

/// What a request wants of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Http,
    /// A sound WebSocket handshake, with the answer that proves the app understood it.
    WebSocket {
        accept: String,
    },
    /// A handshake that is none; the server below has already stopped to look for an end of the body.
    Malformed,
}

/// Reads the wish. Other protocols than WebSocket are not offered, so that their `Upgrade` is passed over (RFC 9110 7.8, security.md HT-06).
#[must_use]
pub fn wish(method: &str, is_http_11: bool, headers: &HeaderMap) -> Wish {
    let mut upgrades = headers.get_all(UPGRADE).filter_map(|value| value.to_str().ok());
    if !upgrades.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("websocket"))) {
        return Wish::Http;
    }
    let one = |name: &str| {
        let mut all = headers.get_all(name);
        all.next().filter(|_| all.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let is_named = headers
        .get_all(CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")));
    let key = one("sec-websocket-key").map(str::trim);
    let is_key = |key: &&str| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    let sound = method == "GET"
        && is_http_11
        && is_named
        && one("upgrade").is_some_and(|value| value.trim().eq_ignore_ascii_case("websocket"))
        && one("sec-websocket-version").map(str::trim) == Some("13")
        && !headers.contains_key(CONTENT_LENGTH)
        && !headers.contains_key(TRANSFER_ENCODING);
    match key.filter(is_key) {
        Some(key) if sound => Wish::WebSocket { accept: accept(key) },
        _ => Wish::Malformed,
    }
}

/// RFC 6455 4.2.2.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Whether an app's 101 answers this very handshake.
#[must_use]
pub fn is_agreed(answer: &Answer, accept: &str) -> bool {
    let proofs: Vec<&[u8]> = answer.fields.all(&SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes).collect();
    answer.upgrades_to_websocket && proofs == [accept.as_bytes()]
}

/// How many sockets are open in this process.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<AtomicUsize>);

/// One open socket's place.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Sockets {
    /// A place, while there are fewer than `max`.
    #[must_use]
    pub fn take(&self, max: usize) -> Option<Place> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then(|| n + 1));
        taken.ok().map(|_| Place(Arc::clone(&self.0)))
    }

    /// How many are taken.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open socket: the answer's body is what the app says, the request's what the visitor says.
pub struct Tunnel {
    at: At,
    payload: Payload,
    curfew: Curfew,
    from_visitor: Meter,
    from_app: Meter,
    _place: Place,
}

/// How far the end is.
enum At {
    Open(Box<Connection>),
    /// All is said, and the server still holds some of it.
    Said,
    Over,
}

/// Why a socket ends from our side; as a visitor is told it (RFC 6455 7.4.1).
#[derive(Debug, Clone, Copy)]
enum Reason {
    GoingAway = 1001,
    Policy = 1008,
    TooBig = 1009,
}

/// The socket is over. An error to the server, which then drops the connection; it would wait a second for a visitor who waits for it.
#[derive(Debug, thiserror::Error)]
#[error("the socket is over")]
pub struct Ended;

/// What became of the visitor's words.
#[derive(Debug, PartialEq, Eq)]
enum Carried {
    All,
    /// One side is gone.
    Lost,
    TooBig,
}

type Next = Poll<Option<Result<Bytes, Ended>>>;

impl Tunnel {
    #[must_use]
    pub fn new(connection: Box<Connection>, payload: Payload, curfew: Curfew, place: Place) -> Self {
        let (from_visitor, from_app) = (Meter::default(), Meter::default());
        Self { at: At::Open(connection), payload, curfew, from_visitor, from_app, _place: place }
    }

    /// Lets go of the app at once, and tells the visitor why where a frame can stand.
    fn end(&mut self, reason: Reason, cx: &mut Context<'_>) -> Next {
        self.at = At::Said;
        if self.from_app.is_between_frames() && !self.from_app.has_closed() {
            return Poll::Ready(Some(Ok(Bytes::copy_from_slice(&frames::close(reason as u16)))));
        }
        self.leave(cx)
    }

    /// The server sends what it holds whenever nothing more comes; asked again, it hears of the end.
    fn leave(&mut self, cx: &mut Context<'_>) -> Next {
        self.at = At::Over;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Carries what the visitor said.
fn carry_up(
    connection: &mut Connection,
    payload: &mut Payload,
    meter: &mut Meter,
    cx: &mut Context<'_>,
) -> Carried {
    loop {
        let mut is_waiting = false;
        while connection.write.len() < GATHER {
            match Pin::new(&mut *payload).poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    if !meter.admits(&piece) {
                        return Carried::TooBig;
                    }
                    connection.write.extend_from_slice(&piece);
                }
                Poll::Ready(_) => return Carried::Lost,
                Poll::Pending => {
                    is_waiting = true;
                    break;
                }
            }
        }
        match connection.poll_send(cx) {
            Poll::Ready(Ok(())) if is_waiting => return Carried::All,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Carried::Lost,
            Poll::Pending => return Carried::All,
        }
    }
}

/// What the app said; `None` when it has gone.
fn carry_down(connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
    if connection.read.is_empty() {
        match connection.poll_read(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(Some(connection.read.split().freeze()))
}

impl MessageBody for Tunnel {
    type Error = Ended;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        let this = self.get_mut();
        let connection = match &mut this.at {
            At::Open(connection) => connection,
            At::Said => return this.leave(cx),
            At::Over => return Poll::Ready(Some(Err(Ended))),
        };
        if let Poll::Ready(over) = this.curfew.as_mut().poll(cx) {
            return this.end(if over == Over::House { Reason::GoingAway } else { Reason::Policy }, cx);
        }
        match carry_up(connection, &mut this.payload, &mut this.from_visitor, cx) {
            Carried::All => {}
            Carried::Lost => return Poll::Ready(None),
            Carried::TooBig => return this.end(Reason::TooBig, cx),
        }
        match carry_down(connection, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(piece)) if this.from_app.admits(&piece) => Poll::Ready(Some(Ok(piece))),
            // The app's message is too big, and began already.
            Poll::Ready(Some(_)) => this.leave(cx),
            // Both have said their last word, so that nothing is on its way to be lost.
            Poll::Ready(None) if this.from_app.has_closed() && this.from_visitor.has_closed() => {
                this.leave(cx)
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderName;

    fn asked(method: &str, change: &[(&str, Option<&str>)]) -> Wish {
        let mut pairs = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in change {
            pairs.retain(|(known, _)| known != name);
            pairs.extend(value.map(|value| (*name, value)));
        }
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        wish(method, true, &map)
    }

    #[test]
    fn ht_07_only_a_sound_handshake_is_one() {
        // The example of RFC 6455 1.3.
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(asked("GET", &[]), Wish::WebSocket { accept });
        assert_eq!(asked("POST", &[]), Wish::Malformed);
        for change in [
            ("connection", None),
            ("connection", Some("close")),
            ("upgrade", Some("websocket, h2c")),
            ("sec-websocket-version", Some("8")),
            ("sec-websocket-version", None),
            ("sec-websocket-key", None),
            ("sec-websocket-key", Some("short")),
            ("content-length", Some("0")),
            ("transfer-encoding", Some("chunked")),
        ] {
            assert_eq!(asked("GET", &[change]), Wish::Malformed, "{change:?}");
        }
        for change in [("upgrade", None), ("upgrade", Some("h2c")), ("upgrade", Some("TLS/1.0"))] {
            assert_eq!(asked("GET", &[change]), Wish::Http, "{change:?}");
        }
    }

    #[test]
    fn places_are_counted_and_come_back() {
        let sockets = Sockets::default();
        let first = sockets.take(1).unwrap();
        assert!(sockets.take(1).is_none());
        drop(first);
        assert!(sockets.take(1).is_some());
        assert_eq!(sockets.open(), 0);
    }
}
