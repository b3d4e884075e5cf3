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
const ROUNDS: usize = 3;
/// Fewer than the logins, so that most of them are of known people, as on any ordinary day; more than enough
/// that nobody reaches `sessions_per_user`.
const PEOPLE: usize = 50;
const AT_ONCE: usize = 8;
/// `product.md` 8.
const CPU: Gate = Gate(0.75);

/// On both databases.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Whole browser login: Doorward's own processor time and the time on the wall");
    let before_us = yardstick::proxied_request_us().await?;
    let folder = tempfile::tempdir()?;
    let house = house(folder.path(), "sqlite:doorward.db").await?;
    let (cpu_ms, cpu_at_once_ms) = round(report, "SQLite", &house).await?;
    // Before and after, because a shared machine changes its pace.
    let nginx_us = f64::midpoint(before_us, yardstick::proxied_request_us().await?);
    report.tell("nginx: processor time per bare proxied request", nginx_us, "µs");
    report.tell("SQLite: processor time per login", cpu_ms, "ms");
    report.tell("SQLite: the same, in nginx's proxied requests", cpu_ms * 1000.0 / nginx_us, "×");
    if nginx_us > yardstick::CREDIBLE_US {
        report.doubt(format!(
            "nginx needed {nginx_us:.1} µs for a request that takes 9.1; wait until this machine is quieter"
        ));
    }
    let at_reference_ms = cpu_ms * yardstick::REFERENCE_US / nginx_us;
    report.hold("SQLite: processor time per login, at 9.1 µs for nginx", at_reference_ms, "ms", CPU);
    report.tell("SQLite: the same, 8 at once", cpu_at_once_ms, "ms");
    drop(house);
    let database = postgres::fresh_database().await;
    let folder = tempfile::tempdir()?;
    let house = self::house(folder.path(), &database.url).await?;
    let (cpu_ms, cpu_at_once_ms) = round(report, "PostgreSQL", &house).await?;
    report.tell("PostgreSQL: processor time per login", cpu_ms, "ms");
    report.tell("PostgreSQL: the same, in nginx's proxied requests", cpu_ms * 1000.0 / nginx_us, "×");
    report.tell("PostgreSQL: the same, 8 at once", cpu_at_once_ms, "ms");
    Ok(())
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

/// Processor time per login: one after the other, and several at once.
async fn round(report: &Report, database: &str, house: &House) -> Outcome<(f64, f64)> {
    let client = visitor::client()?;
    for n in 0..WARM_UP {
        visitor::sign_in(&client, &house.url, &person(n)).await?;
    }
    let (mut cpu, mut cpu_at_once, mut wall) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = house.door.cpu_ms()?;
        for n in 0..LOGINS {
            let began = Instant::now();
            visitor::sign_in(&client, &house.url, &person(n)).await?;
            wall.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        cpu.push(each(house.door.cpu_ms()? - before));
        let before = house.door.cpu_ms()?;
        at_once(&client, &house.url).await?;
        cpu_at_once.push(each(house.door.cpu_ms()? - before));
    }
    report.tell(
        &format!("{database}: on the wall, provider and visitor included, p50"),
        median(&mut wall),
        "ms",
    );
    report.tell(&format!("{database}: the same, p99"), quantile(&mut wall, 0.99), "ms");
    Ok((median(&mut cpu), median(&mut cpu_at_once)))
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
