//! The scripted provider told to misbehave: each deviation does what its name says.

use std::time::Duration;

use serde_json::json;

use crate::house::browser::raw;
use crate::house::op::mint::{self, b64};
use crate::house::op::{Alg, Answer, Minted, Person, PublicForm, Script, SigningKey, SilentListener};
use crate::op_selftest::{callback, signed_in, text, visitor};

#[tokio::test]
async fn the_script_has_the_last_word_over_id_tokens() {
    let (op, browser) = visitor().await;
    let key = op.script(|s| s.key.clone());
    let alien = SigningKey::stranger(Alg::Rs256);
    let last = async |change: fn(&Minted) -> String| {
        op.script(|s| s.raw_id_token(change));
        text(&signed_in(&op, &browser).await["id_token"]).to_owned()
    };
    let token = last(|m| m.alg_none("nOnE")).await;
    assert_eq!(mint::peek(&token).expect("a token").0["alg"], "nOnE");
    assert!(token.ends_with('.'));
    let token = last(Minted::with_embedded_jwk).await;
    assert!(mint::verifies(&token, &alien) && !mint::verifies(&token, &key));
    let token = last(|m| m.with_raw_claim("exp", "1e400")).await;
    assert!(mint::verifies(&token, &key));
    let token = last(|m| m.with_duplicate_claim("sub", &json!("mallory"))).await;
    assert_eq!(mint::peek(&token).expect("a token").1["sub"], "mallory");
    assert_eq!(last(Minted::five_parts).await.split('.').count(), 5);
    assert!(last(|m| m.padded_to(10_000_000)).await.len() > 10_000_000);
    assert!(last(|m| m.nested(10_000)).await.len() > 20_000);
    op.script(|s| {
        s.person = Person::named("bob").with("roles", vec!["admin"]);
        s.raw_id_token(|m| m.token.clone());
        s.id_token(|header, claims| {
            header.insert("kid".into(), "elsewhere".into());
            claims.remove("nonce");
        });
    });
    let tokens = signed_in(&op, &browser).await;
    let (header, claims) = mint::peek(text(&tokens["id_token"])).expect("a token");
    assert_eq!((header["kid"].as_str(), claims.get("nonce")), (Some("elsewhere"), None));
    assert_eq!(claims["roles"], json!(["admin"]));
}

#[tokio::test]
async fn metadata_keys_and_callback_bend_to_the_script() {
    let (op, browser) = visitor().await;
    let metadata = async || browser.get("/.well-known/openid-configuration").await;
    assert_eq!(metadata().await.json()["issuer"], op.issuer());
    op.script(|s| {
        s.discovery(|document| {
            document.insert("issuer".into(), "https://other.example".into());
        });
        s.next("/.well-known/openid-configuration", Answer::text(200, "text/html", "<p>"));
    });
    assert_eq!(metadata().await.text(), "<p>");
    assert_eq!(metadata().await.json()["issuer"], "https://other.example");
    op.script(Script::rotate_key);
    let keys = browser.get("/jwks").await.json();
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
    op.script(|s| {
        s.forget_old_keys();
        s.jwks(|keys| keys.push(json!({"kty": "odd"})));
        s.authorization_response(|pairs| {
            pairs.retain(|(name, _)| name != "iss");
            pairs.push(("state".into(), "two".into()));
        });
    });
    let keys = browser.get("/jwks").await.json();
    assert_eq!(keys["keys"][1]["kty"], "odd");
    let names: Vec<_> = callback(&op, &browser).await.into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["code", "state", "state"]);
    op.script(|s| s.deny("access_denied"));
    let pairs = callback(&op, &browser).await;
    assert!(pairs.contains(&("error".into(), "access_denied".into())));
    assert!(pairs.contains(&("iss".into(), op.issuer())));
}

