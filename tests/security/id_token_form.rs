//! The ID token as a piece of text: signature, algorithm, header, kinds, size and depth.

use serde_json::{Value, json};

use super::stage::{Stage, set};
use crate::house::op::mint::{self, Minted, flip_bit};
use crate::house::op::{Alg, PublicForm, SigningKey, SilentListener};

impl Stage {
    /// The provider sends this instead of the ID token that it made.
    async fn forged(
        &self,
        case: &str,
        reason: &str,
        forge: impl Fn(&Minted) -> String + Send + Sync + 'static,
    ) {
        self.lie(case, reason, |s| s.raw_id_token(forge)).await;
    }
}

#[tokio::test]
async fn tk_03_a_flipped_bit_anywhere_in_the_token_is_refused() {
    let stage = Stage::open().await;
    for (part, name) in ["header", "payload", "signature"].iter().enumerate() {
        for bit in [0, 1, 7, 9, 100, 131, 1001] {
            let case = format!("bit {bit} of the {name}");
            stage.forged(&case, "*", move |m| flip_bit(&m.token, part, bit)).await;
        }
    }
    stage.accepted("the token as it was").await;
}

#[tokio::test]
async fn tk_03_the_signature_is_checked_although_the_token_came_straight_from_the_provider() {
    let stage = Stage::open().await;
    stage
        .forged("another key under our key's id", "token_signature", |m| {
            m.signed_by(&SigningKey::stranger(Alg::Rs256))
        })
        .await;
    stage
        .forged("no signature", "token_malformed", |m| format!("{}.", m.token.rsplit_once('.').unwrap().0))
        .await;
    stage
        .forged("a short signature", "token_signature", |m| {
            format!("{}.AAAA", m.token.rsplit_once('.').unwrap().0)
        })
        .await;
    stage
        .forged("another login's payload", "token_signature", |m| {
            let parts: Vec<&str> = m.token.split('.').collect();
            let claims = m.claims_text().replace("\"sub\":", "\"bus\":");
            format!("{}.{}.{}", parts[0], mint::b64(claims), parts[2])
        })
        .await;
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_04_the_algorithm_is_ours_to_choose() {
    let stage = Stage::open().await;
    for spelling in ["none", "None", "NONE", "nOnE", "", " none"] {
        stage.forged(&format!("alg {spelling:?} unsigned"), "*", move |m| m.alg_none(spelling)).await;
        stage
            .forged(&format!("alg {spelling:?} with a good signature"), "token_alg", move |m| {
                m.with_header("alg", spelling.into(), &m.key)
            })
            .await;
        let unsigned = move |m: &Minted| format!("{}AAAA", m.alg_none(spelling));
        stage.forged(&format!("alg {spelling:?} with a made-up signature"), "token_alg", unsigned).await;
    }
    for alg in [json!(null), json!(7), json!(["RS256"]), json!({"RS256": true})] {
        stage.forged(&format!("alg {alg}"), "*", move |m| m.with_header("alg", alg.clone(), &m.key)).await;
    }
    for alg in ["rs256", "RS256 ", "RS512", "RS384", "ES256K", "HS256", "RS1", "A256GCM"] {
        stage
            .forged(&format!("alg {alg} over a good signature"), "token_alg", move |m| {
                m.with_header("alg", alg.into(), &m.key)
            })
            .await;
    }
    stage
        .forged("no alg", "token_alg", |m| {
            let mut header = m.header.clone();
            header.remove("alg");
            m.with_header_text(&Value::Object(header).to_string(), &m.key)
        })
        .await;
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_04_a_public_key_or_a_client_secret_is_no_hmac_key() {
    let stage = Stage::open().await;
    for form in [PublicForm::Pem, PublicForm::PemTrimmed, PublicForm::SpkiDer, PublicForm::RawDer] {
        stage
            .forged(&format!("HS256 by the {form:?}"), "token_alg", move |m| m.hs256_with_public_key(form))
            .await;
    }
    let secret = stage.op.script(|s| s.client_secret.clone());
    stage
        .forged("HS256 by the client secret", "token_alg", move |m| {
            m.signed_by(&SigningKey::hmac(secret.as_bytes()))
        })
        .await;
    // Even where the provider says that it signs so.
    stage
        .lie("HS256 that the metadata announces", "*", |s| {
            s.discovery(|d| set(d, "id_token_signing_alg_values_supported", Some(&json!(["HS256", "none"]))));
            s.raw_id_token(|m| m.hs256_with_public_key(PublicForm::Pem));
        })
        .await;
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_04_a_key_fits_its_own_algorithm_alone() {
    let stage = Stage::open().await;
    let named = |alg: &'static str| move |m: &Minted| m.with_header("alg", alg.into(), &m.key);
    for alg in ["ES256", "PS256", "EdDSA"] {
        stage
            .lie(&format!("{alg} against an RSA key"), "*", |s| {
                let all = json!(["RS256", "ES256", "PS256", "EdDSA"]);
                s.discovery(move |d| set(d, "id_token_signing_alg_values_supported", Some(&all)));
                s.raw_id_token(named(alg));
            })
            .await;
    }
    stage.accepted("an honest token").await;
    let narrow = Stage::with("id_token_algs = [\"ES256\"]").await;
    narrow.refused("RS256 where only ES256 is configured", "token_alg").await;
    narrow.op.script(|s| s.sign_with(Alg::Es256));
    narrow.house.clock.advance(std::time::Duration::from_hours(2));
    narrow.accepted("ES256").await;
}

#[tokio::test]
async fn tk_04_every_default_algorithm_is_accepted() {
    for alg in Alg::ALL {
        let op = crate::house::op::ScriptedOp::start().await;
        op.script(|s| s.sign_with(alg));
        let plan = crate::house::home::TestHouse::with_op(&op);
        Stage::of(op, plan).await.accepted(alg.name()).await;
    }
}

#[tokio::test]
async fn tk_05_a_key_that_the_token_brings_along_is_never_used() {
    let stage = Stage::open().await;
    let bait = SigningKey::stranger(Alg::Rs256);
    let listener = SilentListener::serving("application/json", &json!({"keys": [bait.jwk()]}).to_string());
    stage.forged("jwk", "token_header", Minted::with_embedded_jwk).await;
    for member in ["jku", "x5u"] {
        let url = listener.url("/keys");
        stage.forged(member, "token_header", move |m| m.with_key_url(member, &url)).await;
        let url = listener.url("/keys");
        stage
            .forged(&format!("{member} under our key's id"), "token_header", move |m| {
                m.with_header(member, url.clone().into(), &SigningKey::stranger(Alg::Rs256))
            })
            .await;
    }
    for kid in [None, Some("stranger")] {
        stage
            .forged(&format!("x5c with kid {kid:?}"), "*", move |m| {
                let own = SigningKey::stranger(Alg::Rs256);
                let mut header = m.header.clone();
                set(&mut header, "kid", kid.map(Value::from).as_ref());
                set(&mut header, "x5c", Some(&json!([mint::b64(own.public_der())])));
                m.with_header_text(&Value::Object(header).to_string(), &own)
            })
            .await;
    }
    let url = listener.url("/claims");
    stage
        .truth("addresses in claims", |s| {
            s.claims(move |c| {
                for name in ["picture", "jku", "x5u", "request_uri", "profile", "website"] {
                    set(c, name, Some(&json!(url)));
                }
            });
        })
        .await;
    listener.assert_silent();
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_10_another_kind_of_token_is_no_id_token() {
    let stage = Stage::open().await;
    for typ in [
        "at+jwt",
        "application/at+jwt",
        "AT+JWT",
        "logout+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "client-authentication+jwt",
        "",
    ] {
        stage.forged(&format!("typ {typ:?}"), "id_token_type", move |m| m.with_typ(typ)).await;
    }
    let events = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    stage
        .lie("a claim of logout tokens", "id_token_type", |s| {
            s.claims(move |c| set(c, "events", Some(&events)));
        })
        .await;
    stage
        .lie("the access token in its place", "id_token_type", |s| {
            s.token_response(|answer| {
                let access = answer["access_token"].clone();
                set(answer, "id_token", Some(&access));
            });
        })
        .await;
    let logout = stage.op.logout_token(Some("alice"), Some("s"), |_| {});
    stage.forged("a logout token", "id_token_type", move |_| logout.clone()).await;
    let untyped = stage.op.logout_token(Some("alice"), Some("s"), |_| {});
    let (_, claims) = mint::peek(&untyped).unwrap();
    stage
        .forged("a logout token that says JWT", "id_token_type", move |m| {
            mint::mint_claims("JWT", &claims, &m.key)
        })
        .await;
    stage.forged("a client assertion by the provider's key", "id_token_iss", |m| {
        let now = m.claims["iat"].as_i64().unwrap();
        let claims = json!({"iss": "doorward", "sub": "doorward", "aud": m.claims["iss"], "jti": "j", "iat": now, "exp": now + 60});
        mint::mint_claims("JWT", &claims, &m.key)
    }).await;
    for typ in ["JWT", "jwt", "application/jwt", "id_token+jwt", "application/id_token+jwt"] {
        stage.truth(&format!("typ {typ:?}"), |s| s.raw_id_token(move |m| m.with_typ(typ))).await;
    }
    stage.truth("no typ", |s| s.id_token(|header, _| set(header, "typ", None))).await;
}

type Shape = fn(&Minted) -> String;

#[tokio::test]
async fn tk_11_only_three_plain_parts_are_a_token() {
    let stage = Stage::open().await;
    stage.forged("five parts", "token_encrypted", Minted::five_parts).await;
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(7)),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        stage
            .forged(&format!("header {name} {value}"), "token_header", move |m| {
                m.with_header(name, value.clone(), &m.key)
            })
            .await;
    }
    for (name, value) in [("kid", json!(7)), ("typ", json!([])), ("kid", json!(null))] {
        stage
            .forged(&format!("header {name} {value}"), "token_header", move |m| {
                m.with_header(name, value.clone(), &m.key)
            })
            .await;
    }
    let shapes: [(&str, Shape); 14] = [
        ("two parts", |m| m.token.rsplit_once('.').unwrap().0.to_owned()),
        ("four parts", |m| format!("{}.AAAA", m.token)),
        ("a dot behind", |m| format!("{}.", m.token)),
        ("padding", |m| format!("{}=", m.token)),
        ("a line end", |m| format!("{}\n", m.token)),
        ("a space before", |m| format!(" {}", m.token)),
        ("the alphabet with plus and slash", |m| m.token.replacen("ey", "+/", 1)),
        ("a list as payload", |m| m.with_claims_text("[]")),
        ("a number as payload", |m| m.with_claims_text("1")),
        ("two objects as payload", |m| m.with_claims_text(&format!("{0}{0}", m.claims_text()))),
        ("a byte order mark", |m| m.with_claims_text(&format!("\u{feff}{}", m.claims_text()))),
        ("a list as header", |m| m.with_header_text("[]", &m.key)),
        ("an empty payload", |m| m.with_claims_text("")),
        ("a broken payload", |m| m.with_claims_text("{\"iss\":")),
    ];
    for (case, shape) in shapes {
        stage.forged(case, "token_malformed", shape).await;
    }
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_11_a_member_that_stands_twice_is_refused() {
    let stage = Stage::open().await;
    for name in ["iss", "sub", "aud", "exp", "nonce", "email"] {
        stage
            .forged(&format!("{name} twice, the same"), "token_malformed", move |m| {
                m.with_duplicate_claim(name, &m.claims[name])
            })
            .await;
        stage
            .forged(&format!("{name} twice, unlike"), "token_malformed", move |m| {
                m.with_duplicate_claim(name, &json!("x"))
            })
            .await;
    }
    stage
        .forged("alg twice", "token_malformed", |m| {
            let text = m.header_text().replacen('{', "{\"alg\":\"none\",", 1);
            m.with_header_text(&text, &m.key)
        })
        .await;
    stage
        .forged("a name escaped", "token_malformed", |m| {
            let text = m.claims_text().replacen('{', "{\"s\\u0075b\":\"root\",", 1);
            m.with_claims_text(&text)
        })
        .await;
    stage
        .forged("two deep inside", "token_malformed", |m| m.with_raw_claim("x", r#"[{"a":{"b":1,"b":2}}]"#))
        .await;
    stage.accepted("an honest token").await;
}

#[tokio::test]
async fn tk_12_size_and_depth_are_bounded_before_anything_is_parsed() {
    let stage = Stage::open().await;
    stage.forged("10 MB", "answer_too_large", |m| m.padded_to(10_000_000)).await;
    stage.forged("70 KB", "token_too_large", |m| m.padded_to(70_000)).await;
    stage.forged("900 KB", "token_too_large", |m| m.padded_to(600_000)).await;
    stage.forged("10,000 deep", "token_malformed", |m| m.nested(10_000)).await;
    stage.forged("33 deep", "token_malformed", |m| m.nested(33)).await;
    stage
        .forged("a compressed five-part token", "token_encrypted", |_| {
            let header = json!({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}).to_string();
            [
                mint::b64(header),
                String::new(),
                mint::b64([8; 12]),
                mint::b64(vec![0; 20_000]),
                mint::b64([9; 16]),
            ]
            .join(".")
        })
        .await;
    stage.forged("60,000 dots", "token_malformed", |_| ".".repeat(60_000)).await;
    stage.truth("30 deep", |s| s.raw_id_token(|m| m.nested(30))).await;
    stage.truth("30 KB", |s| s.raw_id_token(|m| m.padded_to(30_000))).await;
}

#[tokio::test]
async fn tk_22_an_encrypted_id_token_is_refused_with_a_reason_of_its_own() {
    let stage = Stage::open().await;
    stage.forged("a JWE", "token_encrypted", Minted::five_parts).await;
    stage.accepted("an honest token").await;
}
