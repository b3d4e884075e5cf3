//! Work on timers: once among all replicas, taken over from the dead and the frozen, and fenced against their late writes (RE-11).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorward::app::App;
use doorward::error::Error;
use doorward::flows::lease::{self, Lease, Turn};
use doorward::flows::sweep;
use doorward::jobs::{Job, Runs, keep};
use tokio::sync::watch;

use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;

const SECOND: Duration = Duration::from_secs(1);

async fn replicas(db: &Database) -> [TestHouse; 2] {
    let one = TestHouse::plan().database(db).open().await;
    let two = TestHouse::plan().database(db).clock(&one.clock).folder(&one.folder).open().await;
    [one, two]
}

async fn claimed(app: &App, name: &str, owner: &str) -> Lease {
    match lease::claim(app, name, owner, 30 * SECOND).await.unwrap() {
        Turn::Ours(lease) => lease,
        Turn::Held { until_ms } => panic!("{name} is held until {until_ms}"),
    }
}

async fn is_held(app: &App, name: &str, owner: &str) -> bool {
    matches!(lease::claim(app, name, owner, 30 * SECOND).await.unwrap(), Turn::Held { .. })
}

async fn holds(app: &App, lease: &Lease) -> bool {
    let mut writer = app.store.writer().await.unwrap();
    lease.holds(&mut writer).await.unwrap()
}

async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

on_each_database! {
    async fn re_11_a_lease_has_one_holder_is_renewed_given_back_and_taken_over_when_it_is_over(db: Database) {
        let [one, two] = replicas(&db).await;
        let (one_app, two_app) = (one.app(), two.app());
        let first = claimed(&one_app, "work", "one").await;
        assert!(is_held(&two_app, "work", "two").await && is_held(&one_app, "work", "one").await);
        assert!(!is_held(&two_app, "other work", "two").await);
        one.clock.advance(20 * SECOND);
        assert!(first.keep(&one_app, 30 * SECOND).await.unwrap());
        one.clock.advance(20 * SECOND);
        assert!(is_held(&two_app, "work", "two").await, "renewed");
        first.release(&one_app).await.unwrap();
        let second = claimed(&two_app, "work", "two").await;
        assert!(!first.keep(&one_app, 30 * SECOND).await.unwrap(), "a former holder takes nothing back");
        assert!(!holds(&one_app, &first).await && holds(&two_app, &second).await);
        one.clock.advance(31 * SECOND);
        assert!(holds(&two_app, &second).await, "over, and nobody else's: what it writes harms nobody");
        let third = claimed(&one_app, "work", "one").await;
        assert_ne!(third, first, "each holder has a fence of its own");
        assert!(!holds(&two_app, &second).await && !holds(&one_app, &first).await && holds(&one_app, &third).await);
        one.browser().get("/").await;
    }

    async fn re_11_of_twenty_claims_at_once_one_gets_the_lease(db: Database) {
        let [one, two] = replicas(&db).await;
        for round in 0..3 {
            let mut claims = tokio::task::JoinSet::new();
            for n in 0..20 {
                let app = if n % 2 == 0 { one.app() } else { two.app() };
                claims.spawn(async move {
                    lease::claim(&app, "work", &n.to_string(), 30 * SECOND).await.unwrap()
                });
            }
            let turns = claims.join_all().await;
            let ours = turns.iter().filter(|turn| matches!(turn, Turn::Ours(_))).count();
            assert_eq!(ours, 1, "round {round}");
            one.clock.advance(31 * SECOND);
        }
    }

    async fn re_11_the_late_writes_of_a_sweep_that_slept_through_its_lease_are_fenced_off(db: Database) {
        let [one, two] = replicas(&db).await;
        let (one_app, two_app) = (one.app(), two.app());
        let slow = claimed(&one_app, "test sweep", "one").await;
        one.clock.advance(31 * SECOND);
        let next = claimed(&two_app, "test sweep", "two").await;
        db.execute("INSERT INTO used_attempts (state_hash, expires_at) VALUES ('a', 1), ('b', 1)").await;
        assert_eq!(sweep::run_leased(&one_app, &slow).await.unwrap().attempts, 0);
        assert_eq!(db.number("SELECT count(*) FROM used_attempts").await, 2);
        assert_eq!(sweep::run_leased(&two_app, &next).await.unwrap().attempts, 2);
        one.browser().get("/").await;
    }
}

static FINISHED: AtomicU32 = AtomicU32::new(0);

