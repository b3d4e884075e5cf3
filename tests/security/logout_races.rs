//! A logout and a login of one session at the same time (LO-10): whatever the order, no session is left.

use std::time::Duration;

use super::logout_tokens::{stage, tell};
use super::stage::Stage;
use super::{is_signed_in, signed_in, signed_in_as};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Gate, Person, ScriptedOp, mint};

/// A login whose code is being exchanged while the provider says that its session is over.
async fn races(stage: &Stage, token: impl Fn(&str) -> String) -> u16 {
    let gate = Gate::closed();
    let sid = mint::random_text();
    stage.op.script(|s| {
        s.sid = Some(sid.clone());
        s.hold_answer.insert("/token".into(), gate.clone());
    });
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
    let finishing = tokio::spawn(async move { browser.click("/", &callback).await });
    gate.arrived(1).await;
    assert_eq!(tell(&stage.house, &token(&sid)).await, 200);
    gate.open();
    let status = finishing.await.unwrap().status;
    stage.op.script(|s| {
        s.hold_answer.clear();
        s.sid = None;
    });
    status
}

#[tokio::test]
async fn lo_10_a_logout_that_comes_while_its_login_is_finished_wins() {
    let stage = stage().await;
    assert_eq!(races(&stage, |sid| stage.op.logout_token(None, Some(sid), |_| {})).await, 400);
    assert_eq!(stage.house.live_sessions().await, 0);
    stage.house.clock.advance(Duration::from_secs(1));
    assert_eq!(races(&stage, |_| stage.op.logout_token(Some("alice"), None, |_| {})).await, 400);
    assert_eq!(stage.house.live_sessions().await, 0);
    assert_eq!(stage.house.refusals("logged_out_meanwhile").await, 2);
    // Somebody else's logout, and a later login, are not concerned.
    assert_eq!(races(&stage, |_| stage.op.logout_token(Some("bob"), None, |_| {})).await, 303);
    assert_eq!(stage.house.live_sessions().await, 1);
    stage.house.clock.advance(Duration::from_secs(1));
    assert_eq!(tell(&stage.house, &stage.op.logout_token(Some("alice"), None, |_| {})).await, 200);
    stage.house.clock.advance(Duration::from_secs(1));
    assert!(is_signed_in(&signed_in(&stage.house).await).await);
}

#[tokio::test]
async fn lo_10_login_and_logout_at_the_same_instant_leave_no_session_on_postgresql() {
    let op = ScriptedOp::start().await;
    let database = crate::house::databases::Database::postgres().await;
    let plan = TestHouse::with_op(&op).database(&database).set("LIMITS__BAD_LOGOUT_TOKENS", "\"off\"");
    let stage = Stage::of(op, plan).await;
    for round in 0..20 {
        let sid = format!("round-{round}");
        let gate = Gate::closed();
        stage.op.script(|s| {
            s.sid = Some(sid.clone());
            s.hold_answer.insert("/token".into(), gate.clone());
        });
        let browser = stage.browser();
        let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
        let finishing = tokio::spawn(async move { browser.click("/", &callback).await });
        gate.arrived(1).await;
        gate.open();
        let token = stage.op.logout_token(Some("alice"), Some(&sid), |_| {});
        assert_eq!(tell(&stage.house, &token).await, 200);
        finishing.await.unwrap();
        assert_eq!(stage.house.live_sessions().await, 0, "round {round}: the login won");
    }
}

#[tokio::test]
async fn lo_10_keycloaks_partial_word_puts_the_persons_other_sessions_and_logins_in_doubt() {
    let op = ScriptedOp::start().await;
    let provider = op_provider("op", &op).replace("kind = \"oidc\"", "kind = \"keycloak\"");
    let stage = Stage::of(op, TestHouse::with(&provider)).await;
    signed_in(&stage.house).await;
    signed_in(&stage.house).await;
    signed_in_as(&stage.house, &stage.op, Person::named("bob")).await;
    stage.op.script(|s| s.person = Person::named("alice"));
    let first = stage.op.sids().remove(0);
    assert_eq!(races(&stage, |_| stage.op.logout_token(Some("alice"), Some(&first), |_| {})).await, 303);
    let doubted =
        "SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND must_prove AND user_id = 'alice'";
    assert_eq!(stage.house.database.number(doubted).await, 2, "the other one, and the one being made");
    assert_eq!(stage.house.database.number("SELECT count(*) FROM sessions WHERE must_prove").await, 2);
    assert_eq!(stage.house.live_sessions().await, 3);
}
