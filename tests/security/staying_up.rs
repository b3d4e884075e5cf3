//! Chapter 18 where no other test keeps it: replicas in turn, clocks that step, a database that breaks off, a stop that is announced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorward::store::{sessions, users};
use secrecy::ExposeSecret as _;

use super::{is_signed_in, keep_time, signed_in};
use crate::house::browser::{Browser, Page};
use crate::house::databases::{Database, on_each_database};
use crate::house::fleet::Fleet;
use crate::house::home::TestHouse;
use crate::house::op::{Gate, Person, ScriptedOp};
use crate::house::process::Home;

/// A person whose every request of this site goes to another replica than the one before.
struct Wanderer {
    person: Browser,
    replicas: Vec<SocketAddr>,
    asked: AtomicUsize,
}

impl Wanderer {
    fn of(fleet: &Fleet) -> Self {
        let replicas = fleet.processes.iter().map(|process| process.public).collect();
        Self { person: fleet.browser(), replicas, asked: AtomicUsize::new(0) }
    }

    fn next(&self) -> Browser {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        self.person.by_way_of(self.replicas[turn % self.replicas.len()])
    }

    /// A whole login, each step by the next replica.
    async fn sign_in(&self) -> Page {
        let mut page = self.next().navigate("/auth/login?return_to=/protected").await;
        while let Some(to) = page.location().filter(|_| page.is_redirect()) {
            page = self.next().navigate(to.as_str()).await;
        }
        page
    }
}

#[tokio::test]
async fn re_07_with_another_replica_at_every_step_a_login_a_use_and_a_logout_work() {
    let op = ScriptedOp::start().await;
    let mut fleet = Fleet::open(Home::with_op(&op), 3).await;
    for round in 0..6 {
        let person = Wanderer::of(&fleet);
        // Begins at each replica in turn, so that each step is met by each.
        person.asked.store(round, Ordering::SeqCst);
        let page = person.sign_in().await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}\n{}", page.text(), fleet.logs());
        for _ in 0..3 {
            assert_eq!(person.next().get_json("/auth/me").await.status, 200);
        }
        let left = person.next().post_form("/auth/logout", &[]).await;
        assert_eq!(left.status, 303, "{}", left.text());
        for _ in 0..3 {
            assert_eq!(person.next().get_json("/auth/me").await.status, 401);
        }
    }
    for process in &mut fleet.processes {
        process.stop().await;
    }
}

#[tokio::test]
async fn re_06_a_rolling_restart_of_replicas_fails_no_login() {
    let op = ScriptedOp::start().await;
    let mut home = Home::with_op(&op);
    let mut fleet = Fleet::open(home_of(&mut home), 2).await;
    let (begun, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for turn in 0..2 {
        // Logins that are at the token endpoint of the replica that is about to go.
        let gate = Gate::closed();
        op.script(|s| s.hold_answer.insert("/token".into(), gate.clone()));
        let leaving = fleet.processes[turn].public;
        let staying = fleet.processes[1 - turn].public;
        let mut logins = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let person = fleet.browser().by_way_of(leaving);
            let (begun, finished) = (begun.clone(), finished.clone());
            logins.spawn(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let start = person.navigate("/auth/login?return_to=/protected").await;
                let at_provider = person.navigate(start.location().unwrap().as_str()).await;
                let page = person.navigate(at_provider.location().unwrap().as_str()).await;
                assert_eq!(
                    (page.status, page.header("location")),
                    (303, Some("/protected")),
                    "{}",
                    page.text()
                );
                finished.fetch_add(1, Ordering::SeqCst);
                person
            });
        }
        gate.arrived(5).await;
        fleet.processes[turn].signal("TERM");
        fleet.processes[turn].heard("stopping").await;
        // Whoever spreads the load learns it at once, while the last visitors are served.
        let ready = fleet.processes[turn].operations("/readyz").await;
        assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("stopping")));
        assert_eq!(fleet.processes[turn].operations("/healthz").await.status, 200);
        assert_eq!(finished.load(Ordering::SeqCst), 5 * turn);
        gate.open();
        op.script(|s| s.hold_answer.clear());
        for person in logins.join_all().await {
            assert_eq!(person.by_way_of(staying).get_json("/auth/me").await.status, 200, "{}", fleet.logs());
        }
        assert_eq!(fleet.processes[turn].exit(Duration::from_secs(12)).await, Some(0), "{}", fleet.logs());
        fleet.processes[turn] = fleet.home.open().await;
    }
    assert_eq!((begun.load(Ordering::SeqCst), finished.load(Ordering::SeqCst)), (10, 10));
}

