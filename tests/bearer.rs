//! API clients that bring an access token instead of a cookie.

mod introspection;
mod local;
mod real;
mod stage;
mod tokens;

use std::time::Duration;

use serde_json::json;

use self::stage::{JWT, Stage};
use crate::house::home::op_provider;
use crate::house::op::{Person, ScriptedOp, mint};
use crate::house::upstream::{Step, Wire};
use crate::security::{events, signed_in, signed_in_as};

#[tokio::test]
async fn a_program_with_an_access_token_is_let_in_and_the_app_learns_who_it_is() {
    let stage = Stage::jwt().await;
    let token = stage.token(|claims| {
        claims.insert("org_id".into(), "acme".into());
        claims.insert("roles".into(), json!(["b", "a"]));
    });
    let answer = stage.bring("GET /in/x", &token).await;
    assert_eq!(answer.status, 200, "{}", answer.whole);
    assert!(!answer.whole.to_lowercase().contains("set-cookie"), "{}", answer.whole);
    assert!(answer.whole.contains("cache-control: private"), "{}", answer.whole);
    let seen = stage.app.last();
    assert_eq!((seen.one("x-auth-user"), seen.one("x-auth-subject")), (Some("bob"), Some("bob")));
    assert_eq!(
        (seen.one("x-auth-provider"), seen.one("x-auth-email")),
        (Some("op"), Some("bob@example.test"))
    );
    assert_eq!((seen.one("x-auth-roles"), seen.one("x-auth-tenant")), (Some("a,b"), Some("acme")));
    let rows = stage.house.database.texts("SELECT id FROM users WHERE login_count = 0").await;
    assert_eq!(rows, ["bob"], "a user of ours from now on, who never signed in");
    assert_eq!(events(&stage.house, "user.created").await, 1);
    assert_eq!(stage.house.live_sessions().await, 0);
    for line in ["GET /in/x", "POST /in/x", "DELETE /in/x"] {
        assert_eq!(stage.bring(line, &token).await.status, 200, "{line}");
    }
    assert_eq!(events(&stage.house, "user.created").await, 1);
    let me = stage.bring("GET /auth/me", &token).await;
    assert_eq!(me.status, 200, "{}", me.whole);
    assert_eq!(me.json()["user"]["id"], "bob");
    assert_eq!((&me.json()["session"], &me.json()["claims"]), (&json!(null), &json!({})));
    assert_eq!(stage.bring("GET /auth/sessions", &token).await.status, 401, "a browser's own pages");
    let metrics = stage.house.browser().get(&format!("{}/metrics", stage.house.operations)).await.text();
    assert!(metrics.contains("doorward_bearer_tokens_total{provider=\"op\",outcome=\"ok\"} 5"), "{metrics}");
}

#[tokio::test]
async fn px_14_the_clients_token_reaches_the_app_only_where_the_route_attaches_one() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    stage.bring("GET /in/x", &token).await;
    assert_eq!(stage.app.last().one("authorization"), None);
    let line = format!("Bearer {token}");
    for path in ["/token/x", "/maybe-token/x"] {
        stage.bring(&format!("GET {path}"), &token).await;
        assert_eq!(stage.app.last().one("authorization"), Some(line.as_str()), "{path}");
    }
    stage.bring("GET /assert/x", &token).await;
    let assertion = stage.app.last().one("x-auth-assertion").unwrap().to_owned();
    let (_, claims) = mint::peek(&assertion).unwrap();
    assert_eq!((&claims["sub"], &claims["roles"]), (&json!("bob"), &json!(["user"])));
    assert!(claims["sid"].as_str().unwrap().starts_with("token-"), "{claims}");
    stage.bring("GET /assert/x", &token).await;
    assert_eq!(
        stage.app.last().one("x-auth-assertion"),
        Some(assertion.as_str()),
        "the same for the same token"
    );
}

