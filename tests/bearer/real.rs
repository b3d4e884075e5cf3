//! Tokens of real providers: Keycloak and npm oidc-provider.

use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use crate::house::browser::{Browser, Page};
use crate::house::home::TestHouse;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};
use crate::house::servers::{http, oidc_provider};
use crate::refresh::keycloak_provider;
use crate::servers::client::{answered, claims_of, code_exchange, request};

const OP_CALLBACK: &str = "http://127.0.0.1:4711/auth/callback/oidc";

fn with_token(house: &TestHouse, token: &str) -> Browser {
    house.browser().with_header("authorization", &format!("Bearer {token}"))
}

async fn brought(house: &TestHouse, token: &str) -> Page {
    with_token(house, token).get("/auth/me").await
}

#[track_caller]
fn assert_refused(page: &Page, case: &str) {
    assert_eq!(page.status, 401, "{case}: {}", page.text());
    assert_eq!(page.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{case}");
}

/// A grant at Keycloak by a client of its own, not by us.
async fn granted(realm: &Realm, form: &[(&str, &str)]) -> Value {
    let url = format!("{}/protocol/openid-connect/token", realm.issuer);
    let (status, tokens) = answered(http().post(url).form(form)).await;
    assert_eq!(status, 200, "{tokens}");
    tokens
}

async fn of_person(realm: &Realm, name: &str) -> Value {
    let password = format!("{name}-pass-1");
    let form = [
        ("grant_type", "password"),
        ("client_id", realm.client_id.as_str()),
        ("client_secret", realm.client_secret.as_str()),
        ("username", name),
        ("password", password.as_str()),
        ("scope", "openid"),
    ];
    granted(realm, &form).await
}

async fn of_program(realm: &Realm) -> Value {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", realm.client_id.as_str()),
        ("client_secret", realm.client_secret.as_str()),
    ];
    granted(realm, &form).await
}

async fn of_another_client(realm: &Realm) -> Value {
    let form = [
        ("grant_type", "password"),
        ("client_id", "admin-cli"),
        ("username", "alice"),
        ("password", "alice-pass-1"),
        ("scope", "openid"),
    ];
    granted(realm, &form).await
}

fn access(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}

#[tokio::test]
async fn keycloaks_tokens_of_people_and_programs_are_checked_here() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let house = TestHouse::with(&format!("{}bearer = \"jwt\"\n", keycloak_provider(&realm))).open().await;
    for (name, at_admins) in [("alice", 403), ("ada", 200)] {
        let tokens = of_person(&realm, name).await;
        let page = brought(&house, access(&tokens)).await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert_eq!(page.json()["user"]["id"], realm.user_id(name).await);
        assert_eq!(page.json()["user"]["email"], format!("{name}@example.test"));
        let admins = with_token(&house, access(&tokens)).get("/admin-only").await;
        assert_eq!(admins.status, at_admins, "{name}: {}", admins.text());
        for kind in ["id_token", "refresh_token"] {
            assert_refused(&brought(&house, tokens[kind].as_str().unwrap()).await, kind);
        }
    }
    let robot = of_program(&realm).await;
    let page = brought(&house, access(&robot)).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.json()["user"]["id"], claims_of(&robot, "access_token")["sub"]);
    assert_refused(
        &brought(&house, access(&of_another_client(&realm).await)).await,
        "another client's token",
    );
    realm.rotate_key().await;
    let page = brought(&house, access(&of_program(&realm).await)).await;
    assert_eq!(page.status, 200, "a new key at the first try: {}", page.text());
}

#[tokio::test]
async fn keycloak_is_asked_about_its_tokens_and_says_when_a_session_is_over() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let text = format!("{}bearer = \"introspection\"\n", keycloak_provider(&realm));
    let house = TestHouse::with(&text).open().await;
    let tokens = of_person(&realm, "bob").await;
    let page = brought(&house, access(&tokens)).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.json()["user"]["id"], realm.user_id("bob").await);
    assert!(page.json()["user"]["roles"].as_array().unwrap().contains(&json!("user")));
    for kind in ["id_token", "refresh_token"] {
        assert_refused(&brought(&house, tokens[kind].as_str().unwrap()).await, kind);
    }
    assert_refused(
        &brought(&house, access(&of_another_client(&realm).await)).await,
        "another client's token",
    );
    assert_eq!(brought(&house, access(&of_program(&realm).await)).await.status, 200);
    realm.logout_user("bob").await;
    house.clock.advance(Duration::from_secs(31));
    assert_refused(&brought(&house, access(&tokens)).await, "logged out at Keycloak");
}

#[tokio::test]
async fn oidc_provider_is_asked_about_its_opaque_tokens() {
    let op = oidc_provider::server(oidc_provider::OpSpec {
        redirect_uris: vec![OP_CALLBACK.to_owned()],
        ..oidc_provider::OpSpec::default()
    })
    .await;
    let text = format!(
        "[[provider]]\nid = \"oidc\"\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\nbearer = \"introspection\"\n",
        op.issuer, op.client_id, op.client_secret
    );
    let house = TestHouse::with(&text).open().await;
    let url =
        Url::parse_with_params(&format!("{}/auth", op.issuer), request(&op.client_id, OP_CALLBACK)).unwrap();
    let arrived = oidc_provider::sign_in(&http(), url.as_str(), "gerda").await;
    let exchange =
        http().post(format!("{}/token", op.issuer)).basic_auth(&op.client_id, Some(&op.client_secret));
    let (status, tokens) = answered(exchange.form(&code_exchange(&arrived, OP_CALLBACK))).await;
    assert_eq!(status, 200, "{tokens}");
    let page = brought(&house, access(&tokens)).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.json()["user"]["id"], "gerda");
    for kind in ["id_token", "refresh_token"] {
        let Some(token) = tokens[kind].as_str() else { continue };
        assert_refused(&brought(&house, token).await, kind);
    }
    let revoke = http().post(format!("{}/token/revocation", op.issuer));
    let form = [("token", access(&tokens))];
    let revoked = revoke.basic_auth(&op.client_id, Some(&op.client_secret)).form(&form).send().await.unwrap();
    assert_eq!(revoked.status(), 200);
    assert_eq!(brought(&house, access(&tokens)).await.status, 200, "believed for a moment more");
    house.clock.advance(Duration::from_secs(31));
    assert_refused(&brought(&house, access(&tokens)).await, "revoked at the provider");
}
