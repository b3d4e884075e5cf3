//! A token that its provider honours is refused where our own memory says no: at the next request.

use std::time::Duration;

use doorward::domain::Status;
use doorward::store;
use serde_json::json;

use super::stage::{JWT, Stage, set};
use crate::house::databases::{Database, on_each_database};
use crate::house::op::Person;
use crate::refresh::{held, only_session, plain};
use crate::security::logout_tokens::tell;
use crate::security::{keep_time, signed_in, signed_in_as};

/// The operator's word against somebody.
pub async fn suspend(stage: &Stage, user: &str) {
    set_status(stage, user, Status::Suspended).await;
}

async fn set_status(stage: &Stage, user: &str, status: Status) {
    let app = stage.house.app();
    let mut writer = app.store.writer().await.unwrap();
    store::users::set_status(&mut writer, user, status, app.now_ms()).await.unwrap().expect("a user");
    writer.commit().await.unwrap();
}

async fn stage(db: &Database) -> Stage {
    let keys = "bearer = \"jwt\"\napi_audiences = [\"api\", \"doorward\"]\n";
    Stage::with(keys, |plan| plan.database(db)).await
}

/// The access token of alice's own login here, as an API client holds one.
async fn tied(stage: &Stage) -> (String, String) {
    signed_in(&stage.house).await;
    stage.house.rewrite("UPDATE sessions SET kind = 'api' WHERE revoked_at IS NULL").await;
    let ids = stage.house.database.texts("SELECT id FROM sessions WHERE revoked_at IS NULL").await;
    let id = ids.last().unwrap().clone();
    let token = plain(held(&stage.house, &id).await.access.as_ref());
    (id, token)
}

