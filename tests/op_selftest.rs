//! The stand-ins are tested before anybody leans on them: honest by default, hostile on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::house::browser::{Browser, Page};
use crate::house::op::mint::{self, b64};
use crate::house::op::{Alg, ClientAuth, Gate, Script, ScriptedOp, SigningKey};

const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-0";
const CALLBACK: &str = "http://127.0.0.1:1/auth/callback/op";

/// The address a relying party would send its visitor to.
pub fn authorize_url(op: &ScriptedOp) -> String {
    let challenge = b64(digest::digest(&digest::SHA256, VERIFIER.as_bytes()));
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("response_type", "code"),
            ("client_id", "doorward"),
            ("redirect_uri", CALLBACK),
            ("scope", "openid email"),
            ("state", "the state"),
            ("nonce", "n1"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("acr_values", "2 1"),
        ])
        .finish();
    op.url(&format!("/authorize?{query}"))
}

/// Signs in as far as the callback's address and gives its parameters.
pub async fn callback(op: &ScriptedOp, browser: &Browser) -> Vec<(String, String)> {
    let page = browser.navigate(&authorize_url(op)).await;
    assert_eq!(page.status, 303, "{}", page.text());
    let url = page.location().expect("a callback address");
    url.query_pairs().into_owned().collect()
}

pub async fn code(op: &ScriptedOp, browser: &Browser) -> String {
    let pairs = callback(op, browser).await;
    let found = pairs.into_iter().find(|(name, _)| name == "code");
    found.expect("a code").1
}

/// The token endpoint asked with Basic authentication, form-encoded as RFC 6749 wants it.
pub async fn token(browser: &Browser, fields: &[(&str, &str)]) -> Page {
    use base64::Engine;
    let encode = |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let pair = format!("{}:{}", encode("doorward"), encode("s3cret+with%odd&chars:"));
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    let browser = browser.with_header("authorization", &format!("Basic {pair}"));
    browser.post_form("/token", fields).await
}

pub async fn exchange(browser: &Browser, code: &str) -> Page {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    token(browser, &fields).await
}

pub async fn signed_in(op: &ScriptedOp, browser: &Browser) -> Value {
    let code = code(op, browser).await;
    let page = exchange(browser, &code).await;
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()
}

pub async fn refresh(browser: &Browser, tokens: &Value) -> Page {
    let old = tokens["refresh_token"].as_str().expect("a refresh token");
    token(browser, &[("grant_type", "refresh_token"), ("refresh_token", old)]).await
}

pub fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

pub async fn visitor() -> (ScriptedOp, Browser) {
    let op = ScriptedOp::start().await;
    let browser = Browser::new(&op.issuer());
    (op, browser)
}

#[tokio::test]
async fn an_honest_provider_signs_a_person_in_with_every_algorithm() {
    let (op, browser) = visitor().await;
    for alg in Alg::ALL {
        op.script(|s| s.sign_with(alg));
        let tokens = signed_in(&op, &browser).await;
        let id_token = text(&tokens["id_token"]);
        let (header, claims) = mint::peek(id_token).expect("a token");
        assert_eq!(header["alg"], alg.name());
        assert_eq!(claims["iss"], op.issuer());
        assert_eq!(claims["aud"], "doorward");
        assert_eq!(claims["sub"], "alice");
        assert_eq!(claims["nonce"], "n1");
        assert_eq!(claims["acr"], "2");
        let access = text(&tokens["access_token"]);
        assert_eq!(claims["at_hash"], mint::at_hash(access, Some(alg)));
        let keys = browser.get("/jwks").await.json();
        assert_eq!(keys["keys"][0]["kid"], header["kid"]);
        assert!(mint::verifies(id_token, &op.script(|s| s.key.clone())));
        assert!(!mint::verifies(&mint::flip_bit(id_token, 1, 9), &op.script(|s| s.key.clone())));
        let bearer = browser.with_header("authorization", &format!("Bearer {access}"));
        assert_eq!(bearer.get("/userinfo").await.json()["email"], "alice@example.test");
    }
    assert_eq!(op.count("/token"), 4);
    assert_eq!(op.requests_to("/token")[0].form("code_verifier").as_deref(), Some(VERIFIER));
}

