//! Real proxies in front of a house and an app, set up by the recipes of `deploy/` as they stand there, with other addresses.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::supervised::{Launch, Supervised, folder};
use super::{INSTALL, checkout};

/// Which program stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// What the proxy listens on.
    pub front: SocketAddr,
    pub door: SocketAddr,
    pub app: SocketAddr,
}

/// A running proxy; it stops when dropped.
pub struct Front {
    _process: Supervised,
}

/// Below the ports that the system gives to whoever asks for any: between our look and the proxy's start nobody else may take it.
const PORTS: u16 = 20_000;
static NEXT: AtomicU16 = AtomicU16::new(0);

impl Front {
    /// A free port for a proxy; the house must know it before the proxy can start.
    pub fn port() -> u16 {
        // Test binaries that run side by side begin at different places.
        let own = u16::try_from(std::process::id() % 9_000).unwrap_or_default();
        let mut next = || PORTS + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        std::iter::repeat_with(&mut next).find(is_free).unwrap_or(PORTS)
    }

    pub async fn start(kind: Kind, at: Places) -> Self {
        let folder = match kind {
            Kind::Nginx => folder("nginx"),
            Kind::Caddy => folder("caddy"),
        };
        let command = match kind {
            Kind::Nginx => nginx(&folder, at),
            Kind::Caddy => caddy(&folder, at),
        };
        let (name, signal) = match kind {
            Kind::Nginx => ("nginx", "TERM"),
            Kind::Caddy => ("caddy", "KILL"),
        };
        let command = command.iter().map(Into::into).collect();
        let process = Supervised::start(Launch { name, command, folder, signal })
            .unwrap_or_else(|reason| panic!("{reason}; {INSTALL}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(at.front).await.is_err() {
            assert!(Instant::now() < deadline, "{}", process.complaint("does not listen"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { _process: process }
    }
}

/// A recipe with every text exchanged; one that does not stand there any more fails the test.
fn recipe(path: &str, exchange: &[(&str, String)]) -> String {
    let mut text = std::fs::read_to_string(checkout(path)).expect("the recipe is there");
    for (from, to) in exchange {
        assert!(text.contains(from), "{path} does not say {from:?}");
        text = text.replace(from, to);
    }
    text
}

fn nginx(folder: &Path, at: Places) -> Vec<String> {
    let server = recipe(
        "deploy/nginx/doorward.conf",
        &[
            ("server 127.0.0.1:8080;", format!("server {};", at.door)),
            ("server 127.0.0.1:3000;", format!("server {};", at.app)),
            ("listen 443 ssl;", format!("listen {};", at.front)),
            ("server_name app.example;", "server_name localhost;".to_owned()),
            ("ssl_certificate     /etc/nginx/app.example.pem;", String::new()),
            ("ssl_certificate_key /etc/nginx/app.example.key;", String::new()),
        ],
    );
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file is written");
    write("doorward.conf", &server);
    for name in ["doorward-pages.conf", "doorward-strip.conf"] {
        write(name, &recipe(&format!("deploy/nginx/{name}"), &[]));
    }
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a String cannot fail.
        let _ = write!(temporary, "{kind}_temp_path {kind}; ");
    }
    let main = format!(
        "daemon off; master_process off; worker_processes 1; pid pid; error_log stderr info; events {{}}\n\
         http {{ access_log off; client_max_body_size 0; {temporary} include doorward.conf; }}\n"
    );
    write("nginx.conf", &main);
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let here = folder.display().to_string();
    [program, "-c", "nginx.conf", "-e", "stderr", "-p", &here].map(str::to_owned).to_vec()
}

fn caddy(folder: &Path, at: Places) -> Vec<String> {
    let front = at.front;
    let site = recipe(
        "deploy/caddy/Caddyfile",
        &[
            ("127.0.0.1:8080", at.door.to_string()),
            ("127.0.0.1:3000", at.app.to_string()),
            ("app.example {", format!("http://localhost:{} {{\n\tbind {}", front.port(), front.ip())),
        ],
    );
    let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}");
    std::fs::write(folder.join("Caddyfile"), text).expect("a file is written");
    let home = format!("HOME={}", folder.display());
    ["env", &home, "caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"]
        .map(str::to_owned)
        .to_vec()
}
