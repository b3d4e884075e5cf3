//! `POST /auth/refresh`: who holds the refresh token holds the session.

use std::time::Duration;

use serde_json::{Value, json};

use super::{held, keycloak_provider, only_session, plain, signed_in_at};
use crate::house::browser::Page;
use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;
use crate::house::op::{Answer, Gate, ScriptedOp};
use crate::house::servers::keycloak::{self, RealmSpec};
use crate::security::{events, keep_time, signed_in};

/// A session of an API client: its handle and its refresh token.
pub async fn client(house: &TestHouse) -> (String, String) {
    signed_in(house).await;
    made_a_client(house).await
}

async fn made_a_client(house: &TestHouse) -> (String, String) {
    house.rewrite("UPDATE sessions SET kind = 'api'").await;
    let id = only_session(house).await;
    let token = plain(held(house, &id).await.refresh.as_ref());
    (id, token)
}

async fn refresh(house: &TestHouse, id: &str, token: &str) -> Page {
    house.browser().post_json("/auth/refresh", &json!({ "refreshToken": token, "sessionId": id })).await
}

fn token(page: &Page, name: &str) -> String {
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()["tokens"][name].as_str().unwrap_or_else(|| panic!("no {name}: {}", page.text())).to_owned()
}

fn assert_ended(page: &Page, case: &str) {
    assert_eq!(page.status, 401, "{case}: {}", page.text());
    assert_eq!(page.json()["code"], "session_ended", "{case}");
    assert_eq!(page.header("www-authenticate"), Some("Bearer"), "{case}");
    assert!(page.set_cookies().is_empty(), "{case}");
}

on_each_database! {
    async fn a_client_gets_new_tokens_for_its_refresh_token(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let (id, first) = client(&house).await;
        let page = refresh(&house, &id, &first).await;
        let members: Vec<String> = page.json()["tokens"].as_object().unwrap().keys().cloned().collect();
        let mut named =
            ["access_token", "refresh_token", "id_token", "token_type", "expires_in", "refresh_expires_in", "scope"];
        named.sort_unstable();
        assert_eq!(members, named);
        assert_eq!(page.json()["tokens"]["token_type"], "Bearer");
        assert!(page.json()["tokens"]["expires_in"].as_i64().is_some_and(|s| (298..=300).contains(&s)));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let second = token(&page, "refresh_token");
        assert_ne!(first, second);
        assert_eq!(plain(held(&house, &id).await.refresh.as_ref()), second);
        let third = token(&refresh(&house, &id, &second).await, "refresh_token");
        assert_ne!(second, third);
        assert_eq!(op.count("/token"), 3, "the login's and two more");
        assert_eq!(events(&house, "session.ended").await, 0);
    }

    async fn rt_01_a_clients_parallel_requests_on_two_replicas_cost_one_call(db: Database) {
        let op = ScriptedOp::start().await;
        let one = TestHouse::with_op(&op).database(&db).open().await;
        let two = TestHouse::with_op(&op).database(&db).clock(&one.clock).folder(&one.folder).open().await;
        let (id, first) = client(&one).await;
        let calls = (0..20).map(|n| refresh(if n % 2 == 0 { &one } else { &two }, &id, &first));
        let pages = futures_util::future::join_all(calls).await;
        let fresh: std::collections::BTreeSet<String> =
            pages.iter().map(|page| token(page, "refresh_token")).collect();
        assert_eq!(fresh.len(), 1, "everybody gets the same answer");
        assert_eq!(op.count("/token"), 2);
    }

    async fn the_token_before_gets_the_same_answer_for_ten_seconds_and_then_ends_the_session(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let (id, first) = client(&house).await;
        let answer = refresh(&house, &id, &first).await;
        let second = token(&answer, "refresh_token");
        house.clock.advance(Duration::from_secs(8));
        let again = refresh(&house, &id, &first).await;
        for name in ["access_token", "refresh_token", "id_token"] {
            assert_eq!(token(&again, name), token(&answer, name));
        }
        assert!(again.json()["tokens"]["expires_in"].as_i64() < answer.json()["tokens"]["expires_in"].as_i64());
        assert_eq!(op.count("/token"), 2, "the provider is not asked again");
        house.clock.advance(Duration::from_secs(3));
        let reused = refresh(&house, &id, &first).await;
        assert_eq!((reused.status, reused.json()["code"].as_str()), (401, Some("refresh_token_reused")));
        assert_eq!(op.count("/token"), 2);
        assert_eq!(house.live_sessions().await, 0);
        assert_eq!(events(&house, "session.ended").await, 1);
        assert_eq!(house.refusals("refresh_token_reused").await, 1);
        assert_ended(&refresh(&house, &id, &first).await, "the thief");
        assert_ended(&refresh(&house, &id, &second).await, "the owner, who has to sign in again");
    }

    async fn a_client_of_keycloak_refreshes_until_the_administrator_ends_its_session(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let house = TestHouse::with(&keycloak_provider(&realm)).database(&db).open().await;
        signed_in_at(&realm, &house, "bob").await;
        let (id, first) = made_a_client(&house).await;
        let page = refresh(&house, &id, &first).await;
        assert!(page.json()["tokens"]["refresh_expires_in"].as_i64().is_some_and(|s| s > 1_000));
        let second = token(&page, "refresh_token");
        realm.logout_user("bob").await;
        assert_ended(&refresh(&house, &id, &second).await, "refused by the provider");
        assert_eq!(events(&house, "session.ended").await, 1);
    }
}