on_each_database! {
    async fn a_token_of_a_session_here_ends_with_it(db: Database) {
        let stage = stage(&db).await;
        let (id, token) = tied(&stage).await;
        stage.accepted("while the session lives", &token, "alice").await;
        let me = stage.bring("GET /auth/me", &token).await.json();
        assert_eq!((&me["session"]["id"], &me["user"]["id"]), (&json!(id), &json!("alice")));
        let app = stage.house.app();
        let mut writer = app.store.writer().await.unwrap();
        assert!(store::sessions::end(&mut writer, &id, app.now_ms()).await.unwrap());
        writer.commit().await.unwrap();
        stage.refused("after it", &token, "token_revoked").await;
        let (_, token) = tied(&stage).await;
        stage.accepted("another sign-in", &token, "alice").await;
    }

    async fn se_05_a_token_renewed_at_the_provider_does_not_outlive_our_memory_of_the_end(db: Database) {
        let stage = stage(&db).await;
        let sid = "goes-on-at-the-provider";
        stage.op.script(|s| s.sid = Some(sid.into()));
        let (id, _) = tied(&stage).await;
        let renewed = || stage.token(|claims| {
            set(claims, "sub", Some(json!("alice")));
            set(claims, "sid", Some(json!(sid)));
        });
        stage.accepted("while the session lives", &renewed(), "alice").await;
        let app = stage.house.app();
        let mut writer = app.store.writer().await.unwrap();
        assert!(store::sessions::end(&mut writer, &id, app.now_ms()).await.unwrap());
        writer.commit().await.unwrap();
        // The overall limit is a day here, and so is the longest life of a token.
        for _ in 0..2 {
            stage.house.clock.advance(Duration::from_mins(23 * 60 + 50));
            doorward::flows::sweep::run(&app).await.unwrap();
            stage.refused("renewed since", &renewed(), "token_revoked").await;
        }
        stage.house.clock.advance(Duration::from_hours(1));
        doorward::flows::sweep::run(&app).await.unwrap();
        assert!(stage.house.database.texts("SELECT id FROM sessions").await.is_empty(), "nothing stays for ever");
        // Somebody who signs in again, and keeps the provider's session, is welcome meanwhile.
        let (_, token) = tied(&stage).await;
        stage.accepted("another sign-in", &token, "alice").await;
    }

    async fn a_suspended_or_deleted_user_has_no_token_that_counts(db: Database) {
        let stage = stage(&db).await;
        let own = stage.token(|_| {});
        stage.accepted("bob, who never signed in", &own, "bob").await;
        suspend(&stage, "bob").await;
        stage.refused("suspended", &own, "token_revoked").await;
        set_status(&stage, "bob", Status::Active).await;
        stage.accepted("active again", &own, "bob").await;
        stage.house.rewrite("UPDATE users SET has_app_access = FALSE WHERE id = 'bob'").await;
        stage.refused("without access", &own, "token_revoked").await;
        stage.house.rewrite("UPDATE users SET has_app_access = TRUE, is_active = FALSE WHERE id = 'bob'").await;
        stage.refused("switched off by the provider", &own, "token_revoked").await;
        stage.house.rewrite("UPDATE users SET is_active = TRUE, deleted_at = 5 WHERE id = 'bob'").await;
        stage.refused("deleted", &own, "token_revoked").await;
        let (_, token) = tied(&stage).await;
        stage.accepted("alice, with a session", &token, "alice").await;
        suspend(&stage, "alice").await;
        stage.refused("with her sessions", &token, "token_revoked").await;
    }

    async fn a_providers_logout_ends_tokens_that_belong_to_no_session_here(db: Database) {
        let stage = stage(&db).await;
        let with_sid = |sid: &'static str| stage.token(|claims| set(claims, "sid", Some(json!(sid))));
        let (one, other, none) = (with_sid("s-1"), with_sid("s-2"), stage.token(|_| {}));
        for (case, token) in [("one", &one), ("other", &other), ("none", &none)] {
            stage.accepted(case, token, "bob").await;
        }
        assert_eq!(tell(&stage.house, &stage.op.logout_token(None, Some("s-1"), |_| {})).await, 200);
        stage.refused("the session that ended", &one, "token_revoked").await;
        stage.accepted("another session", &other, "bob").await;
        stage.accepted("no session", &none, "bob").await;
        // As long as any token may live, and not a quarter of an hour.
        stage.house.clock.advance(Duration::from_mins(20));
        doorward::flows::sweep::run(&stage.house.app()).await.unwrap();
        stage.refused("much later", &with_sid("s-1"), "token_revoked").await;
        let before = stage.token(|_| {});
        assert_eq!(tell(&stage.house, &stage.op.logout_token(Some("bob"), None, |_| {})).await, 200);
        stage.refused("issued before all of bob's sessions ended", &before, "token_revoked").await;
        stage.accepted("issued since", &stage.token(|_| {}), "bob").await;
    }
}

#[tokio::test]
async fn a_programs_use_keeps_its_own_session_alive_and_no_browsers() {
    let stage = Stage::with(JWT, |plan| plan.set("SESSION__IDLE", "\"2m\"")).await;
    stage.op.script(|s| {
        s.access_token_audience = "api".into();
        s.token_life_s = 3600;
    });
    let (_, token) = tied(&stage).await;
    for _ in 0..4 {
        stage.house.clock.advance(Duration::from_secs(100));
        stage.accepted("in use", &token, "alice").await;
    }
    stage.house.clock.advance(Duration::from_secs(125));
    stage.refused("left alone for too long", &token, "token_revoked").await;
    let browser = signed_in(&stage.house).await;
    let ids = stage.house.database.texts("SELECT id FROM sessions WHERE kind = 'browser'").await;
    let token = plain(held(&stage.house, &ids[0]).await.access.as_ref());
    for _ in 0..4 {
        stage.house.clock.advance(Duration::from_secs(40));
        stage.accepted("a program in the browser's session", &token, "alice").await;
        assert_eq!(stage.bring("GET /auth/me", &token).await.status, 200);
    }
    assert_eq!(browser.get_json("/auth/me").await.status, 401, "the browser was left alone");
}

