//! What commands that work on the database have in common: a house without listeners, and how its answers are printed.

use std::process::ExitCode;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Common, FAULTS, furniture};
use crate::app::App;
use crate::flows::Visitor;
use crate::flows::admin::{Actor, Administrator};
use crate::flows::start::{self, StartFault};

/// Opens everything but the door.
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

/// Does one command's work in a house; a fault is one sentence and exit code 1.
pub fn with_house(common: &Common, work: impl AsyncFnOnce(&App) -> anyhow::Result<()>) -> ExitCode {
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
                if common.json {
                    say!("{}", json!({ "faults": [error.to_string()] }));
                } else {
                    eprintln!("{error}");
                }
                ExitCode::from(FAULTS)
            }
        }
    })
}

/// Whoever may read this door's configuration and keys, by the system's name of their account where it is told.
pub fn operator() -> Administrator {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let plain: String = name.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
    let account = if plain.is_empty() { "unknown".to_owned() } else { plain };
    Administrator { actor: Actor::CommandLine { account }, visitor: Visitor::default() }
}

/// Prints rows under headings, each column as wide as its widest cell. What came from people loses its control characters: a name must not
/// drive the operator's terminal.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let clean = |cell: &str| -> String {
        cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    };
    let rows: Vec<[String; N]> = std::iter::once(headings.map(str::to_owned))
        .chain(rows.iter().map(|row| row.each_ref().map(|cell| clean(cell))))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say!("{}", cells.join("  ").trim_end());
    }
}

fn at(ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

/// A moment for scripts: RFC 3339, UTC, milliseconds.
pub fn moment(ms: i64) -> Value {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at(ms).and_then(|moment| moment.format(format).ok()).into()
}

/// A moment for people, in UTC; `-` for none.
pub fn readable(ms: Option<i64>) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]");
    ms.and_then(at).and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| "-".to_owned())
}
