//! What a provider in trouble costs others: little. After a few failures in a row its calls are refused at once, and one at a time tries
//! whether it is well again (security.md RE-10); and only so many calls to one provider are under way, or wait, at once (OB-05).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::ProviderError;

/// Failures in a row that open the circuit: a single unlucky call must not.
const FAILURES_MAX: u32 = 5;
/// How long it stays open, doubling with each try that fails.
const PAUSE_MS: i64 = 1000;
/// A provider that is well again is noticed this soon, without a restart.
const PAUSE_MAX_MS: i64 = 5000;
/// Calls to one provider at a time.
const CALLS_MAX: usize = 64;
/// Calls that wait for a place; more would only wait in vain.
const WAITING_MAX: usize = 256;
/// How long a call waits for a place.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of the way to one provider. It outlives a reload.
#[derive(Debug)]
pub struct Traffic {
    circuit: Mutex<Circuit>,
    calls: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { circuit: Mutex::default(), calls: Semaphore::new(CALLS_MAX), waiting: AtomicUsize::new(0) }
    }
}

#[derive(Debug, Default)]
struct Circuit {
    /// In a row.
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since_ms: i64,
    until_ms: i64,
    tries: u32,
    /// One call is on its way to see whether the provider is well again.
    probing: bool,
}

/// What a call's end changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Opened,
    Closed,
}

/// Leave to make one call. Settle it; dropped, it tells nothing (the caller went away).
#[derive(Debug)]
pub struct Leave<'t> {
    traffic: &'t Traffic,
    is_probe: bool,
}

impl Traffic {
    /// Leave for a call, unless the circuit is open.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`], at once.
    pub fn leave(&self, now_ms: i64) -> Result<Leave<'_>, ProviderError> {
        let mut circuit = self.circuit();
        let is_probe = match &mut circuit.open {
            None => false,
            // A beginning in the future: the clock was set back.
            Some(open) if !open.probing && !(open.since_ms..open.until_ms).contains(&now_ms) => {
                open.probing = true;
                true
            }
            Some(_) => {
                let why = "it failed repeatedly and is left alone for a moment".to_owned();
                return Err(ProviderError::Unavailable(why));
            }
        };
        Ok(Leave { traffic: self, is_probe })
    }

    /// A place among the calls under way.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] when none is free soon.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, ProviderError> {
        let crowded = || ProviderError::Unavailable("too many calls to it are under way".to_owned());
        if let Ok(place) = self.calls.try_acquire() {
            return Ok(place);
        }
        let _queued = Queued::new(&self.waiting).ok_or_else(crowded)?;
        match tokio::time::timeout(PATIENCE, self.calls.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(crowded()),
        }
    }

    /// Whether calls are refused, but for one that tries.
    pub fn is_open(&self) -> bool {
        self.circuit().open.is_some()
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leave<'_> {
    /// Tells how the call ended; `jitter` (any byte) spreads the next try, so that replicas do not knock together.
    #[must_use]
    pub fn settle(mut self, well: bool, now_ms: i64, jitter: u8) -> Option<Turn> {
        let mut circuit = self.traffic.circuit();
        let was_probe = std::mem::take(&mut self.is_probe);
        if well {
            circuit.failures = 0;
            // A call from before the circuit opened may end well late; only the probe speaks for now.
            return circuit.open.take_if(|_| was_probe).map(|_| Turn::Closed);
        }
        circuit.failures = circuit.failures.saturating_add(1);
        let failures = circuit.failures;
        match &mut circuit.open {
            Some(open) if was_probe => {
                let tries = open.tries.saturating_add(1);
                *open = Open { tries, ..opened(now_ms, tries, jitter) };
                None
            }
            None if failures >= FAILURES_MAX => {
                circuit.open = Some(opened(now_ms, 0, jitter));
                Some(Turn::Opened)
            }
            Some(_) | None => None,
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(open) = &mut self.traffic.circuit().open
        {
            open.probing = false;
        }
    }
}

fn opened(now_ms: i64, tries: u32, jitter: u8) -> Open {
    let pause_ms = (PAUSE_MS << tries.min(8)).min(PAUSE_MAX_MS);
    // Three quarters to the whole of the pause.
    let pause_ms = pause_ms - pause_ms * i64::from(jitter) / 255 / 4;
    Open { since_ms: now_ms, until_ms: now_ms.saturating_add(pause_ms), tries, probing: false }
}

/// One of those who wait.
struct Queued<'q>(&'q AtomicUsize);

