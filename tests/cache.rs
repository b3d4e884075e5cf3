//! Remembered sessions: served without asking the database, and never longer than their rows would be.

use std::time::{Duration, Instant};

use doorward::domain::{Principal, Status};
use doorward::store::users::{Road, apply, bury, deactivate, set_app_access, set_status};
use doorward::store::{Limits, Note, Notice, Recalled, Store, Writer, sessions};

use crate::channel::{Frozen, LISTENERS, all_healthy, is_healthy, listening, until};
use crate::house::browser::Browser;
use crate::house::databases::{Database, on_each_database};
use crate::house::fleet::Fleet;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};
use crate::house::process::{Home, Process, signed_in as signed_in_at};
use crate::security::{keep_time, signed_in, signed_in_as};
use crate::stores;

/// What the way to the app says of this browser; its cookie stays as it is, whatever the answer.
async fn at_the_door(browser: &Browser) -> u16 {
    browser.get("/protected").await.status
}

/// Asks until an answer needed no row: what the house has just written itself, it hears once more from the channel.
async fn is_remembered(house: &TestHouse, browser: &Browser) {
    until("the session to be remembered", async || {
        let before = house.metric("session_cache_hits_total").await;
        assert_eq!(at_the_door(browser).await, 200);
        house.metric("session_cache_hits_total").await == before + 1
    })
    .await;
}

/// A thief of the person's cookie at one process of the fleet: an answer that takes the cookie away does not reach them.
fn holder(fleet: &Fleet, person: &Browser, process: usize) -> Browser {
    let holder = Browser::new(&fleet.public_url).by_way_of(fleet.processes[process].public);
    holder.set_cookie("doorward", &person.cookie("doorward").unwrap());
    holder
}

/// As [`is_remembered`], at a real process.
async fn is_remembered_by(process: &Process, browser: &Browser) {
    until("the session to be remembered", async || {
        let before = counted(process, "session_cache_hits_total").await;
        assert_eq!(at_the_door(browser).await, 200);
        counted(process, "session_cache_hits_total").await == before + 1
    })
    .await;
}

/// How long the door goes on letting somebody in.
async fn shut_after(browser: &Browser) -> Duration {
    let since = Instant::now();
    while at_the_door(browser).await == 200 {
        assert!(since.elapsed() < Duration::from_secs(5), "the door stays open");
    }
    since.elapsed()
}

async fn healthy(house: &TestHouse) {
    until("a healthy channel", async || house.app().store.is_channel_healthy()).await;
}

/// The user row of the one who is signed in, by the change that a sync would bring.
async fn renamed(w: &mut Writer, role: &str, now_ms: i64) {
    let (provider, issuer, subject) = identity(w).await;
    let mut change = stores::change(&subject);
    change.provider = provider;
    change.issuer = issuer;
    change.roles = vec![role.to_owned()];
    change.observed_at_ms = now_ms;
    apply(w, &change, Road::Sync, now_ms).await.unwrap();
}

async fn identity(w: &mut Writer) -> (String, String, String) {
    let user = doorward::store::users::find(w, "alice").await.unwrap().unwrap();
    (user.provider, user.issuer, user.subject)
}

/// One deed at the rows by the functions that every flow uses, committed by this store.
async fn done(store: &Store, deed: &str, now_ms: i64) {
    let mut w = store.writer().await.unwrap();
    match deed {
        "all sessions end" => drop(sessions::end_of_user(&mut w, "alice", None, now_ms).await.unwrap()),
        "suspended" => drop(set_status(&mut w, "alice", Status::Suspended, now_ms).await.unwrap()),
        "no access" => drop(set_app_access(&mut w, "alice", false, now_ms).await.unwrap()),
        "switched off" => drop(deactivate(&mut w, "alice", now_ms).await.unwrap()),
        _ => {
            let (provider, issuer, subject) = identity(&mut w).await;
            let mut change = stores::change(&subject);
            (change.provider, change.issuer, change.observed_at_ms) = (provider, issuer, now_ms);
            bury(&mut w, &change, now_ms).await.unwrap();
        }
    }
    w.commit().await.unwrap();
}

