//! An app behind the door that a test scripts byte for byte, and a client that speaks byte for byte: both on raw sockets, so that neither tidies anything.
//!
//! The app is a spy as well: it keeps every request as it came, and [`FakeUpstream::assert_silent`] says that none came.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// What takes longer than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A request as the app received it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Up to and without the empty line.
    pub head: String,
    /// As framed: chunked bodies with their sizes.
    pub body: Vec<u8>,
    /// Whether the other side has closed the connection.
    pub is_closed: bool,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// `/path?query` as it came.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The one value of a field.
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands more than once: {}", self.head);
        all.first().copied()
    }
}

/// What the app does with a request, in order.
#[derive(Clone)]
pub enum Step {
    /// Reads the body to its end.
    ReadBody,
    /// Reads this many bytes of the body.
    Read(usize),
    Send(Vec<u8>),
    /// Waits until the gate is opened.
    Wait(Gate),
    /// Sends this many bytes, piece by piece as they are taken.
    Flood(usize),
    /// Sends back whatever comes until the other side closes.
    Echo,
    /// Speaks WebSocket: answers each short text with `echo: ` before it, until a close frame.
    Talk,
    /// Waits until the other side closes.
    AwaitClose,
    /// Ends the connection.
    Close,
}

impl Step {
    pub fn send(text: &str) -> Self {
        Self::Send(text.as_bytes().to_vec())
    }

    /// A whole answer with a length.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        Self::send(&format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }
}

/// Opened once, by the test.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

type Plan = Arc<dyn Fn(&Seen) -> Vec<Step> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    plan: Arc<Mutex<Plan>>,
    connections: Arc<AtomicUsize>,
}

/// An app on a port of its own; it goes with the test's runtime.
#[derive(Clone)]
pub struct FakeUpstream {
    pub address: SocketAddr,
    shared: Shared,
}

impl FakeUpstream {
    /// Answers everything with 200 and `hello`, until told otherwise.
    pub async fn start() -> Self {
        Self::start_with(|stream| async { Some(stream) }).await
    }

