//! Browser login: begin hands out a sealed attempt, finish spends it once.
//!
//! Everything that can be checked is checked before the code is spent, and the attempt is marked as used before that too.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::again::again;
use super::limits::{self, Door};
use super::session::{self, Entrance, Opened, Previous};
use super::{Visitor, audit, guesses};
use crate::app::{App, Setup};
use crate::config::ResponseMode;
use crate::crypto::seal::Place;
use crate::domain::login::Destination;
use crate::domain::{Callback, LoginAttempt, LoginRequest, Prompt, ReturnTo, SessionKey, SessionKind};
use crate::error::{Error, Result};
use crate::providers::{Provider, ProviderError};
use crate::store::used_attempts;

/// A cookie of an attempt, as the browser holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedAttempt {
    /// Eight characters that tell it from its neighbours.
    pub tag: String,
    pub value: String,
}

/// A login on its way to the provider.
#[derive(Debug)]
pub struct Begun {
    pub redirect: url::Url,
    pub cookie: SealedAttempt,
    /// The provider answers by a cross-site POST (`response_mode = "form_post"`).
    pub cross_site_post: bool,
    /// Tags of attempts that are too many, too old or unreadable.
    pub dropped: Vec<String>,
}

/// Which way a visitor goes from `/auth/login`.
#[derive(Debug)]
pub enum Direction {
    Begun(Begun),
    /// Several providers and none named: id and label of each.
    Choose(Vec<(String, String)>),
}

/// Starts a login at the provider that the request names, or at the only one.
///
/// # Errors
/// An unknown provider, a wish that is not offered, or a provider that cannot be asked.
pub async fn begin(
    app: &App,
    request: &LoginRequest,
    held: &[SealedAttempt],
    visitor: &Visitor,
) -> Result<Direction> {
    limits::admit(app, Door::LoginStart, visitor).await?;
    let setup = app.setup();
    let silent = |provider: &crate::config::Provider| provider.silent_login;
    if request.prompt == Some(Prompt::None) && !setup.config.providers.iter().any(silent) {
        return Err(Error::InvalidRequest("prompt=none is not offered"));
    }
    let Some(provider) = choose(&setup, request)? else { return Ok(Direction::Choose(offered(&setup))) };
    let begun = begin_at(app, &setup, provider.as_ref(), request, held).await;
    let id = &provider.config().id;
    app.metrics.login_started(id, begun.as_ref().map_or_else(Error::reason, |_| "ok"));
    begun.map(Direction::Begun)
}

/// Whether a signed-in person asks for a login elsewhere.
///
/// # Errors
/// As [`begin`]: a provider that is not one of this door's.
pub fn asks_for_another(app: &App, request: &LoginRequest, provider: &str) -> Result<bool> {
    let setup = app.setup();
    let named = request.provider.is_some() || request.issuer.is_some();
    Ok(named && choose(&setup, request)?.is_some_and(|chosen| chosen.config().id != provider))
}

fn offered(setup: &Setup) -> Vec<(String, String)> {
    setup.config.providers.iter().map(|p| (p.id.clone(), p.label.clone())).collect()
}

fn choose<'s>(setup: &'s Setup, request: &LoginRequest) -> Result<Option<&'s std::sync::Arc<dyn Provider>>> {
    let by_id = |id: &String| setup.provider(id).ok_or(Error::NotFound);
    // A login begun by a third party: configured issuers only (OpenID Connect Core 4).
    let by_issuer = |issuer: &String| {
        let named = setup.providers().iter().find(|provider| provider.config().issuer == *issuer);
        named.ok_or(Error::InvalidRequest("iss names no provider of this door"))
    };
    let named = (
        request.provider.as_ref().map(by_id).transpose()?,
        request.issuer.as_ref().map(by_issuer).transpose()?,
    );
    match named {
        (Some(one), Some(other)) if one.config().id != other.config().id => {
            return Err(Error::InvalidRequest("provider and iss name different providers"));
        }
        (Some(one), _) | (None, Some(one)) => return Ok(Some(one)),
        (None, None) => {}
    }
    match setup.providers() {
        // A form of ours comes first, unless more is asked than a password can prove.
        [only] if only.config().password_form && !request.wants_a_new_login() => Ok(None),
        [only] => Ok(Some(only)),
        [] => Err(Error::NotOffered),
        _ => Ok(None),
    }
}

