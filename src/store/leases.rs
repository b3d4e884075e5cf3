//! `leases`: who of the replicas does the work that must be done once. Compare-and-set, with a fence that grows with each holder (RE-11).

use super::{Db, StoreError, Writer};

/// No lease is longer than a day: one that says so was written by a clock that went wrong, and would stop its work for years.
const LONGEST_MS: i64 = 24 * 60 * 60 * 1000;

/// Takes a lease that nobody holds at `now_ms`, until `until_ms`; returns its fence, or `None` while it is held.
///
/// # Errors
/// The database's.
pub async fn claim(
    w: &mut Writer,
    name: &str,
    owner: &str,
    now_ms: i64,
    until_ms: i64,
) -> Result<Option<i64>, StoreError> {
    let rows: Vec<(i64,)> = sql!(fetch_all in w,
        "INSERT INTO leases (name, owner, until_ms, fence) VALUES ($1, $2, $3, 1) \
         ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms, \
         fence = leases.fence + 1 WHERE leases.until_ms <= $4 OR leases.until_ms > $5 RETURNING fence",
        name, owner, until_ms, now_ms, now_ms.saturating_add(LONGEST_MS))?;
    Ok(rows.into_iter().next().map(|(fence,)| fence))
}

/// Until when a lease is held; `None` for one that nobody ever held.
///
/// # Errors
/// The database's.
pub async fn held_until(db: &mut impl Db, name: &str) -> Result<Option<i64>, StoreError> {
    let row: Option<(i64,)> =
        sql!(fetch_optional in db, "SELECT until_ms FROM leases WHERE name = $1", name)?;
    Ok(row.map(|(until_ms,)| until_ms))
}

/// Moves the end of a lease that is still this holder's: later to renew it, to now to give it back. `false` when it has another holder.
///
/// # Errors
/// The database's.
pub async fn renew(
    w: &mut Writer,
    name: &str,
    owner: &str,
    fence: i64,
    until_ms: i64,
) -> Result<bool, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE leases SET until_ms = $4 WHERE name = $1 AND owner = $2 AND fence = $3",
        name, owner, fence, until_ms)?;
    Ok(rows == 1)
}

/// Whether a lease is still this holder's, and keeps it so until the transaction ends: what else is written in it is fenced.
///
/// # Errors
/// The database's.
pub async fn holds(w: &mut Writer, name: &str, owner: &str, fence: i64) -> Result<bool, StoreError> {
    // On SQLite the transaction has the only write lock already.
    let row: Option<(i64,)> = sql!(fetch_optional in w,
        "SELECT fence FROM leases WHERE name = $1 AND owner = $2 AND fence = $3"
        => "SELECT fence FROM leases WHERE name = $1 AND owner = $2 AND fence = $3 FOR SHARE",
        name, owner, fence)?;
    Ok(row.is_some())
}
