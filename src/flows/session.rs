//! A session's life: opened by a login, found by its key, ended by many hands. Only this flow writes session rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::again::again;
use super::provider_logout::{self, Standing};
use super::recognise;
use super::{Visitor, audit, refresh};
use crate::app::{App, Setup};
use crate::crypto::OpenError;
use crate::domain::{Grant, NewSession, Renewal, Session, SessionKey, SessionKind, Tokens, User, clock};
use crate::error::{Error, Result};
use crate::store::users::{self, Applied, Outcome, Road};
use crate::store::{Ticket, Writer, sessions};

const USER_AGENT_MAX: usize = 512;

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub user: User,
    pub session: Session,
}

/// A session that has just been opened; its key is known to nobody else.
#[derive(Debug)]
pub struct Opened {
    pub guest: Guest,
    pub key: SessionKey,
}

/// Writes user and session of a verified login in one transaction; the browser's previous session ends in it too.
///
/// # Errors
/// A person who may not come in, an id that another identity holds, or the database's.
pub async fn open(app: &App, setup: &Setup, entrance: Entrance<'_>, visitor: &Visitor) -> Result<Opened> {
    let Entrance { grant, kind, previous } = entrance;
    let now_ms = app.now_ms();
    let ticket = app.store.ticket();
    let mut writer = app.store.writer().await?;
    let rivals = provider_logout::lock_out(&mut writer, &grant).await?;
    let applied = users::apply(&mut writer, &grant.change, Road::Login, now_ms).await?;
    let user = admitted(app, &mut writer, applied, visitor).await;
    let user = match user {
        Ok(user) => user,
        // What the provider said of the person is kept, although it keeps them out.
        Err(refused) => {
            writer.commit().await?;
            return Err(refused);
        }
    };
    let replaced = end_previous(&mut writer, previous, now_ms).await?;
    let mut new = new_session(app, setup, &user, grant, visitor);
    new.session.kind = kind;
    let deed = audit::Deed {
        event: "login",
        provider: Some(&user.provider),
        user_id: Some(&user.id),
        session_id: Some(&new.session.id),
    };
    audit::deed(app, &mut writer, &deed, visitor).await?;
    // Everything above waits for this statement, which answers all that is still to be known; should it say no, none of it happened.
    let inserted = sessions::insert(&mut writer, &new, &setup.ring, Some(&rivals.names)).await?;
    let standing = rivals.judge(inserted.logouts, previous.asked_at_ms.unwrap_or(now_ms))?;
    if standing == Standing::Doubted {
        sessions::must_prove(&mut writer, &user.id, &user.provider, &user.issuer, now_ms).await?;
    }
    let keep = setup.config.limits.sessions_per_user;
    let ended = if inserted.stored < i64::from(keep) {
        Vec::new()
    } else {
        sessions::end_oldest_beyond(&mut writer, &user.id, keep, now_ms).await?
    };
    for (reason, ids) in [("replaced", &replaced), ("too_many", &ended)] {
        for id in ids {
            let deed = audit::Deed { event: "session.ended", session_id: Some(id), ..deed };
            audit::consequence(app, &mut writer, &deed, reason, visitor).await?;
        }
    }
    writer.commit().await?;
    app.metrics.session_ended("too_many", ended.len() as u64);
    let guest = Guest { user, session: new.session };
    // The page that the login leads to is asked for next. A session that must prove itself is never remembered.
    if kind == SessionKind::Browser && standing == Standing::Good {
        recognise::remember(app, setup, new.key.hash(), ticket, &guest);
    }
    Ok(Opened { guest, key: new.key })
}

/// A verified login on its way in.
#[derive(Debug)]
pub struct Entrance<'a> {
    pub grant: Grant,
    /// An *api* session's key is drawn like any other, and handed to nobody.
    pub kind: SessionKind,
    pub previous: Previous<'a>,
}

