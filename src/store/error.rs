//! What can go wrong with the database, ordered by who can mend it.

use std::path::PathBuf;

/// A database fault. Neither its display nor its debug form holds
/// a password, a stored value or an SQL argument.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured address is no database; `0` says what is wrong with it, without the address.
    #[error("the database address is not usable: {0}")]
    BadUrl(String),
    /// The SQLite file cannot be created or written.
    #[error("the database file {path} is not usable: {problem}; {advice}", path = path.display())]
    Unwritable { path: PathBuf, problem: String, advice: &'static str },
    /// The schema was made by a newer Doorward (security.md RE-08).
    #[error("the database has schema {found}, this Doorward knows up to {known}: start a newer Doorward")]
    NewerSchema { found: i64, known: i64 },
    /// The schema is missing or behind, and migrating at start is switched off.
    #[error(
        "the database has schema {found}, this Doorward needs {known}: run `doorward migrate`, or set database.migrate = true"
    )]
    OlderSchema { found: i64, known: i64 },
    /// A migration did not run, or an applied one is not the one this Doorward knows.
    #[error("the database schema could not be prepared: {0}")]
    Migration(String),
    /// The database does not answer, is full, read-only, starting, or too
    /// busy. It may recover by itself: answer 503.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Cause),
    /// Two transactions stood in each other's way; the same work may be tried again (security.md RE-14).
    #[error("the database asks to try again: {0}")]
    TryAgain(#[source] Cause),
    /// The connection broke. What a transaction had written before its commit is gone, so that it may be tried again (RE-14); of a statement
    /// that commits itself nobody knows.
    #[error("the connection to the database broke: {0}")]
    Lost(#[source] Cause),
    /// A unique key or a reference was violated by an `insert` whose caller promised that it would not be.
    #[error("the row is there already, or what it refers to is not: {0}")]
    Conflict(#[source] Cause),
    /// A key of the ring is not the one that sealed what is stored under its id.
    #[error("key {0:?} is not the key that sealed this database")]
    WrongKey(String),
    /// A fault of ours, or a damaged database.
    #[error("the database refused a statement: {0}")]
    Broken(#[source] Cause),
    /// A stored value of ours does not open.
    #[error("the stored {what} does not open: {source}")]
    Sealed { what: String, source: crate::crypto::OpenError },
}

/// A driver error whose debug form is its display form: the driver's own debug form quotes the failing row.
pub struct Cause(sqlx::Error);

impl std::fmt::Debug for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Cause {}

impl StoreError {
    /// Whether waiting may help: 503 with `Retry-After`, not 500.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TryAgain(_) | Self::Lost(_))
    }

    /// A commit whose answer never came may have happened: nothing to try again.
    pub(super) fn at_commit(self) -> Self {
        match self {
            Self::Lost(cause) => Self::Unavailable(cause),
            other => other,
        }
    }

    pub(super) fn slow() -> Self {
        Self::Unavailable(Cause(sqlx::Error::PoolTimedOut))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) => Self::Lost(Cause(error)),
            E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => Self::Unavailable(Cause(error)),
            E::Database(fault) if fault.is_unique_violation() || fault.is_foreign_key_violation() => {
                Self::Conflict(Cause(error))
            }
            E::Database(fault) => match judge(fault.as_ref()) {
                Judgement::Wait => Self::Unavailable(Cause(error)),
                Judgement::TryAgain => Self::TryAgain(Cause(error)),
                Judgement::Lost => Self::Lost(Cause(error)),
                Judgement::Broken => Self::Broken(Cause(error)),
            },
            _ => Self::Broken(Cause(error)),
        }
    }
}

enum Judgement {
    Wait,
    TryAgain,
    Lost,
    Broken,
}

fn judge(fault: &dyn sqlx::error::DatabaseError) -> Judgement {
    let code = fault.code().unwrap_or_default();
    if fault.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // The lowest byte is the primary result code (sqlite.org/rescode.html): busy, locked, read-only,
        // I/O, full,
        // cannot open.
        return match code.parse::<u32>().map(|code| code & 0xff) {
            Ok(5 | 6 | 8 | 10 | 13 | 14) => Judgement::Wait,
            _ => Judgement::Broken,
        };
    }
    // SQLSTATE (PostgreSQL, appendix A).
    match code.as_ref() {
        "40001" | "40P01" => Judgement::TryAgain,
        // An administrator ended this connection, or its server process died.
        "57P01" | "57P02" => Judgement::Lost,
        // Timeouts, shutdown, start-up, fail-over to a read-only server, wrong
        // password or database while somebody mends it.
        "57014" | "57P03" | "57P05" | "25006" | "25P03" | "55P03" | "3D000" => Judgement::Wait,
        code if code.starts_with("08")
            || code.starts_with("53")
            || code.starts_with("58")
            || code.starts_with("28") =>
        {
            Judgement::Wait
        }
        _ => Judgement::Broken,
    }
}
