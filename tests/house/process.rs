//! The program as an operator meets it: the real binary in a folder of its own, its log, its exit code, its signals.
//!
//! Owns: the folder, the processes started in it (each is killed when dropped), and what they print. Knows nothing of
//! Doorward's insides: it reads the log line `listening` and speaks HTTP.

use std::cell::Cell;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::browser::{Browser, Page};
use super::op::ScriptedOp;

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A start, a stop or a command that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than lines gather before they are written (`telemetry::queue`).
const LOG_PAUSE: Duration = Duration::from_millis(60);
/// A process under load never falls silent.
const LOG_LOOKS: u32 = 20;

/// A folder in which an operator starts the program, and the environment that goes with it.
pub struct Home {
    folder: TempDir,
    /// Outside the folder, so that an empty folder is empty.
    logs: TempDir,
    environment: Vec<(String, String)>,
    started: Cell<u32>,
}

/// A command that came to its end.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output as one JSON value; fails with everything printed.
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_str(&self.stdout);
        parsed.unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// Both outputs, for a search that must find nothing.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl Home {
    /// Nothing in it; both listeners on free ports.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let logs = tempfile::tempdir().expect("a temporary folder");
        Self { folder, logs, environment: Vec::new(), started: Cell::new(0) }
            .env("DOORWARD__SERVER__LISTEN", "127.0.0.1:0")
            .env("DOORWARD__SERVER__OPERATIONS_LISTEN", "127.0.0.1:0")
    }

    /// This `config.toml` and nothing else.
    pub fn with_config(text: &str) -> Self {
        let home = Self::empty();
        home.write("config.toml", text);
        home
    }

    /// A small production set-up: SQLite, one provider `op`, the demo app, a key and a client secret in `secrets/`.
    pub fn with_op(op: &ScriptedOp) -> Self {
        let home = Self::with_config(&op_config(op, ""));
        home.write("secrets/op", op.script(|s| s.client_secret.clone()));
        home.write_key("secrets/k1");
        home
    }

    /// Sets a variable for everything started from now on; a later value replaces an earlier one.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.set_env(name, value);
        self
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Everything started from now on listens where this process does, so that its visitors find it again.
    pub fn stay_at(&mut self, process: &Process) {
        self.set_env("DOORWARD__SERVER__LISTEN", &process.public.to_string());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is made");
        std::fs::write(path, content).expect("the file is written");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// A strong key in a file; hands back its bytes.
    pub fn write_key(&self, name: &str) -> [u8; 32] {
        let key = random_key();
        self.write(name, key);
        key
    }

    /// Everything in the folder, relative, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut found);
        found.sort();
        found
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DOORWARD") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = tokio::process::Command::from(self.command(arguments));
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} hangs")).expect("the program starts");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the server and waits until it listens.
    pub async fn serve(&self) -> Process {
        self.serve_with(&[]).await
    }

    pub async fn serve_with(&self, arguments: &[&str]) -> Process {
        let number = self.started.replace(self.started.get() + 1);
        let log = self.logs.path().join(format!("stderr-{number}"));
        let file = File::create(&log).expect("the log is made");
        let child = self.command(arguments).stdout(Stdio::null()).stderr(file).spawn();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Process {
            child: child.expect("the program starts"),
            log,
            public: nowhere,
            operations: nowhere,
            public_url: String::new(),
        };
        let line = process.heard("listening").await;
        process.public = field(&line, "public").parse().expect("an address");
        process.operations = field(&line, "operations").parse().expect("an address");
        process.public_url = field(&line, "public_url").trim_end_matches('/').to_owned();
        process
    }

    /// Starts the server and waits until it is ready.
    pub async fn open(&self) -> Process {
        let mut process = self.serve().await;
        process.ready().await;
        process
    }
}

/// The configuration of [`Home::with_op`], with more text at its end.
pub fn op_config(op: &ScriptedOp, more: &str) -> String {
    format!(
        r#"
[[provider]]
id = "op"
kind = "oidc"
label = "Company login"
issuer = "{}"
client_id = "doorward"
client_secret_file = "secrets/op"

[[upstream]]
id = "demo"
urls = ["builtin:demo"]

[[route]]
path = "/"
access = "public"
upstream = "demo"

[[route]]
path = "/protected"
upstream = "demo"

{more}"#,
        op.issuer()
    )
}

