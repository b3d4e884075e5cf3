//! Master keys: how they are written down, which are refused, and the sub-key of each purpose.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a master key and of each sub-key.
pub const KEY_BYTES: usize = 32;
/// Characters a passphrase has at least (security.md CR-07).
pub const PASSPHRASE_MIN_CHARS: usize = 24;
/// Bytes of a passphrase's salt.
pub const SALT_BYTES: usize = 16;

/// Argon2id's cost: 19 MiB, two passes, one lane (OWASP Password Storage; RFC 9106 4 explains the trade).
const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2_PASSES: u32 = 2;
const ARGON2_LANES: u32 = 1;

/// Keys printed in standards and documents, which people copy.
const PRINTED_KEYS: [&str; 4] = [
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
    "c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558",
    "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
];

/// Words whose SHA-256 is a "random" key to nobody but its author.
const HASHED_WORDS: [&str; 12] = [
    "",
    "a",
    "abc",
    "changeme",
    "change-me",
    "default",
    "doorward",
    "example",
    "key",
    "password",
    "secret",
    "test",
];

/// What a sub-key is for. One purpose never sees another's key (security.md CR-06, RFC 5869 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// AES-256-GCM over what is stored.
    Seal,
    /// The MAC of the session cookie.
    CookieMac,
    /// Keyed hashes of tokens that are looked up.
    TokenHash,
    /// Signatures of outgoing events.
    Webhook,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Seal => b"doorward/1/seal",
            Self::CookieMac => b"doorward/1/cookie-mac",
            Self::TokenHash => b"doorward/1/token-hash",
            Self::Webhook => b"doorward/1/webhook",
        }
    }
}

/// Why a text or file is no master key. Never holds any part of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error(
        "a key is exactly 32 random bytes, as they are, as 64 hex digits or as base64; this one has {0} bytes"
    )]
    Length(usize),
    #[error("the key is neither 64 hex digits nor base64 of 32 bytes")]
    Unreadable,
    #[error("the key is all zero")]
    AllZero,
    #[error("the key repeats itself")]
    Repeated,
    #[error("the key is a plain sequence")]
    Sequence,
    #[error("the key has too few different bytes to be random")]
    FewValues,
    #[error(
        "the key is 32 printable characters, which is a password and no random key: give it as a passphrase"
    )]
    Printable,
    #[error("the key is a published example")]
    Example,
    #[error("a passphrase has at least 24 characters; this one has {0}")]
    PassphraseShort(usize),
    #[error("the passphrase has too few different characters")]
    PassphraseSimple,
    #[error("the passphrase could not be stretched")]
    Stretching,
}

/// 32 secret bytes from which every other symmetric key is derived. Wiped
/// when dropped, never printed, never compared with `==`.
///
/// ```compile_fail,E0369
/// let key = |n: u8| doorward::crypto::MasterKey::from_bytes(&[n; 32]).unwrap();
/// let _ = key(1) == key(2);
/// ```
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// Reads a key file: 32 raw bytes, or text as in [`Self::from_text`] with white space around it.
    ///
    /// # Errors
    /// Why the content is no strong key.
    pub fn from_bytes(content: &[u8]) -> Result<Self, KeyFault> {
        if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(content) {
            let raw = Zeroizing::new(raw);
            // Chance makes 32 printable bytes once in 10^13 keys; people make them every day.
            if raw.iter().all(|b| b.is_ascii_graphic() || *b == b' ') && raw.iter().any(|b| *b != b'0') {
                return Err(KeyFault::Printable);
            }
            return Self::checked(raw);
        }
        match std::str::from_utf8(content) {
            Ok(text) if !text.trim().is_empty() => Self::from_text(text),
            _ => Err(KeyFault::Length(content.len())),
        }
    }

    /// Reads 64 hex digits, or base64 or base64url of 32 bytes, padded or not.
    ///
    /// # Errors
    /// Why the text is no strong key.
    pub fn from_text(text: &str) -> Result<Self, KeyFault> {
        let text = text.trim();
        let bytes = Zeroizing::new(decode(text).ok_or(KeyFault::Unreadable)?);
        let raw = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| KeyFault::Length(bytes.len()))?;
        Self::checked(Zeroizing::new(raw))
    }

    /// Stretches a passphrase by Argon2id (RFC 9106; 19 MiB, two passes). Takes tens of milliseconds.
    ///
    /// # Errors
    /// The passphrase is too short or too simple.
    pub fn from_passphrase(passphrase: &str, salt: &[u8; SALT_BYTES]) -> Result<Self, KeyFault> {
        let passphrase = passphrase.trim();
        let chars = passphrase.chars().count();
        if chars < PASSPHRASE_MIN_CHARS {
            return Err(KeyFault::PassphraseShort(chars));
        }
        let mut kinds: Vec<char> = passphrase.chars().collect();
        kinds.sort_unstable();
        kinds.dedup();
        let simple = kinds.len() < 8;
        kinds.zeroize();
        if simple {
            return Err(KeyFault::PassphraseSimple);
        }
        let cost = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, Some(KEY_BYTES))
            .map_err(|_| KeyFault::Stretching)?;
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, cost)
            .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
            .map_err(|_| KeyFault::Stretching)?;
        Ok(Self(key))
    }

    /// The key of one purpose, by HKDF-SHA256 with the purpose as label (RFC 5869).
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "the length is a constant within the limit"
    )]
    pub fn sub_key(&self, purpose: Purpose) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        Hkdf::<Sha256>::new(None, self.0.as_slice())
            .expand(purpose.label(), key.as_mut_slice())
            .expect("32 bytes are within HKDF's limit of 255 hashes");
        key
    }

    fn checked(raw: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, KeyFault> {
        match weakness(&raw) {
            Some(fault) => Err(fault),
            None => Ok(Self(raw)),
        }
    }
}

