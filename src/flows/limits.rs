//! How often one network may knock at each public door. Counted in this process: these rates keep a flood away from costlier things, and a
//! stranger gains little by asking every replica. Wrong passwords are counted in the database instead (`flows::guesses`), and registrations there too
//! (`flows::register`); refused logout tokens by `flows::provider_logout`.

use super::audit::{self, Refusal};
use super::{Visitor, password};
use crate::app::App;
use crate::config::{Config, Rate};
use crate::domain::address;
use crate::error::{Error, Result};

/// Doors with a rate of their own; the number is its place in `App::rates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `GET` and `POST /auth/login`.
    LoginStart = 0,
    Callback = 1,
    Refresh = 2,
}

impl Door {
    /// The key of `[limits]`, which is the word in metrics and audit log too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginStart => "login_start",
            Self::Callback => "callback",
            Self::Refresh => "refresh",
        }
    }

    fn rate(self, config: &Config) -> Option<Rate> {
        let limits = &config.limits;
        match self {
            Self::LoginStart => limits.login_start,
            Self::Callback => limits.callback,
            Self::Refresh => limits.refresh,
        }
    }
}

/// Counts one knock of the visitor's network at a door.
///
/// # Errors
/// [`Error::TooMany`] with the time after which the next knock is heard.
pub async fn admit(app: &App, door: Door, visitor: &Visitor) -> Result<()> {
    let Some(rate) = door.rate(&app.setup().config) else { return Ok(()) };
    let network = address::network(visitor.address.as_deref().unwrap_or_default());
    let Err(wait) = app.rates.admit(door as usize, (rate.count, rate.window_ms), &network) else {
        return Ok(());
    };
    Err(refused(app, door.as_str(), i64::try_from(wait.as_millis()).unwrap_or(i64::MAX), visitor).await)
}

/// Notes that a limit held somebody back.
pub(super) async fn refused(app: &App, limit: &'static str, wait_ms: i64, visitor: &Visitor) -> Error {
    app.metrics.rate_limited(limit);
    tracing::info!(limit, "a rate limit was reached");
    audit::refusal(app, &Refusal { event: "rate_limited", reason: limit, provider: None }, visitor).await;
    Error::TooMany { retry_after_s: password::seconds_up(wait_ms) }
}

/// Forgets the networks that have their whole allowance again.
pub fn tidy(app: &App) {
    app.rates.tidy();
}
