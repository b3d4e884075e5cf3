//! `doorward keys list|rotate`.

use std::process::ExitCode;

use super::{Common, FAULTS, furniture};
use crate::app::App;
use crate::flows::rotate::{self, Rotated};
use crate::flows::start::{self, StartFault};

/// A house without listeners, for one command.
async fn house(common: &Common) -> Result<App, ExitCode> {
    let config = common.load()?.config;
    let opened = async {
        let at = furniture();
        let keys = start::read_keys(&config, &*at.random)?;
        let store = start::open_store(&config).await?;
        start::prepare(&store).await?;
        start::furnish(store, config, keys, at).await
    };
    opened.await.map_err(|fault: StartFault| {
        common.print_start_fault(&fault);
        ExitCode::from(FAULTS)
    })
}

fn with_house(common: &Common, work: impl AsyncFnOnce(&App) -> crate::error::Result<()>) -> ExitCode {
    actix_web::rt::System::new().block_on(async {
        let app = match house(common).await {
            Ok(app) => app,
            Err(code) => return code,
        };
        let done = work(&app).await;
        app.store.close().await;
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(FAULTS)
            }
        }
    })
}

/// Prints the ring.
#[must_use]
pub fn list(common: &Common) -> ExitCode {
    with_house(common, async |app| {
        let keys = rotate::list(app).await?;
        if common.json {
            let rows: Vec<_> = keys
                .iter()
                .map(|key| serde_json::json!({ "id": key.id, "current": key.current, "ageDays": key.age_days, "rows": key.rows, "inRing": key.in_ring }))
                .collect();
            say!("{}", serde_json::json!({ "keys": rows }));
            return Ok(());
        }
        for key in keys {
            let role = match (key.current, key.in_ring, key.rows) {
                (true, ..) => "seals",
                (false, false, _) => "MISSING from the ring",
                (false, true, 0) => "may be retired",
                (false, true, _) => "opens",
            };
            let age = key.age_days.map_or_else(|| "new".to_owned(), |days| format!("{days} days"));
            say!("{:<12} {role:<22} {age:>10} {:>8} rows", key.id, key.rows);
        }
        Ok(())
    })
}

/// Re-encrypts everything with the current key.
#[must_use]
pub fn rotate(common: &Common) -> ExitCode {
    with_house(common, async |app| {
        let rotated = rotate::run(app).await?;
        print(common, &rotated);
        Ok(())
    })
}

fn print(common: &Common, rotated: &Rotated) {
    if common.json {
        let body = serde_json::json!({ "seen": rotated.seen, "resealed": rotated.resealed, "unreadable": rotated.unreadable, "usage": rotated.usage });
        say!("{body}");
        return;
    }
    say!("{} of {} values re-encrypted", rotated.resealed, rotated.seen);
    if rotated.unreadable > 0 {
        say!(
            "{} values open with no key of the ring; they are no sessions, and stay as they are",
            rotated.unreadable
        );
    }
}
