//! SQLite's connections, kept by ourselves.
//!
//! The driver's pool asks each connection that is handed back whether it still works, which on SQLite is a hand-over to another thread
//! and back for nothing: a login would pay for three. What can break here is the driver's thread, and a statement says so itself.
//!
//! Owns: who has which connection, in the order they asked; the transaction's beginning and end.
//! Never does: know a statement of ours.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Either, Execute, Executor as _, Sqlite, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, StoreError};

/// A connection nobody needed for this long is given up, with its thread and its cache.
const IDLE_TIME: Duration = Duration::from_mins(10);

// How a commit is synced is a matter of the moment at which the text is read, so none of these may be a prepared statement. In WAL mode the next
// FULL commit syncs what NORMAL ones wrote before it. Where a connection stands relaxed between two transactions, the mark that comes next
// needs no word of its own.
const FULL: &str = "PRAGMA synchronous = FULL";
const NORMAL: &str = "PRAGMA synchronous = NORMAL";
const FULL_BEGIN: &str = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE";
const COMMIT_NORMAL: &str = "COMMIT; PRAGMA synchronous = NORMAL";

/// A bounded set of connections of one kind. Who asks first is served first.
pub(super) struct Kept {
    options: SqliteConnectOptions,
    most: u32,
    places: Arc<Semaphore>,
    /// The one used last is used next: its cache is warm. The times are those of the last use.
    idle: Mutex<Vec<(Instant, Lite)>>,
}

struct Lite {
    conn: SqliteConnection,
    /// Whether a commit may return before the disk has it. `true` where nobody knows.
    relaxed: bool,
}

impl Kept {
    /// At most so many of them, the first of which may be open already; the others are opened when they are needed.
    pub(super) fn new(
        options: SqliteConnectOptions,
        most: u32,
        first: Option<SqliteConnection>,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1)));
        let idle = Mutex::new(first.map(|conn| (Instant::now(), Lite::new(conn))).into_iter().collect());
        Arc::new(Self { options, most, places, idle })
    }

    /// A connection, as soon as one is free.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Held, StoreError> {
        let place = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| StoreError::slow())?.map_err(|_| sqlx::Error::PoolClosed)?;
        let rested = self.idle().pop();
        let lite = match rested {
            Some((_, lite)) => lite,
            None => Lite::new(
                timeout(PATIENCE, SqliteConnection::connect_with(&self.options))
                    .await
                    .map_err(|_| StoreError::slow())??,
            ),
        };
        Ok(Held { lite: Some(lite), from: Arc::clone(self), _place: place })
    }

    /// How each of them is opened, for one that is never given back.
    pub(super) fn options(&self) -> &SqliteConnectOptions {
        &self.options
    }

    /// Idle connections, and places taken.
    pub(super) fn count(&self) -> (usize, usize) {
        let taken = usize::try_from(self.most).unwrap_or(1).saturating_sub(self.places.available_permits());
        (self.idle().len(), taken)
    }

    /// Waits for whoever has a connection, and closes all.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.places.acquire_many(self.most).await {
            self.places.close();
            all.forget();
        }
        let idle = std::mem::take(&mut *self.idle());
        for (_, lite) in idle {
            // Whatever it answers, it is gone.
            let _ = lite.conn.close().await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Lite)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lite {
    fn new(conn: SqliteConnection) -> Self {
        Self { conn, relaxed: false }
    }
}

/// A connection in use; dropping it gives it back.
pub struct Held {
    /// `None` once its thread is known to be dead.
    lite: Option<Lite>,
    from: Arc<Kept>,
    _place: OwnedSemaphorePermit,
}

impl Held {
    pub(super) fn conn(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let lite = self.lite.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        Ok(&mut lite.conn)
    }

    /// Looks at how a statement ended: a connection without its thread is not given back.
    pub(super) fn settle<T>(&mut self, ended: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        if matches!(ended, Err(sqlx::Error::WorkerCrashed)) {
            self.lite = None;
        }
        Ok(ended?)
    }

    /// Runs one statement and returns how many rows it changed.
    pub(super) async fn execute<'q>(
        &mut self,
        query: impl Execute<'q, Sqlite> + 'q,
    ) -> Result<u64, StoreError> {
        self.run(query, 1).await
    }

    /// Waits for the first so many statements of a text, and returns how many rows the last of them changed. Each is done with its summary;
    /// to wait for the end of the stream would be one more hand-over.
    async fn run<'q>(
        &mut self,
        query: impl Execute<'q, Sqlite> + 'q,
        statements: u8,
    ) -> Result<u64, StoreError> {
        let mut steps = self.conn()?.fetch_many(query);
        let mut left = statements;
        let ended = loop {
            match steps.next().await {
                Some(Ok(Either::Left(done))) if left <= 1 => break Ok(done.rows_affected()),
                Some(Ok(Either::Left(_))) => left -= 1,
                Some(Ok(Either::Right(_))) => (),
                Some(Err(error)) => break Err(error),
                None => break Err(sqlx::Error::WorkerCrashed),
            }
        };
        drop(steps);
        self.settle(ended)
    }

    /// From here on a commit is on the disk when it returns.
    pub(super) async fn strict(mut self) -> Result<Self, StoreError> {
        if self.is_relaxed() {
            self.execute(sqlx::raw_sql(FULL)).await?;
            self.set_relaxed(false);
        }
        Ok(self)
    }

    /// From here on a commit survives the end of this process; a power failure may take back those that no strict one followed.
    pub(super) async fn relaxed(mut self) -> Result<Self, StoreError> {
        if !self.is_relaxed() {
            self.set_relaxed(true);
            self.execute(sqlx::raw_sql(NORMAL)).await?;
        }
        Ok(self)
    }

    fn is_relaxed(&self) -> bool {
        self.lite.as_ref().is_some_and(|lite| lite.relaxed)
    }

    fn set_relaxed(&mut self, relaxed: bool) {
        if let Some(lite) = &mut self.lite {
            lite.relaxed = relaxed;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(lite) = self.lite.take() else { return };
        let now = Instant::now();
        let mut idle = self.from.idle();
        idle.retain(|(used, _)| now.duration_since(*used) < IDLE_TIME);
        idle.push((now, lite));
    }
}

/// A transaction that has the write lock of the file.
pub(super) struct Transaction {
    held: Held,
    /// Whether SQLite may still be in it.
    open: bool,
}

impl Transaction {
    pub(super) async fn begin(held: Held) -> Result<Self, StoreError> {
        // From here on, a caller who gives up takes it back by dropping this.
        let mut begun = Self { held, open: true };
        if begun.held.is_relaxed() {
            begun.held.run(sqlx::raw_sql(FULL_BEGIN), 2).await?;
            begun.held.set_relaxed(false);
        } else {
            begun.held.execute(sqlx::query("BEGIN IMMEDIATE")).await?;
        }
        Ok(begun)
    }

    pub(super) fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.held.set_relaxed(true);
        self.held.run(sqlx::raw_sql(COMMIT_NORMAL), 1).await?;
        self.open = false;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        self.held.execute(sqlx::query("ROLLBACK")).await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        if let Ok(conn) = self.held.conn() {
            // The first look at it puts the statement into the thread's queue, behind what was given up, before anybody else's. Where the
            // transaction is over already, SQLite refuses it, and nothing happens.
            let _ = conn.execute("ROLLBACK").now_or_never();
        }
    }
}