#[tokio::test]
async fn endpoints_misbehave_on_demand() {
    let (op, browser) = visitor().await;
    let silent = SilentListener::start();
    op.script(|s| {
        s.next("/jwks", Answer::Redirect(307, silent.url("/keys")));
        s.next("/jwks", Answer::Close);
        s.next("/jwks", Answer::Truncated("application/json", b"{\"keys\":".to_vec()));
        s.next("/jwks", Answer::error(503, "temporarily_unavailable"));
        s.next("/jwks", Answer::Normal);
        s.answer("/jwks", Answer::text(200, "text/plain", "always"));
    });
    assert_eq!(browser.get("/jwks").await.location().expect("a place").path(), "/keys");
    let closed = raw(op.address(), b"GET /jwks HTTP/1.1\r\nhost: op\r\nconnection: close\r\n\r\n");
    assert_eq!(String::from_utf8_lossy(&closed), "");
    let cut = raw(op.address(), b"GET /jwks HTTP/1.1\r\nhost: op\r\nconnection: close\r\n\r\n");
    assert!(cut.ends_with(b"{\"keys\":"), "{}", String::from_utf8_lossy(&cut));
    assert_eq!(browser.get("/jwks").await.status, 503);
    assert!(browser.get("/jwks").await.json()["keys"].is_array());
    assert_eq!(browser.get("/jwks").await.text(), "always");
    for endless in [Answer::Endless, Answer::Drip] {
        op.script(|s| s.answer("/jwks", endless));
        let mut response = browser.open("/jwks").await;
        let piece = response.chunk().await.expect("a piece").expect("not the end");
        assert!(piece.iter().all(|byte| *byte == b' '));
    }
    op.script(|s| s.answer("/jwks", Answer::Hang));
    let patience = tokio::time::timeout(Duration::from_millis(200), browser.get("/jwks"));
    assert!(patience.await.is_err());
    silent.assert_silent();
    assert!(silent.url("/x").contains(&silent.address().to_string()));
    browser.get(&silent.url("/x")).await;
    assert_eq!(silent.connections(), 1);
    assert!(silent.heard()[0].starts_with(b"GET /x "));
}

#[tokio::test]
async fn a_public_key_serves_as_a_secret_in_each_of_its_forms() {
    let (op, browser) = visitor().await;
    let key = op.script(|s| s.key.clone());
    let pem = key.public_pem();
    let forms = [
        (PublicForm::Pem, pem.clone().into_bytes()),
        (PublicForm::PemTrimmed, pem.trim().into()),
        (PublicForm::SpkiDer, key.public_der()),
        (PublicForm::RawDer, key.public_raw()),
    ];
    for (form, secret) in forms {
        op.script(|s| s.raw_id_token(move |m| m.hs256_with_public_key(form)));
        let tokens = signed_in(&op, &browser).await;
        let (input, signature) = text(&tokens["id_token"]).rsplit_once('.').expect("parts");
        let hmac = SigningKey::hmac(secret);
        assert_eq!(signature, b64(hmac.sign(input.as_bytes())), "{form:?}");
    }
    op.script(|s| s.raw_id_token(|m| m.with_key_url("jku", "http://127.0.0.1:1/keys")));
    let tokens = signed_in(&op, &browser).await;
    let (header, _) = mint::peek(text(&tokens["id_token"])).expect("a token");
    assert_eq!(header["jku"], "http://127.0.0.1:1/keys");
    assert_eq!(header["kid"], SigningKey::stranger(Alg::Rs256).kid());
    op.script(|s| s.raw_id_token(|m| m.with_typ("logout+jwt")));
    let tokens = signed_in(&op, &browser).await;
    let (header, _) = mint::peek(text(&tokens["id_token"])).expect("a token");
    assert_eq!(header["typ"], "logout+jwt");
    assert!(mint::verifies(text(&tokens["id_token"]), &key));
}

#[tokio::test]
async fn answers_of_token_and_user_info_bend_to_the_script() {
    let (op, browser) = visitor().await;
    op.script(|s| {
        s.claims(|claims| {
            claims.insert("sub".into(), 7.into());
        });
        s.access_token(|header, claims| {
            header.insert("typ".into(), "JWT".into());
            claims.insert("aud".into(), "elsewhere".into());
        });
        s.token_response(|body| {
            body.insert("token_type".into(), "bEaReR".into());
        });
        s.userinfo(|claims| {
            claims.remove("sub");
        });
    });
    let tokens = signed_in(&op, &browser).await;
    assert_eq!(tokens["token_type"], "bEaReR");
    assert_eq!(mint::peek(text(&tokens["id_token"])).expect("a token").1["sub"], 7);
    let access = text(&tokens["access_token"]);
    let (header, claims) = mint::peek(access).expect("a token");
    assert_eq!((&header["typ"], &claims["aud"]), (&json!("JWT"), &json!("elsewhere")));
    let bearer = browser.with_header("authorization", &format!("Bearer {access}"));
    assert!(bearer.get("/userinfo").await.json().get("sub").is_none());
    op.revoke_all_grants();
    assert_eq!(bearer.get("/userinfo").await.status, 401);
}
