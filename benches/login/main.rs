//! What a login, a start and their parts cost: `cargo bench --bench login`. How it measures stands in
//! `docs/PERFORMANCE.md`.
//!
//! Owns: Doorward as its users run it (the release binary, as a process of its own), visitors, real neighbours
//! (oidc-provider, PostgreSQL), and the gates; it ends with status 1 when one is missed, with 2 when this machine cannot tell.
//! Never does: count its own processor time, or the neighbours', as Doorward's.
//!
//! `cargo bench --bench login -- start micro` runs parts; `-- --test` checks that it starts, and ends at once.

#[expect(dead_code, reason = "only the gateway's driver lets it finish")]
mod door;
mod logins;
mod memory;
mod micro;
mod passwords;
mod pin;
mod report;
mod start;
mod visitor;
mod yardstick;

#[expect(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the servers belong to the tests, which use all of them; here a failure may end everything too"
)]
#[path = "../../tests/house/servers/mod.rs"]
mod servers;

use std::process::ExitCode;

use self::report::Report;

/// What may go wrong ends the run with a sentence.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PARTS: [&str; 4] = ["login", "passwords", "start", "micro"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--test") {
        println!("login: ok, it starts; measured is by `cargo bench --bench login` alone");
        return ExitCode::SUCCESS;
    }
    let named = |part: &str| words.iter().any(|word| word == part);
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

async fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) -> Outcome<()> {
    if wanted("start") {
        start::measure(report)?;
        memory::measure(report).await?;
    }
    if wanted("passwords") {
        passwords::measure(report).await?;
    }
    if wanted("micro") {
        micro::measure(report).await?;
    }
    // Last, for a start and its parts may use all cores.
    if wanted("login") {
        match pin::keep_to_one()? {
            Some(core) => println!("\neverything from here on runs on core {core}"),
            None => println!("\nthere is no taskset to keep everything on one core"),
        }
        logins::measure(report).await?;
    }
    Ok(())
}
