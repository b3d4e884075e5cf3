//! Access tokens that API clients bring, rule by rule: JWTs (RFC 9068), and what both ways of checking one share.
//!
//! Every claim is checked before the signature is: nonsense costs neither arithmetic nor a call to the provider.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::id_token::{self, Verified, is_short_text};
use super::jws::Jws;
use super::keys::{Asker, Source};
use super::{Oidc, claims};
use crate::config::{self, Bearer, ProviderKind};
use crate::domain::AccessToken;
use crate::providers::ProviderError;

/// The longest life that counts: what has ended is remembered for a day (`flows::sweep`, `flows::provider_logout`).
pub const AGE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// What only an ID token or a logout token has (OpenID Connect Core 2, Back-Channel Logout 2.4).
const OF_OTHER_KINDS: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "events"];
/// What only an access token has, under the names that vendors give it.
const OF_ACCESS_TOKENS: [&str; 4] = ["scope", "scp", "client_id", "cid"];
const SCOPE_MAX: usize = 4096;

/// A token as it came, taken apart where it is a JWT. Nothing in it is believed yet.
pub struct Brought<'t> {
    pub(super) text: &'t str,
    pub(super) jws: Option<Jws<'t>>,
}

impl<'t> Brought<'t> {
    /// A text that is no compact JWS at all is an opaque token, which only its provider can read.
    ///
    /// # Errors
    /// As [`Jws::read`], for a JWT whose form nobody should accept.
    pub fn read(text: &'t str) -> Result<Self, ProviderError> {
        match Jws::read(text) {
            Ok(jws) => Ok(Self { text, jws: Some(jws) }),
            Err(ProviderError::Protocol { reason: "token_malformed", .. }) => Ok(Self { text, jws: None }),
            Err(error) => Err(error),
        }
    }

    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.jws.is_none()
    }
}

fn refuse<T>(reason: &'static str, detail: impl Into<String>) -> Result<T, ProviderError> {
    Err(ProviderError::protocol(reason, detail))
}

/// Checks header type and claims of a JWT; the signature is the caller's.
///
/// # Errors
/// `Protocol` with a reason of its own for each rule.
pub fn check(
    typ: Option<&str>,
    claims: &Map<String, Value>,
    config: &config::Provider,
    now_ms: i64,
) -> Result<AccessToken, ProviderError> {
    check_type(typ, claims, config.kind)?;
    let Ok(issuer) = id_token::check_issuer(claims, config) else {
        return refuse("access_token_iss", "missing or another issuer");
    };
    let token = facts(claims, config, issuer, now_ms)?;
    if token.issued_at_ms.is_none() || token.expires_at_ms.is_none() {
        return refuse("access_token_time", "iat or exp is missing");
    }
    Ok(token)
}

/// Whom it is for and of, and when it counts: the same for a JWT and for a provider's word on any token.
pub(super) fn facts(
    claims: &Map<String, Value>,
    config: &config::Provider,
    issuer: String,
    now_ms: i64,
) -> Result<AccessToken, ProviderError> {
    // Bound to a key that a bearer does not prove to hold (RFC 9449 7.2, RFC 8705 3).
    if claims.get("cnf").is_some_and(|cnf| !cnf.is_null()) {
        return refuse("access_token_bound", "bound to a key or certificate");
    }
    check_audience(claims, config)?;
    let (issued_at_ms, expires_at_ms) = check_times(claims, config.clock_skew_ms, now_ms)?;
    let text = |name: &'static str, reason| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_short_text(text) => Ok(Some(text.clone())),
        Some(_) => refuse(reason, format!("{name} is not a short string")),
    };
    let Some(subject) = text("sub", "access_token_sub")? else {
        return refuse("access_token_sub", "missing");
    };
    let sid = text("sid", "access_token_sid")?;
    let Ok(auth_time_ms) = id_token::time_ms(claims, "auth_time") else {
        return refuse("access_token_time", "auth_time is not a time");
    };
    let short = |name: &str, max: usize| {
        let text = claims.get(name).and_then(Value::as_str);
        text.filter(|text| text.len() <= max && !text.chars().any(char::is_control)).map(str::to_owned)
    };
    let acr = short("acr", 255);
    let says = |path: Option<&str>| claims::at(claims, path).is_some();
    let lacks_required_claim = !config.required_claims.iter().all(|path| says(Some(path)));
    let verified = Verified {
        subject,
        issuer,
        sid: sid.clone(),
        auth_time_ms,
        acr: acr.clone(),
        issued_at_ms: issued_at_ms.unwrap_or(now_ms),
    };
    Ok(AccessToken {
        change: claims::change(claims, &verified, config),
        says_roles: says(config.claims.roles.as_deref()),
        says_groups: says(config.claims.groups.as_deref()),
        lacks_required_claim,
        sid,
        issued_at_ms,
        expires_at_ms,
        auth_time_ms,
        acr,
        scope: short("scope", SCOPE_MAX),
    })
}

