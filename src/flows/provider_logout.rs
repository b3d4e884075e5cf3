//! Logout by the provider: it tells us itself (back-channel), or a frame on its own page does (front-channel).
//!
//! A logout may overtake the login that it speaks of. Both take one lock and leave or look for one mark, and the logout wins.

use super::again::again;
use super::{Visitor, audit};
use crate::app::{App, Setup};
use crate::config::{self, ProviderKind};
use crate::domain::{Grant, LogoutToken};
use crate::error::{Error, Result};
use crate::providers::oidc::access_token::AGE_MAX_MS;
use crate::providers::{Provider, ProviderError};
use crate::store::ended_sids::{self, Name, Of};
use crate::store::{Writer, seen_logout_tokens, sessions, users};

/// A login is finished minutes after its provider made the session, at most: the life of an attempt, and a slow exchange.
const MARK_LIFE_MS: i64 = 15 * 60 * 1000;
/// Where programs bring tokens, the mark is what ends those that belong to no session of ours: as long as one may live.
const MARK_LIFE_FOR_TOKENS_MS: i64 = AGE_MAX_MS + 15 * 60 * 1000;

/// What became of a logout token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// So many sessions ended; none is fine too.
    Ended(usize),
    /// It was heard before, and had its effect then.
    Again,
}

/// Takes a provider's logout token (Back-Channel Logout 1.0, 2.5 to 2.8).
///
/// # Errors
/// [`Error::InvalidRequest`] for a token that is not to be believed, [`Error::TooMany`] for too many of those from one address,
/// [`Error::NotFound`] without such a provider, and the provider's or the database's outage, after which it may try again.
pub async fn hear(app: &App, provider_id: &str, token: &str, visitor: &Visitor) -> Result<Heard> {
    let setup = app.setup();
    let provider = setup.provider(provider_id).ok_or(Error::NotFound)?;
    let heard = match provider.read_logout_token(token).await {
        Ok(told) => {
            let acted = again(app, async || act(app, provider.as_ref(), &told, visitor).await).await;
            acted.map_err(Fault::Ours).and_then(|told| told.map_err(Fault::Bad))
        }
        Err(ProviderError::Protocol { reason, detail }) => {
            tracing::info!(provider = provider_id, reason, detail, "logout token refused");
            Err(Fault::Bad(reason))
        }
        Err(error) => Err(Fault::Ours(error.into())),
    };
    match heard {
        Ok(heard) => {
            app.metrics.logout("backchannel", if heard == Heard::Again { "replay" } else { "ok" });
            Ok(heard)
        }
        Err(Fault::Bad(reason)) => Err(refuse(app, &setup, provider_id, reason, visitor).await),
        Err(Fault::Ours(error)) => {
            app.metrics.logout("backchannel", error.reason());
            Err(error)
        }
    }
}

