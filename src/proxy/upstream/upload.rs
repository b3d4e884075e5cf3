//! A request's body on its way to the app: framed afresh, counted, never held whole.

use std::future::{poll_fn, ready};
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use bytes::{BufMut as _, BytesMut};
use futures_util::{Stream as _, StreamExt as _, stream};

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
    pub fn new(payload: Payload, announced: Option<u64>, limit: u64) -> Result<Box<Self>, Fault> {
        if announced.is_some_and(|length| length > limit) {
            return Err(Fault::TooLarge);
        }
        let length = announced.map_or(Length::Chunked, Length::Known);
        Ok(Box::new(Self { payload, length, room: limit, is_read: false }))
    }

    /// As [`Self::new`] for HTTP/2, where no field need tell whether there is a body: the stream does (RFC 9113 8.1). `None` where it is over already.
    ///
    /// # Errors
    /// [`Fault::NotWhole`] for one that broke off.
    pub async fn of_stream(mut payload: Payload, limit: u64) -> Result<Option<Box<Self>>, Fault> {
        let first = poll_fn(|cx| {
            let polled = Pin::new(&mut payload).poll_next(cx);
            Poll::Ready(if let Poll::Ready(piece) = polled { Some(piece) } else { None })
        });
        let payload: Payload = match first.await {
            Some(None) => return Ok(None),
            Some(Some(Err(_))) => return Err(Fault::NotWhole),
            Some(Some(Ok(piece))) => {
                let whole = stream::once(ready(Ok(piece))).chain(payload);
                Payload::Stream { payload: Box::pin(whole) }
            }
            // Under way, or empty in the end: either may be sent in chunks.
            None => payload,
        };
        Self::new(payload, None, limit).map(Some)
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

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::error::PayloadError;
    use bytes::Bytes;

    fn payload(pieces: Vec<Result<Bytes, PayloadError>>) -> Payload {
        Payload::Stream { payload: Box::pin(stream::iter(pieces)) }
    }

    #[tokio::test]
    async fn what_only_its_stream_tells_of_is_a_body_unless_it_is_over() {
        let of = |pieces| Upload::of_stream(payload(pieces), 100);
        assert!(of(Vec::new()).await.unwrap().is_none());
        let broken = of(vec![Err(PayloadError::Incomplete(None))]).await;
        assert_eq!(broken.unwrap_err(), Fault::NotWhole);
        let mut upload = of(vec![Ok("ab".into()), Ok("c".into())]).await.unwrap().unwrap();
        assert_eq!(upload.length, Length::Chunked);
        let mut whole = Vec::new();
        while let Some(piece) = upload.payload.next().await {
            whole.extend(piece.unwrap());
        }
        assert_eq!(whole, b"abc", "nothing is lost by looking");
        let silent: Payload = Payload::Stream { payload: Box::pin(stream::pending()) };
        assert!(
            Upload::of_stream(silent, 100).await.unwrap().is_some(),
            "nobody waits for a first byte here"
        );
    }
}
