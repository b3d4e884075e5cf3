//! Everything that can go wrong, ordered by who can mend it; without HTTP. `web::problem` alone knows status and code.

use crate::domain::{Denial, FieldFault};
use crate::providers::ProviderError;
use crate::store::{StoreError, users::ApplyError};

/// What a flow can end in, besides well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // The visitor's to mend.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    #[error("the login attempt is unknown, used or too old")]
    LoginExpired,
    /// The reason is for the audit log; the visitor learns only that it failed.
    #[error("the login failed: {0}")]
    LoginFailed(&'static str),
    #[error("not signed in")]
    NotSignedIn,
    /// A bearer token that does not count; the reason is for the audit log, the client learns only that it does not.
    #[error("the bearer token does not count: {0}")]
    InvalidToken(&'static str),
    /// A bearer token that the provider honours, and whose session or user here is over.
    #[error("the bearer token's session or user is over here")]
    TokenRevoked,
    /// No such person, or not this password.
    #[error("wrong credentials")]
    InvalidCredentials,
    /// An API client's session is over, or never was.
    #[error("the session has ended")]
    SessionEnded,
    /// A refresh token that was replaced some time ago: somebody else may hold a copy.
    #[error("a refresh token was used again")]
    RefreshTokenReused,
    #[error("{} of the fields cannot be taken", .0.len())]
    InvalidFields(Vec<FieldFault>),
    #[error("the password does not fit the policy")]
    PasswordPolicy(Vec<FieldFault>),
    #[error("that name or address is taken")]
    Taken,
    #[error("too many attempts")]
    TooMany { retry_after_s: u32 },
    #[error("signed in, and not allowed")]
    NotAllowed,
    #[error("the request may come from another site")]
    Csrf,
    #[error("kept out: {0:?}")]
    Denied(Denial),
    #[error("the login was cancelled")]
    LoginCancelled,
    #[error("there is nothing here")]
    NotFound,
    #[error("this door does not offer that")]
    NotOffered,
    #[error("no route leads there")]
    NoRoute,
    #[error("this place does not take that method")]
    MethodNotAllowed,
    #[error("this host is not the public origin")]
    WrongHost,
    #[error("too much was sent")]
    TooLarge,
    #[error("the request came too slowly")]
    TooSlow,
    #[error("the address is too long")]
    AddressTooLong,
    #[error("the request head is too large")]
    HeadTooLarge,
    #[error("another identity holds this user id")]
    IdentityConflict,

    // Another house's to mend.
    #[error("the identity provider is not available: {0}")]
    ProviderDown(String),
    #[error("the identity provider's answer cannot be used: {0}")]
    ProviderRefused(String),
    #[error("the app behind this door cannot be reached: {0}")]
    UpstreamDown(String),
    #[error("the app behind this door took too long")]
    UpstreamSlow,

    // Ours to mend.
    #[error("too much is going on: {0}")]
    Overloaded(&'static str),
    #[error("the database is not available: {0}")]
    DatabaseDown(String),
    /// Nothing of the transaction was written, and the same work may be tried again at once: `flows::again` does.
    #[error("the database broke off: {0}")]
    Interrupted(String),
    #[error("internal: {0}")]
    Internal(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The machine-readable reason for audit log and metrics; never foreign text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::TooSlow => "invalid_request",
            Self::LoginExpired => "login_expired",
            Self::LoginFailed(reason) | Self::InvalidToken(reason) => reason,
            Self::NotSignedIn => "not_signed_in",
            Self::TokenRevoked => "token_revoked",
            Self::InvalidCredentials => "invalid_credentials",
            Self::SessionEnded => "session_ended",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::InvalidFields(_) => "invalid_fields",
            Self::PasswordPolicy(_) => "password_policy",
            Self::Taken => "taken",
            Self::TooMany { .. } => "too_many",
            Self::Overloaded(_) => "overloaded",
            Self::NotAllowed => "not_allowed",
            Self::Csrf => "csrf",
            Self::Denied(denial) => denial.code(),
            Self::LoginCancelled => "login_cancelled",
            Self::NotFound => "not_found",
            Self::NotOffered => "not_offered",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::WrongHost => "wrong_host",
            Self::TooLarge | Self::AddressTooLong | Self::HeadTooLarge => "too_large",
            Self::IdentityConflict => "identity_conflict",
            Self::ProviderDown(_) => "provider_unavailable",
            Self::ProviderRefused(_) => "provider_error",
            Self::UpstreamDown(_) => "upstream_error",
            Self::UpstreamSlow => "upstream_timeout",
            Self::DatabaseDown(_) | Self::Interrupted(_) => "database_unavailable",
            Self::Internal(_) => "internal",
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TryAgain(_) | StoreError::Lost(_) => Self::Interrupted(error.to_string()),
            unavailable if unavailable.is_unavailable() => Self::DatabaseDown(unavailable.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::IdentityConflict { .. } => Self::IdentityConflict,
            ApplyError::Store(error) => error.into(),
        }
    }
}

impl From<ProviderError> for Error {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Revoked => Self::LoginFailed("code_refused"),
            ProviderError::Denied(denial) => Self::Denied(denial),
            ProviderError::WrongCredentials => Self::InvalidCredentials,
            ProviderError::Taken => Self::Taken,
            ProviderError::Rejected(faults) => Self::InvalidFields(faults),
            ProviderError::PasswordPolicy(faults) => Self::PasswordPolicy(faults),
            ProviderError::Cancelled => Self::LoginCancelled,
            ProviderError::InteractionNeeded => Self::NotSignedIn,
            ProviderError::ClaimMissing(_) => Self::NotAllowed,
            ProviderError::Protocol { reason: "provider_error", .. } => {
                Self::ProviderRefused(error.to_string())
            }
            ProviderError::Protocol { reason, .. } => Self::LoginFailed(reason),
            ProviderError::BeginAgain | ProviderError::Unavailable(_) => {
                Self::ProviderDown(error.to_string())
            }
            ProviderError::Misconfigured(_) => Self::ProviderRefused(error.to_string()),
        }
    }
}
