//! A storm of logins by password: how many a second, and what one costs Doorward's processor.

use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use super::Outcome;
use super::door::{Door, free_address};
use super::report::{Report, median, quantile};
use super::servers::postgres;
use super::visitor;

const WARM_UP: usize = 100;
const LOGINS: usize = 2000;
const AT_ONCE: usize = 16;
/// The development issuer's people who may sign in.
const PEOPLE: [&str; 3] = ["alice", "bob", "ada"];

/// On both databases. The provider is the development issuer inside the same process, so its signature and answers are counted as well:
/// the numbers are an upper bound.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Login by password (JSON): the development issuer's own work included");
    storm(report, "SQLite", "sqlite:doorward.db").await?;
    let database = postgres::fresh_database().await;
    storm(report, "PostgreSQL", &database.url).await
}

async fn storm(report: &Report, database: &str, url: &str) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let public = free_address()?;
    std::fs::write(folder.path().join("config.toml"), configuration(url))?;
    let door = Door::open(folder.path(), public)?;
    let client = visitor::client()?;
    let address = format!("http://localhost:{}/auth/login", public.port());
    for n in 0..WARM_UP {
        sign_in(&client, &address, n).await?;
    }
    let (before_ms, began) = (door.cpu_ms()?, Instant::now());
    let mut visitors = JoinSet::new();
    for first in 0..AT_ONCE {
        let (client, address) = (client.clone(), address.clone());
        visitors.spawn(async move {
            let mut wall = Vec::new();
            for n in (first..LOGINS).step_by(AT_ONCE) {
                let began = Instant::now();
                sign_in(&client, &address, n).await.map_err(|error| error.to_string())?;
                wall.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            Ok::<_, String>(wall)
        });
    }
    let mut wall = Vec::new();
    while let Some(done) = visitors.join_next().await {
        wall.extend(done??);
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let logins = LOGINS as f64;
    report.tell(
        &format!("{database}: logins per second, {AT_ONCE} at once"),
        logins / began.elapsed().as_secs_f64(),
        "/s",
    );
    report.tell(
        &format!("{database}: processor time per login"),
        (door.cpu_ms()? - before_ms) / logins,
        "ms",
    );
    report.tell(&format!("{database}: on the wall, p50"), median(&mut wall), "ms");
    report.tell(&format!("{database}: the same, p99"), quantile(&mut wall, 0.99), "ms");
    Ok(())
}

async fn sign_in(client: &reqwest::Client, address: &str, n: usize) -> Outcome<()> {
    let person = PEOPLE.get(n % PEOPLE.len()).copied().unwrap_or("alice");
    let body = json!({ "username": person, "password": person }).to_string();
    let answer = client.post(address).header("content-type", "application/json").body(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    if status != 200 || !text.contains("sessionId") {
        return Err(format!("the login answered {status} {text}").into());
    }
    Ok(())
}

/// One address signs in here more often than anybody may; the limits on wrong passwords stay, for they cost their part.
fn configuration(database: &str) -> String {
    format!(
        r#"[database]
url = "{database}"
[keys]
current = "k1"
ring = {{ k1 = {{ value = "7d1f0a86c3e954b2f8376a0d9be41c5520e7938d4b6afc01d25e8f73b9416ca8" }} }}
[limits]
login_start = "off"
password_failures_identifier = "1000/15m"
[[provider]]
id = "dev"
kind = "dev"
client_id = "doorward"
password_login = true
[[upstream]]
id = "demo"
urls = ["builtin:demo"]
[[route]]
path = "/"
access = "public"
upstream = "demo"
"#
    )
}
