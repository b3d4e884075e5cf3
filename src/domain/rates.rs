//! How often each network may knock at each door, counted in this process (security.md DS-02).
//!
//! The counting is governor's GCRA: no burst above the count, and no window at whose edge twice as many fit.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use sha2::{Digest as _, Sha256};

use super::Clock;

/// Networks remembered for one door: some 10 MB. Beyond them newcomers share places.
const NETWORKS_MAX: usize = 100_000;
const SHARED_PLACES: u16 = 1024;
/// Looking for networks that can be forgotten reads all of them.
const TIDY_EVERY_MS: i64 = 1000;

/// Time that never goes back and skips no step: a clock that is set back by ten minutes must not stop everybody for as long (RE-09).
struct Steady {
    clock: Arc<dyn Clock>,
    seen: Mutex<(i64, Duration)>,
}

impl Steady {
    fn passed(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let step = u64::try_from(now_ms.saturating_sub(seen.0)).unwrap_or_default();
        *seen = (now_ms, seen.1.saturating_add(Duration::from_millis(step)));
        seen.1
    }
}

/// What governor reads; a clone is the same time.
#[derive(Clone)]
struct Time(Arc<Steady>);

impl governor::clock::Clock for Time {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.passed()
    }
}

type Limiter = RateLimiter<String, HashMapStateStore<String>, Time, NoOpMiddleware<Duration>>;

/// One door's limiter and the rate that it was made for.
struct Counted {
    count: u32,
    window_ms: i64,
    limiter: Limiter,
    tidied_at_ms: AtomicI64,
}

/// The rates of `N` doors.
pub struct Rates<const N: usize> {
    time: Time,
    doors: [Mutex<Option<Arc<Counted>>>; N],
}

impl<const N: usize> Rates<N> {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        // Some room behind the beginning: the reckoning subtracts.
        let beginning = (clock.now_ms(), Duration::from_hours(400 * 24));
        let time = Time(Arc::new(Steady { clock, seen: Mutex::new(beginning) }));
        Self { time, doors: std::array::from_fn(|_| Mutex::new(None)) }
    }

    /// Counts one knock of `network` at `door`, at most `count` in `window_ms`. A reload that changes a rate begins that door's count anew.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(&self, door: usize, rate: (u32, i64), network: &str) -> Result<(), Duration> {
        let Some(counted) = self.counted(door, rate) else { return Ok(()) };
        let now_ms = i64::try_from(self.time.now().as_millis()).unwrap_or(i64::MAX);
        let key = counted.key(network, now_ms);
        counted.limiter.check_key(&key).map_err(|not_yet| not_yet.wait_time_from(self.time.now()))
    }

    /// Forgets every network that has its whole allowance again.
    pub fn tidy(&self) {
        for door in &self.doors {
            let counted = door.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(counted) = counted {
                counted.limiter.retain_recent();
                counted.limiter.shrink_to_fit();
            }
        }
    }

    /// How many networks are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let held = |door: &Mutex<Option<Arc<Counted>>>| {
            door.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |c| c.limiter.len())
        };
        self.doors.iter().map(held).sum()
    }

    fn counted(&self, door: usize, (count, window_ms): (u32, i64)) -> Option<Arc<Counted>> {
        let mut held = self.doors.get(door)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = held.as_ref().filter(|held| (held.count, held.window_ms) == (count, window_ms))
        {
            return Some(Arc::clone(counted));
        }
        let burst = NonZeroU32::new(count)?;
        let window = Duration::from_millis(u64::try_from(window_ms).ok()?);
        let each = (window / count).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each)?.allow_burst(burst);
        let limiter = RateLimiter::hashmap_with_clock(quota, self.time.clone());
        let counted = Arc::new(Counted { count, window_ms, limiter, tidied_at_ms: AtomicI64::new(0) });
        *held = Some(Arc::clone(&counted));
        Some(counted)
    }
}

impl Counted {
    /// The network itself, or when too many are remembered one of the places that newcomers share.
    fn key(&self, network: &str, now_ms: i64) -> String {
        if self.limiter.len() < NETWORKS_MAX {
            return network.to_owned();
        }
        let before_ms = self.tidied_at_ms.load(Ordering::Relaxed);
        let mine = now_ms.saturating_sub(before_ms) >= TIDY_EVERY_MS
            && self
                .tidied_at_ms
                .compare_exchange(before_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            self.limiter.retain_recent();
            if self.limiter.len() < NETWORKS_MAX {
                return network.to_owned();
            }
        }
        let [first, second, ..]: [u8; 32] = Sha256::digest(network.as_bytes()).into();
        format!("shared {}", u16::from_be_bytes([first, second]) % SHARED_PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn rates() -> (Arc<Hand>, Rates<2>) {
        let hand = Arc::new(Hand(AtomicI64::new(1_800_000_000_000)));
        (Arc::clone(&hand), Rates::new(hand))
    }

    const SIX: (u32, i64) = (6, 60_000);

    #[test]
    fn ds_02_a_network_has_its_count_and_gets_it_back_bit_by_bit() {
        let (hand, rates) = rates();
        let admitted = (0..20).filter(|_| rates.admit(0, SIX, "a").is_ok()).count();
        assert_eq!(admitted, 6);
        let wait = rates.admit(0, SIX, "a").unwrap_err();
        assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
        assert!(rates.admit(0, SIX, "b").is_ok() && rates.admit(1, SIX, "a").is_ok());
        hand.0.fetch_add(10_000, Ordering::Relaxed);
        assert!(rates.admit(0, SIX, "a").is_ok());
        assert!(rates.admit(0, SIX, "a").is_err());
    }

    #[test]
    fn a_changed_rate_counts_anew_and_the_same_one_goes_on() {
        let (_, rates) = rates();
        (0..6).for_each(|_| rates.admit(0, SIX, "a").unwrap());
        assert!(rates.admit(0, SIX, "a").is_err());
        assert!(rates.admit(0, (7, 60_000), "a").is_ok());
    }

    #[test]
    fn re_09_a_clock_set_back_stops_nobody() {
        let (hand, rates) = rates();
        (0..6).for_each(|_| rates.admit(0, SIX, "a").unwrap());
        hand.0.fetch_sub(600_000, Ordering::Relaxed);
        assert!(rates.admit(0, SIX, "a").is_err());
        hand.0.fetch_add(10_000, Ordering::Relaxed);
        assert!(rates.admit(0, SIX, "a").is_ok());
    }

    #[test]
    fn ds_02_a_flood_of_networks_takes_bounded_memory_and_is_forgotten() {
        let (hand, rates) = rates();
        for n in 0..130_000 {
            let _ = rates.admit(0, SIX, &n.to_string());
        }
        let most = NETWORKS_MAX + usize::from(SHARED_PLACES);
        assert!(rates.remembered() <= most, "{}", rates.remembered());
        hand.0.fetch_add(120_000, Ordering::Relaxed);
        rates.tidy();
        assert_eq!(rates.remembered(), 0);
    }
}