#[tokio::test]
async fn a_token_that_is_good_and_not_enough_is_told_so_and_never_sent_to_a_page() {
    let stage = Stage::jwt().await;
    let page = "accept: text/html\r\nsec-fetch-mode: navigate\r\n";
    let plain = stage.token(|_| {});
    for path in ["/admins/x", "/of-acme/x"] {
        let answer =
            stage.ask(&format!("GET {path}"), &format!("{page}authorization: Bearer {plain}\r\n")).await;
        assert_eq!(answer.status, 403, "{}", answer.whole);
        assert_eq!(answer.challenge.as_deref(), Some("Bearer error=\"insufficient_scope\""), "{path}");
    }
    let weak = stage.bring("GET /strong/x", &plain).await;
    assert_eq!(weak.status, 401, "{}", weak.whole);
    let challenge = "Bearer error=\"insufficient_user_authentication\", acr_values=\"gold\", max_age=\"600\"";
    assert_eq!(weak.challenge.as_deref(), Some(challenge));
    let expired = stage.token(|claims| {
        claims.insert("exp".into(), (stage.now_s() - 100).into());
    });
    let answer = stage.ask("GET /in/x", &format!("{page}authorization: Bearer {expired}\r\n")).await;
    assert_eq!(answer.status, 401, "no redirect: {}", answer.whole);
    stage.app.assert_silent("denials");
    let now = stage.now_s();
    let strong = stage.token(|claims| {
        claims.insert("acr".into(), "gold".into());
        claims.insert("auth_time".into(), (now - 60).into());
        claims.insert("roles".into(), json!("admin"));
        claims.insert("org_id".into(), "acme".into());
    });
    for path in ["/strong/x", "/admins/x", "/of-acme/x"] {
        let answer = stage.bring(&format!("GET {path}"), &strong).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.whole);
    }
}

#[tokio::test]
async fn a_token_is_read_from_the_header_alone() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    let form = format!("access_token={token}");
    let length = form.len();
    for (line, more) in [
        (format!("GET /in/x?access_token={token}"), String::new()),
        (format!("GET /in/x?token={token}"), String::new()),
        (format!("POST /in/x?access_token={token}"), "content-length: 0\r\n".to_owned()),
        ("GET /in/x".to_owned(), format!("x-access-token: {token}\r\n")),
        ("GET /in/x".to_owned(), format!("proxy-authorization: Bearer {token}\r\n")),
        ("GET /in/x".to_owned(), format!("authorization: Token {token}\r\n")),
        ("GET /in/x".to_owned(), format!("authorization: DPoP {token}\r\n")),
        ("GET /in/x".to_owned(), format!("cookie: access_token={token}; doorward={token}\r\n")),
        ("GET /in/x".to_owned(), format!("sec-websocket-protocol: bearer, {token}\r\n")),
    ] {
        let answer = stage.ask(&line, &more).await;
        assert_eq!((answer.status, answer.challenge.as_deref()), (401, Some("Bearer")), "{line} {more}");
    }
    let host = stage.house.url.trim_start_matches("http://");
    let mut wire = Wire::open(stage.house.address).await;
    let kind = "application/x-www-form-urlencoded";
    wire.send(format!("POST /in/x HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{form}")).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 401"));
    stage.app.assert_silent("tokens elsewhere");
    for (field, status) in [
        (format!("authorization: bearer {token}\r\n"), 200),
        (format!("authorization:BEARER    {token}  \r\n"), 200),
        (format!("Authorization: Bearer {token}, Bearer {token}\r\n"), 401),
        ("authorization: Bearer\r\n".to_owned(), 401),
        (format!("authorization: Bearer {token} x\r\n"), 401),
        (format!("authorization: Bearer \"{token}\"\r\n"), 401),
        (format!("authorization: Bearer {token}\u{e9}\r\n"), 401),
    ] {
        stage.app.forget();
        let answer = stage.ask("GET /in/x", &field).await;
        assert_eq!(answer.status, status, "{field}: {}", answer.whole);
        if status == 401 {
            answer.assert_invalid_token("not_signed_in", &field);
            stage.app.assert_silent(&field);
        }
    }
    stage.app.forget();
    let twice = format!("authorization: Bearer {token}\r\n").repeat(2);
    for fields in [twice, format!("authorization: Basic YTpi\r\nauthorization: Bearer {token}\r\n")] {
        let answer = stage.ask("GET /in/x", &fields).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("invalid_request")));
        assert_eq!(answer.challenge.as_deref(), Some("Bearer error=\"invalid_request\""));
    }
    stage.app.assert_silent("two fields");
}

