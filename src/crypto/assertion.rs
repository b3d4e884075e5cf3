//! Identity assertions: short-lived EdDSA JWTs that tell an app who is there (RFC 7519, RFC 8037), and the keys they are checked with.
//!
//! A key is published a day before it signs and stays published a day after its last signature, so that an app that fetches the set now and then never
//! meets a key it does not know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::sign::{SignFault, Signer};

pub const SEED_BYTES: usize = 32;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// A key signs for so long.
const SIGNS_MS: i64 = 90 * DAY_MS;
/// Replicas and apps learn of a change within this.
const OVERLAP_MS: i64 = DAY_MS;
/// How long an assertion is good for, seconds.
const LIFE_S: i64 = 60;
/// One assertion serves a session at an upstream for so long.
const REUSE_MS: i64 = 30_000;
/// Assertions remembered for reuse; signing anew costs 20 µs, so forgetting costs little.
const REMEMBERED_MAX: usize = 10_000;
/// The stored keys are looked at again this often.
const LOOK_AGAIN_MS: i64 = 3600 * 1000;

/// One of our signing keys.
#[derive(Debug)]
pub struct Key {
    signer: Signer,
    id: String,
    pub made_ms: i64,
}

impl Key {
    /// A key of its stored seed.
    ///
    /// # Errors
    /// A seed of another length.
    pub fn from_private(seed: &[u8], made_ms: i64) -> Result<Self, SignFault> {
        let signer = Signer::from_ed25519_seed(seed)?;
        // RFC 7638: the thumbprint of the members in this order.
        let x = URL_SAFE_NO_PAD.encode(signer.public_key());
        let print = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Ok(Self { signer, id: URL_SAFE_NO_PAD.encode(print), made_ms })
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.signer.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": x })
    }
}

/// All keys of a moment, the oldest first.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    seen_ms: i64,
}

/// When a successor is due, so that it is published a day before it signs.
#[must_use]
pub fn is_successor_due(newest_made_ms: Option<i64>, now_ms: i64) -> bool {
    newest_made_ms.is_none_or(|made_ms| now_ms >= made_ms.saturating_add(SIGNS_MS - OVERLAP_MS))
}

/// Whether a key has neither signed nor been published for long enough to be forgotten, given when its successor was made.
#[must_use]
pub fn is_retired(successor_made_ms: i64, now_ms: i64) -> bool {
    now_ms >= successor_made_ms.saturating_add(2 * OVERLAP_MS)
}

impl Keys {
    #[must_use]
    pub fn new(mut keys: Vec<Key>, seen_ms: i64) -> Self {
        keys.sort_by_key(|key| key.made_ms);
        Self { keys, seen_ms }
    }

    /// The newest that has been published for a day; where none has, the oldest.
    fn signing(&self, now_ms: i64) -> Option<&Key> {
        let known = self.keys.iter().rev().find(|key| now_ms >= key.made_ms.saturating_add(OVERLAP_MS));
        known.or_else(|| self.keys.first())
    }

    /// The public halves, as a JWK Set (RFC 7517 5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.keys.iter().map(Key::jwk).collect::<Vec<_>>() })
    }
}

/// What an assertion says of somebody, besides its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub issuer: String,
    pub audience: String,
    pub subject: String,
    pub session: String,
    pub email: Option<String>,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    pub tenant: Option<String>,
}

