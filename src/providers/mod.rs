//! Other people's houses: everything Doorward says to an identity provider and believes of its answers.
//!
//! Owns: the [`Provider`] trait, the one HTTP client for providers, and a file per vendor that holds only what differs.
//! Never does: touch the database, know cookies or status codes, keep state beyond caches of keys and metadata.
//! Every vendor *has* an [`oidc::Oidc`]; none *is* one.

pub mod breaker;
mod dev;
mod dev_directory;
pub mod directory;
pub mod http;
mod keycloak;
pub mod oidc;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use url::Url;

use self::oidc::access_token::Brought;
use crate::config;
use crate::domain::{
    AccessToken, Callback, Clock, Denial, FieldFault, Grant, Held, LoginAttempt, LoginRequest, LogoutToken,
    Random, Tokens,
};

/// What a provider did not give us. Flows decide on the variant, never on text; the texts are for logs and never hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The code or token is spent, expired or withdrawn.
    #[error("the provider no longer honours the code or token")]
    Revoked,
    /// The person proved who they are, and may not pass.
    #[error("the provider keeps this person out: {0:?}")]
    Denied(Denial),
    /// No such person, or not this password; nobody learns which (security.md PW-02).
    #[error("the provider does not accept these credentials")]
    WrongCredentials,
    /// Somebody else has this name or address at the provider. It is never followed by a delete (security.md RG-03).
    #[error("the provider knows somebody of that name or address")]
    Taken,
    /// Fields that the provider does not accept.
    #[error("the provider does not accept {} of the fields", .0.len())]
    Rejected(Vec<FieldFault>),
    /// The provider's password policy; the sentence is the provider's own, cut and filtered.
    #[error("the password does not fit the provider's policy")]
    PasswordPolicy(Vec<FieldFault>),
    /// The person turned back at the provider.
    #[error("the login was cancelled at the provider")]
    Cancelled,
    /// `prompt=none` was asked, and the provider needs to see the person.
    #[error("the provider needs to see the person")]
    InteractionNeeded,
    /// The provider asks to begin again (an expired page, a stale tab).
    #[error("the provider asks to begin again")]
    BeginAgain,
    /// No usable answer: down, slow, or refusing for the moment.
    #[error("the provider is not available: {0}")]
    Unavailable(String),
    /// An answer that breaks the protocol or our trust; `reason` goes to the audit log.
    #[error("{reason}: {detail}")]
    Protocol { reason: &'static str, detail: String },
    /// A claim that the operator requires is not there.
    #[error("the required claim {0} is missing")]
    ClaimMissing(String),
    /// The provider refuses our configuration (client, scope, redirect address): an operator must act.
    #[error("the provider refuses our configuration: {0}")]
    Misconfigured(String),
}

impl ProviderError {
    /// One word for metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Denied(_) => "denied",
            Self::WrongCredentials => "wrong_credentials",
            Self::Taken => "taken",
            Self::Rejected(_) => "rejected",
            Self::PasswordPolicy(_) => "password_policy",
            Self::Cancelled => "cancelled",
            Self::InteractionNeeded => "interaction_needed",
            Self::BeginAgain => "begin_again",
            Self::Unavailable(_) => "unavailable",
            Self::Protocol { .. } => "protocol",
            Self::ClaimMissing(_) => "claim_missing",
            Self::Misconfigured(_) => "misconfigured",
        }
    }

    pub(crate) fn protocol(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Protocol { reason, detail: detail.into() }
    }

    /// For metadata and keys, which are nobody's login yet: an answer that breaks the protocol there is no better than none.
    pub(crate) fn into_outage(self) -> Self {
        match self {
            Self::Protocol { detail, .. } => Self::Unavailable(detail),
            other => other,
        }
    }
}

/// Login by name and password, where a provider can do that.
#[async_trait]
pub trait PasswordLogin: Send + Sync {
    /// Asks the provider and verifies what comes back. [`ProviderError::WrongCredentials`] says nothing of who exists;
    /// [`ProviderError::Denied`] is given only when the password was right (security.md PW-02).
    async fn login(&self, username: &str, password: &SecretString) -> Result<Grant, ProviderError>;
}

