//! What a request through the gateway costs beside nginx's bare `proxy_pass`: `cargo bench --bench gateway`. How it measures stands in
//! `docs/PERFORMANCE.md`.
//!
//! Owns: the release binary, nginx, and a bare gateway of the same make in turns on one core, the same app behind all, 64 connections, and the gates;
//! status 1 when one is missed.
//! Never does: count its own processor time, or the app's, as the gateway's.
//!
//! `cargo bench --bench gateway -- requests forward large sockets` runs parts; `-- --test` checks that it starts, and ends at once; `-- train`
//! measures nothing and only lets Doorward work.

mod bare;
mod crowd;
#[expect(dead_code, reason = "memory is measured by the other benchmark")]
#[path = "../login/door.rs"]
mod door;
mod drive;
mod forward;
mod nginx;
#[expect(dead_code, reason = "doubts are the other benchmark's")]
#[path = "../login/report.rs"]
mod report;
mod sign_in;
mod sockets;
mod train;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};

use self::bare::Bare;
use self::door::{Door, cpu_ms, free_address};
use self::nginx::Nginx;
use self::report::{Gate, Report, median};

/// What may go wrong ends the run with a sentence.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// `door.rs` asks here whether a process is ready.
mod start {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};

    pub fn is_ready(operations: SocketAddr) -> bool {
        let asked = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(operations)?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        asked().unwrap_or(false)
    }
}

