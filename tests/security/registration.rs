//! Chapter 10, rows RG: what registration never tells, never takes, never leaves behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::dev_idp::{Answer, Endpoint};
use doorward::flows::register;
use reqwest::Method;
use serde_json::json;
use tokio::sync::Notify;

use crate::house::home::{Plan, TestHouse};
use crate::house::servers::http;
use crate::house::servers::keycloak::{self, RealmSpec};
use crate::register::{faults, registering, users, wish};

fn broken(status: u16) -> Answer {
    Answer::Response { status, content_type: "application/json".into(), body: b"{}".to_vec() }
}

fn unlimited() -> Plan {
    TestHouse::plan().set("LIMITS__REGISTER", "\"off\"")
}

/// Lets every lease and pause run out and takes up what is left, until nothing is, as the job does.
async fn settles(house: &TestHouse) {
    for _ in 0..6 {
        house.clock.advance(Duration::from_secs(61));
        register::resume(&house.app()).await.unwrap();
        let open = "SELECT count(*) FROM registrations WHERE state IN ('pending', 'created', 'undoing')";
        if house.database.number(open).await == 0 {
            return;
        }
    }
    panic!(
        "{:?}",
        house.database.texts("SELECT state || ' ' || coalesce(error, '') FROM registrations").await
    );
}

#[tokio::test]
async fn rg_01_that_a_name_is_taken_is_told_only_behind_the_limit() {
    let house = TestHouse::plan().set("LIMITS__REGISTER", "\"3/1h\"").open().await;
    let visitor = house.browser();
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(visitor.post_json("/auth/register", &wish("nina")).await);
    }
    let codes: Vec<u16> = statuses.iter().map(|page| page.status).collect();
    assert_eq!(codes, [201, 409, 409, 429, 429]);
    let wait: u32 = statuses[4].header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3601).contains(&wait), "{wait}");
    assert_eq!(house.dev_idp().times_asked(Endpoint::CreateUser), 3, "RG-09: nothing reached the provider");
    // What never reaches the provider costs nothing.
    assert_eq!(visitor.post_json("/auth/register", &json!({})).await.status, 422);
    house.clock.advance(Duration::from_secs(3601));
    assert_eq!(visitor.post_json("/auth/register", &wish("olga")).await.status, 201);
}

#[tokio::test]
async fn rg_01_with_hide_existing_nothing_tells_whether_a_name_is_taken() {
    let house = unlimited().set("REGISTRATION__HIDE_EXISTING", "true").open().await;
    let visitor = house.browser();
    let mut seen = Vec::new();
    for name in ["nina", "nina", "olga"] {
        let began = Instant::now();
        let answer = visitor.post_json("/auth/register", &wish(name)).await;
        let steps = began.elapsed().as_millis();
        assert!((990..1600).contains(&steps), "{name}: {steps} ms");
        let mut headers: Vec<_> = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
        headers.sort();
        seen.push((answer.status, answer.text(), headers));
    }
    assert!(seen.iter().all(|one| *one == seen[0] && one.0 == 202), "{seen:?}");
    assert_eq!(house.dev_idp().registered(), ["nina", "olga"]);
    let pages = [form(&house, "nina").await, form(&house, "petra").await];
    assert_eq!(pages[0], pages[1]);
    assert_eq!(pages[0].0, 202);
    // The provider judges the password after the name, so its word would tell as well.
    let mut weak = wish("rosa");
    weak["password"] = "short".into();
    assert_eq!(visitor.post_json("/auth/register", &weak).await.status, 202);
}

async fn form(house: &TestHouse, name: &str) -> (u16, String) {
    let email = format!("{name}@new.example");
    let fields = [("username", name), ("email", &email), ("password", "long enough 1")];
    let page = house.browser().post_form("/auth/register", &fields).await;
    (page.status, page.text())
}

#[tokio::test]
async fn rg_03_whoever_was_there_before_is_never_removed() {
    let house = unlimited().open().await;
    let visitor = house.browser();
    assert_eq!(visitor.post_json("/auth/register", &wish("nina")).await.status, 201);
    for name in ["nina", "NINA", "alice"] {
        let taken = visitor.post_json("/auth/register", &wish(name)).await;
        assert_eq!((taken.status, taken.json()["code"].as_str()), (409, Some("taken")));
    }
    // A silent provider, and somebody else of that name: still not ours.
    house.dev_idp().next_answer_is(Endpoint::CreateUser, broken(500));
    assert_eq!(visitor.post_json("/auth/register", &wish("nina")).await.status, 503);
    settles(&house).await;
    assert_eq!(house.dev_idp().times_asked(Endpoint::DeleteUser), 0);
    assert_eq!((house.dev_idp().registered(), users(&house).await), (vec!["nina".to_owned()], 1));
}

