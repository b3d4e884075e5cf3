//! One foreign process that ends with the test binary. Owns its temporary folder; knows nothing of what runs.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the output is looked at while waiting for a line.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to run.
pub struct Launch {
    /// Named in failures.
    pub name: &'static str,
    pub command: Vec<OsString>,
    /// Made by [`folder`]; removed when the process is over for good.
    pub folder: PathBuf,
    /// The signal that stops it, without `SIG`.
    pub signal: &'static str,
}

/// A running process. Dropping it stops it; in a static it lives as long as the test binary.
pub struct Supervised {
    name: &'static str,
    shell: Child,
    /// `None` once it was closed: closing is what stops the process.
    orders: Option<ChildStdin>,
    folder: PathBuf,
}

/// An empty temporary folder of our own.
pub fn folder(name: &str) -> PathBuf {
    tempfile::Builder::new()
        .prefix(&format!("doorward-test-{name}-"))
        .tempdir()
        .expect("the temporary folder is writable")
        .keep()
}

impl Supervised {
    /// Starts `launch`; wait for it with [`Supervised::line`].
    pub fn start(launch: Launch) -> Result<Self, String> {
        let mut shell = Command::new(super::checkout("tests/house/servers/supervise"))
            .arg(&launch.folder)
            .arg(launch.signal)
            .args(&launch.command)
            .current_dir(&launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A Ctrl-C at the terminal goes to the whole group of the test binary. The shell must outlive it
            // to clean up, so it gets a group of its own.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{} was not started: {error}", launch.name))?;
        let orders = shell.stdin.take();
        let mut this = Self { name: launch.name, shell, orders, folder: launch.folder };
        this.order("start")?;
        Ok(this)
    }

    /// `start` or `stop`.
    pub fn order(&mut self, order: &str) -> Result<(), String> {
        let orders = self.orders.as_mut().ok_or("the process is over")?;
        writeln!(orders, "{order}").map_err(|error| format!("{}: {order}: {error}", self.name))
    }

    /// Length of the output so far, in bytes: where to look for what comes next.
    pub fn here(&self) -> usize {
        self.output().len()
    }

    /// Waits until one of `marks` is printed after byte `from`, and hands back the whole line.
    pub async fn line(&self, marks: &[&str], from: usize, within: Duration) -> Result<String, String> {
        let deadline = Instant::now() + within;
        loop {
            let output = self.output();
            let fresh = output.get(from..).unwrap_or_default();
            let whole = fresh.rfind('\n').map_or("", |end| &fresh[..end]);
            if let Some(line) = whole.lines().find(|line| marks.iter().any(|m| line.contains(m))) {
                return Ok(line.to_owned());
            }
            if Instant::now() > deadline {
                return Err(self.complaint(&format!("did not print {marks:?} in {within:?}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A failure with the end of the output.
    pub fn complaint(&self, what: &str) -> String {
        let output = self.output();
        let mut tail: Vec<&str> = output.lines().rev().take(30).collect();
        tail.reverse();
        format!("{} {what}. {}. Its output ends with:\n{}", self.name, super::INSTALL, tail.join("\n"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn output(&self) -> String {
        let bytes = std::fs::read(self.folder.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.orders.take();
        // The shell ends by killing its own group, so its status says nothing.
        let _ = self.shell.wait();
    }
}
