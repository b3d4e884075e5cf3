//! `doorward keys list|rotate`.

use std::process::ExitCode;

use super::Common;
use super::house::with_house;
use crate::flows::rotate::{self, Rotated};

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
