//! The apps behind the door as the proxy reaches them: addresses, which of them are well, and connections to them.
//!
//! Owns: choosing an address, TLS towards it, kept connections (per worker), the framing of requests and answers.
//! Never does: decide who may pass, follow a redirect, unpack a body, or take a host, scheme or address from a request.
//!
//! ```text
//! Upstreams ─► Origin (one address, its health) ─► Pool (kept connections of a worker) ─► Exchange (one request) ─► Download (its body)
//! ```

mod answer;
mod chunked;
mod connection;
mod download;
mod exchange;
mod origin;
mod pool;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::answer::{Answer, Expected, Fields, Framing};
pub use self::connection::Connection;
pub use self::download::{Download, SILENCE_MAX};
pub use self::exchange::Exchange;
pub use self::origin::Origin;
pub use self::pool::Pool;
pub use self::upload::Upload;
use crate::config;

/// Why an upstream's answer cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody takes connections there; nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The connection ended before the first byte of an answer.
    #[error("the app closed the connection without an answer")]
    Silent,
    #[error("the app's answer cannot be used: {0}")]
    Broken(&'static str),
    #[error("the app took too long")]
    Timeout,
    /// The visitor sent more than the route takes.
    #[error("the request body is too large")]
    TooLarge,
    /// The visitor stopped sending.
    #[error("the request body stopped coming")]
    TooSlow,
    /// The visitor's body ended early or was malformed.
    #[error("the request body is not whole")]
    NotWhole,
}

/// Every app behind the door.
#[derive(Debug, Default)]
pub struct Upstreams(Vec<Upstream>);

/// One app, at one or more addresses.
#[derive(Debug)]
pub struct Upstream {
    /// As routes name it, and the `aud` of identity assertions.
    pub id: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Demo,
    Origins { origins: Vec<Arc<Origin>>, health_path: Option<String>, turn: AtomicUsize },
}

impl Upstreams {
    /// Reads the certificates that a checked configuration names; no network.
    ///
    /// # Errors
    /// One sentence for each upstream that cannot be used.
    pub fn open(configured: &[config::Upstream]) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut opened = Vec::new();
        for upstream in configured {
            match Upstream::open(upstream) {
                Ok(upstream) => opened.push(upstream),
                Err(problem) => faults.push(format!("upstream.{}: {problem}", upstream.id)),
            }
        }
        if faults.is_empty() { Ok(Self(opened)) } else { Err(faults) }
    }

    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Upstream> {
        self.0.iter().find(|upstream| upstream.id == id)
    }

    /// Asks every address that has a health path, all at once.
    pub async fn probe(&self) {
        let probes = self.0.iter().flat_map(|upstream| match &upstream.kind {
            Kind::Origins { origins, health_path: Some(path), .. } => {
                origins.iter().map(|origin| origin.probe(path)).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        futures_util::future::join_all(probes).await;
    }
}

impl Upstream {
    fn open(configured: &config::Upstream) -> Result<Self, String> {
        if configured.urls.iter().any(|url| url.starts_with("builtin:")) {
            return Ok(Self { id: configured.id.clone(), kind: Kind::Demo });
        }
        let ca = configured.tls_ca_file.as_deref();
        let origins: Result<Vec<_>, String> =
            configured.urls.iter().map(|url| Origin::open(url, ca).map(Arc::new)).collect();
        let kind = Kind::Origins {
            origins: origins?,
            health_path: configured.health_path.clone(),
            turn: AtomicUsize::new(0),
        };
        Ok(Self { id: configured.id.clone(), kind })
    }

    /// The app that is built in, which no connection leads to.
    #[must_use]
    pub fn is_demo(&self) -> bool {
        matches!(self.kind, Kind::Demo)
    }

    /// Every address in the order in which to try them: the well ones in turn, then the others, which may have recovered.
    pub fn in_turn(&self) -> impl Iterator<Item = &Arc<Origin>> {
        let (only, all) = match &self.kind {
            Kind::Demo => (None, Vec::new()),
            Kind::Origins { origins, turn, .. } => match origins.as_slice() {
                [only] => (Some(only), Vec::new()),
                origins => (None, by_health(origins, turn)),
            },
        };
        only.into_iter().chain(all)
    }
}

fn by_health<'o>(origins: &'o [Arc<Origin>], turn: &AtomicUsize) -> Vec<&'o Arc<Origin>> {
    let first = turn.fetch_add(1, Ordering::Relaxed) % origins.len().max(1);
    let (tail, head) = origins.split_at_checked(first).unwrap_or((origins, &[]));
    let (mut well, ill): (Vec<_>, Vec<_>) = head.iter().chain(tail).partition(|origin| origin.is_well());
    well.extend(ill);
    well
}
