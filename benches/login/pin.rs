//! One core for everybody: the driver, its neighbours, nginx and Doorward.
//!
//! Two programs on two idle cores wake each other by an interrupt, and on a virtual machine that costs several times the request itself:
//! nginx then reads 50 to 77 µs instead of 9 to 16. On one core the scheduler just goes on with the other program.

use std::process::{Command, Stdio};

use super::Outcome;

/// Pins this process, and with it every one that it starts from here on, to the last core it may use. Tells which; `None` where the system
/// has no `taskset`.
pub fn keep_to_one() -> Outcome<Option<u32>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last =
        allowed.and_then(|list| list.trim().rsplit([',', '-']).next()).ok_or("no Cpus_allowed_list")?;
    let core: u32 = last.parse()?;
    let pinned = Command::new("taskset")
        .args(["-a", "-p", "-c", last, &std::process::id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Ok(pinned.is_ok_and(|status| status.success()).then_some(core))
}
