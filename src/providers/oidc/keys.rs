//! A provider's public keys: which of them count, how long they are believed, and how often a stranger may make us fetch.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::core::CoreJsonWebKey;
use serde_json::{Map, Value};
use url::Url;

use super::discovery::is_within;
use super::jws::{Jws, SignatureFault};
use super::strict;
use crate::providers::ProviderError;
use crate::providers::http::Http;
use crate::telemetry;

const KEYS_MAX: usize = 100;
/// Shorter ones are weak (RFC 7518 3.3), longer ones a burden that nobody signs with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const LIFE_DEFAULT_MS: i64 = 60 * 60 * 1000;
const LIFE_MIN_MS: i64 = 5 * 60 * 1000;
const LIFE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// After a failed refresh the old keys serve on, and the provider is left alone for this long.
const PAUSE_MS: i64 = 60 * 1000;
/// Without any keys a login may always try; who comes unasked waits this long after a failure.
const COLD_PAUSE_MS: i64 = 1000;
/// How long somebody who could go on with the old keys waits for new ones.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long keys are believed that can no longer be refreshed.
const STALE_MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// A public key that may verify signatures.
#[derive(Debug, Clone)]
pub struct Key {
    pub jwk: CoreJsonWebKey,
    kid: Option<String>,
    alg: Option<String>,
    family: Family,
    rsa: Option<RsaPublicKeyComponents<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Key {
    /// Reads one member of a JWK set; `None` for a key that must not or cannot verify anything (security.md TK-19).
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let has_private_part =
            ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| jwk.contains_key(*name));
        let for_signatures = jwk.get("use").is_none_or(|u| u == "sig");
        let may_verify = jwk
            .get("key_ops")
            .is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")));
        if has_private_part || !for_signatures || !may_verify {
            return None;
        }
        let mut rsa = None;
        let family = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (n, e) = (number(text("n")?)?, number(text("e")?)?);
                (RSA_BITS.contains(&(n.len() * 8)) && !e.is_empty()).then_some(())?;
                rsa = Some(RsaPublicKeyComponents { n, e });
                Family::Rsa
            }
            ("EC", Some("P-256")) => Family::P256,
            ("EC", Some("P-384")) => Family::P384,
            ("OKP", Some("Ed25519")) => Family::Ed25519,
            _ => return None,
        };
        // Only the members that matter: an odd optional one must not cost us the key.
        let plain: Map<String, Value> = jwk
            .iter()
            .filter(|(name, _)| ["kty", "n", "e", "crv", "x", "y", "kid"].contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        let key = serde_json::from_value(Value::Object(plain)).ok()?;
        Some(Self {
            jwk: key,
            kid: text("kid").map(str::to_owned),
            alg: text("alg").map(str::to_owned),
            family,
            rsa,
        })
    }

    /// Modulus and exponent of an RSA key.
    #[must_use]
    pub fn rsa(&self) -> Option<&RsaPublicKeyComponents<Vec<u8>>> {
        self.rsa.as_ref()
    }

    /// Whether this key may check a signature of that algorithm and key id.
    #[must_use]
    pub fn fits(&self, alg: &str, kid: Option<&str>) -> bool {
        let family_fits = match alg {
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => self.family == Family::Rsa,
            "ES256" => self.family == Family::P256,
            "ES384" => self.family == Family::P384,
            "EdDSA" | "Ed25519" => self.family == Family::Ed25519,
            _ => false,
        };
        let alg_fits = self.alg.as_deref().is_none_or(|own| own == alg);
        let kid_fits = kid.is_none() || self.kid.as_deref() == kid;
        family_fits && alg_fits && kid_fits
    }
}

/// A big number of a JWK, without leading zeros: some vendors write them against RFC 7518 2.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Reads a JWK set; unusable keys are skipped one by one.
///
/// # Errors
/// When the document is no key set at all.
pub fn read_set(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let document = strict::object(bytes)?;
    let members = document.get("keys").and_then(Value::as_array).ok_or("no keys member")?;
    let keys: Vec<Key> =
        members.iter().take(KEYS_MAX).filter_map(Value::as_object).filter_map(Key::read).collect();
    if keys.is_empty() { Err("no usable key".to_owned()) } else { Ok(keys) }
}

