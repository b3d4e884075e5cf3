//! The token endpoint's answers: odd, huge, slow, and wrong.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::assert_rejected;
use super::discovery::gzip;
use super::stage::{Object, Stage, set};
use crate::house::op::Answer;

async fn member(stage: &Stage, name: &'static str, value: Option<Value>, reason: Option<&str>) {
    let case = format!("{name} = {value:?}");
    let change = move |answer: &mut Object| set(answer, name, value.as_ref());
    match reason {
        Some(reason) => stage.lie(&case, reason, |s| s.token_response(change)).await,
        None => stage.truth(&case, |s| s.token_response(change)).await,
    }
}

#[tokio::test]
async fn tk_21_a_token_answer_has_a_bearer_and_its_tokens() {
    let stage = Stage::open().await;
    for kind in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        member(&stage, "token_type", Some(json!(kind)), None).await;
    }
    for kind in [
        None,
        Some(json!("")),
        Some(json!("mac")),
        Some(json!("DPoP")),
        Some(json!("Bearer ")),
        Some(json!("N_A")),
        Some(json!(7)),
        Some(json!(["Bearer"])),
        Some(json!(null)),
    ] {
        member(&stage, "token_type", kind, Some("token_type")).await;
    }
    for token in
        [None, Some(json!("")), Some(json!(null)), Some(json!(7)), Some(json!(["a"])), Some(json!({}))]
    {
        member(&stage, "access_token", token.clone(), Some("token_answer")).await;
        member(&stage, "id_token", token, Some("id_token_missing")).await;
    }
    for token in ["x", "a.b.c", "....", "eyJhbGciOiJub25lIn0.e30.", " ", "\u{0}"] {
        member(&stage, "id_token", Some(json!(token)), Some("*")).await;
    }
    for other in [None, Some(json!("")), Some(json!(null)), Some(json!(7)), Some(json!({}))] {
        member(&stage, "refresh_token", other.clone(), None).await;
        member(&stage, "scope", other, None).await;
    }
    member(&stage, "unknown", Some(json!({"deep": [1, 2, {"a": null}]})), None).await;
}

#[tokio::test]
async fn tk_21_a_token_life_of_any_kind_is_bounded() {
    let stage = Stage::open().await;
    let life =
        "SELECT (token_expires_at - created_at + 999) / 1000 FROM sessions ORDER BY created_at DESC LIMIT 1";
    for (value, seconds) in [
        (None, 300),
        (Some(json!(3600)), 3600),
        (Some(json!(3600.9)), 3600),
        (Some(json!("3600")), 3600),
        (Some(json!(0)), 0),
        (Some(json!(-5)), 0),
        (Some(json!(-1e300)), 0),
        (Some(json!(1e300)), 86_400),
        (Some(json!(9_223_372_036_854_775_807_i64)), 86_400),
        (Some(json!("99999999999999999999")), 86_400),
        (Some(json!("NaN")), 300),
        (Some(json!("inf")), 300),
        (Some(json!("soon")), 300),
        (Some(json!("")), 300),
        (Some(json!(null)), 300),
        (Some(json!(true)), 300),
        (Some(json!([3600])), 300),
        (Some(json!({})), 300),
    ] {
        let case = format!("{value:?}");
        member(&stage, "expires_in", value, None).await;
        assert_eq!(stage.house.database.number(life).await, seconds, "expires_in = {case}");
    }
}

