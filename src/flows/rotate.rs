//! Moves everything sealed to the ring's current key, while others read and write. Nobody is logged out: the old key still opens.

use std::collections::BTreeMap;

use super::{Visitor, audit};
use crate::app::App;
use crate::error::Result;
use crate::store::rotate::{self, Progress};
use crate::store::{Store, own_keys};

const BATCH: u32 = 200;
/// A replica that still seals with the old key may add cells behind us; more passes than this mean that it was not told of the new key.
const PASSES_MAX: u32 = 3;

/// One key of the ring, or one that stored values still name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub current: bool,
    pub in_ring: bool,
    /// Days since the key first met this database.
    pub age_days: Option<i64>,
    pub rows: u64,
}

/// Every key that matters, the sealing one first.
///
/// # Errors
/// The database's.
pub async fn list(app: &App) -> Result<Vec<Key>> {
    let setup = app.setup();
    let mut reader = app.store.reader().await?;
    let usage = rotate::key_usage(&mut reader).await?;
    drop(reader);
    let ages = ages(&app.store, app.now_ms()).await?;
    let mut ids: Vec<&str> = setup.ring.ids().chain(usage.keys().map(String::as_str)).collect();
    ids.sort_unstable_by_key(|id| (*id != setup.ring.current_id(), (*id).to_owned()));
    ids.dedup();
    let key = |id: &str| Key {
        id: id.to_owned(),
        current: id == setup.ring.current_id(),
        in_ring: setup.ring.ids().any(|own| own == id),
        age_days: ages.get(id).copied(),
        rows: usage.get(id).copied().unwrap_or_default(),
    };
    Ok(ids.into_iter().map(key).collect())
}

/// Days since each key first met this database.
///
/// # Errors
/// The database's.
pub async fn ages(store: &Store, now_ms: i64) -> Result<BTreeMap<String, i64>> {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let mut reader = store.reader().await?;
    let met = own_keys::first_met(&mut reader).await?;
    Ok(met.into_iter().map(|(id, at_ms)| (id, (now_ms - at_ms).max(0) / DAY_MS)).collect())
}

/// Shows each key's age in the metrics, so that a forgotten rotation raises an alarm (security.md CR-02).
///
/// # Errors
/// The database's.
pub async fn report_ages(app: &App) -> Result<()> {
    let setup = app.setup();
    for (id, days) in ages(&app.store, app.now_ms()).await? {
        // A retired key only grows older, and an alarm about it would never end.
        if setup.ring.ids().any(|own| own == id) {
            app.metrics.key_age_days(&id, days);
        }
    }
    Ok(())
}

/// What a rotation did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rotated {
    pub seen: u64,
    pub resealed: u64,
    /// Cells that no key of the ring opens.
    pub unreadable: u64,
    /// Cells by key afterwards.
    pub usage: BTreeMap<String, u64>,
}

/// Re-encrypts every cell in short transactions, until only the current key is in use.
///
/// # Errors
/// The database's.
pub async fn run(app: &App) -> Result<Rotated> {
    let setup = app.setup();
    let mut rotated = Rotated::default();
    for _ in 0..PASSES_MAX {
        let unreadable = pass(app, &mut rotated).await?;
        let mut reader = app.store.reader().await?;
        rotated.usage = rotate::key_usage(&mut reader).await?;
        rotated.unreadable = unreadable;
        let others: u64 = rotated
            .usage
            .iter()
            .filter(|(id, _)| id.as_str() != setup.ring.current_id())
            .map(|(_, n)| n)
            .sum();
        if others <= unreadable {
            break;
        }
    }
    let mut writer = app.store.writer().await?;
    audit::deed(
        app,
        &mut writer,
        &audit::Deed { event: "keys.rotated", provider: None, user_id: None, session_id: None },
        &Visitor::default(),
    )
    .await?;
    writer.commit().await?;
    Ok(rotated)
}

async fn pass(app: &App, rotated: &mut Rotated) -> Result<u64> {
    let setup = app.setup();
    let mut unreadable = 0;
    let mut next = Some(Progress::default());
    while let Some(from) = next {
        let mut writer = app.store.writer().await?;
        let batch = rotate::reseal_batch(&mut writer, &setup.ring, &from, BATCH).await?;
        writer.commit().await?;
        rotated.seen += u64::from(batch.seen);
        rotated.resealed += u64::from(batch.resealed);
        unreadable += u64::from(batch.unreadable);
        next = batch.next;
    }
    Ok(unreadable)
}
