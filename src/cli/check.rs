//! `doorward check`: everything a start needs, tried at once.

use std::process::ExitCode;

use super::{Common, FAULTS, furniture};
use crate::config::Config;
use crate::flows::{check, start};

/// Prints every fault, of the configuration or of what it names.
#[must_use]
pub fn run(common: &Common, print: bool) -> ExitCode {
    let loaded = match common.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if print {
        say!("{}", loaded.config.masked());
    }
    let findings = actix_web::rt::System::new().block_on(look(loaded.config));
    let faults = findings.iter().filter(|finding| !finding.fine).count();
    if common.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|f| serde_json::json!({ "what": f.what, "fine": f.fine, "detail": f.detail }))
            .collect();
        say!(
            "{}",
            serde_json::json!({ "origin": loaded.origin, "warnings": loaded.warnings, "checks": rows, "faults": faults })
        );
    } else {
        say!("configuration: {}", loaded.origin);
        for warning in &loaded.warnings {
            say!("note   {warning}");
        }
        for finding in &findings {
            say!("{}  {}: {}", if finding.fine { "ok   " } else { "FAULT" }, finding.what, finding.detail);
        }
    }
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAULTS) }
}

async fn look(config: Config) -> Vec<check::Finding> {
    let at = furniture();
    let keys = start::read_keys(&config, &*at.random);
    check::run(config, keys, at).await
}
