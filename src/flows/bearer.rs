//! Bearer tokens: an API client brings its access token instead of a cookie.
//!
//! The provider's word says what the token is; our own memory says whether it may still be used here (security.md decision 2: what cannot
//! be known is refused). Nothing of that memory is cached, so that a local end is true for the next request.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::again::again;
use super::session::{Guest, count_activity};
use super::{Visitor, audit};
use crate::app::{App, Setup};
use crate::config;
use crate::domain::{AccessToken, Renewal, Session, SessionKind, User};
use crate::error::{Error, Result};
use crate::providers::oidc::access_token::Brought;
use crate::providers::{Provider, ProviderError};
use crate::store::ended_sids::{self, Name, Of};
use crate::store::users::{self, Outcome, Road};
use crate::store::{Reader, sessions};

/// Who brought a token that counts.
#[derive(Clone)]
pub struct Bearer {
    /// The session is a row of ours where the token belongs to one. Else it is the token's own, from its issue to its end: no row, and a
    /// handle that is the same for the same token.
    pub guest: Guest,
    /// Whether `guest.session` is a row of ours.
    pub is_tied: bool,
    token: SecretString,
    access: Arc<AccessToken>,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer")
            .field("guest", &self.guest)
            .field("is_tied", &self.is_tied)
            .finish_non_exhaustive()
    }
}

impl Bearer {
    /// The token itself, for an app that is to have it.
    #[must_use]
    pub fn token(&self) -> &SecretString {
        &self.token
    }
}

/// Whether any provider's tokens are taken at all; else an `Authorization` header means nothing here.
#[must_use]
pub fn is_on(setup: &Setup) -> bool {
    setup.config.providers.iter().any(|provider| provider.bearer != config::Bearer::Off)
}

/// Checks a token in full and finds whom it speaks for. A person or program that was never here gets a row, so that they can be suspended.
///
/// # Errors
/// [`Error::InvalidToken`], [`Error::TokenRevoked`] where it is good and its session or user here is not, [`Error::TooMany`] after too
/// many that the provider was asked about for nothing, [`Error::NotAllowed`] where a required claim is missing, and the provider's or the
/// database's outage.
pub async fn identify(app: &App, token: &SecretString, visitor: &Visitor) -> Result<Bearer> {
    let setup = app.setup();
    let mut judged_by = None;
    let found = find(app, &setup, token, &mut judged_by, visitor).await;
    let outcome = found.as_ref().map_or_else(Error::reason, |_| "ok");
    app.metrics.bearer(judged_by.as_deref().unwrap_or_default(), outcome);
    if let Err(error @ (Error::InvalidToken(_) | Error::TokenRevoked | Error::NotAllowed)) = &found
        && outcome != EXPIRED
    {
        let refusal =
            audit::Refusal { event: "bearer.refused", reason: outcome, provider: judged_by.as_deref() };
        audit::refusal(app, &refusal, visitor).await;
        tracing::info!(reason = error.reason(), "a bearer token was refused");
    }
    found
}

/// What every client meets with every token is nothing to write down.
const EXPIRED: &str = "access_token_expired";

async fn find(
    app: &App,
    setup: &Setup,
    token: &SecretString,
    judged_by: &mut Option<String>,
    visitor: &Visitor,
) -> Result<Bearer> {
    let text = token.expose_secret();
    let brought = Brought::read(text).map_err(refusal)?;
    let mut candidates = setup.providers().iter().filter(|provider| provider.may_have_issued(&brought));
    let unclaimed = if brought.is_opaque() { "token_malformed" } else { "access_token_iss" };
    let mut provider = candidates.next().ok_or(Error::InvalidToken(unclaimed))?;
    let others: Vec<_> = candidates.collect();
    // To ask several providers about an opaque token would show each of them the others' tokens.
    if brought.is_opaque() && !others.is_empty() {
        return Err(Error::InvalidToken(unclaimed));
    }
    let mut rest = others.into_iter();
    let access = loop {
        *judged_by = Some(provider.config().id.clone());
        match (read(app, provider.as_ref(), &brought, text, visitor).await, rest.next()) {
            // One issuer may be configured twice, with a client each.
            (Err(Error::InvalidToken(_)), Some(next)) => provider = next,
            (read, _) => break read?,
        }
    };
    let standing = standing(app, provider.config(), text, &access).await?;
    let (guest, is_tied) = match standing {
        Standing::Good(guest, is_tied) => (*guest, is_tied),
        Standing::Doubted(guest, is_tied) => {
            vouched(provider.as_ref(), token, &access.change.subject).await?;
            (*guest, is_tied)
        }
        Standing::Unknown => {
            (own_guest(text, &access, create(app, &access, visitor).await?, app.now_ms()), false)
        }
        Standing::Unentitled => return Err(Error::NotAllowed),
        Standing::Over => return Err(Error::TokenRevoked),
    };
    Ok(Bearer { guest, is_tied, token: token.clone(), access })
}

