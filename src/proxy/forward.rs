//! One request on its way to an app and the answer's way back; nothing is held whole in between.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::CONTENT_TYPE;
use bytes::Bytes;
use tokio::time::Instant;

use super::headers::Onward;
use super::upstream::{
    Answer, Download, Exchange, Expected, Fault, Framing, Origin, Pool, SILENCE_MAX, Upload, Upstream,
};

/// Ends when nothing more may be sent to the visitor.
pub type Curfew = Pin<Box<dyn Future<Output = Over>>>;

/// Why something that was open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The session is over, or can no longer be watched over.
    Session,
    /// The house closes.
    House,
}

/// An app's answer; its connection is dropped with it.
#[derive(Debug)]
pub struct Reply {
    pub answer: Answer,
    pub download: Download,
}

/// Sends a request to the first address that takes it.
///
/// # Errors
/// As [`Fault`]. A request is sent a second time only where that changes nothing: it has no body, is idempotent, and the kept connection
/// that it went over was closed before the first byte of an answer (security.md PX-19).
pub async fn forward(
    pool: &Rc<Pool>,
    upstream: &Upstream,
    onward: &Onward<'_>,
    mut upload: Option<Box<Upload>>,
    patience: Duration,
) -> Result<Reply, Fault> {
    let method = onward.canonical.method();
    let may_repeat = upload.is_none() && is_idempotent(method) && !onward.is_websocket;
    let expected = Expected { is_head: method == "HEAD", is_upgrade: onward.is_websocket };
    let mut unreachable = Fault::Unreachable("no address is configured".to_owned());
    for origin in upstream.in_turn() {
        loop {
            // Read once for the pool and for the patience: a small request is over so soon that each reading tells.
            let mut now = Instant::now();
            let mut connection = match pool.take(origin, may_repeat, now) {
                Some(connection) => connection,
                None => match Box::pin(origin.connect()).await {
                    Ok(connection) => {
                        now = Instant::now();
                        connection
                    }
                    Err(fault) => {
                        unreachable = fault;
                        break;
                    }
                },
            };
            let is_kept = connection.is_kept;
            onward.write(&mut connection.write);
            match &upload {
                Some(upload) => upload.write_framing(&mut connection.write),
                None if matches!(method, "POST" | "PUT" | "PATCH") => {
                    connection.write.extend_from_slice(b"content-length: 0\r\n");
                }
                None => {}
            }
            connection.write.extend_from_slice(b"\r\n");
            let mut exchange = Exchange::new(connection, upload.take(), expected, patience);
            match exchange.run(now).await {
                Ok(answer) => return Ok(reply(exchange, answer, pool, origin)),
                Err(Fault::Silent) if is_kept && may_repeat => {}
                Err(fault) => {
                    if fault == Fault::Silent && !is_kept {
                        origin.has_failed();
                    }
                    return Err(fault);
                }
            }
        }
    }
    Err(unreachable)
}

/// RFC 9110 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

fn reply(exchange: Exchange, answer: Answer, pool: &Rc<Pool>, origin: &Arc<Origin>) -> Reply {
    let Exchange { connection, upload, .. } = exchange;
    let home = answer.keeps.then(|| (Rc::clone(pool), Arc::clone(origin)));
    let silence = (!is_event_stream(&answer)).then_some(SILENCE_MAX);
    let framing = answer.framing;
    // A connection that changes its protocol has no end that a length could tell.
    let framing = if answer.status.is_informational() { Framing::UntilEnd } else { framing };
    Reply { download: Download::new(connection, upload, framing, home, silence), answer }
}

/// A stream of events may be silent for as long as it likes, and ends with the session.
#[must_use]
pub fn is_event_stream(answer: &Answer) -> bool {
    let kind = answer.fields.all(&CONTENT_TYPE).next().map(|value| value.as_bytes().trim_ascii_start());
    kind.and_then(|kind| kind.get(.."text/event-stream".len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// A body as the server sends it to the visitor.
pub struct Body {
    download: Download,
    size: BodySize,
    curfew: Option<Curfew>,
}

impl Body {
    /// `curfew` ends it early.
    #[must_use]
    pub fn new(reply_framing: Framing, download: Download, curfew: Option<Curfew>) -> Self {
        let size = match reply_framing {
            Framing::None => BodySize::None,
            Framing::Sized(length) => BodySize::Sized(length),
            Framing::Chunked | Framing::UntilEnd => BodySize::Stream,
        };
        Self { download, size, curfew }
    }
}

/// A body that broke off; the server closes the connection without the end that would make it look whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct BrokeOff(Fault);

impl MessageBody for Body {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        let this = self.get_mut();
        if this.curfew.as_mut().is_some_and(|curfew| curfew.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        this.download.poll_piece(cx).map(|piece| {
            piece.map(|piece| {
                piece.map_err(|fault| -> Box<dyn std::error::Error> {
                    tracing::warn!(%fault, "an app's answer broke off");
                    Box::new(BrokeOff(fault))
                })
            })
        })
    }
}

/// A length without a body, for answers to HEAD.
pub struct Announced(pub BodySize);

impl MessageBody for Announced {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}
