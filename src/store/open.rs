//! From an address to pools, without asking the network anything: a database that is down must not keep
//! Doorward from starting (RE-03).

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};

use super::lite::Kept;
use super::{PATIENCE, Pools, Store, StoreError};

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `sqlite:PATH` or `postgres://…`; it may hold a password.
    pub url: SecretString,
    /// Most connections at once, at least 1; SQLite has one more, the writer.
    pub pool_size: u32,
    /// Whether [`Store::prepare`] brings the schema up to date, or only checks it.
    pub migrate: bool,
}

impl Store {
    /// Reads the address and opens what can be opened without waiting:
    /// a SQLite file now, PostgreSQL at the first use.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`], or [`StoreError::Unwritable`] for a SQLite file.
    pub async fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let url = options.url.expose_secret();
        let pools = if url.starts_with("sqlite:") {
            open_sqlite(url, options.pool_size).await?
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            open_postgres(url, options.pool_size)?
        } else {
            return Err(StoreError::BadUrl("it starts neither with sqlite: nor with postgres://".to_owned()));
        };
        Ok(Self { pools, migrate: options.migrate, board: Arc::default() })
    }
}

async fn open_sqlite(url: &str, pool_size: u32) -> Result<Pools, StoreError> {
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|_| StoreError::BadUrl("expected sqlite:PATH, with known options after a `?`".to_owned()))?;
    let path = options.get_filename().to_path_buf();
    if path.as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
        return Err(StoreError::BadUrl("SQLite needs a file: sqlite:PATH".to_owned()));
    }
    touch_private(&path)?;
    let options = options
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL would let a power failure take back the last commits: an ended session would live again and
        // a rotated
        // refresh token be lost. Logins are rare enough to pay for the disk.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
        .disable_statement_logging();
    let mut first = connect_writer(&options).await.map_err(|error| unwritable(&path, &error.to_string()))?;
    match prove_writable(&mut first).await {
        // Whoever holds the lock writes, so the file can be written.
        Err(error) if !is_busy(&error) => return Err(unwritable(&path, &error.to_string())),
        _ => (),
    }
    let writer = Kept::new(options.clone(), 1, Some(first));
    Ok(Pools::Sqlite { writer, readers: Kept::new(options.read_only(true), pool_size.max(1), None) })
}

async fn connect_writer(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match SqliteConnection::connect_with(options).await {
            // Two processes switch a new file to its log at the same moment; SQLite does not queue for that.
            Err(error) if is_busy(&error) && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

/// `SQLITE_BUSY` or `SQLITE_LOCKED`, in whichever extended form.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Takes the write lock once, so that a read-only disk or file is told at start and not at the first login.
async fn prove_writable(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // Writes the header, but no content: the version stays what it is.
    let (version,): (i64,) = sqlx::query_as("PRAGMA user_version").fetch_one(&mut *conn).await?;
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
    transaction.execute(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"))).await?;
    transaction.rollback().await
}

/// Creates the file for its owner's eyes only, and proves that it can be written.
fn touch_private(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(|_| ()).map_err(|error| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder {
            Some(folder) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                StoreError::Unwritable {
                    path: path.to_path_buf(),
                    problem: format!("the folder {} does not exist", folder.display()),
                    advice: "create the folder, or correct `database.url`",
                }
            }
            _ => unwritable(path, &error.to_string()),
        }
    })
}

fn unwritable(path: &Path, problem: &str) -> StoreError {
    StoreError::Unwritable {
        path: PathBuf::from(path),
        problem: problem.to_owned(),
        advice: "give Doorward's user the right to write the file and its folder, or correct `database.url`",
    }
}

fn open_postgres(url: &str, pool_size: u32) -> Result<Pools, StoreError> {
    let options = postgres_options(url)?;
    let pool = PgPoolOptions::new()
        .max_connections(pool_size.max(1))
        .acquire_timeout(PATIENCE)
        .max_lifetime(Duration::from_mins(30))
        .idle_timeout(Duration::from_mins(5))
        .test_before_acquire(false)
        .after_connect(|conn, _| {
            Box::pin(async move {
                // A little before our own clock, so that a slow statement ends
                // on the server and the connection survives.
                conn.execute(
                    "SET statement_timeout = '2400ms'; SET idle_in_transaction_session_timeout = '10s'; \
                     SET default_transaction_isolation = 'read committed'; \
                     SET default_transaction_read_only = off",
                )
                .await
                .map(|_| ())
            })
        })
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                // A connection used a moment ago is trusted; after a rest it is asked, so that a restarted
                // server costs
                // nobody a request. The question is bounded by the time to acquire.
                if meta.idle_for >= Duration::from_secs(1) {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|conn, _| {
            Box::pin(async move {
                // A statement may have been given up on a frozen server; such
                // a connection must not block its place.
                match tokio::time::timeout(Duration::from_secs(1), conn.ping()).await {
                    Ok(answer) => answer.map(|()| true),
                    Err(_) => Err(sqlx::Error::PoolTimedOut),
                }
            })
        })
        .connect_lazy_with(options);
    Ok(Pools::Postgres(pool))
}

fn postgres_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let bad = |problem: &str| StoreError::BadUrl(problem.to_owned());
    let parsed = url::Url::parse(url).map_err(|error| bad(&error.to_string()))?;
    if parsed.cannot_be_a_base() || parsed.host_str().is_none_or(str::is_empty) && parsed.query().is_none() {
        return Err(bad("expected postgres://USER:PASSWORD@HOST:PORT/DATABASE"));
    }
    if parsed.path().trim_matches('/').is_empty() && !parsed.query_pairs().any(|(key, _)| key == "dbname") {
        return Err(bad("it names no database: postgres://USER:PASSWORD@HOST:PORT/DATABASE"));
    }
    // The driver's own message may quote the address, so it is not passed on.
    let options =
        PgConnectOptions::from_str(url).map_err(|_| bad("a part or an option of it is not understood"))?;
    Ok(options.application_name("doorward").disable_statement_logging())
}