/// The sessions that a browser had before; a new login ends them (session fixation, security.md SE-02).
#[derive(Debug, Clone, Copy, Default)]
pub struct Previous<'a> {
    /// By the cookie that came with the callback.
    pub key: Option<&'a SessionKey>,
    /// By the handle sealed when the login began: a cross-site form post brings no session cookie.
    pub id: Option<&'a str>,
    /// When the provider was asked for this login, by our clock; a logout of the person heard since then wins over it.
    pub asked_at_ms: Option<i64>,
}

async fn end_previous(writer: &mut Writer, previous: Previous<'_>, now_ms: i64) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    if let Some(key) = previous.key
        && let Some((old, _)) = sessions::find_by_key_hash(writer, &key.hash()).await?
        && sessions::end(writer, &old.id, now_ms).await?
    {
        ended.push(old.id);
    }
    if let Some(id) = previous.id
        && sessions::end(writer, id, now_ms).await?
    {
        ended.push(id.to_owned());
    }
    Ok(ended)
}

async fn admitted(app: &App, writer: &mut Writer, applied: Applied, visitor: &Visitor) -> Result<User> {
    let user = applied.user;
    // A deleted person who signs in again stays deleted: the tombstone wins over late news of any kind.
    user.admit().map_err(Error::Denied)?;
    let news = [
        (applied.outcome == Outcome::Created, "user.created"),
        (applied.moved_issuer, "user.moved_issuer"),
        // A newcomer's address can be another user's as well (security.md ID-07).
        (applied.email_shared, "user.email_shared"),
    ];
    for (_, event) in news.into_iter().filter(|(happened, _)| *happened) {
        let deed =
            audit::Deed { event, provider: Some(&user.provider), user_id: Some(&user.id), session_id: None };
        audit::deed(app, writer, &deed, visitor).await?;
    }
    Ok(user)
}

fn new_session(app: &App, setup: &Setup, user: &User, grant: Grant, visitor: &Visitor) -> NewSession {
    let now_ms = app.now_ms();
    let Grant { tokens, sid, auth_time_ms, acr, .. } = grant;
    let follows_token =
        setup.config.providers.iter().any(|p| p.id == user.provider && p.session_follows_token);
    let overall_end = now_ms.saturating_add(setup.config.session.overall_ms);
    let token_end = tokens.access_expires_at_ms.filter(|_| follows_token && tokens.refresh.is_none());
    let session = Session {
        id: clock::token_128(&*app.random),
        kind: SessionKind::Browser,
        user_id: user.id.clone(),
        provider: user.provider.clone(),
        issuer: user.issuer.clone(),
        provider_session_id: sid,
        token_expires_at_ms: tokens.access_expires_at_ms,
        refresh_expires_at_ms: tokens.refresh_expires_at_ms,
        ip: visitor.address.clone(),
        user_agent: visitor.user_agent.as_ref().map(|agent| agent.chars().take(USER_AGENT_MAX).collect()),
        created_at_ms: now_ms,
        last_active_at_ms: now_ms,
        expires_at_ms: token_end.map_or(overall_end, |end| end.min(overall_end)),
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms,
        acr,
        scope: tokens.scope.clone(),
        renewal: Renewal { has_token: tokens.refresh.is_some(), ..Renewal::default() },
    };
    NewSession { session, key: SessionKey::draw(&*app.random), tokens }
}

/// The guest that a key belongs to, while the session lives and the user may be here.
///
/// Its tokens are renewed on the way where that is due.
///
/// # Errors
/// The database's, or [`Error::ProviderDown`] for a session that must prove itself and cannot now.
pub async fn find(app: &Arc<App>, key: &SessionKey) -> Result<Option<Guest>> {
    Ok(find_anew(app, key).await?.map(|(guest, _)| guest))
}

