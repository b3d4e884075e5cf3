//! ID tokens claim by claim: each rule of OpenID Connect Core 3.1.3.7 with a lie and its honest twin.

use serde_json::{Value, json};

use super::stage::{Stage, set};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::ScriptedOp;

fn each(values: impl IntoIterator<Item = Value>) -> Vec<Option<Value>> {
    values.into_iter().map(Some).collect()
}

/// Missing, and of every JSON type but a string.
fn no_strings() -> Vec<Option<Value>> {
    let odd = [json!(null), json!(7), json!(true), json!([]), json!({}), json!({"a": "b"}), json!("")];
    std::iter::once(None).chain(odd.map(Some)).collect()
}

#[tokio::test]
async fn tk_01_only_the_configured_issuer_exactly_is_believed() {
    let stage = Stage::open().await;
    let issuer = stage.op.issuer();
    stage.claim_refused("iss", no_strings(), "id_token_iss").await;
    let near = [
        json!(format!("{issuer}/")),
        json!(issuer.replace("http", "HTTP")),
        json!(issuer.replace("127.0.0.1", "localhost")),
        json!(issuer.replace("http:", "https:")),
        json!("https://evil.example"),
        json!(format!(" {issuer}")),
        json!(format!("{issuer}\u{0}")),
        json!([issuer]),
    ];
    stage.claim_refused("iss", each(near), "id_token_iss").await;
}

#[tokio::test]
async fn tk_01_an_issuer_template_takes_the_listed_tenants_alone() {
    let op = ScriptedOp::start().await;
    let template = format!("{}/{{tenantid}}/v2", op.issuer());
    let keys = format!("issuer_template = \"{template}\"\nallowed_tenants = [\"t-1\", \"t-2\"]\n");
    let plan = TestHouse::with(&format!("{}{keys}", op_provider("op", &op)));
    let stage = Stage::of(op, plan).await;
    let issuer = stage.op.issuer();
    let claims = |tid: Option<Value>, iss: String| {
        let template = template.clone();
        move |s: &mut crate::house::op::Script| {
            s.discovery(move |d| set(d, "issuer", Some(&json!(template))));
            s.claims(move |c| {
                set(c, "iss", Some(&json!(iss)));
                set(c, "tid", tid.as_ref());
            });
        }
    };
    stage.truth("a listed tenant", claims(Some(json!("t-2")), format!("{issuer}/t-2/v2"))).await;
    stage
        .lie(
            "another tenant's issuer",
            "id_token_iss",
            claims(Some(json!("t-2")), format!("{issuer}/t-1/v2")),
        )
        .await;
    stage
        .lie("an unlisted tenant", "id_token_tid", claims(Some(json!("t-3")), format!("{issuer}/t-3/v2")))
        .await;
    stage.lie("no tenant", "id_token_tid", claims(None, format!("{issuer}/t-1/v2"))).await;
    stage
        .lie("a list of tenants", "id_token_tid", claims(Some(json!(["t-1"])), format!("{issuer}/t-1/v2")))
        .await;
    stage.lie("the template itself", "id_token_iss", claims(Some(json!("t-1")), template.clone())).await;
}

#[tokio::test]
async fn tk_02_the_audience_is_ours_and_no_strangers() {
    let stage = Stage::open().await;
    let lies = no_strings().into_iter().chain(each([
        json!("other"),
        json!("Doorward"),
        json!("doorward "),
        json!(["other"]),
        json!(["doorward", "stranger"]),
        json!(["doorward", 7]),
        json!(["doorward", ["doorward"]]),
        json!({"doorward": true}),
    ]));
    stage.claim_refused("aud", lies.collect(), "id_token_aud").await;
    stage.claim_accepted("aud", each([json!("doorward"), json!(["doorward"])])).await;
}

#[tokio::test]
async fn tk_02_several_audiences_need_an_azp_that_is_ours() {
    let stage = Stage::with("trusted_audiences = [\"project\"]").await;
    let with = |aud: Value, azp: Option<Value>| {
        move |s: &mut crate::house::op::Script| {
            s.claims(move |c| {
                set(c, "aud", Some(&aud));
                set(c, "azp", azp.as_ref());
            });
        }
    };
    let both = || json!(["project", "doorward"]);
    stage.truth("two trusted audiences", with(both(), Some(json!("doorward")))).await;
    stage.truth("one audience and azp", with(json!("doorward"), Some(json!("doorward")))).await;
    for azp in [None, Some(json!("project")), Some(json!(null)), Some(json!(["doorward"])), Some(json!(""))] {
        stage.lie(&format!("azp {azp:?} of two"), "id_token_azp", with(both(), azp)).await;
    }
    for azp in [json!("other"), json!(7), json!("Doorward"), json!(["doorward"])] {
        stage.lie(&format!("azp {azp} of one"), "id_token_azp", with(json!("doorward"), Some(azp))).await;
    }
    let third = json!(["project", "doorward", "stranger"]);
    stage.lie("a third audience", "id_token_aud", with(third, Some(json!("doorward")))).await;
    stage.lie("only the trusted one", "id_token_aud", with(json!("project"), Some(json!("doorward")))).await;
}