/// An access token, and no other kind (security.md TK-10). Keycloak says so in the payload; others in the header (RFC 9068 2.1), or else
/// by what stands in it and what does not.
fn check_type(
    typ: Option<&str>,
    claims: &Map<String, Value>,
    kind: ProviderKind,
) -> Result<(), ProviderError> {
    let in_payload = claims.get("typ");
    let calls_itself_bearer =
        in_payload.and_then(Value::as_str).is_some_and(|word| word.eq_ignore_ascii_case("bearer"));
    let has_any = |names: &[&str]| names.iter().any(|name| claims.contains_key(*name));
    let is_one = match (kind, typ) {
        (ProviderKind::Keycloak, None | Some("jwt" | "at+jwt")) => calls_itself_bearer,
        (_, Some("at+jwt")) => in_payload.is_none() || calls_itself_bearer,
        (_, None | Some("jwt")) => {
            (in_payload.is_none() || calls_itself_bearer)
                && !has_any(&OF_OTHER_KINDS)
                && (calls_itself_bearer || has_any(&OF_ACCESS_TOKENS))
        }
        _ => false,
    };
    if is_one { Ok(()) } else { refuse("access_token_type", "another kind of token") }
}

/// Meant for this app: by one of the configured audiences, or without those by being issued to our own client.
fn check_audience(claims: &Map<String, Value>, config: &config::Provider) -> Result<(), ProviderError> {
    if config.api_audiences.is_empty() {
        let is_ours = |name: &str| claims.get(name).map(|client| client.as_str() == Some(&config.client_id));
        return match (is_ours("azp"), is_ours("client_id")) {
            (Some(true), None | Some(true)) | (None, Some(true)) if config.may_lack_audiences() => Ok(()),
            _ => refuse("access_token_azp", "issued to another client"),
        };
    }
    let listed = |audience: &Value| {
        audience.as_str().is_some_and(|audience| config.api_audiences.iter().any(|own| own == audience))
    };
    let fits = match claims.get("aud") {
        Some(one @ Value::String(_)) => listed(one),
        Some(Value::Array(many)) => many.iter().all(Value::is_string) && many.iter().any(listed),
        _ => false,
    };
    if fits { Ok(()) } else { refuse("access_token_aud", "missing, or meant for others") }
}

/// `iat` and `exp`, where they are there: each rule holds for what is said. One of them has to tell that the token will not outlive our
/// memory of what has ended.
fn check_times(
    claims: &Map<String, Value>,
    skew_ms: i64,
    now_ms: i64,
) -> Result<(Option<i64>, Option<i64>), ProviderError> {
    let time = |name| match id_token::time_ms(claims, name) {
        Ok(found) => Ok(found),
        Err(_) => refuse("access_token_time", format!("{name} is not a time")),
    };
    let (issued_at, expires_at, not_before) = (time("iat")?, time("exp")?, time("nbf")?);
    if expires_at.is_some_and(|at| now_ms >= at.saturating_add(skew_ms)) {
        return refuse("access_token_expired", "exp is over");
    }
    let latest = now_ms.saturating_add(skew_ms);
    if issued_at.is_some_and(|at| at > latest) {
        return refuse("access_token_iat", "from the future");
    }
    if not_before.is_some_and(|at| at > latest) {
        return refuse("access_token_nbf", "not valid yet");
    }
    let is_remembered = match (issued_at, expires_at) {
        (Some(at), _) => at >= now_ms.saturating_sub(AGE_MAX_MS + skew_ms),
        (None, Some(at)) => at <= now_ms.saturating_add(AGE_MAX_MS),
        (None, None) => false,
    };
    if !is_remembered {
        return refuse("access_token_iat", "it could outlive what is remembered of ends");
    }
    Ok((issued_at, expires_at))
}

