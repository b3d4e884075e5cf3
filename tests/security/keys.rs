//! The provider's keys: change, loss, unknown ids, and keys that must not verify anything.

use std::time::Duration;

use serde_json::{Value, json};

use super::stage::{Stage, honest, set};
use crate::house::op::mint::{b64, random_text};
use crate::house::op::{Alg, Answer, Script, SigningKey};

const HOUR: Duration = Duration::from_mins(61);

#[tokio::test]
async fn tk_16_a_key_made_just_before_signing_is_found_at_the_first_try() {
    let stage = Stage::open().await;
    for n in 0..3 {
        stage.accepted(&format!("key {n}")).await;
        stage.op.script(|s| {
            s.rotate_key();
            s.forget_old_keys();
        });
    }
    stage.accepted("the last key").await;
    assert_eq!(stage.op.count("/jwks"), 4, "one fetch per key");
}

#[tokio::test]
async fn tk_16_a_removed_key_stops_working_within_the_cache_limit() {
    let stage = Stage::open().await;
    stage.accepted("while it is published").await;
    let old = stage.op.script(|s| s.key.clone());
    stage.op.script(|s| {
        s.rotate_key();
        s.forget_old_keys();
        s.key = old;
    });
    stage.house.clock.advance(HOUR);
    stage.refused("an hour after its removal", "token_key").await;
    stage.op.script(|s| s.key = s.published[0].clone());
    stage.accepted("the new key").await;
}

#[tokio::test]
async fn tk_16_a_provider_may_shorten_or_stretch_the_keys_life_within_bounds() {
    for (max_age, still, over) in [(0, 290, 310), (600, 590, 610), (10_000_000, 23 * 3600, 24 * 3600 + 10)] {
        let stage = Stage::open().await;
        let keys =
            stage.op.script(|s| json!({"keys": s.published.iter().map(SigningKey::jwk).collect::<Vec<_>>()}));
        let headers = vec![
            ("content-type".into(), "application/json".into()),
            ("cache-control".into(), format!("public, max-age={max_age}")),
        ];
        stage.op.script(|s| s.answer("/jwks", Answer::Raw(200, headers, keys.to_string().into_bytes())));
        stage.accepted("the first").await;
        stage.house.clock.advance(Duration::from_secs(still));
        stage.accepted("with keys at hand").await;
        assert_eq!(stage.op.count("/jwks"), 1, "max-age {max_age} after {still} s");
        stage.house.clock.advance(Duration::from_secs(over - still));
        stage.accepted("with keys fetched anew").await;
        assert_eq!(stage.op.count("/jwks"), 2, "max-age {max_age} after {over} s");
    }
}

#[tokio::test]
async fn tk_17_made_up_key_ids_cause_few_fetches_and_block_no_real_change() {
    let stage = Stage::open().await;
    stage.accepted("warm-up").await;
    stage.op.clear();
    let made_up = |s: &mut Script| s.raw_id_token(|m| m.with_header("kid", random_text().into(), &m.key));
    let (first, mut cases) = (stage.now_s(), 0);
    for seconds in [0, 60, 180] {
        stage.house.clock.advance(Duration::from_secs(seconds));
        for _ in 0..10 {
            cases += 1;
            stage.lie(&format!("made-up key id {cases}"), "token_key", made_up).await;
        }
        // Three to begin with, one more in each minute, and never more than three saved up.
        let minutes = usize::try_from(stage.now_s() / 60 - first / 60).unwrap();
        let most = 3 + minutes;
        let fetched = stage.op.count("/jwks");
        assert!(fetched <= most, "{fetched} fetches for {cases} made-up key ids in {minutes} minutes");
        assert!(fetched >= 3, "the first made-up ones are looked for");
    }
    let fetched = stage.op.count("/jwks");
    // One honest login, and the provider may change its key at once.
    stage.op.script(honest);
    stage.accepted("a known key").await;
    stage.op.script(Script::rotate_key);
    stage.accepted("a new key in the same minute").await;
    assert_eq!(stage.op.count("/jwks"), fetched + 1);
}