    /// Puts something around each accepted socket: TLS.
    pub async fn start_with<S, F>(wrap: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Plan = Arc::new(|_| vec![Step::ReadBody, Step::answer("200 OK", "", "hello")]);
        let shared =
            Shared { seen: Arc::default(), plan: Arc::new(Mutex::new(plan)), connections: Arc::default() };
        let house = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, wrapped) = (house.clone(), wrap(stream));
                house.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Some(stream) = wrapped.await {
                        shared.serve(stream).await;
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request is met with these steps.
    pub fn plan(&self, plan: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Arc::new(plan);
    }

    pub fn always(&self, steps: Vec<Step>) {
        self.plan(move |_| steps.clone());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request; fails where none came.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the app was called")
    }

    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// After a denial: nothing reached the app.
    pub fn assert_silent(&self, case: &str) {
        let seen = self.seen();
        assert!(seen.is_empty(), "{case}: the app was called: {}", seen[0].head);
    }

    /// Waits until what the app saw is so; fails after ten seconds.
    pub async fn until(&self, what: &str, is_so: impl Fn(&[Seen]) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !is_so(&self.seen()) {
            assert!(std::time::Instant::now() < deadline, "never so: {what}; {:#?}", self.seen());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Shared {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut read = Vec::new();
        loop {
            let Some(end) = fill_until(&mut stream, &mut read, b"\r\n\r\n").await else { return };
            let head = String::from_utf8_lossy(&read[..end - 4]).into_owned();
            read.drain(..end);
            let seen = Seen { head, ..Seen::default() };
            let plan = self.plan.lock().unwrap().clone();
            let steps = plan(&seen);
            let at = {
                let mut all = self.seen.lock().unwrap();
                all.push(seen);
                all.len() - 1
            };
            for step in steps {
                if !self.act(step, &mut stream, &mut read, at).await {
                    self.note(at, |seen| seen.is_closed = true);
                    return;
                }
            }
        }
    }

    fn note(&self, at: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.seen.lock().unwrap().get_mut(at) {
            change(seen);
        }
    }

    async fn act(
        &self,
        step: Step,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        read: &mut Vec<u8>,
        at: usize,
    ) -> bool {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok(),
            Step::Wait(gate) => gate.0.subscribe().wait_for(|open| *open).await.is_ok(),
            Step::Close => false,
            Step::Read(length) => {
                while read.len() < length {
                    if !more(stream, read).await {
                        return false;
                    }
                }
                let body: Vec<u8> = read.drain(..length).collect();
                self.note(at, |seen| seen.body.extend(body));
                true
            }
            Step::ReadBody => {
                let head = self.seen.lock().unwrap().get(at).cloned().unwrap_or_default();
                let length = head.one("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                let end = if head.one("transfer-encoding").is_some() {
                    let Some(end) = fill_until(stream, read, b"0\r\n\r\n").await else { return false };
                    end
                } else {
                    while read.len() < length {
                        if !more(stream, read).await {
                            return false;
                        }
                    }
                    length
                };
                let body: Vec<u8> = read.drain(..end).collect();
                self.note(at, |seen| seen.body.extend(body));
                true
            }
            Step::Echo => loop {
                if read.is_empty() && !more(stream, read).await {
                    return false;
                }
                let bytes = std::mem::take(read);
                self.note(at, |seen| seen.body.extend(&bytes));
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
            },
            Step::Flood(size) => flood(stream, size).await,
            Step::Talk => {
                while let Some((kind, text)) = next_frame(stream, read).await {
                    self.note(at, |seen| seen.body.extend(&text));
                    if !reply(stream, kind, &text).await {
                        break;
                    }
                }
                false
            }
            Step::AwaitClose => {
                while more(stream, read).await {}
                false
            }
        }
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(read).await, Ok(n) if n > 0)
}

async fn flood(stream: &mut (impl AsyncWrite + Unpin), size: usize) -> bool {
    let piece = vec![b'x'; 16 * 1024];
    let mut left = size;
    while left > 0 {
        let next = left.min(piece.len());
        if stream.write_all(&piece[..next]).await.is_err() {
            return false;
        }
        left -= next;
    }
    true
}

/// Answers a frame; `false` when the conversation is over.
async fn reply(stream: &mut (impl AsyncWrite + Unpin), kind: u8, text: &[u8]) -> bool {
    let said = if kind == CLOSE { text.to_vec() } else { [b"echo: ", text].concat() };
    let answer = [&[kind, u8::try_from(said.len()).unwrap()], said.as_slice()].concat();
    stream.write_all(&answer).await.is_ok() && kind != CLOSE
}

/// The first byte of a close frame (RFC 6455 5.2).
const CLOSE: u8 = 0x88;

/// A client's next short frame: its first byte and its payload, unmasked.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    loop {
        if let [kind, length, rest @ ..] = read.as_slice() {
            let length = usize::from(length & 0x7f);
            assert!(length < 126, "only short frames are spoken here");
            if let Some((mask, data)) = rest.get(..4 + length).map(|frame| frame.split_at(4)) {
                let text = data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
                let kind = *kind;
                read.drain(..6 + length);
                return Some((kind, text));
            }
        }
        if !more(stream, read).await {
            return None;
        }
    }
}

/// Reads until the pattern came; where it ends.
async fn fill_until(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>, end: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = read.windows(end.len()).position(|part| part == end) {
            return Some(at + end.len());
        }
        if !more(stream, read).await {
            return None;
        }
    }
}

/// A client's connection that sends what it is told and nothing else.
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Sends and waits for nothing; a side that has closed is no failure here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Everything up to and with this text; fails when it does not come.
    pub async fn until(&mut self, text: &str) -> String {
        let found = timeout(PATIENCE, fill_until(&mut self.stream, &mut self.read, text.as_bytes())).await;
        match found {
            Ok(Some(end)) => {
                String::from_utf8_lossy(&self.read.drain(..end).collect::<Vec<u8>>()).into_owned()
            }
            other => panic!("{text:?} never came ({other:?}) in {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// The head of the next answer.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the other side closes; fails when it does not.
    pub async fn rest(&mut self) -> Vec<u8> {
        let all = timeout(PATIENCE, async { while more(&mut self.stream, &mut self.read).await {} }).await;
        assert!(all.is_ok(), "never closed, after {:?}", String::from_utf8_lossy(&self.read));
        std::mem::take(&mut self.read)
    }

    /// Whether the other side closes in that time.
    pub async fn closes_within(&mut self, time: Duration) -> bool {
        timeout(time, async { while more(&mut self.stream, &mut self.read).await {} }).await.is_ok()
    }
}
