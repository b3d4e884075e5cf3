//! `used_attempts`: each login attempt is finished once, on whichever replica (security.md decision 5).

use super::{StoreError, Write, Writer};

/// Marks an attempt as used. `false` when somebody did so before: the callback is a replay.
///
/// # Errors
/// The database's.
pub async fn take(w: &mut impl Write, state_hash: &[u8], expires_at_ms: i64) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "INSERT INTO used_attempts (state_hash, expires_at) VALUES ($1, $2) ON CONFLICT (state_hash) DO \
         NOTHING",
        state_hash, expires_at_ms)?;
    Ok(rows == 1)
}

/// Removes marks that no callback can need any more, at most `limit` of them; returns how many.
///
/// # Errors
/// The database's.
pub async fn remove_expired(w: &mut Writer, now_ms: i64, limit: u32) -> Result<u64, StoreError> {
    sql!(execute in w,
        "DELETE FROM used_attempts WHERE state_hash IN \
         (SELECT state_hash FROM used_attempts WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        now_ms, i64::from(limit))
}
