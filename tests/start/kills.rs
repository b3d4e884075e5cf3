//! The power cut at any instant (RE-04): whatever was answered is true, whatever was not is whole or absent (RE-05).

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tokio::task::JoinSet;

use crate::house::browser::Browser;
use crate::house::op::{Person, ScriptedOp};
use crate::house::process::{Home, me, random_key, try_sign_in};

const VISITORS: usize = 4;

/// What must be zero at any time (RE-05).
const INVARIANTS: [&str; 6] = [
    "SELECT count(*) FROM sessions s LEFT JOIN users u ON u.id = s.user_id WHERE u.id IS NULL",
    "SELECT count(*) FROM (SELECT 1 FROM users GROUP BY provider, issuer, subject HAVING count(*) > 1)",
    "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id \
     WHERE s.revoked_at IS NULL AND (u.status <> 'active' OR NOT u.is_active OR u.deleted_at IS NOT NULL)",
    "SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL AND access_token IS NOT NULL",
    "SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND (access_token IS NULL OR id_token IS NULL)",
    // A login writes its session and its audit row together.
    "SELECT count(*) FROM sessions WHERE id NOT IN (SELECT session_ref FROM audit_log WHERE event = 'login')",
];

async fn is_whole(home: &Home) {
    let url = format!("sqlite:{}", home.path("doorward.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    for pragma in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
        let rows = sqlx::query(AssertSqlSafe(pragma)).fetch_all(&mut database).await.unwrap();
        let words: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert!(words.is_empty() || words == ["ok"], "{pragma}: {words:?}");
    }
    for invariant in INVARIANTS {
        let (broken,): (i64,) =
            sqlx::query_as(AssertSqlSafe(invariant)).fetch_one(&mut database).await.unwrap();
        assert_eq!(broken, 0, "{invariant}");
    }
    database.close().await.unwrap();
}

/// Signs in and out until the server is gone. The browser, if it was told that it is signed in, and was not on its way out.
async fn come_and_go(url: String) -> (usize, Option<Browser>) {
    let mut logins = 0;
    loop {
        let browser = Browser::new(&url);
        match try_sign_in(&browser).await {
            Ok(page) if page.status == 303 => logins += 1,
            Ok(page) => panic!("{}: {}", page.status, page.text()),
            Err(_) => return (logins, None),
        }
        if logins % 2 == 1 {
            continue;
        }
        match browser.try_get("/auth/me").await {
            Ok(page) => assert_eq!(page.status, 200, "{}", page.text()),
            Err(_) => return (logins, Some(browser)),
        }
    }
}

fn random_below(most: u64) -> u64 {
    let key = random_key();
    u64::from(u32::from_be_bytes([key[0], key[1], key[2], key[3]])) % most
}

#[tokio::test]
async fn re_04_kill_9_in_the_middle_of_logins_leaves_nothing_torn_and_takes_nothing_back() {
    let long = std::env::var_os("DOORWARD_TEST_LONG").is_some();
    let op = ScriptedOp::start().await;
    op.script(|s| s.person = Person::named("alice"));
    let mut home = Home::with_op(&op);
    home.open().await.stop().await;
    let began = Instant::now();
    let (mut kills, mut logins) = (0, 0);
    // A slow machine gets more time, until there is something to prove.
    let enough = |kills: u32, logins: usize| match began.elapsed().as_secs() {
        _ if long => kills >= 1_000,
        0..10 => false,
        10..90 => kills > 5 && logins > 20,
        _ => true,
    };
    while !enough(kills, logins) {
        let mut process = home.open().await;
        home.stay_at(&process);
        let mut visitors = JoinSet::new();
        for _ in 0..VISITORS {
            visitors.spawn(come_and_go(process.public_url.clone()));
        }
        tokio::time::sleep(Duration::from_millis(random_below(400 + 40 * u64::from(kills.min(50))))).await;
        process.kill();
        kills += 1;
        let mut guests = Vec::new();
        for (done, guest) in visitors.join_all().await {
            logins += done;
            guests.extend(guest);
        }
        is_whole(&home).await;
        if guests.is_empty() {
            continue;
        }
        let mut again = home.open().await;
        for guest in guests {
            assert_eq!(me(&guest).await, 200, "a login that was answered is lost: {}", again.log());
        }
        again.stop().await;
    }
    assert!(kills > 5 && logins > 20, "{kills} kills and {logins} logins are no proof");
    let keys = home.run(&["keys", "list", "--json"]).await.json();
    let unknown: Vec<_> =
        keys["keys"].as_array().unwrap().iter().filter(|key| key["inRing"] != true).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
