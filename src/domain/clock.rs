//! Time and randomness as parameters, so that a test owns both.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// Where unpredictable bytes come from.
pub trait Random: Send + Sync {
    /// Fills the whole slice with bytes that nobody can guess.
    fn fill(&self, bytes: &mut [u8]);
}

/// 256 random bits as 43 base64url characters: session keys, `state`, `nonce`, PKCE verifiers (ASVS 7.2.3, RFC 7636 7.1).
pub fn token_256(random: &dyn Random) -> String {
    let mut bytes = [0_u8; 32];
    random.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// 128 random bits as 22 base64url characters: public handles, which prove nothing by themselves.
pub fn token_128(random: &dyn Random) -> String {
    let mut bytes = [0_u8; 16];
    random.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
