//! How much memory strangers' refusals may cost: a bounded number of audit rows per address and minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::address;

const ROWS_PER_MINUTE: u32 = 60;
const MINUTE_MS: i64 = 60_000;
/// Addresses remembered at once; beyond it all newcomers share one place.
const ADDRESSES_MAX: usize = 10_000;

/// How many refusals each address has had this minute.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, Count>>);

#[derive(Debug, Clone, Copy)]
struct Count {
    minute: i64,
    rows: u32,
}

impl Refusals {
    /// Whether a row may be written now, and a count of an earlier minute that is still to be written.
    pub fn admit(&self, address: &str, now_ms: i64) -> (bool, Option<(String, u32)>) {
        let minute = now_ms.div_euclid(MINUTE_MS);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = address::network(address);
        let address = network.as_str();
        let known = counts.contains_key(address);
        if !known && counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, count| count.minute == minute);
        }
        let name = if known || counts.len() < ADDRESSES_MAX { address } else { "many" };
        let count = counts.entry(name.to_owned()).or_insert(Count { minute, rows: 0 });
        let mut uncounted = None;
        if count.minute != minute {
            uncounted =
                count.rows.checked_sub(ROWS_PER_MINUTE).filter(|n| *n > 0).map(|n| (name.to_owned(), n));
            *count = Count { minute, rows: 0 };
        }
        count.rows = count.rows.saturating_add(1);
        (count.rows <= ROWS_PER_MINUTE, uncounted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lg_04_a_flood_leaves_sixty_rows_and_one_count_a_minute() {
        let refusals = Refusals::default();
        let written = (0..1000).filter(|_| refusals.admit("a", 0).0).count();
        assert_eq!(written, 60);
        assert_eq!(refusals.admit("a", MINUTE_MS), (true, Some(("a".to_owned(), 940))));
        assert_eq!(refusals.admit("a", MINUTE_MS), (true, None));
        assert_eq!(refusals.admit("b", 0), (true, None));
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let refusals = Refusals::default();
        for n in 0..30_000 {
            refusals.admit(&n.to_string(), 0);
        }
        assert!(refusals.0.lock().unwrap().len() <= ADDRESSES_MAX + 1);
    }
}
