//! `audit_log`: what was done and refused, one row each (security.md LG-04, LG-05).

use super::{Db, StoreError, Writer};

/// One event, without any secret: the session appears by its public handle or a hash.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// Unix ms.
    pub at_ms: i64,
    /// 128 random bits in base64url.
    pub id: String,
    pub request_id: Option<String>,
    /// The visitor's network address.
    pub address: Option<String>,
    pub provider: Option<String>,
    pub user_id: Option<String>,
    pub session_ref: Option<String>,
    /// `login`, `logout`, `session_ended` …
    pub event: &'static str,
    /// `success`, `refused` or `failed`.
    pub outcome: &'static str,
    /// Machine-readable, for what did not succeed.
    pub reason: Option<&'static str>,
    /// Further facts as a JSON object.
    pub detail: serde_json::Value,
}

/// One event as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AuditRow {
    #[sqlx(rename = "at")]
    pub at_ms: i64,
    pub id: String,
    pub request_id: Option<String>,
    pub address: Option<String>,
    pub provider: Option<String>,
    pub user_id: Option<String>,
    pub session_ref: Option<String>,
    pub event: String,
    pub outcome: String,
    pub reason: Option<String>,
    /// A JSON object.
    pub detail: String,
}

/// Adds an event, in the same transaction as what it tells.
///
/// # Errors
/// The database's.
pub async fn insert(w: &mut Writer, event: &AuditEvent) -> Result<(), StoreError> {
    sql!(later in w,
        "INSERT INTO audit_log \
         (id, at, request_id, address, provider, user_id, session_ref, event, outcome, reason, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &event.id, event.at_ms, event.request_id.as_deref(), event.address.as_deref(),
        event.provider.as_deref(), event.user_id.as_deref(), event.session_ref.as_deref(),
        event.event, event.outcome, event.reason, storable(&event.detail))?;
    Ok(())
}

/// The newest events, newest first.
///
/// # Errors
/// The database's.
pub async fn newest(db: &mut impl Db, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
    sql!(fetch_all in db,
        "SELECT id, at, request_id, address, provider, user_id, session_ref, event, outcome, reason, detail \
         FROM audit_log ORDER BY at DESC, id DESC LIMIT $1",
        i64::from(limit))
}

/// Removes events older than `before_ms`, at most `limit` of them; returns how many.
///
/// # Errors
/// The database's.
pub async fn remove_before(w: &mut Writer, before_ms: i64, limit: u32) -> Result<u64, StoreError> {
    sql!(execute in w,
        "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2)",
        before_ms, i64::from(limit))
}

fn storable(detail: &serde_json::Value) -> String {
    if detail.is_null() { "{}".to_owned() } else { detail.to_string() }
}
