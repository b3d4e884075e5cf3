//! The first seconds of a connection: TLS 1.2 or 1.3, HTTP/2 or HTTP/1.1 agreed on by ALPN, within limits of time and number.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::server::TlsStream;

use super::shown::Shown;

/// A handshake takes two round trips at most; whoever needs longer holds a place for nothing.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes under way in the process; each holds some ten kilobytes. Beyond it connections are closed unanswered.
pub const HANDSHAKES_MAX: usize = 10_000;
/// The first byte of every TLS connection (RFC 8446 5.1: a record of type handshake).
const IS_TLS: u8 = 0x16;
/// How long and how much of a plain request is read before it is answered: whoever still sends does not hear.
const PLAIN_WAIT: Duration = Duration::from_secs(1);
const PLAIN_MAX: usize = 64 * 1024;

/// Where connections become secure.
#[derive(Clone)]
pub struct Front {
    acceptor: TlsAcceptor,
    places: Arc<Semaphore>,
    to_plain: Arc<[u8]>,
}

impl Front {
    /// `to_plain` is the whole answer to a visitor who speaks plain HTTP.
    ///
    /// # Errors
    /// When the TLS library has no protocol version to offer.
    pub fn new(shown: Arc<Shown>, to_plain: Vec<u8>) -> Result<Self, String> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(shown);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            places: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            to_plain: to_plain.into(),
        })
    }

    /// Makes a connection secure; `None` for one that is over.
    pub async fn meet(&self, tcp: TcpStream) -> Option<TlsStream<TcpStream>> {
        let Ok(_place) = self.places.try_acquire() else {
            tracing::warn!(
                limit = HANDSHAKES_MAX,
                "too many TLS handshakes at once; a connection was closed"
            );
            return None;
        };
        // A small answer must not wait for the acknowledgement of the one before.
        let _ = tcp.set_nodelay(true);
        match timeout(HANDSHAKE_MAX, self.shake_hands(tcp)).await {
            Ok(Ok(secure)) => secure,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("a TLS handshake took too long");
                None
            }
        }
    }

    async fn shake_hands(&self, tcp: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        match tcp.peek(&mut first).await? {
            0 => Ok(None),
            _ if first == [IS_TLS] => self.acceptor.accept(tcp).await.map(Some),
            _ if first.iter().all(u8::is_ascii_uppercase) => {
                let _ = timeout(PLAIN_WAIT, self.tell(tcp)).await;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn tell(&self, mut tcp: TcpStream) -> io::Result<()> {
        let mut heard = vec![0; 4096];
        let mut left = PLAIN_MAX.saturating_sub(tcp.read(&mut heard).await?);
        tcp.write_all(&self.to_plain).await?;
        tcp.shutdown().await?;
        // A socket that is closed with something unread takes the answer back.
        while left > 0 {
            match tcp.read(&mut heard).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}
