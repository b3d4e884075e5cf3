//! The certificate and its key, read from their files and judged before anybody is shown them.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::validity;
use crate::config::Tls;

/// Who renews by hand has two weeks to do so.
const SOON_MS: i64 = 14 * 24 * 3_600_000;

/// A certificate chain with the key that fits.
#[derive(Debug)]
pub struct Pair {
    pub key: Arc<CertifiedKey>,
    /// Unix milliseconds.
    pub begins_at_ms: i64,
    pub ends_at_ms: i64,
}

/// Reads both files.
///
/// # Errors
/// A sentence for each file that cannot be used, with what to try.
pub fn read(files: &Tls) -> Result<Pair, Vec<String>> {
    let (certificate, key) = (&files.certificate_file, &files.key_file);
    let (chain, key) = match (read_chain(certificate), read_key(key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err([chain.err(), key.err()].into_iter().flatten().collect()),
    };
    let fault = |problem: String| vec![problem];
    let leaf = chain.first().map(|leaf| validity::of(leaf));
    let Some(Some((begins_at_ms, ends_at_ms))) = leaf else {
        return Err(fault(about(
            CERTIFICATE,
            certificate,
            "its first certificate cannot be read",
            PEM_CHAIN,
        )));
    };
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| {
        let advice = "name the key that the certificate was made for, RSA, ECDSA or Ed25519";
        fault(about(KEY, &files.key_file, &format!("does not fit the certificate: {error}"), advice))
    })?;
    Ok(Pair { key: Arc::new(certified), begins_at_ms, ends_at_ms })
}

impl Pair {
    /// What an operator should know of it now; visitors of `host` must find their name in it.
    #[must_use]
    pub fn warnings(&self, now_ms: i64, host: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let until = validity::day(self.ends_at_ms);
        if now_ms < self.begins_at_ms {
            let from = validity::day(self.begins_at_ms);
            warnings
                .push(format!("{CERTIFICATE}: is good from {from} on only; browsers refuse it until then"));
        }
        if now_ms > self.ends_at_ms {
            warnings.push(format!("{CERTIFICATE}: expired on {until}; browsers refuse it: renew it"));
        } else if now_ms > self.ends_at_ms - SOON_MS {
            warnings.push(format!("{CERTIFICATE}: expires on {until}; renew it soon"));
        }
        if !self.names(host) {
            warnings.push(format!("{CERTIFICATE}: is not for {host}, the host of server.public_url"));
        }
        warnings
    }

    fn names(&self, host: &str) -> bool {
        let leaf = self.key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok();
        leaf.zip(name).is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok())
    }

    /// Whether visitors would see a difference.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// The last day, for logs.
    #[must_use]
    pub fn last_day(&self) -> String {
        validity::day(self.ends_at_ms)
    }
}

const CERTIFICATE: &str = "server.tls.certificate_file";
const KEY: &str = "server.tls.key_file";
const PEM_CHAIN: &str = "it must be PEM: the certificate first, then those that signed it";
const PEM_KEY: &str = "it must be PEM without a passphrase: PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY";

fn about(key: &str, path: &Path, problem: &str, advice: &str) -> String {
    format!("{key}: {}: {problem}; {advice}", path.display())
}

fn content(key: &str, path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let advice = "create it, or let the user of doorward read it";
    std::fs::read(path)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| about(key, path, &format!("cannot be read: {error}"), advice))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = content(CERTIFICATE, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(about(CERTIFICATE, path, "holds no certificate", PEM_CHAIN)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(about(CERTIFICATE, path, &error.to_string(), PEM_CHAIN)),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = content(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&content)
        .map_err(|error| about(KEY, path, &format!("holds no private key: {error}"), PEM_KEY))
}
