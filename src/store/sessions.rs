//! `sessions`: who is signed in. The browser's key is stored as a hash (SE-01), the provider's tokens are
//! sealed.

mod by_sid;
mod logout;
mod overview;
pub mod refresh;
mod tokens;

use super::ended_sids::Name;
use super::users::{UserRow, user_columns};
use super::{Db, Note, StoreError, Write, Writer};
use crate::crypto::KeyRing;
use crate::domain::{NewSession, Renewal, Session, SessionKind, User};

pub use by_sid::by_sid;
pub use logout::{NamedBySid, must_prove, named_by_sid};
pub use overview::{list_live, users_with_sessions};
pub(super) use tokens::{ACCESS, ID, REFRESH, TABLE};
pub use tokens::{SealedTokens, tokens};

/// Most sessions a list shows; the number per user is limited far below (SE-10).
const LIST_LIMIT: i64 = 1_000;

/// The columns of [`SessionRow`], from `sessions s`; renamed so that a user may stand in the same row.
macro_rules! session_columns {
    () => {
        "s.id AS s_id, s.kind AS s_kind, s.user_id AS s_user_id, s.provider AS s_provider, \
         s.issuer AS s_issuer, s.provider_session_id, s.token_expires_at, s.refresh_expires_at, s.ip, \
         s.user_agent, s.created_at AS s_created_at, s.last_active_at, s.expires_at, s.revoked_at, \
         s.generation, s.auth_time, s.acr, s.scope, \
         s.refresh_token IS NOT NULL AS has_refresh_token, s.must_prove, s.refreshed_at, s.refresh_until, \
         s.refresh_not_before"
    };
}

use session_columns;

#[derive(sqlx::FromRow)]
struct SessionRow {
    #[sqlx(rename = "s_id")]
    id: String,
    #[sqlx(rename = "s_kind")]
    kind: String,
    #[sqlx(rename = "s_user_id")]
    user_id: String,
    #[sqlx(rename = "s_provider")]
    provider: String,
    #[sqlx(rename = "s_issuer")]
    issuer: String,
    provider_session_id: Option<String>,
    token_expires_at: Option<i64>,
    refresh_expires_at: Option<i64>,
    ip: Option<String>,
    user_agent: Option<String>,
    #[sqlx(rename = "s_created_at")]
    created_at: i64,
    last_active_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
    generation: i64,
    auth_time: Option<i64>,
    acr: Option<String>,
    scope: Option<String>,
    has_refresh_token: bool,
    must_prove: bool,
    refreshed_at: Option<i64>,
    refresh_until: Option<i64>,
    refresh_not_before: Option<i64>,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id,
            kind: SessionKind::parse(&row.kind),
            user_id: row.user_id,
            provider: row.provider,
            issuer: row.issuer,
            provider_session_id: row.provider_session_id,
            token_expires_at_ms: row.token_expires_at,
            refresh_expires_at_ms: row.refresh_expires_at,
            ip: row.ip,
            user_agent: row.user_agent,
            created_at_ms: row.created_at,
            last_active_at_ms: row.last_active_at,
            expires_at_ms: row.expires_at,
            revoked_at_ms: row.revoked_at,
            generation: row.generation,
            auth_time_ms: row.auth_time,
            acr: row.acr,
            scope: row.scope,
            renewal: Renewal {
                has_token: row.has_refresh_token,
                must_prove: row.must_prove,
                refreshed_at_ms: row.refreshed_at,
                claimed_until_ms: row.refresh_until,
                not_before_ms: row.refresh_not_before,
            },
        }
    }
}

#[derive(sqlx::FromRow)]
struct Guest {
    #[sqlx(flatten)]
    session: SessionRow,
    #[sqlx(flatten)]
    user: UserRow,
}

/// What was found where a session was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// How many rows its user has, ended ones too; the new one may count or not.
    pub stored: i64,
    /// When the last logout of each of the names was heard, Unix ms.
    pub logouts: [Option<i64>; 3],
}

