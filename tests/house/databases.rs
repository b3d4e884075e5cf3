//! An empty database of either kind, and the macro that tells a story on both.

use std::path::PathBuf;

use doorward::store::{Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection};

use super::servers::postgres;

/// A database of one test's own; it goes with this value.
pub struct Database {
    pub url: String,
    #[expect(dead_code, reason = "what it lives in is removed with it")]
    keep: Keep,
}

#[expect(dead_code, reason = "kept to be dropped")]
enum Keep {
    /// Somebody else's to remove.
    Nothing,
    Folder(tempfile::TempDir),
    Cluster(postgres::Database),
}

impl Database {
    /// A file that does not exist yet, in a folder that does.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("doorward.sqlite").display());
        Self { url, keep: Keep::Folder(folder) }
    }

    /// A database that lives elsewhere already.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), keep: Keep::Nothing }
    }

    /// In the cluster that the whole run shares.
    pub async fn postgres() -> Self {
        let database = postgres::fresh_database().await;
        Self { url: database.url.clone(), keep: Keep::Cluster(database) }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions { url: self.url.clone().into(), pool_size: 10, migrate: true }
    }

    /// One more replica, its schema prepared.
    pub async fn open(&self) -> Store {
        let store = Store::open(&self.options()).await.expect("the database opens");
        store.prepare().await.expect("the schema is prepared");
        store
    }

    /// Where the SQLite file is.
    pub fn path(&self) -> Option<PathBuf> {
        self.url.strip_prefix("sqlite:").map(PathBuf::from)
    }

    /// Does what no function of the store would do. The text is written in a test.
    pub async fn execute(&self, sql: &str) {
        let done = if self.path().is_some() {
            let mut conn = SqliteConnection::connect(&self.url).await.expect("a connection");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.map(|_| ())
        } else {
            let mut conn = PgConnection::connect(&self.url).await.expect("a connection");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.map(|_| ())
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the first row.
    pub async fn number(&self, sql: &str) -> i64 {
        if self.path().is_some() {
            let mut conn = SqliteConnection::connect(&self.url).await.expect("a connection");
            sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect(sql).get(0)
        } else {
            let mut conn = PgConnection::connect(&self.url).await.expect("a connection");
            sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect(sql).get(0)
        }
    }

    /// The first column of every row, where it is text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        if self.path().is_some() {
            let mut conn = SqliteConnection::connect(&self.url).await.expect("a connection");
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect(sql);
            rows.iter().map(|row| row.get(0)).collect()
        } else {
            let mut conn = PgConnection::connect(&self.url).await.expect("a connection");
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect(sql);
            rows.iter().map(|row| row.get(0)).collect()
        }
    }

    /// Everything that a thief of the database would hold: the file and
    /// its log, or each row as text with bytes in hex.
    pub async fn dump(&self) -> Vec<u8> {
        if let Some(path) = self.path() {
            return ["", "-wal"]
                .iter()
                .filter_map(|end| std::fs::read(format!("{}{end}", path.display())).ok())
                .flatten()
                .collect();
        }
        let mut conn = PgConnection::connect(&self.url).await.expect("a connection");
        let mut dump = Vec::new();
        for table in ["users", "sessions", "used_attempts", "own_keys", "audit_log", "registrations"] {
            let sql = format!("SELECT CAST(t AS TEXT) FROM {table} t");
            let rows: Vec<(String,)> =
                sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect("the rows");
            dump.extend(rows.into_iter().flat_map(|(row,)| row.into_bytes()));
        }
        dump
    }
}

/// Tells the same story on SQLite and on PostgreSQL: `async fn name(db: Database) { … }`.
macro_rules! on_each_database {
    ($($(#[$note:meta])* async fn $name:ident($db:ident: Database) $story:block)*) => { $(
        $(#[$note])*
        mod $name {
            use super::*;

            async fn story($db: $crate::house::databases::Database) $story

            #[tokio::test]
            async fn on_sqlite() {
                story($crate::house::databases::Database::sqlite()).await;
            }

            #[tokio::test]
            async fn on_postgresql() {
                story($crate::house::databases::Database::postgres().await).await;
            }
        }
    )* };
}
pub(crate) use on_each_database;
