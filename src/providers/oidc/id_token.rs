//! The ID token's claims, rule by rule (OpenID Connect Core 3.1.3.7); the signature was checked before.

use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use crate::config;
use crate::domain::LoginAttempt;
use crate::providers::ProviderError;

/// A code flow ID token is minutes old at most; an older one was kept for replay.
const AGE_MAX_MS: i64 = 10 * 60 * 1000;
const SUBJECT_MAX: usize = 255;

/// What a valid ID token says about the login itself.
#[derive(Debug)]
pub struct Verified {
    pub subject: String,
    pub issuer: String,
    pub sid: Option<String>,
    pub auth_time_ms: Option<i64>,
    pub acr: Option<String>,
    pub issued_at_ms: i64,
}

/// What the token is measured against.
pub struct Expected<'e> {
    pub config: &'e config::Provider,
    pub occasion: Occasion<'e>,
    pub now_ms: i64,
}

/// What the token was asked for with.
#[derive(Clone, Copy)]
pub enum Occasion<'e> {
    /// A code, which the browser brought: this login's nonce and wishes bind the token to it.
    Login(&'e LoginAttempt),
    /// A name and a password.
    Password,
    /// A refresh token. The answer's way proves its freshness, and a clock that steps, here or there, must not end sessions (security.md
    /// RE-09): times are read, and not compared with now.
    Renewal,
}

impl<'e> Occasion<'e> {
    fn attempt(self) -> Option<&'e LoginAttempt> {
        match self {
            Self::Login(attempt) => Some(attempt),
            Self::Password | Self::Renewal => None,
        }
    }
}

fn refuse<T>(reason: &'static str, detail: impl Into<String>) -> Result<T, ProviderError> {
    Err(ProviderError::protocol(reason, detail))
}

/// Checks header type and claims.
///
/// # Errors
/// `Protocol` with a reason of its own for each rule.
pub fn check(
    typ: Option<&str>,
    claims: &Map<String, Value>,
    expected: &Expected<'_>,
) -> Result<Verified, ProviderError> {
    // Other kinds of token name themselves; none of them is an ID token (RFC 8725 3.11).
    if !matches!(typ, None | Some("jwt" | "id_token+jwt")) || claims.contains_key("events") {
        return refuse("id_token_type", "another kind of token");
    }
    let issuer = check_issuer(claims, expected.config)?;
    check_audience(claims, expected.config)?;
    let issued_at_ms = check_times(claims, expected)?;
    if let Some(attempt) = expected.occasion.attempt() {
        check_nonce(claims, attempt)?;
    }
    let subject = match claims.get("sub") {
        Some(Value::String(sub)) if is_short_text(sub) => sub.clone(),
        _ => return refuse("id_token_sub", "missing, empty, too long or not a string"),
    };
    let sid = match claims.get("sid") {
        None | Some(Value::Null) => None,
        Some(Value::String(sid)) if is_short_text(sid) => Some(sid.clone()),
        Some(_) => return refuse("id_token_sid", "not a short string"),
    };
    let auth_time_ms = check_auth_time(claims, expected)?;
    let acr = check_acr(claims, expected.occasion.attempt())?;
    Ok(Verified { subject, issuer, sid, auth_time_ms, acr, issued_at_ms })
}

/// Not empty, not long, and without characters that a database or a log would choke on.
pub(super) fn is_short_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= SUBJECT_MAX && !text.chars().any(char::is_control)
}

pub(super) fn check_issuer(
    claims: &Map<String, Value>,
    config: &config::Provider,
) -> Result<String, ProviderError> {
    let Some(issuer) = claims.get("iss").and_then(Value::as_str) else {
        return refuse("id_token_iss", "missing or not a string");
    };
    let expected = match &config.issuer_template {
        None => config.issuer.clone(),
        Some(template) => {
            let tenant = claims
                .get("tid")
                .and_then(Value::as_str)
                .filter(|tid| config.allowed_tenants.iter().any(|t| t == tid));
            let Some(tenant) = tenant else { return refuse("id_token_tid", "a tenant that is not allowed") };
            template.replace("{tenantid}", tenant)
        }
    };
    if issuer == expected { Ok(expected) } else { refuse("id_token_iss", "another issuer") }
}