/// As [`find`], with the ticket by which what was read may be remembered.
pub(super) async fn find_anew(app: &Arc<App>, key: &SessionKey) -> Result<Option<(Guest, Ticket)>> {
    let mut ticket = app.store.ticket();
    let Some(mut guest) = read(app, key).await? else { return Ok(None) };
    if refresh::keep(app, &guest).await {
        // What the winner stored is true for everybody who waited; so is an end that came meanwhile.
        ticket = app.store.ticket();
        let Some(again) = read(app, key).await? else { return Ok(None) };
        guest = again;
    }
    if guest.session.renewal.must_prove {
        return Err(Error::ProviderDown("a logout elsewhere could not be ruled out".to_owned()));
    }
    Ok(Some((guest, ticket)))
}

async fn read(app: &App, key: &SessionKey) -> Result<Option<Guest>> {
    let mut reader = app.store.reader().await?;
    let mut found = sessions::find_by_key_hash(&mut reader, &key.hash()).await?;
    drop(reader);
    if let Some((session, _)) = &mut found {
        count_activity(app, session);
    }
    let idle_ms = app.setup().config.session.idle_ms;
    let welcome = |(session, user): &(Session, User)| {
        // An api session's key was handed to nobody: who brings one cannot have it from us.
        let is_browser = session.kind == SessionKind::Browser;
        is_browser && session.is_alive(app.now_ms(), idle_ms) && user.admit().is_ok()
    };
    Ok(found.filter(welcome).map(|(session, user)| Guest { user, session }))
}

/// Whether a session lives and its user may be here, by its handle; for who holds an answer open and was let in before.
///
/// # Errors
/// The database's.
pub async fn still_open(app: &App, session_id: &str) -> Result<Option<Session>> {
    let mut reader = app.store.reader().await?;
    let idle_ms = app.setup().config.session.idle_ms;
    let mut found = sessions::find(&mut reader, session_id).await?;
    if let Some(session) = &mut found {
        count_activity(app, session);
    }
    Ok(found.filter(|session| session.is_alive(app.now_ms(), idle_ms)))
}

/// A use that is not written yet counts as well.
pub(super) fn count_activity(app: &App, session: &mut Session) {
    if let Some(at_ms) = app.activity.latest(&session.id) {
        session.last_active_at_ms = session.last_active_at_ms.max(at_ms);
    }
}

/// The user's live sessions, newest first.
///
/// # Errors
/// The database's.
pub async fn list(app: &App, guest: &Guest) -> Result<Vec<Session>> {
    let idle_ms = app.setup().config.session.idle_ms;
    let mut reader = app.store.reader().await?;
    let mut live = sessions::list_live_of_user(&mut reader, &guest.user.id, app.now_ms(), idle_ms).await?;
    live.sort_by_key(|session| std::cmp::Reverse(session.last_active_at_ms));
    Ok(live)
}

/// Ends one of the guest's own sessions; somebody else's does not exist for them.
///
/// # Errors
/// [`Error::NotFound`] for a session that is not the guest's or not alive, or the database's.
pub async fn end_one(app: &App, guest: &Guest, session_id: &str, visitor: &Visitor) -> Result<()> {
    again(app, async || {
        let mut writer = app.store.writer().await?;
        let own =
            sessions::find(&mut writer, session_id).await?.filter(|session| session.user_id == guest.user.id);
        let live = own.filter(|session| session.revoked_at_ms.is_none()).ok_or(Error::NotFound)?;
        sessions::end(&mut writer, &live.id, app.now_ms()).await?;
        let deed = audit::Deed {
            event: "session.revoked",
            provider: Some(&live.provider),
            user_id: Some(&guest.user.id),
            session_id: Some(&live.id),
        };
        audit::deed(app, &mut writer, &deed, visitor).await?;
        Ok(writer.commit().await?)
    })
    .await?;
    app.metrics.session_ended("revoked", 1);
    Ok(())
}

/// Which of a guest's sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Others,
    All,
}

