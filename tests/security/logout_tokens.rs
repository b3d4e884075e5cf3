//! Chapter 9 as far as a provider's own word goes: logout tokens, rule by rule, and once each.

use std::time::{Duration, Instant};

use doorward::domain::Clock as _;
use serde_json::{Map, Value, json};

use super::stage::Stage;
use super::{is_signed_in, signed_in};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::keys::Alg;
use crate::house::op::mint::{self, flip_bit, peek};
use crate::house::op::{Answer, Person, ScriptedOp, SigningKey};
use crate::house::servers::http;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

struct Told {
    status: u16,
    store: Option<String>,
    body: String,
}

async fn post_to(house: &TestHouse, provider: &str, content_type: &str, body: String) -> Told {
    let url = format!("{}/auth/backchannel-logout/{provider}", house.url);
    let sent = http().post(url).header("content-type", content_type).body(body).send().await.unwrap();
    let header = |name: &str| sent.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert!(header("set-cookie").is_none());
    let (status, store) = (sent.status().as_u16(), header("cache-control"));
    Told { status, store, body: sent.text().await.unwrap() }
}

pub async fn tell(house: &TestHouse, token: &str) -> u16 {
    let body =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish();
    let told = post_to(house, "op", "application/x-www-form-urlencoded", body).await;
    assert_eq!(told.store.as_deref(), Some("no-store"), "{}", told.status);
    told.status
}

pub async fn stage() -> Stage {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("LIMITS__BAD_LOGOUT_TOKENS", "\"off\"");
    Stage::of(op, plan).await
}

/// The token is refused for this reason, and nobody is signed out.
async fn assert_refused(stage: &Stage, case: &str, token: &str, reason: &str) {
    eprintln!("case: {case} must be refused as {reason}");
    // At most sixty refusals of one address are recorded in a minute.
    stage.house.clock.advance(Duration::from_secs(1));
    let before = stage.house.refusals(reason).await;
    assert_eq!(tell(&stage.house, token).await, 400, "{case}");
    assert_eq!(stage.house.refusals(reason).await, before + 1, "{case} was not recorded as {reason}");
    assert_eq!(stage.house.live_sessions().await, 1, "{case} ended a session");
}

type Change = Box<dyn FnOnce(&mut Map<String, Value>)>;

fn without(name: &'static str) -> Change {
    Box::new(move |claims| {
        claims.remove(name);
    })
}

fn with(name: &'static str, value: Value) -> Change {
    Box::new(move |claims| {
        claims.insert(name.to_owned(), value);
    })
}

