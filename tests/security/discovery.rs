//! What a provider says of itself: believed where it may be, kept while the provider is unwell.

use std::time::Duration;

use serde_json::json;

use super::stage::{Stage, honest, set};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Answer, ScriptedOp};

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Answers that are no answer, each fast.
pub fn nonsense() -> Vec<(&'static str, Answer)> {
    vec![
        ("500", Answer::text(500, "text/plain", "no")),
        ("404", Answer::text(404, "text/plain", "no")),
        ("429", Answer::text(429, "text/plain", "later")),
        ("an empty object", Answer::json(200, &json!({}))),
        ("an empty body", Answer::text(200, "application/json", "")),
        ("HTML", Answer::text(200, "text/html", "<!doctype html><h1>Maintenance</h1>")),
        ("truncated", Answer::Truncated("application/json", b"{\"issuer\":\"ht".to_vec())),
        ("closed", Answer::Close),
        ("a list", Answer::json(200, &json!([]))),
        ("endless", Answer::Endless),
        ("10 MB", Answer::Status(200, "application/json", vec![b' '; 10_000_000])),
        ("packed", gzip()),
        ("a redirect", Answer::Redirect(302, "https://evil.example/".into())),
        (
            "deep",
            Answer::Status(200, "application/json", format!("{{\"a\":{}", "[".repeat(100_000)).into_bytes()),
        ),
    ]
}

/// A gzip member that holds `{}` and claims to be a packed answer.
pub fn gzip() -> Answer {
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0];
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    Answer::Raw(200, headers.map(|(n, v)| (n.into(), v.into())).to_vec(), packed.to_vec())
}

/// A login that gets nowhere: an error, and nobody is sent to the provider.
async fn offers_no_login(stage: &Stage, case: &str) {
    stage.house.clock.advance(Duration::from_secs(2));
    let browser = stage.browser();
    let page = browser.navigate("/auth/login").await;
    assert!(matches!(page.status, 502 | 503), "{case}: {} {}", page.status, page.text());
    assert_eq!(page.location(), None, "{case}");
    assert!(browser.cookies().is_empty(), "{case}");
    assert_eq!(stage.op.count("/authorize"), 0, "{case}: an authorization request left");
}

#[tokio::test]
async fn tk_13_metadata_of_another_issuer_offers_no_login() {
    let stage = Stage::open().await;
    let issuer = stage.op.issuer();
    let others = [
        json!(format!("{issuer}/")),
        json!(issuer.replace("127.0.0.1", "localhost")),
        json!(issuer.replace("http", "HTTP")),
        json!("https://evil.example"),
        json!(""),
        json!(null),
        json!([issuer]),
        json!({"issuer": issuer}),
    ];
    for other in others {
        let change = other.clone();
        stage.op.script(|s| s.discovery(move |d| set(d, "issuer", Some(&change))));
        offers_no_login(&stage, &format!("issuer {other}")).await;
    }
    stage.op.script(|s| s.discovery(|d| set(d, "issuer", None)));
    offers_no_login(&stage, "no issuer").await;
    let twice = format!("{{\"issuer\":\"{issuer}\",\"issuer\":\"{issuer}\"}}");
    stage.op.script(|s| s.next(DISCOVERY, Answer::text(200, "application/json", &twice)));
    offers_no_login(&stage, "issuer twice").await;
    stage.op.script(honest);
    stage.house.clock.advance(Duration::from_secs(2));
    stage.accepted("its own issuer").await;
}

#[tokio::test]
async fn tk_14_an_endpoint_that_is_not_safe_to_call_offers_no_login() {
    let stage = Stage::open().await;
    let unsafe_ones = [
        "http://id.example/x",
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "javascript:alert(1)",
        "data:application/json,{}",
        "https://user:pass@id.example/x",
        "https://id.example/x#fragment",
        "/relative",
        "",
    ];
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "userinfo_endpoint",
        "end_session_endpoint",
        "pushed_authorization_request_endpoint",
        "revocation_endpoint",
    ] {
        for bad in unsafe_ones {
            stage.op.script(|s| s.discovery(move |d| set(d, name, Some(&json!(bad)))));
            offers_no_login(&stage, &format!("{name} = {bad:?}")).await;
        }
    }
    for name in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
        for odd in [None, Some(json!(null)), Some(json!(7)), Some(json!(["https://id.example"]))] {
            let change = odd.clone();
            stage.op.script(|s| s.discovery(move |d| set(d, name, change.as_ref())));
            offers_no_login(&stage, &format!("{name} = {odd:?}")).await;
        }
    }
    stage.op.script(honest);
    stage.house.clock.advance(Duration::from_secs(2));
    stage.accepted("safe endpoints").await;
}

