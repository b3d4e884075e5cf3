//! What happens without a visitor: flows on timers, in one loop each.
//!
//! Owns: the list of jobs, intervals, jitter, back-off, whose turn it is among replicas, and shutdown. Never does: SQL or rules of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::app::App;
use crate::domain::clock;
use crate::error::Result;
use crate::flows::lease::{self, Lease, Turn};
use crate::flows::{activity, assertion, certificate, register, rotate, sweep};

/// Often enough that a batch stays small, rarely enough that an idle house sleeps.
const EVERY: Duration = Duration::from_mins(1);
/// How often unfinished registrations are looked for: one look in an index, and nothing stays an orphan for long (security.md RG-02).
const RESUME: Duration = Duration::from_secs(5);
/// How often an operator is reminded of a realm that drops registrations' marks.
const MARKS: Duration = Duration::from_mins(15);
const BACK_OFF_MAX: Duration = Duration::from_mins(15);
/// A holder renews three times as often; one that is silent for this long is taken for dead.
const LEASE: Duration = Duration::from_secs(30);
/// Another replica looks again at most this late, and not at once when clocks differ.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(200);

pub type Work<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Work on a timer.
pub struct Job {
    /// A word for metrics and, where it is leased, the name of the lease.
    pub name: &'static str,
    pub every: Duration,
    pub runs: Runs,
}

/// Where a job runs.
pub enum Runs {
    /// On each replica by itself.
    Everywhere(fn(&App) -> Work<'_>),
    /// Once in each interval among all replicas. A holder that is silent for `lease` is followed by another; what it still writes must ask
    /// [`Lease::holds`].
    Once { lease: Duration, work: for<'a> fn(&'a App, &'a Lease) -> Work<'a> },
}

/// How often an app's health path is asked: an address that recovered is missed for no longer.
const HEALTH: Duration = Duration::from_secs(5);

/// How soon a renewed certificate is shown without a signal: two looks at two files.
const CERTIFICATE: Duration = Duration::from_secs(5);

/// A key is published for a day before it signs, so that an hour does not matter.
const KEYS: Duration = Duration::from_hours(1);

/// How long a use of a session may be unknown to other replicas, and lost by a kill.
const ACTIVITY: Duration = Duration::from_secs(1);

/// Every job of the house.
pub const JOBS: &[Job] = &[
    Job { name: "key_ages", every: EVERY, runs: Runs::Everywhere(|app| Box::pin(rotate::report_ages(app))) },
    Job {
        name: "sweep",
        every: EVERY,
        runs: Runs::Once { lease: LEASE, work: |app, lease| Box::pin(swept(app, lease)) },
    },
    Job {
        name: "assertion_keys",
        every: KEYS,
        runs: Runs::Everywhere(|app| Box::pin(assertion::renew(app))),
    },
    Job { name: "activity", every: ACTIVITY, runs: Runs::Everywhere(|app| Box::pin(activity::write(app))) },
    Job { name: "session_cache", every: EVERY, runs: Runs::Everywhere(forget) },
    Job { name: "upstream_health", every: HEALTH, runs: Runs::Everywhere(|app| Box::pin(health(app))) },
    Job {
        name: "certificate",
        every: CERTIFICATE,
        runs: Runs::Everywhere(|app| Box::pin(certificate::follow(app))),
    },
    // Each unfinished registration is claimed by itself, so replicas share them.
    Job { name: "registrations", every: RESUME, runs: Runs::Everywhere(|app| Box::pin(resumed(app))) },
    // Not at the start itself, which asks no provider; a realm may also change later.
    Job {
        name: "registration_marks",
        every: MARKS,
        runs: Runs::Everywhere(|app| Box::pin(register::check_marks(app))),
    },
];

/// Each replica asks for itself: what one reaches another may not.
async fn health(app: &App) -> Result<()> {
    app.setup().upstreams.probe().await;
    Ok(())
}

/// Each replica remembers for itself.
fn forget(app: &App) -> Work<'_> {
    app.store.sweep_known(app.now_ms());
    Box::pin(std::future::ready(Ok(())))
}