#[tokio::test]
async fn a_token_decides_alone_whatever_cookie_came_with_it() {
    let stage = Stage::jwt().await;
    let browser = signed_in(&stage.house).await;
    let cookie = format!("cookie: doorward={}\r\n", browser.cookie("doorward").unwrap());
    let evil = "origin: https://evil.example\r\nsec-fetch-site: cross-site\r\n";
    let good = format!("authorization: Bearer {}\r\n", stage.token(|_| {}));
    let bad = "authorization: Bearer nonsense\r\n";
    let answer = stage.ask("GET /in/x", &format!("{cookie}{good}")).await;
    assert_eq!((answer.status, stage.app.last().one("x-auth-user")), (200, Some("bob")));
    stage.app.forget();
    stage
        .ask("GET /in/x", &format!("{cookie}{bad}"))
        .await
        .assert_invalid_token("not_signed_in", "a bad token");
    stage
        .ask("GET /auth/me", &format!("{cookie}{bad}"))
        .await
        .assert_invalid_token("not_signed_in", "a bad token");
    assert_eq!(stage.ask("POST /in/x", &format!("{cookie}{evil}")).await.status, 403, "the cookie alone");
    stage.app.assert_silent("a bad token, and another site");
    // No site can make a browser send this header without asking first.
    assert_eq!(stage.ask("POST /in/x", &format!("{cookie}{evil}{good}")).await.status, 200);
    assert_eq!(stage.app.last().one("x-auth-user"), Some("bob"));
    let me = stage.ask("GET /auth/me", &format!("{cookie}{good}")).await;
    assert_eq!(me.json()["user"]["id"], "bob");
    let basic = stage.ask("GET /in/x", &format!("{cookie}authorization: Basic YTpi\r\n")).await;
    assert_eq!(
        (basic.status, stage.app.last().one("x-auth-user")),
        (200, Some("alice")),
        "another scheme is not ours"
    );
}

#[tokio::test]
async fn on_a_public_route_a_token_that_does_not_count_is_nobody() {
    let stage = Stage::jwt().await;
    assert_eq!(stage.bring("GET /pub/x", &stage.token(|_| {})).await.status, 200);
    assert_eq!(stage.app.last().one("x-auth-user"), Some("bob"));
    let strange = stage.minted(|_| {}).alg_none("none");
    for token in ["nonsense", "", "a b", &strange] {
        assert_eq!(stage.bring("GET /pub/x", token).await.status, 200, "{token}");
        let seen = stage.app.last();
        assert!(!seen.head.to_lowercase().contains("x-auth-"), "{}", seen.head);
        assert_eq!(seen.one("authorization"), None);
    }
}

#[tokio::test]
async fn without_bearer_the_header_means_nothing() {
    let stage = Stage::with("", |plan| plan).await;
    let token = stage.token(|claims| {
        claims.insert("aud".into(), "doorward".into());
    });
    let answer = stage.bring("GET /in/x", &token).await;
    assert_eq!((answer.status, answer.challenge.as_deref()), (401, Some("Bearer")), "as without a header");
    stage.app.assert_silent("a token that nobody takes");
    let browser = signed_in_as(&stage.house, &stage.op, Person::named("alice")).await;
    let cookie = format!(
        "cookie: doorward={}\r\nauthorization: Bearer {token}\r\n",
        browser.cookie("doorward").unwrap()
    );
    assert_eq!(stage.ask("GET /in/x", &cookie).await.status, 200);
    assert_eq!(stage.app.last().one("x-auth-user"), Some("alice"));
}

