//! `POST /auth/refresh`: an API client brings its refresh token, and proves with it that the session is its own.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use subtle::ConstantTimeEq as _;

use super::super::session::{self, Guest};
use super::super::{Visitor, audit};
use super::flight::Quest;
use crate::app::App;
use crate::domain::{SessionKind, Tokens};
use crate::error::{Error, Result};
use crate::store::sessions::refresh;
use crate::store::{sessions, users};

/// A client that lost our answer may ask again with the token it has.
const GRACE_MS: i64 = 10_000;
/// As long as a lease and one call: then the client is told to come back.
const WAIT: Duration = Duration::from_secs(20);

/// What a client's token is worth.
enum Standing {
    /// It was just replaced: the same answer again.
    Replaced(Tokens),
    /// It is the one to renew.
    Current(Box<Guest>),
}

/// Renews an API session's tokens for who holds its refresh token. The token is compared before the provider is asked; a session that is
/// unknown, over, a browser's, or another's all look alike.
///
/// # Errors
/// [`Error::SessionEnded`], [`Error::RefreshTokenReused`] (and the session ends), [`Error::ProviderDown`] while the provider gives no
/// new tokens, or the database's.
pub async fn for_client(
    app: &Arc<App>,
    session_id: &str,
    token: &SecretString,
    visitor: &Visitor,
) -> Result<Tokens> {
    let renewed = renewed(app, session_id, token, visitor).await;
    if let Err(error @ (Error::SessionEnded | Error::RefreshTokenReused)) = &renewed {
        let refusal = audit::Refusal { event: "refresh.refused", reason: error.reason(), provider: None };
        audit::refusal(app, &refusal, visitor).await;
    }
    renewed
}

async fn renewed(
    app: &Arc<App>,
    session_id: &str,
    token: &SecretString,
    visitor: &Visitor,
) -> Result<Tokens> {
    let guest = match judge(app, session_id, token, visitor).await? {
        Standing::Replaced(tokens) => return Ok(tokens),
        Standing::Current(guest) => guest,
    };
    let (_, done) = super::begin(app, Quest::new(&guest, true));
    let _ = tokio::time::timeout(WAIT, done.wait()).await;
    match judge(app, session_id, token, visitor).await? {
        Standing::Replaced(tokens) => Ok(tokens),
        Standing::Current(_) => Err(Error::ProviderDown("the tokens could not be renewed".to_owned())),
    }
}

async fn judge(app: &App, session_id: &str, token: &SecretString, visitor: &Visitor) -> Result<Standing> {
    let setup = app.setup();
    let now_ms = app.now_ms();
    let mut reader = app.store.reader().await?;
    let mut session = sessions::find(&mut reader, session_id).await?.ok_or(Error::SessionEnded)?;
    session::count_activity(app, &mut session);
    if session.kind != SessionKind::Api || !session.is_alive(now_ms, setup.config.session.idle_ms) {
        return Err(Error::SessionEnded);
    }
    let user = users::find(&mut reader, &session.user_id).await?.ok_or(Error::SessionEnded)?;
    let stored = refresh::stored(&mut reader, session_id).await?.ok_or(Error::SessionEnded)?;
    drop(reader);
    if user.admit().is_err() {
        return Err(Error::SessionEnded);
    }
    let guest = Guest { user, session };
    let tokens = match stored.sealed.open(&setup.ring) {
        Ok(tokens) => tokens,
        Err(error) => {
            session::undecryptable(app, &error, visitor).await;
            end(app, &guest, "tokens_unreadable", visitor).await?;
            return Err(Error::SessionEnded);
        }
    };
    // Of equal length whatever was sent, so that comparing tells nothing.
    let brought = Tokens::hash(token);
    let is = |known: Option<&[u8]>| known.is_some_and(|known| bool::from(known.ct_eq(&brought)));
    let is_previous = is(stored.previous_hash.as_deref());
    let is_current = is(tokens.refresh.as_ref().map(Tokens::hash).as_deref());
    let is_recent = stored.refreshed_at_ms.is_some_and(|at_ms| now_ms < at_ms.saturating_add(GRACE_MS));
    match (is_previous, is_current) {
        (true, _) if is_recent => Ok(Standing::Replaced(tokens)),
        (_, true) => Ok(Standing::Current(Box::new(guest))),
        (true, false) => {
            end(app, &guest, "refresh_token_reused", visitor).await?;
            Err(Error::RefreshTokenReused)
        }
        (false, false) => Err(Error::SessionEnded),
    }
}

async fn end(app: &App, guest: &Guest, reason: &'static str, visitor: &Visitor) -> Result<()> {
    let mut writer = app.store.writer().await?;
    if !sessions::end(&mut writer, &guest.session.id, app.now_ms()).await? {
        return Ok(());
    }
    let deed = audit::Deed {
        event: "session.ended",
        provider: Some(&guest.session.provider),
        user_id: Some(&guest.user.id),
        session_id: Some(&guest.session.id),
    };
    audit::consequence(app, &mut writer, &deed, reason, visitor).await?;
    writer.commit().await?;
    app.metrics.session_ended(reason, 1);
    Ok(())
}
