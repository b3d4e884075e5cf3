//! How fast this machine is today: what nginx's bare `proxy_pass` costs on it, by the same clock, in the same run.
//!
//! Processor time is not the same thing on two machines, nor on one that shares its cores. The promises were made
//! where such a request took [`REFERENCE_US`]; a result is compared with them at that speed.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Outcome;
use super::door::{cpu_ms, free_address};
use super::servers::INSTALL;
use super::visitor;

/// `product.md` 8: nginx 1.0× is 9.1 µs.
pub const REFERENCE_US: f64 = 9.1;
/// Above this the machine does something else than run programs: wakes idle cores, or serves others.
pub const CREDIBLE_US: f64 = 20.0;
const WARM_UP: u32 = 1_000;
const REQUESTS: u32 = 20_000;
const START_WITHIN: Duration = Duration::from_secs(10);

/// Processor time of nginx per proxied request, in µs.
pub async fn proxied_request_us() -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let (upstream, proxy) = (free_address()?, free_address()?);
    let _upstream = Nginx::start(&folder.path().join("upstream"), upstream, ("", "return 200 'hello';"))?;
    let pass = "proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection '';";
    let kept = format!("upstream kept {{ server {upstream}; keepalive 8; keepalive_requests 1000000; }}");
    let nginx = Nginx::start(&folder.path().join("proxy"), proxy, (&kept, pass))?;
    let client = visitor::client()?;
    let url = format!("http://{proxy}/");
    let mut before = 0.0;
    for n in 0..WARM_UP + REQUESTS {
        if n == WARM_UP {
            before = cpu_ms(nginx.process.id())?;
        }
        client.get(&url).send().await?.error_for_status()?.bytes().await?;
    }
    Ok((cpu_ms(nginx.process.id())? - before) * 1000.0 / f64::from(REQUESTS))
}

struct Nginx {
    process: Child,
}

impl Nginx {
    /// One process in the foreground, with something beside its server and something in its location.
    fn start(folder: &Path, listen: SocketAddr, (beside, location): (&str, &str)) -> Outcome<Self> {
        std::fs::create_dir(folder)?;
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            write!(temporary, "{kind}_temp_path {kind}; ")?;
        }
        let configuration = format!(
            "daemon off; master_process off; worker_processes 1; pid pid; error_log stderr warn; events {{}} http {{ \
             access_log off; keepalive_requests 1000000; {temporary} {beside} \
             server {{ listen {listen}; location / {{ {location} }} }} }}"
        );
        std::fs::write(folder.join("nginx.conf"), configuration)?;
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let process = Command::new(program)
            .args(["-c", "nginx.conf", "-e", "stderr", "-p"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("nginx was not started: {error}. {INSTALL}"))?;
        let nginx = Self { process };
        let deadline = Instant::now() + START_WITHIN;
        while std::net::TcpStream::connect(listen).is_err() {
            if Instant::now() > deadline {
                return Err(format!("nginx does not listen on {listen}. {INSTALL}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It keeps nothing that could be lost.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
