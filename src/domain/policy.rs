//! Who may pass a route; one judgement for proxy and forward-auth.

use super::{Fact, Principal};

/// What a route asks of its visitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Nobody is asked who they are.
    pub public: bool,
    /// Any of them suffices; likewise `groups` and `tenants`. Empty asks nothing.
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    pub tenants: Vec<String>,
    pub acr: Option<String>,
    /// How long ago the person may have proved who they are.
    pub max_age_ms: Option<i64>,
}

/// How far a provider's clock may be off.
const SKEW_MS: i64 = 60_000;

/// What a policy says of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Nobody is signed in, and somebody must be.
    SignIn,
    /// Somebody is signed in, and must prove it again, or more strongly.
    StepUp,
    /// Signed in, and not allowed; signing in again would not help.
    Forbid,
}

impl Policy {
    /// Judges a guest at a moment (Unix ms). What cannot be known counts as not fulfilled.
    #[must_use]
    pub fn judge(&self, who: Option<&Principal>, now_ms: i64) -> Verdict {
        if self.public {
            return Verdict::Pass;
        }
        let Some(who) = who else { return Verdict::SignIn };
        let tenant_fits = any(&self.tenants, who, Fact::Tenant);
        if !any(&self.roles, who, Fact::Roles) || !any(&self.groups, who, Fact::Groups) || !tenant_fits {
            return Verdict::Forbid;
        }
        let acr_fits = self.acr.as_ref().is_none_or(|asked| who.plain(Fact::Acr) == *asked);
        // The same tolerance as at the login, or a provider's slow clock would send people round in circles.
        let recent = |max_age_ms: i64| {
            who.auth_time_ms.is_some_and(|at| {
                at <= now_ms.saturating_add(SKEW_MS)
                    && now_ms <= at.saturating_add(max_age_ms).saturating_add(SKEW_MS)
            })
        };
        if acr_fits && self.max_age_ms.is_none_or(recent) { Verdict::Pass } else { Verdict::StepUp }
    }
}

fn any(asked: &[String], who: &Principal, fact: Fact) -> bool {
    asked.is_empty() || who.items(fact).any(|has| asked.iter().any(|one| *one == has))
}
