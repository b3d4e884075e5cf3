//! Which sessions a bearer token's `sid` speaks of.

use super::super::users::user_columns;
use super::{Guest, session_columns};
use crate::domain::{Session, User};
use crate::store::{Db, StoreError};

/// More sessions of one `sid` are nobody's: a browser signs in within one session of its provider a few times.
const ROWS_MAX: i64 = 100;

/// The sessions, ended ones too, that a provider calls by this `sid`, under whatever issuer it had, and their users. Those that were not
/// ended come first.
///
/// # Errors
/// The database's.
pub async fn by_sid(db: &mut impl Db, provider: &str, sid: &str) -> Result<Vec<(Session, User)>, StoreError> {
    let rows: Vec<Guest> = sql!(fetch_all in db,
        concat!("SELECT ", session_columns!(), ", ", user_columns!(),
            " FROM sessions s JOIN users u ON u.id = s.user_id \
             WHERE s.provider = $1 AND s.provider_session_id = $2 \
             ORDER BY CASE WHEN s.revoked_at IS NULL THEN 0 ELSE 1 END, s.last_active_at DESC LIMIT $3"),
        provider, sid, ROWS_MAX)?;
    Ok(rows.into_iter().map(|row| (row.session.into(), row.user.into())).collect())
}