/// Adds a session with its tokens sealed, and looks for logouts of these names that were faster: one statement, because each costs a login a wait.
///
/// # Errors
/// [`StoreError::Conflict`] without such a user, or the database's.
pub async fn insert(
    w: &mut Writer,
    new: &NewSession,
    ring: &KeyRing,
    names: Option<&[Name; 3]>,
) -> Result<Inserted, StoreError> {
    let session = &new.session;
    let [a, b, c] = names.map_or([None; 3], |names| names.each_ref().map(|name| Some(name.as_bytes())));
    let sealed = SealedTokens::seal(&session.id, &new.tokens, ring);
    // The count asks an index alone. SQLite counts after the insertion, PostgreSQL sees the table as it was before.
    let (stored, of_a, of_b, of_c): (i64, Option<i64>, Option<i64>, Option<i64>) = sql!(fetch_one in w,
        "INSERT INTO sessions (id, kind, key_hash, user_id, provider, issuer, provider_session_id, \
         access_token, refresh_token, id_token, token_expires_at, refresh_expires_at, ip, user_agent, \
         created_at, last_active_at, expires_at, revoked_at, generation, changed_at, auth_time, acr, \
         scope) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
         $19, $20, $21, $22, $23) RETURNING (SELECT COUNT(*) FROM sessions WHERE user_id = $4), \
         (SELECT ended_at FROM ended_sids WHERE name_hash = $24 AND expires_at > $15), \
         (SELECT ended_at FROM ended_sids WHERE name_hash = $25 AND expires_at > $15), \
         (SELECT ended_at FROM ended_sids WHERE name_hash = $26 AND expires_at > $15)",
        &session.id, session.kind.as_str(), new.key.hash().to_vec(), &session.user_id, &session.provider,
        &session.issuer, session.provider_session_id.as_deref(), sealed.access.as_deref(),
        sealed.refresh.as_deref(), sealed.id.as_deref(), session.token_expires_at_ms,
        session.refresh_expires_at_ms, session.ip.as_deref(), session.user_agent.as_deref(),
        session.created_at_ms, session.last_active_at_ms, session.expires_at_ms, session.revoked_at_ms,
        session.generation, session.created_at_ms, session.auth_time_ms, session.acr.as_deref(),
        session.scope.as_deref(), a, b, c)?;
    Ok(Inserted { stored, logouts: [of_a, of_b, of_c] })
}

/// The session behind a cookie and its user, in one statement. Dead ones too: judging is the caller's.
///
/// # Errors
/// The database's.
pub async fn find_by_key_hash(
    db: &mut impl Db,
    key_hash: &[u8],
) -> Result<Option<(Session, User)>, StoreError> {
    let row: Option<Guest> = sql!(fetch_optional in db,
        concat!("SELECT ", session_columns!(), ", ", user_columns!(),
            " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.key_hash = $1"),
        key_hash)?;
    Ok(row.map(|guest| (guest.session.into(), guest.user.into())))
}

/// By public handle, dead ones too.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, id: &str) -> Result<Option<Session>, StoreError> {
    // PostgreSQL takes no NUL, not even to look for it.
    if id.contains('\0') {
        return Ok(None);
    }
    let row: Option<SessionRow> = sql!(fetch_optional in db,
        concat!("SELECT ", session_columns!(), " FROM sessions s WHERE s.id = $1"), id)?;
    Ok(row.map(Session::from))
}

/// A user's living sessions, the most recently used first.
///
/// # Errors
/// The database's.
pub async fn list_live_of_user(
    db: &mut impl Db,
    user_id: &str,
    now_ms: i64,
    idle_ms: i64,
) -> Result<Vec<Session>, StoreError> {
    let rows: Vec<SessionRow> = sql!(fetch_all in db,
        concat!("SELECT ", session_columns!(), " FROM sessions s WHERE s.user_id = $1 AND s.revoked_at \
        IS NULL \
            AND s.expires_at > $2 AND s.last_active_at > $3 \
            ORDER BY s.last_active_at DESC, s.created_at DESC, s.id LIMIT $4"),
        user_id, now_ms, now_ms.saturating_sub(idle_ms), LIST_LIMIT)?;
    Ok(rows.into_iter().map(Session::from).collect())
}

/// [`touch`] for many, each by its handle.
///
/// # Errors
/// The database's.
pub async fn touch_many(w: &mut impl Write, active_at_ms: &[(String, i64)]) -> Result<u64, StoreError> {
    let seen: serde_json::Map<String, serde_json::Value> =
        active_at_ms.iter().map(|(id, at_ms)| (id.clone(), (*at_ms).into())).collect();
    sql!(execute in w,
        "UPDATE sessions SET last_active_at = seen.value FROM json_each($1) AS seen \
         WHERE sessions.id = seen.key AND revoked_at IS NULL AND last_active_at < seen.value"
        // In the one order in which sessions are locked.
        => "UPDATE sessions SET last_active_at = seen.at FROM (SELECT s.id, CAST(j.value AS BIGINT) AS at \
         FROM sessions s JOIN jsonb_each_text(CAST($1 AS JSONB)) AS j ON j.key = s.id ORDER BY s.id \
         FOR UPDATE OF s) AS seen WHERE sessions.id = seen.id AND revoked_at IS NULL \
         AND last_active_at < seen.at",
        serde_json::Value::Object(seen).to_string())
}

/// Moves the last activity forward, never back, and never wakes an ended
/// session (SE-06). The caller throttles (SE-13).
///
/// # Errors
/// The database's.
pub async fn touch(w: &mut impl Write, id: &str, at_ms: i64) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE sessions SET last_active_at = $2 WHERE id = $1 AND revoked_at IS NULL \
         AND last_active_at < $2",
        id, at_ms)?;
    Ok(rows == 1)
}

