//! What nobody finished: a process died, a provider was silent, a database was away.

use super::LEASE_MS;
use super::work::Work;
use crate::app::{App, Setup};
use crate::domain::clock;
use crate::error::Result;
use crate::flows::Visitor;
use crate::providers::directory::{CreatedUser, Found};
use crate::store::registrations::{self, Registration, State};

/// Attempts taken up per run.
const BATCH: u32 = 50;
/// A call may still be under way at the provider when its sender is dead: only who is absent twice, this far apart, is absent.
const CONFIRM_MS: i64 = 20_000;
const ABSENCES: i64 = 2;
/// How long an `Idempotency-Key` is remembered.
const KEEP_MS: i64 = 24 * 60 * 60 * 1000;
const REMOVED_AT_ONCE: u32 = 500;

/// What one run did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    pub taken_up: u64,
    /// Users at a provider that still wait to be taken back.
    pub undoing: i64,
    pub removed: u64,
}

/// Finishes or undoes attempts whose lease is over. Any number of replicas may run it: each attempt is claimed by one.
///
/// # Errors
/// The database's. A provider's keep the attempt for later.
pub async fn resume(app: &App) -> Result<Resumed> {
    let setup = app.setup();
    let mut resumed = Resumed::default();
    let due = registrations::due(&mut app.store.reader().await?, app.now_ms(), BATCH).await?;
    for id in due {
        let now_ms = app.now_ms();
        let owner = clock::token_128(&*app.random);
        let mut single = app.store.single().await?;
        let claimed =
            registrations::claim(&mut single, &id, &owner, now_ms, now_ms.saturating_add(LEASE_MS)).await?;
        drop(single);
        if let Some(row) = claimed {
            resumed.taken_up += 1;
            take_up(app, &setup, row).await;
        }
    }
    let now_ms = app.now_ms();
    resumed.undoing = registrations::count_undoing(&mut app.store.reader().await?).await?;
    resumed.removed =
        registrations::remove_over(&mut app.store.single().await?, now_ms - KEEP_MS, REMOVED_AT_ONCE).await?;
    app.metrics.registration_undo_pending(resumed.undoing);
    app.metrics.swept("registrations", resumed.removed);
    Ok(resumed)
}

async fn take_up(app: &App, setup: &Setup, row: Registration) {
    let visitor = Visitor::default();
    // Under another issuer nobody would be found, which would prove nothing.
    let provider = setup.provider(&row.provider).filter(|provider| provider.config().issuer == row.issuer);
    let Some((provider, directory)) = provider.and_then(|p| Some((p.as_ref(), p.directory()?))) else {
        tracing::warn!(
            registration = row.id,
            provider = row.provider,
            "its provider is not configured any more"
        );
        return;
    };
    tracing::info!(
        registration = row.id,
        state = row.state.as_str(),
        attempts = row.attempts,
        "taking up a registration"
    );
    let work = Work { app, provider, directory, row, visitor: &visitor };
    if let (State::Undoing, Some(subject)) = (work.row.state, &work.row.subject) {
        return work.take_back(&CreatedUser { subject: subject.clone() }).await;
    }
    match work.look().await {
        Ok(Found::Ours(created)) if work.row.state == State::Undoing => {
            work.give_up(Some(&created), "unknown").await;
        }
        Ok(Found::Ours(created)) => finish(&work, &created).await,
        Ok(Found::Nobody) if work.row.absences + 1 >= ABSENCES => work.settled(State::Undone, "absent").await,
        Ok(Found::Nobody) => work.postpone(work.row.absences + 1, CONFIRM_MS).await,
        Ok(Found::Unproven) => unproven(&work).await,
        Err(error) => {
            tracing::warn!(registration = work.row.id, %error, "the provider does not say what became of a registration");
            work.postpone(work.row.absences, work.back_off_ms()).await;
        }
    }
}

async fn finish(work: &Work<'_>, created: &CreatedUser) {
    match work.complete(created).await {
        Ok(_) => work.app.metrics.registration(&work.row.provider, "resumed"),
        Err(error) => {
            tracing::warn!(registration = work.row.id, %error, "a registration could not be finished yet");
        }
    }
}

/// Somebody of that name is there, without any mark.
async fn unproven(work: &Work<'_>) {
    if let Some(subject) = &work.row.subject {
        // The provider's own answer proved whom it created, although it keeps no marks.
        return finish(work, &CreatedUser { subject: subject.clone() }).await;
    }
    tracing::warn!(
        registration = work.row.id,
        provider = work.row.provider,
        "a user of that name exists without our mark; nothing was removed. \
         Let the realm's user profile keep the attribute doorward_ref"
    );
    work.app.metrics.registration(&work.row.provider, "unproven");
    work.settled(State::Failed, "unproven").await;
}
