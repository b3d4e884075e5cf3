//! The OpenID Connect core that every vendor has: discovery, keys, the code flow, ID token and userinfo.
//!
//! The only room that knows the openidconnect crate. Foreign bytes pass `strict` before anything else reads them.

pub mod access_token;
mod authorize;
pub(super) mod back_channel;
pub(super) mod claims;
mod discovery;
mod id_token;
mod introspection;
pub mod jws;
pub mod keys;
mod logout_token;
mod password;
mod refresh;
mod strict;
mod token_call;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use tokio_rustls::rustls::ClientConfig;
use url::Url;

use self::discovery::{Discovery, Expectation, Metadata};
use self::id_token::{Expected, Occasion, Verified};
use self::introspection::Introspections;
use self::jws::Jws;
use self::keys::{Asker, Keys, Source};
use self::token_call::{Call, ClientProof, Form};
use super::breaker::Traffic;
use super::http::{Http, Line};
use super::{PasswordLogin, Provider, ProviderError};
use crate::config::{self, ProviderKind, RequireIss, When};
use crate::crypto::trust::Trust;
use crate::domain::{Callback, Clock, Grant, LoginAttempt, LoginRequest, Prompt, Random, Tokens};

/// What was learned of a provider; it outlives a reload, so that a provider in trouble is not forgotten just then.
pub struct Memory {
    discovery: Discovery,
    keys: Keys,
    traffic: Arc<Traffic>,
}

impl Memory {
    /// Nothing learned yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { discovery: Discovery::new(), keys: Keys::new(), traffic: Arc::default() })
    }
}

/// One OpenID provider.
pub struct Oidc {
    config: config::Provider,
    issuer_origin: Option<String>,
    http: Arc<Http>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    memory: Arc<Memory>,
    proof: ClientProof,
    introspections: Introspections,
}

fn tls(config: &config::Provider) -> Result<ClientConfig, String> {
    match &config.tls_ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            Trust::Authorities(&pem).client_config().map_err(|fault| format!("{}: {fault}", path.display()))
        }
        None if config.kind == ProviderKind::Dev => Trust::Nobody.client_config(),
        None => Trust::System.client_config(),
    }
}