/// The provider's word on a token. Who brings many that it does not know is not asked for any more: they would take the places of logins.
async fn read(
    app: &App,
    provider: &dyn Provider,
    brought: &Brought<'_>,
    text: &str,
    visitor: &Visitor,
) -> Result<Arc<AccessToken>> {
    let is_asked = provider.config().bearer == config::Bearer::Introspection && !provider.knows_token(text);
    let rate = app.setup().config.limits.bad_bearer_tokens.filter(|_| is_asked);
    let address = visitor.address.as_deref().unwrap_or_default();
    if let Some(rate) = &rate {
        let (count, left_ms) = app.bad_bearer_tokens.so_far(address, rate.window_ms, app.now_ms());
        if count >= rate.count {
            let retry_after_s = u32::try_from(left_ms.div_euclid(1000) + 1).unwrap_or(u32::MAX);
            return Err(Error::TooMany { retry_after_s });
        }
    }
    let read = provider.read_access_token(brought).await.map_err(refusal);
    if let (Err(Error::InvalidToken(_)), Some(rate)) = (&read, &rate) {
        app.bad_bearer_tokens.count(address, rate.window_ms, app.now_ms());
    }
    read
}

fn refusal(error: ProviderError) -> Error {
    match error {
        ProviderError::Protocol { reason, detail } => {
            tracing::debug!(reason, detail, "a bearer token does not count");
            Error::InvalidToken(reason)
        }
        ProviderError::Revoked => Error::InvalidToken("access_token_inactive"),
        other => other.into(),
    }
}

/// What we remember of a token's session and user.
enum Standing {
    Good(Box<Guest>, bool),
    /// The person was logged out elsewhere, and the provider did not say of which sessions.
    Doubted(Box<Guest>, bool),
    /// Nobody of ours yet.
    Unknown,
    /// It lacks a required claim, and no login here has found it elsewhere.
    Unentitled,
    /// The session was ended, or the user may not be here.
    Over,
}

async fn standing(
    app: &App,
    config: &config::Provider,
    text: &str,
    access: &AccessToken,
) -> Result<Standing> {
    let mut reader = app.store.reader().await?;
    if let Some(standing) = of_session(app, &mut reader, config, access).await? {
        return Ok(standing);
    }
    let now_ms = app.now_ms();
    let change = &access.change;
    let name = |of| Name::new(&config.id, &change.issuer, of);
    let subject = name(Of::Subject(&change.subject));
    let sid = access.sid.as_deref().map_or_else(|| subject.clone(), |sid| name(Of::Sid(sid)));
    let doubted = name(Of::Doubted(&change.subject));
    let [of_sid, of_person, of_others] =
        ended_sids::find(&mut reader, [&sid, &subject, &doubted], now_ms).await?;
    let concerns =
        |at: Option<i64>| at.is_some_and(|at| access.issued_at_ms.is_none_or(|issued| issued <= at));
    if (access.sid.is_some() && of_sid.is_some()) || concerns(of_person) {
        return Ok(Standing::Over);
    }
    if access.lacks_required_claim {
        return Ok(Standing::Unentitled);
    }
    let user = users::find_by_identity(&mut reader, &config.id, &change.issuer, &change.subject).await?;
    let Some(user) = user else { return Ok(Standing::Unknown) };
    if user.admit().is_err() {
        return Ok(Standing::Over);
    }
    let guest = Box::new(own_guest(text, access, user, now_ms));
    Ok(if concerns(of_others) { Standing::Doubted(guest, false) } else { Standing::Good(guest, false) })
}

