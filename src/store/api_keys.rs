//! `api_keys`: who may call the admin API without a browser. Secrets are stored as hashes.

use super::{Db, StoreError, Write, Writer};
use crate::domain::KnownKey;

const LIST_LIMIT: i64 = 1_000;

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: String,
    name: String,
    secret_hash: Vec<u8>,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
    created_by: String,
}

impl From<KeyRow> for KnownKey {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            created_at_ms: row.created_at,
            expires_at_ms: row.expires_at,
            last_used_at_ms: row.last_used_at,
            revoked_at_ms: row.revoked_at,
            created_by: row.created_by,
        }
    }
}

/// Adds a key.
///
/// # Errors
/// [`StoreError::Conflict`] when its id is taken, or the database's.
pub async fn insert(w: &mut Writer, key: &KnownKey, secret_hash: &[u8]) -> Result<(), StoreError> {
    sql!(execute in w,
        "INSERT INTO api_keys (id, name, secret_hash, created_at, expires_at, last_used_at, revoked_at, \
         created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &key.id, &key.name, secret_hash, key.created_at_ms, key.expires_at_ms, key.last_used_at_ms,
        key.revoked_at_ms, &key.created_by)?;
    Ok(())
}

/// A key and the hash of its secret, whatever its standing.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, id: &str) -> Result<Option<(KnownKey, Vec<u8>)>, StoreError> {
    let row: Option<KeyRow> = sql!(fetch_optional in db,
        "SELECT id, name, secret_hash, created_at, expires_at, last_used_at, revoked_at, created_by \
         FROM api_keys WHERE id = $1",
        id)?;
    Ok(row.map(|mut row| {
        let hash = std::mem::take(&mut row.secret_hash);
        (row.into(), hash)
    }))
}

/// Every key, the newest first.
///
/// # Errors
/// The database's.
pub async fn list(db: &mut impl Db) -> Result<Vec<KnownKey>, StoreError> {
    let rows: Vec<KeyRow> = sql!(fetch_all in db,
        "SELECT id, name, secret_hash, created_at, expires_at, last_used_at, revoked_at, created_by \
         FROM api_keys ORDER BY created_at DESC, id LIMIT $1",
        LIST_LIMIT)?;
    Ok(rows.into_iter().map(KnownKey::from).collect())
}

/// Ends a key for good. `false` when there is none, or it was revoked before.
///
/// # Errors
/// The database's.
pub async fn revoke(w: &mut Writer, id: &str, now_ms: i64) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now_ms)?;
    Ok(rows == 1)
}

/// Notes a use, never an earlier one. The caller throttles.
///
/// # Errors
/// The database's.
pub async fn touch(w: &mut impl Write, id: &str, at_ms: i64) -> Result<(), StoreError> {
    sql!(execute in w,
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 \
         AND (last_used_at IS NULL OR last_used_at < $2)",
        id, at_ms)?;
    Ok(())
}