const PARTS: [&str; 5] = ["requests", "forward", "large", "sessions", "sockets"];
const ROUNDS: usize = 9;
const WARM_UP: usize = 4_000;
const REQUESTS: usize = 40_000;
/// `product.md` 8, times nginx of the same round.
const PROXIED: Gate = Gate(1.25);
const LARGE: usize = 10 << 20;
const LARGE_TIMES: usize = 30;
/// A hundred thousand sessions in random use, times one session of the same round.
const SESSIONS: Gate = Gate(1.2);
/// Each session in use is met four times before the first round.
const SESSIONS_WARM_UP: usize = 4 * crowd::IN_USE;
/// At least 0.8 of nginx's throughput is at most 1.25 of its time.
const LARGE_TIME: Gate = Gate(1.25);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == bare::WORD => bare::be(rest),
        _ => measure(&words),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(words: &[String]) -> ExitCode {
    if words.iter().any(|word| word == "--test") {
        println!("gateway: ok, it starts; measured is by `cargo bench --bench gateway` alone");
        return ExitCode::SUCCESS;
    }
    let named = |part: &str| words.iter().any(|word| word == part);
    if named("train") {
        return match train::train().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the training broke off: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let wanted = |part: &str| named(part) || !PARTS.iter().any(|part| named(part));
    let mut report = Report::default();
    match run(&mut report, wanted).await {
        Ok(()) => report.conclude(),
        Err(error) => {
            eprintln!("the measurement broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Both gateways on the first core, the app behind them and the visitors on the others.
struct Stand {
    _app: Nginx,
    nginx: Nginx,
    door: Door,
    bare: Bare,
    public: SocketAddr,
    nginx_at: SocketAddr,
    bare_at: SocketAddr,
    cookie: String,
    /// Of the crowd, where there is one.
    cookies: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Stand {
    async fn open(crowded: bool) -> Outcome<Self> {
        let mut cookies = Vec::new();
        let folder = tempfile::tempdir()?;
        let (app, nginx_at, public, bare_at) =
            (free_address()?, free_address()?, free_address()?, free_address()?);
        let served = Nginx::app(&folder.path().join("app"), app, LARGE)?;
        let nginx = Nginx::proxy(&folder.path().join("proxy"), nginx_at, app)?;
        let house = folder.path().join("house");
        std::fs::create_dir(&house)?;
        std::fs::write(house.join("config.toml"), configuration(app))?;
        if crowded {
            cookies = crowd::fill(&house).await?;
        }
        // Born on one core, Doorward has one worker, as nginx has.
        pin(std::process::id(), "0")?;
        let door = Door::open(&house, public)?;
        pin(std::process::id(), "1-64")?;
        pin(nginx.id(), "0")?;
        pin(served.id(), "1-64")?;
        let bare = Bare::start(bare_at, app)?;
        let cookie = sign_in::as_alice(public).await?;
        Ok(Self {
            _app: served,
            nginx,
            door,
            bare,
            public,
            nginx_at,
            bare_at,
            cookie,
            cookies,
            _folder: folder,
        })
    }
}

/// The built-in set-up with two routes to a real app.
fn configuration(app: SocketAddr) -> String {
    let built_in = include_str!("../../config.toml");
    // Else nobody may ask about other requests.
    let mut text = built_in.replace("trusted_proxies = []", "trusted_proxies = [\"127.0.0.1\"]");
    let _ = write!(text, "\n[[upstream]]\nid = \"app\"\nurls = [\"http://{app}\"]\n");
    for (path, access) in [("/pub/**", "public"), ("/in/**", "signed_in")] {
        let _ = write!(text, "\n[[route]]\npath = \"{path}\"\naccess = \"{access}\"\nupstream = \"app\"\n");
    }
    text
}

fn pin(process: u32, cores: &str) -> Outcome<()> {
    let done = Command::new("taskset").args(["-acp", cores, &process.to_string()]).output()?;
    if done.status.success() { Ok(()) } else { Err("taskset failed".into()) }
}

/// One gateway's measured round.
struct Measured {
    cpu_us: f64,
    p99_us: f64,
}

async fn round(process: u32, at: SocketAddr, path: &str, more: &str) -> Outcome<Measured> {
    let host = format!("localhost:{}", at.port());
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n{more}\r\n");
    drive::requests(at, &request, WARM_UP).await?;
    let before = cpu_ms(process)?;
    let mut times = drive::requests(at, &request, REQUESTS).await?;
    let spent = cpu_ms(process)? - before;
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand requests")]
    Ok(Measured { cpu_us: spent * 1000.0 / REQUESTS as f64, p99_us: report::quantile(&mut times, 0.99) })
}

async fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) -> Outcome<()> {
    if wanted("sessions") {
        sessions(report).await?;
    }
    if ["requests", "forward", "large"].into_iter().any(&wanted) {
        let stand = Stand::open(false).await?;
        if wanted("requests") {
            requests(report, &stand).await?;
        }
        if wanted("forward") {
            forward::forward(report, &stand).await?;
        }
        if wanted("large") {
            large(report, &stand).await?;
        }
    }
    if wanted("sockets") {
        sockets::sockets(report).await?;
    }
    Ok(())
}

async fn requests(report: &mut Report, stand: &Stand) -> Outcome<()> {
    report.heading(
        "Proxied GET, small body, 64 connections, one core: processor time beside nginx of the same round",
    );
    let cookie = format!("cookie: {}\r\n", stand.cookie);
    let (mut bare, mut open, mut guarded, mut late) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut ratio_open, mut ratio_guarded, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let nginx = round(stand.nginx.id(), stand.nginx_at, "/pub/x", "").await?;
        let bare_us = round(stand.bare.id(), stand.bare_at, "/pub/x", "").await?.cpu_us;
        let public = round(stand.door.id(), stand.public, "/pub/x", "").await?;
        let signed_in = round(stand.door.id(), stand.public, "/in/x", &cookie).await?;
        // The same request for both: an app's own cookie would be as long.
        let nginx_signed_in = round(stand.nginx.id(), stand.nginx_at, "/in/x", &cookie).await?;
        floor.push(bare_us / nginx.cpu_us);
        ratio_open.push(public.cpu_us / nginx.cpu_us);
        ratio_guarded.push(signed_in.cpu_us / nginx_signed_in.cpu_us);
        late.push(signed_in.p99_us - nginx_signed_in.p99_us);
        bare.push(nginx.cpu_us);
        open.push(public.cpu_us);
        guarded.push(signed_in.cpu_us);
    }
    report.tell("nginx, bare proxy_pass", median(&mut bare), "µs");
    report.tell("Doorward, public route", median(&mut open), "µs");
    report.tell("Doorward, signed in", median(&mut guarded), "µs");
    report.tell("p99 added by Doorward, signed in, 64 at once", median(&mut late), "µs");
    report.tell("the same server and client, and nothing else", median(&mut floor), "× nginx");
    report.hold("public route", median(&mut ratio_open), "× nginx", PROXIED);
    report.hold("signed in", median(&mut ratio_guarded), "× nginx", PROXIED);
    Ok(())
}

async fn sessions(report: &mut Report) -> Outcome<()> {
    report.heading(
        "1,000,000 sessions stored: 100,000 in random use beside one, processor time of the same round",
    );
    let stand = Stand::open(true).await?;
    let host = format!("localhost:{}", stand.public.port());
    let request = |cookie: &String| {
        format!(
            "GET /in/x HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\ncookie: {cookie}\r\n\r\n"
        )
    };
    let many: Vec<String> = stand.cookies.iter().map(request).collect();
    let one = [request(&stand.cookie)];
    let empty = stand.door.settled_rss_mib()?;
    drive::any_of(stand.public, &many, SESSIONS_WARM_UP).await?;
    report.tell("memory of 100,000 remembered sessions", stand.door.settled_rss_mib()? - empty, "MiB");
    let (mut alone, mut together, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut spent = [0.0; 2];
        for (requests, spent) in [&one[..], &many[..]].into_iter().zip(&mut spent) {
            drive::any_of(stand.public, requests, WARM_UP).await?;
            let before = cpu_ms(stand.door.id())?;
            drive::any_of(stand.public, requests, REQUESTS).await?;
            #[expect(clippy::cast_precision_loss, reason = "some ten thousand requests")]
            let each = (cpu_ms(stand.door.id())? - before) * 1000.0 / REQUESTS as f64;
            *spent = each;
        }
        let [of_one, of_many] = spent;
        ratios.push(of_many / of_one);
        alone.push(of_one);
        together.push(of_many);
    }
    report.tell("one session", median(&mut alone), "µs");
    report.tell("100,000 sessions", median(&mut together), "µs");
    report.hold("100,000 sessions in random use", median(&mut ratios), "× one", SESSIONS);
    Ok(())
}

async fn large(report: &mut Report, stand: &Stand) -> Outcome<()> {
    report.heading("10 MB down and up, one connection: time beside nginx of the same round");
    let before = stand.door.settled_rss_mib()?;
    for (what, path, upload) in [("download", "/pub/large", false), ("upload", "/pub/upload", true)] {
        let (mut ratios, mut seconds) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let nginx = drive::large(stand.nginx_at, path, upload, (LARGE, LARGE_TIMES)).await?;
            let door = drive::large(stand.public, path, upload, (LARGE, LARGE_TIMES)).await?;
            ratios.push(door / nginx);
            seconds.push(door);
        }
        #[expect(clippy::cast_precision_loss, reason = "300 MiB")]
        let moved = (LARGE * LARGE_TIMES) as f64 / f64::from(1 << 20);
        report.tell(&format!("{what}, Doorward"), moved / median(&mut seconds), "MiB/s");
        report.hold(&format!("{what}, time"), median(&mut ratios), "× nginx", LARGE_TIME);
    }
    report.tell("memory after it, more than before", stand.door.settled_rss_mib()? - before, "MiB");
    Ok(())
}
