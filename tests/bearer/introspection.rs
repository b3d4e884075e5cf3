//! Tokens that only their provider can judge (RFC 7662).

use std::time::Duration;

use doorward::domain::Clock as _;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::stage::{INTROSPECTION, Stage, set};
use crate::house::home::op_provider;
use crate::house::op::{Answer, Gate, ScriptedOp};
use crate::security::signed_in;

const ASKED: &str = "/introspect";

async fn stage() -> Stage {
    Stage::with(INTROSPECTION, |plan| plan).await
}

impl Stage {
    /// What the provider says of any token, after a change.
    fn says(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let mut said = json!({
            "active": true, "iss": self.op.issuer(), "sub": "bob", "aud": "api", "client_id": "robot",
            "token_type": "Bearer", "scope": "read", "iat": self.now_s(), "exp": self.now_s() + 300,
            "roles": ["user"],
        });
        change(said.as_object_mut().unwrap());
        self.op.script(|s| s.answer(ASKED, Answer::json(200, &said)));
    }
}

#[tokio::test]
async fn the_provider_is_asked_once_and_its_word_believed_for_a_short_while() {
    let stage = stage().await;
    stage.says(|_| {});
    for _ in 0..3 {
        stage.accepted("an opaque token", "opaque-1", "bob").await;
    }
    let asked = stage.op.requests_to(ASKED);
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].method.as_str(), asked[0].query.as_str()), ("POST", ""), "never in an address");
    assert_eq!(asked[0].form("token").as_deref(), Some("opaque-1"));
    assert_eq!(asked[0].form("token_type_hint").as_deref(), Some("access_token"));
    assert!(asked[0].header("authorization").is_some_and(|proof| proof.starts_with("Basic ")));
    stage.house.clock.advance(Duration::from_secs(29));
    stage.accepted("still believed", "opaque-1", "bob").await;
    assert_eq!(stage.op.count(ASKED), 1);
    stage.says(|said| set(said, "active", Some(json!(false))));
    stage.house.clock.advance(Duration::from_secs(2));
    stage.refused("revoked at the provider", "opaque-1", "access_token_inactive").await;
    assert_eq!(stage.op.count(ASKED), 2, "a refusal is believed for a moment too");
    stage.says(|_| {});
    stage.house.clock.advance(Duration::from_secs(11));
    stage.accepted("known again", "opaque-1", "bob").await;
    stage.accepted("another token", "opaque-2", "bob").await;
    assert_eq!(stage.op.count(ASKED), 4);
}

#[tokio::test]
async fn no_word_is_believed_past_the_tokens_end_and_a_local_end_waits_for_nothing() {
    let stage = stage().await;
    let exp = stage.now_s() + 10;
    stage.says(|said| set(said, "exp", Some(json!(exp))));
    stage.accepted("ten seconds left", "opaque", "bob").await;
    stage.says(|said| set(said, "active", Some(json!(false))));
    stage.house.clock.advance(Duration::from_secs(11));
    stage.refused("asked again at its end", "opaque", "access_token_inactive").await;
    stage.says(|_| {});
    stage.accepted("a new one", "opaque-2", "bob").await;
    super::local::suspend(&stage, "bob").await;
    stage.refused("suspended here, with a word at hand", "opaque-2", "token_revoked").await;
}

