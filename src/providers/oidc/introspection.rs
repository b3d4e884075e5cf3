//! Asking the provider about a token (RFC 7662), once for all who bring it at the same time, and believing the answer for a short while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::access_token::facts;
use super::token_call::{Form, read_object};
use super::{Oidc, id_token};
use crate::config::ProviderKind;
use crate::domain::AccessToken;
use crate::providers::ProviderError;

/// A token that the provider does not know may be known in a moment; nobody waits for that long.
const INACTIVE_MS: i64 = 10_000;
/// Tokens remembered in each of two generations.
const GENERATION_MAX: usize = 4096;
/// Of the places that calls to a provider have, most stay for logins.
const CALLS_MAX: usize = 16;
const PLACE_WAIT: Duration = Duration::from_secs(2);
/// As large as a token itself may be.
const ANSWER_MAX: usize = 64 * 1024;

type Hash = [u8; 32];

/// The provider's word on one token.
#[derive(Clone)]
struct Known {
    asked_at_ms: i64,
    until_ms: i64,
    /// Why it does not count, where it does not.
    word: Result<Arc<AccessToken>, &'static str>,
}

impl Known {
    /// A clock that was set back makes no word last longer.
    fn is_fresh(&self, now_ms: i64) -> bool {
        (self.asked_at_ms..self.until_ms).contains(&now_ms)
    }

    fn word(&self) -> Result<Arc<AccessToken>, ProviderError> {
        self.word
            .clone()
            .map_err(|reason| ProviderError::protocol(reason, "the provider said so a moment ago"))
    }
}

/// What is known of one token; whoever asks about it holds this locked.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Two generations: when the young one is full it becomes the old one, and what nobody asked for since goes.
#[derive(Default)]
struct Generations {
    young: HashMap<Hash, Slot>,
    old: HashMap<Hash, Slot>,
}

impl Generations {
    fn slot(&mut self, hash: Hash) -> Slot {
        if let Some(slot) = self.young.get(&hash) {
            return Arc::clone(slot);
        }
        let slot = self.old.remove(&hash).unwrap_or_default();
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, Arc::clone(&slot));
        slot
    }
}

/// What one provider said of tokens. It begins anew with a reload, which may have changed what counts.
pub(super) struct Introspections {
    known: Mutex<Generations>,
    places: Semaphore,
}

impl Introspections {
    pub fn new() -> Self {
        Self { known: Mutex::default(), places: Semaphore::new(CALLS_MAX) }
    }

    fn slot(&self, hash: Hash) -> Slot {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).slot(hash)
    }

    /// Whether a word on the token is at hand, so that nobody has to be asked.
    fn knows(&self, hash: &Hash, now_ms: i64) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = known.young.get(hash).or_else(|| known.old.get(hash));
        slot.and_then(|slot| {
            slot.try_lock().ok().map(|held| held.as_ref().is_some_and(|k| k.is_fresh(now_ms)))
        })
        .unwrap_or(false)
    }
}

/// Tokens are remembered by their hash: memory holds nothing that could be used.
fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

impl Oidc {
    pub(in crate::providers) fn knows_token(&self, token: &str) -> bool {
        self.introspections.knows(&hash(token), self.clock.now_ms())
    }

    /// What the provider says of a token, now or a moment ago. A failure to ask is never remembered.
    pub(super) async fn introspect(&self, token: &str) -> Result<Arc<AccessToken>, ProviderError> {
        let slot = self.introspections.slot(hash(token));
        let mut held = slot.lock().await;
        if let Some(known) = held.as_ref().filter(|known| known.is_fresh(self.clock.now_ms())) {
            return known.word();
        }
        let place = tokio::time::timeout(PLACE_WAIT, self.introspections.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(ProviderError::Unavailable("too many tokens are being asked about".to_owned()));
        };
        let claims = self.ask_about(token).await?;
        let known = self.judged(&claims);
        let word = match &known.word {
            Ok(token) => Ok(Arc::clone(token)),
            Err(reason) => Err(ProviderError::protocol(reason, "by the provider's word")),
        };
        *held = Some(known);
        word
    }

