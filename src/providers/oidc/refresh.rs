//! New tokens for old ones, and the question whether the old ones are still good.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::discovery::Metadata;
use super::id_token::Occasion;
use super::jws::Jws;
use super::token_call::{self, Form};
use super::{Oidc, strict};
use crate::domain::{Held, Tokens};
use crate::providers::ProviderError;
use crate::providers::http::Answer;

impl Oidc {
    /// `refusal` says what an `invalid_grant` with this `error_description` means. The call is made once: sending the same token again
    /// is the caller's decision.
    pub(in crate::providers) async fn refresh(
        &self,
        held: &Held,
        refusal: fn(&str) -> ProviderError,
    ) -> Result<Tokens, ProviderError> {
        let Some(token) = &held.tokens.refresh else { return Err(ProviderError::Revoked) };
        let metadata = self.metadata().await?;
        let mut form: Form = vec![
            ("grant_type".into(), "refresh_token".to_owned()),
            ("refresh_token".into(), token.expose_secret().to_owned()),
        ];
        form.extend(self.config.resource.iter().map(|resource| ("resource".into(), resource.clone())));
        let answer = self.proof.post(self.call(&metadata, &metadata.token_endpoint), form).await;
        // Nonsense on the way is an incident like any other, and ends no session (security.md RT-05).
        let answer = answer.map_err(ProviderError::into_outage)?;
        let mut tokens = match token_call::read_tokens(&answer, self.clock.now_ms()) {
            Ok(tokens) => tokens,
            Err(ProviderError::Revoked) => return Err(refusal(&description(&answer))),
            Err(error) => return Err(error.into_outage()),
        };
        match self.check_renewed(&metadata, held, &tokens).await {
            Ok(()) => {}
            // The keys cannot be had now, or lag behind, and the old refresh token may be spent: the new ones must not be lost. An ID
            // token that nobody verified is none; a provider may leave it out as well.
            Err(
                error @ (ProviderError::Unavailable(_) | ProviderError::Protocol { reason: "token_key", .. }),
            ) => {
                tracing::warn!(provider = self.config.id, %error, "a renewed ID token could not be verified");
                tokens.id = None;
            }
            Err(error) => return Err(error),
        }
        let old = &held.tokens;
        Ok(Tokens {
            refresh_expires_at_ms: match tokens.refresh {
                Some(_) => tokens.refresh_expires_at_ms,
                None => tokens.refresh_expires_at_ms.or(old.refresh_expires_at_ms),
            },
            refresh: tokens.refresh.or_else(|| old.refresh.clone()),
            id: tokens.id.or_else(|| old.id.clone()),
            scope: tokens.scope.or_else(|| old.scope.clone()),
            ..tokens
        })
    }

    /// An ID token in the answer is checked like the first one, and speaks of the same login (OpenID Connect Core 12.2).
    async fn check_renewed(
        &self,
        metadata: &Metadata,
        held: &Held,
        tokens: &Tokens,
    ) -> Result<(), ProviderError> {
        if tokens.id.is_none() {
            return Ok(());
        }
        let (verified, claims) = self.verify(metadata, tokens, Occasion::Renewal).await?;
        let refuse = |reason, detail: &str| Err(ProviderError::protocol(reason, detail));
        if verified.subject != held.subject {
            return refuse("id_token_sub", "it speaks of another person");
        }
        // A session that was begun before the provider's host moved has the old name.
        if verified.issuer != held.issuer && !self.config.former_issuers.contains(&held.issuer) {
            return refuse("id_token_iss", "another issuer than at the login");
        }
        if let (Some(now), Some(then)) = (verified.auth_time_ms, held.auth_time_ms)
            && now != then
        {
            return refuse("id_token_auth_time", "a refresh is no login");
        }
        let first = held.tokens.id.as_ref().and_then(|token| Jws::read(token.expose_secret()).ok());
        let first = first.as_ref().and_then(|jws| jws.claims.get("nonce"));
        match claims.get("nonce") {
            Some(nonce) if Some(nonce) != first => refuse("id_token_nonce", "another login's"),
            _ => Ok(()),
        }
    }

    pub(in crate::providers) async fn vouch(
        &self,
        access: &SecretString,
        subject: &str,
    ) -> Result<(), ProviderError> {
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.userinfo_endpoint else { return Err(ProviderError::Revoked) };
        let answer = self.http.get(endpoint, Some(access.expose_secret())).await;
        let answer = answer.map_err(ProviderError::into_outage)?;
        if matches!(answer.status, 401 | 403) {
            return Err(ProviderError::Revoked);
        }
        let claims = token_call::read_object(&answer, "userinfo").map_err(ProviderError::into_outage)?;
        match (answer.status, claims.get("sub").and_then(Value::as_str)) {
            (200, Some(sub)) if sub == subject => Ok(()),
            (200, _) => Err(ProviderError::protocol("userinfo_sub", "it speaks of another person")),
            (status, _) => Err(ProviderError::Unavailable(format!("userinfo answered {status}"))),
        }
    }
}

fn description(answer: &Answer) -> String {
    let body = strict::object(&answer.body).unwrap_or_default();
    body.get("error_description").and_then(Value::as_str).unwrap_or_default().to_owned()
}
