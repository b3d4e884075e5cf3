//! Keycloak, as a client and as its administrator.

use serde_json::{Value, json};
use url::Url;

use super::client::{ClientKey, answered, claims_of, code_exchange, part, post, refresh, request};
use super::listener::{Ear, logout_token};
use crate::house::servers::{http, keycloak};

/// Nobody listens there: a sign-in ends before it is opened.
const KEYCLOAK_CALLBACK: &str = "http://127.0.0.1:4711/auth/callback/keycloak";

#[tokio::test]
async fn keycloak_signs_alice_in_and_changes_its_code_for_tokens() {
    let realm = keycloak::server().await.realm(keycloak::RealmSpec::default()).await;
    let tokens = sign_in_at_keycloak(&realm, "alice").await;
    let claims = claims_of(&tokens, "id_token");
    assert_eq!(claims["iss"], realm.issuer.as_str());
    assert_eq!(claims["email"], "alice@example.test");
    assert_eq!(claims["sub"], realm.user_id("alice").await.as_str());
    let roles = &claims_of(&tokens, "access_token")["realm_access"]["roles"];
    assert!(roles.as_array().unwrap().contains(&json!("user")), "{roles}");
}

#[tokio::test]
async fn keycloak_ends_a_refresh_token_when_an_administrator_logs_the_user_out() {
    let realm = keycloak::server().await.realm(keycloak::RealmSpec::default()).await;
    let tokens = sign_in_at_keycloak(&realm, "bob").await;
    let (status, renewed) = refresh_at_keycloak(&realm, &tokens).await;
    assert_eq!(status, 200, "{renewed}");
    realm.logout_user("bob").await;
    let (status, refused) = refresh_at_keycloak(&realm, &renewed).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
}

#[tokio::test]
async fn keycloak_lets_no_disabled_user_in() {
    let realm = keycloak::server().await.realm(keycloak::RealmSpec::default()).await;
    realm.disable_user("ada").await;
    realm.delete_user("bob").await;
    let url = keycloak_url(&realm);
    let http = http();
    for user in ["ada", "bob"] {
        let refused = keycloak::try_sign_in(&http, &url, user, &format!("{user}-pass-1")).await;
        let page = refused.unwrap_err();
        assert!(page.contains("the sign-in ended on a page"), "{page}");
    }
}

#[tokio::test]
async fn keycloak_publishes_a_new_key_beside_the_old_until_that_is_dropped() {
    let realm = keycloak::server().await.realm(keycloak::RealmSpec::default()).await;
    let before = kid_of_sign_in(&realm).await;
    realm.rotate_key().await;
    let after = kid_of_sign_in(&realm).await;
    assert_ne!(before, after);
    let both = published_kids(&realm).await;
    assert!(both.contains(&before) && both.contains(&after), "{both:?}");
    realm.drop_old_keys().await;
    let left = published_kids(&realm).await;
    assert!(!left.contains(&before) && left.contains(&after), "{left:?}");
}

#[tokio::test]
async fn keycloak_takes_pushed_requests_and_signed_client_assertions() {
    let key = ClientKey::new();
    let spec = keycloak::RealmSpec {
        provider_id: "main".to_owned(),
        par_client: true,
        client_jwks: Some(key.jwks().to_string()),
        access_token_seconds: Some(77),
        ..keycloak::RealmSpec::default()
    };
    let realm = keycloak::server().await.realm(spec).await;
    let callback = "http://localhost:4711/auth/callback/main";
    let endpoint = |path: &str| format!("{}/protocol/openid-connect/{path}", realm.issuer);

    let mut pushed = request(keycloak::Realm::PAR_CLIENT, callback);
    pushed.push(("client_secret", realm.client_secret.clone()));
    let (status, answer) = post(&endpoint("ext/par/request"), &pushed).await;
    assert_eq!(status, 201, "{answer}");
    let request_uri = answer["request_uri"].as_str().unwrap().to_owned();
    let query = [("client_id", keycloak::Realm::PAR_CLIENT.to_owned()), ("request_uri", request_uri)];
    let url = Url::parse_with_params(&endpoint("auth"), query).unwrap();
    let arrived = keycloak::sign_in(&http(), url.as_str(), "alice", "alice-pass-1").await;
    assert!(arrived.starts_with(callback), "{arrived}");

    let id = keycloak::Realm::KEY_CLIENT;
    let url = Url::parse_with_params(&endpoint("auth"), request(id, callback)).unwrap();
    let arrived = keycloak::sign_in(&http(), url.as_str(), "ada", "ada-pass-1").await;
    let mut exchange = code_exchange(&arrived, callback);
    exchange.extend(key.assertion(id, &realm.issuer));
    let (status, tokens) = post(&endpoint("token"), &exchange).await;
    assert_eq!((status, &tokens["expires_in"]), (200, &json!(77)), "{tokens}");
}

#[tokio::test]
async fn keycloak_tells_the_client_when_a_user_was_logged_out() {
    let ear = Ear::open().await;
    let spec = keycloak::RealmSpec {
        backchannel_logout_url: Some("http://127.0.0.1:1/nobody".to_owned()),
        ..keycloak::RealmSpec::default()
    };
    let realm = keycloak::server().await.realm(spec).await;
    realm.set_backchannel_logout(&ear.url).await;
    realm.change_user("alice", &json!({ "firstName": "Alicia" })).await;
    let tokens = sign_in_at_keycloak(&realm, "alice").await;
    let claims = claims_of(&tokens, "id_token");
    assert_eq!(claims["given_name"], "Alicia");
    let (heard, ()) = tokio::join!(ear.hear(), realm.logout_user("alice"));
    assert_eq!(logout_token(&heard)["sid"], claims["sid"]);
}

fn keycloak_url(realm: &keycloak::Realm) -> String {
    let url = format!("{}/protocol/openid-connect/auth", realm.issuer);
    Url::parse_with_params(&url, request(&realm.client_id, KEYCLOAK_CALLBACK)).unwrap().into()
}

async fn sign_in_at_keycloak(realm: &keycloak::Realm, user: &str) -> Value {
    let password = format!("{user}-pass-1");
    let arrived = keycloak::sign_in(&http(), &keycloak_url(realm), user, &password).await;
    let form = code_exchange(&arrived, KEYCLOAK_CALLBACK);
    let (status, tokens) = exchange_at_keycloak(realm, form).await;
    assert_eq!(status, 200, "{tokens}");
    tokens
}

async fn refresh_at_keycloak(realm: &keycloak::Realm, tokens: &Value) -> (u16, Value) {
    exchange_at_keycloak(realm, refresh(tokens)).await
}

async fn exchange_at_keycloak(realm: &keycloak::Realm, form: Vec<(&'static str, String)>) -> (u16, Value) {
    let url = format!("{}/protocol/openid-connect/token", realm.issuer);
    let request = http().post(url).basic_auth(&realm.client_id, Some(&realm.client_secret));
    answered(request.form(&form)).await
}

async fn kid_of_sign_in(realm: &keycloak::Realm) -> String {
    let tokens = sign_in_at_keycloak(realm, "alice").await;
    let header = part(tokens["id_token"].as_str().unwrap(), 0);
    header["kid"].as_str().unwrap().to_owned()
}

async fn published_kids(realm: &keycloak::Realm) -> Vec<String> {
    let url = format!("{}/protocol/openid-connect/certs", realm.issuer);
    let (_, keys) = answered(http().get(url)).await;
    let keys = keys["keys"].as_array().unwrap();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}
