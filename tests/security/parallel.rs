//! Many at once: tabs of one browser, replicas of one house, logins in the moment of a key change.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::assert_rejected;
use super::stage::{Stage, attempts, with_params};
use crate::house::browser::Browser;
use crate::house::databases::Database;
use crate::house::home::{TestHouse, free_port, op_provider};
use crate::house::op::{Gate, ScriptedOp};

/// Two replicas on one PostgreSQL with one key and one public address.
async fn replicas(op: &ScriptedOp, db: &Database) -> (TestHouse, TestHouse) {
    let (port, text) = (free_port(), op_provider("op", op));
    let origin = format!("\"http://localhost:{port}\"");
    let plan = || TestHouse::with(&text).database(db).set("SERVER__PUBLIC_URL", &origin);
    let first = plan().set("SERVER__LISTEN", &format!("\"127.0.0.1:{port}\"")).open().await;
    let second = plan().folder(&first.folder).clock(&first.clock).open().await;
    (first, second)
}

/// The same person in front of another replica: same address, same cookies, other wire.
fn at_replica(browser: &Browser, house: &TestHouse, replica: &TestHouse) -> Browser {
    let other = Browser::behind_tls(&house.url, replica.address);
    browser.cookies().iter().for_each(|cookie| other.set_cookie(&cookie.name, &cookie.value));
    other
}

#[tokio::test]
async fn ar_03_a_state_is_used_once_whatever_races() {
    let (op, db) = (ScriptedOp::start().await, Database::postgres().await);
    let (first, second) = replicas(&op, &db).await;
    let browser = Browser::behind_tls(&first.url, first.address);
    let start = browser.navigate("/auth/login?return_to=/protected").await;
    let callback = browser.follow(start, 1).await.location().unwrap().to_string();
    // Five callbacks at each replica in the same instant; the winner's code exchange waits at a door.
    let gate = Gate::closed();
    op.script(|s| s.hold_before.insert("/token".into(), gate.clone()));
    let visits = (0..10).map(|n| {
        let visitor = at_replica(&browser, &first, if n % 2 == 0 { &first } else { &second });
        let (callback, issuer) = (callback.clone(), op.issuer());
        async move { (visitor.click(&issuer, &callback).await.status, visitor) }
    });
    let opening = async {
        gate.arrived(1).await;
        // The other nine are refused while the winner is still under way.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while first.refusals("login_expired").await < 9 {
            assert!(std::time::Instant::now() < deadline, "not all of the others were refused");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(first.live_sessions().await, 0);
        gate.open();
    };
    let (ends, ()) = tokio::join!(join_all(visits), opening);
    let winners: Vec<_> = ends.iter().filter(|(status, _)| *status == 303).collect();
    let losers = ends.iter().filter(|(status, _)| *status == 400).count();
    assert_eq!((winners.len(), losers), (1, 9));
    assert_eq!((op.count("/token"), first.live_sessions().await), (1, 1));
    assert_eq!(winners[0].1.navigate("/protected").await.status, 200);
}

#[tokio::test]
async fn ar_03_a_state_used_at_one_replica_is_used_at_the_other() {
    let (op, db) = (ScriptedOp::start().await, Database::postgres().await);
    let (first, second) = replicas(&op, &db).await;
    let browser = Browser::behind_tls(&first.url, first.address);
    let start = browser.navigate("/auth/login").await;
    let callback = browser.follow(start, 1).await.location().unwrap().to_string();
    let thief = at_replica(&browser, &first, &second);
    // A login that fails at the provider has used its state up as well.
    op.script(|s| s.next("/token", crate::house::op::Answer::error(400, "invalid_grant")));
    assert_rejected(&first, &browser.click(&op.issuer(), &callback).await, "code_refused").await;
    assert_rejected(&second, &thief.click(&op.issuer(), &callback).await, "login_expired").await;
    assert_eq!(op.count("/token"), 1);
    // An attempt begun at one replica may end at the other.
    let browser = Browser::behind_tls(&first.url, first.address);
    let start = browser.navigate("/auth/login").await;
    let callback = browser.follow(start, 1).await.location().unwrap().to_string();
    assert_eq!(at_replica(&browser, &first, &second).click(&op.issuer(), &callback).await.status, 303);
}

