//! What idle WebSockets hold: Doorward's memory for ten thousand of one person, and how soon all of them close once the session is over.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::door::{Door, cpu_ms, free_address};
use super::report::{Report, quantile};
use super::{Outcome, configuration, pin, sign_in};

/// `DOORWARD_SOCKETS` names another number, for machines that grant too few descriptors.
const SOCKETS: usize = 10_000;
const FIRST: usize = 1_000;
/// Opened and closed before anything is measured, so that what is made once is no socket's.
const WARM_UP: usize = 64;
/// Handshakes under way at once.
const AT_ONCE: usize = 64;
/// Descriptors of a process beside its sockets: listeners, database, log.
const BESIDE: usize = 200;
/// Places for WebSockets that nobody takes, so that the limit is not what is measured.
const VACANT: usize = 2_000;
const IDLE: Duration = Duration::from_secs(10);
const CLOSED_WITHIN: Duration = Duration::from_mins(1);
/// The door's last word to a visitor whose session is over: 1008 (RFC 6455 7.4.1).
const LAST_WORD: [u8; 4] = [0x88, 2, 0x03, 0xf0];

pub async fn sockets(report: &mut Report) -> Outcome<()> {
    let many = match std::env::var("DOORWARD_SOCKETS") {
        Ok(number) => number.parse()?,
        Err(_) => SOCKETS,
    };
    if many <= FIRST {
        return Err(format!("DOORWARD_SOCKETS must be more than {FIRST}").into());
    }
    report.heading(&format!("{many} idle WebSockets of one person, an app that stays silent"));
    allow_descriptors(many)?;
    let house = House::open(many).await?;
    let warm = house.visitors(0..WARM_UP).await?;
    drop(warm);
    house.app.falls_to(0).await?;
    let before = house.memory("no socket", report)?;
    let mut visitors = house.visitors(0..FIRST).await?;
    house.app.rises_to(FIRST).await?;
    let few = house.memory(&format!("{FIRST} sockets"), report)?;
    visitors.extend(house.visitors(FIRST..many).await?);
    house.app.rises_to(many).await?;
    let all = house.memory(&format!("{many} sockets"), report)?;
    report.tell("the most until here (VmHWM)", house.peak()?, "MiB");
    report.tell(&format!("a socket, of the first {FIRST}"), each(few - before, FIRST), "KiB");
    report.tell(&format!("a socket, of all {many}"), each(all - before, many), "KiB");
    let spent = cpu_ms(house.door.id())?;
    tokio::time::sleep(IDLE).await;
    let spent = cpu_ms(house.door.id())? - spent;
    report.tell("processor time while all are idle", spent / IDLE.as_secs_f64(), "ms/s");
    house.end(report, visitors).await?;
    house.memory("all closed", report)?;
    report.tell("the most until here (VmHWM)", house.peak()?, "MiB");
    Ok(())
}

/// KiB of one, from MiB of all.
fn each(mib: f64, sockets: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand sockets")]
    let sockets = sockets as f64;
    mib * 1024.0 / sockets
}

/// Makes room for two descriptors a socket, here (visitor and app) and in Doorward (to either side), which inherits the limit.
fn allow_descriptors(sockets: usize) -> Outcome<()> {
    let needed = 2 * sockets + BESIDE;
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut granted = line.ok_or("no limit of open files")?.split_whitespace().map(|word| match word {
        "unlimited" => Ok(usize::MAX),
        number => number.parse::<usize>(),
    });
    let (soft, hard) = (granted.next().ok_or("no limit")??, granted.next().ok_or("no limit")??);
    if soft >= needed {
        return Ok(());
    }
    let wanted = if hard >= needed { format!("{needed}:") } else { format!("{needed}:{needed}") };
    let raised = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={wanted}")])
        .output()
        .map_err(|error| format!("prlimit was not started: {error}"))?;
    if raised.status.success() {
        return Ok(());
    }
    let possible = hard.saturating_sub(BESIDE) / 2;
    Err(format!(
        "{sockets} sockets need {needed} open files in a process, and this machine grants {hard}; raise \
         `ulimit -Hn`, or measure fewer: DOORWARD_SOCKETS={possible}"
    )
    .into())
}

/// Doorward on the first core; the app and the visitors, in this process, on the others.
struct House {
    app: App,
    door: Door,
    public: SocketAddr,
    cookie: String,
    _folder: tempfile::TempDir,
}

impl House {
    async fn open(sockets: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let app = App::open().await?;
        let plain = configuration(app.at);
        let limit = format!("\nwebsockets = {} ", sockets + VACANT);
        let roomy = plain.replace("\nwebsockets = 10000 ", &limit);
        if roomy == plain {
            return Err("config.toml names another limit of WebSockets".into());
        }
        std::fs::write(folder.path().join("config.toml"), roomy)?;
        let public = free_address()?;
        let door = Door::open(folder.path(), public)?;
        pin(door.id(), "0")?;
        pin(std::process::id(), "1-64")?;
        let cookie = sign_in::as_alice(public).await?;
        Ok(Self { app, door, public, cookie, _folder: folder })
    }

    /// Resident, in MiB.
    fn memory(&self, when: &str, report: &mut Report) -> Outcome<f64> {
        let resident = self.door.settled_rss_mib()?;
        report.tell(&format!("memory, {when}"), resident, "MiB");
        Ok(resident)
    }

    /// The most that was ever resident, in MiB.
    fn peak(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.door.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    }

