//! The database or the provider is away, at the start or later: alive, not ready, refused in time, well again by itself.

use std::time::{Duration, Instant};

use sqlx::Connection as _;

use super::SHUTDOWN;
use crate::house::browser::{Browser, Page};
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, me, signal, signed_in};
use crate::house::servers::postgres;

/// RE-02: a refusal takes less.
const LIMIT: Duration = Duration::from_secs(3);

fn is_closed(page: &Page) {
    assert_eq!(page.status, 503, "{}", page.text());
    assert!(page.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{:?}", page.headers);
    assert_eq!(page.header("content-type"), Some("application/problem+json"));
    let problem = page.json();
    assert_eq!(problem["code"], "database_unavailable", "{problem}");
    assert_eq!(problem["status"], 503, "{problem}");
    assert!(!page.text().contains("postgres"), "{}", page.text());
}

/// Everything that needs the database is refused in time, and nobody is let in.
async fn refuses_in_time(process: &Process, guest: &Browser) {
    for path in ["/auth/me", "/auth/sessions", "/protected"] {
        let asked = Instant::now();
        let page = guest.get_json(path).await;
        assert!(asked.elapsed() < LIMIT, "{path} took {:?}", asked.elapsed());
        is_closed(&page);
    }
    let asked = Instant::now();
    let ready = process.operations("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.json()["database"], "unavailable");
    assert!(asked.elapsed() < LIMIT, "readyz took {:?}", asked.elapsed());
    assert_eq!(process.operations("/healthz").await.status, 200);
}

#[tokio::test]
async fn re_03_with_postgresql_down_it_starts_is_alive_and_opens_by_itself() {
    let op = ScriptedOp::start().await;
    let mut cluster = postgres::own_cluster().await;
    cluster.stop().await;
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &cluster.url("doorward"));
    let mut process = home.serve().await;
    process.heard("the door stays closed").await;
    let browser = process.browser();
    for path in ["/", "/auth/login", "/auth/me", "/protected"] {
        is_closed(&browser.get(path).await);
    }
    assert_eq!(process.operations("/healthz").await.status, 200);
    let ready = process.operations("/readyz").await;
    assert_eq!((ready.status, ready.json()["database"].as_str()), (503, Some("unavailable")));
    // A reload asked for too early must not end the process.
    process.signal("HUP");
    cluster.start().await;
    process.ready().await;
    let guest = signed_in(&process).await;
    assert_eq!(me(&guest).await, 200);
    process.stop().await;
}

#[tokio::test]
async fn a_stop_is_heard_while_the_database_is_down() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", "postgres://doorward@127.0.0.1:9/doorward");
    for wait_ms in [0, 400, 900] {
        let mut process = home.serve().await;
        process.heard("the door stays closed").await;
        // Any moment must do, in the middle of a try as well as between two.
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        process.signal("TERM");
        assert_eq!(process.exit(SHUTDOWN).await, Some(0), "{}", process.log());
    }
}

#[tokio::test]
async fn re_01_re_03_with_the_provider_down_it_starts_and_says_so_to_people() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    op.stop().await;
    let mut process = home.serve().await;
    process.heard("listening").await;
    let browser = process.browser();
    let deadline = Instant::now() + Duration::from_secs(10);
    let page = loop {
        // The public listener opens a moment after the log line.
        match browser.try_get("/").await {
            Ok(page) if page.status == 200 => break browser.navigate("/auth/login").await,
            _ => assert!(Instant::now() < deadline, "{}", process.log()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(page.status, 503);
    assert!(
        page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")),
        "{:?}",
        page.headers
    );
    assert!(page.header("retry-after").is_some());
    assert!(page.text().contains("The sign-in service does not answer"), "{}", page.text());
    let program = browser.get_json("/auth/login").await;
    assert_eq!(program.json()["code"], "provider_unavailable");
    assert_eq!(process.operations("/healthz").await.status, 200);
    let ready = process.operations("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.json()["providers"]["op"], "unavailable");

    op.start_again().await;
    process.ready().await;
    let guest = signed_in(&process).await;
    // Who is signed in works on when the provider goes, and new ones are told.
    op.stop().await;
    assert_eq!(me(&guest).await, 200);
    assert_eq!(guest.navigate("/protected").await.status, 200);
    op.start_again().await;
    signed_in(&process).await;
    process.stop().await;
}

#[tokio::test]
async fn re_02_a_database_lost_while_running_is_refused_in_time_and_found_again() {
    let op = ScriptedOp::start().await;
    let mut cluster = postgres::own_cluster().await;
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &cluster.url("doorward"));
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    cluster.stop().await;
    refuses_in_time(&process, &guest).await;
    cluster.start().await;
    process.ready().await;
    assert_eq!(me(&guest).await, 200, "{}", process.log());
    signed_in(&process).await;
    process.stop().await;
}

/// Stopped processes go on when this value ends, also when the test fails: nobody else could stop them for good.
struct Frozen(Vec<u32>);

impl Frozen {
    /// Every process of the cluster.
    async fn cluster(url: &str) -> Self {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        let (main,): (String,) =
            sqlx::query_as("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        let backends: Vec<(i32,)> =
            sqlx::query_as("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'doorward%'")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        connection.close().await.unwrap();
        let backends = backends.into_iter().map(|(pid,)| u32::try_from(pid).unwrap());
        let frozen = Self(std::iter::once(main.trim().parse().unwrap()).chain(backends).collect());
        frozen.0.iter().for_each(|pid| signal(*pid, "STOP"));
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that ended meanwhile needs no waking.
            let _ = std::process::Command::new("sh").arg("-c").arg(format!("kill -s CONT {pid}")).status();
        }
    }
}

#[tokio::test]
async fn re_02_a_frozen_database_is_refused_in_time_and_found_again() {
    let op = ScriptedOp::start().await;
    let cluster = postgres::own_cluster().await;
    let url = cluster.url("doorward");
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &url);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    let frozen = Frozen::cluster(&url).await;
    refuses_in_time(&process, &guest).await;
    drop(frozen);
    process.ready().await;
    assert_eq!(me(&guest).await, 200, "{}", process.log());
    signed_in(&process).await;
    process.stop().await;
}
