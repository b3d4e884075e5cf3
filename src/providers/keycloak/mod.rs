//! What differs at Keycloak (26.x).

mod directory;
mod password;

use async_trait::async_trait;
use url::Url;

use super::directory::Directory;
use super::oidc::back_channel::OwnToken;
use super::oidc::{Oidc, Redeemed, claims};
use super::{PasswordLogin, Provider, ProviderError};
use crate::domain::{Callback, Denial, Grant, Held, LoginAttempt, LoginRequest, Tokens};

/// Keycloak drops a longer `login_hint` without a word (since 26.4); leaving it out says the same more honestly.
const LOGIN_HINT_MAX: usize = 255;

pub(super) struct Keycloak {
    oidc: Oidc,
    /// For the directory.
    own: OwnToken,
}

impl Keycloak {
    pub(super) fn new(oidc: Oidc) -> Self {
        Self { oidc, own: OwnToken::default() }
    }

    /// Keycloak's default mappers put roles into the access token alone.
    async fn add_roles(&self, redeemed: &mut Redeemed) {
        let config = self.oidc.config();
        if claims::at(&redeemed.claims, config.claims.roles.as_deref()).is_none()
            && let Some(more) =
                self.oidc.access_token_claims(&redeemed.tokens, &redeemed.verified.subject).await
        {
            const ITS_ROLES: [&str; 2] = ["realm_access", "resource_access"];
            redeemed.claims.extend(more.into_iter().filter(|(name, _)| ITS_ROLES.contains(&name.as_str())));
        }
    }
}

#[async_trait]
impl Provider for Keycloak {
    fn oidc(&self) -> &Oidc {
        &self.oidc
    }

    fn passwords(&self) -> Option<&dyn PasswordLogin> {
        Some(self)
    }

    fn directory(&self) -> Option<&dyn Directory> {
        Some(self)
    }

    async fn authorize_url(
        &self,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        let mut request = request.clone();
        request.login_hint = request.login_hint.filter(|hint| hint.len() <= LOGIN_HINT_MAX);
        self.oidc.authorize(attempt, &request).await
    }

    /// Revoking a refresh token leaves the session alive for other clients, and a person whom Keycloak still asks whether to sign out has
    /// one too; its own logout ends it for all.
    async fn sign_out(&self, tokens: &Tokens) -> Result<(), ProviderError> {
        match (&tokens.refresh, &tokens.access) {
            (Some(refresh), _) => self.oidc.end_session_by(refresh).await,
            (None, Some(access)) => self.oidc.revoke(access).await,
            (None, None) => Ok(()),
        }
    }

    async fn exchange(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<Grant, ProviderError> {
        let mut redeemed = self.oidc.redeem(callback, attempt).await?;
        self.add_roles(&mut redeemed).await;
        self.oidc.grant(redeemed)
    }

    async fn refresh(&self, held: &Held) -> Result<Tokens, ProviderError> {
        self.oidc.refresh(held, refusal).await
    }
}

/// Keycloak says `invalid_grant` for many things. Two of them are not the end of this session alone.
fn refusal(description: &str) -> ProviderError {
    if description.starts_with("Invalid token issuer") {
        // Our call reached it by another host name than the login did; the token itself is good.
        return ProviderError::Misconfigured("the token was issued under another host name".to_owned());
    }
    if description == "User disabled" {
        return ProviderError::Denied(Denial::AccountDisabled);
    }
    ProviderError::Revoked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_the_session_unless_it_is_our_own_fault() {
        for (description, outcome) in [
            ("Token is not active", "revoked"),
            ("Session not active", "revoked"),
            ("Invalid refresh token", "revoked"),
            ("Invalid refresh token. Token client and authorized client don't match", "revoked"),
            ("Maximum allowed refresh token reuse exceeded", "revoked"),
            ("Stale token", "revoked"),
            ("Session doesn't have required client", "revoked"),
            ("", "revoked"),
            ("User disabled", "denied"),
            ("Invalid token issuer. Expected 'http://kc/realms/a'", "misconfigured"),
        ] {
            assert_eq!(refusal(description).outcome(), outcome, "{description}");
        }
    }
}