    /// Opens the sockets with these numbers.
    async fn visitors(&self, numbers: std::ops::Range<usize>) -> Outcome<Vec<TcpStream>> {
        let shares = (0..AT_ONCE).map(|share| async move {
            let mut opened = Vec::new();
            for n in (numbers.start + share..numbers.end).step_by(AT_ONCE) {
                opened.push(self.visitor(n).await.map_err(|error| format!("socket {n}: {error}"))?);
            }
            Outcome::Ok(opened)
        });
        Ok(futures_util::future::try_join_all(shares).await?.into_iter().flatten().collect())
    }

    async fn visitor(&self, n: usize) -> Outcome<TcpStream> {
        let key = STANDARD.encode(u128::try_from(n)?.to_be_bytes());
        let mut stream = TcpStream::connect(self.public).await?;
        let handshake = self.request(
            "GET /in/socket",
            &format!(
                "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n"
            ),
        );
        stream.write_all(handshake.as_bytes()).await?;
        let answer = head(&mut stream).await?;
        if answer.starts_with("HTTP/1.1 101") { Ok(stream) } else { Err(answer.into()) }
    }

    /// As a page of the app itself asks.
    fn request(&self, line: &str, more: &str) -> String {
        let host = format!("localhost:{}", self.public.port());
        format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\ncookie: {}\r\n{more}\r\n",
            self.cookie
        )
    }

    /// Ends the person's sessions, and tells when each visitor and the app are rid of their sockets.
    async fn end(&self, report: &mut Report, visitors: Vec<TcpStream>) -> Outcome<()> {
        let number = visitors.len();
        let mut leaving = JoinSet::new();
        for mut visitor in visitors {
            leaving.spawn(async move {
                let mut said = Vec::new();
                visitor.read_to_end(&mut said).await.map(|_| (said, Instant::now()))
            });
        }
        // Whatever has closed by now, closed for another reason.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if leaving.try_join_next().is_some() || *self.app.open.borrow() != number {
            return Err("a socket closed before its session ended".into());
        }
        let mut stream = TcpStream::connect(self.public).await?;
        let request = self.request("DELETE /auth/sessions?all=true", "x-csrf: 1\r\n");
        let began = Instant::now();
        let all_gone = async {
            stream.write_all(request.as_bytes()).await?;
            let answer = head(&mut stream).await?;
            if !answer.starts_with("HTTP/1.1 204") {
                return Err(answer.into());
            }
            let answered = began.elapsed();
            let mut times = Vec::with_capacity(number);
            while let Some(left) = leaving.join_next().await {
                let (said, at) = left??;
                if said != LAST_WORD {
                    return Err(format!("a socket's last word was {said:x?}").into());
                }
                times.push((at - began).as_secs_f64() * 1000.0);
            }
            self.app.falls_to(0).await?;
            Outcome::Ok((answered, times, began.elapsed()))
        };
        let gone = tokio::time::timeout(CLOSED_WITHIN, all_gone).await;
        let (answered, mut times, at_app) = gone.map_err(|_| "sockets outlived their session")??;
        report.tell("session's end asked → answered", answered.as_secs_f64() * 1000.0, "ms");
        report.tell("the same → visitor's socket closed, median", quantile(&mut times, 0.5), "ms");
        report.tell("the same → the last visitor's socket closed", quantile(&mut times, 1.0), "ms");
        report.tell("the same → the app's last socket closed too", at_app.as_secs_f64() * 1000.0, "ms");
        Ok(())
    }
}

/// Agrees to every handshake and stays silent.
struct App {
    at: SocketAddr,
    open: watch::Receiver<usize>,
}

impl App {
    async fn open() -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let at = listener.local_addr()?;
        let (count, open) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, &count).await {
                        eprintln!("the app's socket: {error}");
                    }
                });
            }
        });
        Ok(Self { at, open })
    }

    async fn rises_to(&self, sockets: usize) -> Outcome<()> {
        self.reaches(|open| open >= sockets).await
    }

    async fn falls_to(&self, sockets: usize) -> Outcome<()> {
        self.reaches(|open| open <= sockets).await
    }

    async fn reaches(&self, is_reached: impl Fn(usize) -> bool) -> Outcome<()> {
        let mut open = self.open.clone();
        let reached = tokio::time::timeout(CLOSED_WITHIN, open.wait_for(|open| is_reached(*open))).await;
        reached.map_err(|_| "the app's sockets stay as many as they are")??;
        Ok(())
    }
}

/// One socket of the app's, to its end (RFC 6455 4.2.2).
async fn attend(mut stream: TcpStream, count: &watch::Sender<usize>) -> Outcome<()> {
    let asked = head(&mut stream).await?;
    let key = asked.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let proof = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.ok_or("no handshake came")?);
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, proof.as_bytes()));
    let agreed = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(agreed.as_bytes()).await?;
    count.send_modify(|open| *open += 1);
    let mut sink = [0; 64];
    // A reset ends it as well.
    while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    drop(stream);
    count.send_modify(|open| *open -= 1);
    Ok(())
}

/// Reads up to the empty line; nothing follows it in a silent house.
async fn head(stream: &mut TcpStream) -> Outcome<String> {
    let mut read = Vec::with_capacity(1024);
    while !read.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut read).await? == 0 {
            let said = String::from_utf8_lossy(&read);
            return Err(format!("the connection closed after: {said}").into());
        }
    }
    Ok(String::from_utf8(read)?)
}
