//! Where lines wait for the log's own thread: bounded, and nobody waits to put one in.
//!
//! The thread sleeps on a condition variable, and lets a few lines come together before it writes them at once. A channel that first spins
//! and yields, or a thread woken for each line, would take the processor from the very requests that the lines tell of.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The longest that the last lines may hold up the end of the process.
const FLUSH: Duration = Duration::from_millis(1_100);

/// What is written at once: a sink that refuses it loses no more lines than these.
const PIECE: usize = 64 * 1024;
/// Room that is kept for the next lines; what a burst took beyond it is given back.
const KEPT: usize = PIECE;

/// How long the first line of a batch waits for others: less than anybody reading along would notice.
const GATHER: Duration = Duration::from_millis(20);

/// The entrance; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something happened that the log's thread waits for.
    work: Condvar,
    /// The log's thread has written all that it will.
    done: Condvar,
    lines_max: usize,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines, one after the other.
    waiting: Vec<u8>,
    lines: usize,
    is_asleep: bool,
    is_closing: bool,
    is_done: bool,
}

/// Dropped at the very end, it waits until the last lines are written, in bounded time.
#[derive(Debug)]
pub(super) struct QueueGuard(Arc<Shared>);

/// Starts the log's thread.
///
/// # Errors
/// When the system makes no thread.
pub(super) fn open(sink: impl Write + Send + 'static, lines_max: usize) -> io::Result<(Queue, QueueGuard)> {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        work: Condvar::new(),
        done: Condvar::new(),
        lines_max,
        dropped: AtomicU64::new(0),
    });
    let theirs = Arc::clone(&shared);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || theirs.write_to(sink))?;
    Ok((Queue(Arc::clone(&shared)), QueueGuard(shared)))
}

impl Queue {
    /// Lines that found the queue full, or came after its end.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut sink: impl Write) {
        let mut state = self.lock();
        let mut batch: Vec<u8> = Vec::new();
        loop {
            if state.lines > 0 {
                std::mem::swap(&mut batch, &mut state.waiting);
                state.lines = 0;
                drop(state);
                for piece in pieces(&batch) {
                    // The sink counts what it refuses.
                    let _ = sink.write_all(piece);
                }
                batch.clear();
                batch.shrink_to(KEPT);
                state = self.lock();
            } else if state.is_closing {
                break;
            } else {
                state.is_asleep = true;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.is_asleep = false;
                let gathered = self.work.wait_timeout_while(state, GATHER, |state| !state.is_closing);
                state = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        drop(state);
        let _ = sink.flush();
        self.lock().is_done = true;
        self.done.notify_all();
    }
}

/// Whole lines, some at a time.
fn pieces(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let far = rest.get(PIECE..).and_then(|far| memchr::memchr(b'\n', far));
        let (piece, behind) = rest.split_at_checked(far.map_or(rest.len(), |at| PIECE + at + 1))?;
        rest = behind;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.is_closing || state.lines >= self.0.lines_max {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        state.waiting.extend_from_slice(line);
        state.lines += 1;
        // Once for a sleeper: it takes everything that came meanwhile.
        let wake = std::mem::take(&mut state.is_asleep);
        drop(state);
        if wake {
            self.0.work.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closing = true;
        self.0.work.notify_one();
        let waited = self.0.done.wait_timeout_while(state, FLUSH, |state| !state.is_done);
        drop(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_in_pieces_that_end_with_a_line() {
        let lines = "a line of thirty signs or so..\n".repeat(10_000);
        let all: Vec<&[u8]> = pieces(lines.as_bytes()).collect();
        assert!(all.len() > 4, "{}", all.len());
        assert!(all.iter().all(|piece| piece.len() <= PIECE + 31 && piece.ends_with(b"\n")));
        assert_eq!(all.concat(), lines.as_bytes());
        assert_eq!(pieces(b"").count(), 0);
        assert_eq!(pieces(b"one").collect::<Vec<_>>(), [b"one"]);
    }
}
