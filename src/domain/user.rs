//! A person as this house remembers them.

use serde::{Deserialize, Serialize};

use super::Profile;

/// The operator's word on a user; `is_active` beside it is the provider's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Active,
    Suspended,
}

impl Status {
    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    /// Anything unknown is read as suspended: an unreadable word must not let anybody in.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "active" { Self::Active } else { Self::Suspended }
    }
}

/// Why a person who proved who they are may still not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The provider says the account is not active, or the user was deleted.
    AccountDisabled,
    /// The operator suspended the user here.
    AccountSuspended,
    /// The user has no access to this app.
    NoAppAccess,
    /// The provider wants something done first (a new password, a missing name) that only its own pages can ask for.
    AccountActionRequired,
    /// The address must be confirmed at the provider first.
    EmailVerificationRequired,
    /// A second factor is due, for which only the provider's own pages can ask.
    MfaRequired,
    /// The person belongs to several organisations and must say for which one they come.
    OrganizationSelectionRequired,
}

impl Denial {
    /// The machine-readable word for it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::AccountDisabled => "account_disabled",
            Self::AccountSuspended => "account_suspended",
            Self::NoAppAccess => "no_app_access",
            Self::AccountActionRequired => "account_action_required",
            Self::EmailVerificationRequired => "email_verification_required",
            Self::MfaRequired => "mfa_required",
            Self::OrganizationSelectionRequired => "organization_selection_required",
        }
    }
}

/// One row of `users`. Identity is (`provider`, `issuer`, `subject`); e-mail is an attribute and never links accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub provider: String,
    pub issuer: String,
    pub subject: String,
    pub profile: Profile,
    /// A short public name, unique and never changed once given.
    pub usertag: String,
    /// Synced from the provider.
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    /// The operator's or app's own, never synced.
    pub local_roles: Vec<String>,
    /// The provider's word.
    pub is_active: bool,
    /// The operator's word; suspended wins over a good login.
    pub status: Status,
    pub has_app_access: bool,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub last_login_at_ms: Option<i64>,
    pub login_count: i64,
    pub provider_updated_at_ms: Option<i64>,
    pub synced_at_ms: i64,
    /// A tombstone: the person is gone, and late news cannot bring them back.
    pub deleted_at_ms: Option<i64>,
    /// The app's own JSON; no sync touches it.
    pub app_data: String,
}

impl User {
    /// Both kinds of roles, each once, sorted.
    #[must_use]
    pub fn effective_roles(&self) -> Vec<String> {
        let mut roles: Vec<String> = self.roles.iter().chain(&self.local_roles).cloned().collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// What to call the person on a page.
    pub fn display(&self) -> &str {
        let profile = &self.profile;
        profile
            .display_name
            .as_deref()
            .or(profile.first_name.as_deref())
            .or(profile.username.as_deref())
            .or(profile.email.as_ref().map(super::Email::as_str))
            .unwrap_or(&self.usertag)
    }

    /// Whether the person may have a session at all. The provider's word comes first, because it is the one the person can mend.
    ///
    /// # Errors
    /// The first reason that keeps them out.
    pub fn admit(&self) -> Result<(), Denial> {
        if self.deleted_at_ms.is_some() || !self.is_active {
            return Err(Denial::AccountDisabled);
        }
        if self.status == Status::Suspended {
            return Err(Denial::AccountSuspended);
        }
        if !self.has_app_access {
            return Err(Denial::NoAppAccess);
        }
        Ok(())
    }
}
