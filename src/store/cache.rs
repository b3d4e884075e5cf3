//! Sessions that were read a moment ago, so that the usual request asks no database; and the proof that none is believed too long.
//!
//! Every reading takes a [`Ticket`] before it asks the database. Whatever ends or changes a session or a user stamps the marks of both with a later
//! number ([`Marks`]), after its commit. An entry counts only while no mark of its session or user is younger than its ticket, which is judged at
//! each use: there is nothing to find and remove, so nothing can be overlooked, and who read the old row and was slow brings nothing back.
//! While the channel from the other processes is silent, no entry counts at all.

use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quick_cache::sync::{Cache as Map, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::{Note, Store};
use crate::domain::{Fact, Principal};

/// No entry is believed for longer, whatever was heard or not.
const LIFE_MAX_MS: i64 = 300_000;
/// Marks are shared by many: a mark that meets the wrong entry costs one read of a row, never a wrong answer.
const MARKS: usize = 1 << 15;
/// What an entry costs besides its own bytes: its key and place in the map (which grows by doubling), its proof, the count of its text's shares,
/// and five allocations' heads.
const OVERHEAD: u64 = 264;
/// For sizing what the map remembers of entries that it let go.
const ENTRY_GUESS: u64 = 512;

/// The moment in the order of all changes at which a reading began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A living session and its user as they were read, and since when and until when that may be believed. Times are Unix ms.
#[derive(Debug)]
pub struct Known {
    pub principal: Principal,
    ticket: Ticket,
    marks: [u32; 2],
    read_at_ms: i64,
    /// Then the row must be asked: the session's overall limit, its tokens' renewal, or the entry's own age.
    until_ms: i64,
    active_at_ms: AtomicI64,
    proof: OnceLock<Box<[u8]>>,
}

/// What limits a session in time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub now_ms: i64,
    pub last_active_at_ms: i64,
    /// From then on only the row can tell.
    pub until_ms: i64,
}

impl Known {
    /// Whether its times still allow it; a clock that was turned back does not.
    #[must_use]
    pub fn is_in_time(&self, now_ms: i64, idle_ms: i64) -> bool {
        self.read_at_ms <= now_ms
            && now_ms < self.until_ms
            && now_ms < self.active_at_ms.load(Ordering::Relaxed).saturating_add(idle_ms)
    }

    /// Whether this very proof was accepted before.
    #[must_use]
    pub fn is_proven_by(&self, proof: &[u8]) -> bool {
        self.proof.get().is_some_and(|accepted| verify_slices_are_equal(accepted, proof).is_ok())
    }

    /// Notes a proof that was accepted; the first one stays.
    pub fn prove(&self, proof: &[u8]) {
        self.proof.get_or_init(|| proof.into());
    }

