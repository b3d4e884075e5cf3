//! A compact JWS taken apart strictly, and its signature checked with a key that we chose.
//!
//! openidconnect's own `IdTokenVerifier` is not used: it refuses a whole token for one odd optional claim (an `address` that is a string)
//! and accepts much that must be refused (`docs/ARCHITECTURE.md` lists it). Its keys are, and its signature check for all but RSA: there
//! aws-lc-rs takes a tenth of the time, and RSA is what most providers sign with.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::JsonWebKey as _;
use openidconnect::core::{CoreJsonWebKey, CoreJwsSigningAlgorithm};
use serde_json::{Map, Value};

use super::keys::Key;
use super::strict;
use crate::providers::ProviderError;

/// No honest token is larger; checked before anything is decoded.
pub const TOKEN_MAX: usize = 64 * 1024;
/// How many keys of one `kid` are tried.
const KEYS_TRIED_MAX: usize = 4;

/// A token that is well formed. Nothing in it is believed before [`Jws::verify`] returned.
pub struct Jws<'t> {
    pub alg: String,
    pub kid: Option<String>,
    /// Lower case, without an `application/` before it.
    pub typ: Option<String>,
    pub claims: Map<String, Value>,
    signing_input: &'t str,
    signature: Vec<u8>,
}

/// Why a signature did not count.
#[derive(Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// No known key fits: perhaps the provider has new ones.
    NoKey,
    /// A key fits, and the signature is not its.
    Bad,
}

fn malformed(detail: &str) -> ProviderError {
    ProviderError::protocol("token_malformed", detail)
}

impl<'t> Jws<'t> {
    /// Takes a compact token apart.
    ///
    /// # Errors
    /// `token_malformed`, `token_encrypted`, `token_too_large` or `token_header`.
    pub fn read(token: &'t str) -> Result<Self, ProviderError> {
        if token.len() > TOKEN_MAX {
            return Err(ProviderError::protocol("token_too_large", format!("over {TOKEN_MAX} bytes")));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            let reason = if parts.len() == 5 { "token_encrypted" } else { "token_malformed" };
            return Err(ProviderError::protocol(
                reason,
                format!("{} parts; encrypted tokens are not supported", parts.len()),
            ));
        };
        let signing_input = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let mut members = strict::object(&decode(header)?).map_err(|e| malformed(&e))?;
        let claims = strict::object(&decode(payload)?).map_err(|e| malformed(&e))?;
        let signature = decode(signature)?;
        // What would change the meaning of the token, or bring its own key, is refused rather than ignored (RFC 7515 4.1.11, RFC 8725 3.10).
        if let Some(name) =
            ["crit", "b64", "zip", "jku", "jwk", "x5u"].iter().find(|name| members.contains_key(**name))
        {
            return Err(ProviderError::protocol("token_header", format!("header member {name}")));
        }
        let mut text = |name: &str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ProviderError::protocol("token_header", format!("{name} is not a string"))),
        };
        let typ = text("typ")?.map(|typ| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
        });
        let alg = text("alg")?.ok_or_else(|| ProviderError::protocol("token_alg", "alg is missing"))?;
        Ok(Self { alg, kid: text("kid")?, typ, claims, signing_input, signature })
    }

    /// Checks algorithm and signature against the keys that fit, and returns the key that signed.
    ///
    /// # Errors
    /// As [`SignatureFault`].
    pub fn verify<'k>(&self, keys: &'k [Key]) -> Result<&'k CoreJsonWebKey, SignatureFault> {
        let alg = algorithm(&self.alg).ok_or(SignatureFault::Bad)?;
        let fitting: Vec<&Key> = keys.iter().filter(|key| key.fits(&self.alg, self.kid.as_deref())).collect();
        // Without a `kid` only one key may fit: guessing among several is not verification (OpenID Connect Core 10.1).
        if fitting.is_empty() || (self.kid.is_none() && fitting.len() > 1) {
            return Err(SignatureFault::NoKey);
        }
        fitting
            .into_iter()
            .take(KEYS_TRIED_MAX)
            .find(|key| self.is_signed_by(key, &alg))
            .map(|key| &key.jwk)
            .ok_or(SignatureFault::Bad)
    }

    fn is_signed_by(&self, key: &Key, alg: &CoreJwsSigningAlgorithm) -> bool {
        let input = self.signing_input.as_bytes();
        match (rsa_parameters(&self.alg), key.rsa()) {
            (Some(parameters), Some(rsa)) => rsa.verify(parameters, input, &self.signature).is_ok(),
            (None, None) => key.jwk.verify_signature(alg, input, &self.signature).is_ok(),
            // An algorithm of one family and a key of another.
            _ => false,
        }
    }

    /// `at_hash` as this token would carry it for that access token (OpenID Connect Core 3.1.3.6).
    #[must_use]
    pub fn left_half_hash(&self, key: &CoreJsonWebKey, access_token: &str) -> Option<String> {
        let hash = key.hash_bytes(access_token.as_bytes(), &algorithm(&self.alg)?).ok()?;
        Some(URL_SAFE_NO_PAD.encode(hash.get(..hash.len() / 2)?))
    }
}

