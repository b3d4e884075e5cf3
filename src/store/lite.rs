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
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, Either, Execute, Executor as _, FromRow, Sqlite,
    SqliteConnection,
};
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
const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT_NORMAL: &str = "COMMIT; PRAGMA synchronous = NORMAL";

/// More statements are not handed over at once: fewer than the driver's thread may answer before anybody listens.
const TOGETHER_MAX: u32 = 32;

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
                timeout(PATIENCE, Box::pin(SqliteConnection::connect_with(&self.options)))
                    .await
                    .map_err(|_| StoreError::slow())??,
            ),
        };
        Ok(Held {
            lite: Some(lite),
            ahead: Ahead::default(),
            statements: 1,
            from: Arc::clone(self),
            _place: place,
        })
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

/// Statements that wait for the next one: each hand-over to the driver's thread costs more than most statements do.
#[derive(Default)]
struct Ahead {
    text: String,
    arguments: SqliteArguments,
    statements: u32,
}

impl Ahead {
    /// Everything as one text; parameters are numbered through.
    fn followed_by(&self, text: &str) -> String {
        let shift = self.arguments.len();
        let mut joined = String::with_capacity(self.text.len() + text.len() + 64);
        for part in [&self.text, "; "] {
            joined.push_str(part);
        }
        if shift == 0 {
            joined.push_str(text);
            return joined;
        }
        let mut parts = text.split('$');
        joined.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = part.split_at(digits);
            let number = number.parse::<usize>().unwrap_or_default() + shift;
            joined.push('$');
            joined.push_str(itoa::Buffer::new().format(number));
            joined.push_str(rest);
        }
        joined
    }
}

/// A connection in use; dropping it gives it back.
pub struct Held {
    /// `None` once its thread is known to be dead.
    lite: Option<Lite>,
    ahead: Ahead,
    /// How many statements the text has that is about to be run.
    statements: u32,
    from: Arc<Kept>,
    _place: OwnedSemaphorePermit,
}

impl Held {
    pub(super) fn conn(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.statements = 1;
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

    /// A statement to be run now or [`Self::later`], behind those that wait.
    pub(super) fn query(&mut self, text: &'static str) -> Query<'static, Sqlite, SqliteArguments> {
        let ahead = self.take_ahead();
        if ahead.statements == 0 {
            return sqlx::query(text);
        }
        sqlx::query_with(AssertSqlSafe(ahead.followed_by(text)), ahead.arguments)
    }

    /// As [`Self::query`], with rows.
    pub(super) fn query_as<O>(&mut self, text: &'static str) -> QueryAs<'static, Sqlite, O, SqliteArguments>
    where
        O: for<'r> FromRow<'r, SqliteRow>,
    {
        let ahead = self.take_ahead();
        if ahead.statements == 0 {
            return sqlx::query_as(text);
        }
        sqlx::query_as_with(AssertSqlSafe(ahead.followed_by(text)), ahead.arguments)
    }

    fn take_ahead(&mut self) -> Ahead {
        let ahead = std::mem::take(&mut self.ahead);
        self.statements = ahead.statements.saturating_add(1);
        ahead
    }

    /// Hands it over together with the next statement, which tells of its fault, too; or now, where many wait already.
    pub(super) async fn later(
        &mut self,
        mut query: Query<'static, Sqlite, SqliteArguments>,
    ) -> Result<(), StoreError> {
        if self.statements >= TOGETHER_MAX {
            return self.execute(query).await.map(drop);
        }
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?.unwrap_or_default();
        let statements = std::mem::replace(&mut self.statements, 1);
        self.ahead = Ahead { text: query.sql().as_str().to_owned(), arguments, statements };
        Ok(())
    }

    /// Runs one statement, and those that wait for it, and returns how many rows it changed.
    pub(super) async fn execute<'q>(
        &mut self,
        query: impl Execute<'q, Sqlite> + 'q,
    ) -> Result<u64, StoreError> {
        let statements = std::mem::replace(&mut self.statements, 1);
        self.run(query, statements).await
    }

    /// Waits for the first so many statements of a text, and returns how many rows the last of them changed. Each is done with its summary;
    /// to wait for the end of the stream would be one more hand-over.
    async fn run<'q>(
        &mut self,
        query: impl Execute<'q, Sqlite> + 'q,
        statements: u32,
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

    /// Puts a statement into the thread's queue, and does not wait.
    fn send(&mut self, text: &'static str) {
        if let Ok(conn) = self.conn() {
            // The first look at it does that.
            let _ = conn.execute(sqlx::raw_sql(text)).now_or_never();
        }
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
    /// Begins with the first statement, which tells when the lock is not to be had.
    pub(super) fn begin(mut held: Held) -> Self {
        if held.is_relaxed() {
            // Between two transactions this cannot be refused.
            held.send(FULL);
            held.set_relaxed(false);
        }
        held.ahead = Ahead { text: BEGIN.to_owned(), statements: 1, ..Ahead::default() };
        // From here on, a caller who gives up takes it back by dropping this.
        Self { held, open: true }
    }

    pub(super) fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.held.set_relaxed(true);
        if self.held.ahead.statements == 0 {
            self.held.run(sqlx::raw_sql(COMMIT_NORMAL), 1).await?;
        } else {
            let commit = self.held.query("COMMIT");
            self.held.execute(commit).await?;
            self.held.send(NORMAL);
        }
        self.open = false;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        if self.held.take_ahead().text.starts_with(BEGIN) {
            self.open = false;
            return Ok(());
        }
        self.held.statements = 1;
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
        // Behind what was given up, before anybody else's. Where the transaction is over already, SQLite refuses it, and nothing happens.
        self.held.send("ROLLBACK");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_joined_statements_are_numbered_through() {
        let mut arguments = SqliteArguments::default();
        arguments.add(1_i64).unwrap();
        arguments.add(2_i64).unwrap();
        let ahead =
            Ahead { text: "DELETE FROM a WHERE b = $1 AND c = $2".to_owned(), arguments, statements: 1 };
        assert_eq!(
            ahead.followed_by("UPDATE d SET e = $2, f = $10 WHERE g = $1"),
            "DELETE FROM a WHERE b = $1 AND c = $2; UPDATE d SET e = $4, f = $12 WHERE g = $3"
        );
        assert_eq!(ahead.followed_by("COMMIT"), "DELETE FROM a WHERE b = $1 AND c = $2; COMMIT");
    }
}