fn home_of(home: &mut Home) -> Home {
    std::mem::replace(home, Home::empty())
}

#[tokio::test]
async fn re_09_a_clock_that_steps_ten_minutes_neither_ends_sessions_nor_keeps_dead_ones() {
    let op = ScriptedOp::start().await;
    let house =
        TestHouse::with_op(&op).set("SESSION__IDLE", "\"1h\"").set("SESSION__OVERALL", "\"2h\"").open().await;
    keep_time(&op, &house);
    let step = Duration::from_mins(10);
    let guest = signed_in(&house).await;
    house.clock.turn_back(step);
    assert!(is_signed_in(&guest).await, "made in the future, and alive");
    // Signing in works as well, before and after a step under way.
    let other = house.browser();
    let start = other.navigate("/auth/login?return_to=/protected").await;
    house.clock.advance(step);
    let back = other.navigate(start.location().unwrap().as_str()).await;
    house.clock.turn_back(Duration::from_mins(1));
    let end = other.navigate(back.location().unwrap().as_str()).await;
    house.clock.advance(Duration::from_mins(1));
    assert!(matches!(end.status, 303 | 400), "{}", end.text());
    assert!(is_signed_in(&guest).await);
    house.clock.advance(step);
    assert!(is_signed_in(&guest).await, "a step forward within the limits ends nothing");
    house.clock.turn_back(step);
    // What is dead stays dead: ended by hand, or by its limit, whichever way the clock steps.
    let gone = signed_in(&house).await;
    let twin = house.browser();
    twin.set_cookie("doorward", &gone.cookie("doorward").unwrap());
    assert_eq!(gone.post_form("/auth/logout", &[]).await.status, 303);
    house.clock.turn_back(step);
    assert!(!is_signed_in(&twin).await);
    house.clock.advance(Duration::from_mins(140));
    assert!(!is_signed_in(&guest).await, "over its limit by both clocks");
}

/// A fault in the database, `count` times, whenever a session is stored.
async fn plant(db: &Database, count: u32, fault: &str, when: &str) {
    db.execute(&format!(
        "CREATE SEQUENCE IF NOT EXISTS faults; SELECT setval('faults', 1, false); \
         CREATE OR REPLACE FUNCTION fail() RETURNS trigger AS $$ BEGIN \
         IF nextval('faults') <= {count} THEN {fault} END IF; RETURN NEW; END $$ LANGUAGE plpgsql; \
         DROP TRIGGER IF EXISTS planted ON sessions; CREATE {when} ON sessions {}FOR EACH ROW EXECUTE FUNCTION fail()",
        if when.starts_with("CONSTRAINT") { "DEFERRABLE INITIALLY DEFERRED " } else { "" }
    ))
    .await;
}

const BEFORE: &str = "TRIGGER planted BEFORE INSERT";
const AT_COMMIT: &str = "CONSTRAINT TRIGGER planted AFTER INSERT";
const DEADLOCK: &str = "RAISE EXCEPTION 'planted' USING ERRCODE = '40P01';";
const SERIALISATION: &str = "RAISE EXCEPTION 'planted' USING ERRCODE = '40001';";
const LOST: &str = "PERFORM pg_terminate_backend(pg_backend_pid());";

