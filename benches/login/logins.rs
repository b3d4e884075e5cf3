//! Whole browser logins at a real provider: Doorward's processor time for one, and how long one takes.

use std::path::Path;
use std::time::Instant;

use tokio::task::JoinSet;
use url::Url;

use super::door::{Door, free_address};
use super::report::{Gate, Report, median, quantile};
use super::servers::oidc_provider::{self, OidcProvider, OpSpec};
use super::servers::postgres;
use super::{Outcome, visitor, yardstick};

const WARM_UP: usize = 50;
const LOGINS: usize = 500;
const ROUNDS: usize = 5;
/// Fewer than the logins, so that most of them are of known people, as on any ordinary day; more than enough
/// that nobody reaches `sessions_per_user`.
const PEOPLE: usize = 50;
const AT_ONCE: usize = 8;
/// `product.md` 8.
const CPU: Gate = Gate(0.75);

/// On both databases.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Whole browser login: Doorward's own processor time and the time on the wall");
    let folder = tempfile::tempdir()?;
    let house = house(folder.path(), "sqlite:doorward.db").await?;
    let found = rounds(report, "SQLite", &house).await?;
    if found.nginx_us > yardstick::CREDIBLE_US {
        report.doubt(format!(
            "nginx needed {:.1} µs for a request that takes 9.1; wait until this machine is quieter",
            found.nginx_us
        ));
    }
    let at_reference_ms = found.requests * yardstick::REFERENCE_US / 1000.0;
    report.hold("SQLite: processor time per login, at 9.1 µs for nginx", at_reference_ms, "ms", CPU);
    drop(house);
    let database = postgres::fresh_database().await;
    let folder = tempfile::tempdir()?;
    let house = self::house(folder.path(), &database.url).await?;
    rounds(report, "PostgreSQL", &house).await?;
    Ok(())
}

/// Medians of the rounds.
struct Found {
    nginx_us: f64,
    /// A login in nginx's proxied requests.
    requests: f64,
}

/// A Doorward that is ready, and the one origin it has.
pub struct House {
    pub door: Door,
    pub url: Url,
}

/// Doorward as a client of oidc-provider.
pub async fn house(folder: &Path, database: &str) -> Outcome<House> {
    let public = free_address()?;
    let url = Url::parse(&format!("http://{public}"))?;
    let op = oidc_provider::server(OpSpec {
        redirect_uris: vec![format!("http://{public}/auth/callback/op")],
        autologin: true,
        ..OpSpec::default()
    })
    .await;
    std::fs::write(folder.join("config.toml"), configuration(&url, database, &op))?;
    Ok(House { door: Door::open(folder, public)?, url })
}

fn configuration(url: &Url, database: &str, op: &OidcProvider) -> String {
    let OidcProvider { issuer, client_id, client_secret } = op;
    // A fixed key for a database that lives for a minute. One address signs in more often here than anybody may.
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
client_id = "{client_id}"
client_secret = "{client_secret}"
[[upstream]]
id = "demo"
urls = ["builtin:demo"]
[[route]]
path = "/protected"
upstream = "demo"
"#,
        origin = url.origin().ascii_serialization()
    )
}

/// Processor time per login, one after the other and several at once. Each round is compared with nginx just before and after it, because a
/// shared machine changes its pace from one second to the next.
async fn rounds(report: &Report, database: &str, house: &House) -> Outcome<Found> {
    let client = visitor::client()?;
    for n in 0..WARM_UP {
        visitor::sign_in(&client, &house.url, &person(n)).await?;
    }
    let (mut cpu, mut cpu_at_once, mut wall) = (Vec::new(), Vec::new(), Vec::new());
    let (mut nginx, mut requests) = (Vec::new(), Vec::new());
    let mut nginx_before_us = yardstick::proxied_request_us().await?;
    for _ in 0..ROUNDS {
        let before = house.door.cpu_ms()?;
        for n in 0..LOGINS {
            let began = Instant::now();
            visitor::sign_in(&client, &house.url, &person(n)).await?;
            wall.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        let cpu_ms = each(house.door.cpu_ms()? - before);
        let nginx_after_us = yardstick::proxied_request_us().await?;
        let nginx_us = f64::midpoint(nginx_before_us, nginx_after_us);
        cpu.push(cpu_ms);
        nginx.push(nginx_us);
        requests.push(cpu_ms * 1000.0 / nginx_us);
        let before = house.door.cpu_ms()?;
        at_once(&client, &house.url).await?;
        cpu_at_once.push(each(house.door.cpu_ms()? - before));
        nginx_before_us = yardstick::proxied_request_us().await?;
    }
    let found = Found { nginx_us: median(&mut nginx), requests: median(&mut requests) };
    let tell = |what: &str, value, unit| report.tell(&format!("{database}: {what}"), value, unit);
    tell("on the wall, provider and visitor included, p50", median(&mut wall), "ms");
    tell("the same, p99", quantile(&mut wall, 0.99), "ms");
    tell("nginx: processor time per bare proxied request", found.nginx_us, "µs");
    tell("processor time per login", median(&mut cpu), "ms");
    tell("the same, in nginx's proxied requests", found.requests, "×");
    tell("the same, 8 at once", median(&mut cpu_at_once), "ms");
    Ok(found)
}

async fn at_once(client: &reqwest::Client, url: &Url) -> Outcome<()> {
    let mut visitors = JoinSet::new();
    for first in 0..AT_ONCE {
        let (client, url) = (client.clone(), url.clone());
        visitors.spawn(async move {
            for n in (first..LOGINS).step_by(AT_ONCE) {
                visitor::sign_in(&client, &url, &person(n)).await.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        });
    }
    for outcome in visitors.join_all().await {
        outcome?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred")]
fn each(total: f64) -> f64 {
    total / LOGINS as f64
}

fn person(n: usize) -> String {
    format!("person-{:02}", n % PEOPLE)
}
