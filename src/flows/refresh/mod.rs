//! Tokens kept fresh: one call to the provider per session and generation, whatever the number of requests and replicas.
//!
//! Owns: when a renewal is due, who makes it, who waits for it, and what a refusal ends.
//! Never does: hold a `Writer` across the call; end a session for anything but the provider's own word.
//!
//! ```text
//! use of a session ─► due? ─► single flight (this process) ─► claim (database, 15 s) ─► provider ─► save, if the claim stands
//! ```

mod client;
mod flight;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use self::client::for_client;
use self::flight::Quest;
use super::session::Guest;
use crate::app::App;
use crate::domain::{Session, SessionKind};
use crate::error::{Error, Result};
use crate::store::sessions;
use crate::telemetry;

/// How long a request waits for somebody else's renewal before it goes on without a token: as long as one call may take.
const WAIT: Duration = Duration::from_secs(10);

/// Renews the tokens of a browser's session where that is due, or waits for who does; `true` when the row is to be read again.
/// A request that goes away meanwhile stops nothing: the renewal is a task of its own.
pub(super) async fn keep(app: &Arc<App>, guest: &Guest) -> bool {
    let session = &guest.session;
    let now_ms = app.now_ms();
    let state = &session.renewal;
    // An API client's tokens are its own to renew.
    if session.kind == SessionKind::Api || state.is_paused(now_ms) {
        return false;
    }
    let margin_ms = app.setup().config.session.refresh_margin_ms;
    if !state.must_prove && !session.is_renewal_due(now_ms, margin_ms) {
        return false;
    }
    let can_go_on = session.has_enough_token(now_ms) && !state.must_prove;
    if can_go_on && state.is_claimed(now_ms) {
        return false;
    }
    let quest = Quest::new(guest, !can_go_on);
    let (leads, done) = begin(app, quest);
    if can_go_on && !leads {
        return false;
    }
    // The wait may be over before the renewal is; the row says how things stand.
    let _ = tokio::time::timeout(WAIT, done.wait()).await;
    true
}

/// Starts the renewal in a task of its own, unless this process is at it already.
fn begin(app: &Arc<App>, quest: Quest) -> (bool, crate::app::Done) {
    let (lead, done) = app.renewals.join(&quest.session.id);
    let leads = lead.is_some();
    if let Some(lead) = lead {
        let app = Arc::clone(app);
        let renewal = async move {
            let _lead = lead;
            flight::run(&app, &quest).await;
        };
        tokio::spawn(telemetry::carried(renewal));
    }
    (leads, done)
}

/// Whether an app needs an access token and the session's is over: signing in again brings another, though nobody was signed out.
#[must_use]
pub fn lacks_token(app: &App, session: &Session) -> bool {
    let is_over = session.token_expires_at_ms.is_some_and(|at_ms| app.now_ms() >= at_ms);
    is_over && app.setup().routes.attaches_access_token()
}

/// The access token of a session, for an app behind the door; never one that is over (security.md RT-06).
///
/// # Errors
/// [`Error::NotSignedIn`] when only a new login can bring one, [`Error::ProviderDown`] when the provider can and does not answer,
/// or the database's.
pub async fn access_token(app: &App, session_id: &str) -> Result<SecretString> {
    let setup = app.setup();
    let mut reader = app.store.reader().await?;
    let sealed = sessions::tokens(&mut reader, session_id).await?.ok_or(Error::NotSignedIn)?;
    drop(reader);
    let tokens = sealed.open(&setup.ring).map_err(|_| Error::NotSignedIn)?;
    let lives = tokens.access_expires_at_ms.is_none_or(|at_ms| app.now_ms() < at_ms);
    match tokens.access {
        Some(access) if lives => Ok(access),
        _ if tokens.refresh.is_some() => {
            Err(Error::ProviderDown("the access token is over and could not be renewed".to_owned()))
        }
        _ => Err(Error::NotSignedIn),
    }
}