/// Compares secrets in a time that tells nothing but their lengths (security.md CR-10).
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hex of either case; `None` for anything else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    rest.is_empty()
        .then(|| pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect())?
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() == KEY_BYTES * 2
        && let Some(bytes) = from_hex(text)
    {
        return Some(bytes);
    }
    [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD]
        .into_iter()
        .find_map(|engine| engine.decode(text).ok())
}

fn weakness(raw: &[u8; KEY_BYTES]) -> Option<KeyFault> {
    if raw.iter().all(|b| *b == 0) {
        return Some(KeyFault::AllZero);
    }
    if (1..=KEY_BYTES / 2).any(|period| raw.iter().zip(raw.iter().skip(period)).all(|(a, b)| a == b)) {
        return Some(if is_printed(raw) { KeyFault::Example } else { KeyFault::Repeated });
    }
    let [first, second, ..] = *raw;
    let step = second.wrapping_sub(first);
    if raw.iter().zip(raw.iter().skip(1)).all(|(a, b)| b.wrapping_sub(*a) == step) {
        return Some(KeyFault::Sequence);
    }
    let mut kinds = Zeroizing::new(*raw);
    kinds.sort_unstable();
    // 32 random bytes have 30 different values; fewer than 16 never happens.
    if kinds.chunk_by(|a, b| a == b).count() < KEY_BYTES / 2 {
        return Some(KeyFault::FewValues);
    }
    let hashed = HASHED_WORDS.iter().any(|word| same_bytes(&Sha256::digest(word.as_bytes()), raw));
    (hashed || is_printed(raw)).then_some(KeyFault::Example)
}

