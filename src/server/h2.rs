//! HTTP/2 in (RFC 9113): each stream is a request to the same app that HTTP/1.1 reaches, translated at this one place.
//!
//! The library refuses what HTTP/2 itself forbids (connection fields, bad pseudo-fields, controls in values, lengths that do not match) and bounds floods of
//! CONTINUATION, PING, SETTINGS and small DATA frames. Owned here: how many streams, how long a silence, how many resets a connection may have.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody as _};
use actix_http::{Request, Response};
use actix_server::GracefulShutdownSignal;
use actix_service::Service as _;
use actix_web::http::{StatusCode, header};
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;

use super::secure::App;
use super::translate::{self, Refused};
use super::{HEAD_TIME, KEEP_ALIVE};
use crate::domain::Clock;

/// Requests at once on one connection; what browsers expect, and no more.
const STREAMS_MAX: u32 = 100;
/// A request's head, each field with 32 bytes more (RFC 9113 6.5.2). The app refuses above 16 KiB with a page; this is where the library stops to read.
const HEAD_MAX: u32 = 64 * 1024;
/// What a visitor may send ahead of us, on one stream and on all of a connection together: memory is bounded by the latter.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What we hold of one answer for a visitor who reads slowly.
const UNSENT_MAX: usize = 64 * 1024;
/// A visitor who takes nothing for so long is gone.
const TAKES_NOTHING: Duration = Duration::from_mins(1);
/// Streams that a visitor may take back: so many at once, and one more each 50 ms (CVE-2023-44487).
const RESETS_MAX: u32 = 200;
const RESET_BACK: Duration = Duration::from_millis(50);
/// Streams that break the rules of HTTP/2, on one connection.
const BROKEN_MAX: usize = 100;
/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What every connection of a worker shares.
pub struct Line {
    pub app: Rc<App>,
    pub stopping: GracefulShutdownSignal,
    /// Dates the answers.
    pub clock: Arc<dyn Clock>,
    /// Whether a connection outlives its first request.
    pub keeps: bool,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Answered,
    /// The visitor took the request back.
    Reset,
}

/// Serves a connection until its end.
pub async fn serve(stream: TlsStream<TcpStream>, peer: Option<SocketAddr>, line: Rc<Line>) {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(UNSENT_MAX)
        .max_local_error_reset_streams(Some(BROKEN_MAX));
    let Ok(Ok(connection)) = timeout(HEAD_TIME, builder.handshake(stream)).await else { return };
    let open = Open { connection, streams: JoinSet::new(), resets: Resets::new(), peer, line };
    if let Err(error) = open.run().await {
        tracing::debug!(%error, "an HTTP/2 connection broke off");
    }
}

/// A connection at work. Its streams end with it.
struct Open {
    connection: Connection<TlsStream<TcpStream>, Bytes>,
    streams: JoinSet<Ended>,
    resets: Resets,
    peer: Option<SocketAddr>,
    line: Rc<Line>,
}

impl Open {
    async fn run(mut self) -> Result<(), h2::Error> {
        let mut pulse = Pulse::new(self.connection.ping_pong());
        let line = Rc::clone(&self.line);
        let mut stopping = std::pin::pin!(line.stopping.notified());
        let mut is_ending = false;
        loop {
            let is_empty = self.streams.is_empty();
            tokio::select! {
                asked = self.connection.accept() => {
                    let Some(asked) = asked else { return Ok(()) };
                    let (request, respond) = asked?;
                    pulse.is_used = true;
                    self.streams.spawn_local(answer(request, respond, self.peer, Rc::clone(&self.line)));
                    if !self.line.keeps && !is_ending {
                        is_ending = true;
                        self.connection.graceful_shutdown();
                    }
                }
                Some(ended) = self.streams.join_next() => {
                    if matches!(ended, Ok(Ended::Reset)) && !self.resets.admit() {
                        return self.end(Reason::ENHANCE_YOUR_CALM).await;
                    }
                }
                () = &mut stopping, if !is_ending => {
                    is_ending = true;
                    self.connection.graceful_shutdown();
                }
                // Whoever was told to go and does not answer has nothing to lose.
                () = tokio::time::sleep(FAREWELL), if is_ending && is_empty => {
                    return self.end(Reason::NO_ERROR).await;
                }
                is_alive = pulse.beat(is_empty) => match is_alive {
                    Beat::Goes => {}
                    Beat::Idle => return self.end(Reason::NO_ERROR).await,
                    Beat::Dead => return Ok(()),
                },
            }
        }
    }

    /// Says why, and goes.
    async fn end(mut self, reason: Reason) -> Result<(), h2::Error> {
        tracing::debug!(%reason, peer = ?self.peer, "an HTTP/2 connection is closed");
        self.connection.abrupt_shutdown(reason);
        let closed = std::future::poll_fn(|cx| self.connection.poll_closed(cx));
        timeout(FAREWELL, closed).await.unwrap_or(Ok(()))
    }
}

/// How many requests were taken back lately.
struct Resets {
    left: u32,
    since: Instant,
}

impl Resets {
    fn new() -> Self {
        Self { left: RESETS_MAX, since: Instant::now() }
    }