impl Oidc {
    /// # Errors
    /// A sentence for the operator when a key or certificate authority cannot be used.
    pub fn new(
        config: config::Provider,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        memory: Arc<Memory>,
    ) -> Result<Self, String> {
        let issuer = Url::parse(&config.issuer).ok();
        let issuer_host =
            issuer.as_ref().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let issuer_origin = issuer.map(|url| url.origin().ascii_serialization());
        let line = Line {
            provider: config.id.clone(),
            traffic: Arc::clone(&memory.traffic),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        };
        let http = Arc::new(Http::new(&issuer_host, tls(&config)?, line)?);
        let proof = ClientProof::new(&config)?;
        let introspections = Introspections::new();
        Ok(Self { config, issuer_origin, http, clock, random, memory, proof, introspections })
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, ProviderError> {
        let issuer = self.config.issuer_template.as_deref().unwrap_or(&self.config.issuer);
        let expected = Expectation {
            place: &self.config.issuer,
            issuer,
            internal_base_url: self.config.internal_base_url.as_ref(),
            own_origin: matches!(self.config.kind, ProviderKind::Keycloak | ProviderKind::Dev),
        };
        self.memory.discovery.current(&self.http, expected, self.clock.now_ms()).await
    }

    fn call<'c>(&'c self, metadata: &'c Metadata, url: &'c Url) -> Call<'c> {
        Call {
            http: &self.http,
            url,
            token_endpoint: &metadata.token_endpoint,
            now_ms: self.clock.now_ms(),
            random: &*self.random,
        }
    }

    /// RFC 9207: the answer names the attempt's issuer, and must name one where the metadata says that it always does.
    pub(super) async fn check_issuer(
        &self,
        callback: &Callback,
        attempt: &LoginAttempt,
    ) -> Result<(), ProviderError> {
        let required = match self.config.require_iss {
            RequireIss::True => true,
            RequireIss::False => false,
            RequireIss::Auto => self.metadata().await?.announces_iss,
        };
        match &callback.issuer {
            Some(issuer) if *issuer == attempt.issuer => Ok(()),
            Some(_) => Err(ProviderError::protocol("callback_iss", "the answer names another issuer")),
            None if required => Err(ProviderError::protocol("callback_iss", "the answer names no issuer")),
            None => Ok(()),
        }
    }

    /// What an `error` in the answer means (RFC 6749 4.1.2.1, OpenID Connect Core 3.1.2.6).
    pub(super) fn check_error(callback: &Callback, attempt: &LoginAttempt) -> Result<(), ProviderError> {
        let Some(error) = callback.error.as_deref() else { return Ok(()) };
        Err(match error {
            "access_denied" => ProviderError::Cancelled,
            "login_required" | "interaction_required" | "account_selection_required" | "consent_required"
                if attempt.prompt == Some(Prompt::None) =>
            {
                ProviderError::InteractionNeeded
            }
            "login_required"
            | "interaction_required"
            | "account_selection_required"
            | "consent_required"
            | "temporarily_unavailable" => ProviderError::BeginAgain,
            "unmet_authentication_requirements" => {
                ProviderError::protocol("acr_unmet", "the provider cannot meet the asked strength")
            }
            "server_error" => {
                ProviderError::protocol("provider_error", "the provider reports its own failure")
            }
            other => ProviderError::Misconfigured(token_call::known_error(other).to_owned()),
        })
    }

    async fn spend_code(
        &self,
        metadata: &Metadata,
        callback: &Callback,
        attempt: &LoginAttempt,
    ) -> Result<Tokens, ProviderError> {
        let code = callback.code.clone().ok_or_else(|| ProviderError::protocol("callback", "no code"))?;
        let mut form: Form = vec![
            ("grant_type".into(), "authorization_code".to_owned()),
            ("code".into(), code),
            ("redirect_uri".into(), attempt.redirect_uri.clone()),
            ("code_verifier".into(), attempt.verifier.clone()),
        ];
        form.extend(self.config.resource.iter().map(|resource| ("resource".into(), resource.clone())));
        let answer = self.proof.post(self.call(metadata, &metadata.token_endpoint), form).await?;
        token_call::read_tokens(&answer, self.clock.now_ms())
    }

    /// Verifies the ID token in full and returns its claims. Without an attempt nothing was asked that it would have to answer.
    async fn verify(
        &self,
        metadata: &Metadata,
        tokens: &Tokens,
        occasion: Occasion<'_>,
    ) -> Result<(Verified, Map<String, Value>), ProviderError> {
        let id_token = tokens
            .id
            .as_ref()
            .ok_or_else(|| ProviderError::protocol("id_token_missing", "the answer has no ID token"))?;
        let jws = Jws::read(id_token.expose_secret())?;
        let key = self.verify_signature(metadata, &jws, Asker::Login).await?;
        let expected = Expected { config: &self.config, occasion, now_ms: self.clock.now_ms() };
        let verified = id_token::check(jws.typ.as_deref(), &jws.claims, &expected)?;
        if let (Some(claimed), Some(access)) = (jws.claims.get("at_hash"), &tokens.access) {
            let actual = jws.left_half_hash(&key, access.expose_secret());
            if actual.is_none() || claimed.as_str() != actual.as_deref() {
                return Err(ProviderError::protocol("id_token_at_hash", "it speaks of another access token"));
            }
        }
        self.memory.keys.forgive();
        Ok((verified, jws.claims))
    }

    async fn verify_signature(
        &self,
        metadata: &Metadata,
        jws: &Jws<'_>,
        asker: Asker,
    ) -> Result<openidconnect::core::CoreJsonWebKey, ProviderError> {
        // The provider's own list narrows ours; it never widens it.
        let announced = metadata.id_token_algs.is_empty() || metadata.id_token_algs.contains(&jws.alg);
        if !self.config.id_token_algs.contains(&jws.alg) || !announced {
            return Err(ProviderError::protocol("token_alg", "an algorithm that is not allowed"));
        }
        self.memory
            .keys
            .verify(
                jws,
                Source { http: &self.http, jwks_uri: &metadata.jwks_uri, now_ms: self.clock.now_ms() },
                asker,
            )
            .await
    }

    /// Adds what userinfo says, where it is asked. Its `sub` must be the ID token's (OpenID Connect Core 5.3.2).
    async fn add_userinfo(
        &self,
        metadata: &Metadata,
        tokens: &Tokens,
        claims: &mut Map<String, Value>,
    ) -> Result<(), ProviderError> {
        let (Some(endpoint), Some(access)) = (&metadata.userinfo_endpoint, &tokens.access) else {
            return Ok(());
        };
        let asked = match self.config.userinfo {
            When::Always => true,
            When::Never => false,
            When::Auto => !self.has_needed_claims(claims),
        };
        if !asked {
            return Ok(());
        }
        let answer = match self
            .http
            .get(endpoint, Some(access.expose_secret()))
            .await
            .and_then(|a| token_call::read_object(&a, "userinfo").map(|o| (a.status, o)))
        {
            Ok(answer) => answer,
            // Without the claims that were needed, a login would wipe what is stored of the person; then it had better wait.
            Err(ProviderError::Unavailable(why)) if self.has_needed_claims(claims) => {
                tracing::warn!(
                    provider = self.config.id,
                    why,
                    "userinfo could not be had; the ID token has to do"
                );
                return Ok(());
            }
            Err(ProviderError::Unavailable(why)) => return Err(ProviderError::Unavailable(why)),
            Err(_) => return Err(ProviderError::protocol("userinfo", "refused or unreadable")),
        };
        let (200, more) = answer else {
            return Err(ProviderError::protocol("userinfo", format!("status {}", answer.0)));
        };
        if more.get("sub").and_then(Value::as_str) != claims.get("sub").and_then(Value::as_str) {
            return Err(ProviderError::protocol("userinfo_sub", "it speaks of another person"));
        }
        claims.extend(more.into_iter().filter(|(name, _)| !THE_TOKENS_OWN.contains(&name.as_str())));
        Ok(())
    }

    fn has_needed_claims(&self, claims: &Map<String, Value>) -> bool {
        let asked = |scope: &str| self.config.scopes.iter().any(|s| s == scope);
        let has = |name: &str| claims.contains_key(name);
        (!asked("email") || has("email"))
            && (!asked("profile")
                || ["name", "preferred_username", "given_name", "nickname"].into_iter().any(has))
            && self.config.required_claims.iter().all(|path| claims::at(claims, Some(path)).is_some())
    }

    /// The code flow's second half: spends the code and verifies what comes back.
    pub(super) async fn redeem(
        &self,
        callback: &Callback,
        attempt: &LoginAttempt,
    ) -> Result<Redeemed, ProviderError> {
        let metadata = self.metadata().await?;
        let tokens = self.spend_code(&metadata, callback, attempt).await?;
        let (verified, mut claims) = self.verify(&metadata, &tokens, Occasion::Login(attempt)).await?;
        self.add_userinfo(&metadata, &tokens, &mut claims).await?;
        Ok(Redeemed { tokens, verified, claims })
    }

    /// Claims of an access token that is a JWT of this very issuer for this very login; `None` where it is not.
    pub(super) async fn access_token_claims(
        &self,
        tokens: &Tokens,
        subject: &str,
    ) -> Option<Map<String, Value>> {
        let metadata = self.metadata().await.ok()?;
        let jws = Jws::read(tokens.access.as_ref()?.expose_secret()).ok()?;
        self.verify_signature(&metadata, &jws, Asker::Login).await.ok()?;
        let is = |name: &str, value: &str| jws.claims.get(name).and_then(Value::as_str) == Some(value);
        let ours = is("iss", &self.config.issuer) && is("azp", &self.config.client_id) && is("sub", subject);
        ours.then_some(jws.claims)
    }

    pub(super) fn grant(&self, redeemed: Redeemed) -> Result<Grant, ProviderError> {
        let Redeemed { tokens, verified, claims } = redeemed;
        if let Some(missing) =
            self.config.required_claims.iter().find(|path| claims::at(&claims, Some(path)).is_none())
        {
            return Err(ProviderError::ClaimMissing(missing.clone()));
        }
        let change = claims::change(&claims, &verified, &self.config);
        Ok(Grant {
            change,
            tokens,
            sid: verified.sid,
            auth_time_ms: verified.auth_time_ms,
            acr: verified.acr,
        })
    }
}

