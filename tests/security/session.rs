//! Chapter 4: what a session is made of, and how long it lives.

use std::collections::BTreeSet;
use std::time::Duration;

use doorward::domain::Clock as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{hex, is_signed_in, keep_time, sets_session, signed_in};
use crate::house::browser::{Browser, Page};
use crate::house::databases::on_each_database;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

const COOKIE: &str = "doorward";

/// The key inside a session cookie, behind its signature.
fn key_in(cookie: &str) -> String {
    let plain = percent_encoding::percent_decode_str(cookie).decode_utf8().unwrap().into_owned();
    plain[plain.len() - 43..].to_owned()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Somebody else who came by this cookie.
fn holder_of(house: &TestHouse, cookie: &str) -> Browser {
    let thief = house.browser();
    thief.set_cookie(COOKIE, cookie);
    thief
}

fn takes_session_away(page: &Page) -> bool {
    page.set_cookies()
        .iter()
        .any(|c| c.name == COOKIE && c.value.is_empty() && c.attribute("max-age") == Some("0"))
}

on_each_database! {
    async fn se_01_a_stolen_database_holds_no_usable_cookie_and_no_token(db: Database) {
        let op = ScriptedOp::start().await;
        op.script(|s| s.id_token(|_, claims| drop(claims.insert("canary".into(), "CANARY-IN-TOKEN".into()))));
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let browser = signed_in(&house).await;
        let cookie = browser.cookie(COOKIE).unwrap();
        let key = key_in(&cookie);
        let dump = db.dump().await;
        for secret in [cookie.as_str(), &key, &cookie[..20], "CANARY-IN-TOKEN", "s3cret+with"] {
            assert!(!contains(&dump, secret.as_bytes()), "{secret}");
        }
        // The dump is the right one: it holds the key's hash.
        let hash = Sha256::digest(key.as_bytes());
        assert!(contains(&dump, &hash) || contains(&dump, hex(&hash).as_bytes()));
    }
}

#[tokio::test]
async fn se_01_session_keys_are_256_bits_and_never_the_same() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let cookie = signed_in(&house).await.cookie(COOKIE).unwrap();
        let key = key_in(&cookie);
        assert_eq!(key.len(), 43, "256 bits in base64url");
        assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{key}");
        assert!(seen.insert(key));
    }
}

#[tokio::test]
async fn se_02_every_login_makes_a_new_session_and_ends_the_old_one() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    let mut old = browser.cookie(COOKIE).unwrap();
    // Again, more strongly, and as somebody else with other rights.
    for (ask, person) in [("prompt=login", "alice"), ("max_age=0", "alice"), ("prompt=select_account", "ada")]
    {
        op.script(|s| s.person = Person::named(person).with("roles", json!(["admin"])));
        house.clock.advance(Duration::from_secs(2));
        let page = browser.sign_in(&format!("/auth/login?{ask}")).await;
        assert_eq!(page.status, 200, "{ask}: {}", page.text());
        let new = browser.cookie(COOKIE).unwrap();
        assert_ne!(new, old, "{ask}");
        assert!(is_signed_in(&browser).await, "{ask}");
        assert!(!is_signed_in(&holder_of(&house, &old)).await, "the old cookie is dead after {ask}");
        assert_eq!(house.live_sessions().await, 1, "{ask}");
        old = new;
    }
    assert_eq!(house.database.number("SELECT count(*) FROM sessions").await, 4, "a row each");
}

