//! The key ring: AES-256-GCM bound to the place where the sealed bytes are kept.
//!
//! Stored form: `[version = 1][key id length][key id][nonce, 12 bytes][ciphertext
//! and tag]` (security.md CR-04).

use aes_gcm::aead::{Aead as _, Generate as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use zeroize::Zeroizing;

use super::{MasterKey, Purpose};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Longest key id; with it the head of the stored form has at most 66 bytes.
pub const KEY_ID_MAX_BYTES: usize = 64;

type Nonce = aes_gcm::Nonce<aes_gcm::aead::consts::U12>;

/// Where sealed bytes live. They open in this place only (security.md CR-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub table: &'a str,
    pub row: &'a str,
    pub column: &'a str,
}

/// Why sealed bytes do not open. All of them mean "no value", none means "try something else".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("sealed in an unknown format version")]
    UnknownVersion,
    #[error("sealed with key {0:?}, which is not in the ring")]
    UnknownKey(String),
    #[error("not a sealed value")]
    Malformed,
    #[error("damaged, moved from another place, or sealed with another key of the same id")]
    NotAuthentic,
}

impl OpenError {
    /// One word for metrics and the audit log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::UnknownVersion => "unknown_version",
            Self::UnknownKey(_) => "unknown_key",
            Self::Malformed => "malformed",
            Self::NotAuthentic => "not_authentic",
        }
    }
}

/// Why keys make no ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    #[error("key id {0:?}: 1 to 64 of letters, digits, `.`, `_` and `-`")]
    BadId(String),
    #[error("two keys are called {0:?}")]
    Twice(String),
    #[error("the current key {0:?} is not in the ring")]
    NoCurrent(String),
}

struct RingKey {
    id: String,
    cipher: Aes256Gcm,
}

/// One key seals; that and the older ones open.
pub struct KeyRing {
    current: usize,
    keys: Vec<RingKey>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.ids().collect();
        f.debug_struct("KeyRing").field("current", &self.current_id()).field("ids", &ids).finish()
    }
}

impl KeyRing {
    /// # Errors
    /// A malformed or doubled id, or no key called `current`.
    pub fn new(current: &str, keys: Vec<(String, MasterKey)>) -> Result<Self, RingFault> {
        let mut ring: Vec<RingKey> = Vec::with_capacity(keys.len());
        for (id, master) in keys {
            if !is_key_id(&id) {
                return Err(RingFault::BadId(id));
            }
            if ring.iter().any(|key| key.id == id) {
                return Err(RingFault::Twice(id));
            }
            let cipher = Aes256Gcm::new(&(*master.sub_key(Purpose::Seal)).into());
            ring.push(RingKey { id, cipher });
        }
        let position = ring.iter().position(|key| key.id == current);
        let current = position.ok_or_else(|| RingFault::NoCurrent(current.to_owned()))?;
        Ok(Self { current, keys: ring })
    }

    /// Id of the key that seals.
    #[must_use]
    pub fn current_id(&self) -> &str {
        self.keys.get(self.current).map_or("", |key| &key.id)
    }

