//! `ended_sids`: logouts that may have overtaken the login they speak of (security.md LO-10).
//!
//! Login and logout of the same name take the same lock for the length of their transactions, so that one of them sees the other.

use sha2::{Digest as _, Sha256};

use super::{Conn, Db, StoreError, Writer};

/// Whom a logout named, as a hash: the table holds nobody's handle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of<'a> {
    /// One session of the provider.
    Sid(&'a str),
    /// Every session of a person.
    Subject(&'a str),
    /// A person one of whose sessions ended, and who has to prove the others.
    Doubted(&'a str),
}

impl Name {
    #[must_use]
    pub fn new(provider: &str, issuer: &str, of: Of<'_>) -> Self {
        let (kind, value) = match of {
            Of::Sid(sid) => ("sid", sid),
            Of::Subject(sub) => ("sub", sub),
            Of::Doubted(sub) => ("doubted", sub),
        };
        // Neither an id nor an issuer holds a NUL, so that no two names are one text.
        Self(Sha256::digest(format!("{provider}\0{issuer}\0{kind}\0{value}").as_bytes()).to_vec())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The lock's number. Two names that share one wait for each other, which harms nobody.
    fn lock(&self) -> i64 {
        self.0.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
    }
}

/// Waits for every other transaction about these two names, and keeps later ones waiting until the end of this one. On SQLite each
/// transaction waits for all others anyway.
///
/// # Errors
/// The database's.
pub async fn lock(w: &mut Writer, one: &Name, other: &Name) -> Result<(), StoreError> {
    if let Conn::Sqlite(_) = w.conn() {
        return Ok(());
    }
    // One order for everybody, else two could wait for each other.
    let (first, second) = (one.lock().min(other.lock()), one.lock().max(other.lock()));
    let _: (String, String) = sql!(fetch_one in w,
        "SELECT CAST($1 AS TEXT), CAST($2 AS TEXT)"
        => "SELECT CAST(pg_advisory_xact_lock($1) AS TEXT), CAST(pg_advisory_xact_lock($2) AS TEXT)",
        first, second)?;
    Ok(())
}

/// Writes down that a logout of this name was heard.
///
/// # Errors
/// The database's.
pub async fn insert(w: &mut Writer, name: &Name, now_ms: i64, expires_at_ms: i64) -> Result<(), StoreError> {
    sql!(execute in w,
        "INSERT INTO ended_sids (name_hash, ended_at, expires_at) VALUES ($1, $2, $3) \
         ON CONFLICT (name_hash) DO UPDATE SET ended_at = excluded.ended_at, expires_at = excluded.expires_at",
        name.0.as_slice(), now_ms, expires_at_ms)?;
    Ok(())
}

/// When the last logout of each of these names was heard, Unix ms.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, names: [&Name; 3], now_ms: i64) -> Result<[Option<i64>; 3], StoreError> {
    let [a, b, c] = names.map(|name| name.0.as_slice());
    // One row whatever is stored: a login waits for a single answer.
    let (of_a, of_b, of_c): (Option<i64>, Option<i64>, Option<i64>) = sql!(fetch_one in db,
        "SELECT MAX(CASE WHEN name_hash = $1 THEN ended_at END), MAX(CASE WHEN name_hash = $2 THEN ended_at END), \
         MAX(CASE WHEN name_hash = $3 THEN ended_at END) FROM ended_sids \
         WHERE name_hash IN ($1, $2, $3) AND expires_at > $4",
        a, b, c, now_ms)?;
    Ok([of_a, of_b, of_c])
}

/// Removes what no login and no bearer token can need any more, at most `limit`; returns how many.
///
/// # Errors
/// The database's.
pub async fn remove_expired(w: &mut Writer, now_ms: i64, limit: u32) -> Result<u64, StoreError> {
    sql!(execute in w,
        "DELETE FROM ended_sids WHERE name_hash IN \
         (SELECT name_hash FROM ended_sids WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        now_ms, i64::from(limit))
}