#[tokio::test]
async fn se_03_a_cookie_that_the_door_did_not_issue_is_never_adopted() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let ended = signed_in(&house).await;
    let once_good = ended.cookie(COOKIE).unwrap();
    ended.post_form("/auth/logout", &[]).await;
    let other = TestHouse::with_op(&op).open().await;
    let elsewhere = signed_in(&other).await.cookie(COOKIE).unwrap();
    let key = key_in(&once_good);
    let made_up = [
        once_good.clone(),
        elsewhere,
        key.clone(),
        "A".repeat(43),
        format!("{}{}", &once_good[..once_good.len() - 43], "A".repeat(43)),
        once_good[..once_good.len() - 1].to_owned(),
        format!("{once_good}A"),
        "x".to_owned(),
        "%00%ff".to_owned(),
        format!("%7B%22key%22%3A%22{key}%22%7D"),
        "A".repeat(4_000),
    ];
    for cookie in made_up {
        let browser = holder_of(&house, &cookie);
        let before = browser.get_json("/auth/me").await;
        assert_eq!(before.status, 401, "{cookie}");
        assert!(takes_session_away(&before), "a dead cookie is taken away: {cookie}");
        browser.set_cookie(COOKIE, &cookie);
        assert_eq!(browser.navigate("/protected").await.status, 303, "{cookie}");
        let end = browser.sign_in("/auth/login?return_to=/protected").await;
        assert_eq!(end.status, 200, "{cookie}: {}", end.text());
        let issued = browser.cookie(COOKIE).unwrap();
        assert_ne!(issued, cookie);
        assert_ne!(key_in(&issued), key);
        assert!(!is_signed_in(&holder_of(&house, &cookie)).await, "{cookie}");
    }
}

/// A column of the only live session.
async fn of_session(house: &TestHouse, column: &str) -> i64 {
    house.database.number(&format!("SELECT {column} FROM sessions WHERE revoked_at IS NULL")).await
}

#[tokio::test]
async fn se_04_the_idle_limit_holds_to_the_second() {
    const IDLE: i64 = 600_000;
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("SESSION__IDLE", "\"10m\"").open().await;
    for (late_ms, path) in
        [(-1_000, "/auth/me"), (1_000, "/auth/me"), (-1_000, "/protected"), (1_000, "/protected")]
    {
        let browser = signed_in(&house).await;
        let active = house.database.number("SELECT max(last_active_at) FROM sessions").await;
        house.clock.stand_at(active + IDLE + late_ms);
        let page = browser.get_json(path).await;
        let alive = late_ms < 0;
        assert_eq!(page.status, if alive { 200 } else { 401 }, "{late_ms} {path}");
        if alive {
            house.settle().await;
            assert_eq!(
                house.database.number("SELECT max(last_active_at) FROM sessions").await,
                active + IDLE + late_ms
            );
            house.clock.advance(Duration::from_secs(2));
            assert!(is_signed_in(&browser).await, "activity moved the idle limit");
        }
        assert!(!sets_session(&page), "an answer never sets the cookie again");
        house
            .rewrite("UPDATE sessions SET revoked_at = 1, last_active_at = 0 WHERE revoked_at IS NULL")
            .await;
        house.clock.stand_at(i64::MIN);
    }
}

#[tokio::test]
async fn se_04_no_activity_moves_the_overall_limit() {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("SESSION__IDLE", "\"10m\"").set("SESSION__OVERALL", "\"1h\"");
    let house = plan.open().await;
    let browser = signed_in(&house).await;
    let (start, end) = (of_session(&house, "created_at").await, of_session(&house, "expires_at").await);
    assert_eq!(end - start, 3_600_000);
    for minute in (9..60).step_by(9) {
        house.clock.stand_at(start + minute * 60_000);
        assert!(is_signed_in(&browser).await, "minute {minute}");
        assert_eq!(of_session(&house, "expires_at").await, end);
    }
    house.clock.stand_at(end - 1_000);
    assert!(is_signed_in(&browser).await);
    assert_eq!(browser.navigate("/protected").await.status, 200);
    house.clock.stand_at(end + 1_000);
    assert!(!is_signed_in(&browser).await);
    assert_eq!(browser.navigate("/protected").await.status, 303);
}

#[tokio::test]
async fn se_04_a_clock_that_steps_ten_minutes_either_way_ends_nothing_and_revives_nothing() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let (stays, left) = (signed_in(&house).await, signed_in(&house).await);
    let dead = left.cookie(COOKIE).unwrap();
    left.post_form("/auth/logout", &[]).await;
    let step = Duration::from_mins(10);
    for there in [true, false, false, true] {
        if there {
            house.clock.turn_back(step);
        } else {
            house.clock.advance(step);
        }
        assert!(is_signed_in(&stays).await);
        assert!(!is_signed_in(&holder_of(&house, &dead)).await);
    }
}

