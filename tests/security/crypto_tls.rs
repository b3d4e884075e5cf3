//! Chapter 13: TLS towards providers. Certificates are made by OpenSSL's command line, the server that shows them is rustls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use doorward::config::{self, Sources};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{is_signed_in, sets_session};
use crate::house::browser::{Browser, Page};
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;

/// An authority and what it signs, in a folder of the test's own.
pub struct Authority {
    folder: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output();
    let done = done.unwrap_or_else(|error| panic!("openssl: {error}; apt-get install openssl"));
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        openssl(folder.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key"]);
        let request = [
            "req",
            "-x509",
            "-new",
            "-key",
            "ca.key",
            "-subj",
            "/CN=Test authority",
            "-days",
            "30",
            "-out",
            "ca.pem",
        ];
        let is_ca = ["-addext", "basicConstraints=critical,CA:TRUE"];
        openssl(folder.path(), &[request.as_slice(), &is_ca].concat());
        Self { folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server certificate for this alternative name (`DNS:…`), good for so many days from now.
    pub fn sign(&self, name: &str, alternative: &str, days: i32) -> Leaf {
        let at = self.folder.path();
        let (key, csr, pem, extensions) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        std::fs::write(
            at.join(&extensions),
            format!("basicConstraints=CA:FALSE\nsubjectAltName={alternative}\n"),
        )
        .unwrap();
        openssl(at, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        openssl(at, &["pkcs8", "-topk8", "-nocrypt", "-in", &key, "-out", &format!("{key}8")]);
        openssl(at, &["req", "-new", "-key", &key, "-subj", "/CN=localhost", "-out", &csr]);
        let days = days.to_string();
        let sign = [
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            &days,
        ];
        openssl(at, &[sign.as_slice(), &["-extfile", &extensions, "-out", &pem]].concat());
        Leaf { certificate: at.join(pem), key: at.join(format!("{key}8")) }
    }

    /// Signed by nobody but itself.
    fn self_signed(&self) -> Leaf {
        let at = self.folder.path();
        openssl(at, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "self.key"]);
        openssl(at, &["pkcs8", "-topk8", "-nocrypt", "-in", "self.key", "-out", "self.key8"]);
        let request = [
            "req",
            "-x509",
            "-new",
            "-key",
            "self.key",
            "-subj",
            "/CN=localhost",
            "-days",
            "30",
            "-out",
            "self.pem",
        ];
        let names =
            ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(at, &[request.as_slice(), &names].concat());
        Leaf { certificate: at.join("self.pem"), key: at.join("self.key8") }
    }
}

/// Shows this certificate.
pub fn acceptor(leaf: &Leaf) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(&leaf.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(server))
}

/// Ends TLS with this certificate and passes the bytes on to the provider; returns `https://localhost:PORT`.
async fn front(op: &ScriptedOp, leaf: &Leaf) -> String {
    let acceptor = acceptor(leaf);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let provider = op.address();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let Ok(mut plain) = TcpStream::connect(provider).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    url
}

/// Lets the provider speak of itself by another name.
fn rename(op: &ScriptedOp, url: &str) {
    let (old, new) = (op.issuer(), url.to_owned());
    op.script(|s| {
        let (from, to) = (old.clone(), new.clone());
        s.discovery(move |metadata| {
            for value in metadata.values_mut() {
                if let Some(text) = value.as_str().filter(|text| text.starts_with(&from)) {
                    *value = text.replacen(&from, &to, 1).into();
                }
            }
        });
        let to = new.clone();
        s.claims(move |claims| drop(claims.insert("iss".into(), to.clone().into())));
        s.authorization_response(move |pairs| {
            for (name, value) in pairs {
                if name == "iss" {
                    value.clone_from(&new);
                }
            }
        });
    });
}

fn provider(id: &str, issuer: &str, authority: Option<&Path>) -> String {
    let trust = authority.map(|path| format!("tls_ca_file = \"{}\"\n", path.display())).unwrap_or_default();
    format!(
        "[[provider]]\nid = \"{id}\"\nkind = \"oidc\"\nissuer = \"{issuer}\"\nclient_id = \"doorward\"\nclient_secret = 's3cret+with%odd&chars:'\n{trust}"
    )
}

/// The browser has no TLS here; it meets the provider behind its front.
async fn sign_in(house: &TestHouse, op: &ScriptedOp, path: &str) -> (Browser, Page) {
    let browser = house.browser();
    let start = browser.navigate(path).await;
    let Some(there) = start.location().filter(|_| start.is_redirect()) else { return (browser, start) };
    assert_eq!(there.scheme(), "https");
    let plain = format!("{}{}?{}", op.issuer(), there.path(), there.query().unwrap_or_default());
    let page = browser.navigate(&plain).await;
    let end = browser.follow(page, 5).await;
    (browser, end)
}

async fn is_refused(house: &TestHouse, page: &Page, case: &str) {
    assert_eq!(page.status, 503, "{case}: {}", page.text());
    assert!(page.text().contains("provider_unavailable") && !sets_session(page), "{case}");
    assert_eq!(house.live_sessions().await, 0, "{case}");
    assert!(!page.text().contains("certificate"), "visitors are spared the details: {case}");
}

#[tokio::test]
async fn cr_14_a_provider_is_believed_with_a_good_certificate_of_the_configured_authority_only() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.sign("good", "DNS:localhost", 30);
    let cases = [
        ("the configured authority", good.clone(), Some(ours.file()), true),
        ("no configured authority", good.clone(), None, false),
        ("another authority", good, Some(other.file()), false),
        ("self-signed", ours.self_signed(), Some(ours.file()), false),
        ("a wrong name", ours.sign("name", "DNS:other.example", 30), Some(ours.file()), false),
        ("the name in CN alone", ours.sign("cn", "DNS:cn.example", 30), Some(ours.file()), false),
        ("expired", ours.sign("old", "DNS:localhost", -1), Some(ours.file()), false),
    ];
    for (case, leaf, trust, works) in cases {
        let op = ScriptedOp::start().await;
        let url = front(&op, &leaf).await;
        rename(&op, &url);
        let house = TestHouse::with(&provider("op", &url, trust.as_deref())).open().await;
        let (browser, page) = sign_in(&house, &op, "/auth/login?return_to=/protected").await;
        if works {
            assert_eq!((page.status, page.url.path()), (200, "/protected"), "{case}: {}", page.text());
            assert!(is_signed_in(&browser).await);
        } else {
            is_refused(&house, &page, case).await;
            assert_eq!(op.requests().len(), 0, "not a byte was said: {case}");
        }
    }
}