enum Fault {
    /// The token is to blame, for this reason.
    Bad(&'static str),
    Ours(Error),
}

/// Counts a refused token. Only those are limited: providers do not send a good one twice.
async fn refuse(app: &App, setup: &Setup, provider: &str, reason: &'static str, visitor: &Visitor) -> Error {
    app.metrics.logout("backchannel", reason);
    if let Some(rate) = setup.config.limits.bad_logout_tokens {
        let address = visitor.address.as_deref().unwrap_or_default();
        let (count, left_ms) = app.bad_logout_tokens.count(address, rate.window_ms, app.now_ms());
        if count > rate.count {
            let retry_after_s = u32::try_from(left_ms.div_euclid(1000) + 1).unwrap_or(u32::MAX);
            return Error::TooMany { retry_after_s };
        }
    }
    let refusal = audit::Refusal { event: "logout.refused", reason, provider: Some(provider) };
    audit::refusal(app, &refusal, visitor).await;
    Error::InvalidRequest("This logout token cannot be accepted.")
}

/// Everything that a logout token does, in one transaction: its mark against replay, the ends, and the marks for logins under way. The
/// inner error is the reason for which the token is refused after all.
async fn act(
    app: &App,
    provider: &dyn Provider,
    told: &LogoutToken,
    visitor: &Visitor,
) -> Result<Result<Heard, &'static str>> {
    let (id, now_ms) = (provider.config().id.as_str(), app.now_ms());
    let mut writer = app.store.writer().await?;
    lock(&mut writer, id, told).await?;
    if !seen_logout_tokens::take(&mut writer, id, &told.jti, told.forget_at_ms).await? {
        drop(writer);
        let refusal =
            audit::Refusal { event: "logout.refused", reason: "logout_token_replay", provider: Some(id) };
        audit::refusal(app, &refusal, visitor).await;
        return Ok(Ok(Heard::Again));
    }
    let person = match &told.subject {
        Some(subject) => users::find_by_identity(&mut writer, id, &told.issuer, subject).await?,
        None => None,
    };
    let mut user_id = person.map(|user| user.id);
    let ended = match &told.sid {
        Some(sid) => {
            let named = sessions::named_by_sid(&mut writer, id, &told.issuer, sid).await?;
            let is_theirs =
                |named: &sessions::NamedBySid| told.subject.as_ref().is_none_or(|sub| *sub == named.subject);
            if !named.iter().all(is_theirs) {
                return Ok(Err("logout_token_subject"));
            }
            user_id = user_id.or_else(|| named.into_iter().next().map(|named| named.user_id));
            sessions::end_by_sid(&mut writer, id, &told.issuer, sid, now_ms).await?
        }
        None => match &user_id {
            Some(user_id) => sessions::end_of_user(&mut writer, user_id, None, now_ms).await?,
            None => Vec::new(),
        },
    };
    // Keycloak's administrator ends six sessions and sends the `sid` of one: the others have to ask whether they are meant too.
    let is_partial = provider.config().kind == ProviderKind::Keycloak && told.sid.is_some();
    if let (true, Some(user_id)) = (is_partial, &user_id) {
        sessions::must_prove(&mut writer, user_id, id, &told.issuer, now_ms).await?;
    }
    mark(&mut writer, provider.config(), told, is_partial, now_ms).await?;
    record(
        app,
        &mut writer,
        &Ended { event: "logout.backchannel", provider: id, user_id: user_id.as_deref() },
        &ended,
        visitor,
    )
    .await?;
    writer.commit().await?;
    app.metrics.session_ended("backchannel", ended.len() as u64);
    Ok(Ok(Heard::Ended(ended.len())))
}

async fn lock(writer: &mut Writer, provider: &str, told: &LogoutToken) -> Result<()> {
    let sid = told.sid.as_deref().map(|sid| Name::new(provider, &told.issuer, Of::Sid(sid)));
    let subject = told.subject.as_deref().map(|sub| Name::new(provider, &told.issuer, Of::Subject(sub)));
    if let Some(one) = sid.as_ref().or(subject.as_ref()) {
        ended_sids::lock(writer, one, subject.as_ref().unwrap_or(one)).await?;
    }
    Ok(())
}

/// Leaves word for a login of the same session or person that is under way, and for bearer tokens.
async fn mark(
    writer: &mut Writer,
    provider: &config::Provider,
    told: &LogoutToken,
    is_partial: bool,
    now_ms: i64,
) -> Result<()> {
    let takes_tokens = provider.bearer != config::Bearer::Off;
    let until_ms = now_ms.saturating_add(if takes_tokens { MARK_LIFE_FOR_TOKENS_MS } else { MARK_LIFE_MS });
    let name = |of| Name::new(&provider.id, &told.issuer, of);
    match (&told.sid, &told.subject) {
        (Some(sid), _) => ended_sids::insert(writer, &name(Of::Sid(sid)), now_ms, until_ms).await?,
        (None, Some(sub)) => ended_sids::insert(writer, &name(Of::Subject(sub)), now_ms, until_ms).await?,
        (None, None) => {}
    }
    if let (true, Some(sub)) = (is_partial, &told.subject) {
        ended_sids::insert(writer, &name(Of::Doubted(sub)), now_ms, until_ms).await?;
    }
    Ok(())
}

/// Whether a login that is being finished may still become a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// The person was logged out elsewhere meanwhile, and the provider did not say of which sessions.
    Doubted,
}

