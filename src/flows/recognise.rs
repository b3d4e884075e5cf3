//! Who comes to the door with a session's key: from what is remembered, or else from the rows.
//!
//! A remembered session is served only where its rows would serve it: whatever ends or changes them is heard first, and every limit in time is
//! judged here, at each request. What is not certain is asked.

use std::sync::Arc;

use super::session::{self, Guest};
use crate::app::{App, Setup};
use crate::domain::{Principal, SessionKey};
use crate::error::Result;
use crate::store::{Limits, Recalled, Ticket};

pub use crate::crypto::mac::ReadyMac;
pub use crate::store::Known;

/// Whose a signed cookie is, where that very cookie was believed before and its session is still remembered: nothing of its signature is computed
/// again, since nothing of it is different.
#[must_use]
pub fn at_hand(app: &App, signed: &str) -> Option<Arc<Known>> {
    let (proof, key) = signed.split_at_checked(signed.len().checked_sub(SessionKey::LENGTH)?)?;
    // Only a key's own hash is that of a session: nothing else needs to be asked of the text.
    let Recalled::Known(known) = app.store.recall(&SessionKey::hash_of(key)) else { return None };
    let idle_ms = app.of_setup(|setup| setup.config.session.idle_ms);
    let counts = known.is_proven_by(proof.as_bytes()) && known.is_in_time(app.now_ms(), idle_ms);
    if counts {
        app.metrics.session_cache_hit();
    }
    counts.then_some(known)
}

/// More than any signature needs; what is longer was written by somebody who wants to fill memory.
const PROOF_MAX: usize = 64;

/// Notes that this cookie is believed for as long as its session is remembered: where it is spelled as we spell it, signature and key, and no
/// other spelling of the same.
pub fn keep_at_hand(known: &Known, key: &SessionKey, signed: &str) {
    if let Some(proof) = signed.strip_suffix(key.expose()).filter(|proof| proof.len() <= PROOF_MAX) {
        known.prove(proof.as_bytes());
    }
}

/// Who a key belongs to, while the session lives, its user may be here, and its tokens need nothing.
///
/// # Errors
/// As [`session::find`].
pub async fn recognise(app: &Arc<App>, key: &SessionKey) -> Result<Option<Arc<Known>>> {
    let key_hash = key.hash();
    let now_ms = app.now_ms();
    let setup = app.setup();
    match app.store.recall(&key_hash) {
        Recalled::Known(known) if known.is_in_time(now_ms, setup.config.session.idle_ms) => {
            app.metrics.session_cache_hit();
            return Ok(Some(known));
        }
        Recalled::Known(_) | Recalled::Unknown => app.metrics.session_cache_missed(),
        Recalled::Bypassed => app.metrics.session_cache_bypassed(),
    }
    let Some((guest, ticket)) = Box::pin(session::find_anew(app, key)).await? else { return Ok(None) };
    Ok(Some(remember(app, &setup, key_hash, ticket, &guest)))
}

/// Remembers a guest whose rows were read or written after taking the ticket: the next request of theirs asks no database.
pub(super) fn remember(
    app: &App,
    setup: &Setup,
    key_hash: [u8; 32],
    ticket: Ticket,
    guest: &Guest,
) -> Arc<Known> {
    let session = &guest.session;
    let renewal_ms = session.renewal_due_at_ms(setup.config.session.refresh_margin_ms);
    let limits = Limits {
        now_ms: app.now_ms(),
        last_active_at_ms: session.last_active_at_ms,
        until_ms: session.expires_at_ms.min(renewal_ms.unwrap_or(i64::MAX)),
    };
    app.store.know(key_hash, ticket, Principal::of(&guest.user, session), limits)
}