#[tokio::test]
async fn tk_18_without_a_key_id_one_fitting_key_is_enough_and_several_are_not() {
    let stage = Stage::open().await;
    let without = |s: &mut Script| s.id_token(|header, _| set(header, "kid", None));
    stage.truth("one key", without).await;
    stage
        .truth("one key of this kind among others", |s| {
            without(s);
            s.jwks(|keys| {
                keys.extend([
                    SigningKey::shared(Alg::Es256, 3).jwk(),
                    SigningKey::shared(Alg::EdDsa, 3).jwk(),
                ]);
            });
        })
        .await;
    let several = Stage::open().await;
    several
        .lie("two keys that fit", "token_key", |s| {
            without(s);
            s.jwks(|keys| keys.push(SigningKey::shared(Alg::Rs256, 3).jwk()));
        })
        .await;
    let nameless = Stage::open().await;
    nameless
        .truth("a key without an id, a token without one", |s| {
            without(s);
            s.jwks(|keys| keys.iter_mut().for_each(|key| set(key.as_object_mut().unwrap(), "kid", None)));
        })
        .await;
}

#[tokio::test]
async fn tk_18_keys_that_share_an_id_are_all_tried() {
    for others in [1, 3] {
        let stage = Stage::open().await;
        stage
            .truth(&format!("{others} namesakes before the right key"), move |s| {
                s.jwks(move |keys| {
                    let kid = keys[0]["kid"].clone();
                    for n in 0..others {
                        let mut other = SigningKey::shared(Alg::Rs256, 3 + n).jwk();
                        set(other.as_object_mut().unwrap(), "kid", Some(&kid));
                        keys.insert(0, other);
                    }
                });
            })
            .await;
    }
}

/// Keys that no signature may be checked with.
fn unusable() -> Vec<Value> {
    let mut bad = vec![
        json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0"}),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "off-curve", "x": "A".repeat(43), "y": "A".repeat(43)}),
        json!({"kty": "EC", "crv": "P-256", "kid": "short", "x": "AA", "y": "AA"}),
        json!({"kty": "RSA", "kid": "small", "n": "w".repeat(171), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "one", "n": format!("x{}", "A".repeat(341)), "e": "AQ"}),
        json!({"kty": "RSA", "kid": "odd", "n": 7, "e": []}),
        json!({"kty": "RSA", "kid": "none"}),
        json!({"kty": "quantum", "kid": "q"}),
        json!({"kid": "nothing"}),
        json!({}),
        json!(7),
        json!(null),
        json!("key"),
        json!([]),
    ];
    let mut sealing = SigningKey::shared(Alg::Rs256, 4).jwk();
    set(sealing.as_object_mut().unwrap(), "use", Some(&json!("enc")));
    let mut private = SigningKey::shared(Alg::Rs256, 5).jwk();
    set(private.as_object_mut().unwrap(), "d", Some(&json!("AQAB")));
    bad.extend([sealing, private]);
    bad
}

#[tokio::test]
async fn tk_19_unusable_keys_are_skipped_and_the_rest_works() {
    let stage = Stage::open().await;
    stage
        .truth("a mixed set", |s| {
            s.jwks(|keys| {
                let mut mixed = unusable();
                mixed.append(keys);
                mixed.extend(unusable());
                *keys = mixed;
            });
        })
        .await;
    let only = Stage::open().await;
    only.lie("nothing but unusable keys", "*", |s| s.jwks(|keys| *keys = unusable())).await;
}