struct Held {
    keys: Vec<Key>,
    fetched_at_ms: i64,
    life_ms: i64,
}

/// On whose behalf a key is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A login: a code was spent for this token.
    Login,
    /// Whoever sends us a token unasked, as logout tokens are sent.
    Stranger,
}

/// How many fetches unknown key ids may cause. Logins: three, one more each minute, all again by a fully valid token. Strangers: one a
/// minute, so that they cannot use up what logins need.
struct Budget {
    left: i64,
    full: i64,
    counted_at_ms: i64,
}

impl Budget {
    const LOGINS: i64 = 3;
    const STRANGERS: i64 = 1;

    fn new(full: i64) -> Self {
        Self { left: full, full, counted_at_ms: 0 }
    }

    fn take(&mut self, now_ms: i64) -> bool {
        let minutes = (now_ms - self.counted_at_ms).div_euclid(60_000).max(0);
        if minutes > 0 {
            self.left = (self.left + minutes).min(self.full);
            self.counted_at_ms += minutes * 60_000;
        }
        let allowed = self.left > 0;
        self.left -= i64::from(allowed);
        allowed
    }
}

/// The last good keys, and when a fetch failed since.
struct LastGood {
    held: ArcSwapOption<Held>,
    failed_at_ms: AtomicI64,
}

/// The keys of one provider, fetched when needed and shared by all logins.
pub(super) struct Keys {
    last_good: Arc<LastGood>,
    /// One fetch at a time; who waited finds the result of who went.
    fetching: tokio::sync::Mutex<()>,
    logins: Mutex<Budget>,
    strangers: Mutex<Budget>,
}

impl Keys {
    pub fn new() -> Self {
        let last_good = LastGood { held: ArcSwapOption::empty(), failed_at_ms: AtomicI64::new(i64::MIN / 2) };
        Self {
            last_good: Arc::new(last_good),
            fetching: tokio::sync::Mutex::new(()),
            logins: Mutex::new(Budget::new(Budget::LOGINS)),
            strangers: Mutex::new(Budget::new(Budget::STRANGERS)),
        }
    }

    /// Checks the signature; an unknown key id may cost one fetch.
    ///
    /// # Errors
    /// `token_key` when no key fits, `token_signature` when one fits and the signature is not its.
    pub async fn verify(
        &self,
        jws: &Jws<'_>,
        from: Source<'_>,
        asker: Asker,
    ) -> Result<CoreJsonWebKey, ProviderError> {
        let failed_ago =
            is_within(from.now_ms, self.last_good.failed_at_ms.load(Ordering::Relaxed), COLD_PAUSE_MS);
        if asker == Asker::Stranger && failed_ago && self.last_good.held.load().is_none() {
            return Err(ProviderError::Unavailable("its keys could not be had a moment ago".to_owned()));
        }
        let held = self.current(from).await?;
        match jws.verify(&held.keys) {
            Ok(key) => return Ok(key.clone()),
            Err(SignatureFault::Bad) if jws.kid.is_some() => {
                return Err(ProviderError::protocol("token_signature", "the signature does not fit the key"));
            }
            // Without a key id, a new key shows only by signatures that no longer fit the old one.
            Err(SignatureFault::NoKey | SignatureFault::Bad) => {}
        }
        let held = self.fetch_for_unknown_key(&held, from, asker).await?;
        match jws.verify(&held.keys) {
            Ok(key) => Ok(key.clone()),
            Err(SignatureFault::Bad) => {
                Err(ProviderError::protocol("token_signature", "the signature does not fit the key"))
            }
            Err(SignatureFault::NoKey) => {
                Err(ProviderError::protocol("token_key", "no key of the provider fits"))
            }
        }
    }

    /// Fetches the keys unless they are at hand.
    ///
    /// # Errors
    /// As the fetch.
    pub async fn warm(&self, from: Source<'_>) -> Result<(), ProviderError> {
        self.current(from).await.map(|_| ())
    }

