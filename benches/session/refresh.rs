//! A refresh storm: five hundred requests of one person at the moment when the access token is over.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::COOKIE;
use url::Url;

use super::door::{Door, free_address};
use super::op::ScriptedOp;
use super::report::{Gate, Report, median};
use super::servers::postgres;
use super::{Outcome, visitor};

const CROWD: usize = 500;
const ROUNDS: usize = 5;
const SHORT: Duration = Duration::from_secs(2);
/// `product.md` 7: one token call per generation.
const CALLS: Gate = Gate(1.0);

/// On both databases.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Refresh storm: 500 requests at once when the access token is over");
    let folder = tempfile::tempdir()?;
    storms(report, "SQLite", folder.path(), "sqlite:doorward.db").await?;
    let database = postgres::fresh_database().await;
    let folder = tempfile::tempdir()?;
    storms(report, "PostgreSQL", folder.path(), &database.url).await
}

async fn storms(report: &mut Report, name: &str, folder: &Path, database: &str) -> Outcome<()> {
    let op = ScriptedOp::start().await;
    let public = free_address()?;
    let url = Url::parse(&format!("http://{public}"))?;
    std::fs::write(folder.join("config.toml"), configuration(&url, database, &op))?;
    let door = Door::open(folder, public)?;
    let client = visitor::client()?;
    let (mut calls, mut calm, mut storm, mut wall) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        op.script(|s| s.token_life_s = 2);
        let cookies = visitor::sign_in(&client, &url, "alice").await?;
        // The next tokens live long: a storm meets one expiry.
        op.script(|s| s.token_life_s = 300);
        tokio::time::sleep(SHORT + Duration::from_millis(100)).await;
        op.clear();
        let before = door.cpu_ms()?;
        let began = Instant::now();
        crowd(&client, &url, &cookies).await?;
        wall.push(began.elapsed().as_secs_f64() * 1000.0);
        storm.push(door.cpu_ms()? - before);
        calls.push(f64::from(u32::try_from(op.count("/token"))?));
        let before = door.cpu_ms()?;
        crowd(&client, &url, &cookies).await?;
        calm.push(door.cpu_ms()? - before);
    }
    let most = calls.into_iter().fold(0.0, f64::max);
    report.hold(&format!("{name}: token calls in the worst storm"), most, "calls", CALLS);
    report.tell(&format!("{name}: Doorward's processor time for a storm"), median(&mut storm), "ms");
    report.tell(&format!("{name}: for the same crowd with nothing due"), median(&mut calm), "ms");
    report.tell(&format!("{name}: until the last answer of a storm"), median(&mut wall), "ms");
    Ok(())
}

/// Everybody is answered, and nobody is sent away.
async fn crowd(client: &reqwest::Client, url: &Url, cookies: &str) -> Outcome<()> {
    let page = url.join("/protected")?;
    let ask = || client.get(page.clone()).header(COOKIE, cookies).send();
    for answer in futures_util::future::join_all((0..CROWD).map(|_| ask())).await {
        let status = answer?.status();
        if status != 200 {
            return Err(format!("one of the crowd was answered {status}").into());
        }
    }
    Ok(())
}

/// A set-up with the scripted provider as `op`.
pub fn configuration(url: &Url, database: &str, op: &ScriptedOp) -> String {
    format!(
        r#"[server]
public_url = "{origin}"
[database]
url = "{database}"
[keys]
current = "k1"
ring = {{ k1 = {{ value = "7d1f0a86c3e954b2f8376a0d9be41c5520e7938d4b6afc01d25e8f73b9416ca8" }} }}
[limits]
login_start = "off"
callback = "off"
[[provider]]
id = "op"
kind = "oidc"
issuer = "{issuer}"
client_id = "doorward"
client_secret = '{secret}'
[[upstream]]
id = "demo"
urls = ["builtin:demo"]
[[route]]
path = "/protected"
upstream = "demo"
"#,
        origin = url.origin().ascii_serialization(),
        issuer = op.issuer(),
        secret = op.script(|s| s.client_secret.clone())
    )
}
