//! A lease on work that one replica must do alone: held for a while, renewed while working, taken over when its holder is silent.
//!
//! Clocks differ and processes pause, so a lease alone proves nothing: what its holder writes asks [`Lease::holds`] in the same transaction.

use std::time::Duration;

use crate::app::App;
use crate::domain::clock;
use crate::error::Result;
use crate::store::{Writer, leases};

/// Work that is ours for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    name: String,
    owner: String,
    /// Grows with each holder.
    fence: i64,
}

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Ours(Lease),
    /// Somebody's, or nobody's before this moment (Unix ms).
    Held {
        until_ms: i64,
    },
}

/// A name for one process as a holder; another at each start, so that what an earlier one left behind is fenced off too.
pub fn owner(app: &App) -> String {
    clock::token_128(&*app.random)
}

/// Takes a lease that is free.
///
/// # Errors
/// The database's.
pub async fn claim(app: &App, name: &str, owner: &str, length: Duration) -> Result<Turn> {
    let now_ms = app.now_ms();
    let mut writer = app.store.writer().await?;
    let fence = leases::claim(&mut writer, name, owner, now_ms, after(now_ms, length)).await?;
    let turn = match fence {
        Some(fence) => Turn::Ours(Lease { name: name.to_owned(), owner: owner.to_owned(), fence }),
        None => Turn::Held { until_ms: leases::held_until(&mut writer, name).await?.unwrap_or(now_ms) },
    };
    writer.commit().await?;
    Ok(turn)
}

impl Lease {
    /// Keeps it for this long from now. `false` when another has taken it.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep(&self, app: &App, length: Duration) -> Result<bool> {
        let mut writer = app.store.writer().await?;
        let until_ms = after(app.now_ms(), length);
        let kept = leases::renew(&mut writer, &self.name, &self.owner, self.fence, until_ms).await?;
        writer.commit().await?;
        Ok(kept)
    }

    /// Gives it back, so that a neighbour need not wait for its end.
    ///
    /// # Errors
    /// The database's.
    pub async fn release(&self, app: &App) -> Result<()> {
        self.keep(app, Duration::ZERO).await.map(|_| ())
    }

    /// Whether it is still ours, and stays so until this transaction ends. A holder that slept through its time writes nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn holds(&self, writer: &mut Writer) -> Result<bool> {
        Ok(leases::holds(writer, &self.name, &self.owner, self.fence).await?)
    }
}

fn after(now_ms: i64, length: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
}
