//! Logout tokens, rule by rule (Back-Channel Logout 1.0, 2.4 and 2.6), and what else the provider is told or tells about a session's end.
//!
//! Every claim is checked before the signature is: nonsense costs neither arithmetic nor a call to the provider.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::Oidc;
use super::id_token::{self, is_short_text};
use super::jws::Jws;
use super::keys::Asker;
use crate::config::{self, ProviderKind};
use crate::domain::LogoutToken;
use crate::providers::ProviderError;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// A logout is news; an older token was kept for replay (security.md, suggested defaults).
const AGE_MAX_MS: i64 = 2 * 60 * 1000;
/// How much longer than it can be accepted a token's id is kept, for clocks that are set back meanwhile.
const KEPT_LONGER_MS: i64 = 10 * 60 * 1000;

fn refuse<T>(reason: &'static str, detail: impl Into<String>) -> Result<T, ProviderError> {
    Err(ProviderError::protocol(reason, detail))
}

/// Checks header type and claims; the signature is the caller's.
///
/// # Errors
/// `Protocol` with a reason of its own for each rule.
pub fn check(
    typ: Option<&str>,
    claims: &Map<String, Value>,
    config: &config::Provider,
    now_ms: i64,
) -> Result<LogoutToken, ProviderError> {
    check_type(typ, config.kind)?;
    let Ok(issuer) = id_token::check_issuer(claims, config) else {
        return refuse("logout_token_iss", "missing or another issuer");
    };
    check_audience(claims, &config.client_id)?;
    let issued_at_ms = check_times(claims, config.clock_skew_ms, now_ms)?;
    check_event(claims)?;
    // An ID token has a nonce: this keeps one from signing somebody out (Back-Channel Logout 2.4).
    if claims.contains_key("nonce") {
        return refuse("logout_token_nonce", "a nonce has no place in a logout token");
    }
    let text = |name: &'static str, reason| match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if is_short_text(text) => Ok(Some(text.clone())),
        Some(_) => refuse(reason, format!("{name} is not a short string")),
    };
    let subject = text("sub", "logout_token_sub")?;
    let sid = text("sid", "logout_token_sid")?;
    if subject.is_none() && sid.is_none() {
        return refuse("logout_token_sub", "names neither a session nor a person");
    }
    let Some(jti) = text("jti", "logout_token_jti")? else {
        return refuse("logout_token_jti", "missing");
    };
    let forget_at_ms = issued_at_ms.saturating_add(AGE_MAX_MS + config.clock_skew_ms + KEPT_LONGER_MS);
    Ok(LogoutToken { issuer, subject, sid, jti, forget_at_ms })
}

/// A logout token calls itself one (RFC 8725 3.11). Keycloak and the development provider do; a provider of kind oidc may be older than
/// that rule, so there the name may be missing or `JWT`.
fn check_type(typ: Option<&str>, kind: ProviderKind) -> Result<(), ProviderError> {
    match (typ, kind) {
        (Some("logout+jwt"), _) | (None | Some("jwt"), ProviderKind::Oidc) => Ok(()),
        _ => refuse("logout_token_type", "another kind of token"),
    }
}

/// Meant for us and for nobody else.
fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), ProviderError> {
    let is_ours = match claims.get("aud") {
        Some(Value::String(one)) => one == client_id,
        Some(Value::Array(many)) => !many.is_empty() && many.iter().all(|one| one == client_id),
        _ => false,
    };
    if is_ours { Ok(()) } else { refuse("logout_token_aud", "missing, or meant for others") }
}

fn check_times(claims: &Map<String, Value>, skew_ms: i64, now_ms: i64) -> Result<i64, ProviderError> {
    let time = |name, reason| match id_token::time_ms(claims, name) {
        Ok(found) => Ok(found),
        Err(_) => refuse(reason, format!("{name} is not a time")),
    };
    let needed =
        |name, reason| time(name, reason)?.map_or_else(|| refuse(reason, format!("{name} is missing")), Ok);
    let issued_at = needed("iat", "logout_token_iat")?;
    if issued_at > now_ms.saturating_add(skew_ms) || issued_at < now_ms.saturating_sub(AGE_MAX_MS + skew_ms) {
        return refuse("logout_token_iat", "too old, or from the future");
    }
    if now_ms >= needed("exp", "logout_token_exp")?.saturating_add(skew_ms) {
        return refuse("logout_token_exp", "over");
    }
    if time("nbf", "logout_token_nbf")?.is_some_and(|nbf| nbf > now_ms.saturating_add(skew_ms)) {
        return refuse("logout_token_nbf", "not valid yet");
    }
    Ok(issued_at)
}

/// The one member that matters is there; what others say is not ours to judge (Keycloak adds a boolean).
fn check_event(claims: &Map<String, Value>) -> Result<(), ProviderError> {
    let event = claims.get("events").and_then(Value::as_object).and_then(|events| events.get(EVENT));
    if event.is_some_and(Value::is_object) {
        Ok(())
    } else {
        refuse("logout_token_events", "does not tell of a logout")
    }
}

impl Oidc {
    pub(in crate::providers) async fn read_logout_token(
        &self,
        token: &str,
    ) -> Result<LogoutToken, ProviderError> {
        let jws = Jws::read(token)?;
        let told = check(jws.typ.as_deref(), &jws.claims, &self.config, self.clock.now_ms())?;
        let metadata = self.metadata().await?;
        self.verify_signature(&metadata, &jws, Asker::Stranger).await?;
        Ok(told)
    }

    /// Keycloak alone: its logout endpoint takes a refresh token and ends the whole session there, for all its clients.
    pub(in crate::providers) async fn end_session_by(
        &self,
        refresh_token: &SecretString,
    ) -> Result<(), ProviderError> {
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.end_session_back_end else { return self.revoke(refresh_token).await };
        let form = vec![("refresh_token".into(), refresh_token.expose_secret().to_owned())];
        let answer = self.proof.post(self.call(&metadata, endpoint), form).await?;
        if (200..300).contains(&answer.status) {
            Ok(())
        } else {
            Err(ProviderError::Unavailable(format!("its logout answered {}", answer.status)))
        }
    }
}
