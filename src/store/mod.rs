//! Our memory: users, sessions and what keeps replicas honest, in SQLite or PostgreSQL from one SQL text.
//!
//! Owns: the schema, every SQL statement, transactions, the sealing of
//! what is stored, and what a database fault means.
//! Never does: decide who may come in, read a clock, talk to another house while a [`Writer`] is open.
//!
//! ```text
//! Store ─reader()─► Reader ─┐ impl Db: find…        sql!(fetch_optional in db, "… $1", id)
//!       ─writer()─► Writer ─┴ insert, apply, take, end ─► commit()      (dropped = rolled back)
//! ```

#[macro_use]
mod sql;
mod cache;
mod error;
mod lite;
mod open;
mod prepare;

pub mod api_keys;
pub mod audit_log;
pub mod ended_sids;
pub mod leases;
pub mod notify;
pub mod own_keys;
pub mod password_failures;
pub mod registrations;
pub mod rotate;
pub mod seen_logout_tokens;
pub mod sessions;
pub mod used_attempts;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::time::Instant;

pub use cache::{Known, Limits, Recalled, Ticket};
pub use error::StoreError;
pub use notify::{Note, Notice, Notices};
pub use open::StoreOptions;

/// Longest wait for a connection and its first statement together, so
/// that a refusal takes less than 3 s (DS-03, RE-02).
const PATIENCE: Duration = Duration::from_millis(2_500);

#[derive(Clone)]
enum Pools {
    /// SQLite has one writer at a time; a single connection queues writers fairly
    /// instead of letting them fight for the lock.
    Sqlite {
        writer: Arc<lite::Kept>,
        readers: Arc<lite::Kept>,
    },
    Postgres(PgPool),
}

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pools: Pools,
    migrate: bool,
    board: Arc<notify::Board>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.pools {
            Pools::Sqlite { .. } => "Store(SQLite)",
            Pools::Postgres(_) => "Store(PostgreSQL)",
        })
    }
}

impl Store {
    /// A connection for reading.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within 2.5 s when there is none to be had.
    pub async fn reader(&self) -> Result<Reader, StoreError> {
        let asked = Instant::now();
        Ok(Reader(match &self.pools {
            Pools::Sqlite { readers, .. } => Bare::Sqlite(readers.acquire().await?),
            // In a box: how a connection is opened is large, and would be carried about by all who ask for one.
            Pools::Postgres(pool) => Bare::Postgres(Box::pin(pool.acquire()).await?, Limit::from(asked)),
        }))
    }

    /// A transaction. Nothing of it stays unless [`Writer::commit`] succeeds.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within about 2.5 s when the database cannot be written to; on SQLite another process's lock is met by the
    /// first statement, as late.
    pub async fn writer(&self) -> Result<Writer, StoreError> {
        let asked = Instant::now();
        let under_way = match &self.pools {
            Pools::Sqlite { writer, .. } => {
                Writing::Sqlite(lite::Transaction::begin(writer.acquire().await?))
            }
            Pools::Postgres(pool) => {
                // The races are settled by unique keys and row locks, for which this level is enough,
                // whatever the server's default is.
                let opening = Box::pin(pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"));
                let transaction = tokio::time::timeout(PATIENCE, opening).await;
                Writing::Postgres(transaction.map_err(|_| StoreError::slow())??, Limit::from(asked))
            }
        };
        Ok(Writer { under_way, notes: Vec::new(), board: Arc::clone(&self.board) })
    }

    /// For one statement that commits itself: a third of the round trips of a transaction around it.
    ///
    /// # Errors
    /// As [`Store::writer`].
    pub async fn single(&self) -> Result<Single, StoreError> {
        let asked = Instant::now();
        Ok(Single(match &self.pools {
            Pools::Sqlite { writer, .. } => Bare::Sqlite(writer.acquire().await?.strict().await?),
            Pools::Postgres(pool) => Bare::Postgres(Box::pin(pool.acquire()).await?, Limit::from(asked)),
        }))
    }

    /// As [`Store::single`], for what a power failure may undo as long as no other commit followed: on SQLite it waits for no disk.
    ///
    /// # Errors
    /// As [`Store::writer`].
    pub async fn mark(&self) -> Result<Single, StoreError> {
        match &self.pools {
            Pools::Sqlite { writer, .. } => {
                Ok(Single(Bare::Sqlite(writer.acquire().await?.relaxed().await?)))
            }
            Pools::Postgres(_) => self.single().await,
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut reader = self.reader().await?;
        let _: (i64,) = sql!(fetch_one in &mut reader, "SELECT CAST(1 AS BIGINT)")?;
        Ok(())
    }

    /// Open connections: idle ones, and those at work.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        match &self.pools {
            Pools::Sqlite { writer, readers } => {
                let ((idle, busy), (readers_idle, readers_busy)) = (writer.count(), readers.count());
                (idle + readers_idle, busy + readers_busy)
            }
            Pools::Postgres(pool) => {
                let (open, idle) = (usize::try_from(pool.size()).unwrap_or(usize::MAX), pool.num_idle());
                (idle, open.saturating_sub(idle))
            }
        }
    }

