//! Client assertions for `private_key_jwt` (RFC 7523 2.2): a compact JWS signed by aws-lc-rs.
//!
//! The `rsa` crate is in the tree as a verifier only; its private-key operations
//! leak by time (RUSTSEC-2023-0071, CR-11).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// RSA keys below 2048 bits are refused (RFC 7518 3.3).
const RSA_MIN_BYTES: usize = 256;

/// The signature algorithms we sign with (RFC 7518 3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// By the exact JWA name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "PS256" => Self::Ps256,
            "ES256" => Self::Es256,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// The exact JWA name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Why nothing can be signed. Never holds any part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    #[error("no PEM block `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`")]
    NotPem,
    #[error(
        "the private key is encrypted; give it without a passphrase in a file that only Doorward may read"
    )]
    Encrypted,
    #[error("the private key does not fit the algorithm {}", .0.as_str())]
    WrongKey(Algorithm),
    #[error("an RSA key has at least 2048 bits")]
    RsaShort,
    #[error("the signature could not be made")]
    Signing,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A private key that signs with one algorithm.
pub struct Signer {
    algorithm: Algorithm,
    pair: Pair,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads an unencrypted PEM key: PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    ///
    /// # Errors
    /// No key, or one that does not fit the algorithm.
    pub fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Self, SignFault> {
        let (kind, der) = read_pem(pem)?;
        let misfit = SignFault::WrongKey(algorithm);
        let pair = match (algorithm, kind) {
            (Algorithm::Rs256 | Algorithm::Ps256, PemKind::Pkcs8 | PemKind::Pkcs1) => {
                let read = if kind == PemKind::Pkcs8 {
                    RsaKeyPair::from_pkcs8(&der)
                } else {
                    RsaKeyPair::from_der(&der)
                };
                let pair = read.map_err(|_| misfit)?;
                if pair.public_modulus_len() < RSA_MIN_BYTES {
                    return Err(SignFault::RsaShort);
                }
                let encoding: &'static dyn RsaEncoding =
                    if algorithm == Algorithm::Rs256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                Pair::Rsa(pair, encoding)
            }
            (Algorithm::Es256, PemKind::Pkcs8 | PemKind::Sec1) => {
                let read = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
                Pair::Ec(read.map_err(|_| misfit)?)
            }
            (Algorithm::EdDsa, PemKind::Pkcs8) => {
                Pair::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| misfit)?)
            }
            _ => return Err(misfit),
        };
        Ok(Self { algorithm, pair })
    }

    /// An Ed25519 key of its 32-byte seed (RFC 8032 5.1.5).
    ///
    /// # Errors
    /// A seed of another length.
    pub fn from_ed25519_seed(seed: &[u8]) -> Result<Self, SignFault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        let pair = pair.map_err(|_| SignFault::WrongKey(Algorithm::EdDsa))?;
        Ok(Self { algorithm: Algorithm::EdDsa, pair: Pair::Ed(pair) })
    }

    /// The algorithm this key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half: an RSA key as PKCS#1 DER, an EC point uncompressed, an Ed25519 key raw.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair, _) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        }
    }

    /// A compact JWS (RFC 7515 3.1). The header's `alg` is set here, so
    /// that it never says something else than was done.
    ///
    /// # Errors
    /// The library refused to sign.
    pub fn sign(
        &self,
        header: &Map<String, Value>,
        claims: &Map<String, Value>,
    ) -> Result<String, SignFault> {
        let mut header = header.clone();
        header.insert("alg".to_owned(), self.algorithm.as_str().into());
        let part = |json: &Map<String, Value>| {
            serde_json::to_vec(json).map(|text| URL_SAFE_NO_PAD.encode(text)).map_err(|_| SignFault::Signing)
        };
        let input = format!("{}.{}", part(&header)?, part(claims)?);
        let signature = self.signature(input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, input: &[u8]) -> Result<Vec<u8>, SignFault> {
        let system = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &system, input, &mut signature).map_err(|_| SignFault::Signing)?;
                Ok(signature)
            }
            Pair::Ec(pair) => {
                let signature = pair.sign(&system, input).map_err(|_| SignFault::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed(pair) => Ok(pair.sign(input).as_ref().to_vec()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PemKind {
    Pkcs8,
    Pkcs1,
    Sec1,
}

/// The first private key of a PEM text (RFC 7468); parameters and certificates beside it are passed over.
fn read_pem(pem: &str) -> Result<(PemKind, Zeroizing<Vec<u8>>), SignFault> {
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(SignFault::Encrypted);
    }
    for (label, kind) in [
        ("PRIVATE KEY", PemKind::Pkcs8),
        ("RSA PRIVATE KEY", PemKind::Pkcs1),
        ("EC PRIVATE KEY", PemKind::Sec1),
    ] {
        let Some((_, rest)) = pem.split_once(&format!("-----BEGIN {label}-----")) else { continue };
        let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or(SignFault::NotPem)?;
        let text = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let der = GeneralPurpose::new(&alphabet::STANDARD, config).decode(text.as_bytes());
        return der.map(|der| (kind, Zeroizing::new(der))).map_err(|_| SignFault::NotPem);
    }
    Err(SignFault::NotPem)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
        UnparsedPublicKey, VerificationAlgorithm,
    };
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn rsa() -> Vec<u8> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref().to_vec()
    }

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn verify(pem: &str, algorithm: Algorithm, with: &'static dyn VerificationAlgorithm) {
        let signer = Signer::from_pem(pem, algorithm).unwrap();
        let jws = signer.sign(&map(r#"{"typ":"JWT","alg":"none"}"#), &map(r#"{"sub":"client"}"#)).unwrap();
        let (input, signature) = jws.rsplit_once('.').unwrap();
        let (header, claims) = input.split_once('.').unwrap();
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        assert_eq!(header["alg"], algorithm.as_str());
        assert_eq!(header["typ"], "JWT");
        assert_eq!(URL_SAFE_NO_PAD.decode(claims).unwrap(), br#"{"sub":"client"}"#);
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = UnparsedPublicKey::new(with, signer.public_key());
        key.verify(input.as_bytes(), &signature).unwrap();
        assert!(key.verify(b"other", &signature).is_err());
    }

    #[test]
    fn each_algorithm_signs_what_its_public_key_verifies() {
        let rsa = rsa();
        let pkcs8 = pem("PRIVATE KEY", &rsa);
        verify(&pkcs8, Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256);
        verify(&pkcs8, Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256);
        // PKCS#8 of a 2048-bit RSA key is 26 bytes of head before the PKCS#1 key.
        verify(&pem("RSA PRIVATE KEY", &rsa[26..]), Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256);

        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        verify(
            &pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref()),
            Algorithm::Es256,
            &ECDSA_P256_SHA256_FIXED,
        );
        let secret = ec.private_key();
        let sec1: EcPrivateKeyRfc5915Der<'_> = secret.as_der().unwrap();
        verify(&pem("EC PRIVATE KEY", sec1.as_ref()), Algorithm::Es256, &ECDSA_P256_SHA256_FIXED);

        let system = SystemRandom::new();
        for document in [
            Ed25519KeyPair::generate_pkcs8(&system).unwrap(),
            Ed25519KeyPair::generate_pkcs8v1(&system).unwrap(),
        ] {
            verify(&pem("PRIVATE KEY", document.as_ref()), Algorithm::EdDsa, &ED25519);
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused_without_a_word_of_it() {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ec = pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref());
        for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::EdDsa] {
            assert_eq!(
                Signer::from_pem(&ec, algorithm).map(|_| ()).unwrap_err(),
                SignFault::WrongKey(algorithm)
            );
        }
        for (text, fault) in [
            ("", SignFault::NotPem),
            ("CANARY", SignFault::NotPem),
            ("-----BEGIN PRIVATE KEY-----\nCANARY", SignFault::NotPem),
            ("-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----", SignFault::NotPem),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
                SignFault::Encrypted,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
                SignFault::WrongKey(Algorithm::Es256),
            ),
        ] {
            assert_eq!(Signer::from_pem(text, Algorithm::Es256).map(|_| ()).unwrap_err(), fault);
        }
    }

    #[test]
    fn cr_09_debug_of_a_signer_names_the_algorithm_alone() {
        let signer = Signer::from_pem(&pem("PRIVATE KEY", &rsa()), Algorithm::Ps256).unwrap();
        assert_eq!(format!("{signer:?}"), "Signer { algorithm: Ps256, .. }");
    }

    #[test]
    fn cr_11_no_source_of_ours_touches_the_rsa_crate() {
        fn scan(folder: &std::path::Path) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    scan(&path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                        // Spelled in two halves, so that this test does not find itself.
                        for word in [
                            concat!("rsa", "::"),
                            concat!("RsaPriv", "ateKey"),
                            concat!("CoreRsaPriv", "ateSigningKey"),
                        ] {
                            let ours = line.contains("aws_lc_rs::");
                            assert!(ours || !line.contains(word), "{}: {line}", path.display());
                        }
                    }
                }
            }
        }
        scan(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    }
}
