//! What a provider gave us for a code, fully verified.

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::Change;

/// A provider's tokens. Times are Unix ms; `None` means that the provider did not say.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: Option<SecretString>,
    pub refresh: Option<SecretString>,
    pub id: Option<SecretString>,
    pub access_expires_at_ms: Option<i64>,
    pub refresh_expires_at_ms: Option<i64>,
    /// Scopes as granted, space separated; absent means as requested (RFC 6749 5.1).
    pub scope: Option<String>,
}

impl Tokens {
    /// What a refresh token is recognised by after it was replaced. Providers draw them at random: there is nothing to guess.
    #[must_use]
    pub fn hash(token: &SecretString) -> Vec<u8> {
        Sha256::digest(token.expose_secret().as_bytes()).to_vec()
    }
}

/// What a session holds when it asks for new tokens, and what a new ID token must agree with.
#[derive(Debug)]
pub struct Held {
    pub tokens: Tokens,
    pub subject: String,
    pub issuer: String,
    /// When the person last proved who they are, Unix ms; a refresh is no such moment (OpenID Connect Core 12.2).
    pub auth_time_ms: Option<i64>,
}

/// A verified login: the ID token's word and the tokens beside it.
#[derive(Debug, Clone)]
pub struct Grant {
    pub change: Change,
    pub tokens: Tokens,
    /// The provider's session id (`sid`), by which its logout tokens name this session.
    pub sid: Option<String>,
    /// When the person last proved who they are (`auth_time`), Unix ms.
    pub auth_time_ms: Option<i64>,
    pub acr: Option<String>,
}
