//! Calls with client authentication: the code exchange, revocation and pushed requests; what goes out, and what an answer means.

use std::borrow::Cow;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroize as _;

use super::strict;
use crate::config::{self, AssertionAudience, ClientAuth};
use crate::crypto::sign::{Algorithm, Signer};
use crate::domain::{Random, Tokens, clock};
use crate::providers::ProviderError;
use crate::providers::http::{Answer, Http};

/// What an access token's life is taken for when the provider does not say (RFC 6749 5.1 only recommends `expires_in`).
const LIFE_DEFAULT_S: i64 = 300;
const LIFE_MAX_S: i64 = 24 * 60 * 60;
const SCOPE_MAX: usize = 4096;

/// How the client proves itself; made once per provider.
pub struct ClientProof {
    config: config::Provider,
    signer: Option<Signer>,
}

impl ClientProof {
    /// # Errors
    /// A sentence for the operator when the private key cannot sign.
    pub fn new(config: &config::Provider) -> Result<Self, String> {
        let signer = match (&config.client_auth, &config.private_key_pem) {
            (ClientAuth::PrivateKeyJwt, Some(pem)) => {
                let algorithm =
                    Algorithm::parse(&config.private_key_alg).ok_or("private_key_alg is not known")?;
                Some(
                    Signer::from_pem(pem.expose_secret(), algorithm)
                        .map_err(|e| format!("the private key cannot sign: {e}"))?,
                )
            }
            _ => None,
        };
        Ok(Self { config: config.clone(), signer })
    }

    /// Posts a form with client authentication. It never follows a redirect and never retries.
    pub async fn post(&self, call: Call<'_>, form: Form) -> Result<Answer, ProviderError> {
        let mut wiped = Wiped(form);
        let form = &mut wiped.0;
        let config = &self.config;
        let secret = config.client_secret.as_ref().map(|s| s.expose_secret().to_owned()).unwrap_or_default();
        match config.client_auth {
            ClientAuth::SecretBasic => {
                return call.http.post(call.url, form, Some((&config.client_id, &secret))).await;
            }
            ClientAuth::SecretPost => {
                form.push(("client_id".into(), config.client_id.clone()));
                form.push(("client_secret".into(), secret));
            }
            ClientAuth::None => form.push(("client_id".into(), config.client_id.clone())),
            ClientAuth::PrivateKeyJwt => {
                form.push(("client_id".into(), config.client_id.clone()));
                form.push((
                    "client_assertion_type".into(),
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
                ));
                form.push(("client_assertion".into(), self.assertion(&call)?));
            }
        }
        call.http.post(call.url, form, None).await
    }

    /// A fresh assertion for one call (RFC 7523 2.2): a minute long, with an id of its own.
    fn assertion(&self, call: &Call<'_>) -> Result<String, ProviderError> {
        let signer =
            self.signer.as_ref().ok_or_else(|| ProviderError::Misconfigured("no private key".to_owned()))?;
        let audience = match self.config.assertion_audience {
            AssertionAudience::Issuer => self.config.issuer.as_str(),
            AssertionAudience::TokenEndpoint => call.token_endpoint.as_str(),
        };
        let now_s = call.now_ms.div_euclid(1000);
        let mut header = members([("alg", signer.algorithm().as_str().into()), ("typ", "JWT".into())]);
        if let Some(kid) = &self.config.private_key_id {
            header.insert("kid".to_owned(), kid.as_str().into());
        }
        let client_id = self.config.client_id.as_str();
        let claims = members([
            ("iss", client_id.into()),
            ("sub", client_id.into()),
            ("aud", audience.into()),
            ("jti", clock::token_128(call.random).into()),
            ("iat", now_s.into()),
            ("exp", (now_s + 60).into()),
        ]);
        signer
            .sign(&header, &claims)
            .map_err(|e| ProviderError::Misconfigured(format!("the private key cannot sign: {e}")))
    }
}

fn members<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Form parameters in the order they are sent.
pub type Form = Vec<(Cow<'static, str>, String)>;

/// A form that holds passwords, codes and secrets, and leaves none of them behind.
struct Wiped(Form);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

/// Where a call goes, and the house's time and randomness.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    pub http: &'c Http,
    pub url: &'c Url,
    pub token_endpoint: &'c Url,
    pub now_ms: i64,
    pub random: &'c dyn Random,
}

/// A token answer: the tokens, and the whole object for what a vendor adds.
///
/// # Errors
/// `Revoked` for a code or token that is no longer good, `Misconfigured` when the client is refused, `Unavailable` for the provider's own trouble, `Protocol` for nonsense.
pub fn read_tokens(answer: &Answer, now_ms: i64) -> Result<Tokens, ProviderError> {
    let body = read_object(answer, "token_answer")?;
    if answer.status != 200 {
        return Err(ProviderError::protocol("token_answer", format!("status {}", answer.status)));
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    let access =
        text("access_token").ok_or_else(|| ProviderError::protocol("token_answer", "no access_token"))?;
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(ProviderError::protocol("token_type", "not Bearer"));
    }
    // Keycloak's 0 means "no fixed end" (its offline tokens), not "over".
    let refresh_life_s = seconds(body.get("refresh_expires_in")).filter(|s| *s > 0);
    let after = |s: i64| now_ms.saturating_add(s.saturating_mul(1000));
    Ok(Tokens {
        access: Some(SecretString::from(access)),
        refresh: text("refresh_token").map(SecretString::from),
        id: text("id_token").map(SecretString::from),
        access_expires_at_ms: Some(after(
            seconds(body.get("expires_in")).unwrap_or(LIFE_DEFAULT_S).clamp(0, LIFE_MAX_S),
        )),
        refresh_expires_at_ms: refresh_life_s.map(after),
        scope: text("scope").filter(|scope| is_scope(scope)).map(str::to_owned),
    })
}

