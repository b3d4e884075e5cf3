//! What an access token says that an API client brought, whichever way it was verified.

use super::Change;

/// A verified access token. Times are Unix ms; `None` means that the token does not say.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The person or program it speaks for, as far as the token tells; enough for a first row, never reason to rewrite one.
    pub change: Change,
    /// Whether roles, or groups, stand in the token at all: an absent list is no empty one.
    pub says_roles: bool,
    pub says_groups: bool,
    /// Whether a claim is missing without which the operator lets nobody in.
    pub lacks_required_claim: bool,
    /// The provider's session that it belongs to; a program's own token has none.
    pub sid: Option<String>,
    pub issued_at_ms: Option<i64>,
    pub expires_at_ms: Option<i64>,
    pub auth_time_ms: Option<i64>,
    pub acr: Option<String>,
    /// Scopes as granted, space separated (RFC 9068 2.2.3).
    pub scope: Option<String>,
}
