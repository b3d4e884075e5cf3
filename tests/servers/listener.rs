//! Somebody to call: an ear for one logout token, and a page for a browser.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::client::part;

/// The logout token of a form post, opened.
pub fn logout_token(request: &str) -> Value {
    let (_, token) = request.split_once("logout_token=").expect("a logout token came");
    part(token, 1)
}

/// Listens for one request and gives it as it came.
pub struct Ear {
    listener: TcpListener,
    pub url: String,
}

impl Ear {
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/logout", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// Answers 200 as soon as the whole request is there.
    pub async fn hear(self) -> String {
        let accept = tokio::time::timeout(Duration::from_secs(20), self.listener.accept());
        let (mut stream, _) = accept.await.expect("somebody calls").unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        request
    }
}

pub async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut request = String::new();
    let mut bytes = [0; 4096];
    loop {
        assert!(Instant::now() < deadline, "the request never ends: {request}");
        let read = stream.read(&mut bytes).await.unwrap();
        request.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let named = name.eq_ignore_ascii_case("content-length");
            named.then(|| value.trim().parse::<usize>().ok())?
        });
        if read == 0 || body.len() >= length.unwrap_or(0) {
            return request;
        }
    }
}

/// A page that echoes its address, holds a form, and breaks its own Content-Security-Policy.
pub async fn page_url(path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let request = read_request(&mut stream).await;
                let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = page(&target);
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

pub fn page(target: &str) -> String {
    let body = if target.contains('?') {
        format!("<!doctype html><h2>{target}</h2>")
    } else {
        "<!doctype html><form><input name=word value=old><button>Go</button></form>\
         <script>document.title = 'never'</script>"
            .to_owned()
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: default-src 'none'; form-action 'self'\r\n\r\n{body}",
        body.len()
    )
}
