//! Chapter 4: how sessions end, on every replica and against every late writer.

use std::time::Duration;

use doorward::domain::{Clock as _, Status};
use doorward::store::users;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{events, is_signed_in, keep_time, sets_session, signed_in, signed_in_as};
use crate::house::browser::Browser;
use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

/// Two replicas: one database, one key, one clock.
async fn replicas(op: &ScriptedOp, db: &Database) -> [TestHouse; 2] {
    let one = TestHouse::with_op(op).database(db).open().await;
    let two = TestHouse::with_op(op).database(db).clock(&one.clock).folder(&one.folder).open().await;
    [one, two]
}

/// What the replica `house` says of this browser, whose own door may be another; cookies know no ports.
async fn at(browser: &Browser, house: &TestHouse) -> u16 {
    browser.get(&format!("{}/auth/me", house.url)).await.status
}

/// The public handle of the browser's own session.
async fn handle(browser: &Browser) -> String {
    browser.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned()
}

on_each_database! {
    async fn se_05_a_session_ended_on_one_replica_is_dead_on_the_other_at_once(db: Database) {
        let op = ScriptedOp::start().await;
        let [one, two] = replicas(&op, &db).await;
        for way in ["logout", "its handle", "all", "suspension", "time", "a new login"] {
            let browser = signed_in(&one).await;
            let twin = Browser::new(&one.url);
            twin.set_cookie("doorward", &browser.cookie("doorward").unwrap());
            assert_eq!((at(&twin, &one).await, at(&twin, &two).await), (200, 200), "{way}");
            match way {
                "logout" => drop(browser.post_form("/auth/logout", &[]).await),
                "its handle" => {
                    let path = format!("/auth/sessions/{}", handle(&browser).await);
                    assert_eq!(browser.delete(&path).await.status, 204);
                }
                "all" => assert_eq!(browser.delete("/auth/sessions?all=true").await.status, 204),
                "suspension" => {
                    let mut writer = one.app().store.writer().await.unwrap();
                    users::set_status(&mut writer, "alice", Status::Suspended, one.app().now_ms()).await.unwrap();
                    users::set_status(&mut writer, "alice", Status::Active, one.app().now_ms()).await.unwrap();
                    writer.commit().await.unwrap();
                }
                "time" => one.clock.advance(Duration::from_hours(25)),
                _ => {
                    keep_time(&op, &one);
                    assert_eq!(browser.sign_in("/auth/login?prompt=login").await.status, 200);
                }
            }
            assert_eq!(at(&twin, &two).await, 401, "{way}");
            assert_eq!(at(&twin, &one).await, 401, "{way}");
            keep_time(&op, &one);
        }
    }

    async fn se_05_after_a_logout_was_answered_the_other_replica_lets_nobody_in(db: Database) {
        let op = ScriptedOp::start().await;
        let [one, two] = replicas(&op, &db).await;
        for _ in 0..5 {
            let browser = signed_in(&one).await;
            let holder = Browser::new(&two.url);
            holder.set_cookie("doorward", &browser.cookie("doorward").unwrap());
            let asking = async {
                // Under way while the logout is: either answer is right, an error is not.
                for _ in 0..10 {
                    let page = holder.get("/protected").await;
                    assert!(matches!(page.status, 200 | 401), "{}", page.status);
                    assert!(!sets_session(&page));
                }
            };
            let leaving = async { browser.post_form("/auth/logout", &[]).await };
            let ((), left) = futures_util::future::join(asking, leaving).await;
            assert_eq!(left.status, 303);
            // The way to the app hears of it within 100 ms, which `cache` measures; our own pages ask the row.
            let answered = std::time::Instant::now();
            while holder.get("/protected").await.status != 401 {
                assert!(answered.elapsed() < Duration::from_secs(1), "the other replica does not hear");
            }
            assert_eq!(holder.get("/auth/me").await.status, 401);
        }
        assert_eq!(one.live_sessions().await, 0);
    }

    async fn se_06_touches_in_a_race_with_a_logout_wake_nothing(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        for round in 0..5 {
            let browser = signed_in(&house).await;
            let holder = house.browser();
            holder.set_cookie("doorward", &browser.cookie("doorward").unwrap());
            house.clock.advance(Duration::from_secs(90));
            let touching = futures_util::future::join_all((0..8).map(|_| holder.get("/protected")));
            let (pages, left) = futures_util::future::join(touching, browser.post_form("/auth/logout", &[])).await;
            assert_eq!(left.status, 303, "round {round}");
            for page in pages {
                assert!(matches!(page.status, 200 | 401) && !sets_session(&page), "round {round}: {}", page.status);
            }
            assert_eq!(house.live_sessions().await, 0, "round {round}");
            assert_eq!(holder.get("/protected").await.status, 401, "round {round}");
        }
    }
}

