//! The flows, through the real routes and with a clock of the test's own.

mod site;

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::test::TestRequest;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use self::site::*;
use super::keys::at_hash;
use super::{Answer, Endpoint};

#[actix_web::test]
async fn a_newcomer_picks_alice_and_the_app_gets_her_tokens() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let page = send(&site, authorize("")).await;
    assert!(page.asks());
    let policy = page.header(&header::CONTENT_SECURITY_POLICY);
    assert!(policy.contains("form-action 'self' http://localhost:8080;"), "{policy}");
    assert!(page.body.contains("name=\"state\" value=\"st&#38;te\""), "{}", page.body);

    let back = press(&site, "username", "alice").await;
    assert!(back.location().as_str().starts_with(CALLBACK));
    assert_eq!(back.query("state").as_deref(), Some("st&te"));
    assert_eq!(back.query("iss").as_deref(), Some(ISSUER));

    let tokens = exchange(&site, &back.query("code").unwrap(), VERIFIER).await.json();
    let claims = idp.claims_of(text(&tokens, "id_token")).unwrap();
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["aud"], "doorward");
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["auth_time"], START_MS / 1000);
    assert_eq!(claims["at_hash"], at_hash(text(&tokens, "access_token")));
    assert_eq!(claims["roles"], json!(["user"]));
    assert!(claims.get("acr").is_none() && claims["sid"].is_string());
    let info = userinfo(&site, &tokens).await.json();
    assert_eq!(info["email"], "alice@example.test");
    assert_eq!(info["sub"], "alice");
}

