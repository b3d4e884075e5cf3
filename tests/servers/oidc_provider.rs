//! npm `oidc-provider`, with every kind of client.

use serde_json::{Value, json};
use url::Url;

use super::client::{ClientKey, answered, claims_of, code_exchange, post, refresh, request};
use super::listener::{Ear, logout_token};
use crate::house::servers::{http, oidc_provider};

const OP_CALLBACK: &str = "http://127.0.0.1:4711/auth/callback/oidc";

#[tokio::test]
async fn oidc_provider_signs_anybody_in_and_rotates_refresh_tokens() {
    let op = oidc_provider::server(oidc_provider::OpSpec {
        redirect_uris: vec![OP_CALLBACK.to_owned()],
        access_token_seconds: Some(66),
        ..oidc_provider::OpSpec::default()
    })
    .await;
    let claims = json!({ "org_id": "acme" }).as_object().cloned().unwrap();
    op.set_claims("carla", claims).await;
    let arrived = oidc_provider::sign_in(&http(), &op_url(&op), "carla").await;
    let (status, tokens) = exchange_at_op(&op, code_exchange(&arrived, OP_CALLBACK)).await;
    assert_eq!((status, &tokens["expires_in"]), (200, &json!(66)), "{tokens}");
    let claims = claims_of(&tokens, "id_token");
    assert_eq!(claims["sub"], "carla");
    assert_eq!(claims["email"], "carla@example.test");
    assert_eq!(claims["roles"], json!(["user"]));
    assert_eq!(claims["org_id"], "acme");

    let (status, renewed) = exchange_at_op(&op, refresh(&tokens)).await;
    assert_eq!(status, 200, "{renewed}");
    assert_ne!(renewed["refresh_token"], tokens["refresh_token"]);
    op.remove("carla").await;
    let (status, refused) = exchange_at_op(&op, refresh(&renewed)).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
}

#[tokio::test]
async fn oidc_provider_answers_a_login_hint_with_the_code_when_the_client_asked_for_that() {
    let op = oidc_provider::server(oidc_provider::OpSpec {
        redirect_uris: vec![OP_CALLBACK.to_owned()],
        autologin: true,
        ..oidc_provider::OpSpec::default()
    })
    .await;
    let answer = http().get(format!("{}&login_hint=dora", op_url(&op))).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let arrived = answer.headers()["location"].to_str().unwrap().to_owned();
    let (status, tokens) = exchange_at_op(&op, code_exchange(&arrived, OP_CALLBACK)).await;
    assert_eq!(status, 200, "{tokens}");
    assert_eq!(claims_of(&tokens, "id_token")["sub"], "dora");
}

#[tokio::test]
async fn oidc_provider_knows_every_way_a_client_may_name_itself() {
    use oidc_provider::ClientAuthentication::{None, Post, PrivateKeyJwt};
    let key = ClientKey::new();
    for authentication in [Post, None, PrivateKeyJwt(key.jwks())] {
        let op = oidc_provider::server(oidc_provider::OpSpec {
            redirect_uris: vec![OP_CALLBACK.to_owned()],
            post_logout_redirect_uris: vec!["http://127.0.0.1:4711/".to_owned()],
            require_par: true,
            authentication: authentication.clone(),
            ..oidc_provider::OpSpec::default()
        })
        .await;
        let name = || match authentication {
            PrivateKeyJwt(_) => key.assertion(&op.client_id, &op.issuer),
            _ => vec![("client_id", op.client_id.clone()), ("client_secret", op.client_secret.clone())],
        };
        let mut pushed = request(&op.client_id, OP_CALLBACK);
        pushed.retain(|(field, _)| *field != "client_id");
        pushed.extend(name().into_iter().filter(|(_, value)| !value.is_empty()));
        let (status, answer) = post(&format!("{}/request", op.issuer), &pushed).await;
        assert_eq!(status, 201, "{authentication:?}: {answer}");
        let request_uri = answer["request_uri"].as_str().unwrap();
        let query = [("client_id", op.client_id.as_str()), ("request_uri", request_uri)];
        let url = Url::parse_with_params(&format!("{}/auth", op.issuer), query).unwrap();
        let arrived = oidc_provider::sign_in(&http(), url.as_str(), "erik").await;
        let mut exchange = code_exchange(&arrived, OP_CALLBACK);
        exchange.extend(name().into_iter().filter(|(_, value)| !value.is_empty()));
        let (status, tokens) = post(&format!("{}/token", op.issuer), &exchange).await;
        assert_eq!(status, 200, "{authentication:?}: {tokens}");
    }
}

#[tokio::test]
async fn oidc_provider_sends_logout_tokens() {
    let ear = Ear::open().await;
    let op = oidc_provider::server(oidc_provider::OpSpec {
        redirect_uris: vec![OP_CALLBACK.to_owned()],
        backchannel_logout_uri: Some(ear.url.clone()),
        ..oidc_provider::OpSpec::default()
    })
    .await;
    let arrived = oidc_provider::sign_in(&http(), &op_url(&op), "fred").await;
    let (status, tokens) = exchange_at_op(&op, code_exchange(&arrived, OP_CALLBACK)).await;
    assert_eq!(status, 200, "{tokens}");
    let (heard, ()) = tokio::join!(ear.hear(), op.send_logout_token("fred"));
    let token = logout_token(&heard);
    assert_eq!(token["sub"], "fred");
    assert_eq!(token["sid"], claims_of(&tokens, "id_token")["sid"]);
}

fn op_url(op: &oidc_provider::OidcProvider) -> String {
    let url = format!("{}/auth", op.issuer);
    Url::parse_with_params(&url, request(&op.client_id, OP_CALLBACK)).unwrap().into()
}

async fn exchange_at_op(op: &oidc_provider::OidcProvider, form: Vec<(&'static str, String)>) -> (u16, Value) {
    let request = http().post(format!("{}/token", op.issuer));
    answered(request.basic_auth(&op.client_id, Some(&op.client_secret)).form(&form)).await
}