/// A list of scopes as RFC 6749 3.3 spells it, and no longer than anybody's.
fn is_scope(text: &str) -> bool {
    text.len() <= SCOPE_MAX && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// The body as an object, after what its `error` member or status says: some providers send errors with 200, some without JSON.
pub fn read_object(answer: &Answer, reason: &'static str) -> Result<Map<String, Value>, ProviderError> {
    match answer.status {
        300..=399 => {
            return Err(ProviderError::protocol(
                "redirected",
                format!("status {} where no redirect belongs", answer.status),
            ));
        }
        429 | 500..=599 => return Err(ProviderError::Unavailable(format!("status {}", answer.status))),
        _ => {}
    }
    if !answer.is_json() {
        return Err(ProviderError::protocol(reason, format!("status {}, not JSON", answer.status)));
    }
    let body = strict::object(&answer.body).map_err(|e| ProviderError::protocol(reason, e))?;
    match body.get("error").and_then(Value::as_str) {
        None => Ok(body),
        Some("invalid_grant") => Err(ProviderError::Revoked),
        Some("temporarily_unavailable" | "server_error") => {
            Err(ProviderError::Unavailable("it says so itself".to_owned()))
        }
        Some(error) => Err(ProviderError::Misconfigured(known_error(error).to_owned())),
    }
}

/// The provider's error code, as long as it is one of the standards' own: foreign text does not reach our logs.
pub fn known_error(error: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "invalid_request",
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
        "not_allowed",
        "request_not_supported",
        "invalid_dpop_proof",
        "server_error",
    ];
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("an error code of its own")
}

/// Seconds as number, fraction or numeric string.
fn seconds(value: Option<&Value>) -> Option<i64> {
    const LIMIT: f64 = 1e12;
    let number = match value? {
        Value::Number(n) => n.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    if !number.is_finite() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "clamped to far within i64")]
    let whole = number.clamp(-LIMIT, LIMIT) as i64;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Answer {
        Answer { status, content_type: content_type.into(), body: body.into(), ..Answer::default() }
    }

    fn life(expires_in: &str) -> Option<i64> {
        let body = format!(r#"{{"access_token":"a","token_type":"bearer"{expires_in}}}"#);
        read_tokens(&answer(200, "application/json", &body), 0).unwrap().access_expires_at_ms
    }

    #[test]
    fn tk_21_odd_lifetimes_are_bounded() {
        assert_eq!(life(""), Some(300_000));
        assert_eq!(life(r#","expires_in":60"#), Some(60_000));
        assert_eq!(life(r#","expires_in":"60""#), Some(60_000));
        assert_eq!(life(r#","expires_in":59.9"#), Some(59_000));
        assert_eq!(life(r#","expires_in":-5"#), Some(0));
        assert_eq!(life(r#","expires_in":1e300"#), Some(86_400_000));
        assert_eq!(life(r#","expires_in":[]"#), Some(300_000));
    }

    #[test]
    fn tk_21_only_a_bearer_answer_in_json_is_a_token_answer() {
        for (status, kind, body) in [
            (200, "text/html", "<html>"),
            (200, "application/json", "[]"),
            (200, "application/json", r#"{"access_token":"a"}"#),
            (200, "application/json", r#"{"access_token":"a","token_type":"DPoP"}"#),
            (200, "application/json", r#"{"access_token":"","token_type":"Bearer"}"#),
            (200, "application/json", r#"{"access_token":7,"token_type":"Bearer"}"#),
            (200, "application/json", r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#),
            (201, "application/json", r#"{"access_token":"a","token_type":"Bearer"}"#),
            (302, "application/json", r#"{"access_token":"a","token_type":"Bearer"}"#),
            (200, "text/plain", r#"{"access_token":"a","token_type":"Bearer"}"#),
        ] {
            assert!(read_tokens(&answer(status, kind, body), 0).is_err(), "{status} {kind} {body}");
        }
    }

    #[test]
    fn an_error_member_decides_whatever_the_status() {
        for status in [200, 400, 401, 403] {
            let spent = read_tokens(&answer(status, "application/json", r#"{"error":"invalid_grant"}"#), 0);
            assert!(matches!(spent, Err(ProviderError::Revoked)));
            let client = read_tokens(&answer(status, "application/json", r#"{"error":"invalid_client"}"#), 0);
            assert!(matches!(client, Err(ProviderError::Misconfigured(_))));
        }
        assert!(matches!(read_tokens(&answer(503, "text/html", ""), 0), Err(ProviderError::Unavailable(_))));
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_bytes_make_the_token_answer_reader_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), expires in "-?[0-9eE.+]{0,12}") {
            let _ = read_tokens(&Answer { status: 200, content_type: "application/json".into(), body, ..Answer::default() }, 0);
            let _ = read_tokens(&answer(200, "application/json", &format!(r#"{{"access_token":"a","token_type":"Bearer","expires_in":{expires}}}"#)), i64::MAX);
        }
    }
}