#[tokio::test]
async fn tk_14_endpoints_may_live_on_another_host() {
    let stage = Stage::open().await;
    let moved = |d: &mut super::stage::Object| {
        for name in ["token_endpoint", "jwks_uri", "userinfo_endpoint"] {
            let there = d[name].as_str().unwrap().replace("127.0.0.1", "localhost");
            set(d, name, Some(&json!(there)));
        }
    };
    stage.truth("token and keys at another name", |s| s.discovery(moved)).await;
}

#[tokio::test]
async fn tk_15_no_nonsense_makes_a_login_and_the_next_good_answer_does() {
    let stage = Stage::open().await;
    for (case, answer) in nonsense() {
        stage.op.script(|s| s.answer(DISCOVERY, answer));
        offers_no_login(&stage, case).await;
    }
    stage.op.script(honest);
    stage.house.clock.advance(Duration::from_secs(2));
    stage.accepted("the first good answer").await;
}

#[tokio::test]
async fn tk_15_metadata_stays_in_use_while_its_refresh_fails() {
    let stage = Stage::open().await;
    stage.accepted("warm-up").await;
    let mut cases = nonsense();
    cases.push(("another issuer", Answer::json(200, &json!({"issuer": "https://evil.example"}))));
    for (case, answer) in cases {
        stage.house.clock.advance(Duration::from_mins(61));
        stage.truth(&format!("metadata: {case}"), |s| s.answer(DISCOVERY, answer)).await;
    }
    stage.op.script(|s| s.answer(DISCOVERY, Answer::text(500, "text/plain", "")));
    stage.house.clock.advance(Duration::from_hours(25));
    offers_no_login_of(&stage, "nothing but old metadata for a day").await;
    stage.op.script(honest);
    stage.house.clock.advance(Duration::from_secs(2));
    stage.accepted("the provider is well again").await;
}

async fn offers_no_login_of(stage: &Stage, case: &str) {
    stage.op.clear();
    offers_no_login(stage, case).await;
}

#[tokio::test]
async fn tk_15_metadata_and_keys_are_fetched_once_for_many_logins() {
    let stage = Stage::open().await;
    for n in 0..5 {
        stage.accepted(&format!("login {n}")).await;
    }
    assert_eq!((stage.op.count(DISCOVERY), stage.op.count("/jwks")), (1, 1));
    stage.house.clock.advance(Duration::from_mins(61));
    for n in 0..5 {
        stage.accepted(&format!("an hour later, login {n}")).await;
    }
    assert_eq!((stage.op.count(DISCOVERY), stage.op.count("/jwks")), (2, 2));
}

#[tokio::test]
async fn tk_15_a_provider_that_hangs_delays_nobody_who_could_sign_in_before() {
    let stage = Stage::open().await;
    stage.accepted("warm-up").await;
    for path in [DISCOVERY, "/jwks"] {
        stage.house.clock.advance(Duration::from_mins(61));
        let began = std::time::Instant::now();
        stage.op.script(|s| s.answer(path, Answer::Hang));
        for n in 0..3 {
            stage.accepted(&format!("{path} hangs, login {n}")).await;
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{path}: three logins took {:?}", began.elapsed());
        stage.op.script(honest);
    }
}

#[tokio::test]
async fn tk_13_the_discovery_address_follows_from_the_issuer_alone() {
    let op = ScriptedOp::start().await;
    let document = |issuer: &str| {
        let at = op.issuer();
        json!({"issuer": issuer, "authorization_endpoint": format!("{at}/authorize"), "token_endpoint": format!("{at}/token"), "jwks_uri": format!("{at}/jwks")})
    };
    for (end, path) in [
        ("/realm", "/realm/.well-known/openid-configuration"),
        ("/slug/", "/slug/.well-known/openid-configuration"),
    ] {
        let issuer = format!("{}{end}", op.issuer());
        op.script(|s| s.answer(path, Answer::json(200, &document(&issuer))));
        let table = op_provider("op", &op).replace(&format!("\"{}\"", op.issuer()), &format!("\"{issuer}\""));
        let house = TestHouse::with(&table).open().await;
        let sent = house.browser().navigate("/auth/login").await.location().unwrap();
        assert!(sent.as_str().starts_with(&op.url("/authorize?")), "{sent}");
        assert_eq!(op.count(path), 1);
    }
}