/// The standing of a token that belongs to a session of ours; `None` where it belongs to none.
async fn of_session(
    app: &App,
    reader: &mut Reader,
    config: &config::Provider,
    access: &AccessToken,
) -> Result<Option<Standing>> {
    let Some(sid) = &access.sid else { return Ok(None) };
    let (now_ms, idle_ms) = (app.now_ms(), app.setup().config.session.idle_ms);
    let change = &access.change;
    let mut rows = sessions::by_sid(reader, &config.id, sid).await?;
    // A session that was begun before the provider's host moved has the old name.
    rows.retain(|(session, _)| {
        session.issuer == change.issuer || config.former_issuers.contains(&session.issuer)
    });
    for (session, _) in &mut rows {
        count_activity(app, session);
    }
    let is_over = rows.iter().any(|(session, _)| {
        // A browser that was left alone says nothing of a program that came by the same sign-in; an end does.
        session.revoked_at_ms.is_some() || session.kind == SessionKind::Api
    });
    let live = rows.into_iter().find(|(session, _)| session.is_alive(now_ms, idle_ms));
    let Some((session, user)) = live else { return Ok(is_over.then_some(Standing::Over)) };
    if user.subject != change.subject || user.admit().is_err() {
        return Ok(Some(Standing::Over));
    }
    let is_doubted = session.renewal.must_prove;
    let guest = Box::new(Guest { user, session });
    Ok(Some(if is_doubted { Standing::Doubted(guest, true) } else { Standing::Good(guest, true) }))
}

/// Asks the provider whether it still honours the token.
async fn vouched(provider: &dyn Provider, token: &SecretString, subject: &str) -> Result<()> {
    provider.vouch(token, subject).await.map_err(|error| match error {
        ProviderError::Revoked => Error::TokenRevoked,
        error => refusal(error),
    })
}

/// The first row of somebody who never signed in here, by the one upsert that all news goes through. It is no login.
async fn create(app: &App, access: &AccessToken, visitor: &Visitor) -> Result<User> {
    let user = again(app, async || {
        let mut writer = app.store.writer().await?;
        let applied = users::apply(&mut writer, &access.change, Road::Sync, app.now_ms()).await?;
        let user = applied.user;
        if applied.outcome == Outcome::Created {
            let (provider, user_id) = (Some(user.provider.as_str()), Some(user.id.as_str()));
            let deed = audit::Deed { event: "user.created", provider, user_id, session_id: None };
            audit::deed(app, &mut writer, &deed, visitor).await?;
        }
        writer.commit().await?;
        Ok(user)
    })
    .await?;
    if user.admit().is_err() { Err(Error::TokenRevoked) } else { Ok(user) }
}

/// A token without a session of ours is a session by itself. Unless what is stored of the user is newer, its word on roles counts;
/// an access token says too little of a person to be written down.
fn own_guest(text: &str, access: &AccessToken, mut user: User, now_ms: i64) -> Guest {
    let change = &access.change;
    if change.observed_at_ms >= user.synced_at_ms {
        if access.says_roles {
            user.roles.clone_from(&change.roles);
        }
        if access.says_groups {
            user.groups.clone_from(&change.groups);
        }
        if change.profile.tenant_id.is_some() {
            user.profile.tenant_id.clone_from(&change.profile.tenant_id);
        }
    }
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()));
    let session = Session {
        id: format!("token-{}", hash.get(..22).unwrap_or_default()),
        kind: SessionKind::Api,
        user_id: user.id.clone(),
        provider: change.provider.clone(),
        issuer: change.issuer.clone(),
        provider_session_id: access.sid.clone(),
        token_expires_at_ms: access.expires_at_ms,
        refresh_expires_at_ms: None,
        ip: None,
        user_agent: None,
        created_at_ms: access.issued_at_ms.unwrap_or(now_ms),
        last_active_at_ms: now_ms,
        expires_at_ms: access.expires_at_ms.unwrap_or(i64::MAX),
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms: access.auth_time_ms,
        acr: access.acr.clone(),
        scope: access.scope.clone(),
        renewal: Renewal::default(),
    };
    Guest { user, session }
}

/// Whether a token without a session of ours still counts, by its time and our own memory; for who holds an answer open.
///
/// # Errors
/// The database's.
pub async fn still_open(app: &App, bearer: &Bearer) -> Result<bool> {
    let is_over = bearer.access.expires_at_ms.is_some_and(|at_ms| app.now_ms() >= at_ms);
    let setup = app.setup();
    let provider =
        setup.provider(&bearer.guest.user.provider).filter(|p| p.config().bearer != config::Bearer::Off);
    let Some(provider) = provider.filter(|_| !is_over) else { return Ok(false) };
    let text = bearer.token.expose_secret();
    Ok(matches!(standing(app, provider.config(), text, &bearer.access).await?, Standing::Good(..)))
}