#[tokio::test]
async fn tk_21_anything_but_200_and_a_json_object_is_refused() {
    let stage = Stage::open().await;
    let whole = json!({"access_token": "a", "token_type": "Bearer", "id_token": "x.y.z"});
    let json = |status: u16, text: &str| Answer::text(status, "application/json", text);
    let cases: Vec<(&str, &str, Answer)> = vec![
        ("201", "token_answer", Answer::json(201, &whole)),
        ("204", "token_answer", Answer::text(204, "application/json", "")),
        ("206", "token_answer", Answer::json(206, &whole)),
        ("400 without a word", "token_answer", json(400, "{}")),
        ("403", "token_answer", Answer::json(403, &whole)),
        ("404", "token_answer", Answer::text(404, "text/html", "no")),
        ("500", "provider_unavailable", Answer::json(500, &whole)),
        ("503", "provider_unavailable", Answer::text(503, "text/html", "<h1>later")),
        ("429", "provider_unavailable", Answer::text(429, "text/plain", "later")),
        ("invalid_grant", "code_refused", Answer::error(400, "invalid_grant")),
        ("invalid_grant with 200", "code_refused", Answer::error(200, "invalid_grant")),
        ("invalid_client", "provider_error", Answer::error(401, "invalid_client")),
        ("an unknown error", "provider_error", Answer::error(400, "<script>alert(1)</script>")),
        (
            "error beside tokens",
            "provider_error",
            Answer::json(200, &json!({"error": "x", "access_token": "a", "token_type": "Bearer"})),
        ),
        ("HTML", "token_answer", Answer::text(200, "text/html", "<!doctype html><h1>Sign in")),
        ("JSON called HTML", "token_answer", Answer::text(200, "text/html", &whole.to_string())),
        ("JSON called nothing", "token_answer", Answer::Raw(200, vec![], whole.to_string().into_bytes())),
        (
            "a form",
            "token_answer",
            Answer::text(200, "application/x-www-form-urlencoded", "access_token=a&token_type=Bearer"),
        ),
        ("a list", "token_answer", Answer::json(200, &json!([whole]))),
        ("a string", "token_answer", Answer::json(200, &json!("a"))),
        ("null", "token_answer", Answer::json(200, &json!(null))),
        ("nothing", "token_answer", json(200, "")),
        ("two objects", "token_answer", json(200, "{}{}")),
        (
            "a member twice",
            "token_answer",
            json(200, "{\"access_token\":\"a\",\"access_token\":\"b\",\"token_type\":\"Bearer\"}"),
        ),
        (
            "bytes that are no text",
            "token_answer",
            Answer::Status(200, "application/json", vec![0xff, 0xfe, b'{', b'}']),
        ),
        ("100,000 deep", "token_answer", json(200, &"[".repeat(100_000))),
        ("packed", "token_answer", gzip()),
        ("10 MB", "answer_too_large", Answer::Status(200, "application/json", vec![b' '; 10_000_000])),
        ("endless", "answer_too_large", Answer::Endless),
        (
            "cut short",
            "provider_unavailable",
            Answer::Truncated("application/json", b"{\"access_token\":\"a\"".to_vec()),
        ),
        ("closed", "provider_unavailable", Answer::Close),
    ];
    let total = cases.len();
    for (case, reason, answer) in cases {
        stage.lie(case, reason, |s| s.next("/token", answer)).await;
    }
    assert_eq!(stage.op.count("/token"), total, "no code was ever sent twice");
    stage.accepted("a good answer").await;
}

/// The first login meets the slow answer; another one meanwhile does not.
async fn slow(path: &'static str, answer: Answer) {
    let stage = Stage::open().await;
    if path == "/token" {
        stage.accepted("warm-up").await;
    }
    stage.op.clear();
    stage.op.script(|s| s.next(path, answer.clone()));
    let began = Instant::now();
    let meanwhile = async {
        let deadline = Instant::now() + Duration::from_secs(5);
        while stage.op.count(path) == 0 {
            assert!(Instant::now() < deadline, "{path} is not asked");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Without keys nobody can sign in; what people sign in with must not wait for another's code.
        if path == "/token" {
            stage.accepted("another login meanwhile").await;
            assert!(began.elapsed() < Duration::from_secs(5), "it was held up by {answer:?}");
        }
    };
    let ((_, page), ()) = tokio::join!(stage.tries(), meanwhile);
    assert_rejected(&stage.house, &page, "provider_unavailable").await;
    assert!(began.elapsed() < Duration::from_secs(13), "{path} {answer:?} took {:?}", began.elapsed());
    stage.accepted("afterwards").await;
}

/// Ten seconds is the limit of one call, so this test takes as long; its cases run side by side.
#[tokio::test]
async fn tk_21_a_slow_answer_ends_in_ten_seconds_and_holds_nobody_else_up() {
    let cases = [
        ("/token", Answer::Hang),
        ("/token", Answer::Drip),
        ("/jwks", Answer::Hang),
        ("/jwks", Answer::Drip),
    ];
    join_all(cases.map(|(path, answer)| Box::pin(slow(path, answer)))).await;
}

/// Visitors who wait for the same dead provider wait together, not in a row.
#[tokio::test]
async fn tk_15_a_provider_that_hangs_from_the_start_costs_each_visitor_ten_seconds_at_most() {
    let stage = Stage::open().await;
    stage.op.script(|s| s.answer("/.well-known/openid-configuration", Answer::Hang));
    let began = Instant::now();
    let visits =
        join_all((0..5).map(|_| async { stage.browser().navigate("/auth/login").await.status })).await;
    assert_eq!(visits, [503; 5]);
    assert!(began.elapsed() < Duration::from_secs(13), "they took {:?}", began.elapsed());
    assert!(stage.op.count("/.well-known/openid-configuration") <= 2);
}

#[tokio::test]
async fn tk_22_signed_or_sealed_user_info_is_refused_with_a_reason_of_its_own() {
    let stage = Stage::with("userinfo = \"always\"").await;
    stage.accepted("plain user info").await;
    for (case, kind, body) in [
        ("signed", "application/jwt", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.AAAA"),
        ("sealed", "application/jwt", "a.b.c.d.e"),
        ("called JSON", "application/json", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.AAAA"),
    ] {
        stage.lie(case, "userinfo", |s| s.answer("/userinfo", Answer::text(200, kind, body))).await;
    }
    stage.accepted("plain user info again").await;
}