#[actix_web::test]
async fn the_published_documents_agree_with_each_other() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let metadata = send(&site, get("/.well-known/openid-configuration")).await;
    assert_eq!(metadata.header(&header::CACHE_CONTROL), "no-store");
    let metadata = metadata.json();
    assert_eq!(metadata["issuer"], ISSUER);
    assert_eq!(metadata["jwks_uri"], format!("{ISSUER}/jwks.json"));
    let keys = send(&site, get("/jwks.json")).await.json();
    assert!(keys["keys"][0].get("d").is_none(), "a private key was published");
    let before = keys["keys"][0]["kid"].clone();
    idp.rotate_key().unwrap();
    let keys = send(&site, get("/jwks.json")).await.json();
    assert_ne!(keys["keys"][0]["kid"], before);
    assert_eq!(keys["keys"][1]["kid"], before);
    assert_eq!(send(&site, get("/style.css")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn a_code_used_twice_ends_its_tokens() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let code = code_of(&site, "bob").await;
    let tokens = exchange(&site, &code, VERIFIER).await.json();
    assert_eq!(userinfo(&site, &tokens).await.json()["org_id"], "acme");
    let again = exchange(&site, &code, VERIFIER).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
    assert_eq!(again.json()["error"], "invalid_grant");
    assert_eq!(userinfo(&site, &tokens).await.status, StatusCode::UNAUTHORIZED);
    let refreshed = refresh(&site, text(&tokens, "refresh_token")).await;
    assert_eq!(refreshed.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn a_wrong_verifier_gets_no_tokens_and_no_second_try() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let code = code_of(&site, "alice").await;
    let wrong = exchange(&site, &code, &"x".repeat(43)).await;
    assert_eq!(wrong.json()["error"], "invalid_grant");
    let right = exchange(&site, &code, VERIFIER).await;
    assert_eq!(right.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn a_code_lives_for_a_minute() {
    let (idp, clock) = issuer();
    let site = site(&idp).await;
    let (early, late) = (code_of(&site, "alice").await, code_of(&site, "alice").await);
    clock.advance_seconds(59);
    assert_eq!(exchange(&site, &early, VERIFIER).await.status, StatusCode::OK);
    clock.advance_seconds(1);
    assert_eq!(exchange(&site, &late, VERIFIER).await.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn a_foreign_host_or_a_proxy_is_refused_in_plain_words() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let page = "/.well-known/openid-configuration";
    let foreign = get(page).insert_header((header::HOST, "rebound.evil.test"));
    let proxied = get(page).insert_header(("x-forwarded-for", "127.0.0.1"));
    let nameless = TestRequest::get().uri("/dev-idp/style.css");
    let unknown = get("/nothing-here").insert_header((header::FORWARDED, "for=127.0.0.1"));
    let remote = get(page).peer_addr("192.0.2.7:5000".parse().unwrap());
    for request in [foreign, proxied, nameless, unknown, remote] {
        let answered = send(&site, request).await;
        assert_eq!(answered.status, StatusCode::FORBIDDEN);
        assert!(answered.body.starts_with("The development IdP"), "{}", answered.body);
        assert!(answered.headers.contains_key(header::CONTENT_SECURITY_POLICY));
    }
}

#[actix_web::test]
async fn a_hostile_redirect_uri_is_never_followed() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    for hostile in ["http://evil.test/cb", "https://evil.test/cb", "http://localhost@evil.test/"] {
        let mut fields = request_fields();
        fields.retain(|(name, _)| *name != "redirect_uri");
        fields.push(("redirect_uri", hostile.to_owned()));
        fields.push(("prompt", "none".to_owned()));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        fields.push(("username", "alice".to_owned()));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let shown = send(&site, get(&format!("/authorize?{query}"))).await;
        let pressed = send(&site, post("/authorize", &fields)).await;
        for answered in [shown, pressed] {
            assert_eq!(answered.status, StatusCode::BAD_REQUEST);
            assert!(!answered.headers.contains_key(header::LOCATION));
        }
    }
}

#[actix_web::test]
async fn sam_is_sent_back_as_disabled_and_whoever_cancels_as_denied() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let sam = press(&site, "username", "sam").await;
    assert_eq!(sam.query("error").as_deref(), Some("account_disabled"));
    assert_eq!(sam.query("state").as_deref(), Some("st&te"));
    assert_eq!(sam.query("iss").as_deref(), Some(ISSUER));
    assert!(!sam.headers.contains_key(header::SET_COOKIE));
    let cancelled = press(&site, "cancel", "1").await;
    assert_eq!(cancelled.query("error").as_deref(), Some("access_denied"));
}

#[actix_web::test]
async fn who_is_signed_in_here_passes_silently_until_asked_again() {
    let (idp, clock) = issuer();
    let site = site(&idp).await;
    let stranger = send(&site, authorize("&prompt=none")).await;
    assert_eq!(stranger.query("error").as_deref(), Some("login_required"));

    let signed_in = press(&site, "username", "ada").await;
    let set_cookie = signed_in.header(&header::SET_COOKIE);
    for part in ["doorward-dev-idp=", "HttpOnly", "SameSite=Lax", "Path=/dev-idp"] {
        assert!(set_cookie.contains(part), "{set_cookie}");
    }
    let cookie = signed_in.cookie();
    let again = |more: &str| authorize(more).insert_header((header::COOKIE, cookie.clone()));
    clock.advance_seconds(100);
    for more in ["", "&prompt=none", "&max_age=101", "&prompt=consent", "&login_hint=bob"] {
        assert!(send(&site, again(more)).await.query("code").is_some(), "{more}");
    }
    for more in ["&prompt=login", "&prompt=select_account", "&max_age=100", "&screen=signup"] {
        assert!(send(&site, again(more)).await.asks(), "{more}");
    }
    let too_old = send(&site, again("&prompt=none&max_age=100")).await;
    assert_eq!(too_old.query("error").as_deref(), Some("login_required"));
}

#[actix_web::test]
async fn a_step_up_keeps_the_session_and_renews_its_time() {
    let (idp, clock) = issuer();
    let site = site(&idp).await;
    let first = press(&site, "username", "ada").await;
    let cookie = first.cookie();
    let before = exchange(&site, &first.query("code").unwrap(), VERIFIER).await.json();
    let before = idp.claims_of(text(&before, "id_token")).unwrap();
    clock.advance_seconds(30);
    let mut fields = request_fields();
    fields.extend([("acr_values", "2 1".to_owned()), ("username", "ada".to_owned())]);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let second = post("/authorize", &fields).insert_header((header::COOKIE, cookie.clone()));
    let second = send(&site, second).await;
    assert_ne!(second.cookie(), cookie, "the session key is new at every sign-in");
    let after = exchange(&site, &second.query("code").unwrap(), VERIFIER).await.json();
    let after = idp.claims_of(text(&after, "id_token")).unwrap();
    assert_eq!(after["sid"], before["sid"]);
    assert_eq!(after["acr"], "2");
    assert_eq!(after["auth_time"], START_MS / 1000 + 30);
}

#[actix_web::test]
async fn a_login_hint_focuses_a_button_and_signs_nobody_in() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let page = send(&site, authorize("&login_hint=ada@example.test")).await;
    assert_eq!(page.body.matches("autofocus").count(), 1);
    let button = page.body.find("value=\"ada\"").unwrap();
    let focus = page.body.find("autofocus").unwrap();
    assert!(focus > button && focus - button < 80);
}

#[actix_web::test]
async fn a_form_from_another_site_chooses_nobody() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let foreign =
        post("/authorize", &[("username", "alice")]).insert_header(("sec-fetch-site", "cross-site"));
    let answered = send(&site, foreign).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    assert!(answered.body.contains("another site"));
}

#[actix_web::test]
async fn refresh_tokens_rotate_and_a_reused_one_ends_the_grant() {
    let (idp, clock) = issuer();
    let site = site(&idp).await;
    let first = exchange(&site, &code_of(&site, "alice").await, VERIFIER).await.json();
    clock.advance_seconds(300);
    assert_eq!(userinfo(&site, &first).await.status, StatusCode::UNAUTHORIZED);
    let second = refresh(&site, text(&first, "refresh_token")).await.json();
    assert_eq!(userinfo(&site, &second).await.status, StatusCode::OK);
    let claims = idp.claims_of(text(&second, "id_token")).unwrap();
    assert!(claims.get("nonce").is_none());
    assert_eq!(claims["auth_time"], START_MS / 1000);
    let reused = refresh(&site, text(&first, "refresh_token")).await;
    assert_eq!(reused.json()["error"], "invalid_grant");
    let newest = refresh(&site, text(&second, "refresh_token")).await;
    assert_eq!(newest.json()["error"], "invalid_grant");
    assert_eq!(userinfo(&site, &second).await.status, StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn a_password_is_the_name_and_sam_is_disabled() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let tokens = with_password(&site, "alice", "alice").await.json();
    assert_eq!(idp.claims_of(text(&tokens, "id_token")).unwrap()["sub"], "alice");
    let wrong = with_password(&site, "alice", "bob").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(wrong.json()["error"], "invalid_grant");
    let sam = with_password(&site, "sam", "sam").await.json();
    assert_eq!(sam["error_description"], "Account disabled");
}

#[actix_web::test]
async fn a_pushed_request_is_good_once_and_for_its_client() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let fields = request_fields();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut uris = Vec::new();
    for _ in 0..2 {
        let pushed = send(&site, post("/par", &fields)).await;
        assert_eq!(pushed.status, StatusCode::CREATED);
        uris.push(text(&pushed.json(), "request_uri").to_owned());
    }
    let ask = |client: &str, uri: &str| get(&format!("/authorize?client_id={client}&request_uri={uri}"));
    assert!(send(&site, ask("doorward", &uris[0])).await.asks());
    let again = send(&site, ask("doorward", &uris[0])).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
    let other = send(&site, ask("other", &uris[1])).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn logout_ends_the_sign_in_and_its_tokens_and_goes_to_loopback_alone() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let signed_in = press(&site, "username", "bob").await;
    let tokens = exchange(&site, &signed_in.query("code").unwrap(), VERIFIER).await.json();
    let hint = text(&tokens, "id_token");
    let back = "http://localhost:8080/auth/signed-out";
    let end =
        |back: &str| get(&format!("/logout?id_token_hint={hint}&post_logout_redirect_uri={back}&state=x"));
    assert_eq!(send(&site, end("http://evil.test/")).await.status, StatusCode::BAD_REQUEST);
    let ended = send(&site, end(back)).await;
    assert_eq!(ended.location().as_str(), format!("{back}?state=x"));
    assert!(ended.header(&header::SET_COOKIE).contains("Max-Age=0"));
    assert_eq!(userinfo(&site, &tokens).await.status, StatusCode::UNAUTHORIZED);
    let again = authorize("&prompt=none").insert_header((header::COOKIE, signed_in.cookie()));
    assert_eq!(send(&site, again).await.query("error").as_deref(), Some("login_required"));
}

#[actix_web::test]
async fn a_revoked_refresh_token_ends_its_grant_for_its_own_client_alone() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let tokens = with_password(&site, "alice", "alice").await.json();
    let token = text(&tokens, "refresh_token");
    for (client, left) in [("other", StatusCode::OK), ("doorward", StatusCode::UNAUTHORIZED)] {
        let revoked = send(&site, post("/revoke", &[("client_id", client), ("token", token)])).await;
        assert_eq!(revoked.status, StatusCode::OK);
        assert_eq!(userinfo(&site, &tokens).await.status, left, "after {client} asked");
    }
}