#[tokio::test]
async fn se_11_a_session_key_counts_in_its_cookie_and_nowhere_else() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let owner = signed_in(&house).await;
    let cookie = owner.cookie(COOKIE).unwrap();
    let key = key_in(&cookie);
    for value in [cookie.as_str(), &key] {
        let stranger = house.browser();
        for path in [
            "/auth/me?doorward=",
            "/auth/me?session=",
            "/auth/me;doorward=",
            "/auth/me?key=",
            "/protected?doorward=",
        ] {
            let page = stranger.get_json(&format!("{path}{value}")).await;
            assert!(page.status == 401 || page.status == 404, "{path}: {}", page.status);
        }
        let bearer = format!("Bearer {value}");
        let pair = format!("doorward={value}");
        for (name, header) in [
            ("authorization", bearer.as_str()),
            ("x-session", value),
            ("x-auth-user", "alice"),
            ("cookie2", &pair),
            ("set-cookie", &pair),
            ("x-cookie", &pair),
            ("doorward", value),
        ] {
            let sender = stranger.with_header(name, header);
            assert_eq!(sender.get_json("/auth/me").await.status, 401, "{name}");
            assert_eq!(sender.get_json("/protected").await.status, 401, "{name}");
        }
        for name in [
            "__Host-doorward",
            "__Secure-doorward",
            "Doorward",
            "DOORWARD",
            "doorward2",
            "xdoorward",
            "doorward.0",
            "id",
        ] {
            let sender = house.browser();
            sender.set_cookie(name, value);
            let sender = sender.with_header("cookie", &format!("{name}={value}"));
            assert_eq!(sender.get_json("/auth/me").await.status, 401, "{name}");
        }
        let posted = stranger.post_form("/auth/logout", &[("doorward", value)]).await;
        assert_eq!(posted.status, 303);
        assert!(is_signed_in(&owner).await, "a key in a body ends nothing");
    }
}

