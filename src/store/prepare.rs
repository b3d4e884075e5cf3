//! The schema: brought up to date, or found fit, or refused.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

use super::lite::Held;
use super::{Pools, Store, StoreError, within};

/// Expand, then contract: the version before must be able to run on
/// the schema of this one (security.md RE-08).
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Waiting for another replica that is migrating, and migrating.
const MIGRATION_TIME: Duration = Duration::from_mins(1);

impl Store {
    /// Makes sure that the schema is the one this Doorward knows. May be called again until it succeeds.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the database is down; [`StoreError::NewerSchema`],
    /// [`StoreError::OlderSchema`] and
    /// [`StoreError::Migration`] need the operator.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let found = self.schema().await?;
        if found > known {
            return Err(StoreError::NewerSchema { found, known });
        }
        if found == known {
            return Ok(());
        }
        if !self.migrate {
            return Err(StoreError::OlderSchema { found, known });
        }
        match &self.pools {
            Pools::Sqlite { writer, .. } => migrate_sqlite(writer.acquire().await?).await,
            Pools::Postgres(pool) => migrate_postgres(pool).await,
        }
    }

    /// Newest applied migration; 0 for an empty database.
    async fn schema(&self) -> Result<i64, StoreError> {
        let mut reader = self.reader().await?;
        let (tables,): (i64,) = sql!(fetch_one in &mut reader,
            "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'"
            => "SELECT count(to_regclass('_sqlx_migrations'))")?;
        if tables == 0 {
            return Ok(0);
        }
        let (newest,): (i64,) = sql!(fetch_one in &mut reader,
        "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success")?;
        Ok(newest)
    }
}

async fn migrate_sqlite(mut writer: Held) -> Result<(), StoreError> {
    // One write lock around all of it: the driver has no lock of its own for two processes on one file.
    let mut transaction = writer.conn()?.begin_with("BEGIN IMMEDIATE").await?;
    // `run` would do the same, but its future cannot be sent between threads.
    MIGRATIONS.run_direct(None, &mut *transaction, false).await.map_err(judge)?;
    Ok(transaction.commit().await?)
}

async fn migrate_postgres(pool: &PgPool) -> Result<(), StoreError> {
    // A connection of its own, because a migration may take longer than any statement of a visitor. When
    // anything fails
    // it is dropped, which gives the advisory lock back.
    let options = pool.connect_options();
    let mut conn = within(super::PATIENCE, PgConnection::connect_with(&options)).await?;
    let work = async {
        conn.execute("SET statement_timeout = '60s'; SET lock_timeout = '60s'").await?;
        Ok::<_, sqlx::Error>(MIGRATIONS.run_direct(None, &mut conn, false).await)
    };
    within(MIGRATION_TIME, work).await?.map_err(judge)?;
    // The migrations are committed; how the connection ends no longer matters.
    let _ = conn.close().await;
    Ok(())
}

fn judge(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match StoreError::from(error) {
                wait if wait.is_unavailable() => wait,
                other => StoreError::Migration(other.to_string()),
            }
        }
        // The driver's other messages speak of versions alone.
        other => StoreError::Migration(other.to_string()),
    }
}