impl Oidc {
    /// Whether this provider is the one to judge a token, by what the token itself says.
    pub(in crate::providers) fn may_have_issued(&self, brought: &Brought<'_>) -> bool {
        match (&brought.jws, self.config.bearer) {
            (_, Bearer::Off) => false,
            (Some(jws), _) => id_token::check_issuer(&jws.claims, &self.config).is_ok(),
            (None, bearer) => bearer == Bearer::Introspection,
        }
    }

    pub(in crate::providers) async fn read_access_token(
        &self,
        brought: &Brought<'_>,
    ) -> Result<Arc<AccessToken>, ProviderError> {
        match (self.config.bearer, &brought.jws) {
            (Bearer::Introspection, _) => self.introspect(brought.text).await,
            (Bearer::Jwt, Some(jws)) => self.read_jwt(jws).await.map(Arc::new),
            _ => refuse("token_malformed", "not a JWT"),
        }
    }

    async fn read_jwt(&self, jws: &Jws<'_>) -> Result<AccessToken, ProviderError> {
        let now_ms = self.clock.now_ms();
        let token = check(jws.typ.as_deref(), &jws.claims, &self.config, now_ms)?;
        // What metadata announces is for ID tokens; the configured list holds for both.
        if !self.config.id_token_algs.contains(&jws.alg) {
            return refuse("token_alg", "an algorithm that is not allowed");
        }
        let metadata = self.metadata().await?;
        let source = Source { http: &self.http, jwks_uri: &metadata.jwks_uri, now_ms };
        self.memory.keys.verify(jws, source, Asker::Stranger).await?;
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn tk_10_only_an_access_token_is_one() {
        let plain = json!({"scope": "a"});
        for (kind, typ, claims, is_one) in [
            (ProviderKind::Oidc, Some("at+jwt"), json!({}), true),
            (ProviderKind::Oidc, Some("at+jwt"), json!({"typ": "ID"}), false),
            (ProviderKind::Oidc, Some("jwt"), plain.clone(), true),
            (ProviderKind::Oidc, None, plain.clone(), true),
            (ProviderKind::Oidc, None, json!({"client_id": "c"}), true),
            (ProviderKind::Oidc, None, json!({}), false),
            (ProviderKind::Oidc, None, json!({"scope": "a", "nonce": "n"}), false),
            (ProviderKind::Oidc, None, json!({"scope": "a", "at_hash": "n"}), false),
            (ProviderKind::Oidc, None, json!({"scope": "a", "events": {}}), false),
            (ProviderKind::Oidc, None, json!({"scope": "a", "typ": "Refresh"}), false),
            (ProviderKind::Oidc, None, json!({"scope": "a", "typ": 7}), false),
            (ProviderKind::Oidc, Some("logout+jwt"), plain.clone(), false),
            (ProviderKind::Oidc, Some("id_token+jwt"), plain.clone(), false),
            (ProviderKind::Oidc, Some("dpop+jwt"), plain.clone(), false),
            (ProviderKind::Keycloak, Some("jwt"), json!({"typ": "Bearer"}), true),
            (ProviderKind::Keycloak, Some("at+jwt"), json!({"typ": "Bearer"}), true),
            (ProviderKind::Keycloak, Some("at+jwt"), json!({}), false),
            (ProviderKind::Keycloak, Some("jwt"), plain, false),
            (ProviderKind::Keycloak, Some("jwt"), json!({"typ": "ID"}), false),
            (ProviderKind::Keycloak, Some("jwt"), json!({"typ": "Offline"}), false),
            (ProviderKind::Keycloak, Some("logout+jwt"), json!({"typ": "Bearer"}), false),
        ] {
            let found = check_type(typ, &object(&claims), kind).is_ok();
            assert_eq!(found, is_one, "{kind:?} {typ:?} {claims}");
        }
    }

    #[test]
    fn an_opaque_token_is_told_from_a_jwt_that_nobody_should_accept() {
        assert!(Brought::read("opaque").unwrap().is_opaque());
        assert!(Brought::read("ya29.a.b").unwrap().is_opaque());
        for bad in ["a.b.c.d.e", &"x".repeat(70_000), "eyJhbGciOjd9.e30.AA", "eyJqd2siOjF9.e30.AA"] {
            assert!(Brought::read(bad).is_err(), "{bad:.20}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_text_makes_the_reader_panic(text in "\\PC{0,60}(\\.\\PC{0,60}){0,5}") {
            let _ = Brought::read(&text);
        }
    }
}