/// Claims that only the signed token may set; userinfo speaks of the person, not of the login.
const THE_TOKENS_OWN: [&str; 13] =
    ["iss", "sub", "aud", "exp", "iat", "nbf", "azp", "nonce", "auth_time", "acr", "amr", "sid", "at_hash"];

/// A spent code: verified, with every claim we could gather.
pub(super) struct Redeemed {
    pub tokens: Tokens,
    pub verified: Verified,
    pub claims: Map<String, Value>,
}

/// What every vendor does alike.
impl Oidc {
    pub(super) fn config(&self) -> &config::Provider {
        &self.config
    }

    pub(super) async fn authorize(
        &self,
        attempt: &LoginAttempt,
        request: &LoginRequest,
    ) -> Result<Url, ProviderError> {
        let metadata = self.metadata().await?;
        let url = self.authorization_request(&metadata.authorization_endpoint, attempt, request)?;
        let push = match self.config.pushed_authorization {
            When::Always => true,
            When::Never => false,
            When::Auto => metadata.requires_pushed_requests,
        };
        if push { self.push(&metadata, &url).await } else { Ok(url) }
    }

    pub(super) async fn revoke(&self, token: &SecretString) -> Result<(), ProviderError> {
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.revocation_endpoint else { return Ok(()) };
        let form = vec![("token".into(), token.expose_secret().to_owned())];
        let answer = self.proof.post(self.call(&metadata, endpoint), form).await?;
        if (200..300).contains(&answer.status) {
            Ok(())
        } else {
            Err(ProviderError::Unavailable(format!("revocation answered {}", answer.status)))
        }
    }