#[tokio::test]
async fn tk_19_a_key_that_is_not_for_signatures_verifies_none() {
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!("other")),
        ("use", json!(7)),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!("verify")),
        ("d", json!("AQAB")),
        ("p", json!("AQAB")),
        ("alg", json!("RS512")),
        ("alg", json!("PS256")),
        ("kty", json!("oct")),
        ("kty", json!("rsa")),
    ] {
        let stage = Stage::open().await;
        stage
            .lie(&format!("{name} = {value}"), "*", |s| {
                s.jwks(move |keys| {
                    set(keys[0].as_object_mut().unwrap(), name, Some(&value));
                    // A good key beside it, so that the set itself can be used.
                    keys.push(SigningKey::shared(Alg::Es256, 3).jwk());
                });
            })
            .await;
    }
}

#[tokio::test]
async fn tk_19_a_key_of_a_thousand_bits_verifies_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("weak.pem");
    let openssl = |arguments: &[&str], input: &[u8]| {
        use std::io::Write as _;
        let mut child = std::process::Command::new("openssl")
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("openssl: {e}; apt-get install openssl"));
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "openssl {arguments:?}");
        out.stdout
    };
    let path = pem.to_str().unwrap().to_owned();
    openssl(&["genrsa", "-out", &path, "1024"], b"");
    let modulus = openssl(&["rsa", "-in", &path, "-noout", "-modulus"], b"");
    let modulus = String::from_utf8(modulus).unwrap();
    let hex = modulus.trim().strip_prefix("Modulus=").unwrap().to_owned();
    let bytes: Vec<u8> =
        (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
    let weak =
        json!({"kty": "RSA", "kid": "weak", "use": "sig", "alg": "RS256", "n": b64(bytes), "e": "AQAB"});
    let stage = Stage::open().await;
    stage
        .lie("a signature by a key of 1024 bits", "token_key", |s| {
            s.jwks(move |keys| keys.push(weak.clone()));
            s.raw_id_token(move |m| {
                let mut header = m.header.clone();
                set(&mut header, "kid", Some(&json!("weak")));
                let input = format!("{}.{}", b64(Value::Object(header).to_string()), b64(m.claims_text()));
                let signature = openssl(&["dgst", "-sha256", "-sign", &path], input.as_bytes());
                format!("{input}.{}", b64(signature))
            });
        })
        .await;
    stage.accepted("an honest key").await;
}

#[tokio::test]
async fn tk_19_a_key_whose_exponent_is_one_verifies_nothing() {
    // With e = 1 the signature is the padded hash itself: anybody could write it.
    let n = format!("x{}", "A".repeat(341));
    let stage = Stage::open().await;
    stage
        .lie("a signature without a secret", "*", |s| {
            s.jwks(move |keys| keys.push(json!({"kty": "RSA", "kid": "one", "n": n, "e": "AQ"})));
            s.raw_id_token(|m| {
                use sha2::Digest as _;
                let mut header = m.header.clone();
                set(&mut header, "kid", Some(&json!("one")));
                let input = format!("{}.{}", b64(Value::Object(header).to_string()), b64(m.claims_text()));
                let info = [
                    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
                    0x05, 0x00, 0x04, 0x20,
                ];
                let mut padded = vec![0x00, 0x01];
                padded.extend([0xff; 256 - 3 - 19 - 32]);
                padded.push(0);
                padded.extend(info);
                padded.extend(sha2::Sha256::digest(input.as_bytes()));
                format!("{input}.{}", b64(padded))
            });
        })
        .await;
    stage.accepted("an honest key").await;
}

#[tokio::test]
async fn tk_15_keys_stay_in_use_while_their_refresh_fails() {
    let stage = Stage::open().await;
    stage.accepted("warm-up").await;
    for (case, answer) in super::discovery::nonsense() {
        stage.house.clock.advance(HOUR);
        stage.truth(&format!("keys: {case}"), |s| s.answer("/jwks", answer)).await;
    }
    stage.op.script(|s| s.answer("/jwks", Answer::text(500, "text/plain", "")));
    stage.house.clock.advance(Duration::from_hours(25));
    stage.refused("nothing but old keys for a day", "provider_unavailable").await;
    stage.op.script(honest);
    stage.house.clock.advance(Duration::from_secs(61));
    stage.accepted("the provider is well again").await;
}
