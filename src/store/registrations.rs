//! `registrations`: one durable row per attempt, so that sign-up is whole or absent on both sides, whatever dies when.
//!
//! Every change asks for the owner that the caller was given: whoever slept through their lease changes nothing any more.

use super::{Db, StoreError, Write, Writer};
use crate::domain::registration::Person;

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The provider may or may not have been asked.
    Pending,
    /// The provider made the user; ours is missing.
    Created,
    /// The provider's user has to go, if there is one.
    Undoing,
    /// Complete on both sides.
    Finished,
    /// Absent on both sides.
    Undone,
    /// Refused before anything was made, or beyond what can be proved to be ours.
    Failed,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Created => "created",
            Self::Undoing => "undoing",
            Self::Finished => "finished",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }

    /// Anything unknown is left alone.
    fn parse(text: &str) -> Self {
        match text {
            "pending" => Self::Pending,
            "created" => Self::Created,
            "undoing" => Self::Undoing,
            "finished" => Self::Finished,
            "undone" => Self::Undone,
            _ => Self::Failed,
        }
    }
}

/// One row. Times are Unix ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Also the mark at the provider.
    pub id: String,
    pub idempotency_hash: Option<Vec<u8>>,
    pub fingerprint: Option<Vec<u8>>,
    pub provider: String,
    pub issuer: String,
    pub username: String,
    pub email: String,
    pub person: Person,
    pub state: State,
    pub subject: Option<String>,
    pub user_id: Option<String>,
    pub owner: String,
    pub next_try_at_ms: i64,
    pub attempts: i64,
    pub absences: i64,
    /// Where it came from, for the rate limit.
    pub network: String,
    pub created_at_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    idempotency_hash: Option<Vec<u8>>,
    fingerprint: Option<Vec<u8>>,
    provider: String,
    issuer: String,
    username: String,
    email: String,
    person: String,
    state: String,
    subject: Option<String>,
    user_id: Option<String>,
    owner: String,
    next_try_at: i64,
    attempts: i64,
    absences: i64,
    network: String,
    created_at: i64,
}

macro_rules! columns {
    () => {
        "id, idempotency_hash, fingerprint, provider, issuer, username, email, person, state, subject, \
         user_id, owner, next_try_at, attempts, absences, network, created_at"
    };
}

impl From<Row> for Registration {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            idempotency_hash: row.idempotency_hash,
            fingerprint: row.fingerprint,
            provider: row.provider,
            issuer: row.issuer,
            username: row.username,
            email: row.email,
            person: serde_json::from_str(&row.person).unwrap_or_default(),
            state: State::parse(&row.state),
            subject: row.subject,
            user_id: row.user_id,
            owner: row.owner,
            next_try_at_ms: row.next_try_at,
            attempts: row.attempts,
            absences: row.absences,
            network: row.network,
            created_at_ms: row.created_at,
        }
    }
}

/// Writes a new attempt; `false` when its `Idempotency-Key` has one already.
///
/// # Errors
/// The database's.
pub async fn insert(db: &mut impl Write, new: &Registration) -> Result<bool, StoreError> {
    let person = serde_json::to_string(&new.person).unwrap_or_else(|_| "{}".to_owned());
    let rows = sql!(execute in db,
        concat!("INSERT INTO registrations (", columns!(), ", changed_at) VALUES \
         ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17) \
         ON CONFLICT (idempotency_hash) DO NOTHING"),
        &new.id, new.idempotency_hash.as_deref(), new.fingerprint.as_deref(), &new.provider, &new.issuer,
        &new.username, &new.email, person, new.state.as_str(), new.subject.as_deref(),
        new.user_id.as_deref(), &new.owner, new.next_try_at_ms, new.attempts, new.absences,
        &new.network, new.created_at_ms)?;
    Ok(rows == 1)
}

/// The attempt that an `Idempotency-Key` stands for.
///
/// # Errors
/// The database's.
pub async fn find_by_key(db: &mut impl Db, hash: &[u8]) -> Result<Option<Registration>, StoreError> {
    let row: Option<Row> = sql!(fetch_optional in db,
        concat!("SELECT ", columns!(), " FROM registrations WHERE idempotency_hash = $1"), hash)?;
    Ok(row.map(Registration::from))
}

/// Where an attempt stands now.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, id: &str) -> Result<Option<Registration>, StoreError> {
    let row: Option<Row> = sql!(fetch_optional in db,
        concat!("SELECT ", columns!(), " FROM registrations WHERE id = $1"), id)?;
    Ok(row.map(Registration::from))
}

/// How many attempts came from a network since a moment, and when the first of them did.
///
/// # Errors
/// The database's.
pub async fn count_from(
    db: &mut impl Db,
    network: &str,
    since_ms: i64,
) -> Result<(i64, Option<i64>), StoreError> {
    sql!(fetch_one in db,
        "SELECT count(*), min(created_at) FROM registrations WHERE network = $1 AND created_at > $2",
        network, since_ms)
}

