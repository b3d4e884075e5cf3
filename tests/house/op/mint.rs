//! Compact JWS tokens from raw JSON texts, and ways to damage them. Texts are signed as they are:
//! duplicates, odd numbers and broken JSON included.

use std::fmt::Write;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::keys::{Alg, SigningKey};

/// Signs `header_json.claims_json` as they stand (RFC 7515 section 7.1).
pub fn mint(header_json: &str, claims_json: &str, key: &SigningKey) -> String {
    let mut token = format!("{}.{}", b64(header_json), b64(claims_json));
    let signature = b64(key.sign(token.as_bytes()));
    let _ = write!(token, ".{signature}");
    token
}

/// As [`mint`], from values, with a truthful `alg` and `kid` and this `typ`.
pub fn mint_claims(typ: &str, claims: &Value, key: &SigningKey) -> String {
    let header = json!({"alg": key.alg_name(), "typ": typ, "kid": key.kid()});
    mint(&header.to_string(), &claims.to_string(), key)
}

/// Everything about an ID token that is about to leave, for the script's last word over it.
pub struct Minted {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    /// The honest compact token.
    pub token: String,
    /// The provider's current key.
    pub key: SigningKey,
}

impl Minted {
    /// The claims as JSON text, a start for textual damage.
    pub fn claims_text(&self) -> String {
        Value::Object(self.claims.clone()).to_string()
    }

    pub fn header_text(&self) -> String {
        Value::Object(self.header.clone()).to_string()
    }

    /// The same header over another payload text, with a good signature.
    pub fn with_claims_text(&self, claims_json: &str) -> String {
        mint(&self.header_text(), claims_json, &self.key)
    }

    /// Another header text over the same payload, signed with `key`.
    pub fn with_header_text(&self, header_json: &str, key: &SigningKey) -> String {
        mint(header_json, &self.claims_text(), key)
    }

    /// One header member set to a value, signed with `key`.
    pub fn with_header(&self, name: &str, value: Value, key: &SigningKey) -> String {
        let mut header = self.header.clone();
        header.insert(name.into(), value);
        self.with_header_text(&Value::Object(header).to_string(), key)
    }

    /// The same claims signed by a key of another, under that key's own `alg` but our `kid`.
    pub fn signed_by(&self, key: &SigningKey) -> String {
        self.with_header("alg", key.alg_name().into(), key)
    }

    /// `alg` spelt this way and no signature at all (RFC 7518 section 3.6).
    pub fn alg_none(&self, spelling: &str) -> String {
        self.with_header("alg", spelling.into(), &SigningKey::unsigned())
    }

    /// HS256 keyed with the current key's public half, as PEM text or as DER.
    pub fn hs256_with_public_key(&self, form: PublicForm) -> String {
        let secret = match form {
            PublicForm::Pem => self.key.public_pem().into_bytes(),
            PublicForm::PemTrimmed => self.key.public_pem().trim().as_bytes().to_vec(),
            PublicForm::SpkiDer => self.key.public_der(),
            PublicForm::RawDer => self.key.public_raw(),
        };
        self.signed_by(&SigningKey::hmac(secret))
    }

    /// Signed by a self-made key that the header brings along as `jwk` (security.md TK-05).
    pub fn with_embedded_jwk(&self) -> String {
        let own = SigningKey::stranger(self.key.alg().unwrap_or(Alg::Rs256));
        let mut header = self.header.clone();
        header.insert("jwk".into(), own.jwk());
        header.insert("kid".into(), own.kid().into());
        self.with_header_text(&Value::Object(header).to_string(), &own)
    }

    /// Signed by a self-made key whose whereabouts the header names as `jku` or `x5u`.
    pub fn with_key_url(&self, member: &str, url: &str) -> String {
        let own = SigningKey::stranger(self.key.alg().unwrap_or(Alg::Rs256));
        let mut header = self.header.clone();
        header.insert(member.into(), url.into());
        header.insert("kid".into(), own.kid().into());
        self.with_header_text(&Value::Object(header).to_string(), &own)
    }

    /// One claim repeated in the JSON text, with a good signature.
    pub fn with_duplicate_claim(&self, name: &str, second: &Value) -> String {
        let text = self.claims_text();
        let body = text.strip_suffix('}').unwrap_or(&text);
        let name = Value::from(name);
        self.with_claims_text(&format!("{body},{name}:{second}}}"))
    }

    /// One claim given as raw JSON text such as `1e400`, with a good signature.
    pub fn with_raw_claim(&self, name: &str, json_text: &str) -> String {
        let mut claims = self.claims.clone();
        claims.remove(name);
        let text = Value::Object(claims).to_string();
        let body = text.strip_suffix('}').unwrap_or(&text);
        let comma = if body.len() > 1 { "," } else { "" };
        let name = Value::from(name);
        self.with_claims_text(&format!("{body}{comma}{name}:{json_text}}}"))
    }

    /// A claim nested `depth` arrays deep, with a good signature.
    pub fn nested(&self, depth: usize) -> String {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        self.with_raw_claim("nest", &deep)
    }

    /// A claim that brings the payload to at least this many bytes, with a good signature.
    pub fn padded_to(&self, bytes: usize) -> String {
        self.with_raw_claim("padding", &format!("\"{}\"", "x".repeat(bytes)))
    }

    /// The shape of a JWE (RFC 7516 section 7.1): five parts that decode, sealed for nobody.
    pub fn five_parts(&self) -> String {
        let header = json!({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": self.key.kid()});
        let parts =
            [b64(header.to_string()), b64([7; 256]), b64([8; 12]), b64(self.claims_text()), b64([9; 16])];
        parts.join(".")
    }

    /// The same claims as another kind of token, with a good signature (security.md TK-10).
    pub fn with_typ(&self, typ: &str) -> String {
        self.with_header("typ", typ.into(), &self.key)
    }
}

/// How a public key is handed to HMAC as if it were a secret.
#[derive(Clone, Copy, Debug)]
pub enum PublicForm {
    Pem,
    PemTrimmed,
    SpkiDer,
    RawDer,
}

/// The token with one bit of one part (0 header, 1 payload, 2 signature) flipped after decoding,
/// so that the base64 stays canonical.
pub fn flip_bit(token: &str, part: usize, bit: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut bytes = URL_SAFE_NO_PAD.decode(&parts[part]).unwrap();
    let at = (bit / 8) % bytes.len();
    bytes[at] ^= 1 << (bit % 8);
    parts[part] = b64(bytes);
    parts.join(".")
}

/// Header and claims of a compact token, unverified; `None` when it is not one.
pub fn peek(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    });
    Some((parts.next()??, parts.next()??))
}

/// Whether `key` signed this compact token.
pub fn verifies(token: &str, key: &SigningKey) -> bool {
    token.rsplit_once('.').is_some_and(|(input, signature)| {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| key.verifies(input.as_bytes(), &signature))
    })
}

/// `at_hash` of an access token (Core section 3.1.3.6): Ed25519 hashes with SHA-512.
pub fn at_hash(access_token: &str, alg: Option<Alg>) -> String {
    let algorithm = match alg {
        Some(Alg::EdDsa) => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let hash = digest::digest(algorithm, access_token.as_bytes());
    b64(&hash.as_ref()[..hash.as_ref().len() / 2])
}

/// base64url without padding.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Random text of 128 bits, base64url.
pub fn random_text() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    b64(bytes)
}