#[tokio::test]
async fn whatever_is_no_clients_own_token_looks_alike_and_the_provider_is_not_asked() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let (id, first) = client(&house).await;
    let holder = signed_in(&house).await;
    let own = holder.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned();
    let browsers = plain(held(&house, &own).await.refresh.as_ref());
    op.clear();
    let mut almost = first.clone();
    almost.pop();
    for (case, id, token) in [
        ("a wrong token", id.as_str(), "wrong"),
        ("no token", &id, ""),
        ("almost the token", &id, &almost),
        ("the token and more", &id, &format!("{first} ")),
        ("an unknown session", "unknown", &first),
        ("no session", "", &first),
        ("a hostile handle", "' OR 1=1 --", &first),
        ("a handle with a NUL", "\0", &first),
        ("a browser's session", &own, &browsers),
        ("another's session", &own, &first),
    ] {
        let page = refresh(&house, id, token).await;
        assert_ended(&page, case);
        assert_eq!(page.json()["detail"], refresh(&house, "x", "y").await.json()["detail"], "{case}");
    }
    assert_eq!(op.count("/token"), 0);
    assert_eq!(house.live_sessions().await, 2);
    assert!(house.refusals("session_ended").await >= 10);
    token(&refresh(&house, &id, &first).await, "access_token");
    house.clock.advance(Duration::from_hours(2));
    assert_ended(&refresh(&house, &id, &first).await, "an idle session");
}

#[tokio::test]
async fn a_refresh_reads_json_alone_and_no_cookie() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let (id, first) = client(&house).await;
    let body = json!({ "refreshToken": first, "sessionId": id });
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data", ""]
    {
        let page = house.browser().with_header("content-type", kind).post_json("/auth/refresh", &body).await;
        assert_eq!((page.status, page.json()["code"].as_str()), (400, Some("invalid_request")), "{kind}");
    }
    for odd in [
        json!({}),
        json!([]),
        json!({ "refreshToken": first }),
        json!({ "sessionId": id }),
        json!({ "refreshToken": [first], "sessionId": id }),
        json!({ "refreshToken": null, "sessionId": id }),
        json!({ "refresh_token": first, "session_id": id }),
        Value::String(first.clone()),
    ] {
        let page = house.browser().post_json("/auth/refresh", &odd).await;
        assert_eq!(page.status, 400, "{odd}");
        assert!(!page.text().contains(&first));
    }
    let evil = house
        .browser()
        .with_header("origin", "https://evil.example")
        .with_header("sec-fetch-site", "cross-site");
    assert_eq!(evil.post_json("/auth/refresh", &body).await.status, 403);
    assert_eq!(house.browser().get("/auth/refresh").await.status, 405);
    assert_eq!(op.count("/token"), 1, "nobody was asked so far");
    // A cookie beside it is neither read nor taken away.
    let browser = house.browser();
    browser.set_cookie("doorward", "odd");
    let page = browser
        .with_header("content-type", "application/json; charset=utf-8")
        .post_json("/auth/refresh", &body)
        .await;
    token(&page, "access_token");
    assert!(page.set_cookies().is_empty());
    assert_eq!(browser.cookie("doorward").as_deref(), Some("odd"));
}

#[tokio::test]
async fn while_the_provider_gives_no_tokens_a_client_is_told_to_come_back_and_keeps_its_session() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let (id, first) = client(&house).await;
    op.script(|s| s.answer("/token", Answer::error(401, "invalid_client")));
    let page = refresh(&house, &id, &first).await;
    assert_eq!((page.status, page.json()["code"].as_str()), (503, Some("provider_unavailable")));
    assert!(page.header("retry-after").is_some());
    assert_eq!(op.count("/token"), 2);
    assert_eq!(refresh(&house, &id, &first).await.status, 503);
    assert_eq!(op.count("/token"), 2, "the session pauses");
    op.script(|s| s.answer("/token", Answer::Normal));
    house.clock.advance(Duration::from_secs(1));
    token(&refresh(&house, &id, &first).await, "access_token");
}

#[tokio::test]
async fn a_provider_that_does_not_rotate_is_asked_once_in_ten_seconds() {
    let op = ScriptedOp::start().await;
    op.script(|s| s.rotate_refresh = false);
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let (id, first) = client(&house).await;
    let answer = token(&refresh(&house, &id, &first).await, "access_token");
    assert_eq!(token(&refresh(&house, &id, &first).await, "access_token"), answer);
    assert_eq!(op.count("/token"), 2);
    house.clock.advance(Duration::from_secs(11));
    let next = refresh(&house, &id, &first).await;
    assert_ne!(token(&next, "access_token"), answer);
    assert_eq!(token(&next, "refresh_token"), first);
}

#[tokio::test]
async fn a_client_that_hangs_up_gets_the_answer_when_it_asks_again() {
    let op = ScriptedOp::start().await;
    let db = Database::sqlite();
    let house = TestHouse::with_op(&op).database(&db).open().await;
    let (id, first) = client(&house).await;
    let gate = Gate::closed();
    op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
    let browser = house.browser();
    let body = json!({ "refreshToken": first, "sessionId": id });
    let asking = tokio::spawn(async move { browser.post_json("/auth/refresh", &body).await.status });
    gate.arrived(1).await;
    asking.abort();
    let _ = asking.await;
    gate.open();
    token(&refresh(&house, &id, &first).await, "access_token");
    assert_eq!(op.count("/token"), 2);
}
