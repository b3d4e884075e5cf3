//! `password_failures`: tallies of wrong passwords, one row per keyed hash, shared by all replicas.

use super::{Db, StoreError, Writer};
use crate::domain::guesses::Tally;

#[derive(sqlx::FromRow)]
struct Row {
    since: i64,
    failures: i64,
    consecutive: i64,
    blocked_until: i64,
}

impl From<Row> for Tally {
    fn from(row: Row) -> Self {
        Self {
            since_ms: row.since,
            failures: row.failures,
            consecutive: row.consecutive,
            blocked_until_ms: row.blocked_until,
        }
    }
}

/// The tally of a key, made when there is none; until the commit nobody else reads or changes it this way.
///
/// # Errors
/// The database's.
pub async fn lock(
    w: &mut Writer,
    scope: &'static str,
    key_hash: &[u8],
    now_ms: i64,
) -> Result<Tally, StoreError> {
    let row: Row = sql!(fetch_one in w,
        "INSERT INTO password_failures (key_hash, scope, since, failures, consecutive, blocked_until, \
         changed_at) VALUES ($1, $2, $3, 0, 0, 0, $3) ON CONFLICT (key_hash) DO UPDATE SET changed_at = $3 \
         RETURNING since, failures, consecutive, blocked_until",
        key_hash, scope, now_ms)?;
    Ok(row.into())
}

/// The tally of a key as it stands; counts nothing.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, key_hash: &[u8]) -> Result<Option<Tally>, StoreError> {
    let row: Option<Row> = sql!(fetch_optional in db,
        "SELECT since, failures, consecutive, blocked_until FROM password_failures WHERE key_hash = $1",
        key_hash)?;
    Ok(row.map(Tally::from))
}

/// Writes what became of a locked tally.
///
/// # Errors
/// The database's.
pub async fn save(w: &mut Writer, key_hash: &[u8], tally: &Tally) -> Result<(), StoreError> {
    sql!(execute in w,
        "UPDATE password_failures SET since = $2, failures = $3, consecutive = $4, blocked_until = $5 \
         WHERE key_hash = $1",
        key_hash, tally.since_ms, tally.failures, tally.consecutive, tally.blocked_until_ms)?;
    Ok(())
}

/// Forgets a tally: somebody proved who they are.
///
/// # Errors
/// The database's.
pub async fn forget(w: &mut Writer, key_hash: &[u8]) -> Result<(), StoreError> {
    sql!(execute in w, "DELETE FROM password_failures WHERE key_hash = $1", key_hash)?;
    Ok(())
}

/// The user of a provider whom a typed name means, by user name or e-mail address in lower case.
///
/// # Errors
/// The database's.
pub async fn whom(db: &mut impl Db, provider: &str, folded: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = sql!(fetch_optional in db,
        "SELECT id FROM users WHERE provider = $1 AND lower(username) = $2 UNION \
         SELECT id FROM users WHERE provider = $1 AND email_folded = $2 ORDER BY id LIMIT 1",
        provider, folded)?;
    Ok(row.map(|(id,)| id))
}

/// Removes tallies that nobody added to since `before_ms` (known networks: since `known_before_ms`), at most `limit` of them.
///
/// # Errors
/// The database's.
pub async fn remove_old(
    w: &mut Writer,
    before_ms: i64,
    known_before_ms: i64,
    limit: u32,
) -> Result<u64, StoreError> {
    sql!(execute in w,
        "DELETE FROM password_failures WHERE key_hash IN (SELECT key_hash FROM password_failures \
         WHERE changed_at < $1 AND (scope <> 'known' OR changed_at < $2) ORDER BY changed_at LIMIT $3)",
        before_ms, known_before_ms, i64::from(limit))
}