#[tokio::test]
async fn se_12_a_session_belongs_to_one_public_origin() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("SERVER__PUBLIC_URL", "\"https://app.example\"").open().await;
    let browser = Browser::behind_tls("https://app.example", house.address);
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!(page.status, 200, "{}", page.text());
    for host in ["other.example", "app.example.evil", "app.example:8443", "localhost", "127.0.0.1", ""] {
        for path in ["/auth/me", "/protected", "/"] {
            let there = browser.with_header("host", host).get_json(path).await;
            assert_eq!(there.status, 421, "{host:?} {path}");
            assert!(there.set_cookies().is_empty());
        }
    }
    for host in ["app.example", "APP.example", "app.example:443"] {
        assert_eq!(browser.with_header("host", host).get_json("/auth/me").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn se_13_a_thousand_requests_write_the_session_once_a_minute_at_most() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    house.database.execute("CREATE TABLE writes (n INTEGER)").await;
    for table in ["sessions", "users", "audit_log"] {
        for deed in ["INSERT", "UPDATE", "DELETE"] {
            let trigger = format!(
                "CREATE TRIGGER {table}_{deed} AFTER {deed} ON {table} BEGIN INSERT INTO writes VALUES (1); END"
            );
            house.database.execute(&trigger).await;
        }
    }
    let start = house.clock.now_ms();
    house.clock.stand_at(start + 59_000 - 30_000);
    let thousand = async |paths: &[&str]| {
        for _ in 0..1_000 / (10 * paths.len()) {
            for path in paths {
                let ten = (0..10).map(|_| browser.get_json(path));
                for page in futures_util::future::join_all(ten).await {
                    assert_eq!(page.status, 200);
                }
            }
        }
        house.settle().await;
        house.database.number("SELECT count(*) FROM writes").await
    };
    assert_eq!(thousand(&["/protected", "/auth/me"]).await, 0, "within a minute of the login");
    house.clock.stand_at(start + 120_000);
    assert_eq!(browser.get_json("/protected").await.status, 200);
    assert_eq!(thousand(&["/protected"]).await, 1, "one in the next minute");
}

#[tokio::test]
async fn se_13_dead_rows_are_swept_in_batches_and_live_ones_stay() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let day = 24 * 3_600_000;
    let now = house.clock.now_ms();
    let copy = |mark: &str, ended: &str, active: i64, expires: i64| {
        format!(
            "INSERT INTO sessions (id, kind, key_hash, user_id, provider, issuer, created_at, last_active_at, expires_at, revoked_at, generation, changed_at) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) \
             SELECT '{mark}' || i, kind, CAST('{mark}' || i AS BLOB), user_id, provider, issuer, created_at, {active}, {expires}, {ended}, 1, 1 FROM sessions, n WHERE length(id) > 10"
        )
    };
    house.database.execute(&copy("e", &(now - 2 * day).to_string(), now, now + day)).await;
    house.database.execute(&copy("x", "NULL", now - 3 * day, now - 2 * day)).await;
    house.database.execute(&copy("i", "NULL", now - 3 * day, now + day)).await;
    // Ended a moment ago: kept for the audit trail.
    house.database.execute(&copy("k", &(now - 1_000).to_string(), now, now + day)).await;
    let swept = doorward::flows::sweep::run(&house.app()).await.unwrap();
    assert_eq!(swept.sessions, 1_800);
    assert_eq!(house.database.number("SELECT count(*) FROM sessions").await, 601);
    assert_eq!(doorward::flows::sweep::run(&house.app()).await.unwrap().sessions, 0);
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn se_14_who_am_i_shows_an_allow_list_and_no_token() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.person = Person::named("ada")
            .with("ssn", "SECRET-CLAIM")
            .with("access_token", "SECRET-CLAIM")
            .with("phone_number", "SECRET-CLAIM")
            .with("department", "engines");
    });
    let house = TestHouse::with_op(&op).set("SESSION__EXPOSE_CLAIMS", "[\"department\"]").open().await;
    let browser = signed_in(&house).await;
    let page = browser.get_json("/auth/me").await;
    let me = page.json();
    let names =
        |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let set = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(&me), set(&["user", "session", "claims"]));
    let user = [
        "id",
        "provider",
        "email",
        "emailVerified",
        "username",
        "firstName",
        "lastName",
        "displayName",
        "pictureUrl",
        "usertag",
        "locale",
        "tenantId",
        "roles",
        "groups",
    ];
    assert_eq!(names(&me["user"]), set(&user));
    let session =
        ["id", "provider", "createdAt", "lastActiveAt", "idleExpiresAt", "expiresAt", "authTime", "acr"];
    assert_eq!(names(&me["session"]), set(&session));
    assert_eq!(me["claims"], json!({"department": "engines"}));
    let text = page.text();
    let key = key_in(&browser.cookie(COOKIE).unwrap());
    let access =
        op.requests_to("/userinfo").first().map(|r| r.header("authorization").unwrap_or_default().to_owned());
    assert!(
        !text.contains("SECRET-CLAIM") && !text.contains("eyJ") && !text.contains(&key),
        "{text} {access:?}"
    );
}

#[tokio::test]
async fn se_14_polling_who_am_i_keeps_a_session_alive_only_where_configured() {
    let op = ScriptedOp::start().await;
    for keeps in [true, false] {
        let plan = TestHouse::with_op(&op).set("SESSION__IDLE", "\"10m\"");
        let house = plan.set("SESSION__ME_KEEPS_ALIVE", &keeps.to_string()).open().await;
        let browser = signed_in(&house).await;
        let start = of_session(&house, "last_active_at").await;
        let mut alive = Vec::new();
        for minute in [4, 8, 12, 16] {
            house.clock.stand_at(start + minute * 60_000);
            alive.push(is_signed_in(&browser).await);
        }
        assert_eq!(
            alive,
            if keeps { [true; 4] } else { [true, true, false, false] },
            "me_keeps_alive = {keeps}"
        );
    }
}
