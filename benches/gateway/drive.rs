//! Visitors: as many requests as the gateway takes, over kept connections.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Outcome;

const CONNECTIONS: usize = 64;

/// Sends a request so many times, 64 at once; how long each took, in µs.
pub async fn requests(at: SocketAddr, request: &str, times: usize) -> Outcome<Vec<f64>> {
    any_of(at, &[request], times).await
}

/// As [`requests`], each time one of many, in an order that looks like none.
pub async fn any_of(at: SocketAddr, requests: &[impl AsRef<str>], times: usize) -> Outcome<Vec<f64>> {
    let visitors = (0..CONNECTIONS).map(|n| visitor(at, requests, n, times / CONNECTIONS));
    let took = futures_util::future::try_join_all(visitors).await?;
    Ok(took.concat())
}

async fn visitor(
    at: SocketAddr,
    requests: &[impl AsRef<str>],
    seed: usize,
    times: usize,
) -> Outcome<Vec<f64>> {
    let mut at_random = u64::try_from(seed)? + 1;
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(4096);
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        // xorshift64*: quick, and no two connections go the same way.
        at_random ^= at_random >> 12;
        at_random ^= at_random << 25;
        at_random ^= at_random >> 27;
        let next = usize::try_from(at_random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33)? % requests.len();
        let request = requests.get(next).ok_or("no requests")?.as_ref();
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        answer(&mut stream, &mut read).await?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

/// Reads one answer with a length; the length of its body.
async fn answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> Outcome<usize> {
    read.clear();
    let head = loop {
        if let Some(at) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(read).await? == 0 {
            return Err("the gateway closed the connection".into());
        }
    };
    let text = std::str::from_utf8(read.get(..head).unwrap_or_default())?.to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        return Err(format!("the gateway answered {text}").into());
    }
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.ok_or("an answer without a length")?.parse()?;
    let mut came = read.len() - head;
    let mut sink = vec![0; if came < length { 256 * 1024 } else { 0 }];
    while came < length {
        let n = stream.read(&mut sink).await?;
        if n == 0 {
            return Err("an answer broke off".into());
        }
        came += n;
    }
    Ok(length)
}

/// A large body so many times over one connection; seconds in all.
pub async fn large(at: SocketAddr, path: &str, upload: bool, (size, times): (usize, usize)) -> Outcome<f64> {
    let host = format!("localhost:{}", at.port());
    let mut stream = TcpStream::connect(at).await?;
    let mut read = Vec::with_capacity(64 * 1024);
    let body = vec![b'x'; if upload { size } else { 0 }];
    let began = Instant::now();
    for _ in 0..times {
        let head = if upload {
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {size}\r\n\r\n")
        } else {
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
        };
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        let length = answer(&mut stream, &mut read).await?;
        if !upload && length != size {
            return Err(format!("{length} bytes came instead of {size}").into());
        }
    }
    Ok(began.elapsed().as_secs_f64())
}
