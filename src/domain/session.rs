//! Who is signed in, and until when.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Random, Renewal, Tokens, clock};

/// A *browser* session's tokens are ours to refresh; an *api* session's belong to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKind {
    Browser,
    Api,
}

impl SessionKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Api => "api",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "api" { Self::Api } else { Self::Browser }
    }
}

/// The bearer secret in the browser's cookie: 256 random bits, of which the database knows only a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(String);

impl SessionKey {
    /// 256 bits in base64url.
    pub const LENGTH: usize = 43;

    pub fn draw(random: &dyn Random) -> Self {
        Self(clock::token_256(random))
    }

    /// `None` unless the text has the one form that [`Self::draw`] makes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let sound = text.len() == Self::LENGTH
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        sound.then(|| Self(text.to_owned()))
    }

    /// What the row is found by. A plain SHA-256 suffices for 256 random bits: there is nothing to guess (ASVS 11.4.2 speaks of passwords).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Self::hash_of(&self.0)
    }

    /// What a row would be found by if this text were a key.
    #[must_use]
    pub fn hash_of(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }

    /// The secret itself, for the cookie alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

/// One row of `sessions`, without its sealed tokens. Times are Unix ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Public handle; proves nothing.
    pub id: String,
    pub kind: SessionKind,
    pub user_id: String,
    pub provider: String,
    pub issuer: String,
    /// The provider's `sid`.
    pub provider_session_id: Option<String>,
    pub token_expires_at_ms: Option<i64>,
    pub refresh_expires_at_ms: Option<i64>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub created_at_ms: i64,
    pub last_active_at_ms: i64,
    /// The overall limit; no activity moves it.
    pub expires_at_ms: i64,
    pub revoked_at_ms: Option<i64>,
    /// Grows with every write that changes who or what the session is.
    pub generation: i64,
    pub auth_time_ms: Option<i64>,
    pub acr: Option<String>,
    pub scope: Option<String>,
    pub renewal: Renewal,
}

impl Session {
    /// When the session ends for lack of use, unless the overall limit comes first.
    #[must_use]
    pub fn idle_expires_at_ms(&self, idle_ms: i64) -> i64 {
        self.last_active_at_ms.saturating_add(idle_ms).min(self.expires_at_ms)
    }

    /// Neither ended, nor over its overall limit, nor idle for too long.
    #[must_use]
    pub fn is_alive(&self, now_ms: i64, idle_ms: i64) -> bool {
        self.revoked_at_ms.is_none() && now_ms < self.idle_expires_at_ms(idle_ms)
    }
}

/// A session about to be written.
#[derive(Debug)]
pub struct NewSession {
    pub session: Session,
    pub key: SessionKey,
    pub tokens: Tokens,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn session() -> Session {
        Session {
            id: "s".into(),
            kind: SessionKind::Browser,
            user_id: "u".into(),
            provider: "p".into(),
            issuer: "i".into(),
            provider_session_id: None,
            token_expires_at_ms: None,
            refresh_expires_at_ms: None,
            ip: None,
            user_agent: None,
            created_at_ms: 0,
            last_active_at_ms: 0,
            expires_at_ms: 10_000,
            revoked_at_ms: None,
            generation: 1,
            auth_time_ms: None,
            acr: None,
            scope: None,
            renewal: Renewal::default(),
        }
    }

    #[test]
    fn activity_moves_the_idle_limit_and_never_the_overall_one() {
        let mut s = session();
        assert!(s.is_alive(999, 1000));
        assert!(!s.is_alive(1000, 1000));
        s.last_active_at_ms = 9_900;
        assert!(s.is_alive(9_999, 1000));
        assert!(!s.is_alive(10_000, 1000));
    }

    #[test]
    fn only_the_form_we_make_is_a_session_key() {
        assert!(SessionKey::parse(&"a".repeat(43)).is_some());
        for bad in ["", "a", &"a".repeat(42), &"a".repeat(44), &"=".repeat(43), &"é".repeat(22)] {
            assert!(SessionKey::parse(bad).is_none());
        }
    }
}
