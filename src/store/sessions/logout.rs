//! What a logout from elsewhere asks of the sessions: whom a `sid` names, and who has to prove themselves again.

use crate::store::{Db, Note, StoreError, Writer};

/// A living session that the provider calls by a `sid`, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct NamedBySid {
    pub id: String,
    pub user_id: String,
    pub subject: String,
}

/// The living sessions that a provider calls by this `sid`; one, unless a browser signed in twice within one session there.
///
/// # Errors
/// The database's.
pub async fn named_by_sid(
    db: &mut impl Db,
    provider: &str,
    issuer: &str,
    sid: &str,
) -> Result<Vec<NamedBySid>, StoreError> {
    sql!(fetch_all in db,
        "SELECT s.id, s.user_id, u.subject FROM sessions s JOIN users u ON u.id = s.user_id \
         WHERE s.provider = $1 AND s.issuer = $2 AND s.provider_session_id = $3 AND s.revoked_at IS NULL \
         ORDER BY s.id",
        provider, issuer, sid)
}

/// Marks a user's living sessions of one provider: each must show at its next use that the provider still honours it.
/// The generation grows, so that a refresh that was asked before is no proof; it can still save what it was given. Returns the ids.
///
/// # Errors
/// The database's.
pub async fn must_prove(
    w: &mut Writer,
    user_id: &str,
    provider: &str,
    issuer: &str,
    now_ms: i64,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in w,
        "UPDATE sessions SET must_prove = TRUE, changed_at = $4, generation = generation + 1 WHERE user_id = $1 AND provider = $2 \
         AND issuer = $3 AND revoked_at IS NULL RETURNING id"
        // In the one order in which sessions of a user are locked.
        => "UPDATE sessions SET must_prove = TRUE, changed_at = $4, generation = generation + 1 WHERE id IN (SELECT id FROM sessions \
         WHERE user_id = $1 AND provider = $2 AND issuer = $3 AND revoked_at IS NULL ORDER BY id FOR UPDATE) \
         RETURNING id",
        user_id, provider, issuer, now_ms)?;
    let ids: Vec<String> = rows.into_iter().map(|(id,)| id).collect();
    for id in &ids {
        w.note(Note::Changed(id.clone()));
    }
    Ok(ids)
}
