//! What differs at the development `IdP`: it says in so many words that an account is suspended.

use async_trait::async_trait;

use super::directory::Directory;
use super::oidc::Oidc;
use super::{Provider, ProviderError};
use crate::domain::{Callback, Denial, LoginAttempt};

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
}
