//! What a vendor's directory needs of the core: a token of the client's own, and the way out to the provider.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use url::Url;

use super::Oidc;
use super::token_call::{Form, read_object, read_tokens};
use crate::providers::ProviderError;
use crate::providers::http::{Answer, Http};

/// A token is not used in its last moments: it must outlast the call.
const MARGIN_MS: i64 = 30_000;

/// The client's own access token (client credentials, RFC 6749 4.4), kept until shortly before its end.
#[derive(Default)]
pub struct OwnToken(Mutex<Option<(SecretString, i64)>>);

impl OwnToken {
    /// The token at hand, or a new one; one call at a time asks for it.
    ///
    /// # Errors
    /// The provider's: `Misconfigured` when it refuses the client.
    pub async fn current(&self, oidc: &Oidc) -> Result<SecretString, ProviderError> {
        let mut held = self.0.lock().await;
        let now_ms = oidc.clock.now_ms();
        if let Some((token, until_ms)) = held.as_ref()
            && now_ms < *until_ms
        {
            return Ok(token.clone());
        }
        *held = None;
        let tokens = oidc.own_tokens().await?;
        let token =
            tokens.access.ok_or_else(|| ProviderError::protocol("token_answer", "no access_token"))?;
        let until_ms = tokens.access_expires_at_ms.unwrap_or(now_ms).saturating_sub(MARGIN_MS);
        *held = Some((token.clone(), until_ms));
        Ok(token)
    }

    /// Forgets this token, which the provider refused; a newer one stays.
    pub async fn forget(&self, refused: &SecretString) {
        let mut held = self.0.lock().await;
        if held.as_ref().is_some_and(|(token, _)| is_same(token, refused)) {
            *held = None;
        }
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
}

impl Oidc {
    /// The provider's one way out.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// A directory's answer as an object, if it is one that a strict reader takes.
    #[must_use]
    pub fn object(answer: &Answer) -> Option<serde_json::Map<String, serde_json::Value>> {
        super::strict::object(&answer.body).ok()
    }

    async fn own_tokens(&self) -> Result<crate::domain::Tokens, ProviderError> {
        let metadata = self.metadata().await?;
        let form: Form = vec![("grant_type".into(), "client_credentials".to_owned())];
        let endpoint: &Url = &metadata.token_endpoint;
        let answer = match &self.config.admin {
            Some(admin) if admin.client_id != self.config.client_id => {
                let secret =
                    admin.client_secret.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
                self.http.post(endpoint, &form, Some((&admin.client_id, secret))).await?
            }
            _ => self.proof.post(self.call(&metadata, endpoint), form).await?,
        };
        // A refused client is the operator's to mend, not a spent code.
        read_object(&answer, "token_answer").map_err(|error| match error {
            ProviderError::Revoked => ProviderError::Misconfigured("invalid_grant".to_owned()),
            other => other,
        })?;
        read_tokens(&answer, self.clock.now_ms())
    }
}
