//! Keys of programs that administer this door: what one looks like, and whether it still counts.

use sha2::{Digest as _, Sha256};

use super::{Random, clock};

const START: &str = "dw_";
const ID_BYTES: usize = 6;
const ID_LENGTH: usize = 2 * ID_BYTES;
const SECRET_LENGTH: usize = 43;

/// A key in full, `dw_<id>_<secret>`: twelve hex digits to find its row by, and 256 random bits in base64url to prove it. The start lets
/// scanners of leaked code recognise one.
#[derive(Clone)]
pub struct ApiKey {
    id: String,
    secret: String,
}

impl ApiKey {
    #[must_use]
    pub fn draw(random: &dyn Random) -> Self {
        let mut bytes = [0_u8; ID_BYTES];
        random.fill(&mut bytes);
        let id = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect();
        Self { id, secret: clock::token_256(random) }
    }

    /// `None` unless the text has the one form that [`Self::draw`] makes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.strip_prefix(START)?.split_at_checked(ID_LENGTH)?;
        let secret = rest.strip_prefix('_')?;
        let is_id = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let is_secret = secret.len() == SECRET_LENGTH
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (is_id && is_secret).then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// Public; names the key in lists and in the audit log.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is stored. Argon2id makes guessing dear where people choose (security.md PW-07 is about such secrets); 256 random bits cannot
    /// be guessed at any price, so that a plain SHA-256 gives a thief of the table nothing, and checking a key costs no memory.
    #[must_use]
    pub fn secret_hash(&self) -> Vec<u8> {
        Sha256::digest(self.secret.as_bytes()).to_vec()
    }

    /// The whole key, for the one moment when it is shown.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{START}{}_{}", self.id, self.secret)
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

fn digit(half: u8) -> char {
    char::from_digit(u32::from(half), 16).unwrap_or('0')
}

/// What the house knows of a key. Times are Unix ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub id: String,
    /// The operator's word for what it is used for.
    pub name: String,
    pub created_at_ms: i64,
    /// `None` = until it is revoked.
    pub expires_at_ms: Option<i64>,
    /// Noted at most once a minute.
    pub last_used_at_ms: Option<i64>,
    pub revoked_at_ms: Option<i64>,
    /// `cli:alice`
    pub created_by: String,
}

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    Expired,
    Revoked,
}

impl Standing {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl KnownKey {
    #[must_use]
    pub fn standing(&self, now_ms: i64) -> Standing {
        if self.revoked_at_ms.is_some() {
            Standing::Revoked
        } else if self.expires_at_ms.is_some_and(|end| end <= now_ms) {
            Standing::Expired
        } else {
            Standing::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sevens;

    impl Random for Sevens {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0x7f);
        }
    }

    #[test]
    fn a_key_is_read_back_and_nothing_else_is_one() {
        let key = ApiKey::draw(&Sevens);
        let text = key.expose();
        assert_eq!(text, "dw_7f7f7f7f7f7f_f39_f39_f39_f39_f39_f39_f39_f39_f39_f39_f38");
        let read = ApiKey::parse(&text).unwrap();
        assert_eq!((read.id(), read.secret_hash()), (key.id(), key.secret_hash()));
        let cut = &text[..text.len() - 1];
        for bad in [
            "",
            "dw_",
            cut,
            &format!("{text}a"),
            &text.replace("dw_", "DW_"),
            &text.replace("dw_7", "dw_g"),
            &text.replace("dw_7", "dw_F"),
            &text.replace("f39", "f3="),
            &format!("dw_{}", "é".repeat(28)),
        ] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{key:?}").contains("f39"));
    }

    #[test]
    fn a_key_counts_until_its_last_moment() {
        let mut key = KnownKey {
            id: "a".into(),
            name: "cron".into(),
            created_at_ms: 0,
            expires_at_ms: Some(10),
            last_used_at_ms: None,
            revoked_at_ms: None,
            created_by: "cli".into(),
        };
        assert_eq!((key.standing(9), key.standing(10)), (Standing::Good, Standing::Expired));
        key.expires_at_ms = None;
        assert_eq!(key.standing(i64::MAX), Standing::Good);
        key.revoked_at_ms = Some(1);
        assert_eq!(key.standing(0), Standing::Revoked);
    }
}
