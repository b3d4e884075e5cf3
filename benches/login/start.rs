//! From the start of the process to the first `ready`, with the built-in set-up.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Outcome;
use super::door::{Door, free_address};
use super::report::{Gate, Report, median, quantile};

const STARTS: usize = 20;
/// `product.md` 8.
const READY: Gate = Gate(100.0);

/// The very first start makes key and schema; the later ones find them.
pub fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Start: process made → /readyz 200, built-in set-up (SQLite, development provider)");
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let folder = tempfile::tempdir()?;
        for times in [&mut first, &mut later] {
            let door = Door::open(folder.path(), free_address()?)?;
            times.push(door.ready_after.as_secs_f64() * 1000.0);
        }
    }
    report.hold("first start in an empty folder, median", median(&mut first), "ms", READY);
    report.tell("first start in an empty folder, slowest", quantile(&mut first, 1.0), "ms");
    report.hold("later start, median", median(&mut later), "ms", READY);
    report.tell("later start, slowest", quantile(&mut later, 1.0), "ms");
    Ok(())
}

/// Asks `/readyz` over a connection of its own.
pub fn is_ready(operations: SocketAddr) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(operations)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    asked().unwrap_or(false)
}
