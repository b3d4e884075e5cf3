//! Login by name and password, for providers whose operator allows it (security.md chapter 10).
//!
//! The password is passed on unchanged and kept nowhere. Whoever gives a wrong one, names nobody, or meets a closed account gets one and
//! the same answer, after one and the same time.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::again::again;
use super::audit::{self, Refusal};
use super::guesses::{self, Try, Verdict};
use super::limits::{self, Door};
use super::session::{self, Entrance, Opened, Previous};
use super::{Visitor, login};
use crate::app::{App, Setup};
use crate::domain::{FieldFault, Grant, SessionKey, SessionKind, Tokens};
use crate::error::{Error, Result};
use crate::providers::{Provider, ProviderError};

/// What a provider could be asked to hash; longer ones cost it more than they protect.
const PASSWORD_MAX: usize = 1024;
const NAME_MAX: usize = 512;
/// Refusals leave at whole multiples of this, so that their time tells nothing of what was looked at (PW-02).
const STEP: Duration = Duration::from_millis(500);

/// Somebody who gives name and password.
pub struct Entry<'a> {
    pub provider: Option<&'a str>,
    pub username: Option<&'a str>,
    pub password: Option<SecretString>,
    /// A program keeps its tokens itself; a browser gets a cookie.
    pub kind: SessionKind,
    /// The browser's session until now; it ends with the new login.
    pub previous: Option<&'a SessionKey>,
    pub visitor: &'a Visitor,
}

/// Signed in; the tokens are for programs alone.
#[derive(Debug)]
pub struct SignedIn {
    pub opened: Opened,
    pub tokens: Tokens,
}

/// Signs somebody in.
///
/// # Errors
/// [`Error::NotOffered`] where no provider takes passwords, [`Error::InvalidFields`], [`Error::TooMany`], [`Error::InvalidCredentials`], a
/// person who proved who they are and may not come in, or a house that does not answer.
pub async fn with_password(app: &App, entry: Entry<'_>) -> Result<SignedIn> {
    let began = Instant::now();
    let setup = app.setup();
    if !setup.config.providers.iter().any(|provider| provider.password_login) {
        return Err(Error::NotOffered);
    }
    limits::admit(app, Door::LoginStart, entry.visitor).await?;
    let (provider, name, password) = read(&setup, &entry)?;
    let id = provider.config().id.as_str();
    let tried = attempt(app, &setup, provider, (&name, &password), &entry).await;
    app.metrics.password_login(id, tried.as_ref().map_or_else(Error::reason, |_| "ok"));
    if let Err(error) = &tried
        && !matches!(error, Error::TooMany { .. })
    {
        tracing::info!(provider = id, reason = error.reason(), %error, "password login refused");
        let refusal = Refusal { event: "login.failed", reason: error.reason(), provider: Some(id) };
        audit::refusal(app, &refusal, entry.visitor).await;
    }
    if let Err(Error::InvalidCredentials) = tried {
        // The machine's own time, not the house's: it is about what a stopwatch outside would see.
        tokio::time::sleep_until(began + next_step(began.elapsed())).await;
    }
    tried
}

/// The next whole multiple of [`STEP`].
fn next_step(elapsed: Duration) -> Duration {
    let steps = u32::try_from(elapsed.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX - 1);
    STEP.saturating_mul(steps + 1)
}

/// Whole seconds that cover this many ms, for `Retry-After`.
pub(super) fn seconds_up(ms: i64) -> u32 {
    u32::try_from(ms.max(1).saturating_add(999) / 1000).unwrap_or(u32::MAX)
}

