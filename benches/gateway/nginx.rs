//! nginx twice: as the app behind the gateways, and as the gateway that asks nobody who they are.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Outcome;

const START_WITHIN: Duration = Duration::from_secs(10);

pub struct Nginx {
    process: Child,
}

impl Nginx {
    /// Answers `hello`, a large file at `/pub/large`, and `/pub/upload` once it has read the whole body.
    pub fn app(folder: &Path, listen: SocketAddr, large: usize) -> Outcome<Self> {
        std::fs::create_dir(folder)?;
        std::fs::create_dir_all(folder.join("files/pub"))?;
        std::fs::write(folder.join("files/pub/large"), vec![b'x'; large])?;
        let server = format!(
            "root {}; location / {{ return 200 'hello'; }} location = /pub/large {{ }} \
             location = /pub/upload {{ client_body_buffer_size 16m; proxy_pass_request_body off; proxy_set_header Content-Length ''; \
             proxy_pass http://{listen}/; }}",
            folder.join("files").display()
        );
        Self::start(folder, listen, "", &server)
    }

    /// A bare `proxy_pass` over kept connections.
    pub fn proxy(folder: &Path, listen: SocketAddr, app: SocketAddr) -> Outcome<Self> {
        std::fs::create_dir(folder)?;
        let kept = format!("upstream kept {{ server {app}; keepalive 128; keepalive_requests 100000000; }}");
        let server = "location / { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ''; \
                      proxy_request_buffering off; client_max_body_size 0; }";
        Self::start(folder, listen, &kept, server)
    }

    fn start(folder: &Path, listen: SocketAddr, beside: &str, server: &str) -> Outcome<Self> {
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            write!(temporary, "{kind}_temp_path {kind}; ")?;
        }
        let configuration = format!(
            "daemon off; master_process off; worker_processes 1; pid pid; error_log stderr error; events {{}} http {{ \
             access_log off; keepalive_requests 100000000; client_max_body_size 0; {temporary} {beside} server {{ listen {listen}; {server} }} }}"
        );
        std::fs::write(folder.join("nginx.conf"), configuration)?;
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let process = Command::new(program)
            .args(["-c", "nginx.conf", "-e", "stderr", "-p"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("nginx was not started: {error}; scripts/test --install"))?;
        let nginx = Self { process };
        wait_for(listen)?;
        Ok(nginx)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Until somebody listens there.
pub fn wait_for(listen: SocketAddr) -> Outcome<()> {
    let deadline = Instant::now() + START_WITHIN;
    while std::net::TcpStream::connect(listen).is_err() {
        if Instant::now() > deadline {
            return Err(format!("nobody listens on {listen}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
