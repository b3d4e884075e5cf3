//! A provider's word that somebody's session there is over (Back-Channel Logout 1.0).

/// A logout token that was verified in full. It names a session, a person, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutToken {
    /// The issuer under which its sessions are stored.
    pub issuer: String,
    pub subject: Option<String>,
    /// The provider's session id.
    pub sid: Option<String>,
    /// Which token it is: a second one with this id is a replay.
    pub jti: String,
    /// From when on the token would be refused for its age alone, so that its id may be forgotten; Unix ms.
    pub forget_at_ms: i64,
}
