//! What differs at Keycloak (26.x).

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use url::Url;

use super::oidc::{Memory, Oidc, claims};
use super::{Provider, ProviderError};
use crate::config;
use crate::domain::{Callback, Grant, LoginAttempt, LoginRequest};

/// Keycloak drops a longer `login_hint` without a word (since 26.4); leaving it out says the same more honestly.
const LOGIN_HINT_MAX: usize = 255;

pub(super) struct Keycloak(pub Oidc);

#[async_trait]
impl Provider for Keycloak {
    fn config(&self) -> &config::Provider {
        self.0.config()
    }

    async fn authorize_url(
        &self,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        let mut request = request.clone();
        request.login_hint = request.login_hint.filter(|hint| hint.len() <= LOGIN_HINT_MAX);
        self.0.authorize_url(attempt, &request).await
    }

    async fn accept(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<(), ProviderError> {
        self.0.accept(callback, attempt).await
    }

    async fn exchange(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<Grant, ProviderError> {
        let mut redeemed = self.0.redeem(callback, attempt).await?;
        // Keycloak's default mappers put roles into the access token alone.
        let config = self.0.config();
        if claims::at(&redeemed.claims, config.claims.roles.as_deref()).is_none()
            && let Some(more) = self.0.access_token_claims(&redeemed.tokens, &redeemed.verified.subject).await
        {
            const ITS_ROLES: [&str; 2] = ["realm_access", "resource_access"];
            redeemed.claims.extend(more.into_iter().filter(|(name, _)| ITS_ROLES.contains(&name.as_str())));
        }
        self.0.grant(redeemed)
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