async fn begin_at(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    request: &LoginRequest,
    held: &[SealedAttempt],
) -> Result<Begun> {
    let config = provider.config();
    if request.prompt == Some(Prompt::None) && !config.silent_login {
        return Err(Error::InvalidRequest("prompt=none is not offered"));
    }
    let mut request = request.clone();
    if request.signup && request.prompt.is_none() {
        request.prompt = Some(Prompt::Create);
    }
    // prompt=login alone proves nothing: only with max_age must the provider say when the person signed in (Core 3.1.2.1).
    let asked_again = (request.prompt == Some(Prompt::Login)).then_some(0);
    // The strictest wish counts: a link must not loosen what the operator asks.
    request.max_age = [request.max_age, asked_again, config.default_max_age_s].into_iter().flatten().min();
    let destination = Destination {
        provider: config.id.clone(),
        issuer: config.issuer.clone(),
        client_id: config.client_id.clone(),
        redirect_uri: setup.own_url(&format!("/callback/{}", config.id)).into(),
    };
    let attempt = LoginAttempt::begin(destination, &request, app.now_ms(), &*app.random);
    let cookie = seal(setup, &attempt)?;
    let redirect = timed(app, provider, "authorize", provider.authorize_url(&attempt, &request)).await?;
    let dropped = surplus(app, setup, held);
    let cross_site_post = config.response_mode == ResponseMode::FormPost;
    Ok(Begun { redirect, cookie, cross_site_post, dropped })
}

/// Which of the browser's attempts must go so that the new one is within the limit: the unreadable, the old, then the oldest.
fn surplus(app: &App, setup: &Setup, held: &[SealedAttempt]) -> Vec<String> {
    let limits = &setup.config.limits;
    let fresh = |attempt: &LoginAttempt| attempt.is_fresh(app.now_ms(), limits.login_attempt_ms);
    let (mut live, mut dropped) = (Vec::new(), Vec::new());
    for cookie in held {
        match open(setup, cookie).filter(fresh) {
            Some(attempt) => live.push((attempt.created_at_ms, cookie.tag.clone())),
            None => dropped.push(cookie.tag.clone()),
        }
    }
    live.sort_unstable();
    let keep = limits.login_attempts_per_browser.saturating_sub(1);
    let too_many = live.len().saturating_sub(keep);
    dropped.extend(live.into_iter().take(too_many).map(|(_, tag)| tag));
    dropped
}

/// How a callback ended well.
#[derive(Debug)]
pub enum Finished {
    SignedIn {
        opened: Box<Opened>,
        return_to: String,
    },
    /// The provider asked to begin again, and this is the first time it did.
    Again(Begun),
}

/// A callback as it arrived.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub provider: &'a str,
    pub callback: &'a Callback,
    /// The attempt's cookie, found by the callback's `state`.
    pub cookie: Option<&'a SealedAttempt>,
    /// The session that this browser had before; it ends with the new login.
    pub previous: Option<&'a SessionKey>,
    pub visitor: &'a Visitor,
}

/// Finishes a login. A refusal is recorded with its reason; nothing is spent before every check has passed.
///
/// # Errors
/// Why nobody is signed in: an attempt that is over, an answer that cannot be accepted, a person who may not come in, or a house that
/// does not answer.
pub async fn finish(app: &App, arrival: &Arrival<'_>) -> Result<Finished> {
    limits::admit(app, Door::Callback, arrival.visitor).await?;
    let setup = app.setup();
    let provider = setup.provider(arrival.provider).ok_or(Error::NotFound)?;
    let finished = finish_at(app, &setup, provider.as_ref(), arrival).await;
    let outcome = finished.as_ref().map_or_else(Error::reason, |_| "ok");
    app.metrics.callback(arrival.provider, outcome);
    if let Err(error) = &finished {
        tracing::info!(provider = arrival.provider, reason = error.reason(), error = %error, "login refused");
        audit::refusal(
            app,
            &audit::Refusal {
                event: "login.failed",
                reason: error.reason(),
                provider: Some(arrival.provider),
            },
            arrival.visitor,
        )
        .await;
    }
    finished
}

/// A callback that cannot be read as one answer; nothing of it is used.
pub async fn unreadable(app: &App, provider: &str, reason: &'static str, visitor: &Visitor) {
    app.metrics.callback(provider, reason);
    audit::refusal(app, &audit::Refusal { event: "login.failed", reason, provider: Some(provider) }, visitor)
        .await;
}