fn check_audience(claims: &Map<String, Value>, config: &config::Provider) -> Result<(), ProviderError> {
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => match many.iter().map(Value::as_str).collect() {
            Some(audiences) => audiences,
            None => return refuse("id_token_aud", "a member is not a string"),
        },
        _ => return refuse("id_token_aud", "missing"),
    };
    if !audiences.contains(&config.client_id.as_str()) {
        return refuse("id_token_aud", "meant for another client");
    }
    if audiences
        .iter()
        .any(|aud| *aud != config.client_id && !config.trusted_audiences.iter().any(|t| t == aud))
    {
        return refuse("id_token_aud", "meant for a stranger too");
    }
    match claims.get("azp") {
        None if audiences.len() == 1 => Ok(()),
        Some(Value::String(azp)) if *azp == config.client_id => Ok(()),
        _ => refuse("id_token_azp", "issued to another client"),
    }
}

/// A `NumericDate` in ms; anything but a sane number is a refusal, never "absent" (CVE-2026-25537).
pub(super) fn time_ms(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, ProviderError> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if value.is_number() && (0.0..LIMIT).contains(&seconds) => {
            #[expect(clippy::cast_possible_truncation, reason = "below 2^53, so far within i64 even in ms")]
            let ms = (seconds * 1000.0) as i64;
            Ok(Some(ms))
        }
        _ => refuse("id_token_time", format!("{name} is not a time")),
    }
}

fn check_times(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<i64, ProviderError> {
    let skew = expected.config.clock_skew_ms;
    let now = expected.now_ms;
    let needed = |name| {
        time_ms(claims, name)?.map_or_else(|| refuse("id_token_time", format!("{name} is missing")), Ok)
    };
    let (expires, issued_at, not_before) = (needed("exp")?, needed("iat")?, time_ms(claims, "nbf")?);
    if matches!(expected.occasion, Occasion::Renewal) {
        return Ok(issued_at);
    }
    if now >= expires.saturating_add(skew) {
        return refuse("id_token_expired", "exp is over");
    }
    if issued_at > now.saturating_add(skew) {
        return refuse("id_token_iat", "from the future");
    }
    if issued_at < now.saturating_sub(AGE_MAX_MS + skew) {
        return refuse("id_token_iat", "too old");
    }
    if not_before.is_some_and(|nbf| nbf > now.saturating_add(skew)) {
        return refuse("id_token_nbf", "not valid yet");
    }
    Ok(issued_at)
}

fn check_nonce(claims: &Map<String, Value>, attempt: &LoginAttempt) -> Result<(), ProviderError> {
    match claims.get("nonce") {
        Some(Value::String(nonce)) if bool::from(nonce.as_bytes().ct_eq(attempt.nonce.as_bytes())) => Ok(()),
        _ => refuse("id_token_nonce", "missing or another login's"),
    }
}

/// When re-authentication was asked for, the token must prove it: a provider may ignore the request (Core 3.1.2.1).
fn check_auth_time(
    claims: &Map<String, Value>,
    expected: &Expected<'_>,
) -> Result<Option<i64>, ProviderError> {
    let auth_time = time_ms(claims, "auth_time")?;
    if matches!(expected.occasion, Occasion::Renewal) {
        return Ok(auth_time);
    }
    if auth_time.is_some_and(|at| at > expected.now_ms.saturating_add(expected.config.clock_skew_ms)) {
        return refuse("id_token_auth_time", "from the future");
    }
    let asked = expected.occasion.attempt().and_then(|attempt| Some((attempt, attempt.max_age?)));
    let Some((attempt, seconds)) = asked else {
        return Ok(auth_time);
    };
    let max_age_ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    let oldest =
        attempt.created_at_ms.saturating_sub(max_age_ms).saturating_sub(expected.config.clock_skew_ms);
    match auth_time {
        Some(at) if at >= oldest => Ok(Some(at)),
        _ => refuse("id_token_auth_time", "the person was not asked again"),
    }
}

fn check_acr(
    claims: &Map<String, Value>,
    attempt: Option<&LoginAttempt>,
) -> Result<Option<String>, ProviderError> {
    let acr = claims.get("acr").and_then(Value::as_str).filter(|acr| is_short_text(acr)).map(str::to_owned);
    let wanted = attempt.map_or(&[][..], |attempt| &attempt.acr_values);
    if wanted.is_empty() || acr.as_ref().is_some_and(|acr| wanted.contains(acr)) {
        return Ok(acr);
    }
    refuse("id_token_acr", "weaker than asked")
}
