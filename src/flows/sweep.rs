//! Clears away what nobody needs any more, in bounded batches.

use super::bearer;
use super::lease::Lease;
use super::limits;
use crate::app::App;
use crate::error::Result;
use crate::store::{audit_log, ended_sids, password_failures, seen_logout_tokens, sessions, used_attempts};

/// Rows per transaction: small enough that a login never waits long for the writer.
const BATCH: u32 = 500;
/// Batches per run; what is left waits for the next one.
const BATCHES_MAX: u32 = 200;
/// Ended sessions stay this long for the account page of an administrator and the audit trail.
const KEEP_ENDED_MS: i64 = 24 * 60 * 60 * 1000;
const KEEP_AUDIT_MS: i64 = 400 * 24 * 60 * 60 * 1000;
/// A wrong password is forgotten when a week brought no other; a network from which somebody signed in well, after 90 days.
const KEEP_GUESSES_MS: i64 = 7 * 24 * 60 * 60 * 1000;
const KEEP_KNOWN_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// How many rows went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub attempts: u64,
    /// Marks of logout tokens and of logouts that may have overtaken a login.
    pub logouts: u64,
    pub sessions: u64,
    pub audit: u64,
    pub guesses: u64,
}

/// Removes expired attempts, dead sessions and old audit rows.
///
/// # Errors
/// The database's.
pub async fn run(app: &App) -> Result<Swept> {
    sweep(app, None).await
}

/// As [`run`], and only as long as the lease is ours.
///
/// # Errors
/// The database's.
pub async fn run_leased(app: &App, lease: &Lease) -> Result<Swept> {
    sweep(app, Some(lease)).await
}

async fn sweep(app: &App, lease: Option<&Lease>) -> Result<Swept> {
    let mut swept = Swept::default();
    for _ in 0..BATCHES_MAX {
        let Some(batch) = one_batch(app, lease).await? else { break };
        swept.attempts += batch.attempts;
        swept.logouts += batch.logouts;
        swept.sessions += batch.sessions;
        swept.audit += batch.audit;
        swept.guesses += batch.guesses;
        if [batch.attempts, batch.logouts, batch.sessions, batch.audit, batch.guesses]
            .into_iter()
            .all(|n| n < u64::from(BATCH))
        {
            break;
        }
    }
    app.metrics.swept("attempts", swept.attempts);
    app.metrics.swept("logouts", swept.logouts);
    app.metrics.swept("sessions", swept.sessions);
    app.metrics.swept("audit", swept.audit);
    app.metrics.swept("password_failures", swept.guesses);
    limits::tidy(app);
    Ok(swept)
}

/// `None` when another replica has taken over.
async fn one_batch(app: &App, lease: Option<&Lease>) -> Result<Option<Swept>> {
    let now_ms = app.now_ms();
    let setup = app.setup();
    let limits = &setup.config.session;
    // An ended session refuses the bearer tokens of its `sid`, also those that a client fetches later. The provider's session may go on
    // for as long as ours could have, and the last token from it for as long as any.
    let for_tokens_ms = if bearer::is_on(&setup) { limits.overall_ms } else { 0 };
    let dead_before_ms = now_ms - KEEP_ENDED_MS - for_tokens_ms;
    let mut writer = app.store.writer().await?;
    if let Some(lease) = lease
        && !lease.holds(&mut writer).await?
    {
        return Ok(None);
    }
    let swept = Swept {
        attempts: used_attempts::remove_expired(&mut writer, now_ms, BATCH).await?,
        logouts: seen_logout_tokens::remove_expired(&mut writer, now_ms, BATCH).await?
            + ended_sids::remove_expired(&mut writer, now_ms, BATCH).await?,
        sessions: sessions::remove_dead(&mut writer, dead_before_ms, limits.idle_ms, BATCH).await?,
        audit: audit_log::remove_before(&mut writer, now_ms - KEEP_AUDIT_MS, BATCH).await?,
        guesses: password_failures::remove_old(
            &mut writer,
            now_ms - KEEP_GUESSES_MS,
            now_ms - KEEP_KNOWN_MS,
            BATCH,
        )
        .await?,
    };
    writer.commit().await?;
    Ok(Some(swept))
}