#[tokio::test]
async fn id_09_a_required_claim_is_required_of_tokens_that_no_login_here_vouches_for() {
    let keys = format!("{JWT}required_claims = [\"app_access\"]\n");
    let stage = Stage::with(&keys, |plan| plan).await;
    stage.op.script(|s| s.access_token_audience = "api".into());
    let with = |value: Option<serde_json::Value>| stage.token(|claims| set(claims, "app_access", value));
    for (case, token) in [("no sid", with(None)), ("a sid", stage.token(|c| set(c, "sid", Some(json!("s")))))]
    {
        for line in ["GET /in/x", "POST /in/x", "GET /auth/me"] {
            let answer = stage.bring(line, &token).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("not_allowed")), "{case}");
            assert_eq!(answer.challenge.as_deref(), Some("Bearer error=\"insufficient_scope\""), "{case}");
        }
        assert_eq!(stage.bring("GET /pub/x", &token).await.status, 200, "nobody, {case}");
        assert_eq!(stage.app.last().one("x-auth-user"), None, "{case}");
        stage.app.forget();
    }
    assert!(stage.house.database.texts("SELECT id FROM users").await.is_empty(), "no row for her");
    assert_eq!(stage.house.refusals("not_allowed").await, 8);
    stage.accepted("with the claim", &with(Some(json!("yes"))), "bob").await;
    let answer = stage.bring("GET /in/x", &with(None)).await;
    assert_eq!(answer.status, 403, "a row of an earlier token vouches for none: {}", answer.whole);
    // The claim may stand in the ID token alone: the login saw it.
    signed_in_as(&stage.house, &stage.op, Person::named("alice").with("app_access", "yes")).await;
    let token = plain(held(&stage.house, &only_session(&stage.house).await).await.access.as_ref());
    stage.accepted("of a session here", &token, "alice").await;
}

#[tokio::test]
async fn a_token_of_somebody_elses_session_is_refused() {
    let stage = Stage::jwt().await;
    stage.op.script(|s| s.sid = Some("shared".into()));
    signed_in(&stage.house).await;
    let token = stage.token(|claims| set(claims, "sid", Some(json!("shared"))));
    stage.refused("bob's token, alice's session", &token, "token_revoked").await;
}

#[tokio::test]
async fn a_session_in_doubt_is_proven_at_the_provider() {
    let stage = Stage::with("bearer = \"jwt\"\napi_audiences = [\"doorward\"]\n", |plan| plan).await;
    keep_time(&stage.op, &stage.house);
    let (_, token) = tied(&stage).await;
    stage.house.rewrite("UPDATE sessions SET must_prove = TRUE").await;
    stage.op.clear();
    stage.accepted("honoured by the provider", &token, "alice").await;
    assert_eq!(stage.op.count("/userinfo"), 1);
    stage.op.revoke_all_grants();
    stage.refused("not honoured any more", &token, "token_revoked").await;
    stage.op.stop().await;
    assert_eq!(stage.bring("GET /in/x", &token).await.status, 503, "nobody can tell");
}

#[tokio::test]
async fn the_newer_word_on_roles_counts() {
    let stage = Stage::jwt().await;
    let person = Person::named("bob").with("roles", vec!["admin"]);
    let earlier = stage.token(|_| {});
    stage.house.clock.advance(Duration::from_secs(5));
    signed_in_as(&stage.house, &stage.op, person).await;
    assert_eq!(
        stage.bring("GET /admins/x", &earlier).await.status,
        200,
        "older than the login: the row's roles count"
    );
    stage.house.clock.advance(Duration::from_secs(5));
    let later = stage.token(|_| {});
    assert_eq!(stage.bring("GET /admins/x", &later).await.status, 403, "not an admin any more");
    let silent = stage.token(|claims| set(claims, "roles", None));
    assert_eq!(
        stage.bring("GET /admins/x", &silent).await.status,
        200,
        "a token that says nothing takes nothing"
    );
    let roles = stage.house.database.texts("SELECT roles FROM users WHERE id = 'bob'").await;
    assert_eq!(roles, ["[\"admin\"]"], "a token rewrites nobody");
    stage.house.rewrite("UPDATE users SET local_roles = '[\"admin\"]'").await;
    assert_eq!(
        stage.bring("GET /admins/x", &later).await.status,
        200,
        "the operator's own roles always count"
    );
    let _ = only_session(&stage.house).await;
}
