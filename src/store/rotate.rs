//! Re-encryption under way: every sealed cell moves to the current key, while others read and write (CR-05).
//!
//! Each cell is compared and set: if somebody wrote it since it was read,
//! it is theirs, and sealed with a current key anyway.
//! Canaries stay: each belongs to its key.

use std::collections::BTreeMap;

use super::{Db, StoreError, Writer, own_keys, sessions};
use crate::crypto::seal::KEY_ID_MAX_BYTES;
use crate::crypto::{KeyRing, Place};

/// Rows that one look of [`key_usage`] reads; only the heads of the cells travel.
const USAGE_PAGE: i64 = 1_000;

/// A cell that holds sealed bytes.
#[derive(sqlx::FromRow)]
struct Cell {
    row: String,
    sealed: Vec<u8>,
}

/// How far a pass has come; start with [`Progress::default`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    column: usize,
    after: String,
}

/// What one batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Cells looked at.
    pub seen: u32,
    /// Cells that are under the current key now and were not before.
    pub resealed: u32,
    /// Cells that do not open: damaged, or under a key that is not in the ring. Raise `crypt_decrypt_fail`.
    pub unreadable: u32,
    /// Where the next batch goes on; `None` when the pass is complete.
    pub next: Option<Progress>,
}

#[derive(Clone, Copy)]
enum Column {
    Access,
    Refresh,
    Id,
    OwnKey,
}

const COLUMNS: [Column; 4] = [Column::Access, Column::Refresh, Column::Id, Column::OwnKey];

impl Column {
    fn place(self, row: &str) -> Place<'_> {
        match self {
            Self::Access => Place { table: sessions::TABLE, row, column: sessions::ACCESS },
            Self::Refresh => Place { table: sessions::TABLE, row, column: sessions::REFRESH },
            Self::Id => Place { table: sessions::TABLE, row, column: sessions::ID },
            Self::OwnKey => Place { table: own_keys::TABLE, row, column: own_keys::VALUE },
        }
    }

    async fn page(
        self,
        db: &mut impl Db,
        after: &str,
        bytes: i32,
        limit: i64,
    ) -> Result<Vec<Cell>, StoreError> {
        match self {
            Self::Access => sql!(fetch_all in db,
                "SELECT id AS row, substr(access_token, 1, $2) AS sealed FROM sessions \
                 WHERE id > $1 AND access_token IS NOT NULL ORDER BY id LIMIT $3", after, bytes, limit),
            Self::Refresh => sql!(fetch_all in db,
                "SELECT id AS row, substr(refresh_token, 1, $2) AS sealed FROM sessions \
                 WHERE id > $1 AND refresh_token IS NOT NULL ORDER BY id LIMIT $3", after, bytes, limit),
            Self::Id => sql!(fetch_all in db,
                "SELECT id AS row, substr(id_token, 1, $2) AS sealed FROM sessions \
                 WHERE id > $1 AND id_token IS NOT NULL ORDER BY id LIMIT $3", after, bytes, limit),
            Self::OwnKey => sql!(fetch_all in db,
                "SELECT name AS row, substr(value, 1, $2) AS sealed FROM own_keys \
                 WHERE name > $1 AND sealed AND name NOT LIKE 'canary:%' ORDER BY name LIMIT $3",
                after, bytes, limit),
        }
    }

    async fn replace(self, w: &mut Writer, row: &str, old: &[u8], new: &[u8]) -> Result<u64, StoreError> {
        match self {
            Self::Access => sql!(execute in w,
                "UPDATE sessions SET access_token = $3 WHERE id = $1 AND access_token = $2", row, old, new),
            Self::Refresh => sql!(execute in w,
                "UPDATE sessions SET refresh_token = $3 WHERE id = $1 AND refresh_token = $2", row, old, new),
            Self::Id => sql!(execute in w,
                "UPDATE sessions SET id_token = $3 WHERE id = $1 AND id_token = $2", row, old, new),
            Self::OwnKey => sql!(execute in w,
                "UPDATE own_keys SET value = $3 WHERE name = $1 AND value = $2", row, old, new),
        }
    }
}

/// Re-encrypts the next `limit` cells at most. Commit after each batch;
/// a pass that dies in between is begun again.
///
/// A row written during the pass by a replica whose current key is still the old one stays behind: repeat
/// until
/// [`key_usage`] names the current key alone.
///
/// # Errors
/// The database's.
pub async fn reseal_batch(
    w: &mut Writer,
    ring: &KeyRing,
    from: &Progress,
    limit: u32,
) -> Result<Resealed, StoreError> {
    let mut done = Resealed { seen: 0, resealed: 0, unreadable: 0, next: None };
    let Some(column) = COLUMNS.get(from.column).copied() else { return Ok(done) };
    let cells = column.page(w, &from.after, i32::MAX, i64::from(limit.max(1))).await?;
    done.next = match cells.last() {
        Some(last) => Some(Progress { column: from.column, after: last.row.clone() }),
        None => (from.column + 1 < COLUMNS.len())
            .then(|| Progress { column: from.column + 1, after: String::new() }),
    };
    for Cell { row, sealed } in cells {
        done.seen += 1;
        if !ring.is_stale(&sealed) {
            continue;
        }
        let place = column.place(&row);
        match ring.open(place, &sealed) {
            Ok(text) => {
                let replaced = column.replace(w, &row, &sealed, &ring.seal(place, &text)).await?;
                done.resealed += u32::from(replaced == 1);
            }
            Err(_) => done.unreadable += 1,
        }
    }
    Ok(done)
}

/// How many sealed cells name each key, canaries aside: a key with none
/// may be retired. Damaged cells count under `""`.
///
/// # Errors
/// The database's.
pub async fn key_usage(db: &mut impl Db) -> Result<BTreeMap<String, u64>, StoreError> {
    let head = i32::try_from(KEY_ID_MAX_BYTES + 2).unwrap_or(i32::MAX);
    let mut usage = BTreeMap::new();
    for column in COLUMNS {
        let mut after = String::new();
        loop {
            let cells = column.page(db, &after, head, USAGE_PAGE).await?;
            let Some(last) = cells.last() else { break };
            after.clone_from(&last.row);
            for cell in &cells {
                let key_id = KeyRing::key_id_of(&cell.sealed).unwrap_or_default();
                *usage.entry(key_id.to_owned()).or_insert(0) += 1;
            }
        }
    }
    Ok(usage)
}