#[tokio::test]
async fn lo_04_each_missing_or_wrong_claim_is_a_refusal_with_its_own_reason() {
    let stage = stage().await;
    let browser = signed_in(&stage.house).await;
    let sid = stage.op.sids().remove(0);
    let now = stage.now_s();
    let cases: Vec<(&str, Change, &str)> = vec![
        ("no iss", without("iss"), "logout_token_iss"),
        ("another iss", with("iss", json!("https://evil.example")), "logout_token_iss"),
        ("iss with a slash more", with("iss", json!(format!("{}/", stage.op.issuer()))), "logout_token_iss"),
        ("no aud", without("aud"), "logout_token_aud"),
        ("another aud", with("aud", json!("another")), "logout_token_aud"),
        ("a stranger in aud", with("aud", json!(["doorward", "another"])), "logout_token_aud"),
        ("an empty aud", with("aud", json!([])), "logout_token_aud"),
        ("aud is no text", with("aud", json!([["doorward"]])), "logout_token_aud"),
        ("no iat", without("iat"), "logout_token_iat"),
        ("iat of ten minutes ago", with("iat", json!(now - 600)), "logout_token_iat"),
        ("iat in ten minutes", with("iat", json!(now + 600)), "logout_token_iat"),
        ("iat as text", with("iat", json!(now.to_string())), "logout_token_iat"),
        ("no exp", without("exp"), "logout_token_exp"),
        ("exp is over", with("exp", json!(now - 100)), "logout_token_exp"),
        ("exp as text", with("exp", json!("tomorrow")), "logout_token_exp"),
        ("nbf ahead", with("nbf", json!(now + 600)), "logout_token_nbf"),
        ("no jti", without("jti"), "logout_token_jti"),
        ("an empty jti", with("jti", json!("")), "logout_token_jti"),
        ("jti as number", with("jti", json!(7)), "logout_token_jti"),
        ("no events", without("events"), "logout_token_events"),
        ("events as list", with("events", json!([EVENT])), "logout_token_events"),
        (
            "another event",
            with("events", json!({ "http://schemas.openid.net/event/other": {} })),
            "logout_token_events",
        ),
        ("the event is true", with("events", json!({ EVENT: true })), "logout_token_events"),
        ("a nonce", with("nonce", json!("n")), "logout_token_nonce"),
        ("an empty nonce", with("nonce", Value::Null), "logout_token_nonce"),
        ("an empty sub", with("sub", json!("")), "logout_token_sub"),
        ("sub as number", with("sub", json!(1)), "logout_token_sub"),
        ("sid as list", with("sid", json!([sid])), "logout_token_sid"),
        ("neither sub nor sid", without("sid"), "logout_token_sub"),
        ("somebody else's sub", with("sub", json!("bob")), "logout_token_subject"),
    ];
    for (case, change, reason) in cases {
        let token = stage.op.logout_token(None, Some(&sid), change);
        assert_refused(&stage, case, &token, reason).await;
    }
    assert!(is_signed_in(&browser).await);
    // What Keycloak adds and what is merely unusual is no fault.
    let odd = stage.op.logout_token(Some("alice"), Some(&sid), |claims| {
        claims.insert("events".into(), json!({ EVENT: {}, "revoke_offline_access": true }));
        claims.insert("typ".into(), json!("Logout"));
        claims.insert("aud".into(), json!(["doorward"]));
    });
    assert_eq!(tell(&stage.house, &odd).await, 200);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn lo_04_a_token_that_its_provider_did_not_sign_is_refused() {
    let stage = stage().await;
    let browser = signed_in(&stage.house).await;
    let good = || stage.op.logout_token(Some("alice"), None, |_| {});
    let (_, claims) = peek(&good()).unwrap();
    let key = stage.op.script(|s| s.key.clone());
    let stranger = SigningKey::stranger(Alg::Rs256);
    let header = |alg: &str| json!({ "alg": alg, "typ": "logout+jwt", "kid": key.kid() }).to_string();
    let unsigned = mint::mint(&header("none"), &claims.to_string(), &SigningKey::unsigned());
    let minted = mint::Minted {
        header: serde_json::from_str(&header("RS256")).unwrap(),
        claims: claims.as_object().unwrap().clone(),
        token: good(),
        key: key.clone(),
    };
    for (case, token, reason) in [
        ("a flipped bit", flip_bit(&good(), 2, 9), "token_signature"),
        ("another claim set", flip_bit(&good(), 2, 77), "token_signature"),
        ("a stranger's signature", minted.signed_by(&stranger), "token_signature"),
        ("no signature", unsigned, "token_malformed"),
        ("an HMAC by the public key", minted.hs256_with_public_key(mint::PublicForm::Pem), "token_alg"),
        ("five parts", minted.five_parts(), "token_encrypted"),
        ("no token", "x".to_owned(), "token_malformed"),
    ] {
        assert_refused(&stage, case, &token, reason).await;
    }
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn lo_05_the_type_is_named_except_where_a_provider_may_be_older_than_that_rule() {
    let op = ScriptedOp::start().await;
    let keycloak = op_provider("op", &op).replace("kind = \"oidc\"", "kind = \"keycloak\"");
    for (provider, lenient) in [(op_provider("op", &op), true), (keycloak, false)] {
        let stage = Stage::of(
            ScriptedOp::start().await,
            TestHouse::with(&provider).set("LIMITS__BAD_LOGOUT_TOKENS", "\"off\""),
        )
        .await;
        op.set_now(stage.now());
        let key = op.script(|s| s.key.clone());
        let claims = |sid: &str| peek(&op.logout_token(None, Some(sid), |_| {})).unwrap().1.to_string();
        let typed = |typ: Value| {
            let mut header = json!({ "alg": "RS256", "kid": key.kid() });
            if !typ.is_null() {
                header["typ"] = typ;
            }
            mint::mint(&header.to_string(), &claims("s"), &key)
        };
        for (typ, passes) in [
            (json!("logout+jwt"), true),
            (json!("application/LOGOUT+JWT"), true),
            (json!("JWT"), lenient),
            (Value::Null, lenient),
            (json!("at+jwt"), false),
            (json!("id_token+jwt"), false),
            (json!("secevent+jwt"), false),
            (json!(""), false),
        ] {
            let status = tell(&stage.house, &typed(typ.clone())).await;
            assert_eq!(status == 200, passes, "{typ} lenient: {lenient} answered {status}");
        }
    }
}

#[tokio::test]
async fn tk_10_an_id_token_signs_nobody_out_and_a_logout_token_signs_nobody_in() {
    let stage = stage().await;
    let kept = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let copy = std::sync::Arc::clone(&kept);
    stage.op.script(|s| {
        s.raw_id_token(move |minted| {
            copy.lock().unwrap().clone_from(&minted.token);
            minted.token.clone()
        });
    });
    signed_in(&stage.house).await;
    let id_token = kept.lock().unwrap().clone();
    assert_refused(&stage, "an ID token", &id_token, "logout_token_events").await;
    stage.house.rewrite("DELETE FROM audit_log; UPDATE sessions SET revoked_at = 1").await;
    let token = stage.op.logout_token(Some("alice"), Some("s"), |_| {});
    stage.op.script(|s| s.raw_id_token(move |_| token.clone()));
    stage.refused("a logout token for an ID token", "id_token_type").await;
}

#[tokio::test]
async fn lo_06_a_sid_ends_one_session_a_sub_all_and_another_issuer_nothing() {
    let (op, other) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let providers = format!(
        "{}\n{}",
        op_provider("op", &op),
        op_provider("other", &other).replace("kind", "id_prefix = \"o-\"\nkind")
    );
    let house = TestHouse::with(&providers).open().await;
    let enters = async |path: &str| {
        let browser = house.browser();
        let page = browser.sign_in(path).await;
        assert_eq!(page.status, 200, "{}", page.text());
        browser
    };
    let (phone, laptop) = (
        enters("/auth/login?provider=op&return_to=/protected").await,
        enters("/auth/login?provider=op&return_to=/protected").await,
    );
    op.script(|s| s.person = Person::named("bob"));
    let bob = enters("/auth/login?provider=op&return_to=/protected").await;
    // The same subject and the same `sid`, at another issuer.
    let sids = op.sids();
    other.script(|s| s.sid = Some(sids[0].clone()));
    let elsewhere = enters("/auth/login?provider=other&return_to=/protected").await;
    let signed_in = async || {
        [
            is_signed_in(&phone).await,
            is_signed_in(&laptop).await,
            is_signed_in(&bob).await,
            is_signed_in(&elsewhere).await,
        ]
    };
    assert_eq!(tell(&house, &op.logout_token(None, Some("nobody's"), |_| {})).await, 200);
    assert_eq!(signed_in().await, [true; 4]);
    assert_eq!(tell(&house, &op.logout_token(Some("alice"), Some(&sids[0]), |_| {})).await, 200);
    assert_eq!(signed_in().await, [false, true, true, true]);
    assert_eq!(tell(&house, &op.logout_token(Some("alice"), None, |_| {})).await, 200);
    assert_eq!(signed_in().await, [false, false, true, true]);
    assert_eq!(tell(&house, &op.logout_token(Some("nobody"), None, |_| {})).await, 200);
    assert_eq!(signed_in().await, [false, false, true, true]);
    // LO-11: nothing of the ended sessions is left to be used.
    let kept = "SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL AND refresh_token IS NOT NULL";
    assert_eq!(house.database.number(kept).await, 0);
}

#[tokio::test]
async fn lo_07_what_a_provider_is_answered_tells_it_whether_to_try_again() {
    let stage = stage().await;
    let (house, op) = (&stage.house, &stage.op);
    signed_in(house).await;
    let form = "application/x-www-form-urlencoded";
    let good = || op.logout_token(Some("alice"), None, |_| {});
    for (provider, kind, body, status) in [
        ("op", form, "logout_token=x".to_owned(), 400),
        ("op", form, String::new(), 400),
        ("op", form, "token=x".to_owned(), 400),
        ("op", form, format!("logout_token={}&logout_token={}", good(), good()), 400),
        ("op", "application/json", json!({ "logout_token": good() }).to_string(), 400),
        ("op", "text/plain", format!("logout_token={}", good()), 400),
        ("nobody", form, format!("logout_token={}", good()), 404),
        ("op", form, format!("logout_token={}", "a".repeat(70_000)), 413),
    ] {
        let told = post_to(house, provider, kind, body).await;
        assert_eq!((told.status, told.store.as_deref()), (status, Some("no-store")), "{provider} {kind}");
        let problem: Value = serde_json::from_str(&told.body).unwrap();
        assert_eq!(problem["status"], status);
    }
    assert_eq!(house.live_sessions().await, 1);
    let token = good();
    house.database.execute("ALTER TABLE sessions RENAME TO away").await;
    let down = tell(house, &token).await;
    assert!(down >= 500, "{down}");
    house.database.execute("ALTER TABLE away RENAME TO sessions").await;
    assert_eq!(tell(house, &token).await, 200, "what failed was not heard");
    assert_eq!(house.live_sessions().await, 0);
}

#[tokio::test]
async fn lo_08_a_replay_has_no_second_effect_also_after_a_new_login() {
    let stage = stage().await;
    signed_in(&stage.house).await;
    let token = stage.op.logout_token(Some("alice"), None, |_| {});
    assert_eq!(tell(&stage.house, &token).await, 200);
    assert_eq!(stage.house.live_sessions().await, 0);
    stage.house.clock.advance(Duration::from_secs(1));
    let back = signed_in(&stage.house).await;
    assert_eq!(tell(&stage.house, &token).await, 200);
    assert_eq!(tell(&stage.house, &token).await, 200);
    assert!(is_signed_in(&back).await, "a replay signed somebody out");
    assert_eq!(stage.house.refusals("logout_token_replay").await, 2);
    // Many at once, all of one id: one effect.
    let token = stage.op.logout_token(Some("alice"), None, |_| {});
    let all = futures_util::future::join_all((0..20).map(|_| tell(&stage.house, &token))).await;
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    assert_eq!(stage.house.refusals("logout_token_replay").await, 21);
    assert!(!is_signed_in(&back).await);
    // The id is forgotten only when the token would be refused for its age.
    stage.house.clock.advance(Duration::from_mins(30));
    doorward::flows::sweep::run(&stage.house.app()).await.unwrap();
    assert_eq!(stage.house.database.number("SELECT count(*) FROM seen_logout_tokens").await, 0);
    assert_eq!(stage.house.database.number("SELECT count(*) FROM ended_sids").await, 0);
    assert_eq!(tell(&stage.house, &token).await, 400);
}

#[tokio::test]
async fn lo_09_a_flood_of_bad_tokens_is_cheap_limited_and_calls_nobody() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    op.clear();
    let key = op.script(|s| s.key.clone());
    let (_, claims) = peek(&op.logout_token(Some("alice"), None, |_| {})).unwrap();
    let unknown_kid = |n: usize| {
        let header = json!({ "alg": "RS256", "typ": "logout+jwt", "kid": format!("unknown-{n}") });
        mint::mint(&header.to_string(), &claims.to_string(), &key)
    };
    let unknown_issuer = op.logout_token(None, Some("s"), |claims| {
        claims.insert("iss".into(), json!("https://evil.example"));
    });
    let began = Instant::now();
    let mut statuses = std::collections::BTreeMap::new();
    for round in 0..100 {
        let tokens: Vec<String> = (0..100)
            .map(|n| match n % 3 {
                // Signing costs the test more than refusing costs the house.
                0 if n < 9 => unknown_kid(round * 100 + n),
                0 => flip_bit(&unknown_issuer, 2, n),
                1 => unknown_issuer.clone(),
                _ => format!("{n}.{round}.x"),
            })
            .collect();
        for status in futures_util::future::join_all(tokens.iter().map(|token| tell(&house, token))).await {
            *statuses.entry(status).or_insert(0_usize) += 1;
        }
    }
    eprintln!("10,000 bad logout tokens took {:?}: {statuses:?}", began.elapsed());
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [400, 429], "{statuses:?}");
    assert!(statuses[&400] <= 60 * 3, "{statuses:?}");
    // Limits count by the minute of the clock, and the flood may meet the turn of one.
    let minutes = statuses[&400].div_ceil(60);
    assert!(op.requests().len() <= minutes, "{} outgoing calls in {minutes} minutes", op.requests().len());
    assert!(is_signed_in(&browser).await);
    // A good one is never limited.
    assert_eq!(tell(&house, &op.logout_token(Some("alice"), None, |_| {})).await, 200);
    assert!(!is_signed_in(&browser).await);
    assert!(house.refusals("token_malformed").await < 1000);
}

