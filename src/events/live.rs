//! The open event streams of signed-in people, found by session and by user.
//!
//! What a stream has yet to say is three bits and no queue: a slow reader costs no memory, and of many changes it hears once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::store::{Note, Notice};

/// A browser opens six connections to one origin over HTTP/1.1; a few such windows fit, an endless loop of a broken script does not.
pub const PER_SESSION_MAX: usize = 16;
/// Each holds a socket; half of what a process may commonly have (`ulimit -n` 8192) stays for everything else.
pub const IN_ALL_MAX: usize = 4096;

const ENDED: u8 = 1;
const USER_UPDATED: u8 = 2;
const LOOK_AGAIN: u8 = 4;
const CLOSED: u8 = 8;

/// What a stream has to do next; in this order, where several are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The house closes.
    Closed,
    /// The session is over, and so is the stream.
    SessionEnded,
    /// Notices may have been missed, or the row says something new: only the session's row can tell.
    LookAgain,
    UserUpdated,
}

/// Why nobody may listen any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Session,
    House,
}

struct Ear {
    number: u64,
    due: AtomicU8,
    woken: Notify,
    /// A tab that counts towards the limits above.
    is_counted: bool,
}

impl Ear {
    fn tell(&self, bit: u8) {
        self.due.fetch_or(bit, Ordering::AcqRel);
        self.woken.notify_one();
    }

    fn take(&self) -> Option<Event> {
        let due = self.due.load(Ordering::Acquire);
        let (bit, event) = match due {
            0 => return None,
            _ if due & CLOSED != 0 => return Some(Event::Closed),
            _ if due & ENDED != 0 => return Some(Event::SessionEnded),
            _ if due & LOOK_AGAIN != 0 => (LOOK_AGAIN, Event::LookAgain),
            _ => (USER_UPDATED, Event::UserUpdated),
        };
        self.due.fetch_and(!bit, Ordering::AcqRel);
        Some(event)
    }
}

/// By their numbers: ten thousand sockets of one person end together, and each has to be found.
type Ears = BTreeMap<u64, Arc<Ear>>;

#[derive(Default)]
struct Open {
    by_session: HashMap<String, Ears>,
    by_user: HashMap<String, Ears>,
    /// What the last ear was given.
    number: u64,
    count: usize,
    is_closed: bool,
}

impl Open {
    fn add(&mut self, session_id: &str, user_id: &str, is_counted: bool) -> Arc<Ear> {
        self.number += 1;
        self.count += usize::from(is_counted);
        let ear =
            Arc::new(Ear { number: self.number, due: AtomicU8::new(0), woken: Notify::new(), is_counted });
        self.by_session.entry(session_id.to_owned()).or_default().insert(ear.number, Arc::clone(&ear));
        self.by_user.entry(user_id.to_owned()).or_default().insert(ear.number, Arc::clone(&ear));
        ear
    }
}

/// All open streams of this process. A clone is the same.
#[derive(Clone, Default)]
pub struct Live(Arc<Mutex<Open>>);

impl Live {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more stream of this session.
    ///
    /// # Errors
    /// [`Full`] at the limits above, and while the house closes.
    pub fn listen(&self, session_id: &str, user_id: &str) -> Result<Listening, Full> {
        let mut open = self.open();
        if open.is_closed || open.count >= IN_ALL_MAX {
            return Err(Full::House);
        }
        let of_session = open.by_session.get(session_id).into_iter().flat_map(Ears::values);
        if of_session.filter(|ear| ear.is_counted).count() >= PER_SESSION_MAX {
            return Err(Full::Session);
        }
        let ear = open.add(session_id, user_id, true);
        Ok(Listening {
            ear,
            live: self.clone(),
            session_id: session_id.to_owned(),
            user_id: user_id.to_owned(),
        })
    }

    /// One more that wants to hear of this session; bounded by whoever asks, and not counted here. `None` while the house closes.
    #[must_use]
    pub fn attend(&self, session_id: &str, user_id: &str) -> Option<Listening> {
        let mut open = self.open();
        if open.is_closed {
            return None;
        }
        let ear = open.add(session_id, user_id, false);
        let (session_id, user_id) = (session_id.to_owned(), user_id.to_owned());
        Some(Listening { ear, live: self.clone(), session_id, user_id })
    }

