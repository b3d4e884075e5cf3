//! How often a password may be wrong, before the next try has to wait (security.md PW-03).
//!
//! A try is counted *before* the provider is asked, and taken back when it was right: of many at the same moment none slips through.

/// The longest pause between two guesses.
const PAUSE_MAX_MS: i64 = 15 * 60 * 1000;

/// What a tally allows. Durations are ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Failures within one window.
    pub count: u32,
    pub window_ms: i64,
    /// Beyond the count: pauses that double (1, 2, 4 … s, up to 15 min), or none until the window is over.
    pub slows: bool,
    /// Failures in a row after which only a good login helps (NIST SP 800-63B 3.2.2).
    pub in_a_row: Option<u32>,
}

/// Why a try is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// For this many ms.
    Wait(i64),
    /// Until somebody signs in well.
    Closed,
}

/// The failures of one address, name or account. Times are Unix ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub since_ms: i64,
    pub failures: i64,
    pub consecutive: i64,
    pub blocked_until_ms: i64,
}

impl Tally {
    /// Lets a try through and counts it as a failure for now.
    ///
    /// # Errors
    /// Why it has to wait; then nothing is counted.
    pub fn admit(&mut self, rule: &Rule, now_ms: i64) -> Result<(), Barred> {
        if rule.in_a_row.is_some_and(|most| self.consecutive >= i64::from(most)) {
            return Err(Barred::Closed);
        }
        let longest_ms = if rule.slows { PAUSE_MAX_MS } else { rule.window_ms };
        let left_ms = self.blocked_until_ms.saturating_sub(now_ms);
        // More than any pause is long: the clock was set back, and nobody waits for that.
        if (1..=longest_ms).contains(&left_ms) {
            return Err(Barred::Wait(left_ms));
        }
        let quiet_since_ms = self.since_ms.max(self.blocked_until_ms);
        if now_ms < self.since_ms || now_ms >= quiet_since_ms.saturating_add(rule.window_ms) {
            (self.failures, self.since_ms) = (0, now_ms);
        }
        self.failures = self.failures.saturating_add(1);
        self.consecutive = self.consecutive.saturating_add(1);
        self.block(rule, now_ms);
        Ok(())
    }

    /// The try was no wrong password after all.
    pub fn take_back(&mut self, rule: &Rule, now_ms: i64) {
        self.failures = (self.failures - 1).max(0);
        self.consecutive = (self.consecutive - 1).max(0);
        self.block(rule, now_ms);
    }

    /// Whether the count of this window is used up; counts nothing.
    #[must_use]
    pub fn is_spent(&self, rule: &Rule, now_ms: i64) -> bool {
        let within = (self.since_ms..self.since_ms.saturating_add(rule.window_ms)).contains(&now_ms);
        within && self.failures >= i64::from(rule.count)
    }

    fn block(&mut self, rule: &Rule, now_ms: i64) {
        let over = self.failures - i64::from(rule.count);
        self.blocked_until_ms = match u32::try_from(over) {
            Err(_) => 0,
            Ok(_) if !rule.slows => self.since_ms.saturating_add(rule.window_ms),
            Ok(doublings) => {
                let pause_ms = 1000_i64.checked_shl(doublings.min(20)).unwrap_or(PAUSE_MAX_MS);
                now_ms.saturating_add(pause_ms.min(PAUSE_MAX_MS))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const NAME: Rule = Rule { count: 10, window_ms: 15 * MINUTE, slows: true, in_a_row: None };
    const ADDRESS: Rule = Rule { count: 100, window_ms: 15 * MINUTE, slows: false, in_a_row: None };

    #[test]
    fn pw_03_after_ten_failures_each_guess_waits_twice_as_long() {
        let (mut tally, mut now) = (Tally::default(), 1_000_000);
        for _ in 0..10 {
            assert_eq!(tally.admit(&NAME, now), Ok(()));
        }
        for n in 0..14 {
            let pause = (SECOND << n).min(15 * MINUTE);
            assert_eq!(tally.admit(&NAME, now), Err(Barred::Wait(pause)), "the {n}th pause");
            assert_eq!(tally.admit(&NAME, now + pause - 1), Err(Barred::Wait(1)));
            now += pause;
            assert_eq!(tally.admit(&NAME, now), Ok(()));
        }
        // A quiet quarter of an hour forgets the pauses, not the number in a row.
        now = tally.blocked_until_ms + 15 * MINUTE;
        assert_eq!((tally.admit(&NAME, now), tally.failures, tally.consecutive), (Ok(()), 1, 25));
    }

    #[test]
    fn an_address_waits_for_the_end_of_its_window() {
        let (mut tally, now) = (Tally::default(), 5_000_000);
        (0..100).for_each(|_| tally.admit(&ADDRESS, now).unwrap());
        assert_eq!(tally.admit(&ADDRESS, now + MINUTE), Err(Barred::Wait(14 * MINUTE)));
        tally.take_back(&ADDRESS, now + MINUTE);
        assert_eq!(tally.admit(&ADDRESS, now + MINUTE), Ok(()), "a good login gives its place back");
        assert_eq!(tally.admit(&ADDRESS, now + 30 * MINUTE), Ok(()));
        assert_eq!(tally.failures, 1);
    }

    #[test]
    fn pw_03_an_account_closes_after_its_failures_in_a_row() {
        let rule = Rule { in_a_row: Some(80), ..NAME };
        let (mut tally, mut now, mut let_in) = (Tally::default(), 0, 0);
        for _ in 0..10_000 {
            now += 20 * MINUTE;
            let_in += i64::from(tally.admit(&rule, now).is_ok());
        }
        assert_eq!((let_in, tally.admit(&rule, now)), (80, Err(Barred::Closed)));
    }

    #[test]
    fn re_09_a_clock_set_back_locks_nobody_out() {
        let mut tally = Tally::default();
        (0..100).for_each(|_| tally.admit(&ADDRESS, 100 * MINUTE).unwrap());
        assert!(tally.admit(&ADDRESS, 100 * MINUTE).is_err());
        assert_eq!(tally.admit(&ADDRESS, 10 * MINUTE), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn no_run_of_tries_breaks_a_tally(steps in proptest::collection::vec((0_u8..3, 0_i64..i64::MAX / 4), 0..60)) {
            let mut tally = Tally::default();
            for (what, now) in steps {
                match what {
                    0 => tally.take_back(&NAME, now),
                    _ => { let _ = tally.admit(&NAME, now); }
                }
                proptest::prop_assert!(tally.failures >= 0 && tally.consecutive >= 0);
                proptest::prop_assert!(tally.blocked_until_ms <= now.saturating_add(15 * MINUTE) || tally.blocked_until_ms > 0);
            }
        }
    }
}