/// The logouts that may have been faster than a login: of its session, of its person, and of an unnamed session of theirs.
#[derive(Debug)]
pub struct Rivals {
    pub names: [Name; 3],
    has_sid: bool,
}

/// Locks out logouts of the same session and person until the end of this transaction.
///
/// # Errors
/// The database's.
pub async fn lock_out(writer: &mut Writer, grant: &Grant) -> Result<Rivals> {
    let change = &grant.change;
    let name = |of| Name::new(&change.provider, &change.issuer, of);
    let subject = name(Of::Subject(&change.subject));
    let sid = grant.sid.as_deref().map_or_else(|| subject.clone(), |sid| name(Of::Sid(sid)));
    ended_sids::lock(writer, &sid, &subject).await?;
    Ok(Rivals { names: [sid, subject, name(Of::Doubted(&change.subject))], has_sid: grant.sid.is_some() })
}

impl Rivals {
    /// What those that were heard, if any, mean to a login whose provider was asked at `asked_at_ms`.
    ///
    /// # Errors
    /// [`Error::LoginFailed`] when the provider has ended this very session, or all of the person's since then.
    pub fn judge(&self, heard_at_ms: [Option<i64>; 3], asked_at_ms: i64) -> Result<Standing> {
        let [of_sid, of_person, of_others] = heard_at_ms;
        // A `sid` is never used again; a person signs in again, and only a logout since then concerns this login.
        let is_since = |at: Option<i64>| at.is_some_and(|at| at >= asked_at_ms);
        if (self.has_sid && of_sid.is_some()) || is_since(of_person) {
            return Err(Error::LoginFailed("logged_out_meanwhile"));
        }
        Ok(if is_since(of_others) { Standing::Doubted } else { Standing::Good })
    }
}

/// Ends the session that a frame on the provider's page names (Front-Channel Logout 1.0), and nothing else. Returns the issuer, which
/// alone may show the frame.
///
/// # Errors
/// [`Error::NotFound`] without such a provider, [`Error::InvalidRequest`] for another's issuer, or the database's.
pub async fn frame(
    app: &App,
    provider_id: &str,
    issuer: &str,
    sid: &str,
    visitor: &Visitor,
) -> Result<String> {
    let setup = app.setup();
    let config = setup.provider(provider_id).ok_or(Error::NotFound)?.config();
    if config.issuer != issuer {
        return Err(Error::InvalidRequest("iss is not the issuer of this provider."));
    }
    // Anybody may ask: who guesses costs a read, and no writer's time.
    let mut reader = app.store.reader().await?;
    let named = sessions::named_by_sid(&mut reader, &config.id, issuer, sid).await?;
    drop(reader);
    if let Some(session) = named.first() {
        let mut writer = app.store.writer().await?;
        let ended = sessions::end_by_sid(&mut writer, &config.id, issuer, sid, app.now_ms()).await?;
        let of =
            Ended { event: "logout.frontchannel", provider: &config.id, user_id: Some(&session.user_id) };
        record(app, &mut writer, &of, &ended, visitor).await?;
        writer.commit().await?;
        app.metrics.session_ended("frontchannel", ended.len() as u64);
    }
    app.metrics.logout("frontchannel", if named.is_empty() { "nothing_to_end" } else { "ok" });
    Ok(config.issuer.clone())
}

struct Ended<'a> {
    event: &'static str,
    provider: &'a str,
    user_id: Option<&'a str>,
}

/// One row for each session, and one for a logout that found none.
async fn record(
    app: &App,
    writer: &mut Writer,
    of: &Ended<'_>,
    sessions: &[String],
    visitor: &Visitor,
) -> Result<()> {
    let ids = sessions.iter().map(|id| Some(id.as_str()));
    let none = sessions.is_empty().then_some(None);
    for session_id in ids.chain(none) {
        let deed =
            audit::Deed { event: of.event, provider: Some(of.provider), user_id: of.user_id, session_id };
        audit::deed(app, writer, &deed, visitor).await?;
    }
    Ok(())
}