impl<'q> Queued<'q> {
    fn new(waiting: &'q AtomicUsize) -> Option<Self> {
        let one_more = |count| (count < WAITING_MAX).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(traffic: &Traffic, now_ms: i64) -> Option<Turn> {
        traffic.leave(now_ms).unwrap().settle(false, now_ms, 0)
    }

    fn opened_at(now_ms: i64) -> Traffic {
        let traffic = Traffic::default();
        for n in 1..=FAILURES_MAX {
            assert_eq!(fail(&traffic, now_ms), (n == FAILURES_MAX).then_some(Turn::Opened));
        }
        traffic
    }

    #[test]
    fn re_10_failures_in_a_row_open_it_and_one_good_call_between_does_not() {
        let traffic = Traffic::default();
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                fail(&traffic, 0);
            }
            assert_eq!(traffic.leave(0).unwrap().settle(true, 0, 0), None);
        }
        assert!(!traffic.is_open());
        let traffic = opened_at(0);
        assert!(traffic.is_open() && traffic.leave(0).is_err() && traffic.leave(999).is_err());
    }

    #[test]
    fn re_10_one_probe_at_a_time_decides() {
        let traffic = opened_at(0);
        let probe = traffic.leave(1000).unwrap();
        assert!(traffic.leave(1000).is_err(), "a second probe");
        assert_eq!(probe.settle(false, 1000, 0), None);
        assert!(traffic.leave(2999).is_err(), "the pause doubles");
        assert_eq!(traffic.leave(3000).unwrap().settle(true, 3000, 0), Some(Turn::Closed));
        assert!(!traffic.is_open() && traffic.leave(3000).is_ok());
    }

    #[test]
    fn re_10_the_pause_stays_short_enough_to_notice_recovery() {
        let (traffic, mut now) = (opened_at(0), 0);
        for _ in 0..20 {
            now += PAUSE_MAX_MS;
            assert_eq!(fail(&traffic, now), None);
        }
        assert!(traffic.leave(now + PAUSE_MAX_MS - 1).is_err() && traffic.leave(now + PAUSE_MAX_MS).is_ok());
    }

    #[test]
    fn a_probe_that_nobody_waits_for_leaves_the_way_to_the_next() {
        let traffic = opened_at(0);
        drop(traffic.leave(1000).unwrap());
        assert!(traffic.leave(1000).is_ok());
    }

    #[test]
    fn a_late_good_answer_from_before_does_not_close_it() {
        let traffic = Traffic::default();
        let early = traffic.leave(0).unwrap();
        (0..FAILURES_MAX).for_each(|_| {
            fail(&traffic, 0);
        });
        assert_eq!(early.settle(true, 10, 0), None);
        assert!(traffic.is_open());
    }

    #[test]
    fn re_09_a_clock_set_back_does_not_keep_it_open() {
        let traffic = opened_at(600_000);
        assert!(traffic.leave(0).is_ok());
    }

    #[tokio::test]
    async fn ob_05_a_crowd_is_bounded_and_waits_briefly() {
        let traffic = Traffic::default();
        let mut held = Vec::new();
        for _ in 0..CALLS_MAX {
            held.push(traffic.place().await.unwrap());
        }
        let began = tokio::time::Instant::now();
        assert!(traffic.place().await.is_err());
        assert!(began.elapsed() >= PATIENCE);
        held.pop();
        assert!(traffic.place().await.is_ok());
    }
}
