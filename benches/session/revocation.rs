//! How soon a session that was ended in one process is over in another: back-channel logout over three processes on one PostgreSQL, and
//! `doorward sessions revoke` beside a server on SQLite.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::Client;
use reqwest::header::{ACCEPT, COOKIE, HOST};
use serde_json::Value;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use url::Url;

use super::door::{Door, free_address, program};
use super::op::ScriptedOp;
use super::refresh::configuration;
use super::report::{Gate, Report, median, quantile};
use super::servers::postgres;
use super::{Outcome, visitor};

const WARM_UP: usize = 10;
const SAMPLES: usize = 250;
/// `product.md` 7: within 100 ms on every other process.
const SOON: Gate = Gate(100.0);
/// A crowd would keep the processor from those who are measured. What it adds to a delay counts as delay.
const ASK_EVERY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// On both databases.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Back-channel logout at one of three processes on one PostgreSQL, seen at the two others");
    back_channel(report).await?;
    report.heading("`doorward sessions revoke` beside a server on SQLite");
    command_line(report).await
}

/// One process as a person of the public origin reaches it.
#[derive(Clone)]
struct Replica {
    http: Client,
    at: SocketAddr,
    /// The public origin's authority: another name would be refused.
    host: String,
}

impl Replica {
    fn get(&self, path: &str, cookies: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(format!("http://{}{path}", self.at));
        request.header(HOST, &self.host).header(COOKIE, cookies).header(ACCEPT, "application/json")
    }

    async fn lets_in(&self, cookies: &str) -> Outcome<bool> {
        match self.get("/protected", cookies).send().await?.status().as_u16() {
            200 => Ok(true),
            401 => Ok(false),
            status => Err(format!("the page was answered {status}").into()),
        }
    }

    /// Asks again and again; when the first refusal had arrived.
    async fn refuses(self, cookies: String) -> Outcome<Moment> {
        let began = Instant::now();
        while self.lets_in(&cookies).await? {
            if began.elapsed() > PATIENCE {
                return Err("the session goes on and on".into());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(Moment::now())
    }

    /// An open tab: when it has heard that its session ended.
    async fn tab(self, cookies: String) -> Outcome<tokio::task::JoinHandle<Outcome<Moment>>> {
        let mut stream = self.get("/auth/events", &cookies).send().await?.error_for_status()?;
        let mut heard = String::new();
        while !heard.contains(":\n\n") {
            let piece = stream.chunk().await?.ok_or("the stream of events ended at once")?;
            heard.push_str(&String::from_utf8_lossy(&piece));
        }
        Ok(tokio::spawn(async move {
            while !heard.contains("event: session-ended") {
                let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await?;
                let piece = piece?.ok_or("the stream ended without a word")?;
                heard.push_str(&String::from_utf8_lossy(&piece));
            }
            Ok(Moment::now())
        }))
    }
}

/// A moment by the machine's time, which the processes share.
#[derive(Clone, Copy)]
struct Moment(f64);

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "compared with what another process wrote down")]
    fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0)
    }

    fn ms_since(self, earlier: Self) -> f64 {
        self.0 - earlier.0
    }
}

/// What is told of one kind of delay: p50, p99 with the gate, and the longest.
fn delays(report: &mut Report, what: &str, values: &mut [f64], gate: Option<Gate>) {
    report.tell(&format!("{what}, p50"), median(values), "ms");
    let p99 = quantile(values, 0.99);
    match gate {
        Some(gate) => report.hold(&format!("{what}, p99"), p99, "ms", gate),
        None => report.tell(&format!("{what}, p99"), p99, "ms"),
    }
    report.tell(&format!("{what}, max of {}", values.len()), quantile(values, 1.0), "ms");
}

async fn back_channel(report: &mut Report) -> Outcome<()> {
    let (op, database) = (ScriptedOp::start().await, postgres::fresh_database().await);
    let folder = tempfile::tempdir()?;
    let places = [free_address()?, free_address()?, free_address()?];
    let [first, ..] = places;
    let url = Url::parse(&format!("http://{first}"))?;
    std::fs::write(folder.path().join("config.toml"), configuration(&url, &database.url, &op))?;
    let mut doors = Vec::new();
    for at in places {
        doors.push(Door::open(folder.path(), at)?);
    }
    let http = visitor::client()?;
    let [_, others @ ..] = places.map(|at| Replica { http: http.clone(), at, host: first.to_string() });
    let (mut sent, mut answered, mut tabs) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..WARM_UP + SAMPLES {
        let ended = end_by_provider(&http, &url, &op, &others).await?;
        if n >= WARM_UP {
            sent.extend(ended.refused.iter().map(|at| at.ms_since(ended.sent)));
            answered.extend(ended.refused.iter().map(|at| at.ms_since(ended.answered).max(0.0)));
            tabs.extend(ended.told.iter().map(|at| at.ms_since(ended.sent)));
        }
    }
    delays(report, "from the provider's call to a refusal", &mut sent, Some(SOON));
    delays(report, "from our answer to a refusal", &mut answered, None);
    delays(report, "from the provider's call until a tab hears", &mut tabs, Some(SOON));
    Ok(())
}