#[tokio::test]
async fn a_crowd_with_one_token_costs_one_call() {
    let stage = stage().await;
    stage.says(|_| {});
    let gate = Gate::closed();
    stage.op.script(|s| s.hold_before.insert(ASKED.into(), gate.clone()));
    let crowd = join_all((0..30).map(|_| stage.bring("GET /in/x", "opaque")));
    let opener = async {
        gate.arrived(1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(crowd, opener);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((stage.op.count(ASKED), gate.count()), (1, 1));
    assert_eq!(crate::security::events(&stage.house, "user.created").await, 1);
}

#[tokio::test]
async fn px_11_a_provider_that_cannot_be_asked_lets_nobody_in_and_is_asked_again() {
    let stage = stage().await;
    let garbage = Answer::text(200, "application/json", "{\"active\": tru");
    let html = Answer::text(200, "text/html", "<h1>hello</h1>");
    for (case, answer, status) in [
        ("500", Answer::Status(500, "text/plain", Vec::new()), 503),
        ("404", Answer::Status(404, "text/plain", Vec::new()), 503),
        ("no answer", Answer::Close, 503),
        ("broken JSON", garbage, 503),
        ("a page", html, 503),
        ("twice active", Answer::text(200, "application/json", "{\"active\":false,\"active\":true}"), 503),
        ("elsewhere", Answer::Redirect(302, stage.op.url("/evil")), 503),
        ("a bad client", Answer::error(401, "invalid_client"), 502),
        ("a bad client in other words", Answer::error(400, "invalid_client"), 502),
        ("a token that it will not look at", Answer::error(400, "unsupported_token_type"), 401),
        (
            "huge",
            Answer::text(
                200,
                "application/json",
                &format!("{{\"active\":true,\"x\":\"{}\"}}", "x".repeat(70_000)),
            ),
            503,
        ),
    ] {
        eprintln!("case: {case}");
        stage.house.clock.advance(Duration::from_secs(20));
        stage.op.script(|s| s.answer(ASKED, answer));
        let refused = stage.bring("GET /in/x", "opaque").await;
        assert_eq!(refused.status, status, "{case}: {}", refused.whole);
        stage.app.assert_silent(case);
        stage.house.clock.advance(Duration::from_secs(20));
        stage.says(|_| {});
        stage.accepted(case, &format!("after-{}", case.replace(' ', "-")), "bob").await;
        stage.accepted(case, "opaque", "bob").await;
        stage.house.clock.advance(Duration::from_secs(31));
        stage.app.forget();
    }
}

#[tokio::test]
async fn tk_10_only_an_active_access_token_for_us_counts() {
    let stage = stage().await;
    let inactive = "access_token_inactive";
    let now = stage.now_s();
    let cases: Vec<(&str, Option<Value>, &str)> = vec![
        ("active", None, inactive),
        ("active", Some(json!("true")), inactive),
        ("active", Some(json!(1)), inactive),
        ("active", Some(json!(false)), inactive),
        ("token_type", None, "access_token_type"),
        ("token_type", Some(json!("Refresh")), "access_token_type"),
        ("token_type", Some(json!("DPoP")), "access_token_type"),
        ("token_type", Some(json!(["Bearer"])), "access_token_type"),
        ("typ", Some(json!("ID")), "access_token_type"),
        ("typ", Some(json!("Refresh")), "access_token_type"),
        ("cnf", Some(json!({"jkt": "x"})), "access_token_bound"),
        ("iss", Some(json!("https://id.example")), "access_token_iss"),
        ("aud", Some(json!("other-api")), "access_token_aud"),
        ("aud", None, "access_token_aud"),
        ("sub", None, "access_token_sub"),
        ("exp", Some(json!("soon")), "access_token_time"),
        ("exp", Some(json!(now - 100)), "access_token_expired"),
        ("nbf", Some(json!(now + 10_000)), "access_token_nbf"),
    ];
    for (n, (name, value, reason)) in cases.into_iter().enumerate() {
        let case = format!("{name} = {value:?}");
        stage.says(|said| set(said, name, value));
        stage.refused(&case, &format!("refused-{n}"), reason).await;
    }
    for (n, (name, value)) in [
        ("iss", None),
        ("exp", None),
        ("iat", None),
        ("token_type", Some(json!("bearer"))),
        ("typ", Some(json!("Bearer"))),
        ("cnf", Some(json!(null))),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("{name} = {value:?}");
        stage.says(|said| set(said, name, value));
        stage.accepted(&case, &format!("accepted-{n}"), "bob").await;
    }
}

#[tokio::test]
async fn tk_07_no_token_outlives_what_is_remembered_of_ends() {
    let stage = stage().await;
    let day = 24 * 3600;
    let at = |seconds: i64| Some(json!(stage.now_s() + seconds));
    let says = |iat: Option<Value>, exp: Option<Value>| {
        stage.says(|said| {
            set(said, "iat", iat);
            set(said, "exp", exp);
        });
    };
    says(at(-day - 62), at(300));
    stage.refused("older than a day", "old", "access_token_iat").await;
    says(at(-day - 62), None);
    stage.refused("older than a day, without an end", "old-endless", "access_token_iat").await;
    says(at(-day), at(90 * day));
    stage.accepted("a day old", "day-old", "bob").await;
    says(None, at(day + 30));
    stage.refused("of unknown age, with much life left", "long", "access_token_iat").await;
    says(None, None);
    stage.refused("without any time", "timeless", "access_token_iat").await;
    says(None, at(day));
    stage.accepted("of unknown age, over within a day", "short", "bob").await;
}

#[tokio::test]
async fn id_09_a_required_claim_has_to_stand_in_the_providers_word() {
    let keys = format!("{INTROSPECTION}required_claims = [\"app.access\"]\n");
    let stage = Stage::with(&keys, |plan| plan).await;
    stage.says(|_| {});
    let answer = stage.bring("GET /in/x", "without").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("not_allowed")));
    assert!(stage.house.database.texts("SELECT id FROM users").await.is_empty());
    stage.says(|said| set(said, "app", Some(json!({"access": true}))));
    stage.accepted("with the claim", "with", "bob").await;
}