    pub(super) async fn end_session_url(
        &self,
        id_token: Option<&SecretString>,
        back_to: &Url,
        state: &str,
    ) -> Option<Url> {
        let metadata = self.metadata().await.ok()?;
        let mut url = metadata.end_session_endpoint.clone()?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(id_token) = id_token {
                query.append_pair("id_token_hint", id_token.expose_secret());
            }
            query.append_pair("client_id", &self.config.client_id);
            query.append_pair("post_logout_redirect_uri", back_to.as_str());
            query.append_pair("state", state);
        }
        Some(url)
    }

    pub(super) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.memory.traffic.is_open()
    }

    pub(super) fn form_targets(&self) -> Vec<String> {
        let metadata = self.memory.discovery.at_hand();
        let known = metadata.iter().flat_map(|metadata| &metadata.browser_origins);
        self.issuer_origin.iter().chain(known).cloned().collect()
    }

    pub(super) async fn clock_offset_ms(&self) -> Result<Option<i64>, ProviderError> {
        let metadata = self.metadata().await?;
        let answer = self.http.get(&metadata.jwks_uri, None).await?;
        Ok(answer.date_ms.map(|theirs| theirs - self.clock.now_ms()))
    }

    pub(super) async fn probe(&self) -> Result<(), ProviderError> {
        let metadata = self.metadata().await?;
        let common = metadata.id_token_algs.is_empty()
            || metadata.id_token_algs.iter().any(|alg| self.config.id_token_algs.contains(alg));
        if !common {
            return Err(ProviderError::Misconfigured(
                "no ID token algorithm is allowed by both sides".to_owned(),
            ));
        }
        self.memory
            .keys
            .warm(Source { http: &self.http, jwks_uri: &metadata.jwks_uri, now_ms: self.clock.now_ms() })
            .await
    }
}

/// A provider that is nothing but OpenID Connect.
#[async_trait]
impl Provider for Oidc {
    fn oidc(&self) -> &Oidc {
        self
    }

    fn passwords(&self) -> Option<&dyn PasswordLogin> {
        Some(self)
    }
}

#[async_trait]
impl PasswordLogin for Oidc {
    async fn login(&self, username: &str, password: &SecretString) -> Result<Grant, ProviderError> {
        match self.ask_with_password(username, password).await? {
            Ok(redeemed) => self.grant(redeemed),
            Err(refusal) => Err(refusal.meaning()),
        }
    }
}