    /// A fully valid token shows that the provider is well: strangers' fetches are forgiven.
    pub fn forgive(&self) {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).left = Budget::LOGINS;
    }

    /// Keys that are young enough, fetched if need be; older ones serve on while a refresh fails or takes long.
    async fn current(&self, from: Source<'_>) -> Result<Arc<Held>, ProviderError> {
        let held = self.last_good.held.load_full();
        if let Some(held) =
            held.as_ref().filter(|held| is_within(from.now_ms, held.fetched_at_ms, held.life_ms))
        {
            return Ok(Arc::clone(held));
        }
        let usable = held.as_ref().filter(|held| is_within(from.now_ms, held.fetched_at_ms, STALE_MAX_MS));
        let Some(old) = usable else { return self.fetch(held.as_ref(), from).await };
        if is_within(from.now_ms, self.last_good.failed_at_ms.load(Ordering::Relaxed), PAUSE_MS) {
            return Ok(Arc::clone(old));
        }
        if let Ok(fetched) = tokio::time::timeout(PATIENCE, self.fetch(Some(old), from)).await {
            return Ok(fetched.unwrap_or_else(|_| Arc::clone(old)));
        }
        self.last_good.failed_at_ms.store(from.now_ms, Ordering::Relaxed);
        Ok(Arc::clone(old))
    }

    async fn fetch_for_unknown_key(
        &self,
        seen: &Arc<Held>,
        from: Source<'_>,
        asker: Asker,
    ) -> Result<Arc<Held>, ProviderError> {
        self.fetch_once(Some(seen), from, || {
            // Asked only by who really goes: the others of one key change share its fetch and its price.
            let budget = match asker {
                Asker::Login => &self.logins,
                Asker::Stranger => &self.strangers,
            };
            budget.lock().unwrap_or_else(PoisonError::into_inner).take(from.now_ms)
        })
        .await
    }

    async fn fetch(&self, seen: Option<&Arc<Held>>, from: Source<'_>) -> Result<Arc<Held>, ProviderError> {
        self.fetch_once(seen, from, || true).await
    }

    /// One fetch, unless somebody else fetched, or failed to, while we waited for our turn.
    async fn fetch_once(
        &self,
        seen: Option<&Arc<Held>>,
        from: Source<'_>,
        may_go: impl FnOnce() -> bool + Send,
    ) -> Result<Arc<Held>, ProviderError> {
        let failed_before = self.last_good.failed_at_ms.load(Ordering::Relaxed);
        let _turn = self.fetching.lock().await;
        let now_held = self.last_good.held.load_full();
        if let Some(held) = now_held.filter(|held| seen.is_none_or(|seen| !Arc::ptr_eq(held, seen))) {
            return Ok(held);
        }
        if self.last_good.failed_at_ms.load(Ordering::Relaxed) != failed_before {
            return Err(ProviderError::Unavailable("its keys could not be had a moment ago".to_owned()));
        }
        if !may_go() {
            let why = "unknown key id, and too many were unknown before";
            return Err(ProviderError::protocol("token_key", why));
        }
        // A task of its own: who loses patience does not stop the refresh.
        let (last_good, http, jwks_uri) =
            (Arc::clone(&self.last_good), Arc::clone(from.http), from.jwks_uri.clone());
        let fetch = async move {
            let began = Instant::now();
            let fetched = fetch_set(&http, &jwks_uri, from.now_ms).await.map(Arc::new);
            match &fetched {
                Ok(held) => last_good.held.store(Some(Arc::clone(held))),
                Err(error) => {
                    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or_default();
                    last_good.failed_at_ms.store(from.now_ms + took_ms, Ordering::Relaxed);
                    tracing::warn!(%error, "the provider's keys could not be refreshed");
                }
            }
            fetched
        };
        let fetched = tokio::spawn(telemetry::carried(fetch)).await;
        fetched.unwrap_or_else(|_| Err(ProviderError::Unavailable("its keys were not waited for".to_owned())))
    }
}

/// Where keys come from, and when.
#[derive(Clone, Copy)]
pub struct Source<'s> {
    pub http: &'s Arc<Http>,
    pub jwks_uri: &'s Url,
    pub now_ms: i64,
}

