//! One connection to an app: bytes in, bytes out, and a clock for silence.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;

/// A small answer fits into one read.
const READ_SMALL: usize = 8 * 1024;
/// Once a read filled its room, more is coming: fewer and larger reads.
const READ_LARGE: usize = 64 * 1024;

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// A connection that carries one exchange at a time.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// What came and is not consumed.
    pub read: BytesMut,
    /// What is to be sent.
    pub write: BytesMut,
    /// Made once: moving its end further away costs nothing while it is armed.
    timer: Pin<Box<Sleep>>,
    expects_much: bool,
    /// Whether an earlier exchange went over it: the app may have closed it meanwhile.
    pub is_kept: bool,
}

impl Connection {
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            write: BytesMut::with_capacity(1024),
            timer: Box::pin(tokio::time::sleep(Duration::from_hours(24))),
            expects_much: false,
            is_kept: false,
        }
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = if self.expects_much { READ_LARGE } else { READ_SMALL };
        if self.read.capacity() - self.read.len() < room / 2 {
            self.read.reserve(room);
        }
        let offered = self.read.capacity() - self.read.len();
        let polled = pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        if let Poll::Ready(Ok(n)) = &polled {
            self.expects_much = *n == offered;
        }
        polled
    }

    /// Sends what waits in `write`; ready when the system took all of it.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.write.advance(n),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Starts the clock anew.
    pub fn wind(&mut self, patience: Duration) {
        self.wind_at(Instant::now(), patience);
    }

    /// Starts the clock at a moment that was read just now.
    pub fn wind_at(&mut self, now: Instant, patience: Duration) {
        self.timer.as_mut().reset(now.checked_add(patience).unwrap_or(now));
    }

    /// Whether the clock ran out; else wakes the task when it does.
    pub fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().poll(cx).is_ready()
    }

    /// Whether nothing came while the connection lay idle: neither its end nor bytes that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        if !self.read.is_empty() || !self.write.is_empty() {
            return false;
        }
        // The runtime may feign silence to a task that did much already; here that would be taken for the truth.
        let look = tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll_read(cx)));
        pin!(look).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }
}