#[tokio::test]
async fn re_14_a_transaction_that_the_database_broke_off_is_tried_again_and_counted_once() {
    let op = ScriptedOp::start().await;
    let db = Database::postgres().await;
    let house = TestHouse::with_op(&op).database(&db).open().await;
    for (n, (fault, when)) in [
        (DEADLOCK, BEFORE),
        (SERIALISATION, BEFORE),
        (LOST, BEFORE),
        (DEADLOCK, AT_COMMIT),
        (SERIALISATION, AT_COMMIT),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("person{n}");
        op.script(|s| s.person = Person::named(&name));
        plant(&db, 2, fault, when).await;
        let page = house.browser().sign_in("/auth/login?return_to=/protected").await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{fault} {when}: {}", page.text());
        for counted in [
            format!("SELECT login_count FROM users WHERE id = '{name}'"),
            format!("SELECT count(*) FROM sessions WHERE user_id = '{name}'"),
            format!("SELECT count(*) FROM audit_log WHERE user_id = '{name}' AND event = 'login'"),
        ] {
            assert_eq!(db.number(&counted).await, 1, "{fault} {when}: {counted}");
        }
        assert_eq!(db.number("SELECT last_value FROM faults").await, 3, "{fault} {when}: two tries failed");
    }
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    assert!(metrics.contains("doorward_transactions_repeated_total 10"), "{metrics}");
}

#[tokio::test]
async fn re_14_a_logout_that_the_database_broke_off_is_tried_again_and_counted_once() {
    let op = ScriptedOp::start().await;
    let db = Database::postgres().await;
    let house = TestHouse::with_op(&op).database(&db).open().await;
    for (fault, when) in
        [(DEADLOCK, "TRIGGER planted BEFORE UPDATE"), (LOST, "TRIGGER planted BEFORE UPDATE")]
    {
        for way in ["button", "one", "all", "client"] {
            let guest = signed_in(&house).await;
            let live = "SELECT id FROM sessions WHERE revoked_at IS NULL";
            let id = db.texts(live).await.remove(0);
            let before = db.number("SELECT count(*) FROM audit_log WHERE outcome = 'success'").await;
            if way == "client" {
                db.execute("UPDATE sessions SET kind = 'api' WHERE revoked_at IS NULL").await;
            }
            plant(&db, 2, fault, when).await;
            let status = match way {
                "button" => guest.post_form("/auth/logout", &[]).await.status,
                "one" => guest.delete(&format!("/auth/sessions/{id}")).await.status,
                "all" => guest.delete("/auth/sessions?all=true").await.status,
                _ => {
                    let refresh = refresh_token(&house, &id).await;
                    let body = serde_json::json!({ "sessionId": id, "refreshToken": refresh });
                    Browser::new(&house.url).post_json("/auth/logout", &body).await.status
                }
            };
            assert!([200, 204, 303].contains(&status), "{fault} {way}: {status}");
            assert_eq!(
                db.number("SELECT last_value FROM faults").await,
                3,
                "{fault} {way}: two tries failed"
            );
            assert_eq!(house.live_sessions().await, 0, "{way}");
            let after = db.number("SELECT count(*) FROM audit_log WHERE outcome = 'success'").await;
            assert_eq!(after - before, 1, "{fault} {way}: one deed, one row");
            db.execute("DROP TRIGGER planted ON sessions").await;
        }
    }
}

/// The refresh token that an API client of this session would hold.
async fn refresh_token(house: &TestHouse, id: &str) -> String {
    let app = house.app();
    let sealed = sessions::tokens(&mut app.store.reader().await.unwrap(), id).await.unwrap().unwrap();
    sealed.open(&app.setup().ring).unwrap().refresh.unwrap().expose_secret().to_owned()
}