/// Unfinished attempts that nobody works on, the longest waiting first.
///
/// # Errors
/// The database's.
pub async fn due(db: &mut impl Db, now_ms: i64, limit: u32) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sql!(fetch_all in db,
        "SELECT id FROM registrations WHERE state IN ('pending', 'created', 'undoing') \
         AND next_try_at <= $1 ORDER BY next_try_at LIMIT $2", now_ms, i64::from(limit))?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Takes an unfinished attempt for a while; `None` when another replica was faster or it is over.
///
/// # Errors
/// The database's.
pub async fn claim(
    db: &mut impl Write,
    id: &str,
    owner: &str,
    now_ms: i64,
    until_ms: i64,
) -> Result<Option<Registration>, StoreError> {
    let row: Option<Row> = sql!(fetch_optional in db,
        concat!("UPDATE registrations SET owner = $2, next_try_at = $4, attempts = attempts + 1 \
         WHERE id = $1 AND next_try_at <= $3 AND state IN ('pending', 'created', 'undoing') RETURNING ",
            columns!()),
        id, owner, now_ms, until_ms)?;
    Ok(row.map(Registration::from))
}

/// The provider made this user for the attempt; `false` when the attempt is no longer the caller's.
///
/// # Errors
/// The database's.
pub async fn created(
    db: &mut impl Write,
    own: &Registration,
    subject: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in db,
        "UPDATE registrations SET state = 'created', subject = $3, changed_at = $4 \
         WHERE id = $1 AND owner = $2 AND state IN ('pending', 'created')",
        &own.id, &own.owner, subject, now_ms)?;
    Ok(rows == 1)
}

/// From now on the attempt is taken back; `false` when it is no longer the caller's, or over.
///
/// # Errors
/// The database's.
pub async fn undo(
    db: &mut impl Write,
    own: &Registration,
    subject: Option<&str>,
    reason: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in db,
        "UPDATE registrations SET state = 'undoing', subject = COALESCE($3, subject), error = $4, \
         changed_at = $5 WHERE id = $1 AND owner = $2 AND state IN ('pending', 'created', 'undoing')",
        &own.id, &own.owner, subject, reason, now_ms)?;
    Ok(rows == 1)
}

/// Leaves the attempt for later; `absences` counts the looks that found nobody.
///
/// # Errors
/// The database's.
pub async fn postpone(
    db: &mut impl Write,
    own: &Registration,
    absences: i64,
    next_try_at_ms: i64,
) -> Result<(), StoreError> {
    sql!(execute in db,
        "UPDATE registrations SET absences = $3, next_try_at = $4 \
         WHERE id = $1 AND owner = $2 AND state IN ('pending', 'created', 'undoing')",
        &own.id, &own.owner, absences, next_try_at_ms)?;
    Ok(())
}

/// Complete on both sides; `false` when the attempt is no longer the caller's, and then nothing else may be written either.
///
/// # Errors
/// The database's.
pub async fn finish(
    w: &mut Writer,
    own: &Registration,
    (subject, user_id): (&str, &str),
    now_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE registrations SET state = 'finished', subject = $3, user_id = $4, username = '', \
         email = '', person = '{}', changed_at = $5 \
         WHERE id = $1 AND owner = $2 AND state IN ('pending', 'created')",
        &own.id, &own.owner, subject, user_id, now_ms)?;
    Ok(rows == 1)
}

/// Over, with nothing of ours left anywhere: the key may be used again, and who it was about is forgotten.
///
/// # Errors
/// The database's.
pub async fn close(
    w: &mut Writer,
    own: &Registration,
    state: State,
    reason: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE registrations SET state = $3, error = $4, idempotency_hash = NULL, fingerprint = NULL, \
         username = '', email = '', person = '{}', changed_at = $5 \
         WHERE id = $1 AND owner = $2 AND state IN ('pending', 'created', 'undoing')",
        &own.id, &own.owner, state.as_str(), reason, now_ms)?;
    Ok(rows == 1)
}

/// How many users at a provider still wait to be taken back.
///
/// # Errors
/// The database's.
pub async fn count_undoing(db: &mut impl Db) -> Result<i64, StoreError> {
    let (count,): (i64,) =
        sql!(fetch_one in db, "SELECT count(*) FROM registrations WHERE state = 'undoing'")?;
    Ok(count)
}

/// Removes attempts that were over before this moment, at most `limit` of them.
///
/// # Errors
/// The database's.
pub async fn remove_over(db: &mut impl Write, before_ms: i64, limit: u32) -> Result<u64, StoreError> {
    sql!(execute in db,
        "DELETE FROM registrations WHERE id IN (SELECT id FROM registrations WHERE changed_at < $1 \
         AND state IN ('finished', 'undone', 'failed') ORDER BY changed_at LIMIT $2)",
        before_ms, i64::from(limit))
}