/// An identity provider as the flows see it. What a vendor does like any other is said here once, by way of the [`oidc::Oidc`] that each has;
/// its own file holds only what differs.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The OpenID Connect core of this provider.
    fn oidc(&self) -> &oidc::Oidc;

    /// What the operator wrote about it.
    fn config(&self) -> &config::Provider {
        self.oidc().config()
    }

    /// Where to send the browser for this attempt; pushed to the provider first where PAR is configured (RFC 9126).
    async fn authorize_url(
        &self,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        self.oidc().authorize(attempt, request).await
    }

    /// Whether the answer really comes from the attempt's issuer (RFC 9207), and what an `error` in it means.
    /// Called before anything is spent.
    async fn accept(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<(), ProviderError> {
        self.oidc().check_issuer(callback, attempt).await?;
        oidc::Oidc::check_error(callback, attempt)
    }

    /// Spends the code, once, and verifies everything that comes back.
    async fn exchange(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<Grant, ProviderError> {
        let redeemed = self.oidc().redeem(callback, attempt).await?;
        self.oidc().grant(redeemed)
    }

    /// Exchanges the refresh token, once, and verifies what comes back (RFC 6749 6, OpenID Connect Core 12). Tokens that the
    /// answer lacks are those held before. `Protocol` means that the answer speaks of another login than this one; an answer
    /// that cannot be read is `Unavailable`.
    async fn refresh(&self, held: &Held) -> Result<Tokens, ProviderError> {
        self.oidc().refresh(held, |_| ProviderError::Revoked).await
    }

    /// Whether the provider still honours this access token of this person, by the word of userinfo.
    async fn vouch(&self, access: &SecretString, subject: &str) -> Result<(), ProviderError> {
        self.oidc().vouch(access, subject).await
    }

    /// Withdraws a token at the provider (RFC 7009); best effort.
    async fn revoke(&self, token: &SecretString) -> Result<(), ProviderError> {
        self.oidc().revoke(token).await
    }

    /// Says at the provider that this session is over; best effort. The provider may call our own logout endpoint before it answers.
    async fn sign_out(&self, tokens: &Tokens) -> Result<(), ProviderError> {
        match tokens.refresh.as_ref().or(tokens.access.as_ref()) {
            Some(token) => self.revoke(token).await,
            None => Ok(()),
        }
    }

    /// Verifies a token by which the provider says that a session is over (Back-Channel Logout 2.6).
    async fn read_logout_token(&self, token: &str) -> Result<LogoutToken, ProviderError> {
        self.oidc().read_logout_token(token).await
    }

    /// Whether this provider is the one to judge a token that an API client brought.
    fn may_have_issued(&self, brought: &Brought<'_>) -> bool {
        self.oidc().may_have_issued(brought)
    }

    /// Verifies an access token in full, here or by asking the provider, as configured. `Protocol` means that the token does not count.
    async fn read_access_token(&self, brought: &Brought<'_>) -> Result<Arc<AccessToken>, ProviderError> {
        self.oidc().read_access_token(brought).await
    }

    /// Whether the provider's word on a token is at hand, so that it would not be asked.
    fn knows_token(&self, token: &str) -> bool {
        self.oidc().knows_token(token)
    }

    /// Where the browser ends the provider's own session (RP-Initiated Logout 2), if the provider has such a place.
    async fn end_session_url(
        &self,
        id_token: Option<&SecretString>,
        back_to: &Url,
        state: &str,
    ) -> Option<Url> {
        self.oidc().end_session_url(id_token, back_to, state).await
    }

    /// Login by name and password, whether or not the operator wants it.
    fn passwords(&self) -> Option<&dyn PasswordLogin> {
        None
    }

    /// Whether calls to it are refused at once because too many failed.
    fn is_cut_off(&self) -> bool {
        self.oidc().is_cut_off()
    }

    /// The power to create and remove people there; `None` where the provider has no such place.
    fn directory(&self) -> Option<&dyn directory::Directory> {
        None
    }

    /// What was learned of the provider, for its successor after a reload.
    fn memory(&self) -> Arc<oidc::Memory> {
        self.oidc().memory()
    }

    /// Origins that a form of ours may lead to by a redirect: browsers apply `form-action` to those too.
    fn form_targets(&self) -> Vec<String> {
        self.oidc().form_targets()
    }

    /// How far the provider's clock is ahead of ours, if its answers carry a date (to the second).
    async fn clock_offset_ms(&self) -> Result<Option<i64>, ProviderError> {
        self.oidc().clock_offset_ms().await
    }

    /// Tries what a login would need (metadata and keys), for readiness and `doorward check`.
    async fn probe(&self) -> Result<(), ProviderError> {
        self.oidc().probe().await
    }
}

/// Opens the house of each configured provider.
///
/// # Errors
/// A sentence for the operator when a client certificate authority or a signing key cannot be used.
pub fn open(
    config: &config::Provider,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    memory: Option<Arc<oidc::Memory>>,
) -> Result<Arc<dyn Provider>, String> {
    let oidc = oidc::Oidc::new(config.clone(), clock, random, memory.unwrap_or_else(oidc::Memory::new))?;
    Ok(match config.kind {
        config::ProviderKind::Dev => Arc::new(dev::Dev(oidc)),
        config::ProviderKind::Keycloak => Arc::new(keycloak::Keycloak::new(oidc)),
        config::ProviderKind::Oidc => Arc::new(oidc),
    })
}
