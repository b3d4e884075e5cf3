//! What changed, told to whoever remembers it: to this process at once, to every other one by the database.
//!
//! A write notes whom it concerns; the commit carries the notes ([`super::Writer::note`]). PostgreSQL sends them by NOTIFY, SQLite
//! keeps them in a small ring that other processes on the file poll. A channel that is silent for a second is not [`Store::is_channel_healthy`]:
//! whoever remembers rows must not trust them then, and look again after [`Notice::Lost`].

mod listen;
mod poll;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::cache::Cache;
use super::{Pools, Store, StoreError, Writer};

/// Silence after which the channel is not trusted (security.md SE-05).
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// After a failure; short, because everything is slower until the channel is back.
const RETRY: Duration = Duration::from_millis(100);
/// What a subscriber may be behind before it has to look at everything again.
const BEHIND_MAX: usize = 4096;
/// PostgreSQL takes 8,000 bytes at most; a note is far shorter.
const BODY_MAX: usize = 7_000;

/// Whom a write concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// This session is over.
    #[serde(rename = "e")]
    Ended(String),
    /// This session's row says something new: other tokens, another generation, a proof that is due.
    #[serde(rename = "c")]
    Changed(String),
    /// What is known of this user is new.
    #[serde(rename = "u")]
    User(String),
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Of(Note),
    /// Some may have been missed: whatever is remembered may be old.
    Lost,
}

/// What is happening, from the moment of asking for it.
#[derive(Debug)]
pub struct Notices(broadcast::Receiver<Notice>);

impl Notices {
    /// The next notice; never ends while the store is there.
    pub async fn next(&mut self) -> Notice {
        match self.0.recv().await {
            Ok(notice) => notice,
            Err(broadcast::error::RecvError::Lagged(_)) => Notice::Lost,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// One message between processes.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    /// Who sent it.
    node: String,
    notes: Vec<Note>,
    /// A node's sign to itself that the channel carries: the [`Board::moment`] at which it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beat: Option<u64>,
}

/// Where the processes of one database leave word.
pub(super) struct Board {
    here: broadcast::Sender<Notice>,
    /// Set by the process that listens; a command that only writes has no name and needs none.
    node: OnceLock<String>,
    began: Instant,
    /// When that was sent which the channel last proved to carry, ms since `began`, plus 1; 0 = never.
    heard: AtomicU64,
    /// Hears everything first, before whoever waits for a notice.
    pub(super) cache: OnceLock<Cache>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            here: broadcast::Sender::new(BEHIND_MAX),
            node: OnceLock::new(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            cache: OnceLock::new(),
        }
    }
}

impl Board {
    fn node(&self) -> String {
        self.node.get().cloned().unwrap_or_default()
    }

    /// Leaves word for the other processes, in the transaction that it speaks of.
    pub(super) async fn post(&self, w: &mut Writer, notes: &[Note]) -> Result<(), StoreError> {
        for body in self.bodies(notes) {
            match w.under_way {
                super::Writing::Sqlite(_) => poll::post(w, &body).await?,
                super::Writing::Postgres(..) => listen::post(w, &body).await?,
            }
        }
        Ok(())
    }

    /// The notes as messages, each short enough to be sent.
    fn bodies(&self, notes: &[Note]) -> Vec<String> {
        let mut pages: Vec<Vec<Note>> = Vec::new();
        let mut length = BODY_MAX;
        for note in notes {
            // A character takes six bytes at worst (`\u0000`).
            let (Note::Ended(id) | Note::Changed(id) | Note::User(id)) = note;
            let size = 6 * id.len() + 16;
            if length + size > BODY_MAX {
                pages.push(Vec::new());
                length = 0;
            }
            length += size;
            if let Some(page) = pages.last_mut() {
                page.push(note.clone());
            }
        }
        let body = |notes| serde_json::to_string(&Body { node: self.node(), notes, beat: None });
        pages.into_iter().filter_map(|notes| body(notes).ok()).collect()
    }

    /// Tells this process.
    pub(super) fn tell(&self, notes: Vec<Note>) {
        self.doubt(&notes);
        for note in notes {
            // Nobody listens: nobody remembers anything.
            let _ = self.here.send(Notice::Of(note));
        }
    }

    fn doubt(&self, notes: &[Note]) {
        if let Some(cache) = self.cache.get() {
            cache.hear(notes);
        }
    }

    fn lost(&self) {
        if let Some(cache) = self.cache.get() {
            cache.doubt_all();
        }
        let _ = self.here.send(Notice::Lost);
    }

