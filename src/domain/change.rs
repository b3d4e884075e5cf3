//! A user fact on its way to the `users` table, whatever road it came by.

use serde::{Deserialize, Serialize};

use super::Email;

/// What a provider says of a person. Absent means "not said", and leaves nothing behind from an earlier word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub email: Option<Email>,
    pub email_verified: bool,
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub display_name: Option<String>,
    pub nickname: Option<String>,
    pub picture_url: Option<String>,
    pub locale: Option<String>,
    pub tenant_id: Option<String>,
}

/// One provider's news about one subject; every road (login, webhook, sync) ends in the same guarded upsert of it.
#[derive(Debug, Clone)]
pub struct Change {
    /// Id of the configured provider.
    pub provider: String,
    /// Exact issuer the subject belongs to.
    pub issuer: String,
    /// Issuers this provider had before a host move; a row under one of them moves over.
    pub former_issuers: Vec<String>,
    /// The provider's own user id, compared exactly (OpenID Connect Core 2).
    pub subject: String,
    /// Put before the subject to make `users.id`.
    pub id_prefix: String,
    pub profile: Profile,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    /// The provider's word on whether the account is active; `None` leaves what is stored.
    pub is_active: Option<bool>,
    /// Local roles given once, when the row is created.
    pub default_roles: Vec<String>,
    /// When the provider last changed the user (`updated_at`), Unix ms, if it says so.
    pub provider_updated_at_ms: Option<i64>,
    /// When this news was true: the ID token's `iat` or the event's own time, Unix ms.
    pub observed_at_ms: i64,
}

impl Change {
    /// The primary key the row will have.
    #[must_use]
    pub fn user_id(&self) -> String {
        format!("{}{}", self.id_prefix, self.subject)
    }
}