    async fn ask_about(&self, token: &str) -> Result<Map<String, Value>, ProviderError> {
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.introspection_endpoint else {
            return Err(ProviderError::Misconfigured(
                "its metadata names no introspection endpoint".to_owned(),
            ));
        };
        let form: Form =
            vec![("token".into(), token.to_owned()), ("token_type_hint".into(), "access_token".to_owned())];
        let answer = self.proof.post(self.call(&metadata, endpoint), form).await;
        let answer = answer.map_err(ProviderError::into_outage)?;
        // An answer about us, or none that can be read, says nothing of the token.
        match answer.status {
            200 if answer.body.len() <= ANSWER_MAX => {
                read_object(&answer, "introspection").map_err(ProviderError::into_outage)
            }
            // Our part is the same in every call: what it does not like is the token. Some refuse to look at a JWT at all.
            400 => match read_object(&answer, "introspection") {
                Err(ProviderError::Misconfigured(error)) if error.ends_with("_client") => {
                    Err(ProviderError::Misconfigured(error))
                }
                _ => Ok(Map::new()),
            },
            401 | 403 => Err(ProviderError::Misconfigured("invalid_client at introspection".to_owned())),
            status => Err(ProviderError::Unavailable(format!("introspection answered {status}"))),
        }
    }

    fn judged(&self, claims: &Map<String, Value>) -> Known {
        let now_ms = self.clock.now_ms();
        let life_ms = self.config.introspection_cache_ms;
        let (word, until_ms) = match self.judge(claims, now_ms) {
            Ok(token) => {
                let exp_ms = token.expires_at_ms.unwrap_or(i64::MAX);
                (Ok(Arc::new(token)), now_ms.saturating_add(life_ms).min(exp_ms))
            }
            Err(error) => {
                let reason = match error {
                    ProviderError::Protocol { reason, .. } => reason,
                    _ => "access_token_inactive",
                };
                (Err(reason), now_ms.saturating_add(INACTIVE_MS.min(life_ms)))
            }
        };
        Known { asked_at_ms: now_ms, until_ms, word }
    }

    /// RFC 7662 2.2: only `active: true` counts, and only for a token of ours. Other kinds of token are active too.
    fn judge(&self, claims: &Map<String, Value>, now_ms: i64) -> Result<AccessToken, ProviderError> {
        if claims.get("active") != Some(&Value::Bool(true)) {
            return Err(ProviderError::protocol("access_token_inactive", "not active"));
        }
        let says_bearer = |name: &str| {
            claims.get(name).map(|word| word.as_str().is_some_and(|word| word.eq_ignore_ascii_case("bearer")))
        };
        let is_access_token = match (self.config.kind, says_bearer("typ"), says_bearer("token_type")) {
            (ProviderKind::Keycloak, Some(true), None | Some(true)) => true,
            (ProviderKind::Keycloak, _, _) => false,
            // A refresh token has no type; without a word nobody can tell the two apart.
            (_, None | Some(true), Some(true)) | (_, Some(true), None) => true,
            _ => false,
        };
        if !is_access_token {
            return Err(ProviderError::protocol("access_token_type", "another kind of token"));
        }
        let issuer = match claims.get("iss") {
            // Who answers is who issued it: a provider knows its own tokens alone.
            None if self.config.issuer_template.is_none() => self.config.issuer.clone(),
            _ => id_token::check_issuer(claims, &self.config)
                .map_err(|_| ProviderError::protocol("access_token_iss", "missing or another issuer"))?,
        };
        facts(claims, &self.config, issuer, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_remembered_in_bounded_memory() {
        let mut generations = Generations::default();
        let first = generations.slot(hash("first"));
        for n in 0..GENERATION_MAX {
            generations.slot(hash(&n.to_string()));
        }
        assert!(Arc::ptr_eq(&first, &generations.slot(hash("first"))), "who is asked for stays");
        for n in 0..3 * GENERATION_MAX {
            generations.slot(hash(&format!("more {n}")));
        }
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
        assert!(!Arc::ptr_eq(&first, &generations.slot(hash("first"))), "who is not, goes");
    }

    #[test]
    fn a_word_ends_with_its_time_and_when_the_clock_is_set_back() {
        let known = Known { asked_at_ms: 100, until_ms: 200, word: Err("x") };
        assert_eq!([99, 100, 199, 200].map(|now| known.is_fresh(now)), [false, true, true, false]);
    }
}