#[actix_web::test]
async fn form_post_answers_with_a_form_to_the_redirect_uri() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let page = send(&site, authorize("&response_mode=form_post&prompt=none")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains(&format!("action=\"{CALLBACK}\"")));
    assert!(page.body.contains("name=\"error\" value=\"login_required\""), "{}", page.body);
}

#[actix_web::test]
async fn the_switch_decides_the_next_answer_and_only_that() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let error = |error: &str| Answer::Error { error: error.to_owned(), description: String::new() };
    idp.next_answer_is(Endpoint::Token, error("invalid_grant"));
    assert_eq!(with_password(&site, "ada", "ada").await.json()["error"], "invalid_grant");

    let header = Map::from_iter([("typ".to_owned(), json!("logout+jwt"))]);
    let claims = Map::from_iter([("sub".to_owned(), json!("mallory")), ("at_hash".to_owned(), Value::Null)]);
    idp.next_answer_is(Endpoint::Token, Answer::IdToken { header, claims });
    let tokens = with_password(&site, "ada", "ada").await.json();
    let claims = idp.claims_of(text(&tokens, "id_token")).unwrap();
    assert!(claims["sub"] == "mallory" && claims.get("at_hash").is_none());

    idp.next_answer_is(Endpoint::Token, Answer::Lost);
    let lost = with_password(&site, "ada", "ada").await;
    assert!(lost.body.is_empty());

    idp.next_answer_is(Endpoint::Authorize, error("temporarily_unavailable"));
    let sent = send(&site, authorize("")).await;
    assert_eq!(sent.query("error").as_deref(), Some("temporarily_unavailable"));
    assert!(send(&site, authorize("")).await.asks());

    let members = Map::from_iter([("issuer".to_owned(), json!("http://localhost:1"))]);
    idp.next_answer_is(Endpoint::Discovery, Answer::Members(members));
    for expected in ["http://localhost:1", ISSUER] {
        let metadata = send(&site, get("/.well-known/openid-configuration")).await.json();
        assert_eq!(metadata["issuer"], expected);
    }
    assert_eq!(idp.times_asked(Endpoint::Token), 3);
}

#[actix_web::test]
async fn an_answer_can_be_held_until_the_test_lets_it_go() {
    let (idp, _) = issuer();
    let site = site(&idp).await;
    let release = Arc::new(tokio::sync::Notify::new());
    idp.next_answer_is(Endpoint::Token, Answer::Held(Arc::clone(&release)));
    let held = with_password(&site, "ada", "ada");
    let (answered, ()) = tokio::join!(held, async { release.notify_one() });
    assert_eq!(answered.status, StatusCode::OK);
}
