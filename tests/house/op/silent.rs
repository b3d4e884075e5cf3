//! A listener at which nobody should ever call: targets of `jku`, `x5u`, pictures and redirects.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records whether anybody connected, and what they said first. Stops when dropped.
pub struct SilentListener {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    over: Arc<AtomicBool>,
}

impl SilentListener {
    /// Answers every caller with an empty 200.
    pub fn start() -> Self {
        Self::serving("text/plain", "")
    }

    /// Answers every caller with this body: the bait at the end of a `jku`.
    pub fn serving(content_type: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, over) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::default());
        let silent = Self { address, heard: Arc::clone(&heard), over: Arc::clone(&over) };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                // Counted before it is read: a caller that says nothing has called all the same.
                heard.lock().unwrap().push(Vec::new());
                if let Ok(mut stream) = stream {
                    let said = listen(&mut stream);
                    if let Some(last) = heard.lock().unwrap().last_mut() {
                        *last = said;
                    }
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        silent
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// The first bytes of each connection.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }

    /// Fails with what was said if anybody connected.
    pub fn assert_silent(&self) {
        let heard = self.heard();
        let first = heard.first().map(|bytes| String::from_utf8_lossy(bytes));
        assert!(first.is_none(), "somebody called: {first:?}");
    }
}

impl Drop for SilentListener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // One last call of our own, so that the thread wakes up and sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn listen(stream: &mut TcpStream) -> Vec<u8> {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let mut bytes = vec![0; 64 * 1024];
    let length = stream.read(&mut bytes).unwrap_or(0);
    bytes.truncate(length);
    bytes
}