/// Takes back what can be taken back, so that the next case may sign in.
async fn undone(house: &TestHouse) {
    house
        .rewrite(
            "UPDATE users SET is_active = TRUE, status = 'active', has_app_access = TRUE, deleted_at = NULL",
        )
        .await;
}

const DEEDS: [&str; 5] = ["all sessions end", "suspended", "no access", "switched off", "deleted"];

on_each_database! {
    async fn se_05_whatever_ends_a_remembered_session_is_true_for_the_next_request_here(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        healthy(&house).await;
        for deed in DEEDS {
            let browser = signed_in(&house).await;
            is_remembered(&house, &browser).await;
            let app = house.app();
            done(&app.store, deed, app.now_ms()).await;
            assert_eq!(at_the_door(&browser).await, 401, "{deed}");
            undone(&house).await;
        }
        for way in ["logout", "its handle", "a new login"] {
            let browser = signed_in(&house).await;
            is_remembered(&house, &browser).await;
            let holder = house.browser();
            holder.set_cookie("doorward", &browser.cookie("doorward").unwrap());
            match way {
                "logout" => drop(browser.post_form("/auth/logout", &[]).await),
                "its handle" => drop(browser.delete("/auth/sessions?all=true").await),
                _ => {
                    keep_time(&op, &house);
                    assert_eq!(browser.sign_in("/auth/login?prompt=login").await.status, 200);
                }
            }
            assert_eq!(at_the_door(&holder).await, 401, "{way}");
        }
    }

    async fn se_05_whatever_ends_a_remembered_session_elsewhere_is_true_here_within_100_ms(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        healthy(&house).await;
        let elsewhere = db.open().await;
        let mut delays = Vec::new();
        for _ in 0..4 {
            for deed in DEEDS {
                let browser = signed_in(&house).await;
                is_remembered(&house, &browser).await;
                // The clock of another machine is another.
                done(&elsewhere, deed, house.app().now_ms() - 5_000).await;
                delays.push(shut_after(&browser).await);
                assert_eq!(at_the_door(&browser).await, 401, "{deed}");
                undone(&house).await;
            }
        }
        delays.sort_unstable();
        let (half, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        eprintln!("ends elsewhere reach the remembered session: median {half:?}, worst of {} {worst:?}", delays.len());
        assert!(half <= Duration::from_millis(100), "{delays:?}");
        elsewhere.close().await;
    }

    async fn a_role_that_is_taken_or_given_counts_for_the_next_request(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        healthy(&house).await;
        let browser = signed_in_as(&house, &op, Person::named("alice")).await;
        is_remembered(&house, &browser).await;
        let (app, elsewhere) = (house.app(), db.open().await);
        for (step, (role, status)) in [("admin", 200), ("editor", 403), ("admin", 200)].into_iter().enumerate() {
            let mut w = app.store.writer().await.unwrap();
            renamed(&mut w, role, app.now_ms() + 1_000 * i64::try_from(step).unwrap()).await;
            w.commit().await.unwrap();
            assert_eq!(browser.get("/admin-only").await.status, status, "{role}");
        }
        let mut w = elsewhere.writer().await.unwrap();
        renamed(&mut w, "editor", app.now_ms() + 10_000).await;
        w.commit().await.unwrap();
        until("the role to be gone", async || browser.get("/admin-only").await.status == 403).await;
        elsewhere.close().await;
    }

    async fn se_06_a_slow_reader_of_the_old_row_brings_nothing_back(db: Database) {
        let store = listening(&db).await;
        store.remember(1 << 20);
        let made = stores::user_with_sessions(&store, "ada", &["s1", "s2", "s3"]).await;
        let limits = Limits { now_ms: stores::NOW, last_active_at_ms: stores::NOW, until_ms: i64::MAX };
        let elsewhere = db.open().await;
        for (new, writer) in made.iter().zip([&store, &elsewhere, &store]) {
            let hash = new.key.hash();
            let read = async || {
                let ticket = store.ticket();
                let mut reader = store.reader().await.unwrap();
                (ticket, sessions::find_by_key_hash(&mut reader, &hash).await.unwrap().unwrap())
            };
            let (ticket, (session, user)) = read().await;
            assert!(session.revoked_at_ms.is_none());
            let mut notices = store.notices();
            stores::write(writer, async |w| sessions::end(w, &session.id, stores::NOW).await).await;
            // Here it is told with the commit, from elsewhere as soon as it is heard.
            let end = Notice::Of(Note::Ended(session.id.clone()));
            while notices.next().await != end {}
            let known = store.know(hash, ticket, Principal::of(&user, &session), limits);
            assert!(known.is_in_time(stores::NOW, 1_000), "who asked before the end may still be answered");
            assert!(matches!(store.recall(&hash), Recalled::Unknown), "and nobody after it");
            let (ticket, (session, user)) = read().await;
            assert!(session.revoked_at_ms.is_some());
            let _ = store.know(hash, ticket, Principal::of(&user, &session), limits);
            // Only the reader judges; what is known now is what the row says. Its own echo may still make it forget that.
            assert!(!matches!(store.recall(&hash), Recalled::Bypassed));
        }
        elsewhere.close().await;
    }

    async fn se_06_readers_in_a_race_with_the_end_never_outlive_it(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        healthy(&house).await;
        for _ in 0..10 {
            let browser = signed_in(&house).await;
            let holder = house.browser();
            holder.set_cookie("doorward", &browser.cookie("doorward").unwrap());
            // The memory is made to forget all the time, so that there are always slow readers of rows.
            let (app, over) = (house.app(), std::sync::atomic::AtomicBool::new(false));
            let asking = async {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    app.store.doubt_all();
                    let pages = (0..8).map(|_| holder.get("/protected"));
                    for page in futures_util::future::join_all(pages).await {
                        assert!(matches!(page.status, 200 | 401), "{}", page.status);
                    }
                }
            };
            let leaving = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303);
                for _ in 0..5 {
                    assert_eq!(at_the_door(&holder).await, 401, "after the logout was answered");
                }
                over.store(true, std::sync::atomic::Ordering::SeqCst);
            };
            futures_util::future::join(asking, leaving).await;
        }
    }

    async fn se_13_the_activity_of_many_sessions_is_written_in_one_statement(db: Database) {
        let store = db.open().await;
        stores::user_with_sessions(&store, "ada", &["s1", "s2", "s3"]).await;
        let now = stores::NOW;
        stores::write(&store, async |w| sessions::end(w, "s2", now + 1).await).await;
        let seen = [("s1", now + 5), ("s2", now + 5), ("s3", now - 5), ("nobody\u{0}\"'", now)];
        let seen: Vec<(String, i64)> = seen.iter().map(|(id, at)| ((*id).to_owned(), *at)).collect();
        // PostgreSQL takes no NUL in JSON either; a handle of ours never has one.
        let mut single = store.mark().await.unwrap();
        assert_eq!(sessions::touch_many(&mut single, &seen[..3]).await.unwrap(), 1);
        drop(single);
        let active = async |id: &str| db.number(&format!("SELECT last_active_at FROM sessions WHERE id = '{id}'")).await;
        assert_eq!([active("s1").await, active("s2").await, active("s3").await], [now + 5, now, now]);
        store.close().await;
    }
}

