//! Chapter 13: what is sealed, and what happens to a value that does not open.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::flows::start;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::crypto_keys::{key_file, refit};
use super::{assert_rejected, events, hex, is_signed_in, signed_in, signed_in_as};
use crate::house::browser::Browser;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

/// What is done to a sealed value.
type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// A house that opens an ID token for every `/auth/me`, on SQLite.
async fn opening_house(op: &ScriptedOp) -> TestHouse {
    TestHouse::with_op(op).set("SESSION__EXPOSE_CLAIMS", "[\"name\"]").open().await
}

/// The first column of every row, as bytes.
async fn cells(house: &TestHouse, sql: &str) -> Vec<Vec<u8>> {
    let mut conn = SqliteConnection::connect(&house.database.url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap()
}

/// The ID token of the only live session.
async fn id_token(house: &TestHouse) -> Vec<u8> {
    cells(house, "SELECT id_token FROM sessions WHERE revoked_at IS NULL").await.remove(0)
}

async fn put_id_token(house: &TestHouse, bytes: &[u8]) {
    let hex = hex(bytes);
    house
        .database
        .execute(&format!("UPDATE sessions SET id_token = x'{hex}' WHERE revoked_at IS NULL"))
        .await;
}

/// A damaged session: nobody is signed in by it, one event and one count say why, and no later request meets a 500.
async fn is_no_session(house: &TestHouse, browser: &Browser, case: &str) {
    let cookie = browser.cookie("doorward").unwrap();
    let before = failures(house).await;
    let page = browser.get_json("/auth/me").await;
    assert_eq!(page.status, 401, "{case}: {}", page.text());
    assert_eq!(page.json()["code"], "not_signed_in", "{case}");
    assert_eq!(events(house, "crypt_decrypt_fail").await, 1, "{case}");
    let named = "SELECT count(*) FROM audit_log WHERE event = 'crypt_decrypt_fail' AND outcome = 'refused' AND length(reason) > 3";
    assert_eq!(house.database.number(named).await, 1, "{case}");
    assert_eq!(failures(house).await, before + 1, "{case}");
    browser.set_cookie("doorward", &cookie);
    assert_eq!(browser.get_json("/auth/me").await.status, 401, "{case}: again");
    assert_eq!(browser.get_json("/protected").await.status, 401, "{case}: the app");
    assert_eq!(house.live_sessions().await, 0, "{case}");
    house.database.execute("DELETE FROM audit_log").await;
}

/// The sum of `decrypt_failures` over all reasons.
async fn failures(house: &TestHouse) -> u64 {
    let text = Browser::new(&house.operations).get("/metrics").await.text();
    let lines = text.lines().filter(|line| line.starts_with("doorward_decrypt_failures"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Version, key id length, key id, then the twelve bytes of the nonce.
fn nonce(sealed: &[u8]) -> [u8; 12] {
    assert_eq!(sealed[0], 1, "the format version comes first");
    let at = 2 + usize::from(sealed[1]);
    assert_eq!(&sealed[2..at], b"k1");
    assert!(sealed.len() >= at + 12 + 16);
    sealed[at..at + 12].try_into().unwrap()
}

#[tokio::test]
async fn cr_01_no_two_values_are_sealed_with_one_nonce_on_any_replica() {
    let op = ScriptedOp::start().await;
    let one = TestHouse::with_op(&op).open().await;
    let two = TestHouse::with_op(&op).clock(&one.clock).folder(&one.folder).open().await;
    let mut seen = HashSet::new();
    for house in [&one, &two] {
        for _ in 0..5 {
            signed_in(house).await;
        }
        for _ in 0..150 {
            let page = house.browser().navigate("/auth/login").await;
            let attempt = &page.set_cookies()[0].value;
            assert!(seen.insert(nonce(&URL_SAFE_NO_PAD.decode(attempt).unwrap())));
        }
    }
    for column in ["access_token", "refresh_token", "id_token"] {
        for cell in cells(&one, &format!("SELECT {column} FROM sessions")).await {
            assert!(seen.insert(nonce(&cell)), "{column}");
        }
    }
    assert_eq!(seen.len(), 330);
}

#[tokio::test]
async fn cr_03_a_ciphertext_opens_in_its_own_row_and_column_alone() {
    let op = ScriptedOp::start().await;
    let house = opening_house(&op).await;
    let victim = signed_in_as(&house, &op, Person::named("victim").with("name", "VICTIM-NAME")).await;
    assert_eq!(victim.get_json("/auth/me").await.json()["claims"]["name"], "VICTIM-NAME");
    let stolen = id_token(&house).await;
    house.rewrite("UPDATE sessions SET revoked_at = 1").await;

    let thief = signed_in_as(&house, &op, Person::named("thief")).await;
    put_id_token(&house, &stolen).await;
    let page = thief.get_json("/auth/me").await;
    assert!(!page.text().contains("VICTIM-NAME"));
    assert_eq!((page.status, house.refusals("not_authentic").await), (401, 1));
    house.database.execute("DELETE FROM audit_log").await;

    for source in ["access_token", "refresh_token"] {
        let browser = signed_in(&house).await;
        house
            .database
            .execute(&format!("UPDATE sessions SET id_token = {source} WHERE revoked_at IS NULL"))
            .await;
        is_no_session(&house, &browser, source).await;
    }
    let browser = signed_in(&house).await;
    let own_key = "UPDATE sessions SET id_token = (SELECT value FROM own_keys WHERE name = 'cookie-mac') WHERE revoked_at IS NULL";
    house.database.execute(own_key).await;
    is_no_session(&house, &browser, "another table").await;

    // The other way round: no value of a session becomes a key of ours.
    let browser = signed_in(&house).await;
    house.database.execute("UPDATE own_keys SET value = (SELECT id_token FROM sessions WHERE revoked_at IS NULL) WHERE name = 'cookie-mac'").await;
    assert!(start::cookie_key(&house.app()).await.is_err());
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn cr_03_a_ciphertext_under_another_key_id_or_version_does_not_open() {
    let op = ScriptedOp::start().await;
    let house = opening_house(&op).await;
    let k2 = key_file(&house.folder, "k2");
    let k1 = house.folder.join("k1");
    refit(&house, "k1", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
    for (at, byte, reason) in [
        (3, b'2', "not_authentic"),
        (3, b'9', "unknown_key"),
        (0, 2, "unknown_version"),
        (0, 0, "unknown_version"),
    ] {
        let browser = signed_in(&house).await;
        let mut sealed = id_token(&house).await;
        sealed[at] = byte;
        put_id_token(&house, &sealed).await;
        assert_eq!(browser.get_json("/auth/me").await.status, 401, "{reason}");
        assert_eq!(house.refusals(reason).await, 1, "{reason}");
        house.database.execute("DELETE FROM audit_log").await;
    }
    signed_in(&house).await;
}

#[tokio::test]
async fn cr_04_a_stored_value_that_is_damaged_anywhere_is_no_session_and_never_a_500() {
    let op = ScriptedOp::start().await;
    let house = opening_house(&op).await;
    let whole = {
        let browser = signed_in(&house).await;
        let sealed = id_token(&house).await;
        browser.post_form("/auth/logout", &[]).await;
        house.database.execute("DELETE FROM audit_log").await;
        sealed.len()
    };
    let mut cases: Vec<(String, Damage)> = Vec::new();
    for length in [0, 1, 2, 3, 4, 5, 15, 16, 31, 32, whole / 2, whole - 1] {
        cases.push((format!("cut to {length}"), Box::new(move |bytes| bytes.truncate(length))));
    }
    for at in [0, 1, 2, 3, 4, 15, 16, whole / 2, whole - 16, whole - 1] {
        cases.push((format!("bit flipped at {at}"), Box::new(move |bytes| bytes[at] ^= 0x40)));
    }
    cases.push(("grown".into(), Box::new(|bytes| bytes.push(0))));
    cases.push(("zeroed".into(), Box::new(|bytes| bytes.fill(0))));
    cases.push((
        "plain text".into(),
        Box::new(|bytes| *bytes = b"eyJhbGciOiJub25lIn0.eyJuYW1lIjoieCJ9.".to_vec()),
    ));
    cases.push(("long key id".into(), Box::new(|bytes| bytes[1] = 255)));
    for (case, damage) in cases {
        let browser = signed_in(&house).await;
        let mut sealed = id_token(&house).await;
        damage(&mut sealed);
        put_id_token(&house, &sealed).await;
        is_no_session(&house, &browser, &case).await;
    }
    assert!(is_signed_in(&signed_in(&house).await).await);
}

#[tokio::test]
async fn cr_04_a_damaged_attempt_is_an_expired_login() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for case in 0..24_usize {
        let browser = house.browser();
        let start = browser.navigate("/auth/login").await;
        let cookie = start.set_cookies().remove(0);
        let mut sealed = URL_SAFE_NO_PAD.decode(&cookie.value).unwrap();
        let at = case * sealed.len() / 24;
        match case % 3 {
            0 => sealed.truncate(at),
            _ => sealed[at] ^= 1 << (case % 8),
        }
        browser.set_cookie(&cookie.name, &URL_SAFE_NO_PAD.encode(&sealed));
        let end = browser.follow(start, 5).await;
        assert_eq!(end.status, 400, "case {case} at {at}");
        assert_rejected(&house, &end, "login_expired").await;
    }
    assert_eq!(op.count("/token"), 0, "no code was spent");
    signed_in(&house).await;
}

#[tokio::test]
async fn cr_06_what_is_sealed_for_one_purpose_is_nothing_for_another() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    // A logout's way back, as an attempt.
    let browser = signed_in(&house).await;
    let left = browser.post_form("/auth/logout", &[("return_to", "/protected")]).await.location().unwrap();
    let way_back = left.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    assert!(way_back.len() > 60, "{way_back}");
    let start = browser.navigate("/auth/login").await;
    let attempt = start.set_cookies().remove(0);
    browser.set_cookie(&attempt.name, &way_back);
    let end = browser.follow(start, 5).await;
    assert_rejected(&house, &end, "login_expired").await;
    // An attempt, as the way back: the page says goodbye and leads nowhere.
    let page = browser.navigate(&format!("/auth/signed-out?state={}", attempt.value)).await;
    assert_eq!(page.status, 200);
    let home = browser.navigate(&format!("/auth/signed-out?state={way_back}")).await;
    assert_eq!(
        (home.status, home.location().unwrap().path()),
        (303, "/protected"),
        "in its own place it opens"
    );
    // Neither is a session.
    for value in [&way_back, &attempt.value] {
        let sender = house.browser().with_header("cookie", &format!("doorward={value}"));
        assert_eq!(sender.get_json("/auth/me").await.status, 401);
    }
}

#[tokio::test]
async fn cr_08_a_corrupt_row_ends_one_session_and_nothing_else() {
    let op = ScriptedOp::start().await;
    let house = opening_house(&op).await;
    let neighbour = signed_in_as(&house, &op, Person::named("grace")).await;
    let browser = signed_in_as(&house, &op, Person::named("ada")).await;
    house.database.execute("UPDATE sessions SET id_token = x'00', access_token = x'01', refresh_token = x'' WHERE user_id = 'ada'").await;
    // Ten at once: each is refused, none is a 404 or a 500.
    let pages = futures_util::future::join_all((0..10).map(|_| browser.get_json("/auth/me"))).await;
    for page in &pages {
        assert_eq!(page.status, 401, "{}", page.text());
    }
    assert!(events(&house, "crypt_decrypt_fail").await >= 1);
    assert_eq!(browser.navigate("/protected").await.status, 303);
    assert_eq!(neighbour.get_json("/auth/me").await.json()["claims"]["name"], "grace Tester");

    // A logout of a damaged session works, and says what it met.
    let browser = signed_in_as(&house, &op, Person::named("ada")).await;
    house.database.execute("UPDATE sessions SET id_token = x'00' WHERE user_id = 'ada'").await;
    house.database.execute("DELETE FROM audit_log").await;
    let left = browser.post_form("/auth/logout", &[]).await;
    assert_eq!(left.status, 303, "{}", left.text());
    assert_eq!(events(&house, "crypt_decrypt_fail").await, 1);
    assert_eq!(house.live_sessions().await, 1);
    let page = signed_in(&house).await.get_json("/auth/me").await;
    assert!(matches!(page.json()["claims"]["name"], Value::String(_)));
}
