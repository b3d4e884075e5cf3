//! An answer's body on its way to the visitor: each piece as it comes, and never an end that was none.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::Fault;
use super::answer::Framing;
use super::chunked::{Decoder, Step};
use super::connection::Connection;
use super::origin::Origin;
use super::pool::Pool;
use super::upload::{Progress, Upload};

/// Silence in the middle of a body; an event stream may be silent for as long as it likes.
pub const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Where in the body we are.
#[derive(Debug)]
enum At {
    Sized(u64),
    Chunked(Decoder),
    UntilEnd,
    End,
}

/// The rest of an exchange.
#[derive(Debug)]
pub struct Download {
    /// `None` once it was given back or closed.
    connection: Option<Box<Connection>>,
    upload: Option<Box<Upload>>,
    at: At,
    /// Where the connection goes when all is said; `None` closes it.
    home: Option<(Rc<Pool>, Arc<Origin>)>,
    silence: Option<Duration>,
    is_waiting: bool,
}

impl Download {
    /// `home` only where the app keeps the connection; `silence` is how long it may say nothing.
    #[must_use]
    pub fn new(
        connection: Box<Connection>,
        upload: Option<Box<Upload>>,
        framing: Framing,
        home: Option<(Rc<Pool>, Arc<Origin>)>,
        silence: Option<Duration>,
    ) -> Self {
        let at = match framing {
            Framing::None | Framing::Sized(0) => At::End,
            Framing::Sized(left) => At::Sized(left),
            Framing::Chunked => At::Chunked(Decoder::default()),
            Framing::UntilEnd => At::UntilEnd,
        };
        let mut download =
            Self { connection: Some(connection), upload, at, home, silence, is_waiting: false };
        if matches!(download.at, At::End) {
            download.part();
        }
        download
    }

    /// The whole body, where it came along with the head.
    #[must_use]
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let At::Sized(left) = self.at else { return None };
        let connection = self.connection.as_mut()?;
        if self.upload.is_some() || (connection.read.len() as u64) < left {
            return None;
        }
        let whole = connection.read.split_to(usize::try_from(left).ok()?).freeze();
        self.end();
        Some(whole)
    }

    /// The connection itself, once it speaks another protocol.
    #[must_use]
    pub fn into_connection(self) -> Option<Box<Connection>> {
        self.connection
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.at, At::End)
    }

    /// The next piece; `None` is the end that the app meant.
    ///
    /// # Errors
    /// The body broke off; what the visitor has is not whole.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let (Some(upload), Some(connection)) = (&mut self.upload, &mut self.connection) {
            match upload.poll(connection, cx) {
                Ok((Progress::Done, _)) => self.upload = None,
                // The app has answered and does not listen any more: so be it.
                Ok((Progress::AppDeaf, _)) => {
                    self.upload = None;
                    self.home = None;
                }
                Ok(_) => {}
                Err(fault) => return self.fail(fault),
            }
        }
        loop {
            match self.next() {
                Ok(Step::Piece(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::NeedsMore) => {}
                Err(fault) => return self.fail(fault),
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match connection.poll_read(cx) {
                Poll::Ready(Ok(n)) if n > 0 => self.is_waiting = false,
                Poll::Ready(Ok(_)) if matches!(self.at, At::UntilEnd) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Poll::Ready(_) => return self.fail(Fault::Broken("it breaks off within its body")),
                Poll::Pending => {
                    let Some(silence) = self.silence else { return Poll::Pending };
                    // A visitor who reads slowly makes no app silent: the clock runs from here.
                    if !self.is_waiting {
                        self.is_waiting = true;
                        connection.wind(silence);
                    }
                    return if connection.is_over(cx) { self.fail(Fault::Timeout) } else { Poll::Pending };
                }
            }
        }
    }

    /// What the buffer holds: a piece, the end, or nothing yet.
    fn next(&mut self) -> Result<Step, Fault> {
        let Some(connection) = &mut self.connection else { return Ok(Step::End) };
        let read = &mut connection.read;
        let piece = match &mut self.at {
            At::End => return Ok(Step::End),
            At::Chunked(decoder) => {
                let step = decoder.step(read)?;
                if step == Step::End {
                    self.end();
                }
                return Ok(step);
            }
            At::Sized(_) | At::UntilEnd if read.is_empty() => return Ok(Step::NeedsMore),
            At::UntilEnd => read.split().freeze(),
            At::Sized(left) => {
                let take = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                *left -= take as u64;
                let piece = read.split_to(take).freeze();
                if *left == 0 {
                    self.end();
                }
                piece
            }
        };
        Ok(Step::Piece(piece))
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Bytes, Fault>>> {
        self.at = At::End;
        self.connection = None;
        self.upload = None;
        Poll::Ready(Some(Err(fault)))
    }

    fn end(&mut self) {
        self.at = At::End;
        self.part();
    }

    /// Gives the connection back, if both sides are through with it and the app said no more than it should.
    fn part(&mut self) {
        let (Some(connection), None) = (self.connection.take(), self.upload.take()) else { return };
        if let Some((pool, origin)) = self.home.take()
            && connection.read.is_empty()
            && connection.write.is_empty()
        {
            pool.give_back(&origin, connection);
        }
    }
}
