//! Moves everything sealed to the ring's current key, while others read and write. Nobody is logged out: the old key still opens.

use std::collections::BTreeMap;

use super::{Visitor, audit};
use crate::app::App;
use crate::error::Result;
use crate::store::rotate::{self, Progress};

const BATCH: u32 = 200;
/// A replica that still seals with the old key may add cells behind us; more passes than this mean that it was not told of the new key.
const PASSES_MAX: u32 = 3;

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
pub async fn run(app: &App) -> Result<Rotated> {
    let setup = app.setup();
    let mut rotated = Rotated::default();
    for _ in 0..PASSES_MAX {
        let unreadable = pass(app, &mut rotated).await?;
        let mut reader = app.store.reader().await?;
        rotated.usage = rotate::key_usage(&mut reader).await?;
        rotated.unreadable = unreadable;
        let others: u64 = rotated.usage.iter().filter(|(id, _)| id.as_str() != setup.ring.current_id()).map(|(_, n)| n).sum();
        if others <= unreadable {
            break;
        }
    }
    let mut writer = app.store.writer().await?;
    audit::deed(app, &mut writer, &audit::Deed { event: "keys.rotated", provider: None, user_id: None, session_id: None }, &Visitor::default()).await?;
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
