//! A transaction that the database broke off is tried again: a deadlock, a failed serialisation, a connection lost before the commit
//! (security.md RE-14). Only work that writes nothing outside its one transaction and calls nobody may stand here.

use std::time::{Duration, Instant};

use crate::app::App;
use crate::error::{Error, Result};

const TRIES: u32 = 4;
/// After this the visitor has waited long enough; with the wait for a connection a refusal still takes less than 3 s (DS-03).
const WITHIN: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(10);

/// Does the work, again where nothing of it was written. An unanswered commit is not among that: it may have happened.
///
/// # Errors
/// The work's own, after the last try.
pub async fn again<T>(app: &App, mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut tries = 1;
    loop {
        // In a box: it is large, and whatever awaits it would be moved about with it.
        match Box::pin(work()).await {
            Err(Error::Interrupted(problem)) if tries < TRIES && started.elapsed() < WITHIN => {
                tracing::info!(problem, tries, "the database broke off; trying again");
                app.metrics.transaction_repeated();
                tokio::time::sleep(pause(app, tries)).await;
                tries += 1;
            }
            done => return done,
        }
    }
}

/// Longer each time, and by chance, so that two that met do not meet again.
fn pause(app: &App, tries: u32) -> Duration {
    let mut byte = [0_u8];
    app.random.fill(&mut byte);
    PAUSE * tries * (128 + u32::from(byte[0])) / 256
}