#[tokio::test]
async fn se_04_use_moves_the_idle_limit_of_a_remembered_session_and_no_other() {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("SESSION__IDLE", "\"10m\"").set("SESSION__OVERALL", "\"1h\"");
    let house = plan.open().await;
    healthy(&house).await;
    op.script(|s| s.token_response(|body| drop(body.remove("refresh_token"))));
    let browser = signed_in(&house).await;
    let start = house.database.number("SELECT created_at FROM sessions").await;
    let hits = house.metric("session_cache_hits_total").await;
    // Within the five minutes of an entry, and beyond them.
    for minute in [2, 4, 6, 13, 15, 24, 33, 42, 51, 59] {
        house.clock.stand_at(start + minute * 60_000);
        assert_eq!(at_the_door(&browser).await, 200, "minute {minute}");
    }
    assert!(house.metric("session_cache_hits_total").await > hits);
    house.settle().await;
    assert_eq!(house.database.number("SELECT last_active_at FROM sessions").await, start + 59 * 60_000);
    house.clock.stand_at(start + 3_600_000 - 1);
    assert_eq!(at_the_door(&browser).await, 200);
    house.clock.stand_at(start + 3_600_000);
    assert_eq!(at_the_door(&browser).await, 401, "the overall limit");

    house.clock.stand_at(i64::MIN);
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    is_remembered(&house, &browser).await;
    let start = house.database.number("SELECT max(last_active_at) FROM sessions").await;
    house.clock.stand_at(start + 600_000 - 1);
    let page = browser.get("/").await;
    assert_eq!(page.status, 200, "a public page is for everybody");
    house.clock.stand_at(start + 2 * 600_000);
    assert_eq!(at_the_door(&browser).await, 401, "the idle limit");
}

