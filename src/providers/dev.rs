//! What differs at the development `IdP`: it says in so many words that an account is suspended.

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use url::Url;

use super::oidc::{Memory, Oidc};
use super::{Provider, ProviderError};
use crate::config;
use crate::domain::{Callback, Denial, Grant, LoginAttempt, LoginRequest};

pub(super) struct Dev(pub Oidc);

#[async_trait]
impl Provider for Dev {
    fn config(&self) -> &config::Provider {
        self.0.config()
    }

    async fn authorize_url(
        &self,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        self.0.authorize_url(attempt, request).await
    }

    async fn accept(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<(), ProviderError> {
        self.0.check_issuer(callback, attempt).await?;
        if callback.error.as_deref() == Some("account_disabled") {
            return Err(ProviderError::Denied(Denial::AccountDisabled));
        }
        Oidc::check_error(callback, attempt)
    }

    async fn exchange(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<Grant, ProviderError> {
        self.0.exchange(callback, attempt).await
    }

    async fn revoke(&self, token: &SecretString) -> Result<(), ProviderError> {
        self.0.revoke(token).await
    }

    async fn end_session_url(
        &self,
        id_token: Option<&SecretString>,
        back_to: &Url,
        state: &str,
    ) -> Option<Url> {
        self.0.end_session_url(id_token, back_to, state).await
    }

    fn memory(&self) -> Arc<Memory> {
        self.0.memory()
    }

    fn form_targets(&self) -> Vec<url::Origin> {
        self.0.form_targets()
    }

    async fn clock_offset_ms(&self) -> Result<Option<i64>, ProviderError> {
        self.0.clock_offset_ms().await
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        self.0.probe().await
    }
}
