//! Resident memory: idle after the start, and after some logins.

use super::door::{Door, free_address};
use super::report::{Gate, Report};
use super::servers::postgres;
use super::{Outcome, logins, visitor};

const LOGINS: usize = 100;
/// `product.md` 8.
const IDLE: Gate = Gate(20.0);

/// The built-in set-up, then the two databases behind a real provider.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Resident memory");
    let folder = tempfile::tempdir()?;
    let door = Door::open(folder.path(), free_address()?)?;
    report.hold("built-in set-up, idle", door.settled_rss_mib()?, "MiB", IDLE);
    drop(door);
    let database = postgres::fresh_database().await;
    for (name, url) in [("SQLite", "sqlite:doorward.db"), ("PostgreSQL", database.url.as_str())] {
        let folder = tempfile::tempdir()?;
        let house = logins::house(folder.path(), url).await?;
        report.hold(&format!("{name}, idle"), house.door.settled_rss_mib()?, "MiB", IDLE);
        let client = visitor::client()?;
        for n in 0..LOGINS {
            visitor::sign_in(&client, &house.url, &format!("person-{n}")).await?;
        }
        report.tell(&format!("{name}, idle after {LOGINS} logins"), house.door.settled_rss_mib()?, "MiB");
    }
    Ok(())
}