#[tokio::test]
async fn the_published_key_is_what_another_library_reads() {
    use openidconnect::JsonWebKey;
    use openidconnect::core::{CoreJsonWebKeySet, CoreJwsSigningAlgorithm as Jws};
    let (op, browser) = visitor().await;
    let names = [
        (Alg::Rs256, Jws::RsaSsaPkcs1V15Sha256),
        (Alg::Ps256, Jws::RsaSsaPssSha256),
        (Alg::Es256, Jws::EcdsaP256Sha256),
        (Alg::EdDsa, Jws::EdDsa),
    ];
    for (alg, name) in names {
        op.script(|s| s.sign_with(alg));
        let keys: CoreJsonWebKeySet =
            serde_json::from_value(browser.get("/jwks").await.json()).expect("a key set");
        let tokens = signed_in(&op, &browser).await;
        let (input, signature) = text(&tokens["id_token"]).rsplit_once('.').expect("parts");
        let signature = {
            use base64::Engine;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).expect("base64")
        };
        let checked = keys.keys()[0].verify_signature(&name, input.as_bytes(), &signature);
        assert!(checked.is_ok(), "{alg:?}: {checked:?}");
    }
}

#[tokio::test]
async fn a_code_serves_once_and_only_its_own_verifier_and_address() {
    let (op, browser) = visitor().await;
    let used = code(&op, &browser).await;
    let tokens = exchange(&browser, &used).await.json();
    let again = exchange(&browser, &used).await;
    assert_eq!((again.status, again.json()["error"].clone()), (400, json!("invalid_grant")));
    assert_eq!(refresh(&browser, &tokens).await.status, 400);
    let other = code(&op, &browser).await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", other.as_str()),
        ("redirect_uri", CALLBACK),
        ("code_verifier", "another-verifier-that-is-long-enough-for-the-rule"),
    ];
    assert_eq!(token(&browser, &fields).await.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn a_rotated_refresh_token_that_returns_ends_its_family() {
    let (op, browser) = visitor().await;
    let first = signed_in(&op, &browser).await;
    let second = refresh(&browser, &first).await.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert!(mint::peek(text(&second["id_token"])).expect("a token").1.get("nonce").is_none());
    assert_eq!(refresh(&browser, &first).await.json()["error"], "invalid_grant");
    assert_eq!(refresh(&browser, &second).await.json()["error"], "invalid_grant");
    op.script(|s| s.rotate_refresh = false);
    let third = signed_in(&op, &browser).await;
    for _ in 0..2 {
        let answer = refresh(&browser, &third).await.json();
        assert!(answer.get("refresh_token").is_none());
    }
    op.revoke_all_grants();
    assert_eq!(refresh(&browser, &third).await.status, 400);
}

#[tokio::test]
async fn clients_prove_themselves_as_the_script_wants() {
    let (op, browser) = visitor().await;
    let key = SigningKey::stranger(Alg::Es256);
    let assertion = || {
        let now = op.script(|_| 2_000_000_000);
        let claims = json!({"iss": "doorward", "sub": "doorward", "aud": op.issuer(),
            "iat": now, "exp": now + 60, "jti": mint::random_text()});
        mint::mint_claims("JWT", &claims, &key)
    };
    op.set_now(Arc::new(|| 2_000_000_000_000));
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let par = async |fields: Vec<(&str, &str)>| {
        let mut all = vec![("response_type", "code"), ("client_id", "doorward")];
        all.extend(fields);
        browser.post_form("/par", &all).await.status
    };
    let secret = ("client_secret", "s3cret+with%odd&chars:");
    assert_eq!(par(vec![]).await, 401);
    assert_eq!(par(vec![("client_secret", "wrong")]).await, 401);
    assert_eq!(par(vec![secret]).await, 201);
    let good = assertion();
    let signed = vec![("client_assertion_type", kind), ("client_assertion", &good)];
    assert_eq!(par(signed.clone()).await, 401, "no key is known yet");
    op.script(|s| s.client_key = Some(key.clone()));
    assert_eq!(par(signed.clone()).await, 201);
    assert_eq!(par(signed).await, 401, "an assertion serves once");
    op.script(|s| s.client_auth = ClientAuth::None);
    assert_eq!(par(vec![]).await, 201);
    op.script(|s| s.client_auth = ClientAuth::Basic);
    assert_eq!(par(vec![secret]).await, 401);
}

#[tokio::test]
async fn a_pushed_request_opens_once() {
    let (op, browser) = visitor().await;
    op.script(|s| {
        s.client_auth = ClientAuth::None;
        s.require_par = true;
    });
    let direct = browser.navigate(&authorize_url(&op)).await;
    assert_eq!(direct.status, 400);
    let query = browser.url(&authorize_url(&op));
    let pairs: Vec<_> = query.query_pairs().into_owned().collect();
    let fields: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let pushed = browser.post_form("/par", &fields).await.json();
    let uri = text(&pushed["request_uri"]);
    let address = format!("/authorize?client_id=doorward&request_uri={uri}");
    assert_eq!(browser.navigate(&address).await.status, 303);
    assert_eq!(browser.navigate(&address).await.status, 400);
}

#[tokio::test]
async fn a_gate_holds_the_answer_until_it_opens() {
    let (op, browser) = visitor().await;
    let gate = Gate::closed();
    op.script(|s| s.hold_answer.insert("/jwks".into(), gate.clone()));
    let held = tokio::spawn({
        let browser = browser.clone();
        async move { browser.get("/jwks").await.status }
    });
    gate.arrived(1).await;
    assert_eq!(gate.count(), 1);
    assert!(!held.is_finished());
    assert_eq!(op.count("/jwks"), 1);
    gate.open();
    assert_eq!(held.await.expect("an answer"), 200);
}

#[tokio::test]
async fn an_outage_refuses_callers_and_ends_on_the_same_port() {
    let (op, browser) = visitor().await;
    assert_eq!(browser.get("/jwks").await.status, 200);
    for _ in 0..2 {
        op.stop().await;
        assert!(browser.try_get("/jwks").await.is_err());
        op.start_again().await;
        assert_eq!(browser.get("/jwks").await.status, 200);
    }
    let tokens = signed_in(&op, &browser).await;
    op.stop().await;
    op.start_again().await;
    assert_eq!(refresh(&browser, &tokens).await.status, 200);
    assert_eq!(op.sids().len(), 1);
    op.clear();
    assert!(op.requests().is_empty());
}

#[tokio::test]
async fn tests_own_the_provider_s_time() {
    let (op, browser) = visitor().await;
    let now = Arc::new(AtomicI64::new(1_000_000_000_000));
    let clock = now.clone();
    op.set_now(Arc::new(move || clock.load(Ordering::SeqCst)));
    let late = code(&op, &browser).await;
    let tokens = signed_in(&op, &browser).await;
    let claims = mint::peek(text(&tokens["id_token"])).expect("a token").1;
    assert_eq!(claims["iat"], 1_000_000_000);
    now.fetch_add(60_000, Ordering::SeqCst);
    assert_eq!(exchange(&browser, &late).await.status, 400);
    assert_eq!(op.requests()[0].at, 1_000_000_000_000);
    let logout = op.logout_token(Some("alice"), None, |claims| {
        claims.remove("jti");
    });
    let (header, claims) = mint::peek(&logout).expect("a token");
    assert_eq!((header["typ"].as_str(), claims.get("jti")), (Some("logout+jwt"), None));
    assert_eq!(claims["iat"], 1_000_000_060);
}

#[tokio::test]
async fn sign_out_leads_back_with_the_state() {
    let (op, browser) = visitor().await;
    let back = op.url("/back?x=1");
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("post_logout_redirect_uri", back.as_str()), ("state", "s")])
        .finish();
    let page = browser.sign_in(&format!("/end-session?{query}")).await;
    assert_eq!(page.url.as_str(), op.url("/back?x=1&state=s"));
    let asked = op.end_session_requests();
    assert_eq!(asked[0].query("state").as_deref(), Some("s"));
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn a_form_post_answer_is_a_page_that_the_browser_can_send_on() {
    let (op, browser) = visitor().await;
    let address = authorize_url(&op).replace("127.0.0.1%3A1", "localhost%3A1");
    let address = address.replace("localhost%3A1", &op.address().to_string());
    let page = browser.navigate(&format!("{address}&response_mode=form_post")).await;
    let form = page.forms().remove(0);
    browser.submit(&page, &form, &[]).await;
    let sent = op.requests_to("/auth/callback/op").remove(0);
    assert_eq!(sent.method, "POST");
    assert_eq!(sent.form("state").as_deref(), Some("the state"));
    assert_eq!(sent.header("sec-fetch-site"), Some("same-origin"));
    assert_eq!(sent.header("origin"), Some(op.issuer().as_str()));
}

#[test]
fn a_private_key_is_written_so_that_others_can_load_it() {
    use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
    use base64::Engine;
    let der = |alg| {
        let pem = SigningKey::stranger(alg).private_pem();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
    };
    let curve = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    assert!(RsaKeyPair::from_pkcs8(&der(Alg::Rs256)).is_ok());
    assert!(EcdsaKeyPair::from_pkcs8(curve, &der(Alg::Es256)).is_ok());
    assert!(Ed25519KeyPair::from_pkcs8(&der(Alg::EdDsa)).is_ok());
}

#[tokio::test]
async fn neighbours_never_share_a_key() {
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let kid = |op: &ScriptedOp| op.script(|s| s.key.kid().to_owned());
    assert_ne!(kid(&one), kid(&two));
    let before = kid(&one);
    one.script(Script::rotate_key);
    assert!(![before, kid(&two)].contains(&kid(&one)));
}