#[tokio::test]
async fn a_reading_is_believed_for_five_minutes_at_most_and_by_no_clock_that_was_turned_back() {
    let op = ScriptedOp::start().await;
    // Without a refresh token no renewal asks the row before.
    op.script(|s| s.token_response(|body| drop(body.remove("refresh_token"))));
    let house = TestHouse::with_op(&op).open().await;
    healthy(&house).await;
    let browser = signed_in(&house).await;
    is_remembered(&house, &browser).await;
    // Nobody is told of this: a hand in the database is no write of the house.
    house.database.execute("UPDATE users SET status = 'suspended'").await;
    house.clock.advance(Duration::from_secs(299));
    assert_eq!(at_the_door(&browser).await, 200);
    house.clock.advance(Duration::from_secs(2));
    assert_eq!(at_the_door(&browser).await, 401);
    house.database.execute("UPDATE users SET status = 'active'").await;
    is_remembered(&house, &browser).await;
    house.database.execute("UPDATE users SET status = 'suspended'").await;
    house.clock.turn_back(Duration::from_mins(1));
    assert_eq!(at_the_door(&browser).await, 401, "what was read in the future is not believed");
}

#[tokio::test]
async fn the_activity_comes_by_itself_and_with_a_stop() {
    let op = ScriptedOp::start().await;
    let mut house = TestHouse::with_op(&op).open().await;
    healthy(&house).await;
    let browser = signed_in(&house).await;
    let start = house.database.number("SELECT last_active_at FROM sessions").await;
    house.clock.stand_at(start + 90_000);
    assert_eq!(at_the_door(&browser).await, 200);
    let active = async || house.database.number("SELECT last_active_at FROM sessions").await;
    let took = until("the row to say so", async || active().await == start + 90_000).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    house.clock.stand_at(start + 180_000);
    assert_eq!(at_the_door(&browser).await, 200);
    house.close();
    assert_eq!(house.database.number("SELECT last_active_at FROM sessions").await, start + 180_000);
}