#[tokio::test]
async fn tk_17_unknown_keys_of_strangers_do_not_use_up_what_logins_need() {
    let stage = stage().await;
    signed_in(&stage.house).await;
    stage.op.clear();
    for n in 0..50 {
        let header = json!({ "alg": "RS256", "typ": "logout+jwt", "kid": format!("x{n}") });
        let (_, claims) = peek(&stage.op.logout_token(Some("alice"), None, |_| {})).unwrap();
        let key = stage.op.script(|s| s.key.clone());
        assert_eq!(
            tell(&stage.house, &mint::mint(&header.to_string(), &claims.to_string(), &key)).await,
            400
        );
    }
    assert_eq!(stage.op.count("/jwks"), 1);
    // A login with a new key finds it all the same; so does a logout that it signs.
    stage.op.script(crate::house::op::Script::rotate_key);
    signed_in(&stage.house).await;
    assert_eq!(tell(&stage.house, &stage.op.logout_token(Some("alice"), None, |_| {})).await, 200);
    assert_eq!(stage.house.live_sessions().await, 0);
    stage.op.script(crate::house::op::Script::rotate_key);
    stage.house.clock.advance(Duration::from_secs(61));
    assert_eq!(tell(&stage.house, &stage.op.logout_token(Some("alice"), None, |_| {})).await, 200);
}

