//! `seen_logout_tokens`: each logout token has one effect, however often it is sent and to whichever replica (security.md LO-08).

use sha2::{Digest as _, Sha256};

use super::{StoreError, Writer};

/// Marks a token as heard, in the transaction of its effect. `false` when it was heard before.
///
/// # Errors
/// The database's.
pub async fn take(w: &mut Writer, provider: &str, jti: &str, expires_at_ms: i64) -> Result<bool, StoreError> {
    // The provider's id holds no NUL, so that no two pairs are one text.
    let hash = Sha256::digest(format!("{provider}\0{jti}").as_bytes()).to_vec();
    let rows = sql!(execute in w,
        "INSERT INTO seen_logout_tokens (token_hash, expires_at) VALUES ($1, $2) \
         ON CONFLICT (token_hash) DO NOTHING",
        hash.as_slice(), expires_at_ms)?;
    Ok(rows == 1)
}

/// Removes marks of tokens that would be refused for their age, at most `limit`; returns how many.
///
/// # Errors
/// The database's.
pub async fn remove_expired(w: &mut Writer, now_ms: i64, limit: u32) -> Result<u64, StoreError> {
    sql!(execute in w,
        "DELETE FROM seen_logout_tokens WHERE token_hash IN \
         (SELECT token_hash FROM seen_logout_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        now_ms, i64::from(limit))
}