async fn resumed(app: &App) -> Result<()> {
    let resumed = register::resume(app).await?;
    if resumed.taken_up > 0 {
        tracing::info!(?resumed, "registrations resumed");
    }
    Ok(())
}

async fn swept(app: &App, lease: &Lease) -> Result<()> {
    let swept = sweep::run_leased(app, lease).await?;
    tracing::debug!(?swept, "swept");
    Ok(())
}

/// Runs every job, at once and then on its timer, until the house closes.
pub async fn run(app: Arc<App>, closing: watch::Receiver<bool>) {
    let owner = lease::owner(&app);
    join_all(JOBS.iter().map(|job| keep(job, &app, &owner, closing.clone()))).await;
}

/// How a turn ended.
enum Ended {
    Done,
    /// Another replica does it; look again then.
    Elsewhere(Duration),
    /// The house closes.
    Closing,
}

/// Runs one job on its timer until the house closes.
pub async fn keep(job: &Job, app: &App, owner: &str, mut closing: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause + jitter(app, pause)) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        pause = match turn(job, app, owner, &mut closing).await {
            Ok(Ended::Done) => {
                app.metrics.job(job.name, "ok");
                failures = 0;
                job.every
            }
            Ok(Ended::Elsewhere(wait)) => {
                app.metrics.job(job.name, "elsewhere");
                failures = 0;
                wait.clamp(LOOK_AGAIN_MIN.min(job.every), job.every)
            }
            Ok(Ended::Closing) => return,
            Err(error) => {
                app.metrics.job(job.name, "failed");
                tracing::warn!(job = job.name, %error, "a job failed; trying again later");
                failures += 1;
                job.every.saturating_mul(1 << failures.min(6)).min(BACK_OFF_MAX.max(job.every))
            }
        };
    }
}

/// One run, or the news that it is another replica's. Work that is cut short by the closing house is taken up by whoever comes next.
async fn turn(job: &Job, app: &App, owner: &str, closing: &mut watch::Receiver<bool>) -> Result<Ended> {
    let (length, work) = match job.runs {
        Runs::Everywhere(work) => {
            return tokio::select! {
                done = work(app) => done.map(|()| Ended::Done),
                _ = closing.wait_for(|closing| *closing) => Ok(Ended::Closing),
            };
        }
        Runs::Once { lease, work } => (lease, work),
    };
    let lease = match lease::claim(app, job.name, owner, length).await? {
        Turn::Ours(lease) => lease,
        Turn::Held { until_ms } => return Ok(Ended::Elsewhere(until(app, until_ms))),
    };
    let ended = tokio::select! {
        done = work(app, &lease) => done.map(|()| Ended::Done),
        () = lost(app, &lease, length) => {
            tracing::warn!(job = job.name, "another replica has taken this job over");
            return Ok(Ended::Elsewhere(job.every));
        }
        _ = closing.wait_for(|closing| *closing) => Ok(Ended::Closing),
    };
    // Well done, it is nobody's turn until the next one is due; else a neighbour may try at once.
    let rest = if matches!(ended, Ok(Ended::Done)) { job.every / 10 * 9 } else { Duration::ZERO };
    if let Err(error) = lease.keep(app, rest).await {
        tracing::warn!(job = job.name, %error, "a lease could not be given back; it ends by itself");
    }
    ended
}

/// Renews the lease while its work goes on; returns when another has it. A database that is away will end the work by itself.
async fn lost(app: &App, lease: &Lease, length: Duration) {
    loop {
        tokio::time::sleep(length / 3).await;
        match lease.keep(app, length).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
        }
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

fn until(app: &App, until_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(until_ms - app.now_ms()).unwrap_or(0))
}

/// Up to a tenth, so that replicas that were started together do not work together.
fn jitter(app: &App, pause: Duration) -> Duration {
    let mut byte = [0_u8];
    app.random.fill(&mut byte);
    pause / 10 * u32::from(byte[0]) / 255
}
