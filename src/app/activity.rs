//! When sessions were last used, on its way to their rows: written in batches, a moment later. Until then the rows are read together with this.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More sessions than can become active between two batches; what comes beyond is noted with their next use.
const WAITING_MAX: usize = 1 << 17;

/// By session, Unix ms.
#[derive(Debug, Default)]
pub struct Activity(Mutex<HashMap<String, i64>>);

impl Activity {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, session_id: &str, at_ms: i64) {
        let mut waiting = self.waiting();
        if let Some(latest) = waiting.get_mut(session_id) {
            *latest = at_ms.max(*latest);
        } else if waiting.len() < WAITING_MAX {
            waiting.insert(session_id.to_owned(), at_ms);
        }
    }

    /// What the row does not say yet.
    #[must_use]
    pub fn latest(&self, session_id: &str) -> Option<i64> {
        self.waiting().get(session_id).copied()
    }

    /// Some that wait, in the order in which their rows are locked.
    #[must_use]
    pub fn batch(&self, max: usize) -> Vec<(String, i64)> {
        let mut batch: Vec<(String, i64)> =
            self.waiting().iter().take(max).map(|(id, at_ms)| (id.clone(), *at_ms)).collect();
        batch.sort_unstable();
        batch
    }

    /// These are written; what was noted meanwhile goes on waiting.
    pub fn written(&self, batch: &[(String, i64)]) {
        let mut waiting = self.waiting();
        for (id, at_ms) in batch {
            if waiting.get(id) == Some(at_ms) {
                waiting.remove(id);
            }
        }
        if waiting.is_empty() {
            waiting.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_while_a_batch_is_written_waits_for_the_next() {
        let activity = Activity::default();
        activity.note("b", 5);
        activity.note("a", 7);
        activity.note("a", 6);
        let batch = activity.batch(10);
        assert_eq!(batch, [("a".to_owned(), 7), ("b".to_owned(), 5)]);
        activity.note("b", 9);
        assert_eq!(
            (activity.latest("a"), activity.latest("b")),
            (Some(7), Some(9)),
            "not lost while it is written"
        );
        activity.written(&batch);
        assert_eq!((activity.latest("a"), activity.batch(10)), (None, vec![("b".to_owned(), 9)]));
    }

    #[test]
    fn no_number_of_sessions_fills_the_memory() {
        let activity = Activity::default();
        for n in 0..=WAITING_MAX {
            activity.note(&n.to_string(), 1);
        }
        assert_eq!(activity.batch(usize::MAX).len(), WAITING_MAX);
        activity.note("0", 2);
        assert_eq!(activity.latest("0"), Some(2), "who waits already is no more");
    }
}