/// Ends the guest's sessions, all or all but this one; returns how many.
///
/// # Errors
/// The database's.
pub async fn end_many(app: &App, guest: &Guest, extent: Extent, visitor: &Visitor) -> Result<usize> {
    let spared = (extent == Extent::Others).then_some(guest.session.id.as_str());
    let ended = again(app, async || {
        let mut writer = app.store.writer().await?;
        let ended = sessions::end_of_user(&mut writer, &guest.user.id, spared, app.now_ms()).await?;
        for id in &ended {
            let deed = audit::Deed {
                event: "session.revoked",
                provider: Some(&guest.user.provider),
                user_id: Some(&guest.user.id),
                session_id: Some(id),
            };
            audit::deed(app, &mut writer, &deed, visitor).await?;
        }
        writer.commit().await?;
        Ok(ended.len())
    })
    .await?;
    app.metrics.session_ended("revoked", ended as u64);
    Ok(ended)
}

/// Ends the session of a key, if it still lives; returns its guest and the tokens it held.
///
/// # Errors
/// The database's.
pub async fn end_by_key(
    app: &App,
    key: &SessionKey,
    visitor: &Visitor,
) -> Result<Option<(Guest, Option<Tokens>)>> {
    let setup = app.setup();
    let ended = again(app, async || {
        let mut writer = app.store.writer().await?;
        let found = sessions::find_by_key_hash(&mut writer, &key.hash()).await?;
        let Some((session, user)) = found.filter(|(session, _)| session.revoked_at_ms.is_none()) else {
            return Ok(None);
        };
        let sealed = sessions::tokens(&mut writer, &session.id).await?;
        sessions::end(&mut writer, &session.id, app.now_ms()).await?;
        let deed = audit::Deed {
            event: "logout",
            provider: Some(&session.provider),
            user_id: Some(&user.id),
            session_id: Some(&session.id),
        };
        audit::deed(app, &mut writer, &deed, visitor).await?;
        writer.commit().await?;
        Ok(Some((session, user, sealed)))
    });
    let Some((session, user, sealed)) = ended.await? else { return Ok(None) };
    app.metrics.session_ended("logout", 1);
    let tokens = match sealed.map(|sealed| sealed.open(&setup.ring)) {
        Some(Err(error)) => {
            undecryptable(app, &error, visitor).await;
            None
        }
        opened => opened.and_then(std::result::Result::ok),
    };
    Ok(Some((Guest { user, session }, tokens)))
}

pub(super) async fn undecryptable(app: &App, error: &OpenError, visitor: &Visitor) {
    app.metrics.crypt_decrypt_fail(error.word());
    tracing::error!(%error, "stored tokens do not open");
    audit::refusal(
        app,
        &audit::Refusal { event: "crypt_decrypt_fail", reason: error.word(), provider: None },
        visitor,
    )
    .await;
}

/// The claims that the operator lets the browser see, from the session's own ID token.
///
/// # Errors
/// [`Error::NotSignedIn`] when the stored tokens do not open, or the database's.
pub async fn exposed_claims(app: &App, guest: &Guest, visitor: &Visitor) -> Result<BTreeMap<String, Value>> {
    let setup = app.setup();
    let names = &setup.config.session.expose_claims;
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut reader = app.store.reader().await?;
    // Ended since the guest was read.
    let sealed = sessions::tokens(&mut reader, &guest.session.id).await?.ok_or(Error::NotSignedIn)?;
    drop(reader);
    let tokens = match sealed.open(&setup.ring) {
        Ok(tokens) => tokens,
        // A row that does not open is no session (security.md CR-08).
        Err(error) => {
            undecryptable(app, &error, visitor).await;
            return match end_one(app, guest, &guest.session.id, visitor).await {
                // Gone already: a neighbouring request met the same damage and was faster.
                Ok(()) | Err(Error::NotFound) => Err(Error::NotSignedIn),
                Err(error) => Err(error),
            };
        }
    };
    let claims = tokens.id.as_ref().and_then(|token| payload(token.expose_secret())).unwrap_or_default();
    Ok(claims.into_iter().filter(|(name, _)| names.contains(name)).collect())
}

/// The payload of a token that was verified before it was stored.
fn payload(token: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