/// All faults of what was sent, at once.
fn read<'s>(setup: &'s Setup, entry: &Entry<'_>) -> Result<(&'s dyn Provider, String, SecretString)> {
    let mut faults = Vec::new();
    let provider = match choose(setup, entry.provider) {
        Err(Error::InvalidFields(more)) => {
            faults.extend(more);
            None
        }
        chosen => Some(chosen?),
    };
    let name = entry.username.unwrap_or_default();
    if name.trim().is_empty() {
        faults.push(FieldFault::new("username", "required", "Write your user name or e-mail address."));
    } else if name.len() > NAME_MAX {
        faults.push(FieldFault::new("username", "too_long", "No user name is that long."));
    } else if name.chars().any(char::is_control) {
        faults.push(FieldFault::new("username", "invalid", "A user name has no control characters."));
    }
    let password = entry.password.as_ref().filter(|password| !password.expose_secret().is_empty());
    match password.map(|password| password.expose_secret().len()) {
        None => faults.push(FieldFault::new("password", "required", "Write your password.")),
        Some(length) if length > PASSWORD_MAX => {
            faults.push(FieldFault::new("password", "too_long", "A password has at most 1024 bytes."));
        }
        Some(_) => {}
    }
    match (provider, password) {
        (Some(provider), Some(password)) if faults.is_empty() => {
            Ok((provider, name.to_owned(), password.clone()))
        }
        _ => Err(Error::InvalidFields(faults)),
    }
}

/// The named provider, or the only one that takes passwords.
fn choose<'s>(setup: &'s Setup, named: Option<&str>) -> Result<&'s dyn Provider> {
    let mut offering = setup
        .providers()
        .iter()
        .filter(|provider| provider.config().password_login && provider.passwords().is_some());
    let chosen = match named.filter(|name| !name.is_empty()) {
        Some(id) => offering.find(|provider| provider.config().id == id),
        None => match (offering.next(), offering.next()) {
            (Some(_), Some(_)) => {
                let fault = FieldFault::new("provider", "required", "Say which sign-in service is meant.");
                return Err(Error::InvalidFields(vec![fault]));
            }
            (only, _) => only,
        },
    };
    chosen.map(AsRef::as_ref).ok_or(Error::NotOffered)
}

async fn attempt(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    (name, password): (&str, &SecretString),
    entry: &Entry<'_>,
) -> Result<SignedIn> {
    let passwords = provider.passwords().ok_or(Error::NotOffered)?;
    let tried = match guesses::admit(app, &provider.config().id, name, entry.visitor).await? {
        Verdict::Go(tried) => tried,
        Verdict::Silent => return Err(Error::InvalidCredentials),
    };
    let asked_at_ms = app.now_ms();
    match login::timed(app, provider, "password", passwords.login(name, password)).await {
        Ok(grant) => open(app, setup, (grant, asked_at_ms), tried, entry).await,
        Err(refused) => {
            settle(app, &refused, tried).await;
            Err(refused.into())
        }
    }
}

async fn settle(app: &App, refused: &ProviderError, tried: Try) {
    match refused {
        ProviderError::WrongCredentials => guesses::failed(app, tried).await,
        // No answer, or one that says nothing of the password. "Your account needs a step" proves the password right, and is no login.
        _ => guesses::unanswered(app, tried).await,
    }
}

async fn open(
    app: &App,
    setup: &Setup,
    (grant, asked_at_ms): (Grant, i64),
    tried: Try,
    entry: &Entry<'_>,
) -> Result<SignedIn> {
    let tokens = grant.tokens.clone();
    let previous = Previous { key: entry.previous, id: None, asked_at_ms: Some(asked_at_ms) };
    let entrance = |grant| Entrance { grant, kind: entry.kind, previous };
    let open = async || session::open(app, setup, entrance(grant.clone()), entry.visitor).await;
    match again(app, open).await {
        Ok(opened) => {
            guesses::succeeded(app, tried, &opened.guest.user, entry.visitor).await;
            Ok(SignedIn { opened, tokens })
        }
        Err(error) => {
            guesses::unanswered(app, tried).await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pw_02_refusals_leave_at_whole_steps() {
        for (elapsed, leaves) in [(0, 500), (1, 500), (499, 500), (500, 1000), (1700, 2000)] {
            assert_eq!(next_step(Duration::from_millis(elapsed)), Duration::from_millis(leaves));
        }
    }

    #[test]
    fn waits_are_told_in_whole_seconds_that_are_long_enough() {
        for (ms, s) in [(-5, 1), (0, 1), (1, 1), (1000, 1), (1001, 2), (900_000, 900)] {
            assert_eq!(seconds_up(ms), s);
        }
    }
}