    /// Counts one; `false` when there were too many.
    fn admit(&mut self) -> bool {
        let earned = self.since.elapsed().as_millis() / RESET_BACK.as_millis();
        if let Some(earned) = u32::try_from(earned).ok().filter(|earned| *earned > 0) {
            self.left = self.left.saturating_add(earned).min(RESETS_MAX);
            self.since = Instant::now();
        }
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

/// Notices connections that are idle, and visitors who left without a word.
struct Pulse {
    ping: Option<PingPong>,
    is_waiting: bool,
    is_used: bool,
    next: Instant,
}

enum Beat {
    Goes,
    Idle,
    Dead,
}

impl Pulse {
    fn new(ping: Option<PingPong>) -> Self {
        Self { ping, is_waiting: false, is_used: false, next: Instant::now() + KEEP_ALIVE }
    }

    /// Waits for the next beat; dropped half-way it loses nothing.
    async fn beat(&mut self, is_empty: bool) -> Beat {
        let (next, is_waiting) = (self.next, &mut self.is_waiting);
        if let (true, Some(ping)) = (*is_waiting, self.ping.as_mut()) {
            tokio::select! {
                pong = std::future::poll_fn(|cx| ping.poll_pong(cx)) => {
                    *is_waiting = false;
                    return if pong.is_ok() { Beat::Goes } else { Beat::Dead };
                }
                () = tokio::time::sleep_until(next) => return Beat::Dead,
            }
        }
        tokio::time::sleep_until(next).await;
        self.next = Instant::now() + KEEP_ALIVE;
        if is_empty && !std::mem::take(&mut self.is_used) {
            return Beat::Idle;
        }
        if let Some(ping) = self.ping.as_mut() {
            *is_waiting = ping.send_ping(Ping::opaque()).is_ok();
        }
        Beat::Goes
    }
}

/// One request and its answer.
async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Option<SocketAddr>,
    line: Rc<Line>,
) -> Ended {
    let is_head = request.method() == http::Method::HEAD;
    let (asked, expects) = match translate::request(request, peer) {
        Ok(asked) => asked,
        Err(Refused(status)) => {
            let answer = Response::new(status).set_body(BoxBody::new(()));
            return send(answer, respond, false, line.clock.now_ms()).await;
        }
    };
    if expects {
        // As over HTTP/1.1: whoever asks may send.
        let go_on = http::Response::builder().status(http::StatusCode::CONTINUE).body(());
        let _ = go_on.map(|go_on| respond.send_informational(go_on));
    }
    let answer = tokio::select! {
        biased;
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return Ended::Reset,
        answer = call(&line.app, asked) => answer,
    };
    send(answer, respond, is_head, line.clock.now_ms()).await
}

async fn call(app: &App, asked: Request) -> Response<BoxBody> {
    app.call(asked).await.unwrap_or_else(Response::from)
}

async fn send(
    answer: Response<BoxBody>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    now_ms: i64,
) -> Ended {
    let size = answer.body().size();
    let has_none = is_head
        || matches!(size, BodySize::None | BodySize::Sized(0))
        || matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut head = translate::answer(answer.head(), size, now_ms);
    if !is_head && answer.status() != StatusCode::NOT_MODIFIED && size == BodySize::None {
        head.headers_mut().remove(header::CONTENT_LENGTH.as_str());
    }
    let Ok(stream) = respond.send_response(head, has_none) else { return Ended::Reset };
    if has_none {
        return Ended::Answered;
    }
    let announced = if let BodySize::Sized(length) = size { Some(length) } else { None };
    Sending { stream, left: announced }.all(answer.into_body()).await
}

/// An answer's body under way.
struct Sending {
    stream: SendStream<Bytes>,
    /// What was announced and is still to come.
    left: Option<u64>,
}

impl Sending {
    /// Sends it all. A body that breaks off is never ended as if it were whole (security.md PX-18): the stream is reset.
    async fn all(mut self, body: BoxBody) -> Ended {
        let mut body = std::pin::pin!(body);
        loop {
            let piece = tokio::select! {
                biased;
                _ = std::future::poll_fn(|cx| self.stream.poll_reset(cx)) => return Ended::Reset,
                piece = std::future::poll_fn(|cx| body.as_mut().poll_next(cx)) => piece,
            };
            match piece {
                Some(Ok(piece)) => {
                    if let Some(ended) = self.piece(piece).await {
                        return ended;
                    }
                }
                None if self.left.is_none_or(|left| left == 0) => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Ended::Answered;
                }
                None | Some(Err(_)) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Ended::Answered;
                }
            }
        }
    }

    /// Sends a piece as the visitor takes it; `Some` when that was the last.
    async fn piece(&mut self, mut piece: Bytes) -> Option<Ended> {
        while !piece.is_empty() {
            self.stream.reserve_capacity(piece.len());
            let taken = std::future::poll_fn(|cx| self.stream.poll_capacity(cx));
            let room = match timeout(TAKES_NOTHING, taken).await {
                Ok(Some(Ok(room))) => room,
                Ok(_) => return Some(Ended::Reset),
                Err(_) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Some(Ended::Answered);
                }
            };
            let part = piece.split_to(room.min(piece.len()));
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            self.left = self.left.map(|left| left.saturating_sub(length));
            let is_last = self.left == Some(0);
            if self.stream.send_data(part, is_last).is_err() {
                return Some(Ended::Reset);
            }
            if is_last {
                return Some(Ended::Answered);
            }
        }
        None
    }
}
