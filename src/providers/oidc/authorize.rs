//! The authorization request: as the browser carries it, or pushed to the provider first (RFC 9126).

use std::borrow::Cow;
use std::time::Duration;

use openidconnect::core::{CoreAuthPrompt, CoreAuthenticationFlow, CoreClient};
use openidconnect::{
    AuthUrl, AuthenticationContextClass, ClientId, CsrfToken, IssuerUrl, JsonWebKeySet, LoginHint, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};
use serde_json::Value;
use url::Url;

use super::Oidc;
use super::discovery::Metadata;
use super::token_call;
use crate::config::{self, ResponseMode};
use crate::domain::{LoginAttempt, LoginRequest, Prompt};
use crate::providers::ProviderError;

impl Oidc {
    pub(super) fn authorization_request(
        &self,
        endpoint: &Url,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        let odd = |what: &str| ProviderError::Misconfigured(format!("{what} is not a URL"));
        let issuer = IssuerUrl::new(attempt.issuer.clone()).map_err(|_| odd("issuer"))?;
        let redirect = RedirectUrl::new(attempt.redirect_uri.clone()).map_err(|_| odd("redirect_uri"))?;
        let client =
            CoreClient::new(ClientId::new(attempt.client_id.clone()), issuer, JsonWebKeySet::new(Vec::new()))
                .set_auth_uri(AuthUrl::from_url(endpoint.clone()));
        let (state, nonce) = (CsrfToken::new(attempt.state.clone()), Nonce::new(attempt.nonce.clone()));
        let challenge =
            PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(attempt.verifier.clone()));
        let mut url = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, move || state, move || nonce)
            .set_redirect_uri(Cow::Owned(redirect))
            .set_pkce_challenge(challenge)
            // openidconnect adds `openid` itself.
            .add_scopes(
                self.config.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new),
            );
        if let Some(prompt) = attempt.prompt {
            url = url.add_prompt(prompt_of(prompt));
        }
        if let Some(max_age_s) = attempt.max_age {
            url = url.set_max_age(Duration::from_secs(max_age_s));
        }
        for acr in &attempt.acr_values {
            url = url.add_auth_context_value(AuthenticationContextClass::new(acr.clone()));
        }
        if let Some(hint) = &request.login_hint {
            url = url.set_login_hint(LoginHint::new(hint.clone()));
        }
        if self.config.response_mode == ResponseMode::FormPost {
            url = url.add_extra_param("response_mode", "form_post");
        }
        for resource in &self.config.resource {
            url = url.add_extra_param("resource", resource.clone());
        }
        for (name, value) in &self.config.extra_auth_params {
            url = url.add_extra_param(name.clone(), value.clone());
        }
        Ok(url.url().0)
    }

    /// Pushes the request and leaves only its reference for the browser (RFC 9126 2.1, 4).
    pub(super) async fn push(&self, metadata: &Metadata, request: &Url) -> Result<Url, ProviderError> {
        let endpoint = metadata.pushed_authorization_request_endpoint.as_ref().ok_or_else(|| {
            ProviderError::Misconfigured(
                "pushed requests are configured, and the provider has no place for them".to_owned(),
            )
        })?;
        // Client authentication in the body brings its own `client_id`.
        let in_header = self.config.client_auth == config::ClientAuth::SecretBasic;
        let form = request.query_pairs().filter(|(name, _)| in_header || name != "client_id");
        let form = form.map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned())).collect();
        let answer = self.proof.post(self.call(metadata, endpoint), form).await?;
        let body = token_call::read_object(&answer, "pushed_request")?;
        let reference = body
            .get("request_uri")
            .and_then(Value::as_str)
            .filter(|uri| !uri.is_empty() && matches!(answer.status, 200 | 201));
        let Some(reference) = reference else {
            return Err(ProviderError::protocol(
                "pushed_request",
                format!("status {}, no request_uri", answer.status),
            ));
        };
        let mut url = metadata.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("client_id", &self.config.client_id)
            .append_pair("request_uri", reference);
        Ok(url)
    }
}

fn prompt_of(prompt: Prompt) -> CoreAuthPrompt {
    match prompt {
        Prompt::Login => CoreAuthPrompt::Login,
        Prompt::SelectAccount => CoreAuthPrompt::SelectAccount,
        Prompt::Consent => CoreAuthPrompt::Consent,
        Prompt::Create => CoreAuthPrompt::Extension("create".to_owned()),
        Prompt::None => CoreAuthPrompt::None,
    }
}