#[tokio::test]
async fn rg_03_a_keycloak_that_keeps_no_marks_loses_nobody_who_is_not_proven_ours() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let profile = realm.admin(Method::GET, "/users/profile", None).await;
    let mut strict = profile.clone();
    strict.as_object_mut().unwrap().remove("unmanagedAttributePolicy");
    realm.admin(Method::PUT, "/users/profile", Some(&strict)).await;
    let house = TestHouse::with(&registering(&realm)).set("LIMITS__REGISTER", "\"off\"").open().await;
    let visitor = house.browser();
    assert_eq!(visitor.post_json("/auth/register", &wish("nina")).await.status, 201);
    // A local failure: the answer to the creation proves whom it made, mark or not.
    refuse_users(&house).await;
    assert_eq!(visitor.post_json("/auth/register", &wish("olga")).await.status, 500);
    allow_users(&house).await;
    let states = "SELECT state || ' ' || coalesce(error, '') FROM registrations ORDER BY created_at";
    assert_eq!(house.database.texts(states).await, ["finished ", "undone rolled_back"]);
    let left = realm.admin(Method::GET, "/users?email=new.example", None).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    // An intent whose outcome nobody knows, and a stranger of the same name.
    house.database.execute(PENDING_BOB).await;
    settles(&house).await;
    let states = "SELECT state || ' ' || error FROM registrations WHERE id = 'lost'";
    assert_eq!(house.database.texts(states).await, ["failed unproven"]);
    realm.user_id("bob").await;
    assert_eq!(users(&house).await, 1);
}

const PENDING_BOB: &str = "INSERT INTO registrations (id, provider, issuer, username, email, person, state, owner, next_try_at, attempts, \
     absences, network, created_at, changed_at) SELECT 'lost', provider, issuer, 'bob', 'bob@new.example', '{}', 'pending', 'x', 0, 1, 0, '', \
     created_at, changed_at FROM registrations LIMIT 1";

async fn refuse_users(house: &TestHouse) {
    let trigger = "CREATE TRIGGER full_house BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'no'); END";
    house.database.execute(trigger).await;
}

async fn allow_users(house: &TestHouse) {
    house.database.execute("DROP TRIGGER full_house").await;
}

#[tokio::test]
async fn rg_04_an_answer_that_was_lost_is_looked_up_by_the_mark() {
    let house = unlimited().open().await;
    let visitor = house.browser();
    house.dev_idp().next_answer_is(Endpoint::CreateUser, Answer::Lost);
    let answer = visitor.post_json("/auth/register", &wish("nina")).await;
    assert_eq!(answer.status, 201, "created, found, finished: {}", answer.text());
    assert_eq!(house.dev_idp().times_asked(Endpoint::CreateUser), 1, "never created twice");
    // The look fails as well: the visitor hears that it did not work, so it is undone.
    house.dev_idp().next_answer_is(Endpoint::CreateUser, Answer::Lost);
    house.dev_idp().next_answer_is(Endpoint::FindUser, broken(500));
    assert_eq!(visitor.post_json("/auth/register", &wish("olga")).await.status, 503);
    assert_eq!(house.dev_idp().registered(), ["nina", "olga"]);
    settles(&house).await;
    assert_eq!(house.dev_idp().registered(), ["nina"]);
    assert_eq!(visitor.post_json("/auth/register", &wish("olga")).await.status, 201, "and may try again");
}

