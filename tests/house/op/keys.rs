//! Signing keys of the scripted provider. Key pairs are made once per test process and shared: an
//! RSA pair costs more than the login it signs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// JWS algorithms the provider can sign with (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Alg {
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::EdDsa => &ED25519,
        }
    }
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Hmac(Vec<u8>),
    Unsigned,
}

/// What signs a token. Cheap to clone. `kid` is made from a hash of the public half.
#[derive(Clone)]
pub struct SigningKey {
    alg: Option<Alg>,
    kid: String,
    pair: Arc<Pair>,
}

impl SigningKey {
    /// The shared key number `index` for this algorithm; made at its first use. RS256 and PS256
    /// share their pairs, with different `kid`s.
    pub fn shared(alg: Alg, index: usize) -> Self {
        type Shelf = Mutex<HashMap<(Alg, usize), Arc<Pair>>>;
        static SHELF: OnceLock<Shelf> = OnceLock::new();
        let kind = if alg == Alg::Ps256 { Alg::Rs256 } else { alg };
        // The lock is held while generating, so that two tests never make the same pair twice.
        let mut shelf = SHELF.get_or_init(Mutex::default).lock().unwrap();
        let pair = shelf.entry((kind, index)).or_insert_with(|| Arc::new(generate(kind)));
        Self::from_pair(alg, pair.clone())
    }

    /// A key that no scripted provider ever publishes: the attacker's own.
    pub fn stranger(alg: Alg) -> Self {
        Self::shared(alg, usize::MAX)
    }

    /// HS256 with these bytes as the secret, for the algorithm confusion of RFC 8725 section 2.1.
    pub fn hmac(secret: impl Into<Vec<u8>>) -> Self {
        Self { alg: None, kid: "hmac".into(), pair: Arc::new(Pair::Hmac(secret.into())) }
    }

    /// Signs with nothing: the third part of the token is empty.
    pub fn unsigned() -> Self {
        Self { alg: None, kid: "none".into(), pair: Arc::new(Pair::Unsigned) }
    }

    fn from_pair(alg: Alg, pair: Arc<Pair>) -> Self {
        let print = digest::digest(&digest::SHA256, &public_bytes(&pair));
        let short = URL_SAFE_NO_PAD.encode(print.as_ref());
        let kid = format!("{}-{}", alg.name().to_lowercase(), &short[..12]);
        Self { alg: Some(alg), kid, pair }
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn alg(&self) -> Option<Alg> {
        self.alg
    }

    /// The `alg` header value that tells the truth about this key.
    pub fn alg_name(&self) -> &'static str {
        match (&*self.pair, self.alg) {
            (Pair::Hmac(_), _) => "HS256",
            (_, Some(alg)) => alg.name(),
            (_, None) => "none",
        }
    }

    /// Raw JWS signature bytes over the signing input (RFC 7515 section 5.1).
    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &*self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                if self.alg == Some(Alg::Ps256) {
                    pair.sign(&RSA_PSS_SHA256, &rng, input, &mut out).unwrap();
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &rng, input, &mut out).unwrap();
                }
                out
            }
            Pair::Ec(pair) => pair.sign(&rng, input).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(input).as_ref().to_vec(),
            Pair::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, input).as_ref().to_vec()
            }
            Pair::Unsigned => Vec::new(),
        }
    }

    /// Whether this key's public half accepts the signature. Always false without a public half.
    pub fn verifies(&self, input: &[u8], signature: &[u8]) -> bool {
        self.alg.is_some_and(|alg| {
            UnparsedPublicKey::new(alg.verifier(), public_bytes(&self.pair)).verify(input, signature).is_ok()
        })
    }

    /// The public JWK with `kid`, `use` and `alg` (RFC 7517 section 4).
    pub fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let public = public_bytes(&self.pair);
        let (kid, alg) = (&self.kid, self.alg_name());
        match &*self.pair {
            Pair::Rsa(_) => {
                let (n, e) = rsa_components(&public);
                json!({"kty": "RSA", "use": "sig", "alg": alg, "kid": kid,
                    "n": b64(n), "e": b64(e)})
            }
            Pair::Ec(_) => json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": alg,
                "kid": kid, "x": b64(&public[1..33]), "y": b64(&public[33..65])}),
            Pair::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": alg,
                "kid": kid, "x": b64(&public)}),
            Pair::Hmac(secret) => json!({"kty": "oct", "alg": alg, "kid": kid, "k": b64(secret)}),
            Pair::Unsigned => Value::Null,
        }
    }

    /// The public half as `SubjectPublicKeyInfo` DER (RFC 5280).
    pub fn public_der(&self) -> Vec<u8> {
        fn spki<'a, K: AsDer<PublicKeyX509Der<'a>>>(key: &K) -> Vec<u8> {
            key.as_der().unwrap().as_ref().to_vec()
        }
        match &*self.pair {
            Pair::Rsa(pair) => spki(pair.public_key()),
            Pair::Ec(pair) => spki(pair.public_key()),
            Pair::Ed(pair) => spki(pair.public_key()),
            Pair::Hmac(_) | Pair::Unsigned => Vec::new(),
        }
    }

    /// An RSA key's public half as PKCS#1 `RSAPublicKey` DER; other kinds give their raw bytes.
    pub fn public_raw(&self) -> Vec<u8> {
        public_bytes(&self.pair)
    }

    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    /// PKCS#8 PEM, for a client that signs assertions with `private_key_jwt`.
    pub fn private_pem(&self) -> String {
        let der = match &*self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).unwrap().as_ref().to_vec(),
            Pair::Ec(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Hmac(_) | Pair::Unsigned => Vec::new(),
        };
        pem("PRIVATE KEY", &der)
    }
}

fn generate(alg: Alg) -> Pair {
    match alg {
        Alg::Rs256 | Alg::Ps256 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        Alg::Es256 => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
        Alg::EdDsa => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
    }
}

fn public_bytes(pair: &Pair) -> Vec<u8> {
    match pair {
        Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        Pair::Hmac(_) | Pair::Unsigned => Vec::new(),
    }
}

/// Modulus and exponent of a PKCS#1 `RSAPublicKey`, without DER's leading sign byte.
fn rsa_components(der: &[u8]) -> (&[u8], &[u8]) {
    let (sequence, _) = der_value(der);
    let (n, rest) = der_value(sequence);
    let (e, _) = der_value(rest);
    (n.strip_prefix(&[0]).unwrap_or(n), e)
}

/// Splits one DER element into its content and what follows it.
fn der_value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            let length = der[2..2 + bytes].iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
            (length, 2 + bytes)
        }
    };
    (&der[head..head + length], &der[head + length..])
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