/// Canonical base64url without padding: the engine refuses a non-zero rest in the last character.
fn decode(part: &str) -> Result<Vec<u8>, ProviderError> {
    if part.is_empty() {
        return Err(malformed("an empty part"));
    }
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("not canonical base64url"))
}

/// Asymmetric algorithms only: `none` and HMAC have no place here, whatever a configuration says.
fn algorithm(name: &str) -> Option<CoreJwsSigningAlgorithm> {
    Some(match name {
        "RS256" => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        "RS384" => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
        "RS512" => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
        "PS256" => CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        "PS384" => CoreJwsSigningAlgorithm::RsaSsaPssSha384,
        "PS512" => CoreJwsSigningAlgorithm::RsaSsaPssSha512,
        "ES256" => CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        "ES384" => CoreJwsSigningAlgorithm::EcdsaP384Sha384,
        "EdDSA" | "Ed25519" => CoreJwsSigningAlgorithm::EdDsa,
        _ => return None,
    })
}

/// RFC 7518 3.3 and 3.5: 2048 bits at least; the salt of PSS is as long as the hash.
fn rsa_parameters(name: &str) -> Option<&'static RsaParameters> {
    Some(match name {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!(
            "{}.{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims),
            URL_SAFE_NO_PAD.encode("sig")
        )
    }

    #[test]
    fn a_plain_token_is_read() {
        let text = token(r#"{"alg":"RS256","kid":"k","typ":"application/JWT"}"#, r#"{"sub":"a"}"#);
        let jws = Jws::read(&text).unwrap();
        assert_eq!(
            (jws.alg.as_str(), jws.kid.as_deref(), jws.typ.as_deref()),
            ("RS256", Some("k"), Some("jwt"))
        );
    }

    #[test]
    fn tk_05_headers_that_bring_keys_or_change_meaning_are_refused() {
        for member in [
            r#""crit":["exp"]"#,
            r#""b64":false"#,
            r#""zip":"DEF""#,
            r#""jku":"https://x""#,
            r#""jwk":{}"#,
            r#""x5u":"x""#,
            r#""kid":7"#,
            r#""typ":[]"#,
        ] {
            assert!(Jws::read(&token(&format!(r#"{{"alg":"RS256",{member}}}"#), "{}")).is_err(), "{member}");
        }
    }

    #[test]
    fn tk_11_only_three_canonical_parts_are_a_token() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            "a.b.c.d.e",
            &format!("{good}="),
            &format!("{good} "),
            &format!("\n{good}"),
            &good.replace('.', ".."),
            &format!("{good}."),
        ] {
            assert!(Jws::read(bad).is_err(), "{bad:?}");
        }
        // "c2ln" is "sig"; "c2lnX" and a changed last bit of a short part decode to the same bytes in a lax parser.
        let lax = good.replace("e30", "e31");
        assert!(Jws::read(&lax).is_err());
        assert!(Jws::read(&"a".repeat(10_000_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_text_makes_the_token_reader_panic(text in "[a-zA-Z0-9_.=-]{0,200}|\\PC{0,80}") {
            let _ = Jws::read(&text);
        }
    }
}