    /// Moves the last activity on; `true` for one caller in each `step_ms`, who tells the row.
    pub fn note_activity(&self, now_ms: i64, step_ms: i64) -> bool {
        let before = self.active_at_ms.load(Ordering::Relaxed);
        now_ms.saturating_sub(before) >= step_ms
            && self
                .active_at_ms
                .compare_exchange(before, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// What a look into the cache brought.
#[derive(Debug)]
pub enum Recalled {
    Known(Arc<Known>),
    /// Nothing, or nothing that counts.
    Unknown,
    /// Nothing may be believed now.
    Bypassed,
}

#[derive(Clone, PartialEq, Eq)]
struct Key([u8; 32]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A part of a SHA-256 is as good as all of it.
        state.write_u64(self.0.first_chunk().copied().map_or(0, u64::from_le_bytes));
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Known>> for Bytes {
    fn weight(&self, _: &Key, known: &Arc<Known>) -> u64 {
        u64::try_from(size_of::<Known>() + known.principal.heap_size()).unwrap_or(u64::MAX) + OVERHEAD
    }
}

/// When what changed last, by a count of all changes that this process heard of.
pub(super) struct Marks {
    changes: AtomicU64,
    /// A change that may have been missed concerns everything.
    all: AtomicU64,
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            changes: AtomicU64::new(0),
            all: AtomicU64::new(0),
            slots: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Marks {
    /// To be taken before the database is asked.
    fn ticket(&self) -> Ticket {
        Ticket(self.changes.load(Ordering::SeqCst))
    }

    fn mark_of(&self, kind: u8, id: &str) -> u32 {
        let at = self.hasher.hash_one((kind, id)) % u64::try_from(MARKS).unwrap_or(u64::MAX);
        u32::try_from(at).unwrap_or_default()
    }

    fn of_session(&self, id: &str) -> u32 {
        self.mark_of(0, id)
    }

    fn of_user(&self, id: &str) -> u32 {
        self.mark_of(1, id)
    }

    fn at(&self, mark: u32) -> Option<&AtomicU64> {
        self.slots.get(usize::try_from(mark).ok()?)
    }

    /// The number is taken after the commit that it speaks of: whoever holds it or a later one reads what was committed.
    fn next(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn stamp(&self, note: &Note) {
        let mark = match note {
            Note::Ended(id) | Note::Changed(id) => self.of_session(id),
            Note::User(id) => self.of_user(id),
        };
        let now = self.next();
        if let Some(mark) = self.at(mark) {
            mark.fetch_max(now, Ordering::SeqCst);
        }
    }

    fn stamp_all(&self) {
        let now = self.next();
        self.all.fetch_max(now, Ordering::SeqCst);
    }

    fn counts(&self, ticket: Ticket, marks: [u32; 2]) -> bool {
        let is_older = |mark: &AtomicU64| mark.load(Ordering::SeqCst) <= ticket.0;
        is_older(&self.all) && marks.iter().all(|mark| self.at(*mark).is_some_and(is_older))
    }
}

/// What this process remembers of sessions.
pub(super) struct Cache {
    marks: Marks,
    map: Map<Key, Arc<Known>, Bytes>,
}

impl Cache {
    fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / ENTRY_GUESS).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        // Each name that is remembered of what was let go takes a place in the map.
        options.estimated_items_capacity(items).weight_capacity(bytes).ghost_allocation(0.1);
        let map = match options.build() {
            Ok(options) => {
                Map::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
            }
            Err(_) => Map::with_weighter(items, bytes, Bytes),
        };
        Self { marks: Marks::default(), map }
    }

    pub(super) fn hear(&self, notes: &[Note]) {
        for note in notes {
            self.marks.stamp(note);
        }
    }

    pub(super) fn doubt_all(&self) {
        self.marks.stamp_all();
    }

    fn counts(&self, known: &Known) -> bool {
        self.marks.counts(known.ticket, known.marks)
    }

    fn recall(&self, key_hash: &[u8; 32]) -> Option<Arc<Known>> {
        let known = self.map.get(&Key(*key_hash))?;
        self.counts(&known).then_some(known)
    }

    fn know(&self, key_hash: [u8; 32], ticket: Ticket, principal: Principal, limits: Limits) -> Arc<Known> {
        let marks = [
            self.marks.of_session(&principal.plain(Fact::Session)),
            self.marks.of_user(&principal.plain(Fact::UserId)),
        ];
        let known = Arc::new(Known::new(principal, ticket, marks, limits));
        // Not needed for the truth, only for room: what does not count is not kept.
        if self.counts(&known) && limits.now_ms < known.until_ms {
            self.map.insert(Key(key_hash), Arc::clone(&known));
        }
        known
    }

    /// Lets go of everything that does not count any more; facts of people who left are not kept for nothing.
    fn sweep(&self, now_ms: i64) {
        self.map
            .retain(|_, known| known.read_at_ms <= now_ms && now_ms < known.until_ms && self.counts(known));
    }
}

impl Known {
    fn new(principal: Principal, ticket: Ticket, marks: [u32; 2], limits: Limits) -> Self {
        Self {
            principal,
            ticket,
            marks,
            read_at_ms: limits.now_ms,
            until_ms: limits.until_ms.min(limits.now_ms.saturating_add(LIFE_MAX_MS)),
            active_at_ms: AtomicI64::new(limits.last_active_at_ms),
            proof: OnceLock::new(),
        }
    }
}

impl Store {
    /// Remembers sessions from now on, in this much memory. A process that does not [`Store::listen`] believes none of them all the same.
    pub fn remember(&self, bytes: u64) {
        self.board.cache.get_or_init(|| Cache::new(bytes)).map.set_capacity(bytes);
    }

    /// What is remembered of the session with this key.
    #[must_use]
    pub fn recall(&self, key_hash: &[u8; 32]) -> Recalled {
        match self.board.cache.get() {
            Some(cache) if self.is_channel_healthy() => {
                cache.recall(key_hash).map_or(Recalled::Unknown, Recalled::Known)
            }
            _ => Recalled::Bypassed,
        }
    }

    /// To be taken before the rows are read that [`Store::know`] is given.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.board.cache.get().map_or(Ticket(0), |cache| cache.marks.ticket())
    }

    /// Remembers a session whose rows were read after taking the ticket, unless something was said of it since.
    #[must_use]
    pub fn know(
        &self,
        key_hash: [u8; 32],
        ticket: Ticket,
        principal: Principal,
        limits: Limits,
    ) -> Arc<Known> {
        match self.board.cache.get() {
            Some(cache) => cache.know(key_hash, ticket, principal, limits),
            None => Arc::new(Known::new(principal, ticket, [0; 2], limits)),
        }
    }

    /// Believes nothing that was remembered until now: what it was made by is new.
    pub fn doubt_all(&self) {
        if let Some(cache) = self.board.cache.get() {
            cache.doubt_all();
        }
    }

    /// Frees what does not count any more.
    pub fn sweep_known(&self, now_ms: i64) {
        if let Some(cache) = self.board.cache.get() {
            cache.sweep(now_ms);
        }
    }

    /// How many sessions are remembered, and in how many bytes.
    #[must_use]
    pub fn known(&self) -> (usize, u64) {
        self.board.cache.get().map_or((0, 0), |cache| (cache.map.len(), cache.map.weight()))
    }
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;