#[tokio::test]
async fn rg_05_an_undo_that_fails_is_kept_shown_repeated_and_frees_the_address() {
    let house = unlimited().open().await;
    let visitor = house.browser();
    refuse_users(&house).await;
    for _ in 0..4 {
        house.dev_idp().next_answer_is(Endpoint::DeleteUser, broken(500));
    }
    assert_eq!(visitor.post_json("/auth/register", &wish("nina")).await.status, 500);
    allow_users(&house).await;
    assert_eq!(house.dev_idp().registered(), ["nina"], "the provider would not let her go");
    let states = "SELECT state FROM registrations";
    for _ in 0..3 {
        house.clock.advance(Duration::from_secs(61));
        register::resume(&house.app()).await.unwrap();
        assert_eq!(house.database.texts(states).await, ["undoing"]);
        let metrics =
            http().get(format!("{}/metrics", house.operations)).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("doorward_registration_undo_pending 1"), "{metrics}");
    }
    settles(&house).await;
    assert_eq!(house.database.texts(states).await, ["undone"]);
    assert!(house.dev_idp().registered().is_empty());
    assert_eq!(visitor.post_json("/auth/register", &wish("nina")).await.status, 201);
    let metrics =
        http().get(format!("{}/metrics", house.operations)).send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains(r#"doorward_registrations_total{provider="dev",outcome="rolled_back"} 1"#),
        "{metrics}"
    );
    register::resume(&house.app()).await.unwrap();
    assert_eq!(house.refusals("internal").await, 1);
}

async fn twenty_at_once(house: &TestHouse) {
    let all = futures_util::future::join_all((0..20).map(|_| {
        let visitor = house.browser();
        async move { visitor.post_json("/auth/register", &wish("nina")).await }
    }));
    let mut statuses: Vec<u16> = all.await.iter().map(|page| page.status).collect();
    statuses.sort_unstable();
    let mut expected = vec![409; 20];
    expected[0] = 201;
    assert_eq!(statuses, expected);
    assert_eq!(users(house).await, 1);
}

#[tokio::test]
async fn rg_06_twenty_at_once_make_one_user() {
    let house = unlimited().open().await;
    twenty_at_once(&house).await;
    assert_eq!(house.dev_idp().times_asked(Endpoint::DeleteUser), 0);
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let house = TestHouse::with(&registering(&realm)).set("LIMITS__REGISTER", "\"off\"").open().await;
    twenty_at_once(&house).await;
    realm.user_id("nina").await;
}

#[tokio::test]
async fn rg_07_only_listed_fields_pass() {
    let house = unlimited().set("REGISTRATION__ATTRIBUTES", r#"["plan"]"#).open().await;
    for extra in
        ["role", "roles", "emailVerified", "email_verified", "id", "userId", "tenantId", "org_id", "isActive"]
    {
        let mut nina = wish("nina");
        nina[extra] = json!(["admin"]);
        nina["attributes"] = json!({ extra: "admin" });
        let refused = house.browser().post_json("/auth/register", &nina).await;
        let mut named = faults(&refused);
        named.sort();
        let mut expected = vec![
            (format!("attributes.{extra}"), "unknown".to_owned()),
            (extra.to_owned(), "unknown".to_owned()),
        ];
        expected.sort();
        assert_eq!((refused.status, named), (422, expected));
    }
    assert_eq!(house.dev_idp().times_asked(Endpoint::CreateUser), 0);
}

#[tokio::test]
async fn rg_08_the_password_is_nowhere_in_the_database_in_mid_registration() {
    let house = unlimited().open().await;
    let gate = Arc::new(Notify::new());
    house.dev_idp().next_answer_is(Endpoint::CreateUser, Answer::Held(Arc::clone(&gate)));
    let visitor = house.browser();
    let mut nina = wish("nina");
    nina["password"] = "needle-in-the-haystack-9".into();
    let under_way = tokio::spawn(async move { visitor.post_json("/auth/register", &nina).await });
    let patience = Instant::now() + Duration::from_secs(10);
    while house.dev_idp().registered().is_empty() {
        assert!(Instant::now() < patience, "the call never arrived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let has = |dump: &[u8], text: &str| dump.windows(text.len()).any(|part| part == text.as_bytes());
    let dump = house.database.dump().await;
    assert!(has(&dump, "nina@new.example"), "the intent is there");
    assert!(!has(&dump, "needle-in"));
    gate.notify_one();
    assert_eq!(under_way.await.unwrap().status, 201);
    assert!(!has(&house.database.dump().await, "needle-in"));
}

#[tokio::test]
async fn rg_10_a_form_without_proof_of_its_origin_registers_nobody() {
    let house = unlimited().open().await;
    let body = "username=nina&email=nina%40new.example&password=long-enough-1";
    for headers in [
        &[][..],
        &[("x-csrf", "1")],
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[("sec-fetch-site", "cross-site")],
    ] {
        let mut request = http()
            .post(format!("{}/auth/register", house.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        assert_eq!(request.send().await.unwrap().status(), 403, "{headers:?}");
    }
    assert_eq!(house.dev_idp().times_asked(Endpoint::CreateUser), 0);
}
