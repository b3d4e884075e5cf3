//! What happens without a visitor: flows on timers, in one loop each.
//!
//! Owns: intervals, jitter, back-off and shutdown. Never does: SQL or rules of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::App;
use crate::domain::clock;
use crate::flows::{rotate, sweep};

/// How often the house is swept; often enough that a batch stays small, rarely enough that an idle house sleeps.
const SWEEP: Duration = Duration::from_mins(1);
const BACK_OFF_MAX: Duration = Duration::from_mins(15);

/// Runs every job, at once and then on its timer, until the house closes.
pub async fn run(app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause + jitter(&app, pause)) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let done = async {
            rotate::report_ages(&app).await?;
            sweep::run(&app).await
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

/// Hears what ends in other processes, through every outage, until the house closes.
pub async fn listen(app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let node = clock::token_128(&*app.random);
    tokio::select! {
        () = app.store.listen(&node) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Tells open tabs what ends, here and elsewhere, until the house closes.
pub async fn tell_tabs(app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let mut notices = app.store.notices();
    loop {
        tokio::select! {
            notice = notices.next() => {
                if app.live.hear(&notice) {
                    app.metrics.notices_lost();
                }
            }
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

/// Up to a tenth, so that replicas that were started together do not sweep together.
fn jitter(app: &App, pause: Duration) -> Duration {
    let mut byte = [0_u8];
    app.random.fill(&mut byte);
    pause / 10 * u32::from(byte[0]) / 255
}