#[tokio::test]
async fn cr_14_a_code_and_a_secret_never_go_to_a_token_endpoint_with_a_bad_certificate() {
    let ours = Authority::new();
    let op = ScriptedOp::start().await;
    let good = front(&op, &ours.sign("good", "DNS:localhost", 30)).await;
    let bad = front(&op, &ours.self_signed()).await;
    rename(&op, &good);
    let (issuer, from) = (op.issuer(), good.clone());
    op.script(|s| {
        s.discovery(move |metadata| {
            for (name, value) in metadata.iter_mut() {
                if let Some(text) = value.as_str().filter(|text| text.starts_with(&issuer)) {
                    let to = if name == "token_endpoint" { &bad } else { &from };
                    *value = text.replacen(&issuer, to, 1).into();
                }
            }
        });
    });
    let house = TestHouse::with(&provider("op", &good, Some(&ours.file()))).open().await;
    let (_, page) = sign_in(&house, &op, "/auth/login").await;
    is_refused(&house, &page, "the token endpoint").await;
    assert_eq!(op.count("/token"), 0);
    assert_eq!(house.refusals("provider_unavailable").await, 1);
}

#[tokio::test]
async fn cr_14_an_authority_counts_for_its_own_provider_alone() {
    let ours = Authority::new();
    let leaf = ours.sign("good", "DNS:localhost", 30);
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let mut text = String::new();
    for (id, op, trust) in [("one", &one, Some(ours.file())), ("two", &two, None)] {
        let url = front(op, &leaf).await;
        rename(op, &url);
        text.push_str(&provider(id, &url, trust.as_deref()));
    }
    let house = TestHouse::with(&text).open().await;
    let (_, page) = sign_in(&house, &two, "/auth/login?provider=two").await;
    is_refused(&house, &page, "the other provider").await;
    let (browser, page) = sign_in(&house, &one, "/auth/login?provider=one&return_to=/protected").await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn cr_14_a_broken_authority_file_stops_the_start_and_there_is_no_insecure_switch() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("ca.pem");
    for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&broken, content).unwrap();
        let opened = loaded(folder.path(), &provider("op", "https://id.example", Some(&broken)))
            .map_err(|faults| format!("{faults:?}"))
            .and_then(|config| {
                let (clock, random) =
                    (Arc::new(doorward::app::SystemClock), Arc::new(doorward::app::SystemRandom));
                doorward::providers::open(&config.providers[0], clock, random, None).map(|_| ())
            });
        assert!(opened.is_err(), "{content:?}");
    }
    for switch in [
        "insecure = true",
        "tls_insecure = true",
        "insecure_skip_verify = true",
        "tls_verify = false",
        "verify = false",
    ] {
        let text = format!("{}{switch}\n", provider("op", "https://id.example", None));
        assert!(loaded(folder.path(), &text).is_err(), "{switch}");
    }
    let plain = loaded(folder.path(), &provider("op", "http://id.example", None));
    assert!(plain.is_err(), "http to a public provider");
}

fn loaded(folder: &Path, text: &str) -> Result<config::Config, Vec<config::Fault>> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).unwrap();
    std::fs::create_dir_all(folder.join("secrets")).unwrap();
    std::fs::write(folder.join("secrets/k1"), key).unwrap();
    std::fs::write(folder.join("config.toml"), text).unwrap();
    config::load(&Sources { file: None, folder: folder.to_owned(), environment: vec![] })
        .map(|loaded| loaded.config)
}