#[tokio::test]
async fn se_06_a_touch_that_waits_behind_a_logout_does_not_bring_the_session_back() {
    let op = ScriptedOp::start().await;
    let db = Database::postgres().await;
    let house = TestHouse::with_op(&op).database(&db).open().await;
    let browser = signed_in(&house).await;
    house.clock.advance(Duration::from_secs(90));
    let before = db.number("SELECT last_active_at FROM sessions").await;

    // A logout elsewhere has written and not yet committed: the request still reads the session as alive, then its touch waits.
    let mut elsewhere = PgConnection::connect(&db.url).await.unwrap();
    let mut logout = elsewhere.begin().await.unwrap();
    let ended = house.app().now_ms();
    let end = format!("UPDATE sessions SET revoked_at = {ended}, generation = generation + 1");
    sqlx::query(AssertSqlSafe(end)).execute(&mut *logout).await.unwrap();
    let asking = tokio::spawn({
        let browser = browser.clone();
        async move { browser.get("/protected").await }
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'UPDATE sessions SET last_active_at%'";
    while db.number(waiting).await == 0 {
        assert!(std::time::Instant::now() < deadline, "the touch never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    logout.commit().await.unwrap();
    let page = asking.await.unwrap();
    assert_eq!(page.status, 200, "it was alive when it was read");
    assert!(!sets_session(&page));
    house.settle().await;
    assert_eq!(db.number("SELECT revoked_at FROM sessions").await, ended);
    assert_eq!(db.number("SELECT last_active_at FROM sessions").await, before);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn se_08_people_see_and_end_their_own_sessions_and_nobody_elses() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let stranger = signed_in_as(&house, &op, Person::named("grace")).await;
    let foreign = handle(&stranger).await;
    let first = signed_in_as(&house, &op, Person::named("ada")).await;
    let second = signed_in(&house).await;
    let third = signed_in(&house).await;

    let list = first.get_json("/auth/sessions").await.json();
    let rows = list["sessions"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    let current: Vec<_> = rows.iter().filter(|row| row["current"] == true).collect();
    assert_eq!((current.len(), current[0]["id"].as_str().unwrap()), (1, handle(&first).await.as_str()));
    assert!(!list.to_string().contains(&foreign), "somebody else's is not listed");
    let cookie = second.cookie("doorward").unwrap();
    assert!(!list.to_string().contains(&cookie[cookie.len() - 40..]), "handles are no keys");

    for id in [foreign.as_str(), "unknown", "%00", "..%2f..", "' OR 1=1 --", &"a".repeat(500)] {
        let page = first.delete(&format!("/auth/sessions/{id}")).await;
        assert_eq!(page.status, 404, "{id}: {}", page.text());
        let page = first.post_form(&format!("/auth/account/sessions/{id}/end"), &[]).await;
        assert_eq!(page.status, 404, "{id}: {}", page.text());
    }
    assert!(is_signed_in(&stranger).await);

    let gone = format!("/auth/sessions/{}", handle(&second).await);
    assert_eq!(first.delete(&gone).await.status, 204);
    assert!(!is_signed_in(&second).await);
    assert_eq!(first.delete(&gone).await.status, 404, "twice");
    assert!(is_signed_in(&first).await && is_signed_in(&third).await);

    assert_eq!(house.browser().delete("/auth/sessions?all=true").await.status, 401);
    let all = first.delete("/auth/sessions?all=true").await;
    assert_eq!(all.status, 204);
    assert!(first.cookie("doorward").is_none(), "this browser's cookie goes too");
    assert!(!is_signed_in(&third).await && is_signed_in(&stranger).await);
    assert_eq!(events(&house, "session.revoked").await, 3);
}

#[tokio::test]
async fn se_08_sessions_end_by_requests_of_this_site_only() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let id = handle(&browser).await;
    for path in
        ["/auth/logout", "/auth/account/sessions/end-all", &format!("/auth/account/sessions/{id}/end")]
    {
        let page = browser.post_form_from("https://evil.example/", path, &[]).await;
        assert_eq!(page.status, 403, "{path}");
    }
    let evil =
        browser.with_header("origin", "https://evil.example").with_header("sec-fetch-site", "cross-site");
    assert_eq!(evil.delete("/auth/sessions?all=true").await.status, 403);
    assert!(is_signed_in(&browser).await);
    assert_eq!(house.refusals("csrf").await, 4);
    assert_eq!(browser.navigate("/auth/logout").await.status, 200, "a GET asks first");
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn se_09_after_a_takeover_the_other_sessions_can_be_ended_and_this_one_stays() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for way in ["program", "person"] {
        let thief = signed_in(&house).await;
        let owner = signed_in(&house).await;
        let ended = match way {
            "program" => owner.delete("/auth/sessions").await.status,
            _ => owner.post_form("/auth/account/sessions/end-others", &[]).await.status,
        };
        assert!(matches!(ended, 204 | 303), "{way}: {ended}");
        assert!(!is_signed_in(&thief).await, "{way}");
        assert!(is_signed_in(&owner).await, "{way}");
    }
}

on_each_database! {
    async fn se_10_a_user_has_no_more_sessions_than_the_limit_and_the_least_used_goes(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).set("LIMITS__SESSIONS_PER_USER", "3").open().await;
        keep_time(&op, &house);
        let grace = signed_in_as(&house, &op, Person::named("grace")).await;
        op.script(|s| s.person = Person::named("ada"));
        let mut browsers = Vec::new();
        for _ in 0..3 {
            browsers.push(signed_in(&house).await);
            house.clock.advance(Duration::from_secs(61));
        }
        // The oldest is used again, so that the second is the least recently used one.
        assert!(is_signed_in(&browsers[0]).await);
        house.settle().await;
        house.clock.advance(Duration::from_secs(1));
        browsers.push(signed_in(&house).await);
        let mut alive = Vec::new();
        for browser in &browsers {
            alive.push(is_signed_in(browser).await);
        }
        assert_eq!(alive, [true, false, true, true]);
        assert!(is_signed_in(&grace).await, "limits are each user's own");
        // Ten at the same instant leave three.
        let many: Vec<_> = (0..10).map(|_| house.browser()).collect();
        futures_util::future::join_all(many.iter().map(|browser| browser.sign_in("/auth/login"))).await;
        let live = "SELECT count(*) FROM sessions WHERE user_id = 'ada' AND revoked_at IS NULL";
        assert_eq!(db.number(live).await, 3);
    }
}

#[tokio::test]
async fn se_15_signing_out_here_asks_the_provider_and_its_token_life_ends_nothing_unless_configured() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.refresh_tokens = false;
        s.token_life_s = 300;
    });
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let start = house.clock.now_ms();
    house.clock.stand_at(start + 600_000);
    assert!(is_signed_in(&browser).await, "the access token is over, the session is not");
    let left = browser.post_form("/auth/logout", &[]).await;
    assert!(left.location().unwrap().as_str().starts_with(&op.url("/end-session")));

    let house = TestHouse::with_op(&op).set("PROVIDER__OP__SESSION_FOLLOWS_TOKEN", "true").open().await;
    let browser = signed_in(&house).await;
    let start = house.database.number("SELECT created_at FROM sessions").await;
    house.clock.stand_at(start + 297_000);
    assert!(is_signed_in(&browser).await);
    house.clock.stand_at(start + 302_000);
    assert!(!is_signed_in(&browser).await, "it follows its token");
}
