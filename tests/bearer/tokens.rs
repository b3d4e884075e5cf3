//! Chapter 3 of the security document for access tokens: every rule, by tokens whose signatures are good unless that is the rule.

use std::time::Duration;

use serde_json::{Value, json};

use super::stage::{Stage, set};
use crate::house::op::mint::{self, flip_bit};
use crate::house::op::{Alg, PublicForm, Script, SigningKey};
use crate::house::servers::http;
use crate::refresh::{held, only_session, plain};
use crate::security::signed_in;

#[tokio::test]
async fn tk_01_only_the_configured_issuer_is_believed() {
    let stage = Stage::jwt().await;
    let issuer = stage.op.issuer();
    let odd = vec![
        None,
        Some(json!(format!("{issuer}/"))),
        Some(json!(issuer.to_uppercase())),
        Some(json!("https://id.example")),
        Some(json!([issuer])),
        Some(json!({"iss": issuer})),
        Some(json!(null)),
    ];
    stage.claim_refused("iss", odd, "access_token_iss").await;
    stage.accepted("an honest one", &stage.token(|_| {}), "bob").await;
}

#[tokio::test]
async fn tk_02_a_token_must_be_meant_for_a_listed_audience() {
    let stage = Stage::jwt().await;
    let strange = [
        json!("strange"),
        json!("API"),
        json!("api "),
        json!([]),
        json!(["strange"]),
        json!(""),
        json!(null),
    ];
    let odd =
        [json!(7), json!(true), json!({"api": 1}), json!(["api", 7]), json!([["api"]]), json!("api other")];
    let all = strange.into_iter().chain(odd).map(Some).chain([None]).collect();
    stage.claim_refused("aud", all, "access_token_aud").await;
    let good = [json!("api"), json!(["api"]), json!(["account", "api"]), json!(["other"])];
    stage.claim_accepted("aud", good.map(Some).to_vec()).await;
}

#[tokio::test]
async fn tk_03_the_signature_covers_every_bit() {
    let stage = Stage::jwt().await;
    let token = stage.token(|_| {});
    stage.accepted("whole", &token, "bob").await;
    stage.refused("a signature with a flipped bit", &flip_bit(&token, 2, 77), "token_signature").await;
    let good = stage.minted(|_| {});
    let mut claims = Value::Object(good.claims.clone());
    claims["sub"] = "ada".into();
    let parts: Vec<&str> = good.token.split('.').collect();
    let swapped = format!("{}.{}.{}", parts[0], mint::b64(claims.to_string()), parts[2]);
    stage.refused("another payload", &swapped, "token_signature").await;
    let stranger = good.signed_by(&SigningKey::stranger(Alg::Rs256));
    stage.refused("a stranger's key under our kid", &stranger, "token_signature").await;
}

#[tokio::test]
async fn tk_04_the_algorithm_is_the_operators_to_choose() {
    let stage = Stage::jwt().await;
    let good = stage.minted(|_| {});
    for spelling in ["none", "None", "nOnE", "NONE"] {
        // Without a signature it is not even a JWS in its compact form; with a made-up one its algorithm is refused.
        let bare = good.alg_none(spelling);
        stage.refused(&format!("alg {spelling}, no signature"), &bare, "token_malformed").await;
        stage.refused(&format!("alg {spelling}"), &format!("{bare}AAAA"), "token_alg").await;
    }
    for form in [PublicForm::Pem, PublicForm::PemTrimmed, PublicForm::SpkiDer, PublicForm::RawDer] {
        let token = good.hs256_with_public_key(form);
        stage.refused(&format!("HS256 by the public key as {form:?}"), &token, "token_alg").await;
    }
    let es256 = SigningKey::shared(Alg::Es256, 77);
    stage.refused("ES256 against an RSA key", &good.signed_by(&es256), "token_key").await;
    stage
        .refused("an alg of another type", &good.with_header("alg", json!(7), &good.key), "token_header")
        .await;
}

#[tokio::test]
async fn tk_05_a_token_cannot_bring_its_own_key() {
    let stage = Stage::jwt().await;
    stage.accepted("an honest one", &stage.token(|_| {}), "bob").await;
    stage.op.clear();
    let good = stage.minted(|_| {});
    stage.refused("jwk", &good.with_embedded_jwk(), "token_header").await;
    for member in ["jku", "x5u"] {
        let token = good.with_key_url(member, &stage.op.url("/evil-keys"));
        stage.refused(member, &token, "token_header").await;
    }
    assert_eq!(stage.op.count("/evil-keys"), 0);
}

