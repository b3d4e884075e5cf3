//! The signing keys in memory, and everything made of randomness or hashes.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::DevIdpError;

/// One ES256 key: P-256 with SHA-256, signatures as r‖s (RFC 7518, section 3.4).
pub(super) struct SigningKey {
    pair: EcdsaKeyPair,
    id: String,
    jwk: Value,
}

impl SigningKey {
    pub(super) fn generate() -> Result<Self, DevIdpError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let point = pair.public_key().as_ref();
        let coordinate = |range| point.get(range).map(base64url).ok_or(DevIdpError::Crypto);
        let (x, y) = (coordinate(1..33)?, coordinate(33..65)?);
        // The thumbprint of RFC 7638 asks for exactly these members in exactly this order.
        let id = sha256(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": id,
        });
        Ok(Self { pair, id, jwk })
    }

    /// The public half for the JWKS document.
    pub(super) fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// A compact JWS of the claims. `header` overrides `alg`, `kid` and `typ`, so that a test can
    /// ask for a bad token; `null` removes a member.
    pub(super) fn sign(
        &self,
        header: &Map<String, Value>,
        claims: &Map<String, Value>,
    ) -> Result<String, DevIdpError> {
        let mut head = Map::new();
        head.insert("alg".to_owned(), json!("ES256"));
        head.insert("kid".to_owned(), json!(self.id));
        head.insert("typ".to_owned(), json!("JWT"));
        merge(&mut head, header);
        let head = base64url(Value::Object(head).to_string().as_bytes());
        let body = base64url(Value::Object(claims.clone()).to_string().as_bytes());
        let input = format!("{head}.{body}");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes())?;
        Ok(format!("{input}.{}", base64url(signature.as_ref())))
    }

    /// The claims of a token this key has signed; nothing but the signature is looked at.
    pub(super) fn claims_of(&self, token: &str) -> Option<Value> {
        let (input, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(input.as_bytes(), &signature)
            .ok()?;
        let (_, body) = input.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
    }
}

/// Lays `over` on `object`, member by member; `null` takes a member away (RFC 7396, one level).
pub(super) fn merge(object: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (name, value) in over {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
}

/// 256 random bits as 43 characters.
pub(super) fn random_text() -> Result<String, DevIdpError> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(base64url(&bytes))
}

/// SHA-256 as base64url: the PKCE challenge of a verifier (RFC 7636, section 4.2).
pub(super) fn sha256(text: &str) -> String {
    base64url(digest(&SHA256, text.as_bytes()).as_ref())
}

/// `at_hash` for ES256: the left half of SHA-256 (OpenID Connect Core 1.0, section 3.1.3.6).
pub(super) fn at_hash(access_token: &str) -> String {
    let hash = digest(&SHA256, access_token.as_bytes());
    base64url(hash.as_ref().get(..16).unwrap_or_default())
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_the_one_of_the_rfc() {
        let challenge = sha256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_token_opens_with_the_key_that_signed_it_and_with_no_other() {
        let (ours, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let mut claims = Map::new();
        claims.insert("sid".to_owned(), json!("s-1"));
        let token = ours.sign(&Map::new(), &claims).unwrap();
        assert_eq!(ours.claims_of(&token).unwrap()["sid"], "s-1");
        assert!(other.claims_of(&token).is_none());
        assert!(ours.claims_of("a.b.c").is_none() && ours.claims_of("").is_none());
    }
}