struct Ended {
    sent: Moment,
    answered: Moment,
    refused: [Moment; 2],
    told: [Moment; 2],
}

/// Somebody signs in at the first process and is known at the others; then the provider ends it.
async fn end_by_provider(http: &Client, url: &Url, op: &ScriptedOp, others: &[Replica; 2]) -> Outcome<Ended> {
    let cookies = visitor::sign_in(http, url, "alice").await?;
    let [one, other] = others;
    for replica in others {
        if !replica.lets_in(&cookies).await? {
            return Err("a replica does not know the new session".into());
        }
    }
    let tabs = [one.clone().tab(cookies.clone()).await?, other.clone().tab(cookies.clone()).await?];
    let token = op.logout_token(Some("alice"), op.sids().last().map(String::as_str), |_| {});
    let refused = [one, other].map(|at| tokio::spawn(at.clone().refuses(cookies.clone())));
    let sent = Moment::now();
    let call = http.post(url.join("/auth/backchannel-logout/op")?).form(&[("logout_token", token)]);
    let status = call.send().await?.status();
    let answered = Moment::now();
    if status != 200 {
        return Err(format!("the logout token was answered {status}").into());
    }
    let ([a, b], [c, d]) = (refused, tabs);
    Ok(Ended { sent, answered, refused: [a.await??, b.await??], told: [c.await??, d.await??] })
}

async fn command_line(report: &mut Report) -> Outcome<()> {
    let op = ScriptedOp::start().await;
    let folder = tempfile::tempdir()?;
    let at = free_address()?;
    let url = Url::parse(&format!("http://{at}"))?;
    std::fs::write(folder.path().join("config.toml"), configuration(&url, "sqlite:doorward.db", &op))?;
    let _door = Door::open(folder.path(), at)?;
    let replica = Replica { http: visitor::client()?, at, host: at.to_string() };
    let (mut refused, mut told, mut noted, mut typed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..WARM_UP + SAMPLES {
        let revoked = revoke(&replica, &url, folder.path()).await?;
        if n >= WARM_UP {
            refused.push(revoked.refused.ms_since(revoked.ended).max(0.0));
            told.push(revoked.told.ms_since(revoked.ended).max(0.0));
            noted.push(revoked.refused.ms_since(revoked.noted));
            typed.push(revoked.refused.ms_since(revoked.typed));
        }
    }
    delays(report, "from the command's end to a refusal", &mut refused, Some(SOON));
    delays(report, "from the command's end until a tab hears", &mut told, Some(SOON));
    // Two waits for the disk are among these; on a busy one they are most of it.
    delays(report, "from before its transaction to a refusal", &mut noted, None);
    delays(report, "from the command's start to a refusal", &mut typed, None);
    Ok(())
}

struct Revoked {
    typed: Moment,
    /// The command's own word in the row, just before it writes and commits it; whole milliseconds.
    noted: Moment,
    ended: Moment,
    refused: Moment,
    told: Moment,
}

async fn revoke(replica: &Replica, url: &Url, folder: &Path) -> Outcome<Revoked> {
    let cookies = visitor::sign_in(&replica.http, url, "alice").await?;
    let listed = replica.get("/auth/sessions", &cookies).send().await?.text().await?;
    let listed: Value = serde_json::from_str(&listed)?;
    let sessions = listed.get("sessions").and_then(Value::as_array).ok_or("no list of sessions")?;
    let own = sessions.iter().find(|session| session.get("current") == Some(&Value::Bool(true)));
    let id = own.and_then(|own| own.get("id")).and_then(Value::as_str).ok_or("no session of one's own")?;
    let tab = replica.clone().tab(cookies.clone()).await?;
    let refused = tokio::spawn(replica.clone().refuses(cookies));
    let typed = Moment::now();
    let mut command = tokio::process::Command::new(program());
    command.args(["sessions", "revoke", id]).current_dir(folder);
    let ran = command.stdin(Stdio::null()).output().await?;
    let ended = Moment::now();
    if !ran.status.success() {
        return Err(format!("the command failed: {}", String::from_utf8_lossy(&ran.stderr)).into());
    }
    let (refused, told) = (refused.await??, tab.await??);
    let address = format!("sqlite:{}", folder.join("doorward.db").display());
    let mut database = SqliteConnection::connect(&address).await?;
    let row = sqlx::query("SELECT revoked_at FROM sessions WHERE id = ?").bind(id);
    let noted: i64 = row.fetch_one(&mut database).await?.try_get(0)?;
    database.close().await?;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century")]
    let noted = Moment(noted as f64);
    Ok(Revoked { typed, noted, ended, refused, told })
}