#[tokio::test]
async fn without_audiences_a_token_must_be_issued_to_our_own_client() {
    let stage = Stage::with("bearer = \"introspection\"\n", |plan| plan).await;
    stage.says(|said| set(said, "client_id", Some(json!("doorward"))));
    stage.accepted("ours", "ours", "bob").await;
    stage.says(|_| {});
    stage.refused("another client's", "theirs", "access_token_azp").await;
    stage.says(|said| {
        set(said, "client_id", Some(json!("doorward")));
        set(said, "azp", Some(json!("robot")));
    });
    stage.refused("two clients", "both", "access_token_azp").await;
    stage.says(|said| set(said, "client_id", None));
    stage.refused("nobody's", "none", "access_token_azp").await;
}

#[tokio::test]
async fn tokens_that_nobody_knows_are_asked_about_sixty_times_a_minute_and_good_ones_go_on() {
    let stage = stage().await;
    stage.says(|_| {});
    stage.accepted("a good one", "good", "bob").await;
    stage.says(|said| set(said, "active", Some(json!(false))));
    stage.house.clock.stand_at(stage.house.clock.now_ms());
    let before = stage.op.count(ASKED);
    for n in 0..90 {
        let answer = stage.bring("GET /in/x", &format!("made-up-{n}")).await;
        assert_eq!(answer.status, if n < 60 { 401 } else { 429 }, "{n}: {}", answer.whole);
    }
    assert_eq!(stage.op.count(ASKED) - before, 60);
    stage.accepted("the good one", "good", "bob").await;
    signed_in(&stage.house).await;
}

#[tokio::test]
async fn another_issuers_jwt_is_shown_to_nobody_and_an_opaque_token_to_no_choice_of_providers() {
    let (first, second) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let providers = format!(
        "{}{INTROSPECTION}\n{}{INTROSPECTION}",
        op_provider("op", &first),
        op_provider("second", &second)
    );
    let stage = Stage::of(first, &providers, |plan| plan).await;
    stage.says(|_| {});
    stage.accepted("a JWT of the first", &stage.token(|_| {}), "bob").await;
    let foreign = stage.token(|claims| set(claims, "iss", Some(json!("https://id.example"))));
    stage.refused("a JWT of a stranger", &foreign, "access_token_iss").await;
    stage.refused("an opaque token", "opaque", "token_malformed").await;
    assert_eq!((stage.op.count(ASKED), second.count(ASKED)), (1, 0));
}