async fn fetch_set(http: &Http, jwks_uri: &Url, now_ms: i64) -> Result<Held, ProviderError> {
    let answer = http.get(jwks_uri, None).await.map_err(ProviderError::into_outage)?;
    if answer.status != 200 {
        return Err(ProviderError::Unavailable(format!("the key set answered {}", answer.status)));
    }
    let keys = read_set(&answer.body)
        .map_err(|e| ProviderError::Unavailable(format!("the key set is unusable: {e}")))?;
    let life_ms = answer
        .max_age_s
        .and_then(|s| i64::try_from(s).ok())
        .map_or(LIFE_DEFAULT_MS, |s| s.saturating_mul(1000))
        .clamp(LIFE_MIN_MS, LIFE_MAX_MS);
    Ok(Held { keys, fetched_at_ms: now_ms, life_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rsa(bytes: usize, more: &str) -> String {
        let n = URL_SAFE_NO_PAD.encode(vec![0xc3; bytes]);
        format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","kid":"k"{more}}}"#)
    }

    fn usable(keys: &[String]) -> usize {
        read_set(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).map_or(0, |keys| keys.len())
    }

    #[test]
    fn tk_19_unusable_keys_are_skipped_one_by_one() {
        let good = rsa(256, "");
        for bad in [
            rsa(128, ""),
            rsa(256, r#","use":"enc""#),
            rsa(256, r#","d":"AQAB""#),
            rsa(256, r#","key_ops":["sign"]"#),
            r#"{"kty":"oct","k":"c2VjcmV0"}"#.into(),
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#.into(),
            r#"{"kty":"XX"}"#.into(),
            "7".into(),
            "{}".into(),
            r#"{"kty":"RSA","n":7,"e":"AQAB"}"#.into(),
        ] {
            assert_eq!(usable(&[bad.clone(), good.clone()]), 1, "{bad}");
        }
        assert_eq!(usable(&[rsa(256, r#","use":"sig","key_ops":["verify"],"x5c":7,"alg":"RS256""#)]), 1);
    }

    #[test]
    fn a_key_fits_only_its_own_family_algorithm_and_id() {
        let keys = read_set(format!(r#"{{"keys":[{}]}}"#, rsa(256, r#","alg":"RS256""#)).as_bytes()).unwrap();
        let key = keys.first().unwrap();
        assert!(key.fits("RS256", Some("k")) && key.fits("RS256", None));
        assert!(
            !key.fits("RS256", Some("x"))
                && !key.fits("PS256", Some("k"))
                && !key.fits("ES256", Some("k"))
                && !key.fits("HS256", Some("k"))
                && !key.fits("none", None)
        );
    }

    #[test]
    fn a_modulus_with_leading_zeros_is_the_same_number() {
        let padded = URL_SAFE_NO_PAD.encode([vec![0, 0], vec![0xc3; 256]].concat());
        let set = format!(r#"{{"keys":[{{"kty":"RSA","n":"{padded}","e":"AAEAAQ"}}]}}"#);
        let keys = read_set(set.as_bytes()).unwrap();
        let numbers = keys[0].rsa().unwrap();
        assert_eq!(
            (numbers.n.as_slice(), numbers.e.as_slice()),
            (vec![0xc3; 256].as_slice(), [1, 0, 1].as_slice())
        );
        for (bytes, count) in [(255, 0), (256, 1), (1024, 1), (1025, 0)] {
            assert_eq!(usable(&[rsa(bytes, "")]), count, "{bytes}");
        }
    }

    #[test]
    fn tk_17_unknown_key_ids_have_a_budget() {
        let mut budget = Budget::new(Budget::LOGINS);
        assert_eq!((0..1000).filter(|_| budget.take(1000)).count(), 3);
        assert_eq!((0..1000).filter(|_| budget.take(61_000)).count(), 1);
        let mut strangers = Budget::new(Budget::STRANGERS);
        assert_eq!((0..1000).filter(|_| strangers.take(1000)).count(), 1);
        assert_eq!((0..1000).filter(|_| strangers.take(600_000)).count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_bytes_make_the_key_set_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), n in "[A-Za-z0-9_=-]{0,40}") {
            let _ = read_set(&bytes);
            let _ = read_set(format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"{n}"}},{{"kty":"EC","crv":"P-256","x":"{n}","y":"{n}"}},{{"kty":"OKP","crv":"Ed25519","x":"{n}"}}]}}"#).as_bytes());
        }
    }
}
