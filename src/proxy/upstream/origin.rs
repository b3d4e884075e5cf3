//! One address of an app: how to connect to it, and whether it is well.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Fault;
use super::connection::{Connection, Stream};
use crate::crypto::trust::Trust;

/// Longer than any local network takes; a visitor still has patience for another address.
const CONNECT: Duration = Duration::from_secs(3);
const PROBE: Duration = Duration::from_secs(3);
/// An address that failed is passed over for 1, 2, 4 … seconds.
const PAUSE_MAX_S: u64 = 30;

/// One configured address.
#[derive(Debug)]
pub struct Origin {
    /// For messages: `https://app.internal:8443`.
    pub url: String,
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// Times are milliseconds since this.
    made: Instant,
    ill_until_ms: AtomicU64,
    failures: AtomicU32,
    /// What its health path said last.
    is_unfit: AtomicBool,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Origin {
    /// Takes an address apart; no network.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(url: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let parsed = url::Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = parsed.port_or_known_default().unwrap_or_default();
        let tls = match parsed.scheme() {
            "https" => Some(Tls {
                connector: TlsConnector::from(Arc::new(trust(ca_file)?)),
                name: ServerName::try_from(host.clone()).map_err(|error| format!("{url}: {error}"))?,
            }),
            _ => None,
        };
        Ok(Self {
            url: parsed.origin().ascii_serialization(),
            host,
            port,
            tls,
            made: Instant::now(),
            ill_until_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            is_unfit: AtomicBool::new(false),
        })
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`Fault::Unreachable`].
    pub async fn connect(&self) -> Result<Box<Connection>, Fault> {
        let connected = match timeout(CONNECT, self.dial()).await {
            Ok(dialled) => dialled,
            Err(_) => Err("takes no connection in time".to_owned()),
        };
        match connected {
            Ok(stream) => {
                self.is_back();
                Ok(Box::new(Connection::new(stream)))
            }
            Err(problem) => {
                self.has_failed();
                Err(Fault::Unreachable(format!("{} {problem}", self.url)))
            }
        }
    }

    async fn dial(&self) -> Result<Stream, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("cannot be reached: {error}"))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some(tls) => {
                let stream = tls.connector.connect(tls.name.clone(), tcp).await;
                let stream = stream.map_err(|error| format!("is not trusted: {error}"))?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it may be tried before others.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let has_rested = || self.now_ms() >= self.ill_until_ms.load(Ordering::Relaxed);
        !self.is_unfit.load(Ordering::Relaxed) && (self.failures.load(Ordering::Relaxed) == 0 || has_rested())
    }

    /// Passes it over for a while.
    pub fn has_failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        let pause_s = (1_u64 << failures).min(PAUSE_MAX_S);
        self.ill_until_ms.store(self.now_ms() + pause_s * 1000, Ordering::Relaxed);
    }

    fn is_back(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Asks a health path; 2xx and 3xx are well.
    pub async fn probe(&self, path: &str) {
        let asked = timeout(PROBE, async {
            let mut connection = self.connect().await.ok()?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: doorward-health\r\nconnection: close\r\n\r\n",
                self.authority()
            );
            connection.write.extend_from_slice(request.as_bytes());
            std::future::poll_fn(|cx| connection.poll_send(cx)).await.ok()?;
            while connection.read.len() < 12 {
                let came = std::future::poll_fn(|cx| connection.poll_read(cx)).await.ok()?;
                if came == 0 {
                    return None;
                }
            }
            Some(matches!(connection.read.get(9), Some(b'2' | b'3')))
        });
        let is_fit = matches!(asked.await, Ok(Some(true)));
        if self.is_unfit.swap(!is_fit, Ordering::Relaxed) == is_fit {
            tracing::warn!(url = self.url, is_fit, "an app's health changed");
        }
    }

    fn authority(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, authority)| authority)
    }
}

fn trust(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let Some(path) = ca_file else { return Trust::System.client_config() };
    let fault = |problem: String| format!("tls_ca_file: {}: {problem}", path.display());
    let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    Trust::Authorities(&pem).client_config().map_err(fault)
}