async fn finish_at(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    arrival: &Arrival<'_>,
) -> Result<Finished> {
    let attempt = recognise(app, setup, provider, arrival)?;
    match provider.accept(arrival.callback, &attempt).await {
        Err(ProviderError::BeginAgain) if !attempt.again => {
            return begin_again(app, setup, provider, &attempt).await;
        }
        accepted => accepted?,
    }
    use_once(app, &attempt).await?;
    let asked_at_ms = Some(app.now_ms());
    let grant = timed(app, provider, "exchange", provider.exchange(arrival.callback, &attempt)).await?;
    let previous = Previous { key: arrival.previous, id: attempt.previous.as_deref(), asked_at_ms };
    let entrance = |grant| Entrance { grant, kind: SessionKind::Browser, previous };
    let open = async || session::open(app, setup, entrance(grant.clone()), arrival.visitor).await;
    let opened = again(app, open).await?;
    if provider.config().password_login {
        guesses::forgive(app, &opened.guest.user, arrival.visitor).await;
    }
    Ok(Finished::SignedIn { opened: Box::new(opened), return_to: attempt.return_to.as_str().to_owned() })
}

/// The attempt of this very browser, for this very provider, still fresh; its `state` compared in constant time.
fn recognise(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    arrival: &Arrival<'_>,
) -> Result<LoginAttempt> {
    let config = provider.config();
    let attempt = arrival.cookie.and_then(|cookie| open(setup, cookie)).ok_or(Error::LoginExpired)?;
    let state = arrival.callback.state.as_deref().unwrap_or_default();
    if !bool::from(attempt.state.as_bytes().ct_eq(state.as_bytes()))
        || !attempt.is_fresh(app.now_ms(), setup.config.limits.login_attempt_ms)
    {
        return Err(Error::LoginExpired);
    }
    if attempt.provider != config.id {
        return Err(Error::LoginFailed("callback_provider"));
    }
    // A reload may have changed the provider meanwhile; an attempt belongs to what it was begun with.
    if attempt.issuer != config.issuer || attempt.client_id != config.client_id {
        return Err(Error::LoginExpired);
    }
    Ok(attempt)
}

/// Measures a call to a provider.
pub(super) async fn timed<T>(
    app: &App,
    provider: &dyn Provider,
    operation: &str,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let started = Instant::now();
    let answer = call.await;
    let outcome = answer.as_ref().map_or_else(ProviderError::outcome, |_| "ok");
    app.metrics.provider_call(&provider.config().id, operation, outcome, started.elapsed().as_secs_f64());
    answer
}

/// How long a used attempt is remembered: the longest life that can be configured, and the clocks of other replicas.
const MARK_MS: i64 = 65 * 60 * 1000;

/// Settles single use across replicas by a unique row, committed before the code is spent.
///
/// Should the power fail before the login itself is on the disk, the mark may be gone; so is the login, and the code is the provider's to refuse.
async fn use_once(app: &App, attempt: &LoginAttempt) -> Result<()> {
    let until_ms = attempt.created_at_ms.saturating_add(MARK_MS);
    let mut single = app.store.mark().await?;
    let first = used_attempts::take(&mut single, &attempt.state_hash(), until_ms).await?;
    if first { Ok(()) } else { Err(Error::LoginExpired) }
}

async fn begin_again(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    attempt: &LoginAttempt,
) -> Result<Finished> {
    let request = LoginRequest {
        return_to: Some(attempt.return_to.clone()),
        prompt: attempt.prompt,
        max_age: attempt.max_age,
        acr_values: attempt.acr_values.clone(),
        previous: attempt.previous.clone(),
        again: true,
        ..LoginRequest::default()
    };
    begin_at(app, setup, provider, &request, &[]).await.map(Finished::Again)
}

fn place(tag: &str) -> Place<'_> {
    Place { table: "cookie", row: tag, column: "login_attempt" }
}

/// An attempt's cookie stays small: five of them and the session's must fit into every request (security.md CK-03).
const COOKIE_MAX: usize = 2047;

/// Seals an attempt; one whose return address makes it too large goes without, and the person lands on the front page.
fn seal(setup: &Setup, attempt: &LoginAttempt) -> Result<SealedAttempt> {
    let tag = LoginAttempt::tag(&attempt.state);
    let sealed = |attempt: &LoginAttempt| -> Result<String> {
        let plain = serde_json::to_vec(attempt).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(URL_SAFE_NO_PAD.encode(setup.ring.seal(place(&tag), &plain)))
    };
    let mut value = sealed(attempt)?;
    if value.len() > COOKIE_MAX {
        value = sealed(&LoginAttempt { return_to: ReturnTo::default(), ..attempt.clone() })?;
    }
    if value.len() > COOKIE_MAX {
        return Err(Error::InvalidRequest("The sign-in link asks for too much at once."));
    }
    Ok(SealedAttempt { tag, value })
}

fn open(setup: &Setup, cookie: &SealedAttempt) -> Option<LoginAttempt> {
    let sealed = URL_SAFE_NO_PAD.decode(&cookie.value).ok()?;
    let plain = setup.ring.open(place(&cookie.tag), &sealed).ok()?;
    serde_json::from_slice(&plain).ok()
}