/// One more of `name` at a real process.
async fn counted(process: &Process, name: &str) -> u64 {
    let page = process.operations("/metrics").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("doorward_{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn se_05_while_the_listening_connection_is_gone_every_request_asks_the_row() {
    let op = ScriptedOp::start().await;
    let fleet = Fleet::open(Home::with_op(&op), 2).await;
    all_healthy(&fleet.processes).await;
    for _ in 0..3 {
        let person = fleet.signed_in().await;
        let other = holder(&fleet, &person, 1);
        is_remembered_by(&fleet.processes[1], &other).await;
        let killed =
            format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {LISTENERS}");
        assert_eq!(fleet.database.number(&killed).await, 2);
        assert_eq!(person.delete("/auth/sessions?all=true").await.status, 204);
        let late = shut_after(&other).await;
        assert!(late < Duration::from_secs(1), "{late:?}");
        all_healthy(&fleet.processes).await;
        assert_eq!(at_the_door(&other).await, 401, "and nothing comes back with the channel");
    }
}

#[tokio::test]
async fn se_05_a_frozen_channel_is_distrusted_within_a_second() {
    let op = ScriptedOp::start().await;
    let fleet = Fleet::open(Home::with_op(&op), 2).await;
    all_healthy(&fleet.processes).await;
    let person = fleet.signed_in().await;
    let other = holder(&fleet, &person, 1);
    is_remembered_by(&fleet.processes[1], &other).await;
    let pids = format!("SELECT CAST(pid AS TEXT) FROM pg_stat_activity WHERE {LISTENERS}");
    let pids: Vec<u32> = fleet.database.texts(&pids).await.iter().map(|pid| pid.parse().unwrap()).collect();
    let since = Instant::now();
    let frozen = Frozen::new(pids);
    let left = person.delete("/auth/sessions?all=true").await.status;
    while at_the_door(&other).await == 200 && since.elapsed() < Duration::from_secs(5) {}
    let noticed = since.elapsed();
    drop(frozen);
    assert_eq!(left, 204);
    assert!(noticed <= Duration::from_millis(1_200), "believed for {noticed:?}");
    all_healthy(&fleet.processes).await;
    assert_eq!(at_the_door(&other).await, 401);
}

#[tokio::test]
async fn se_05_with_the_whole_server_frozen_nobody_is_let_in_for_longer_than_a_second() {
    let op = ScriptedOp::start().await;
    let cluster = crate::house::servers::postgres::own_cluster().await;
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &cluster.url("doorward"));
    let process = home.open().await;
    until("a healthy channel", async || is_healthy(&process).await).await;
    let browser = signed_in_at(&process).await;
    is_remembered_by(&process, &browser).await;
    let database = Database::at(&cluster.url("doorward"));
    let of_app = "SELECT CAST(pid AS TEXT) FROM pg_stat_activity WHERE application_name LIKE 'doorward%'";
    let mut pids: Vec<u32> = database.texts(of_app).await.iter().map(|pid| pid.parse().unwrap()).collect();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
    let server = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    pids.push(server.trim().parse().unwrap());
    let frozen = Frozen::new(pids);
    let since = Instant::now();
    let mut last = since;
    while at_the_door(&browser).await == 200 {
        last = Instant::now();
        assert!(since.elapsed() < Duration::from_secs(5), "the door stays open");
    }
    assert!(last - since < Duration::from_millis(1_200), "{:?}", last - since);
    let bypassed = counted(&process, "session_cache_bypassed_total").await;
    assert_eq!(at_the_door(&browser).await, 503, "and nobody is signed out");
    assert!(counted(&process, "session_cache_bypassed_total").await > bypassed);
    drop(frozen);
    until("the door to open", async || at_the_door(&browser).await == 200).await;
}

#[tokio::test]
async fn se_05_what_the_command_line_revokes_on_sqlite_is_over_within_100_ms() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let file = Database::at(&format!("sqlite:{}", home.path("shared.db").display()));
    let home = home.env("DOORWARD__DATABASE__URL", &file.url);
    let process = home.open().await;
    let mut delays = Vec::new();
    for _ in 0..7 {
        let browser = signed_in_at(&process).await;
        is_remembered_by(&process, &browser).await;
        let id = file.texts("SELECT id FROM sessions WHERE revoked_at IS NULL").await.remove(0);
        let ran = home.run(&["sessions", "revoke", &id]).await;
        assert_eq!(ran.code, 0, "{}", ran.all());
        delays.push(shut_after(&browser).await);
        assert_eq!(at_the_door(&browser).await, 401);
    }
    delays.sort_unstable();
    assert!(delays[delays.len() / 2] <= Duration::from_millis(100), "{delays:?}");
}