#[tokio::test]
async fn tk_06_a_time_of_a_wrong_type_is_a_refusal_and_not_an_absence() {
    let stage = Stage::open().await;
    for name in ["exp", "iat", "nbf"] {
        let soon = (stage.now_s() + 200).to_string();
        let odd = [json!(soon), json!(null), json!(-1), json!(true), json!({}), json!([1]), json!(1e300)];
        stage.claim_refused(name, each(odd), "id_token_time").await;
        // Too large for any number: not even JSON to us.
        for (text, reason) in
            [("1e400", "token_malformed"), ("9007199254740993", "id_token_time"), ("-0.5", "id_token_time")]
        {
            stage
                .lie(&format!("{name} = {text}"), reason, |s| {
                    s.raw_id_token(move |m| m.with_raw_claim(name, text));
                })
                .await;
        }
    }
    stage.claim_refused("exp", vec![None], "id_token_time").await;
    stage.claim_refused("iat", vec![None], "id_token_time").await;
    stage.claim_accepted("nbf", vec![None, Some(json!(0)), Some(json!(stage.now_s()))]).await;
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "seconds of this century are exact")]
async fn tk_06_fractions_of_a_second_are_times() {
    let stage = Stage::open().await;
    let now = stage.now_s() as f64;
    stage.claim_accepted("exp", each([json!(now + 100.5)])).await;
    stage.claim_accepted("iat", each([json!(now - 0.25)])).await;
    stage.claim_accepted("nbf", each([json!(now - 1.75)])).await;
}

/// A claim `offset` seconds away from the provider's now, at the moment of each login.
fn at(stage: &Stage, name: &'static str, offset: i64) -> impl FnOnce(&mut crate::house::op::Script) + use<> {
    let now = stage.now();
    move |s| s.claims(move |c| set(c, name, Some(&json!(now().div_euclid(1000) + offset))))
}

#[tokio::test]
async fn tk_07_an_iat_from_the_future_or_too_long_ago_is_refused() {
    let stage = Stage::open().await;
    for (offset, good) in
        [(-655, true), (-662, false), (-7 * 24 * 3600, false), (55, true), (62, false), (3600, false)]
    {
        let case = format!("issued {offset} s from now");
        if good {
            stage.truth(&case, at(&stage, "iat", offset)).await;
        } else {
            stage.lie(&case, "id_token_iat", at(&stage, "iat", offset)).await;
        }
    }
    stage.lie("valid in 62 s", "id_token_nbf", at(&stage, "nbf", 62)).await;
    stage.truth("valid in 55 s", at(&stage, "nbf", 55)).await;
}

#[tokio::test]
async fn tk_20_the_clock_skew_is_one_setting_and_is_kept_to_the_second() {
    for (setting, skew) in [("", 60), ("clock_skew = \"0s\"", 0), ("clock_skew = \"300s\"", 300)] {
        let stage = Stage::with(setting).await;
        stage
            .lie(&format!("over since {skew} s, {setting}"), "id_token_expired", at(&stage, "exp", -skew))
            .await;
        stage
            .lie(
                &format!("over since {} s, {setting}", skew + 1),
                "id_token_expired",
                at(&stage, "exp", -skew - 1),
            )
            .await;
        // Three seconds inside, since the clock runs on while the answer travels.
        stage.truth(&format!("over since {} s, {setting}", skew - 3), at(&stage, "exp", 3 - skew)).await;
    }
}

#[tokio::test]
async fn tk_20_a_clock_skew_beyond_the_hard_limit_is_a_fault() {
    let op = ScriptedOp::start().await;
    let text = format!("{}clock_skew = \"301s\"\n", op_provider("op", &op));
    let opened = tokio::spawn(async move { TestHouse::with(&text).open().await }).await;
    assert!(opened.is_err(), "a house opened with a clock skew of 301 s");
}

