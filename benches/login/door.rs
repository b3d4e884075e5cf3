//! The release binary as a process of its own, in a folder of its own, and what the kernel says of it.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Outcome;

/// The kernel counts processor time for `/proc` in hundredths of a second, on every machine that Linux runs on.
const TICK_MS: f64 = 10.0;
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running Doorward; dropping it kills the process. Its log goes to `log` in its folder.
pub struct Door {
    process: Child,
    /// From just before the process was made to the first 200 of `/readyz`.
    pub ready_after: Duration,
}

impl Door {
    /// Starts in `folder`, with its `config.toml` or else the built-in set-up, and waits until it is ready.
    pub fn open(folder: &Path, public: SocketAddr) -> Outcome<Self> {
        let operations = free_address()?;
        let log = File::options().create(true).append(true).open(folder.join("log"))?;
        let started = Instant::now();
        let process = Command::new(program())
            .current_dir(folder)
            .env("DOORWARD__SERVER__LISTEN", public.to_string())
            .env("DOORWARD__SERVER__OPERATIONS_LISTEN", operations.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut door = Self { process, ready_after: Duration::ZERO };
        while !super::start::is_ready(operations) {
            if started.elapsed() > START_WITHIN {
                let log = std::fs::read_to_string(folder.join("log"))?;
                return Err(format!("Doorward did not become ready; its log:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        door.ready_after = started.elapsed();
        Ok(door)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to finish what is under way (`SIGTERM`), and waits for its end.
    pub fn finish(&mut self) -> Outcome<()> {
        let asked = Command::new("kill").arg(self.id().to_string()).status()?;
        let ended = if asked.success() { self.process.wait()? } else { asked };
        if ended.success() { Ok(()) } else { Err(format!("Doorward did not end well: {ended}").into()) }
    }

    /// Processor time of all its threads so far, user and system, in ms.
    pub fn cpu_ms(&self) -> Outcome<f64> {
        cpu_ms(self.id())
    }

    /// Resident memory in MiB, once it has been the same for half a second.
    pub fn settled_rss_mib(&self) -> Outcome<f64> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut last, mut since) = (self.rss_kib()?, Instant::now());
        while since.elapsed() < Duration::from_millis(500) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.rss_kib()?;
            if (now - last).abs() > 64.0 {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(self.rss_kib()? / 1024.0)
    }

    fn rss_kib(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Nothing of this folder is needed again but its database, which must survive this anyway.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is measured. Another binary may take its place, to compare two versions in the same hour; its path counts from where the driver was
/// started, not from the folder in which it will run.
pub fn program() -> OsString {
    let named = std::env::var_os("DOORWARD_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_doorward").into());
    std::path::absolute(&named).map_or(named, Into::into)
}

/// Processor time of a process and all its threads so far, user and system, in ms.
pub fn cpu_ms(process: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold spaces; `utime` and `stime` are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?;
    let mut ticks = 0.0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks * TICK_MS)
}

/// A loopback address that nobody listens on.
pub fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