#[tokio::test]
async fn re_14_what_fails_again_and_again_or_may_have_happened_is_refused_and_leaves_nothing() {
    let op = ScriptedOp::start().await;
    let db = Database::postgres().await;
    let house = TestHouse::with_op(&op).database(&db).open().await;
    for (fault, when, tries) in [
        (DEADLOCK, BEFORE, 4),
        // The connection breaks at the commit itself: nobody knows whether it happened.
        (LOST, AT_COMMIT, 1),
        // Not the weather, but a fault of ours: trying again mends nothing.
        ("RAISE EXCEPTION 'planted';", BEFORE, 1),
    ] {
        plant(&db, 1_000, fault, when).await;
        let asked = std::time::Instant::now();
        let page = house.browser().sign_in("/auth/login").await;
        let expected = if fault.contains("ERRCODE") || fault == LOST { 503 } else { 500 };
        assert_eq!(page.status, expected, "{fault} {when}: {}", page.text());
        assert!(asked.elapsed() < Duration::from_secs(3), "{fault} {when} took {:?}", asked.elapsed());
        assert!(!page.text().contains("planted"), "{}", page.text());
        assert_eq!(db.number("SELECT last_value FROM faults").await, tries, "{fault} {when}");
        assert_eq!(db.number("SELECT count(*) FROM sessions").await, 0);
        assert_eq!(db.number("SELECT count(*) FROM users").await, 0);
    }
    db.execute("DROP TRIGGER planted ON sessions").await;
    signed_in(&house).await;
}

on_each_database! {
    async fn re_08_what_the_first_release_writes_the_newest_schema_still_takes(db: Database) {
        let store = db.open().await;
        db.execute(
            "INSERT INTO users (id, provider, issuer, subject, email_verified, usertag, roles, groups, local_roles, is_active, status, \
             has_app_access, created_at, updated_at, login_count, synced_at, app_data) \
             VALUES ('u', 'p', 'i', 'u', TRUE, 'u', '[]', '[]', '[]', TRUE, 'active', TRUE, 1, 1, 1, 1, '{}')",
        )
        .await;
        db.execute(
            "INSERT INTO sessions (id, kind, key_hash, user_id, provider, issuer, created_at, last_active_at, expires_at, generation, \
             changed_at) VALUES ('s', 'browser', 'hash', 'u', 'p', 'i', 1, 1, 9, 1, 1)",
        )
        .await;
        db.execute("INSERT INTO used_attempts (state_hash, expires_at) VALUES ('hash', 9)").await;
        db.execute("INSERT INTO own_keys (name, value, sealed, created_at) VALUES ('old', 'v', FALSE, 1)").await;
        db.execute(
            "INSERT INTO audit_log (id, at, event, outcome, detail) VALUES ('e', 1, 'login', 'success', '{}')",
        )
        .await;
        let mut reader = store.reader().await.unwrap();
        let session = sessions::find(&mut reader, "s").await.unwrap().unwrap();
        let user = users::find(&mut reader, "u").await.unwrap().unwrap();
        assert!(session.is_alive(8, 100) && user.admit().is_ok(), "and the newest reads it");
    }
}

#[tokio::test]
async fn metrics_are_there_while_the_database_is_away_and_count_its_connections_when_it_is_not() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", "postgres://doorward@127.0.0.1:9/doorward");
    let mut process = home.serve().await;
    process.heard("the door stays closed").await;
    let page = process.operations("/metrics").await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.text().contains("doorward_log_lines_lost_total 0"), "{}", page.text());
    process.stop().await;

    for db in [Database::sqlite(), Database::postgres().await] {
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let held = house.app().store.reader().await.unwrap();
        let text = Browser::new(&house.operations).get("/metrics").await.text();
        let count = |state: &str| -> i64 {
            let start = format!("doorward_database_connections{{state=\"{state}\"}} ");
            let line = text.lines().find(|line| line.starts_with(&start));
            line.and_then(|line| line[start.len()..].parse().ok()).unwrap_or_else(|| panic!("{text}"))
        };
        assert!(count("busy") >= 1 && count("idle") >= 0, "{text}");
        drop(held);
    }
}
