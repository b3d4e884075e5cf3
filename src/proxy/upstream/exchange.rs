//! One request over one connection, until the head of its answer is there. The body may still be under way then: apps answer early.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Fault;
use super::answer::{self, Answer, Expected};
use super::connection::Connection;
use super::upload::{Progress, Upload};

/// A visitor who sends nothing for so long is not waited for.
const VISITOR_PATIENCE: Duration = Duration::from_mins(1);

/// A request whose head waits in the connection's buffer.
#[derive(Debug)]
pub struct Exchange {
    pub connection: Box<Connection>,
    /// What the app has not taken yet.
    pub upload: Option<Box<Upload>>,
    expected: Expected,
    /// To the head of the answer, from when the last byte of the request moved.
    pub patience: Duration,
    is_sent: bool,
}

impl Exchange {
    #[must_use]
    pub fn new(
        connection: Box<Connection>,
        upload: Option<Box<Upload>>,
        expected: Expected,
        patience: Duration,
    ) -> Self {
        Self { connection, upload, expected, patience, is_sent: false }
    }

    /// Sends the request and waits, from now on, for the head of the answer. Dropped, it closes the connection.
    ///
    /// # Errors
    /// As [`Fault`].
    pub async fn run(&mut self, now: Instant) -> Result<Answer, Fault> {
        self.connection.wind_at(now, self.patience);
        let mut waits_for_visitor = false;
        poll_fn(|cx| self.poll(cx, &mut waits_for_visitor)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, waits_for_visitor: &mut bool) -> Poll<Result<Answer, Fault>> {
        let mut is_deaf = false;
        if let Some(upload) = &mut self.upload {
            let (progress, moved) = upload.poll(&mut self.connection, cx)?;
            let visitor_slow = progress == Progress::VisitorSlow;
            if moved || visitor_slow != *waits_for_visitor {
                *waits_for_visitor = visitor_slow;
                self.connection.wind(if visitor_slow { VISITOR_PATIENCE } else { self.patience });
            }
            match progress {
                Progress::Done => {
                    self.upload = None;
                    self.is_sent = true;
                }
                Progress::AppDeaf => is_deaf = true,
                Progress::VisitorSlow | Progress::AppSlow => {}
            }
        } else if !self.is_sent {
            match self.connection.poll_send(cx) {
                Poll::Ready(Ok(())) => self.is_sent = true,
                Poll::Ready(Err(_)) => is_deaf = true,
                Poll::Pending => {}
            }
        }
        match self.poll_answer(cx) {
            Poll::Pending if is_deaf => Poll::Ready(Err(self.silence())),
            Poll::Pending if self.connection.is_over(cx) => {
                Poll::Ready(Err(if *waits_for_visitor { Fault::TooSlow } else { Fault::Timeout }))
            }
            polled => polled,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Fault>> {
        loop {
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(self.silence())),
                Poll::Ready(Ok(_)) => match answer::parse(&mut self.connection.read, self.expected) {
                    Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Err(fault)),
                },
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The connection ended before an answer; not even its first byte came where the buffer is empty.
    fn silence(&self) -> Fault {
        if self.connection.read.is_empty() {
            Fault::Silent
        } else {
            Fault::Broken("it breaks off within its head")
        }
    }
}