/// Ends one session: its tokens are erased, its generation grows. `false`
/// when there is none, or it had ended before.
///
/// # Errors
/// The database's.
pub async fn end(w: &mut Writer, id: &str, now_ms: i64) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE sessions SET revoked_at = $2, changed_at = $2, generation = generation + 1, \
         access_token = NULL, refresh_token = NULL, id_token = NULL WHERE id = $1 AND revoked_at IS NULL",
        id, now_ms)?;
    if rows == 1 {
        w.note(Note::Ended(id.to_owned()));
    }
    Ok(rows == 1)
}

/// Ends all sessions of a user but one; returns their ids.
///
/// # Errors
/// The database's.
pub async fn end_of_user(
    w: &mut Writer,
    user_id: &str,
    except: Option<&str>,
    now_ms: i64,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in w,
        "UPDATE sessions SET revoked_at = $3, changed_at = $3, generation = generation + 1, \
         access_token = NULL, refresh_token = NULL, id_token = NULL WHERE user_id = $1 AND id <> $2 \
         AND revoked_at IS NULL RETURNING id"
        // Locked in one order by everybody, so that two logouts of one person wait for each other instead of dying of it.
        => "UPDATE sessions SET revoked_at = $3, changed_at = $3, generation = generation + 1, \
         access_token = NULL, refresh_token = NULL, id_token = NULL WHERE id IN (SELECT id FROM sessions \
         WHERE user_id = $1 AND id <> $2 AND revoked_at IS NULL ORDER BY id FOR UPDATE) RETURNING id",
        user_id, except.unwrap_or_default(), now_ms)?;
    Ok(ended(w, rows))
}

/// Ends the least recently used sessions of a user beyond the newest `keep` (SE-10); returns their ids. It reads all of the user's rows,
/// tokens and all: not worth asking where [`insert`] counted fewer than `keep`.
///
/// # Errors
/// The database's.
pub async fn end_oldest_beyond(
    w: &mut Writer,
    user_id: &str,
    keep: u32,
    now_ms: i64,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in w,
        "UPDATE sessions SET revoked_at = $3, changed_at = $3, generation = generation + 1, \
         access_token = NULL, refresh_token = NULL, id_token = NULL WHERE revoked_at IS NULL \
         AND id IN (SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL \
         AND expires_at > $3 ORDER BY last_active_at DESC, created_at DESC, \
         id LIMIT 1000000 OFFSET $2) RETURNING id",
        user_id, i64::from(keep), now_ms)?;
    Ok(ended(w, rows))
}

/// Ends the sessions that a provider calls by this `sid` (Back-Channel Logout 2.6); returns their ids.
///
/// # Errors
/// The database's.
pub async fn end_by_sid(
    w: &mut Writer,
    provider: &str,
    issuer: &str,
    sid: &str,
    now_ms: i64,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in w,
        "UPDATE sessions SET revoked_at = $4, changed_at = $4, generation = generation + 1, \
         access_token = NULL, refresh_token = NULL, id_token = NULL WHERE provider = $1 \
         AND issuer = $2 AND provider_session_id = $3 AND revoked_at IS NULL RETURNING id",
        provider, issuer, sid, now_ms)?;
    Ok(ended(w, rows))
}

/// Removes sessions that were dead before `before_ms` — ended, over their
/// limit, or idle since — at most `limit` (SE-13).
///
/// # Errors
/// The database's.
pub async fn remove_dead(
    w: &mut Writer,
    before_ms: i64,
    idle_ms: i64,
    limit: u32,
) -> Result<u64, StoreError> {
    sql!(execute in w,
        // One range per index: a single WHERE with OR makes both databases read the whole table.
        "DELETE FROM sessions WHERE id IN (\
         SELECT id FROM (SELECT id FROM sessions WHERE revoked_at < $1 ORDER BY revoked_at LIMIT $3) AS a \
         UNION SELECT id FROM (SELECT id FROM sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $3) \
         AS b UNION SELECT id FROM (SELECT id FROM sessions WHERE last_active_at < $2 \
         ORDER BY last_active_at LIMIT $3) AS c LIMIT $3)",
        before_ms, before_ms.saturating_sub(idle_ms), i64::from(limit))
}

fn firsts(rows: Vec<(String,)>) -> Vec<String> {
    rows.into_iter().map(|(id,)| id).collect()
}

/// The ids of sessions that have just ended, noted for whoever remembers them.
fn ended(w: &mut Writer, rows: Vec<(String,)>) -> Vec<String> {
    let ids = firsts(rows);
    for id in &ids {
        w.note(Note::Ended(id.clone()));
    }
    ids
}
