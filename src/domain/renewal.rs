//! When a session's tokens are due for renewal.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Session;

const MARGIN_MAX_MS: i64 = 60_000;
/// A set margin leaves a new token at least this long before it is due again.
const LEFT_MIN_MS: i64 = 2_000;
const JITTER_MAX_MS: i64 = 1_000;
/// No session asks more often, however short its tokens live (security.md RT-07).
const STEP_MIN_MS: i64 = 1_000;
/// With more than this left, a token is good for the request at hand: nobody waits for its successor.
const ENOUGH_MS: i64 = 5_000;

/// Where a session stands with its tokens. Times are Unix ms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Whether there is a refresh token.
    pub has_token: bool,
    /// The provider may have ended the session without naming it: the next use must ask.
    pub must_prove: bool,
    /// When the tokens came, if not with the login.
    pub refreshed_at_ms: Option<i64>,
    /// Somebody is renewing them, and has until then.
    pub claimed_until_ms: Option<i64>,
    /// The last try failed; the next one waits until then.
    pub not_before_ms: Option<i64>,
}

impl Renewal {
    #[must_use]
    pub fn is_paused(&self, now_ms: i64) -> bool {
        self.not_before_ms.is_some_and(|at_ms| now_ms < at_ms)
    }

    #[must_use]
    pub fn is_claimed(&self, now_ms: i64) -> bool {
        self.claimed_until_ms.is_some_and(|until_ms| now_ms < until_ms)
    }
}

impl Session {
    /// Whether the access token will do for the request at hand, and the next few.
    #[must_use]
    pub fn has_enough_token(&self, now_ms: i64) -> bool {
        self.token_expires_at_ms.is_some_and(|at_ms| at_ms.saturating_sub(now_ms) > ENOUGH_MS)
    }

    /// Whether the tokens should be renewed: below the margin (`None` = the smaller of 60 s and half the token's life), which
    /// a jitter shortens that is this session's and generation's own, so that replicas agree on it.
    #[must_use]
    pub fn is_renewal_due(&self, now_ms: i64, margin_ms: Option<i64>) -> bool {
        self.renewal_due_at_ms(margin_ms).is_some_and(|at_ms| now_ms >= at_ms)
    }

    /// The first moment of [`Self::is_renewal_due`]; `None` where there is nothing to renew.
    #[must_use]
    pub fn renewal_due_at_ms(&self, margin_ms: Option<i64>) -> Option<i64> {
        let expires_at_ms = self.token_expires_at_ms.filter(|_| self.renewal.has_token)?;
        let since_ms = self.renewal.refreshed_at_ms.unwrap_or(self.created_at_ms);
        let life_ms = expires_at_ms.saturating_sub(since_ms).max(0);
        let margin_ms = match margin_ms {
            Some(set) => set.min(life_ms - LEFT_MIN_MS).max(0),
            None => MARGIN_MAX_MS.min(life_ms / 2),
        };
        let due_at_ms = expires_at_ms - margin_ms + self.jitter_ms(margin_ms);
        Some(due_at_ms.max(since_ms.saturating_add(STEP_MIN_MS)))
    }

    fn jitter_ms(&self, margin_ms: i64) -> i64 {
        let digest =
            Sha256::new().chain_update(&self.id).chain_update(self.generation.to_be_bytes()).finalize();
        let share = digest.first().copied().unwrap_or_default();
        (margin_ms / 20).min(JITTER_MAX_MS) * i64::from(share) / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::tests::session;

    fn with_life(life_ms: i64) -> Session {
        let mut s = session();
        s.token_expires_at_ms = Some(life_ms);
        s.renewal.has_token = true;
        s
    }

    /// The first moment at which the renewal is due.
    fn due_at(session: &Session, margin_ms: Option<i64>) -> i64 {
        let (mut early, mut late) = (-1, 1_000_000_000);
        while late - early > 1 {
            let middle = i64::midpoint(early, late);
            if session.is_renewal_due(middle, margin_ms) { late = middle } else { early = middle }
        }
        late
    }

    #[test]
    fn rt_07_renewal_starts_a_little_before_the_end_and_never_spins() {
        for (life_ms, margin_ms, earliest, latest) in [
            (300_000, None, 240_000, 241_000),
            (86_400_000, None, 86_340_000, 86_341_000),
            (30_000, None, 15_000, 15_750),
            (4_000, None, 2_000, 2_100),
            (1_000, None, 1_000, 1_000),
            (0, None, 1_000, 1_000),
            (300_000, Some(10_000), 290_000, 290_500),
            (300_000, Some(0), 300_000, 300_000),
            (300_000, Some(86_400_000), 2_000, 3_000),
            (1_000, Some(60_000), 1_000, 1_000),
        ] {
            let at = due_at(&with_life(life_ms), margin_ms);
            assert!((earliest..=latest).contains(&at), "{life_ms} {margin_ms:?}: {at}");
        }
        let mut renewed = with_life(400_000);
        renewed.renewal.refreshed_at_ms = Some(100_000);
        assert!(
            (340_000..=341_000).contains(&due_at(&renewed, None)),
            "the life counts from the last renewal"
        );
    }

    #[test]
    fn the_jitter_is_fixed_per_session_and_generation_and_only_shortens_the_margin() {
        let mut moments = std::collections::BTreeSet::new();
        for n in 0..100 {
            let mut s = with_life(300_000);
            s.id = format!("s{}", n / 10);
            s.generation = n % 10;
            let at = due_at(&s, None);
            assert_eq!(at, due_at(&s.clone(), None));
            assert!((240_000..241_000).contains(&at), "{at}");
            moments.insert(at);
        }
        assert!(moments.len() > 50, "{}", moments.len());
    }

    #[test]
    fn without_a_refresh_token_or_an_end_nothing_is_ever_due() {
        let mut s = with_life(1_000);
        s.renewal.has_token = false;
        assert!(!s.is_renewal_due(i64::MAX, None));
        s.renewal.has_token = true;
        s.token_expires_at_ms = None;
        assert!(!s.is_renewal_due(i64::MAX, None));
    }
}