#[tokio::test]
async fn ar_13_tabs_finish_in_any_order_and_beyond_the_limit_the_oldest_goes() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let mut tabs = Vec::new();
    for n in 0..5 {
        stage.house.clock.advance(Duration::from_millis(5));
        tabs.push(
            stage
                .callback_of(&browser, &format!("/auth/login?return_to=/?tab={n}&prompt=select_account"))
                .await,
        );
    }
    assert_eq!(attempts(&browser).len(), 5);
    for (n, callback) in tabs.iter().enumerate().rev() {
        let page = browser.click(&stage.op.issuer(), callback).await;
        assert_eq!((page.status, page.header("location")), (303, Some(format!("/?tab={n}").as_str())));
    }
    assert_eq!(stage.house.live_sessions().await, 1, "the newest login is the browser's one session");
    assert_eq!(browser.navigate("/protected").await.status, 200);
    browser.post_form("/auth/logout", &[]).await;

    let mut tabs = Vec::new();
    for _ in 0..6 {
        stage.house.clock.advance(Duration::from_millis(5));
        tabs.push(stage.callback_of(&browser, "/auth/login").await);
    }
    assert_eq!(attempts(&browser).len(), 5, "five attempts at most");
    assert_rejected(&stage.house, &browser.click(&stage.op.issuer(), &tabs[0]).await, "login_expired").await;
    for callback in &tabs[1..] {
        assert_eq!(browser.click(&stage.op.issuer(), callback).await.status, 303);
    }
}

#[tokio::test]
async fn ar_13_five_tabs_restored_at_once_all_arrive() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let tabs = (0..5).map(|n| {
        let browser = browser.clone();
        async move {
            let asked = browser.navigate(&format!("/protected?tab={n}")).await;
            browser.follow(asked, 10).await
        }
    });
    for (n, page) in join_all(tabs).await.into_iter().enumerate() {
        assert_eq!(
            (page.status, page.url.path(), page.url.query()),
            (200, "/protected", Some(format!("tab={n}").as_str()))
        );
    }
    assert_eq!(browser.navigate("/protected").await.status, 200);
    assert!(attempts(&browser).is_empty(), "{:?}", browser.cookies());
}

#[tokio::test]
async fn ar_13_one_tab_that_fails_does_not_disturb_the_others() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let bad = stage.callback_of(&browser, "/auth/login").await;
    let good = stage.callback_of(&browser, "/auth/login").await;
    let page =
        browser.click(&stage.op.issuer(), &with_params(&bad, &[("iss", Some("https://evil.example"))])).await;
    assert_rejected(&stage.house, &page, "callback_iss").await;
    assert_eq!(browser.click(&stage.op.issuer(), &good).await.status, 303);
}

#[tokio::test]
async fn tk_16_a_new_key_is_found_at_the_first_try_by_one_fetch_for_all() {
    let stage = Arc::new(Stage::open().await);
    stage.accepted("the old key").await;
    assert_eq!(stage.op.count("/jwks"), 1);
    stage.op.script(crate::house::op::Script::rotate_key);
    let gate = Gate::closed();
    stage.op.script(|s| s.hold_before.insert("/jwks".into(), gate.clone()));
    let logins = (0..8).map(|_| {
        let stage = Arc::clone(&stage);
        async move { stage.tries().await.1 }
    });
    let opening = async {
        gate.arrived(1).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while stage.op.count("/token") < 9 {
            assert!(std::time::Instant::now() < deadline, "the others do not get as far");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        gate.open();
    };
    let (pages, ()) = tokio::join!(join_all(logins), opening);
    for page in pages {
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
    }
    assert_eq!(stage.op.count("/jwks"), 2, "eight logins shared one fetch");
}
