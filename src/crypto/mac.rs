//! Keyed hashes of what is looked up and must not be readable: HMAC-SHA256 over parts that cannot run into each other.

use aws_lc_rs::hmac;

/// 32 bytes for these parts under this key. Each part is preceded by its length, so that `ab`, `c` and `a`, `bc` differ.
#[must_use]
pub fn keyed_hash(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.sign().as_ref().to_vec()
}

/// A key that is made ready once and used at each request.
#[derive(Clone)]
pub struct ReadyMac(hmac::Key);

impl ReadyMac {
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Whether `tag` was made of `text` with this key; in constant time.
    #[must_use]
    pub fn is_of(&self, tag: &[u8], text: &[u8]) -> bool {
        hmac::verify(&self.0, text, tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other_and_keys_differ() {
        let hash = |key: &[u8], parts: &[&str]| {
            keyed_hash(key, &parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
        };
        assert_eq!(hash(b"k", &["ab", "c"]), hash(b"k", &["ab", "c"]));
        for other in [hash(b"k", &["a", "bc"]), hash(b"k", &["abc"]), hash(b"l", &["ab", "c"])] {
            assert_ne!(other, hash(b"k", &["ab", "c"]));
        }
    }
}