impl Facts {
    fn claims(&self, now_s: i64) -> Map<String, Value> {
        let facts = [
            ("iss", json!(self.issuer)),
            ("aud", json!(self.audience)),
            ("sub", json!(self.subject)),
            ("sid", json!(self.session)),
            ("iat", json!(now_s)),
            ("exp", json!(now_s + LIFE_S)),
            ("email", json!(self.email)),
            ("roles", json!(self.roles)),
            ("groups", json!(self.groups)),
            ("tenant", json!(self.tenant)),
        ];
        let said = facts.into_iter().filter(|(_, value)| !value.is_null());
        said.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

struct Made {
    facts: Facts,
    at_ms: i64,
    token: Arc<str>,
}

/// Where assertions are written: the keys in use, and what was signed a moment ago.
#[derive(Default)]
pub struct Desk {
    keys: ArcSwapOption<Keys>,
    made: Mutex<HashMap<(String, String), Made>>,
}

impl Desk {
    /// The keys, unless it is time to look at the stored ones.
    #[must_use]
    pub fn keys(&self, now_ms: i64) -> Option<Arc<Keys>> {
        let keys = self.keys.load_full()?;
        let is_fresh = now_ms >= keys.seen_ms && now_ms < keys.seen_ms.saturating_add(LOOK_AGAIN_MS);
        is_fresh.then_some(keys)
    }

    pub fn put(&self, keys: Keys) -> Arc<Keys> {
        let keys = Arc::new(keys);
        self.keys.store(Some(Arc::clone(&keys)));
        keys
    }

    /// A signed assertion; the one made before, where the facts are the same and it is fresh enough.
    ///
    /// # Errors
    /// The library refused to sign, or there is no key.
    pub fn write(&self, keys: &Keys, facts: Facts, now_ms: i64) -> Result<Arc<str>, SignFault> {
        let place = (facts.session.clone(), facts.audience.clone());
        let is_fresh = |made: &Made| now_ms >= made.at_ms && now_ms < made.at_ms + REUSE_MS;
        let known = |made: &Made| (is_fresh(made) && made.facts == facts).then(|| Arc::clone(&made.token));
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = made.get(&place).and_then(known) {
            return Ok(token);
        }
        drop(made);
        let key = keys.signing(now_ms).ok_or(SignFault::Signing)?;
        let header =
            Map::from_iter([("typ".to_owned(), "JWT".into()), ("kid".to_owned(), key.id.clone().into())]);
        let token: Arc<str> = key.signer.sign(&header, &facts.claims(now_ms.div_euclid(1000)))?.into();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= REMEMBERED_MAX {
            made.retain(|_, made| is_fresh(made));
        }
        if made.len() >= REMEMBERED_MAX {
            made.clear();
        }
        made.insert(place, Made { facts, at_ms: now_ms, token: Arc::clone(&token) });
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(session: &str, role: &str) -> Facts {
        Facts {
            issuer: "https://app.example".into(),
            audience: "app".into(),
            subject: "u".into(),
            session: session.into(),
            email: None,
            roles: vec![role.into()],
            groups: Vec::new(),
            tenant: None,
        }
    }

    #[test]
    fn an_assertion_is_used_again_for_half_a_minute_and_never_for_other_facts() {
        let desk = Desk::default();
        let keys = Keys::new(vec![Key::from_private(&[1; 32], 0).unwrap()], 0);
        let write = |session: &str, role: &str, at| desk.write(&keys, facts(session, role), at).unwrap();
        let first = write("s", "a", 1000);
        assert_eq!(first, write("s", "a", 30_999));
        assert_ne!(first, write("s", "a", 31_000));
        assert_ne!(write("s", "a", 31_000), write("s", "b", 31_000), "a role was taken away");
        assert_ne!(write("s", "a", 31_000), write("t", "a", 31_000));
    }

    #[test]
    fn a_key_is_known_for_a_day_before_it_signs_and_a_day_after() {
        let (old, new) = (0, SIGNS_MS - OVERLAP_MS);
        let keys = Keys::new(
            vec![Key::from_private(&[2; 32], new).unwrap(), Key::from_private(&[1; 32], old).unwrap()],
            0,
        );
        let signs = |at| keys.signing(at).unwrap().made_ms;
        assert_eq!((signs(0), signs(new), signs(SIGNS_MS - 1), signs(SIGNS_MS)), (old, old, old, new));
        assert!(
            is_successor_due(None, 0)
                && !is_successor_due(Some(0), new - 1)
                && is_successor_due(Some(0), new)
        );
        assert!(!is_retired(new, SIGNS_MS + OVERLAP_MS - 1) && is_retired(new, SIGNS_MS + OVERLAP_MS));
        assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 2);
        assert!(Key::from_private(&[1; 31], 0).is_err());
    }
}