#[tokio::test]
async fn tk_06_times_are_numbers_and_count() {
    let stage = Stage::jwt().await;
    let now = stage.now_s();
    let odd =
        || [json!("now"), json!(null), json!(true), json!({}), json!([now]), json!(-1)].map(Some).to_vec();
    for name in ["exp", "iat"] {
        stage.claim_refused(name, odd(), "access_token_time").await;
        stage.claim_refused(name, vec![None], "access_token_time").await;
        let token = stage.minted(|_| {}).with_raw_claim(name, "1e400");
        eprintln!("case: {name} = 1e400");
        stage.bring("GET /in/x", &token).await.assert_invalid_token("not_signed_in", "1e400");
    }
    stage.claim_refused("nbf", odd(), "access_token_time").await;
    let at = |seconds: i64| vec![Some(json!(stage.now_s() + seconds))];
    stage.claim_refused("exp", at(-61), "access_token_expired").await;
    stage.claim_accepted("exp", at(-50)).await;
    stage.claim_refused("nbf", at(120), "access_token_nbf").await;
    stage.claim_accepted("nbf", at(50)).await;
    stage.claim_refused("iat", at(120), "access_token_iat").await;
    stage.claim_accepted("iat", at(50)).await;
    // What has ended is remembered for a day; an older token could outlive our memory.
    stage.claim_accepted("iat", at(-24 * 3600)).await;
    stage.claim_refused("iat", at(-24 * 3600 - 62), "access_token_iat").await;
}

#[tokio::test]
async fn tk_08_a_token_speaks_for_one_short_name() {
    let stage = Stage::jwt().await;
    let odd = [json!(""), json!(7), json!(null), json!(["bob"]), json!("x".repeat(256)), json!("a\nb")];
    let odd = odd.into_iter().map(Some).chain([None]).collect();
    stage.claim_refused("sub", odd, "access_token_sub").await;
    stage
        .claim_refused("sid", [json!(7), json!(""), json!(["s"])].map(Some).to_vec(), "access_token_sid")
        .await;
}

#[tokio::test]
async fn tk_10_no_other_kind_of_token_is_an_access_token() {
    // The client's own id is an audience here, so that nothing but the kind can tell.
    let keys = "bearer = \"jwt\"\napi_audiences = [\"api\", \"doorward\"]\n";
    let stage = Stage::with(keys, |plan| plan).await;
    signed_in(&stage.house).await;
    let tokens = held(&stage.house, &only_session(&stage.house).await).await;
    stage.refused("an ID token", &plain(tokens.id.as_ref()), "access_token_type").await;
    stage.refused("a refresh token", &plain(tokens.refresh.as_ref()), "token_malformed").await;
    stage
        .refused("a logout token", &stage.op.logout_token(Some("alice"), None, |_| {}), "access_token_type")
        .await;
    let good = stage.minted(|_| {});
    for typ in ["logout+jwt", "id_token+jwt", "dpop+jwt", "secevent+jwt", "client-authentication+jwt", ""] {
        stage.refused(typ, &good.with_typ(typ), "access_token_type").await;
    }
    for (case, typ) in
        [("RFC 9068", "AT+JWT"), ("its long name", "application/at+jwt"), ("an older provider", "JWT")]
    {
        stage.accepted(case, &good.with_typ(typ), "bob").await;
    }
    for name in ["nonce", "at_hash", "c_hash", "events"] {
        let token = stage.minted(|claims| set(claims, name, Some(json!("x")))).with_typ("JWT");
        stage.refused(&format!("a JWT with {name}"), &token, "access_token_type").await;
    }
    let bare = stage.minted(|claims| {
        claims.remove("scope");
        claims.remove("client_id");
    });
    stage.refused("a JWT that could be anything", &bare.with_typ("JWT"), "access_token_type").await;
    for kind in ["ID", "Refresh", "Offline", "Logout"] {
        let token = stage.token(|claims| set(claims, "typ", Some(json!(kind))));
        stage.refused(&format!("typ {kind} in the payload"), &token, "access_token_type").await;
    }
    // And an access token opens no other door.
    let at_logout = format!("logout_token={}", good.token);
    let kind = "application/x-www-form-urlencoded";
    let url = format!("{}/auth/backchannel-logout/op", stage.house.url);
    let told = http().post(url).header("content-type", kind).body(at_logout).send().await.unwrap();
    assert_eq!(told.status(), 400);
}

