//! What happens to a session after its login, and what that costs: `cargo bench --bench session`.
//!
//! Owns: crowds of one person's requests, and what Doorward and the provider did about them; ends with status 1 when a gate is missed.
//! Never does: count its own processor time, or the provider's, as Doorward's.
//!
//! `cargo bench --bench session -- refresh` runs parts; `-- --test` checks that it starts, and ends at once.

#[expect(dead_code, reason = "shared with the other bench, which asks more of it")]
#[path = "../login/door.rs"]
mod door;
#[expect(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the scripted provider belongs to the tests, which use all of it; here a failure may end everything too"
)]
#[path = "../../tests/house/op/mod.rs"]
mod op;
mod refresh;
#[expect(dead_code, reason = "shared with the other bench, which may find that it can tell nothing")]
#[path = "../login/report.rs"]
mod report;
mod revocation;
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the servers belong to the tests, which use all of them; here a failure may end everything too"
)]
#[path = "../../tests/house/servers/mod.rs"]
mod servers;
#[expect(dead_code, reason = "shared with the other bench, which measures it")]
#[path = "../login/start.rs"]
mod start;
#[path = "../login/visitor.rs"]
mod visitor;

use std::process::ExitCode;

use self::report::Report;

/// What may go wrong ends the run with a sentence.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PARTS: [&str; 2] = ["refresh", "revocation"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--test") {
        println!("session: ok, it starts; measured is by `cargo bench --bench session` alone");
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
    if wanted("refresh") {
        refresh::measure(report).await?;
    }
    if wanted("revocation") {
        revocation::measure(report).await?;
    }
    Ok(())
}
