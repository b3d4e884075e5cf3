//! How often somebody did something in the present window of time, in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::address::network;

/// Addresses remembered at once; beyond it all newcomers share one place.
const ADDRESSES_MAX: usize = 10_000;

/// Counts by address; an IPv6 address counts as its /64.
#[derive(Debug, Default)]
pub struct Tally(Mutex<HashMap<String, (i64, u32)>>);

impl Tally {
    /// How many there are in this window so far, and for how many ms it goes on.
    pub fn so_far(&self, address: &str, window_ms: i64, now_ms: i64) -> (u32, i64) {
        let window_ms = window_ms.max(1);
        let window = now_ms.div_euclid(window_ms);
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A newcomer to a full list is counted where all newcomers are.
        let is_full = counts.len() >= ADDRESSES_MAX;
        let found = counts.get(&network(address)).or_else(|| counts.get("many").filter(|_| is_full));
        let count = found.filter(|(of, _)| *of == window).map_or(0, |(_, count)| *count);
        (count, window_ms - now_ms.rem_euclid(window_ms))
    }

    /// Counts one more and returns how many there are in this window now, and for how many ms it goes on.
    pub fn count(&self, address: &str, window_ms: i64, now_ms: i64) -> (u32, i64) {
        let window_ms = window_ms.max(1);
        let window = now_ms.div_euclid(window_ms);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = network(address);
        if !counts.contains_key(&name) && counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, (of, _)| *of == window);
            if counts.len() >= ADDRESSES_MAX {
                "many".clone_into(&mut name);
            }
        }
        let (of, count) = counts.entry(name).or_insert((window, 0));
        if *of != window {
            (*of, *count) = (window, 0);
        }
        *count = count.saturating_add(1);
        (*count, window_ms - now_ms.rem_euclid(window_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_is_counted_by_itself_and_anew_in_each_window() {
        let tally = Tally::default();
        assert_eq!(tally.count("192.0.2.1", 1_000, 100), (1, 900));
        assert_eq!(tally.count("192.0.2.1", 1_000, 900), (2, 100));
        assert_eq!(tally.so_far("192.0.2.1", 1_000, 901), (2, 99));
        assert_eq!(
            (tally.so_far("192.0.2.1", 1_000, 1_000).0, tally.so_far("192.0.2.3", 1_000, 900).0),
            (0, 0)
        );
        assert_eq!(tally.count("192.0.2.2", 1_000, 900).0, 1);
        assert_eq!(tally.count("192.0.2.1", 1_000, 1_000).0, 1);
        assert_eq!(tally.count("2001:db8::1", 1_000, 0).0, 1);
        assert_eq!(tally.count("2001:db8::2", 1_000, 0).0, 2);
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let tally = Tally::default();
        for n in 0..30_000 {
            tally.count(&n.to_string(), 1_000, 0);
        }
        assert!(tally.0.lock().unwrap().len() <= ADDRESSES_MAX + 1);
    }
}
