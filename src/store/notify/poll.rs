//! SQLite: other processes on the file leave their notes in a ring, which is looked at whenever somebody committed.
//!
//! Rows are numbered by the one writer in the order of their commits, so that neither clocks nor equal moments matter.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};

use super::{Board, Body};
use crate::store::lite::Kept;
use crate::store::{StoreError, Writer};

/// What a command line ends is known here within 100 ms (product.md, section 7); asking costs microseconds.
const LOOK: Duration = Duration::from_millis(40);
/// How many notes the ring keeps: more than can be written between two looks.
const RING: i64 = 1024;
const PAGE: i64 = 256;

pub(super) async fn post(w: &mut Writer, body: &str) -> Result<(), StoreError> {
    sql!(execute in w, "INSERT INTO notices (body) VALUES ($1)", body)?;
    sql!(execute in w,
        "DELETE FROM notices WHERE rowid <= (SELECT MAX(rowid) FROM notices) - $1"
        => "DELETE FROM notices WHERE $1 < 0", RING)
    .map(|_| ())
}

/// Looks until the file cannot be read; says why.
pub(super) async fn run(board: &Board, readers: &Kept) -> String {
    match watch(board, readers).await {
        Ok(never) => match never {},
        Err(error) => StoreError::from(error).to_string(),
    }
}

async fn watch(board: &Board, readers: &Kept) -> Result<std::convert::Infallible, sqlx::Error> {
    // Held for good: `data_version` tells of commits by other connections, and only to one that saw the version before.
    let mut conn = SqliteConnection::connect_with(readers.options()).await?;
    let mut moment = board.moment();
    let mut version = data_version(&mut conn).await?;
    let mut last = newest(&mut conn).await?;
    board.lost();
    board.proven(moment);
    loop {
        tokio::time::sleep(LOOK).await;
        moment = board.moment();
        let now = data_version(&mut conn).await?;
        if now != version {
            // The version is taken before the look, so that a commit between the two is seen by the next one.
            last = look(board, &mut conn, last).await?;
            version = now;
        }
        board.proven(moment);
    }
}

async fn data_version(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(conn).await
}

async fn newest(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT COALESCE(MAX(rowid), 0) FROM notices").fetch_one(conn).await
}

/// Reads what was written after row `last`; returns the newest row.
async fn look(board: &Board, conn: &mut SqliteConnection, last: i64) -> Result<i64, sqlx::Error> {
    let mut seen = last;
    loop {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT rowid, body FROM notices WHERE rowid > $1 ORDER BY rowid LIMIT $2")
                .bind(seen)
                .bind(PAGE)
                .fetch_all(&mut *conn)
                .await?;
        let Some((first, _)) = rows.first() else {
            let newest = newest(&mut *conn).await?;
            if newest < seen {
                // Another file was put in the place of this one.
                board.lost();
                return Ok(newest);
            }
            return Ok(seen);
        };
        if *first != seen + 1 {
            board.lost();
        }
        for (row, body) in &rows {
            seen = *row;
            match serde_json::from_str::<Body>(body) {
                Ok(body) => board.heard(&body),
                Err(_) => board.lost(),
            }
        }
    }
}
