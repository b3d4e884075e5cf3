//! What an administrator sees of all sessions.

use super::{Guest, LIST_LIMIT, session_columns};
use crate::domain::{Session, User};
use crate::store::users::user_columns;
use crate::store::{Db, StoreError};

/// Living sessions of everybody, or of one user, with their users: the most recently used first, at most a thousand.
///
/// # Errors
/// The database's.
pub async fn list_live(
    db: &mut impl Db,
    user_id: Option<&str>,
    now_ms: i64,
    idle_ms: i64,
) -> Result<Vec<(Session, User)>, StoreError> {
    let rows: Vec<Guest> = sql!(fetch_all in db,
        concat!("SELECT ", session_columns!(), ", ", user_columns!(),
            " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.revoked_at IS NULL \
             AND s.expires_at > $1 AND s.last_active_at > $2 AND ($3 = '' OR s.user_id = $3) \
             ORDER BY s.last_active_at DESC, s.id LIMIT $4"),
        now_ms, now_ms.saturating_sub(idle_ms), user_id.unwrap_or_default(), LIST_LIMIT)?;
    Ok(rows.into_iter().map(|guest| (guest.session.into(), guest.user.into())).collect())
}

/// Ids of users with a session that has not ended, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn users_with_sessions(db: &mut impl Db, limit: u32) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in db,
        "SELECT DISTINCT user_id FROM sessions WHERE revoked_at IS NULL LIMIT $1", i64::from(limit))?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}
