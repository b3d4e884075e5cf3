//! Re-authentication that was asked for must be proven by the token, or it did not happen.

use serde_json::json;

use super::assert_rejected;
use super::stage::{Stage, honest, set};
use crate::house::op::Script;

impl Stage {
    async fn steps_up(&self, login: &str, reason: Option<&str>, habit: impl FnOnce(&mut Script)) {
        eprintln!("case: {login} must end in {reason:?}");
        self.op.script(|s| {
            honest(s);
            habit(s);
        });
        let browser = self.browser();
        let page = browser.sign_in(&format!("{login}&return_to=/protected")).await;
        if let Some(reason) = reason {
            assert_rejected(&self.house, &page, reason).await;
            assert_eq!(browser.navigate("/protected").await.status, 303);
        } else {
            assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
            browser.post_form("/auth/logout", &[]).await;
        }
    }
}

#[tokio::test]
async fn ar_18_a_max_age_that_the_provider_ignores_is_a_refusal() {
    let stage = Stage::open().await;
    let now = stage.now_s();
    for login in ["/auth/login?max_age=600", "/auth/login?max_age=0", "/auth/login?prompt=login"] {
        stage.steps_up(login, None, |_| {}).await;
        let week = move |s: &mut Script| s.auth_time = Some(now - 7 * 24 * 3600);
        stage.steps_up(login, Some("id_token_auth_time"), week).await;
        let missing = |s: &mut Script| s.claims(|c| set(c, "auth_time", None));
        stage.steps_up(login, Some("id_token_auth_time"), missing).await;
        for odd in [json!("now"), json!(null), json!(true), json!([now]), json!(-5)] {
            let odd = move |s: &mut Script| s.claims(move |c| set(c, "auth_time", Some(&odd)));
            stage.steps_up(login, Some("id_token_time"), odd).await;
        }
    }
    let sent = stage.op.requests_to("/authorize");
    assert_eq!(sent.first().unwrap().query("max_age").unwrap(), "600");
    let last = sent.last().unwrap();
    assert_eq!((last.query("prompt").unwrap(), last.query("max_age").unwrap()), ("login".into(), "0".into()));
}

#[tokio::test]
async fn ar_18_a_max_age_is_kept_within_the_clock_skew() {
    let stage = Stage::open().await;
    for (ago, reason) in [(655, None), (665, Some("id_token_auth_time"))] {
        let then = stage.now_s() - ago;
        stage.steps_up("/auth/login?max_age=600", reason, move |s| s.auth_time = Some(then)).await;
    }
    let strict = Stage::with("default_max_age = \"300s\"").await;
    let then = strict.now_s() - 400;
    strict.steps_up("/auth/login?x=1", Some("id_token_auth_time"), move |s| s.auth_time = Some(then)).await;
    strict.steps_up("/auth/login?x=1", None, |_| {}).await;
}

#[tokio::test]
async fn ar_18_an_acr_that_was_asked_must_be_there() {
    let stage = Stage::open().await;
    let login = "/auth/login?acr_values=gold%20silver";
    stage.steps_up(login, None, |_| {}).await;
    stage.steps_up(login, None, |s| s.claims(|c| set(c, "acr", Some(&json!("silver"))))).await;
    for acr in [
        None,
        Some(json!("bronze")),
        Some(json!("GOLD")),
        Some(json!("gold silver")),
        Some(json!(["gold"])),
        Some(json!(1)),
        Some(json!(null)),
        Some(json!("")),
    ] {
        let habit = move |s: &mut Script| s.claims(move |c| set(c, "acr", acr.as_ref()));
        stage.steps_up(login, Some("id_token_acr"), habit).await;
    }
    let sent = stage.op.requests_to("/authorize");
    assert_eq!(sent.first().unwrap().query("acr_values").unwrap(), "gold silver");
}

#[tokio::test]
async fn ar_18_a_step_up_that_fails_leaves_the_session_as_it_was() {
    let stage = Stage::open().await;
    let (browser, page) = stage.tries().await;
    assert_eq!(page.status, 200);
    let before = browser.get_json("/auth/me").await.json()["session"]["id"].clone();
    stage.op.script(|s| s.claims(|c| set(c, "acr", Some(&json!("bronze")))));
    let page = browser.sign_in("/auth/login?acr_values=gold").await;
    assert_eq!(page.status, 400, "{}", page.text());
    assert_eq!(stage.house.refusals("id_token_acr").await, 1);
    let me = browser.get_json("/auth/me").await.json();
    assert_eq!((&me["session"]["id"], &me["session"]["acr"]), (&before, &json!(null)));
    stage.op.script(honest);
    assert_eq!(browser.sign_in("/auth/login?acr_values=gold").await.status, 200);
    let me = browser.get_json("/auth/me").await.json();
    assert!(me["session"]["acr"] == "gold" && me["session"]["id"] != before, "{me}");
    assert_eq!(stage.house.live_sessions().await, 1, "the old session ended");
}