#[tokio::test]
async fn re_11_a_job_runs_once_in_each_interval_whatever_the_number_of_replicas() {
    static JOB: Job = Job {
        name: "counted",
        every: Duration::from_millis(400),
        runs: Runs::Once {
            lease: Duration::from_secs(5),
            work: |_, _| {
                Box::pin(async {
                    FINISHED.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            },
        },
    };
    let house = TestHouse::open().await;
    let app = house.app();
    let (close, closing) = watch::channel(false);
    let began = Instant::now();
    let mut replicas = tokio::task::JoinSet::new();
    for n in 0..5 {
        let (app, closing) = (app.clone(), closing.clone());
        replicas.spawn(async move { keep(&JOB, &app, &n.to_string(), closing).await });
    }
    until("four runs", || FINISHED.load(Ordering::SeqCst) >= 4).await;
    // The first at once, and the next ones not before nine tenths of an interval each.
    assert!(began.elapsed() >= 3 * Duration::from_millis(360), "after {:?}", began.elapsed());
    close.send(true).unwrap();
    replicas.join_all().await;
}

static STARTED: Mutex<Vec<Lease>> = Mutex::new(Vec::new());

#[tokio::test]
async fn re_11_a_killed_holder_is_followed_by_another_when_its_lease_is_over() {
    static JOB: Job = Job {
        name: "never done",
        every: Duration::from_mins(1),
        runs: Runs::Once {
            lease: Duration::from_millis(600),
            work: |_, lease| {
                Box::pin(async move {
                    STARTED.lock().unwrap().push(lease.clone());
                    std::future::pending().await
                })
            },
        },
    };
    let house = TestHouse::open().await;
    let app = house.app();
    let (close, closing) = watch::channel(false);
    let start = |owner: &'static str| {
        let (app, closing) = (app.clone(), closing.clone());
        tokio::spawn(async move { keep(&JOB, &app, owner, closing).await })
    };
    let began = || STARTED.lock().unwrap().len();
    let first = start("first");
    until("the first begins", || began() == 1).await;
    let second = start("second");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(began(), 1, "a holder that renews is followed by nobody");
    let killed = Instant::now();
    first.abort();
    until("the second begins", || began() == 2).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "after {:?}", killed.elapsed());
    let leases = STARTED.lock().unwrap().clone();
    assert!(!holds(&app, &leases[0]).await && holds(&app, &leases[1]).await);
    close.send(true).unwrap();
    second.await.unwrap();
    assert!(!is_held(&app, "never done", "third").await, "a closing house gives its lease back");
}

static FROZEN: AtomicBool = AtomicBool::new(true);
static AWAKE: AtomicBool = AtomicBool::new(false);
static WRITES: Mutex<Vec<bool>> = Mutex::new(Vec::new());

#[tokio::test]
async fn re_11_a_frozen_holder_writes_nothing_when_it_wakes() {
    static JOB: Job = Job {
        name: "frozen",
        every: Duration::from_mins(1),
        runs: Runs::Once {
            lease: Duration::from_millis(400),
            work: |app, lease| {
                Box::pin(async move {
                    // As SIGSTOP would: nothing of this replica runs, its renewals neither.
                    while FROZEN.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    AWAKE.store(true, Ordering::SeqCst);
                    let mut writer = app.store.writer().await.map_err(Error::from)?;
                    let may = lease.holds(&mut writer).await?;
                    WRITES.lock().unwrap().push(may);
                    Ok(())
                })
            },
        },
    };
    // A replica of its own: what it has borrowed when it freezes, nobody else misses.
    let db = Database::sqlite();
    let [house, sleeper] = replicas(&db).await;
    let app = house.app();
    let (close, closing) = watch::channel(false);
    let frozen_app: Arc<App> = sleeper.app();
    let frozen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _ =
                tokio::time::timeout(Duration::from_secs(20), keep(&JOB, &frozen_app, "one", closing)).await;
        });
    });
    let holder = "SELECT owner FROM leases WHERE name = 'frozen'";
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.texts(holder).await != ["one"] {
        assert!(Instant::now() < deadline, "never claimed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    house.clock.advance(SECOND);
    let ours = claimed(&app, "frozen", "two").await;
    FROZEN.store(false, Ordering::SeqCst);
    until("the frozen one wakes", || AWAKE.load(Ordering::SeqCst)).await;
    close.send(true).unwrap();
    frozen.join().unwrap();
    assert!(!WRITES.lock().unwrap().contains(&true), "a late write got through");
    assert!(holds(&app, &ours).await);
}

static FAILED: AtomicU32 = AtomicU32::new(0);

#[tokio::test]
async fn a_job_that_fails_is_tried_ever_more_rarely_and_told_in_the_metrics() {
    static JOB: Job = Job {
        name: "failing",
        every: Duration::from_millis(20),
        runs: Runs::Once {
            lease: Duration::from_secs(5),
            work: |_, _| {
                Box::pin(async {
                    FAILED.fetch_add(1, Ordering::SeqCst);
                    Err(Error::NotFound)
                })
            },
        },
    };
    let house = TestHouse::open().await;
    let app = house.app();
    let (close, closing) = watch::channel(false);
    let began = Instant::now();
    let keeper = app.clone();
    let job = tokio::spawn(async move { keep(&JOB, &keeper, "one", closing).await });
    until("six failures", || FAILED.load(Ordering::SeqCst) >= 6).await;
    // 40, 80, 160, 320 and 640 ms lie between them; a lease that is given back holds up nobody.
    assert!(began.elapsed() >= Duration::from_millis(1_240), "after {:?}", began.elapsed());
    close.send(true).unwrap();
    job.await.unwrap();
    assert!(!is_held(&app, "failing", "other").await);
    let told = app.metrics.encode().unwrap();
    assert!(told.contains("doorward_job_runs_total{job=\"failing\",outcome=\"failed\"}"), "{told}");
}