    /// How many streams are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open().count
    }

    /// Passes a notice on to whom it concerns; whether it is that something may have been missed.
    #[must_use]
    pub fn hear(&self, notice: &Notice) -> bool {
        let open = self.open();
        let tell = |ears: Option<&Ears>, bit| {
            ears.into_iter().flat_map(Ears::values).for_each(|ear| ear.tell(bit));
        };
        match notice {
            Notice::Of(Note::Ended(id)) => tell(open.by_session.get(id), ENDED),
            // New tokens are nothing that a tab would notice; a proof that is due concerns whoever attends.
            Notice::Of(Note::Changed(id)) => {
                let ears = open.by_session.get(id).into_iter().flat_map(Ears::values);
                ears.filter(|ear| !ear.is_counted).for_each(|ear| ear.tell(LOOK_AGAIN));
            }
            Notice::Of(Note::User(id)) => tell(open.by_user.get(id), USER_UPDATED),
            Notice::Lost => open.by_session.values().for_each(|ears| tell(Some(ears), LOOK_AGAIN)),
        }
        *notice == Notice::Lost
    }

    /// Ends every stream and takes no new one: a stop does not wait for people who only listen.
    pub fn close(&self) {
        let mut open = self.open();
        open.is_closed = true;
        open.by_session.values().flat_map(Ears::values).for_each(|ear| ear.tell(CLOSED));
    }

    fn leave(&self, listening: &Listening) {
        let mut open = self.open();
        let open = &mut *open;
        remove(&mut open.by_session, &listening.session_id, &listening.ear);
        remove(&mut open.by_user, &listening.user_id, &listening.ear);
        open.count = open.count.saturating_sub(usize::from(listening.ear.is_counted));
    }
}

fn remove(from: &mut HashMap<String, Ears>, name: &str, ear: &Ear) {
    if let Some(ears) = from.get_mut(name) {
        ears.remove(&ear.number);
        if ears.is_empty() {
            from.remove(name);
        }
    }
}

/// One open stream; it leaves when dropped.
pub struct Listening {
    ear: Arc<Ear>,
    live: Live,
    session_id: String,
    user_id: String,
}

impl Listening {
    /// What is due, as soon as something is. May be given up and asked again.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ear.take() {
                return event;
            }
            self.ear.woken.notified().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.live.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_stream_hears_of_its_own_session_and_user_alone() {
        let live = Live::default();
        let mut one = live.listen("s1", "ada").unwrap();
        let mut two = live.listen("s2", "ada").unwrap();
        let mut other = live.listen("s3", "bob").unwrap();
        assert!(!live.hear(&Notice::Of(Note::User("ada".into()))));
        assert!(!live.hear(&Notice::Of(Note::Ended("s2".into()))));
        assert_eq!(one.next().await, Event::UserUpdated);
        assert_eq!(two.next().await, Event::SessionEnded, "the end goes before the news");
        assert!(live.hear(&Notice::Lost));
        assert_eq!(other.next().await, Event::LookAgain);
        assert_eq!(one.next().await, Event::LookAgain);
        assert!(other.ear.take().is_none());
        live.close();
        assert_eq!(other.next().await, Event::Closed);
        assert!(matches!(live.listen("s1", "ada"), Err(Full::House)));
        drop((one, two, other));
        assert_eq!(live.count(), 0);
        assert!(live.open().by_user.is_empty() && live.open().by_session.is_empty());
    }

    #[tokio::test]
    async fn px_17_a_proof_that_is_due_is_told_to_whoever_attends_the_session_and_to_no_tab() {
        let live = Live::default();
        let tab = live.listen("s1", "ada").unwrap();
        let mut socket = live.attend("s1", "ada").unwrap();
        let other = live.attend("s2", "ada").unwrap();
        assert!(!live.hear(&Notice::Of(Note::Changed("s1".into()))));
        assert_eq!(socket.next().await, Event::LookAgain);
        assert!(tab.ear.take().is_none() && other.ear.take().is_none());
    }

    #[test]
    fn a_session_has_a_bounded_number_of_streams() {
        let live = Live::default();
        let mut held: Vec<Listening> = (0..PER_SESSION_MAX).map(|_| live.listen("s", "u").unwrap()).collect();
        assert!(matches!(live.listen("s", "u"), Err(Full::Session)));
        held.pop();
        held.push(live.listen("s", "u").unwrap());
        for n in PER_SESSION_MAX..IN_ALL_MAX {
            held.push(live.listen(&n.to_string(), "u").unwrap());
        }
        assert!(matches!(live.listen("another", "v"), Err(Full::House)));
    }
}