fn is_printed(raw: &[u8]) -> bool {
    PRINTED_KEYS.iter().any(|hex| from_hex(hex).is_some_and(|key| same_bytes(&key, raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed key that no rule refuses.
    fn sample() -> [u8; 32] {
        Sha256::digest(b"doorward test key").into()
    }

    fn fault(content: &[u8]) -> KeyFault {
        MasterKey::from_bytes(content).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_key_is_read_as_raw_bytes_hex_or_base64_of_either_alphabet() {
        let raw = sample();
        let expected = MasterKey::from_bytes(&raw).unwrap().sub_key(Purpose::Seal);
        for text in [
            to_hex(&raw),
            to_hex(&raw).to_uppercase(),
            format!("{}\n", to_hex(&raw)),
            STANDARD.encode(raw),
            STANDARD_NO_PAD.encode(raw),
            URL_SAFE.encode(raw),
            format!(" {}\r\n", URL_SAFE_NO_PAD.encode(raw)),
        ] {
            let key = MasterKey::from_bytes(text.as_bytes()).unwrap().sub_key(Purpose::Seal);
            assert!(same_bytes(&*key, &*expected), "{}", text.len());
        }
    }

    #[test]
    fn cr_06_each_purpose_has_its_own_key_and_the_known_answer() {
        // Computed with an independent implementation of RFC 5869: HMAC-SHA256, empty salt.
        let ikm: [u8; 32] = std::array::from_fn(|i| u8::try_from((i * 37 + 11) % 256).unwrap());
        let master = MasterKey(Zeroizing::new(ikm));
        for (purpose, expected) in [
            (Purpose::Seal, "d2b502fbed74ca3ca8767d570ffedee6919d7e1fa770b3e16a8129d161b860dd"),
            (Purpose::CookieMac, "9e32140a1590dde86fd964e665c4b04072b59f6e703f9365fa2e32d40393816b"),
            (Purpose::TokenHash, "c66efde3cd1c293543a92fd4577626e0d1fe9a55138d7f5f8a08f1ff4f595954"),
            (Purpose::Webhook, "5552fb9aa268cf23e911efdf3ff495f4614f62af1a7cfd6152ed4f218b0e9bd1"),
        ] {
            assert_eq!(to_hex(&*master.sub_key(purpose)), expected, "{purpose:?}");
        }
    }

    #[test]
    fn cr_07_weak_keys_are_refused_with_the_reason() {
        let mut two_halves = [0_u8; 32];
        two_halves[..16].copy_from_slice(&sample()[..16]);
        two_halves[16..].copy_from_slice(&sample()[..16]);
        let ascending: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let descending: [u8; 32] = std::array::from_fn(|i| u8::try_from(255 - i * 3).unwrap());
        let mut few = sample();
        few[..20].fill(7);
        for (content, reason) in [
            (vec![], KeyFault::Length(0)),
            (vec![0xC3; 31], KeyFault::Length(31)),
            (sample()[..16].to_vec(), KeyFault::Length(16)),
            ([sample(), sample()].concat(), KeyFault::Length(64)),
            (vec![0; 32], KeyFault::AllZero),
            (vec![0xAB; 32], KeyFault::Repeated),
            (two_halves.to_vec(), KeyFault::Repeated),
            (ascending.to_vec(), KeyFault::Sequence),
            (descending.to_vec(), KeyFault::Sequence),
            (few.to_vec(), KeyFault::FewValues),
            (b"correct horse battery staple 123".to_vec(), KeyFault::Printable),
            (b"0123456789abcdef0123456789abcdef".to_vec(), KeyFault::Printable),
            ("00".repeat(32).into_bytes(), KeyFault::AllZero),
            (STANDARD.encode([0_u8; 32]).into_bytes(), KeyFault::AllZero),
            (PRINTED_KEYS[0].as_bytes().to_vec(), KeyFault::Example),
            (PRINTED_KEYS[1].as_bytes().to_vec(), KeyFault::Example),
            (Sha256::digest(b"secret").to_vec(), KeyFault::Example),
            (to_hex(&Sha256::digest(b"")).into_bytes(), KeyFault::Example),
            (STANDARD.encode(&sample()[..24]).into_bytes(), KeyFault::Printable),
            (STANDARD.encode(&sample()[..20]).into_bytes(), KeyFault::Length(20)),
            (b"not base64 at all!".to_vec(), KeyFault::Unreadable),
            ("zz".repeat(32).into_bytes(), KeyFault::Length(48)),
        ] {
            assert_eq!(fault(&content), reason, "{content:?}");
        }
    }

    #[test]
    fn cr_07_a_passphrase_is_long_mixed_and_stretched_with_its_salt() {
        let fault = |text: &str| MasterKey::from_passphrase(text, &[7; 16]).map(|_| ()).unwrap_err();
        assert_eq!(fault("twenty-three characters"), KeyFault::PassphraseShort(23));
        assert_eq!(fault(&format!("{}   \n", "x".repeat(23))), KeyFault::PassphraseShort(23));
        assert_eq!(fault(&"abcabc".repeat(5)), KeyFault::PassphraseSimple);
        let text = "walnut river seven quiet lamps";
        let hex = |salt: [u8; 16]| {
            to_hex(&*MasterKey::from_passphrase(text, &salt).unwrap().sub_key(Purpose::Seal))
        };
        assert_eq!(hex([7; 16]), hex([7; 16]));
        assert_ne!(hex([7; 16]), hex([8; 16]));
    }

    #[test]
    fn cr_09_debug_shows_no_byte_of_a_key() {
        let text = format!("{:?}", MasterKey::from_bytes(&sample()).unwrap());
        assert_eq!(text, "MasterKey(…)");
        for content in [b"CANARY-CANARY-CANARY".as_slice(), b"CANARY-CANARY-CANARY-CANARY-CANA"] {
            let fault = fault(content);
            assert!(!format!("{fault:?} {fault}").contains("CANARY"));
        }
    }

    #[test]
    fn cr_10_secrets_are_the_same_only_byte_for_byte() {
        assert!(same_bytes(b"abc", b"abc"));
        for other in [b"abd".as_slice(), b"ab", b"abcd", b""] {
            assert!(!same_bytes(b"abc", other));
        }
    }

    #[test]
    fn hex_is_read_back_and_nothing_else_is_hex() {
        assert_eq!(from_hex(&to_hex(&sample())).unwrap(), sample());
        for text in ["0", "0g", "+1", "é", "0 "] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }
}
