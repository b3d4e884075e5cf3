//! `own_keys`: keys and salts that Doorward makes for itself, once, and all replicas share.
//!
//! Names: `cookie-mac` and the like (sealed by the ring), `salt:<key id>` (plain: it is needed to make the
//! ring),
//! `canary:<key id>` (a known text sealed by that key, which tells a replaced key from the right one).

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Db, StoreError, Writer};
use crate::crypto::key::SALT_BYTES;
use crate::crypto::{KeyRing, Place};

pub(super) const TABLE: &str = "own_keys";
pub(super) const VALUE: &str = "value";
const CANARY: &[u8] = b"doorward canary";

#[derive(sqlx::FromRow)]
struct Row {
    value: Vec<u8>,
    sealed: bool,
}

/// The key of this name; made by `make`, sealed and stored when there is none. All replicas get the same one.
///
/// # Errors
/// [`StoreError::Sealed`] when the stored key does not open, or the database's.
pub async fn find_or_insert(
    w: &mut Writer,
    name: &str,
    make: impl FnOnce() -> Zeroizing<Vec<u8>>,
    ring: &KeyRing,
    now_ms: i64,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let place = Place { table: TABLE, row: name, column: VALUE };
    let stored = match find(w, name).await? {
        Some(stored) => stored,
        None => {
            insert_or_find(w, name, Row { value: ring.seal(place, &make()), sealed: true }, now_ms).await?
        }
    };
    let what = || format!("key {name:?}");
    if !stored.sealed {
        // Somebody who can write the table but lacks the ring must not be able to choose our keys.
        return Err(StoreError::Sealed { what: what(), source: crate::crypto::OpenError::Malformed });
    }
    ring.open(place, &stored.value).map_err(|source| StoreError::Sealed { what: what(), source })
}

/// A sealed key that was opened.
pub struct OwnKey {
    pub name: String,
    pub value: Zeroizing<Vec<u8>>,
    /// Unix ms.
    pub created_at_ms: i64,
}

/// Every sealed key whose name begins so, by name. `prefix` is one of our own words.
///
/// # Errors
/// [`StoreError::Sealed`] when one does not open, or the database's.
pub async fn list(db: &mut impl Db, prefix: &str, ring: &KeyRing) -> Result<Vec<OwnKey>, StoreError> {
    let rows: Vec<(String, Vec<u8>, i64)> = sql!(fetch_all in db,
        "SELECT name, value, created_at FROM own_keys WHERE sealed AND name LIKE $1 ORDER BY name",
        format!("{prefix}%"))?;
    let opened = |(name, value, created_at_ms): (String, Vec<u8>, i64)| {
        let place = Place { table: TABLE, row: &name, column: VALUE };
        match ring.open(place, &value) {
            Ok(value) => Ok(OwnKey { name, value, created_at_ms }),
            Err(source) => Err(StoreError::Sealed { what: format!("key {name:?}"), source }),
        }
    };
    rows.into_iter().map(opened).collect()
}

/// Forgets a key.
///
/// # Errors
/// The database's.
pub async fn remove(w: &mut Writer, name: &str) -> Result<bool, StoreError> {
    Ok(sql!(execute in w, "DELETE FROM own_keys WHERE name = $1", name)? == 1)
}

/// The salt of the passphrase that makes a key of the ring; stored plain, made by `make` when there is none.
///
/// # Errors
/// [`StoreError::WrongKey`] when what is stored is no salt, or the database's.
pub async fn salt(
    w: &mut Writer,
    key_id: &str,
    make: impl FnOnce() -> [u8; SALT_BYTES],
    now_ms: i64,
) -> Result<[u8; SALT_BYTES], StoreError> {
    let name = format!("salt:{key_id}");
    let stored = match find(w, &name).await? {
        Some(stored) => stored,
        None => insert_or_find(w, &name, Row { value: make().to_vec(), sealed: false }, now_ms).await?,
    };
    stored.value.try_into().map_err(|_| StoreError::WrongKey(key_id.to_owned()))
}

/// Makes sure that each key of the ring is the one that this database knows
/// by its id; a key seen first leaves its canary.
///
/// # Errors
/// [`StoreError::WrongKey`] with the first key that is another one, or the database's.
pub async fn check_canaries(w: &mut Writer, ring: &KeyRing, now_ms: i64) -> Result<(), StoreError> {
    for key_id in ring.ids() {
        let name = format!("canary:{key_id}");
        let place = Place { table: TABLE, row: &name, column: VALUE };
        let stored = match (find(w, &name).await?, ring.seal_with(key_id, place, CANARY)) {
            (Some(stored), _) => stored,
            (None, Some(value)) => insert_or_find(w, &name, Row { value, sealed: true }, now_ms).await?,
            (None, None) => continue,
        };
        let opened = ring.open(place, &stored.value);
        let is_right =
            KeyRing::key_id_of(&stored.value) == Some(key_id) && opened.is_ok_and(|text| *text == CANARY);
        if !is_right {
            return Err(StoreError::WrongKey(key_id.to_owned()));
        }
    }
    Ok(())
}

/// Makes sure that the ring opens every key of our own. A rotation moves these last, so a ring that opens them all was not robbed of
/// a key that stored tokens still need.
///
/// # Errors
/// [`StoreError::Sealed`] with the first that does not open, or the database's.
pub async fn check_opens(db: &mut impl Db, ring: &KeyRing) -> Result<(), StoreError> {
    let rows: Vec<(String, Vec<u8>)> = sql!(fetch_all in db,
        "SELECT name, value FROM own_keys WHERE sealed AND name NOT LIKE 'canary:%' ORDER BY name")?;
    for (name, value) in rows {
        let place = Place { table: TABLE, row: &name, column: VALUE };
        let opened = ring.open(place, &value);
        opened.map_err(|source| StoreError::Sealed { what: format!("key {name:?}"), source })?;
    }
    Ok(())
}

/// When each key of a ring first met this database, Unix ms, by key id.
///
/// # Errors
/// The database's.
pub async fn first_met(db: &mut impl Db) -> Result<BTreeMap<String, i64>, StoreError> {
    let rows: Vec<(String, i64)> =
        sql!(fetch_all in db, "SELECT name, created_at FROM own_keys WHERE name LIKE 'canary:%'")?;
    let id = |(name, at): (String, i64)| name.strip_prefix("canary:").map(|id| (id.to_owned(), at));
    Ok(rows.into_iter().filter_map(id).collect())
}

async fn find(db: &mut impl Db, name: &str) -> Result<Option<Row>, StoreError> {
    sql!(fetch_optional in db, "SELECT value, sealed FROM own_keys WHERE name = $1", name)
}

/// Whoever inserts first wins; the others read the winner's.
async fn insert_or_find(w: &mut Writer, name: &str, row: Row, now_ms: i64) -> Result<Row, StoreError> {
    let rows = sql!(execute in w,
        "INSERT INTO own_keys (name, value, sealed, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO NOTHING",
        name, row.value.as_slice(), row.sealed, now_ms)?;
    if rows == 1 {
        return Ok(row);
    }
    // The winner committed before our insert returned, so it is there,
    // unless it was removed that very moment.
    find(w, name).await?.ok_or_else(StoreError::slow)
}
