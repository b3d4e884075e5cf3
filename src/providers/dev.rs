//! What differs at the development `IdP`: it says in so many words that an account is suspended.

use async_trait::async_trait;
use secrecy::SecretString;

use super::directory::Directory;
use super::oidc::Oidc;
use super::{PasswordLogin, Provider, ProviderError};
use crate::domain::{Callback, Denial, Grant, LoginAttempt};

pub(super) struct Dev(pub Oidc);

#[async_trait]
impl Provider for Dev {
    fn oidc(&self) -> &Oidc {
        &self.0
    }

    fn directory(&self) -> Option<&dyn Directory> {
        Some(self)
    }

    async fn accept(&self, callback: &Callback, attempt: &LoginAttempt) -> Result<(), ProviderError> {
        self.0.check_issuer(callback, attempt).await?;
        if callback.error.as_deref() == Some("account_disabled") {
            return Err(ProviderError::Denied(Denial::AccountDisabled));
        }
        Oidc::check_error(callback, attempt)
    }

    fn passwords(&self) -> Option<&dyn PasswordLogin> {
        Some(self)
    }
}

#[async_trait]
impl PasswordLogin for Dev {
    async fn login(&self, username: &str, password: &SecretString) -> Result<Grant, ProviderError> {
        match self.0.ask_with_password(username, password).await? {
            Ok(redeemed) => self.0.grant(redeemed),
            // Unlike Keycloak it says so only to whoever knows the password.
            Err(refusal) if refusal.of_person() == Some("Account disabled") => {
                Err(ProviderError::Denied(Denial::AccountDisabled))
            }
            Err(refusal) => Err(refusal.meaning()),
        }
    }
}
