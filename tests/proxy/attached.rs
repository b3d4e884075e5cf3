//! What a route attaches: the access token, the signed assertion.

use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::stage::{Stage, cookie_line, status};
use crate::security::keep_time;

fn part(token: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

/// Checks a token as an app would, with the published keys, and returns its header and claims.
async fn verified(stage: &Stage, token: &str) -> (Value, Value) {
    let page = stage.house.browser().get("/.well-known/doorward/jwks.json").await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.header("cache-control"), Some("public, max-age=3600"));
    let (header, claims) = (part(token, 0), part(token, 1));
    let keys = page.json()["keys"].as_array().unwrap().clone();
    let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("the key is published");
    assert_eq!(
        (key["kty"].as_str(), key["crv"].as_str(), key["alg"].as_str()),
        (Some("OKP"), Some("Ed25519"), Some("EdDSA"))
    );
    assert!(key.get("d").is_none(), "never the private half");
    let public = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ED25519, public).verify(input.as_bytes(), &signature).unwrap();
    (header, claims)
}

#[tokio::test]
async fn an_assertion_says_who_is_there_and_can_be_checked_by_anybody() {
    let stage = Stage::open().await;
    stage.op.script(|s| s.person = s.person.clone().with("roles", vec!["b", "a"]).with("org_id", "acme"));
    let browser = stage.signed_in().await;
    assert_eq!(browser.get("/assert/x").await.status, 200);
    let first = stage.app.last().one("x-auth-assertion").unwrap().to_owned();
    let (header, claims) = verified(&stage, &first).await;
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("EdDSA"), Some("JWT")));
    assert_eq!(claims["iss"], stage.house.url.as_str());
    assert_eq!((claims["aud"].as_str(), claims["sub"].as_str()), (Some("app"), Some("alice")));
    assert_eq!(claims["email"], "alice@example.test");
    assert_eq!(claims["roles"], serde_json::json!(["a", "b"]));
    assert_eq!(claims["tenant"], "acme");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    let me = browser.get_json("/auth/me").await.json();
    assert_eq!(claims["sid"], me["session"]["id"]);
    browser.get("/assert/y").await;
    assert_eq!(
        stage.app.last().one("x-auth-assertion"),
        Some(first.as_str()),
        "one serves for half a minute"
    );
    stage.house.clock.advance(Duration::from_secs(31));
    browser.get("/assert/y").await;
    let second = stage.app.last().one("x-auth-assertion").unwrap().to_owned();
    assert_ne!(second, first);
    verified(&stage, &second).await;
    browser.get("/in/x").await;
    assert_eq!(stage.app.last().one("x-auth-assertion"), None, "only where the route asks for it");
}

#[tokio::test]
async fn assertion_keys_change_every_ninety_days_and_are_known_a_day_ahead() {
    let stage = Stage::open().await;
    let day = Duration::from_hours(24);
    let kids = || async {
        let page = stage.house.browser().get("/.well-known/doorward/jwks.json").await.json();
        let keys = page["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let signer = || async {
        keep_time(&stage.op, &stage.house);
        let browser = stage.signed_in().await;
        browser.get("/assert/x").await;
        let token = stage.app.last().one("x-auth-assertion").unwrap().to_owned();
        part(&token, 0)["kid"].as_str().unwrap().to_owned()
    };
    let first = kids().await;
    assert_eq!(first.len(), 1);
    assert_eq!(signer().await, first[0]);
    stage.house.clock.advance(day * 89 + Duration::from_mins(1));
    let both = kids().await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    assert_eq!(signer().await, first[0], "the new one is published and does not sign yet");
    stage.house.clock.advance(day);
    assert_eq!(signer().await, both[1]);
    assert_eq!(kids().await, both, "the old one is known for another day");
    stage.house.clock.advance(day * 89);
    let third = kids().await;
    assert!(!third.contains(&first[0]) && third.contains(&both[1]), "{third:?}");
}

#[tokio::test]
async fn rt_06_an_access_token_is_attached_while_it_lives_and_never_afterwards() {
    let stage = Stage::open().await;
    stage.op.script(|s| s.refresh_tokens = false);
    keep_time(&stage.op, &stage.house);
    let browser = stage.signed_in().await;
    let cookie = cookie_line(&browser);
    let get = |path: &'static str| stage.ask(path, "");
    assert_eq!(status(&get("GET /maybe-token/x").await), 200);
    assert_eq!(stage.app.last().one("authorization"), None, "nobody has no token");
    let with = |line: &str, more: &str| {
        let (line, headers) = (line.to_owned(), format!("{cookie}{more}authorization: Bearer evil\r\n"));
        let stage = &stage;
        async move { stage.ask(&line, &headers).await }
    };
    assert_eq!(status(&with("GET /token/x", "").await), 200);
    let token = stage.app.last().one("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    assert_eq!(part(&token, 1)["sub"], "alice");
    assert_eq!(status(&with("GET /in/x", "").await), 200);
    assert_eq!(stage.app.last().one("authorization"), None, "only where the route asks for it");
    stage.house.clock.advance(Duration::from_secs(301));
    stage.app.forget();
    assert_eq!(status(&with("GET /token/x", "").await), 401);
    let person = with("GET /token/x", "accept: text/html\r\nsec-fetch-mode: navigate\r\n").await;
    assert_eq!(status(&person), 303, "{person}");
    assert!(person.contains("location: /auth/login?return_to=%2Ftoken%2Fx"), "{person}");
    stage.app.assert_silent("an expired token");
    assert_eq!(status(&with("GET /maybe-token/x", "").await), 200);
    assert_eq!(stage.app.last().one("authorization"), None);
    assert_eq!(status(&with("GET /in/x", "").await), 200, "the session itself lives on");
    // The person is not sent round in circles: the login begins anew although they are signed in.
    let page = browser.sign_in("/token/x").await;
    assert_eq!((page.status, page.url.path()), (200, "/token/x"), "{}", page.text());
    let renewed = stage.app.last().one("authorization").unwrap().to_owned();
    assert_ne!(renewed, format!("Bearer {token}"));
}
