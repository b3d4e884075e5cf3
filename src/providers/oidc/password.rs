//! The password grant (RFC 6749 4.3), which RFC 9700 2.4 advises against: only where an operator switched it on (security.md PW-01).

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::id_token::Occasion;
use super::token_call::{self, Form};
use super::{Oidc, Redeemed, strict};
use crate::providers::ProviderError;
use crate::providers::http::Answer;

/// A refusal in the provider's own words; foreign text, never shown and never logged.
pub(in crate::providers) struct Refusal {
    error: String,
    description: String,
}

impl Refusal {
    /// The one error that speaks of the person; its description says what, at some providers.
    pub(in crate::providers) fn of_person(&self) -> Option<&str> {
        (self.error == "invalid_grant").then_some(self.description.as_str())
    }

    /// What it means where the description is not to be trusted.
    pub(in crate::providers) fn meaning(&self) -> ProviderError {
        match self.error.as_str() {
            "invalid_grant" => ProviderError::WrongCredentials,
            "temporarily_unavailable" | "server_error" => {
                ProviderError::Unavailable("it says so itself".to_owned())
            }
            other => ProviderError::Misconfigured(token_call::known_error(other).to_owned()),
        }
    }
}

impl Oidc {
    /// Asks for tokens by name and password and verifies all that comes back.
    ///
    /// # Errors
    /// The outer ones are those of any call; the inner is the provider's refusal.
    pub(in crate::providers) async fn ask_with_password(
        &self,
        username: &str,
        password: &SecretString,
    ) -> Result<Result<Redeemed, Refusal>, ProviderError> {
        let metadata = self.metadata().await?;
        let mut form: Form = vec![
            ("grant_type".into(), "password".to_owned()),
            ("username".into(), username.to_owned()),
            ("password".into(), password.expose_secret().to_owned()),
            ("scope".into(), self.config.scopes.join(" ")),
        ];
        form.extend(self.config.resource.iter().map(|resource| ("resource".into(), resource.clone())));
        let answer = self.proof.post(self.call(&metadata, &metadata.token_endpoint), form).await?;
        if let Some(refusal) = refusal(&answer) {
            return Ok(Err(refusal));
        }
        let tokens = token_call::read_tokens(&answer, self.clock.now_ms())?;
        let (verified, mut claims) = self.verify(&metadata, &tokens, Occasion::Password).await?;
        // No nonce was sent: a token that carries one was made for another login.
        if claims.get("nonce").is_some_and(|nonce| !nonce.is_null()) {
            return Err(ProviderError::protocol("id_token_nonce", "another login's"));
        }
        self.add_userinfo(&metadata, &tokens, &mut claims).await?;
        Ok(Ok(Redeemed { tokens, verified, claims }))
    }
}

/// The body decides, whatever the status: Keycloak moved these answers from 401 to 400 with 26.6. A status of the provider's own trouble
/// is left to the common reader.
fn refusal(answer: &Answer) -> Option<Refusal> {
    if answer.status == 429 || answer.status >= 500 || !answer.is_json() {
        return None;
    }
    let body = strict::object(&answer.body).ok()?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Refusal { error: text("error")?, description: text("error_description").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, content_type: "application/json".into(), body: body.into(), ..Answer::default() }
    }

    #[test]
    fn the_body_decides_and_not_the_status() {
        for status in [200, 400, 401, 403] {
            let refused = refusal(&answer(
                status,
                r#"{"error":"invalid_grant","error_description":"Invalid user credentials"}"#,
            ))
            .unwrap();
            assert_eq!(refused.of_person(), Some("Invalid user credentials"));
            assert!(matches!(refused.meaning(), ProviderError::WrongCredentials));
        }
        for (error, why) in
            [("unauthorized_client", "unauthorized_client"), ("x y", "an error code of its own")]
        {
            let refused = refusal(&answer(400, &format!(r#"{{"error":"{error}"}}"#))).unwrap();
            assert!(refused.of_person().is_none());
            assert!(matches!(refused.meaning(), ProviderError::Misconfigured(text) if text == why));
        }
        assert!(refusal(&answer(503, r#"{"error":"invalid_grant"}"#)).is_none());
        assert!(refusal(&answer(200, r#"{"access_token":"a"}"#)).is_none());
        assert!(refusal(&answer(400, r#"{"error":"a","error":"invalid_grant"}"#)).is_none());
    }
}