    /// Ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    /// Seals with the current key and a nonce fresh from the operating system (NIST SP 800-38D 8.2.2).
    ///
    /// # Panics
    /// When the operating system has no random bytes to give: going on would reuse a nonce.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Vec<u8> {
        self.keys.get(self.current).map_or_else(Vec::new, |key| key.seal(place, plaintext))
    }

    /// Seals with one named key, for a canary that tells whether this key
    /// is still the same. `None` when the ring lacks it.
    #[must_use]
    pub fn seal_with(&self, key_id: &str, place: Place<'_>, plaintext: &[u8]) -> Option<Vec<u8>> {
        self.key(key_id).map(|key| key.seal(place, plaintext))
    }

    /// Opens with the key the bytes name and no other (security.md CR-04).
    ///
    /// # Errors
    /// Anything that keeps the bytes from opening in this place.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let parts = Parts::read(sealed)?;
        let key = self.key(parts.key_id).ok_or_else(|| OpenError::UnknownKey(parts.key_id.to_owned()))?;
        let payload = Payload { msg: parts.text, aad: &associated(place, parts.key_id) };
        let opened = key.cipher.decrypt(&Nonce::from(parts.nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| OpenError::NotAuthentic)
    }

    /// Whether these bytes should be sealed anew.
    #[must_use]
    pub fn is_stale(&self, sealed: &[u8]) -> bool {
        Self::key_id_of(sealed) != Some(self.current_id())
    }

    /// Which key sealed these bytes, by their own word; enough of the head suffices.
    #[must_use]
    pub fn key_id_of(sealed: &[u8]) -> Option<&str> {
        let (key_id, _) = read_head(sealed).ok()?;
        Some(key_id)
    }

    fn key(&self, id: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl RingKey {
    #[expect(clippy::expect_used, reason = "AES-GCM fails only above 64 GiB of text, which no memory holds")]
    fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Vec<u8> {
        let nonce = Nonce::generate();
        let payload = Payload { msg: plaintext, aad: &associated(place, &self.id) };
        let text = self.cipher.encrypt(&nonce, payload).expect("a text below 64 GiB is sealed");
        // `is_key_id` bounds the length; the fallback would make bytes that never open.
        let id_len = u8::try_from(self.id.len()).unwrap_or(0);
        [&[VERSION, id_len], self.id.as_bytes(), &nonce, &text].concat()
    }
}

struct Parts<'a> {
    key_id: &'a str,
    nonce: [u8; NONCE_BYTES],
    text: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(sealed: &'a [u8]) -> Result<Self, OpenError> {
        let (key_id, rest) = read_head(sealed)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Malformed)?;
        if text.len() < TAG_BYTES {
            return Err(OpenError::Malformed);
        }
        Ok(Self { key_id, nonce: *nonce, text })
    }
}