/// 32 random bytes.
pub fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).expect("the system has randomness");
    key
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).expect("a file below it").display().to_string());
        }
    }
}

/// The value of a field in a log line of either format.
pub fn field(line: &str, name: &str) -> String {
    if let Ok(event) = serde_json::from_str::<Value>(line) {
        return event["fields"][name].as_str().unwrap_or_default().to_owned();
    }
    let mut words = line.split(' ').filter_map(|word| word.split_once('='));
    words.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// A running server. Dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
    pub public: SocketAddr,
    pub operations: SocketAddr,
    /// The origin that people see, without a slash at its end.
    pub public_url: String,
}

impl Process {
    fn log_so_far(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Everything on standard error so far, once nothing more comes: the log's thread lets lines gather for a moment.
    pub fn log(&self) -> String {
        let mut text = self.log_so_far();
        for _ in 0..LOG_LOOKS {
            std::thread::sleep(LOG_PAUSE);
            let longer = self.log_so_far();
            if longer.len() == text.len() {
                break;
            }
            text = longer;
        }
        text
    }

    /// Waits for the first whole log line that holds `text`.
    pub async fn heard(&mut self, text: &str) -> String {
        self.heard_after(0, text).await
    }

    /// As [`Self::heard`], looking only behind this byte of the log.
    pub async fn heard_after(&mut self, from: usize, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let over = self.child.try_wait().expect("a child");
            let log = self.log_so_far();
            let fresh = log.get(from..).unwrap_or_default();
            let whole = fresh.rfind('\n').map_or("", |end| &fresh[..end]);
            if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(over.is_none(), "ended with {over:?} before it said {text:?}:\n{log}");
            assert!(Instant::now() < deadline, "never said {text:?}:\n{log}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A new visitor of the public origin.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.public_url)
    }

    /// What the operations listener answers.
    pub async fn operations(&self, path: &str) -> Page {
        Browser::new(&format!("http://{}", self.operations)).get(path).await
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&mut self) {
        let operations = Browser::new(&format!("http://{}", self.operations));
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The operations listener opens a moment after the log line.
            let last = match operations.try_get("/readyz").await {
                Ok(page) if page.status == 200 => return,
                Ok(page) => page.text(),
                Err(error) => error.to_string(),
            };
            let over = self.child.try_wait().expect("a child");
            assert!(over.is_none() && Instant::now() < deadline, "not ready: {last}\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends a signal by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Its process id, for what the system tells of it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end; fails when it takes longer than this. `None` = a signal ended it.
    pub async fn exit(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still running after {within:?}:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// As an operator stops it; it must end well.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.exit(PATIENCE).await, Some(0), "{}", self.log());
    }

    /// As a power cut stops it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The shell's own `kill` is there on every machine.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -s {name} {pid}")).status();
    assert!(sent.is_ok_and(|status| status.success()), "no SIG{name} for {pid}");
}

/// A person who signs in by the one provider and looks at the protected page.
pub async fn signed_in(process: &Process) -> Browser {
    let browser = process.browser();
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}\n{}", page.text(), process.log());
    browser
}

/// The status of `/auth/me` for this person.
pub async fn me(browser: &Browser) -> u16 {
    browser.get_json("/auth/me").await.status
}

/// Asks for a reload; everything that the program says to it.
pub async fn hang_up(process: &mut Process) -> String {
    let from = process.log().len();
    process.signal("HUP");
    process.heard_after(from, "reloaded").await;
    process.log()[from..].to_owned()
}

/// A login by hand that a server may leave unanswered; hands back what the callback answered.
pub async fn try_sign_in(browser: &Browser) -> reqwest::Result<Page> {
    let start = browser.try_get("/auth/login?return_to=/protected").await?;
    let Some(provider) = start.location() else { return Ok(start) };
    let back = browser.try_get(provider.as_str()).await?;
    let Some(callback) = back.location() else { return Ok(back) };
    browser.try_get(callback.as_str()).await
}