#[tokio::test]
async fn each_issuers_tokens_are_judged_by_its_own_provider() {
    let (first, second) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let providers = format!(
        "{}{JWT}\n{}bearer = \"jwt\"\napi_audiences = [\"second-api\"]\n",
        op_provider("op", &first),
        op_provider("second", &second)
    );
    let stage = Stage::of(first, &providers, |plan| plan).await;
    crate::security::keep_time(&second, &stage.house);
    stage.accepted("the first", &stage.token(|_| {}), "bob").await;
    let key = second.script(|s| s.key.clone());
    let mut claims = serde_json::Value::Object(stage.minted(|_| {}).claims);
    claims["iss"] = second.issuer().into();
    claims["aud"] = "second-api".into();
    stage.accepted("the second", &mint::mint_claims("at+jwt", &claims, &key), "second|bob").await;
    claims["iss"] = stage.op.issuer().into();
    claims["aud"] = "api".into();
    let crossed = mint::mint_claims("at+jwt", &claims, &key);
    stage.refused("the first's name, the second's key", &crossed, "token_key").await;
    claims["iss"] = second.issuer().into();
    let crossed = mint::mint_claims("at+jwt", &claims, &key);
    stage.refused("the second's token for the first's audience", &crossed, "access_token_aud").await;
}

#[tokio::test]
async fn px_11_without_a_database_no_token_lets_anybody_in() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    stage.accepted("before", &token, "bob").await;
    stage.house.app().store.close().await;
    stage.app.forget();
    for line in ["GET /in/x", "GET /auth/me"] {
        assert_eq!(stage.bring(line, &token).await.status, 503, "{line}");
    }
    stage.app.assert_silent("no database");
    assert_eq!(stage.bring("GET /pub/x", &token).await.status, 200);
    assert_eq!(stage.app.last().one("x-auth-user"), None);
}

#[tokio::test]
async fn px_11_a_provider_without_keys_lets_nobody_in_and_recovers() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    stage.op.stop().await;
    assert_eq!(stage.bring("GET /in/x", &token).await.status, 503);
    stage.app.assert_silent("no keys");
    stage.op.start_again().await;
    stage.house.clock.advance(Duration::from_secs(10));
    stage.accepted("afterwards", &token, "bob").await;
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

async fn socket(stage: &Stage, token: &str) -> Wire {
    let agreed = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
    );
    stage.app.always(vec![Step::send(&agreed), Step::Echo]);
    let host = stage.house.url.trim_start_matches("http://");
    let mut wire = Wire::open(stage.house.address).await;
    wire.send(format!(
        "GET /in/socket HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {KEY}\r\nauthorization: Bearer {token}\r\n\r\n"
    ))
    .await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    wire
}

#[tokio::test]
async fn px_17_a_socket_ends_with_its_token_and_with_its_user() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    let mut until_exp = socket(&stage, &token).await;
    assert!(!until_exp.closes_within(Duration::from_millis(1500)).await, "the token lives");
    stage.house.clock.advance(Duration::from_secs(301));
    assert!(until_exp.closes_within(Duration::from_secs(2)).await, "the token is over");
    let token = stage.token(|_| {});
    let mut until_suspended = socket(&stage, &token).await;
    local::suspend(&stage, "bob").await;
    assert!(until_suspended.closes_within(Duration::from_secs(2)).await, "the user is suspended");
}

#[test]
fn sc_04_the_house_names_what_a_bearer_provider_lacks() {
    let op =
        "[[provider]]\nid = \"op\"\nkind = \"oidc\"\nissuer = \"https://id.example\"\nclient_id = \"c\"\n";
    let load = |more: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("{op}{more}")).unwrap();
        let sources = doorward::config::Sources {
            file: Some(file),
            folder: folder.path().to_owned(),
            environment: Vec::new(),
        };
        match doorward::config::load(&sources) {
            Ok(_) => String::new(),
            Err(faults) => format!("{faults:?}"),
        }
    };
    assert!(load("client_secret = \"s\"\nbearer = \"jwt\"\n").contains("api_audiences"));
    assert!(
        load("client_auth = \"none\"\nbearer = \"introspection\"\n").contains("introspection needs a client")
    );
    assert!(load("client_secret = \"s\"\nintrospection_cache = \"61s\"\n").contains("introspection_cache"));
    let good = load("client_secret = \"s\"\nbearer = \"introspection\"\n");
    assert!(!good.contains("bearer") && !good.contains("api_audiences"), "{good}");
}
