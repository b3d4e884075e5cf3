//! A request's body on its way to the app: framed afresh, counted, never held whole.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use bytes::{BufMut as _, BytesMut};
use futures_util::Stream as _;

use super::Fault;
use super::connection::Connection;

/// What is gathered before it is sent; beyond it the visitor waits for the app (back-pressure).
const GATHER: usize = 32 * 1024;

/// What is left of a request's body.
pub struct Upload {
    payload: Payload,
    length: Length,
    /// How much more the route takes.
    room: u64,
    is_read: bool,
}

/// How the body is framed towards the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// This much is still to come.
    Known(u64),
    Chunked,
}

/// How far an upload came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// The visitor has sent nothing new.
    VisitorSlow,
    /// The app takes nothing at the moment.
    AppSlow,
    /// The app has closed its side; its answer may be there all the same.
    AppDeaf,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Upload {
    /// A body of a known length, or of one that only its end tells; at most `limit` bytes.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] for one that announces more.
    pub fn new(payload: Payload, announced: Option<u64>, limit: u64) -> Result<Self, Fault> {
        if announced.is_some_and(|length| length > limit) {
            return Err(Fault::TooLarge);
        }
        let length = announced.map_or(Length::Chunked, Length::Known);
        Ok(Self { payload, length, room: limit, is_read: false })
    }

    /// The field that frames the body.
    pub fn write_framing(&self, out: &mut BytesMut) {
        match self.length {
            Length::Known(length) => {
                let _ = write!(out.writer(), "content-length: {length}\r\n");
            }
            Length::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        }
    }

    /// Sends on what came. Returns how far it got, and whether anything moved.
    ///
    /// # Errors
    /// The visitor's: too much, or not whole.
    pub fn poll(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Result<(Progress, bool), Fault> {
        let mut moved = false;
        loop {
            let mut visitor_slow = false;
            while !self.is_read && connection.write.len() < GATHER {
                match Pin::new(&mut self.payload).poll_next(cx) {
                    Poll::Ready(Some(Ok(piece))) => {
                        moved = true;
                        self.frame(&piece, &mut connection.write)?;
                    }
                    Poll::Ready(None) => self.end(&mut connection.write)?,
                    Poll::Ready(Some(Err(_))) => return Err(Fault::NotWhole),
                    Poll::Pending => {
                        visitor_slow = true;
                        break;
                    }
                }
            }
            let waiting = connection.write.len();
            match connection.poll_send(cx) {
                Poll::Ready(Ok(())) if self.is_read => return Ok((Progress::Done, true)),
                Poll::Ready(Ok(())) if visitor_slow => return Ok((Progress::VisitorSlow, moved)),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Ok((Progress::AppDeaf, moved)),
                Poll::Pending => return Ok((Progress::AppSlow, moved || connection.write.len() < waiting)),
            }
        }
    }

    fn frame(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let size = piece.len() as u64;
        self.room = self.room.checked_sub(size).ok_or(Fault::TooLarge)?;
        match &mut self.length {
            Length::Known(left) => {
                *left = left.checked_sub(size).ok_or(Fault::NotWhole)?;
                out.put_slice(piece);
            }
            // An empty chunk would be the last one.
            Length::Chunked if piece.is_empty() => {}
            Length::Chunked => {
                let _ = write!(out.writer(), "{size:x}\r\n");
                out.put_slice(piece);
                out.put_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        self.is_read = true;
        match self.length {
            Length::Known(0) => Ok(()),
            Length::Known(_) => Err(Fault::NotWhole),
            Length::Chunked => {
                out.put_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }
}
