//! What differs in Keycloak's direct access grant: two descriptions of `invalid_grant` that mean something else than a wrong password.

use async_trait::async_trait;
use secrecy::SecretString;

use super::Keycloak;
use crate::domain::{Denial, Grant};
use crate::providers::{PasswordLogin, ProviderError};

#[async_trait]
impl PasswordLogin for Keycloak {
    async fn login(&self, username: &str, password: &SecretString) -> Result<Grant, ProviderError> {
        match self.oidc.ask_with_password(username, password).await? {
            Ok(mut redeemed) => {
                self.add_roles(&mut redeemed).await;
                self.oidc.grant(redeemed)
            }
            Err(refusal) => Err(match refusal.of_person() {
                // Said after the password was found right: a required action, an unverified address, a temporary password.
                Some("Account is not fully set up") => ProviderError::Denied(Denial::AccountActionRequired),
                // Said before the password is looked at, so whoever asks must not hear it.
                Some("Account disabled") => {
                    tracing::info!(
                        provider = self.oidc.config().id,
                        reason = "account_disabled",
                        "the provider has disabled the account; the answer is a wrong password's"
                    );
                    ProviderError::WrongCredentials
                }
                _ => refusal.meaning(),
            }),
        }
    }
}