#[tokio::test]
async fn tk_08_a_subject_is_a_short_string_compared_exactly() {
    let stage = Stage::open().await;
    stage.claim_refused("sub", no_strings(), "id_token_sub").await;
    let odd = [json!("x".repeat(256)), json!("é".repeat(128)), json!("a\u{0}b"), json!("a\nb"), json!(["a"])];
    stage.claim_refused("sub", each(odd), "id_token_sub").await;
    stage.claim_accepted("sub", each([json!("x".repeat(255)), json!("é".repeat(127))])).await;
    let before = stage.house.database.number("SELECT count(*) FROM users").await;
    let alike = ["u-1", "U-1", "u-1 ", " u-1", "u-\u{ff11}", "u‑1"].map(Value::from);
    stage.claim_accepted("sub", each(alike.clone())).await;
    stage.claim_accepted("sub", each(alike)).await;
    let users = stage.house.database.number("SELECT count(*) FROM users").await - before;
    assert_eq!(users, 6, "each spelling is a person of its own, and the same one at the second login");
}

#[tokio::test]
async fn tk_09_an_at_hash_speaks_of_the_access_token_that_came_along() {
    let stage = Stage::open().await;
    let odd = [json!("MTIzNDU2Nzg5MDEyMzQ1Ng"), json!(""), json!(null), json!(7), json!([])];
    stage.claim_refused("at_hash", each(odd), "id_token_at_hash").await;
    stage.claim_accepted("at_hash", vec![None]).await;
    let swap = |answer: &mut super::stage::Object| set(answer, "access_token", Some(&json!("another")));
    stage.lie("the access token was swapped", "id_token_at_hash", |s| s.token_response(swap)).await;
    for alg in crate::house::op::Alg::ALL {
        stage.op.script(|s| s.sign_with(alg));
        stage.house.clock.advance(std::time::Duration::from_hours(2));
        stage.accepted(&format!("the at_hash of {}", alg.name())).await;
    }
}

type Dress = fn(&str) -> Value;

#[tokio::test]
async fn ar_04_a_nonce_that_is_not_this_logins_is_refused() {
    let stage = Stage::open().await;
    stage.claim_refused("nonce", no_strings(), "id_token_nonce").await;
    let other = [json!("other"), json!("A".repeat(43)), json!("A".repeat(10_000))];
    stage.claim_refused("nonce", each(other), "id_token_nonce").await;
    // The right one, but dressed up.
    let dresses: [(&str, Dress); 5] = [
        ("in a list", |n| json!([n])),
        ("twice in a list", |n| json!([n, n])),
        ("with a space", |n| json!(format!("{n} "))),
        ("in another case", |n| json!(n.to_uppercase())),
        ("cut short", |n| json!(&n[..n.len() - 1])),
    ];
    for (case, dress) in dresses {
        let change = move |claims: &mut super::stage::Object| {
            let nonce = dress(claims["nonce"].as_str().unwrap());
            set(claims, "nonce", Some(&nonce));
        };
        stage.lie(&format!("the nonce {case}"), "id_token_nonce", |s| s.claims(change)).await;
    }
}

#[tokio::test]
async fn ar_04_an_id_token_of_an_earlier_login_is_refused() {
    let stage = Stage::open().await;
    let kept = std::sync::Arc::new(std::sync::Mutex::new(None::<String>));
    let keep = std::sync::Arc::clone(&kept);
    stage
        .truth("the first login", |s| {
            s.raw_id_token(move |m| keep.lock().unwrap().insert(m.token.clone()).clone());
        })
        .await;
    let token = kept.lock().unwrap().clone().unwrap();
    stage.lie("its token once more", "id_token_nonce", |s| s.raw_id_token(move |_| token.clone())).await;
}

#[tokio::test]
async fn v19_a_provider_session_id_is_a_short_string_or_absent() {
    let stage = Stage::open().await;
    let odd = [json!(7), json!(""), json!([]), json!({}), json!(true), json!("s".repeat(256))];
    stage.claim_refused("sid", each(odd), "id_token_sid").await;
    stage.claim_accepted("sid", vec![None, Some(json!("s".repeat(255)))]).await;
}

#[tokio::test]
async fn odd_claims_that_decide_nothing_keep_nobody_out() {
    let stage = Stage::open().await;
    for name in
        ["email", "email_verified", "name", "locale", "picture", "updated_at", "amr", "acr", "address"]
    {
        stage.claim_accepted(name, each([json!(7), json!({"a": [1]}), json!([null])])).await;
    }
}