#[tokio::test]
async fn lo_12_a_frame_ends_exactly_the_session_it_names_and_is_shown_by_the_issuer_alone() {
    let stage = stage().await;
    let (house, op) = (&stage.house, &stage.op);
    let (one, two) = (signed_in(house).await, signed_in(house).await);
    let sids = op.sids();
    op.clear();
    let stranger =
        house.browser().with_header("sec-fetch-dest", "iframe").with_header("sec-fetch-site", "cross-site");
    let path = |pairs: &[(&str, &str)]| {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("/auth/frontchannel-logout/op?{query}")
    };
    let issuer = op.issuer();
    for bad in [
        path(&[]),
        path(&[("iss", &issuer)]),
        path(&[("sid", &sids[0])]),
        path(&[("iss", "https://evil.example"), ("sid", &sids[0])]),
        path(&[("iss", &issuer), ("sid", "")]),
        path(&[("iss", &issuer), ("sid", &sids[0]), ("sid", &sids[1])]),
    ] {
        // Their own cookie changes nothing either.
        assert_eq!(one.navigate(&bad).await.status, 400, "{bad}");
        assert_eq!(stranger.navigate(&bad).await.status, 400, "{bad}");
    }
    assert_eq!(stranger.navigate(&path(&[("iss", &issuer), ("sid", "another")])).await.status, 200);
    assert_eq!(house.live_sessions().await, 2);
    let page = stranger.navigate(&path(&[("iss", &issuer), ("sid", &sids[0])])).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.ends_with(&format!("frame-ancestors {issuer}")), "{policy}");
    assert_eq!((page.header("x-frame-options"), page.header("cache-control")), (None, Some("no-store")));
    assert!(page.set_cookies().is_empty());
    assert!(!is_signed_in(&one).await && is_signed_in(&two).await);
    assert!(op.requests().is_empty(), "nothing is revoked at the provider");
    assert_eq!(
        house.database.number("SELECT count(*) FROM audit_log WHERE event = 'logout.frontchannel'").await,
        1
    );
}

#[tokio::test]
async fn lo_07_a_provider_whose_keys_cannot_be_had_is_asked_to_try_again() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    op.script(|s| s.answer("/jwks", Answer::error(500, "server_error")));
    let token = op.logout_token(Some("alice"), None, |_| {});
    for _ in 0..100 {
        assert_eq!(tell(&house, &token).await, 503);
    }
    assert!(op.count("/jwks") < 20, "{} calls for one hundred tokens", op.count("/jwks"));
    op.script(|s| s.answer("/jwks", Answer::Normal));
    house.clock.advance(Duration::from_secs(2));
    let later = op.logout_token(Some("alice"), None, |claims| {
        claims.insert("iat".into(), json!(house.clock.now_ms() / 1000));
    });
    assert_eq!(tell(&house, &later).await, 200);
}
