//! Renewal of a session's tokens, once per generation whatever the number of replicas.
//!
//! A claim names a new owner and lasts for a lease. Every later write asks whether that owner still has it: who was paused
//! beyond the lease, or whose session ended meanwhile, changes nothing (security.md SE-06, RT-02).

use super::SealedTokens;
use crate::crypto::KeyRing;
use crate::domain::Tokens;
use crate::store::{Db, Note, StoreError, Write, Writer};

/// Who wants to renew which generation, and for how long nobody else may.
#[derive(Debug, Clone, Copy)]
pub struct Bid<'a> {
    pub session_id: &'a str,
    pub generation: i64,
    /// Drawn anew for every bid.
    pub owner: &'a str,
    pub now_ms: i64,
    pub until_ms: i64,
}

/// A bid that won: the row as it is now, under the claim.
#[derive(Debug, sqlx::FromRow)]
pub struct Claim {
    #[sqlx(flatten)]
    pub sealed: SealedTokens,
    #[sqlx(rename = "refresh_owner")]
    pub owner: String,
    /// Tries that failed since the last one that did not.
    #[sqlx(rename = "refresh_failures")]
    pub failures: i64,
    #[sqlx(rename = "auth_time")]
    pub auth_time_ms: Option<i64>,
    pub must_prove: bool,
    /// When the row last changed; every mark to prove is such a change.
    #[sqlx(rename = "changed_at")]
    pub changed_at_ms: i64,
}

/// `None` when another has the claim, the session ended, pauses, or is another generation already.
///
/// # Errors
/// The database's.
pub async fn claim(w: &mut impl Write, bid: Bid<'_>) -> Result<Option<Claim>, StoreError> {
    sql!(fetch_optional in w,
        "UPDATE sessions SET refresh_owner = $3, refresh_until = $4 WHERE id = $1 AND generation = $2 \
         AND revoked_at IS NULL AND (refresh_until IS NULL OR refresh_until <= $5) \
         AND (refresh_not_before IS NULL OR refresh_not_before <= $5) \
         RETURNING id, access_token, refresh_token, id_token, token_expires_at, refresh_expires_at, scope, \
         generation, refresh_owner, refresh_failures, auth_time, must_prove, \
         changed_at",
        bid.session_id, bid.generation, bid.owner, bid.until_ms, bid.now_ms)
}

/// What the owner of a claim has brought home.
#[derive(Debug)]
pub struct Fresh<'a> {
    pub session_id: &'a str,
    pub owner: &'a str,
    /// All tokens: one that the provider did not send again is the old one (RT-03).
    pub tokens: &'a Tokens,
    /// Recognises the refresh token that was replaced, where a client may still hold it.
    pub previous_hash: Option<&'a [u8]>,
    /// The row's last change when it was claimed, if that is proven by these tokens; a session marked since then stays marked.
    pub proves: Option<i64>,
}

/// Replaces the tokens, if the claim still stands; `false` otherwise.
///
/// # Errors
/// The database's.
pub async fn save(
    w: &mut Writer,
    fresh: &Fresh<'_>,
    ring: &KeyRing,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let sealed = SealedTokens::seal(fresh.session_id, fresh.tokens, ring);
    let rows = sql!(execute in w,
        "UPDATE sessions SET access_token = $3, refresh_token = $4, id_token = $5, token_expires_at = $6, \
         refresh_expires_at = $7, scope = $8, changed_at = $9, refreshed_at = $9, \
         previous_refresh_hash = $10, must_prove = (must_prove AND changed_at <> $11), \
         generation = generation + 1, refresh_owner = NULL, refresh_until = NULL, refresh_failures = 0, \
         refresh_not_before = NULL WHERE id = $1 AND refresh_owner = $2 AND revoked_at IS NULL",
        fresh.session_id, fresh.owner, sealed.access.as_deref(), sealed.refresh.as_deref(),
        sealed.id.as_deref(), fresh.tokens.access_expires_at_ms, fresh.tokens.refresh_expires_at_ms,
        fresh.tokens.scope.as_deref(), now_ms, fresh.previous_hash, fresh.proves.unwrap_or(NEVER_MS))?;
    Ok(noted(w, rows, fresh.session_id))
}

/// No row changed then.
const NEVER_MS: i64 = i64::MIN;

/// The provider still honours the session's access token: there is nothing new to store, and nothing to prove any more.
///
/// # Errors
/// The database's.
pub async fn vouched(w: &mut Writer, session_id: &str, owner: &str, proves: i64) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE sessions SET must_prove = (must_prove AND changed_at <> $3), refresh_owner = NULL, \
         refresh_until = NULL, refresh_failures = 0, refresh_not_before = NULL \
         WHERE id = $1 AND refresh_owner = $2 AND revoked_at IS NULL",
        session_id, owner, proves)?;
    Ok(noted(w, rows, session_id))
}

/// Whoever remembers the row, here or in another process, has to look again.
fn noted(w: &mut Writer, rows: u64, session_id: &str) -> bool {
    if rows == 1 {
        w.note(Note::Changed(session_id.to_owned()));
    }
    rows == 1
}

/// The try failed: the claim is given back, and the session pauses until `not_before_ms`.
///
/// # Errors
/// The database's.
pub async fn fail(
    w: &mut impl Write,
    session_id: &str,
    owner: &str,
    not_before_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE sessions SET refresh_owner = NULL, refresh_until = NULL, \
         refresh_failures = refresh_failures + 1, refresh_not_before = $3 \
         WHERE id = $1 AND refresh_owner = $2",
        session_id, owner, not_before_ms)?;
    Ok(rows == 1)
}

/// Gives the claim back and keeps the row for this transaction; `false` when it was lost, and with it the right to end the session.
///
/// # Errors
/// The database's.
pub async fn release(w: &mut Writer, session_id: &str, owner: &str) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE sessions SET refresh_owner = NULL, refresh_until = NULL \
         WHERE id = $1 AND refresh_owner = $2 AND revoked_at IS NULL",
        session_id, owner)?;
    Ok(rows == 1)
}

/// What a client's word is compared with.
#[derive(Debug, sqlx::FromRow)]
pub struct Stored {
    #[sqlx(flatten)]
    pub sealed: SealedTokens,
    #[sqlx(rename = "previous_refresh_hash")]
    pub previous_hash: Option<Vec<u8>>,
    #[sqlx(rename = "refreshed_at")]
    pub refreshed_at_ms: Option<i64>,
}

/// The tokens of a session that has not ended, and what is known of the refresh token before.
///
/// # Errors
/// The database's.
pub async fn stored(db: &mut impl Db, session_id: &str) -> Result<Option<Stored>, StoreError> {
    sql!(fetch_optional in db,
        "SELECT id, access_token, refresh_token, id_token, token_expires_at, refresh_expires_at, scope, \
         generation, previous_refresh_hash, refreshed_at FROM sessions WHERE id = $1 AND revoked_at IS NULL",
        session_id)
}