    /// Whether this database belongs to one machine alone, so that no other replica has to be told anything.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.pools, Pools::Sqlite { .. })
    }

    /// Waits for connections in use and closes all.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// A connection by either driver, and how long its next statement may take.
pub enum Conn<'a> {
    Sqlite(&'a mut lite::Held),
    Postgres(&'a mut PgConnection, Duration),
}

/// Something to read from: a [`Reader`], or a [`Writer`] that sees its own writes.
pub trait Db: Send {
    fn conn(&mut self) -> Conn<'_>;
}

/// A connection that only reads.
pub struct Reader(Bare);

enum Bare {
    Sqlite(lite::Held),
    Postgres(PoolConnection<Postgres>, Limit),
}

impl Bare {
    fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(conn) => Conn::Sqlite(conn),
            Self::Postgres(conn, limit) => Conn::Postgres(conn, limit.next()),
        }
    }
}

impl Db for Reader {
    fn conn(&mut self) -> Conn<'_> {
        self.0.conn()
    }
}

/// What a function of one writing statement takes: a [`Writer`], or a [`Single`] where nothing else belongs to it.
pub trait Write: Db {}

impl Write for Writer {}

impl Write for Single {}

/// A connection on which each statement is true as soon as it returns.
pub struct Single(Bare);

impl Db for Single {
    fn conn(&mut self) -> Conn<'_> {
        self.0.conn()
    }
}

/// A transaction under way. Never hold one across a call to someone else's
/// house: on SQLite it stops all other writes.
pub struct Writer {
    under_way: Writing,
    notes: Vec<Note>,
    board: Arc<notify::Board>,
}

enum Writing {
    Sqlite(lite::Transaction),
    Postgres(Transaction<'static, Postgres>, Limit),
}

impl Writer {
    /// Remembers whom this transaction concerns: [`Writer::commit`] tells this process and every other one. Each write that
    /// ends or changes a session, or changes what is known of its user, notes it.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Makes everything written true, at once, and tells whoever remembers something of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; whether the writes happened is then unknown, as with any database.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let mut notes = std::mem::take(&mut self.notes);
        // Ends first: whoever is over has no news to hear.
        notes.sort_by_key(|note| !matches!(note, Note::Ended(_)));
        let board = Arc::clone(&self.board);
        // In the same transaction: other processes hear of it exactly when it becomes true. So does this one, which matters when
        // nobody waits for the end of this commit, or its answer is lost and it happens later.
        board.post(&mut self, &notes).await?;
        let committed = match self.under_way {
            Writing::Sqlite(transaction) => transaction.commit().await,
            Writing::Postgres(transaction, mut limit) => {
                within(limit.next(), transaction.commit()).await.map_err(StoreError::at_commit)
            }
        };
        // Also after a failure: the commit may have happened and its answer been lost, and to look again costs little.
        board.tell(notes);
        committed
    }

    /// Takes everything back now; dropping the writer does the same a moment later.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the writes are gone all the same.
    pub async fn rollback(self) -> Result<(), StoreError> {
        match self.under_way {
            Writing::Sqlite(transaction) => transaction.rollback().await,
            Writing::Postgres(transaction, mut limit) => within(limit.next(), transaction.rollback()).await,
        }
    }
}

impl Db for Writer {
    fn conn(&mut self) -> Conn<'_> {
        match &mut self.under_way {
            Writing::Sqlite(transaction) => Conn::Sqlite(transaction.held()),
            Writing::Postgres(transaction, limit) => Conn::Postgres(transaction, limit.next()),
        }
    }
}

/// How long a statement may take. The wait for the connection counts against the first one.
struct Limit(Option<Instant>);

impl Limit {
    fn from(asked: Instant) -> Self {
        Self(Some(asked))
    }

    fn next(&mut self) -> Duration {
        let spent = self.0.take().map_or(Duration::ZERO, |asked| asked.elapsed());
        PATIENCE.saturating_sub(spent).max(Duration::from_millis(200))
    }
}

/// A frozen server never answers, not even with its own statement
/// timeout: only our clock ends the wait (RE-02).
async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, statement).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::slow()),
    }
}