fn read_head(sealed: &[u8]) -> Result<(&str, &[u8]), OpenError> {
    let (version, rest) = sealed.split_first().ok_or(OpenError::Malformed)?;
    if *version != VERSION {
        return Err(OpenError::UnknownVersion);
    }
    let (len, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
    let (key_id, rest) = rest.split_at_checked(usize::from(*len)).ok_or(OpenError::Malformed)?;
    let key_id = std::str::from_utf8(key_id).map_err(|_| OpenError::Malformed)?;
    if is_key_id(key_id) { Ok((key_id, rest)) } else { Err(OpenError::Malformed) }
}

fn is_key_id(id: &str) -> bool {
    (1..=KEY_ID_MAX_BYTES).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Each part goes in with its length, so that no two places share one text.
fn associated(place: Place<'_>, key_id: &str) -> Vec<u8> {
    let mut text = vec![VERSION];
    for part in [key_id, place.table, place.row, place.column] {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    const HERE: Place<'static> = Place { table: "sessions", row: "s1", column: "access_token" };

    fn master(name: &str) -> MasterKey {
        MasterKey::from_bytes(&Sha256::digest(format!("test {name}"))).unwrap()
    }

    fn ring(current: &str, ids: &[&str]) -> KeyRing {
        KeyRing::new(current, ids.iter().map(|id| ((*id).to_owned(), master(id))).collect()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_and_shows_its_form() {
        let ring = ring("k1", &["k1"]);
        for text in [b"".as_slice(), b"x", &[0; 5000]] {
            let sealed = ring.seal(HERE, text);
            assert_eq!(&sealed[..4], &[1, 2, b'k', b'1']);
            assert_eq!(sealed.len(), 4 + NONCE_BYTES + text.len() + TAG_BYTES);
            assert_eq!(KeyRing::key_id_of(&sealed), Some("k1"));
            assert_eq!(ring.open(HERE, &sealed).unwrap().as_slice(), text);
        }
    }

    #[test]
    fn cr_01_a_hundred_thousand_seals_repeat_no_nonce() {
        let ring = ring("k1", &["k1"]);
        let nonces: HashSet<Vec<u8>> =
            (0..100_000).map(|_| ring.seal(HERE, b"same text")[4..16].to_vec()).collect();
        assert_eq!(nonces.len(), 100_000);
    }

    #[test]
    fn cr_03_sealed_bytes_open_in_no_other_table_row_column_version_or_key() {
        let ring = ring("k1", &["k1", "k2"]);
        let sealed = ring.seal(HERE, b"token");
        for place in [
            Place { table: "users", ..HERE },
            Place { row: "s2", ..HERE },
            Place { column: "refresh_token", ..HERE },
            // The same letters cut elsewhere.
            Place { table: "session", row: "ss1", ..HERE },
            Place { row: "s1access", column: "_token", ..HERE },
            Place { table: "", row: "", column: "" },
        ] {
            assert_eq!(ring.open(place, &sealed), Err(OpenError::NotAuthentic), "{place:?}");
        }
        let mut renamed = sealed.clone();
        renamed[3] = b'2';
        assert_eq!(ring.open(HERE, &renamed), Err(OpenError::NotAuthentic));
        let mut other_version = sealed;
        other_version[0] = 2;
        assert_eq!(ring.open(HERE, &other_version), Err(OpenError::UnknownVersion));
    }

    #[test]
    fn cr_04_unknown_keys_truncation_and_bit_flips_are_errors() {
        let ring1 = ring("k1", &["k1"]);
        let sealed = ring1.seal(HERE, b"a token of some length");
        assert_eq!(ring("k2", &["k2"]).open(HERE, &sealed), Err(OpenError::UnknownKey("k1".into())));
        let same_name_other_key = KeyRing::new("k1", vec![("k1".into(), master("other"))]).unwrap();
        assert_eq!(same_name_other_key.open(HERE, &sealed), Err(OpenError::NotAuthentic));
        for len in 0..sealed.len() {
            assert!(ring1.open(HERE, &sealed[..len]).is_err(), "cut to {len}");
        }
        assert!(ring1.open(HERE, &[sealed.as_slice(), &[0]].concat()).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(ring1.open(HERE, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_older_key_still_opens_and_is_told_to_be_stale() {
        let old = ring("k1", &["k1"]).seal(HERE, b"token");
        let both = ring("k2", &["k1", "k2"]);
        assert_eq!(both.open(HERE, &old).unwrap().as_slice(), b"token");
        assert!(both.is_stale(&old));
        assert!(!both.is_stale(&both.seal(HERE, b"token")));
        assert!(both.is_stale(&both.seal_with("k1", HERE, b"token").unwrap()));
        assert!(both.seal_with("k3", HERE, b"token").is_none());
    }

    #[test]
    fn a_ring_has_its_current_key_and_no_name_twice() {
        let keys = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), master(id))).collect::<Vec<_>>();
        let fault = |current: &str, ids: &[&str]| KeyRing::new(current, keys(ids)).map(|_| ()).unwrap_err();
        assert_eq!(fault("k1", &[]), RingFault::NoCurrent("k1".into()));
        assert_eq!(fault("k3", &["k1", "k2"]), RingFault::NoCurrent("k3".into()));
        assert_eq!(fault("k1", &["k1", "k1"]), RingFault::Twice("k1".into()));
        let long = "k".repeat(65);
        for id in ["", "a b", "é", "a/b", &long] {
            assert_eq!(fault(id, &[id]), RingFault::BadId(id.to_owned()));
        }
    }

    #[test]
    fn cr_09_debug_of_a_ring_names_keys_and_shows_none() {
        assert_eq!(
            format!("{:?}", ring("k2", &["k1", "k2"])),
            r#"KeyRing { current: "k2", ids: ["k1", "k2"] }"#
        );
    }

    proptest! {
        #[test]
        fn cr_04_arbitrary_bytes_never_open_and_never_panic(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                (0_u8..70, proptest::collection::vec(any::<u8>(), 0..200))
                    .prop_map(|(len, rest)| [&[1, len], b"k1".as_slice(), &rest].concat()),
            ],
        ) {
            prop_assert!(ring("k1", &["k1"]).open(HERE, &bytes).is_err());
            let _ = KeyRing::key_id_of(&bytes);
        }

        #[test]
        fn whatever_is_sealed_opens_again(text in proptest::collection::vec(any::<u8>(), 0..300), row in "\\PC{0,40}") {
            let ring = ring("k1", &["k1"]);
            let place = Place { row: &row, ..HERE };
            prop_assert_eq!(ring.open(place, &ring.seal(place, &text)).unwrap().to_vec(), text);
        }
    }
}
