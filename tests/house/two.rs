//! Visitors of a house that speaks TLS: one who speaks HTTP/2 by the book, and one who sends frames by hand and tidies nothing (RFC 9113).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::upstream::PATIENCE;

/// A handshake as `localhost`, offering these protocols.
pub async fn secure(address: SocketAddr, authority: &Path, offered: &[&str]) -> TlsStream<TcpStream> {
    try_secure(address, authority, offered).await.unwrap()
}

pub async fn try_secure(
    address: SocketAddr,
    authority: &Path,
    offered: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await
}

/// The first certificate that the server showed.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One HTTP/2 connection; its requests go out under its name and port.
pub struct Two {
    pub send: SendRequest<Bytes>,
    pub authority: String,
    pub certificate: CertificateDer<'static>,
    /// Ends with the connection.
    pub connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Two {
    pub async fn open(address: SocketAddr, authority: &Path) -> Self {
        let stream = secure(address, authority, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()), "HTTP/2 is agreed on");
        let certificate = shown(&stream);
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { send, authority: format!("localhost:{}", address.port()), certificate, connection }
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
        let mut request =
            http::Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// A request without a body.
    pub async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.request(method, path, headers);
        self.try_send(request, None).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    /// A request whose body, if any, is sent as fast as it is taken.
    pub async fn try_send(
        &mut self,
        request: http::Request<()>,
        body: Option<&[u8]>,
    ) -> Result<Answer, h2::Error> {
        timeout(PATIENCE, std::future::poll_fn(|cx| self.send.poll_ready(cx)))
            .await
            .expect("a free stream")?;
        let (answer, mut stream) = self.send.send_request(request, body.is_none())?;
        if let Some(body) = body {
            let mut left = Bytes::copy_from_slice(body);
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let room = timeout(PATIENCE, std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
                // An early answer takes the rest back.
                let Some(Ok(room)) = room.expect("room") else { break };
                if stream.send_data(left.split_to(room.min(left.len())), false).is_err() {
                    break;
                }
            }
            let _ = stream.send_data(Bytes::new(), true);
        }
        let (head, mut rest) = timeout(PATIENCE, answer).await.expect("an answer")?.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = timeout(PATIENCE, rest.data()).await.expect("the rest") {
            let piece = piece?;
            let _ = rest.flow_control().release_capacity(piece.len());
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of an `RST_STREAM`, or of a GOAWAY behind its last stream.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// Writes whatever frames a test likes.
pub struct Raw {
    stream: TlsStream<TcpStream>,
    read: BytesMut,
    pub authority: String,
}

impl Raw {
    /// The preface, an empty SETTINGS of ours, and nothing read yet.
    pub async fn open(address: SocketAddr, authority: &Path) -> Self {
        Self::with_settings(address, authority, &[]).await
    }

    pub async fn with_settings(address: SocketAddr, authority: &Path, settings: &[(u16, u32)]) -> Self {
        let stream = secure(address, authority, &["h2"]).await;
        let authority = format!("localhost:{}", address.port());
        let mut raw = Self { stream, read: BytesMut::new(), authority };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat())
            .collect();
        raw.send(
            &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &payload)].concat(),
        )
        .await;
        raw
    }

    /// Sends bytes; a server that has closed is no fault here.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(PATIENCE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        matches!(sent.await, Ok(Ok(())))
    }

    /// The fields of a plain GET.
    pub fn get<'a>(&'a self, path: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![(":method", "GET"), (":scheme", "https"), (":authority", &self.authority), (":path", path)]
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self, within: Duration) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            match timeout(within, self.stream.read_buf(&mut self.read)).await.expect("a frame in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.read.get(..9)?.try_into().unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if self.read.len() < 9 + length {
            return None;
        }
        let payload = self.read.split_to(9 + length)[9..].to_vec();
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame is wanted; `None` when the connection ended before.
    pub async fn until(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame(PATIENCE).await?;
            if is_wanted(&frame) {
                return Some(frame);
            }
        }
    }
}

/// A frame (RFC 9113 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of fields, each a literal that nobody shall remember (RFC 7541 6.2.2).
pub fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(list: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        text(&mut block, name.as_ref());
        text(&mut block, value.as_ref());
    }
    block
}

fn text(block: &mut Vec<u8>, text: &[u8]) {
    if let Ok(short @ ..127) = u8::try_from(text.len()) {
        block.push(short);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend_from_slice(text);
}

/// A request without a body, in one frame.
pub fn headers(stream: u32, list: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(list))
}
