//! Whose certificates count where we are the client of a TLS connection.

use std::sync::Arc;

use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whose certificates count.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    System,
    /// The authorities of this PEM bundle alone.
    Authorities(&'a [u8]),
    /// For a server that is only ever spoken to in the clear, on loopback: reading the system's authorities would
    /// take a third of the time that the start may take.
    Nobody,
}

impl Trust<'_> {
    /// What a connection is opened by; clones share the authorities and the sessions to resume.
    ///
    /// # Errors
    /// A sentence for the operator when the authorities cannot be read or had.
    pub fn client_config(self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let trusting = match self {
            Self::System => builder.with_platform_verifier().map_err(|error| error.to_string())?,
            Self::Authorities(pem) => builder.with_root_certificates(authorities(pem)?),
            Self::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        };
        Ok(trusting.with_no_client_auth())
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let fault = |problem: &dyn std::fmt::Display| format!("not a PEM bundle of certificates: {problem}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| fault(&error))?;
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        return Err(fault(&"it holds none"));
    }
    Ok(roots)
}