    /// Passes on what became true: another process's word, and our own once more. Whoever asked for that may have gone away in the
    /// middle of the commit, so that nobody was told; or it was told before it came true.
    fn heard(&self, body: &Body) {
        let mut notes = body.notes.clone();
        if !body.node.is_empty() && body.node == self.node() {
            self.doubt(&notes);
            // An end is no news the second time and a change costs a look, but a tab would hear twice of its user.
            notes.retain(|note| !matches!(note, Note::User(_)));
        }
        self.tell(notes);
    }

    /// Now, as [`Board::proven`] wants it.
    fn moment(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// The channel has shown that it carried what was sent at that moment, and so all that was sent before.
    fn proven(&self, moment: u64) {
        self.heard.store(moment, Ordering::Release);
    }

    fn is_healthy(&self) -> bool {
        let Some(heard) = self.heard.load(Ordering::Acquire).checked_sub(1) else { return false };
        // Judged by the clock and not by the listening task, which may itself be stuck on a frozen server.
        self.began.elapsed().saturating_sub(Duration::from_millis(heard)) < SILENCE_MAX
    }

    /// Nothing that was remembered until now counts.
    fn broken(&self) {
        self.heard.store(0, Ordering::Release);
    }
}

impl Store {
    /// Everything that ends or changes from now on, here and in other processes; the latter while [`Store::listen`] runs.
    #[must_use]
    pub fn notices(&self) -> Notices {
        Notices(self.board.here.subscribe())
    }

    /// Whether notices of other processes come through; when not, no remembered row may be believed.
    #[must_use]
    pub fn is_channel_healthy(&self) -> bool {
        self.board.is_healthy()
    }

    /// Listens to the other processes for as long as it is polled, through every outage of the database. `node` is this process's
    /// name among them: random, made once.
    pub async fn listen(&self, node: &str) {
        let _ = self.board.node.set(node.to_owned());
        let mut was_told = false;
        loop {
            let fault = match &self.pools {
                Pools::Sqlite { readers, .. } => poll::run(&self.board, readers).await,
                Pools::Postgres(pool) => listen::run(&self.board, pool).await,
            };
            if self.board.heard.load(Ordering::Acquire) != 0 {
                was_told = false;
            }
            self.board.broken();
            if !was_told {
                tracing::warn!(%fault, "notices of other processes do not come through; listening again");
                was_told = true;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_notes_travel_in_several_messages_that_are_each_short_enough() {
        let board = Board::default();
        let notes: Vec<Note> =
            (0..2_000).map(|n| Note::Ended(format!("session-{n}-{}", "\u{1}".repeat(100)))).collect();
        let bodies = board.bodies(&notes);
        assert!(bodies.len() > 1 && bodies.iter().all(|body| body.len() < 8_000));
        let read: Vec<Note> =
            bodies.iter().flat_map(|body| serde_json::from_str::<Body>(body).unwrap().notes).collect();
        assert_eq!(read, notes);
        assert!(board.bodies(&[]).is_empty());
    }

    #[test]
    fn se_05_a_channel_that_never_spoke_is_not_healthy() {
        let board = Board::default();
        assert!(!board.is_healthy());
        board.proven(board.moment());
        assert!(board.is_healthy());
        board.broken();
        assert!(!board.is_healthy());
    }

    #[test]
    fn se_05_a_channel_is_trusted_for_a_second_from_when_its_last_word_was_sent() {
        let mut board = Board::default();
        let sent = board.moment();
        board.began = board.began.checked_sub(Duration::from_millis(900)).unwrap();
        let later = board.moment();
        board.proven(sent);
        assert!(board.is_healthy());
        board.began = board.began.checked_sub(Duration::from_millis(100)).unwrap();
        assert!(!board.is_healthy(), "heard just now, but sent a second ago");
        board.proven(later);
        assert!(board.is_healthy());
    }

    #[tokio::test]
    async fn px_17_an_end_whose_requester_went_away_in_mid_commit_is_told_here_all_the_same() {
        let board = Board::default();
        let _ = board.node.set("here".to_owned());
        let mut notices = Notices(board.here.subscribe());
        let ended = Note::Ended("s1".to_owned());
        // The transaction came true, and the channel says so; nobody was there any more to tell of it.
        for body in board.bodies(&[Note::User("ada".to_owned()), ended.clone()]) {
            board.heard(&serde_json::from_str(&body).unwrap());
        }
        assert_eq!(notices.next().await, Notice::Of(ended), "and the user's news is not told twice");
    }

    #[tokio::test]
    async fn who_is_too_far_behind_hears_that_something_was_lost() {
        let board = Board::default();
        let mut notices = Notices(board.here.subscribe());
        board.tell((0..=BEHIND_MAX).map(|n| Note::Ended(n.to_string())).collect());
        assert_eq!(notices.next().await, Notice::Lost);
        assert_eq!(notices.next().await, Notice::Of(Note::Ended("1".to_owned())));
    }
}
