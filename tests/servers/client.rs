//! The least that an OpenID client has to say.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use url::Url;

use crate::house::servers::http;

/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// What a client asks for at an authorization endpoint.
pub fn request(client_id: &str, callback: &str) -> Vec<(&'static str, String)> {
    [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", callback),
        ("scope", "openid email profile"),
        ("state", "state-1"),
        ("nonce", "nonce-1"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// The token request for the code that `arrived` at the callback.
pub fn code_exchange(arrived: &str, callback: &str) -> Vec<(&'static str, String)> {
    let arrived = Url::parse(arrived).unwrap();
    let find = |wanted: &str| {
        let pair = arrived.query_pairs().find(|(name, _)| name == wanted);
        pair.unwrap_or_else(|| panic!("no {wanted} in {arrived}")).1.into_owned()
    };
    if arrived.query_pairs().any(|(name, _)| name == "state") {
        assert_eq!(find("state"), "state-1");
    }
    vec![
        ("grant_type", "authorization_code".to_owned()),
        ("code", find("code")),
        ("redirect_uri", callback.to_owned()),
        ("code_verifier", VERIFIER.to_owned()),
    ]
}

pub fn refresh(tokens: &Value) -> Vec<(&'static str, String)> {
    let token = tokens["refresh_token"].as_str().unwrap().to_owned();
    vec![("grant_type", "refresh_token".to_owned()), ("refresh_token", token)]
}

pub async fn post(url: &str, form: &[(&'static str, String)]) -> (u16, Value) {
    answered(http().post(url).form(form)).await
}

pub async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub fn claims_of(tokens: &Value, kind: &str) -> Value {
    part(tokens[kind].as_str().unwrap(), 1)
}

pub fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A client's own signing key, for `private_key_jwt`.
pub struct ClientKey(EcdsaKeyPair);

impl ClientKey {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key().as_ref();
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "client-1",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }] })
    }

    pub fn assertion(&self, client_id: &str, audience: &str) -> Vec<(&'static str, String)> {
        let now = unix_now();
        let header = json!({ "alg": "ES256", "kid": "client-1", "typ": "JWT" });
        let claims = json!({
            "iss": client_id, "sub": client_id, "aud": audience,
            "iat": now, "exp": now + 60, "jti": random_text(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&header), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        vec![
            ("client_id", client_id.to_owned()),
            ("client_assertion_type", kind.to_owned()),
            ("client_assertion", token),
        ]
    }
}

pub fn random_text() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    URL_SAFE_NO_PAD.encode(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a real server compares this with its own clock")]
pub fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
