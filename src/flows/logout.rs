//! Logout by the person: the row first, then the provider, best effort.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::again::again;
use super::audit::{self, Refusal};
use super::{Visitor, session};
use crate::app::{App, Setup};
use crate::crypto::seal::Place;
use crate::domain::{ReturnTo, SessionKey, SessionKind, Tokens, clock};
use crate::error::{Error, Result};
use crate::providers::Provider;
use crate::store::sessions;

/// How long the way back from the provider's logout may take before its `return_to` is forgotten.
const WAY_BACK_MS: i64 = 5 * 60 * 1000;
/// A slow provider does not hold up somebody who wants to leave (security.md RT-09).
const FAREWELL: Duration = Duration::from_secs(2);

/// Where a logout leads.
#[derive(Debug)]
pub struct Left {
    /// The provider's own logout, when it has one.
    pub provider_url: Option<url::Url>,
    /// The provider whose own session may still be open, because it could not be told.
    pub left_open: Option<String>,
    pub return_to: Option<ReturnTo>,
}

/// Travels through the provider as `state`, sealed, so that nothing of it can be read or forged.
#[derive(Serialize, Deserialize)]
struct WayBack {
    return_to: ReturnTo,
    at_ms: i64,
}

/// Ends this browser's session and says where to go next. Succeeds locally whatever the provider does.
///
/// # Errors
/// The database's: a session that could not be ended is not called ended.
pub async fn leave(
    app: &App,
    key: Option<&SessionKey>,
    return_to: Option<ReturnTo>,
    visitor: &Visitor,
) -> Result<Left> {
    let ended = match key {
        Some(key) => session::end_by_key(app, key, visitor).await?,
        None => None,
    };
    let Some((guest, tokens)) = ended else {
        app.metrics.logout("browser", "nothing_to_end");
        return Ok(Left { provider_url: None, left_open: None, return_to });
    };
    let setup = app.setup();
    let provider_url = tell_provider(app, &setup, &guest.session.provider, tokens, return_to.as_ref()).await;
    app.metrics.logout("browser", if provider_url.is_some() { "ok" } else { "local_only" });
    let left_open = provider_url.is_none().then_some(guest.session.provider);
    Ok(Left { provider_url, left_open, return_to })
}

async fn tell_provider(
    app: &App,
    setup: &Setup,
    id: &str,
    tokens: Option<Tokens>,
    return_to: Option<&ReturnTo>,
) -> Option<url::Url> {
    let provider = setup.provider(id)?;
    let state = seal_way_back(app, setup, return_to);
    let id_token = tokens.as_ref().and_then(|tokens| tokens.id.clone());
    if let Some(tokens) = tokens {
        sign_out_beside(Arc::clone(provider), tokens);
    }
    let back_to = setup.own_url("/signed-out");
    tokio::time::timeout(FAREWELL, provider.end_session_url(id_token.as_ref(), &back_to, &state))
        .await
        .ok()
        .flatten()
}

/// Tells the provider beside the answer: nobody waits for it. Nothing of ours is held meanwhile, because Keycloak calls our own
/// back-channel before it answers.
fn sign_out_beside(provider: Arc<dyn Provider>, tokens: Tokens) {
    tokio::spawn(async move {
        match tokio::time::timeout(FAREWELL, provider.sign_out(&tokens)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the provider could not be told of a logout"),
            Err(_) => tracing::info!("the provider did not take a logout in time"),
        }
    });
}

/// Ends an API client's session: the row first, then the provider is told.
///
/// # Errors
/// [`Error::SessionEnded`] for a session that is over, unknown, a browser's, or not that token's: a stranger cannot tell which.
pub async fn leave_as_client(
    app: &App,
    session_id: &str,
    refresh_token: &str,
    visitor: &Visitor,
) -> Result<()> {
    let left = end_as_client(app, session_id, refresh_token, visitor).await;
    app.metrics.logout("api", left.as_ref().map_or_else(Error::reason, |_| "ok"));
    match left {
        Ok((provider, tokens)) => {
            if let Some(provider) = app.setup().provider(&provider) {
                sign_out_beside(Arc::clone(provider), tokens);
            }
            Ok(())
        }
        Err(error) => {
            if matches!(error, Error::SessionEnded) {
                let refusal = Refusal { event: "logout.refused", reason: error.reason(), provider: None };
                audit::refusal(app, &refusal, visitor).await;
            }
            Err(error)
        }
    }
}

async fn end_as_client(
    app: &App,
    session_id: &str,
    refresh_token: &str,
    visitor: &Visitor,
) -> Result<(String, Tokens)> {
    let setup = app.setup();
    let left = again(app, async || {
        let mut writer = app.store.writer().await?;
        let mut found = sessions::find(&mut writer, session_id).await?;
        if let Some(session) = &mut found {
            session::count_activity(app, session);
        }
        let session = found
            .filter(|session| session.kind == SessionKind::Api)
            .filter(|session| session.is_alive(app.now_ms(), setup.config.session.idle_ms))
            .ok_or(Error::SessionEnded)?;
        let sealed = sessions::tokens(&mut writer, &session.id).await?.ok_or(Error::SessionEnded)?;
        let tokens = sealed.open(&setup.ring).map_err(|_| Error::SessionEnded)?;
        // The handle proves nothing; the token does.
        let held = tokens.refresh.as_ref().map(|token| token.expose_secret().as_bytes()).unwrap_or_default();
        if held.is_empty() || !bool::from(held.ct_eq(refresh_token.as_bytes())) {
            return Err(Error::SessionEnded);
        }
        sessions::end(&mut writer, &session.id, app.now_ms()).await?;
        let deed = audit::Deed {
            event: "logout",
            provider: Some(&session.provider),
            user_id: Some(&session.user_id),
            session_id: Some(&session.id),
        };
        audit::deed(app, &mut writer, &deed, visitor).await?;
        writer.commit().await?;
        Ok((session.provider, tokens))
    })
    .await?;
    app.metrics.session_ended("logout", 1);
    Ok(left)
}

fn place() -> Place<'static> {
    Place { table: "logout", row: "state", column: "way_back" }
}

fn seal_way_back(app: &App, setup: &Setup, return_to: Option<&ReturnTo>) -> String {
    let way_back = return_to.map(|to| WayBack { return_to: to.clone(), at_ms: app.now_ms() });
    let plain = way_back.and_then(|way| serde_json::to_vec(&way).ok());
    plain.map_or_else(
        || clock::token_256(&*app.random),
        |plain| URL_SAFE_NO_PAD.encode(setup.ring.seal(place(), &plain)),
    )
}

/// Where the person wanted to go after the provider's logout; `None` for a `state` that is missing, foreign or old, which harms nobody.
pub fn way_back(app: &App, state: &str) -> Option<ReturnTo> {
    let setup = app.setup();
    let sealed = URL_SAFE_NO_PAD.decode(state).ok()?;
    let plain = setup.ring.open(place(), &sealed).ok()?;
    let way_back: WayBack = serde_json::from_slice(&plain).ok()?;
    let fresh = (way_back.at_ms..way_back.at_ms.saturating_add(WAY_BACK_MS)).contains(&app.now_ms());
    // Checked when it was sealed, and again now that it is used: the rules may have changed between.
    fresh.then(|| ReturnTo::parse(way_back.return_to.as_str(), &setup.return_rules)).flatten()
}