#[tokio::test]
async fn tk_11_what_would_change_a_tokens_meaning_is_refused() {
    let stage = Stage::jwt().await;
    let good = stage.minted(|_| {});
    let header = |name: &str, value: Value| good.with_header(name, value, &good.key);
    for (name, value) in
        [("crit", json!(["exp"])), ("crit", json!([])), ("b64", json!(false)), ("zip", json!("DEF"))]
    {
        stage.refused(name, &header(name, value), "token_header").await;
    }
    stage.refused("five parts", &good.five_parts(), "token_encrypted").await;
    for (case, token) in [
        ("a claim twice", good.with_duplicate_claim("sub", &json!("ada"))),
        ("deep nesting", good.nested(100)),
        ("not an object", good.with_claims_text("[1]")),
        ("padding", format!("{}=", good.token)),
        ("opaque", "opaque-token".to_owned()),
        ("dots", "....".to_owned()),
    ] {
        // Not a JWT that can be read; and opaque tokens are nobody's here.
        eprintln!("case: {case}");
        stage.app.forget();
        stage.bring("GET /in/x", &token).await.assert_invalid_token("not_signed_in", case);
        stage.app.assert_silent(case);
    }
    let huge = good.padded_to(20_000);
    assert_eq!(stage.bring("GET /in/x", &huge).await.status, 431, "larger than any head");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_key_is_no_bearer_token() {
    let stage = Stage::jwt().await;
    for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({}), json!("x")] {
        stage.claim_refused("cnf", vec![Some(cnf)], "access_token_bound").await;
    }
}

#[tokio::test]
async fn tk_16_a_new_key_counts_at_the_first_try_and_a_removed_one_no_more() {
    let stage = Stage::jwt().await;
    let old = stage.token(|_| {});
    stage.accepted("the first key", &old, "bob").await;
    stage.op.script(Script::rotate_key);
    stage.accepted("the new key", &stage.token(|_| {}), "bob").await;
    stage.accepted("the old key beside it", &old, "bob").await;
    stage.op.script(Script::forget_old_keys);
    stage.house.clock.advance(Duration::from_mins(61));
    let old_key = stage.minted(|_| {});
    let forgotten = SigningKey::stranger(Alg::Rs256);
    stage.accepted("the key that is left", &old_key.token, "bob").await;
    let mut header = old_key.header.clone();
    header.insert("kid".into(), forgotten.kid().into());
    let token = old_key.with_header_text(&Value::Object(header).to_string(), &forgotten);
    stage.refused("a key that is gone", &token, "token_key").await;
}

#[tokio::test]
async fn tk_17_made_up_keys_cost_one_fetch_a_minute_and_none_that_a_login_needs() {
    let stage = Stage::jwt().await;
    stage.accepted("an honest one", &stage.token(|_| {}), "bob").await;
    let before = stage.op.count("/jwks");
    let good = stage.minted(|_| {});
    for n in 0..200 {
        let token = good.with_header("kid", json!(format!("made-up-{n}")), &good.key);
        assert_eq!(stage.bring("GET /in/x", &token).await.status, 401);
    }
    assert!(stage.op.count("/jwks") <= before + 1, "{} fetches", stage.op.count("/jwks") - before);
    stage.op.script(Script::rotate_key);
    signed_in(&stage.house).await;
    stage.accepted("the key that the login brought", &stage.token(|_| {}), "bob").await;
}

#[tokio::test]
async fn ec_and_ed_keys_sign_access_tokens_too() {
    for alg in [Alg::Es256, Alg::EdDsa] {
        let stage = Stage::jwt().await;
        // What metadata announces is for ID tokens: it keeps no access token out.
        stage.op.script(|s| {
            s.sign_with(alg);
            s.discovery(|d| {
                d.insert("id_token_signing_alg_values_supported".into(), json!(["RS256"]));
            });
        });
        stage.accepted(&format!("{alg:?}"), &stage.token(|_| {}), "bob").await;
    }
}
