//! What happens without a visitor: flows on timers, in one loop each.
//!
//! Owns: intervals, jitter, back-off and shutdown. Never does: SQL or rules of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::App;
use crate::flows::{register, rotate, sweep};

/// How often the house is swept; often enough that a batch stays small, rarely enough that an idle house sleeps.
const SWEEP: Duration = Duration::from_mins(1);
/// How often unfinished registrations are looked for: one look in an index, and nothing stays an orphan for long (security.md RG-02).
const RESUME: Duration = Duration::from_secs(5);
const BACK_OFF_MAX: Duration = Duration::from_mins(15);

/// Runs every job, at once and then on its timer, until the house closes.
pub async fn run(app: Arc<App>, closing: watch::Receiver<bool>) {
    tokio::join!(sweep_on_timer(&app, closing.clone()), resume_on_timer(&app, closing));
}

async fn resume_on_timer(app: &App, mut closing: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause + jitter(app, pause)) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        pause = match register::resume(app).await {
            Ok(resumed) => {
                app.metrics.job("registrations", "ok");
                if resumed.taken_up > 0 {
                    tracing::info!(?resumed, "registrations resumed");
                }
                RESUME
            }
            Err(error) => {
                app.metrics.job("registrations", "failed");
                tracing::warn!(%error, "registrations could not be resumed; trying again later");
                (pause * 2).clamp(RESUME, SWEEP)
            }
        };
    }
}

async fn sweep_on_timer(app: &App, mut closing: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause + jitter(app, pause)) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let done = async {
            rotate::report_ages(app).await?;
            sweep::run(app).await
        };
        pause = match done.await {
            Ok(swept) => {
                app.metrics.job("sweep", "ok");
                tracing::debug!(?swept, "swept");
                SWEEP
            }
            Err(error) => {
                app.metrics.job("sweep", "failed");
                tracing::warn!(%error, "sweeping failed; trying again later");
                (pause * 2).clamp(SWEEP, BACK_OFF_MAX)
            }
        };
    }
}

/// Up to a tenth, so that replicas that were started together do not sweep together.
fn jitter(app: &App, pause: Duration) -> Duration {
    let mut byte = [0_u8];
    app.random.fill(&mut byte);
    pause / 10 * u32::from(byte[0]) / 255
}
