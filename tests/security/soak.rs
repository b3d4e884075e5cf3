//! RE-12, LG-09: what a house is like after a lot of everything, and after panics in the middle of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::password::{login, memory_kib};
use crate::house::browser::Browser;
use crate::house::databases::Database;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};
use crate::house::process::{Home, Process, me, signed_in};
use crate::house::servers::http;

/// What a leak would show in.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    files: usize,
    threads: usize,
    database: usize,
}

impl Held {
    async fn by(process: &Process) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", process.id())).unwrap().count();
        let metrics = process.operations("/metrics").await.text();
        let gauge =
            |line: &str| line.strip_prefix("doorward_database_connections{state=\"used\"} ")?.parse().ok();
        Self {
            memory_kib: memory_kib(process.id(), "VmRSS:"),
            files: count("fd"),
            threads: count("task"),
            database: metrics.lines().find_map(gauge).unwrap_or_default(),
        }
    }

    /// Visitors are gone; their connections are closed a moment later.
    async fn settled(process: &Process, like: Option<&Self>) -> Self {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let held = Self::by(process).await;
            let is_back =
                like.is_none_or(|like| held.files <= like.files + 4 && held.database <= like.database);
            if (is_back && like.is_some()) || Instant::now() > patience {
                return held;
            }
            if like.is_none() && held.database == 0 {
                return held;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One visitor's hour: signs in, looks around, is refused things, and leaves.
async fn visit(process: &Process) {
    let person = signed_in(process).await;
    for path in ["/protected", "/auth/account", "/no-such-page", "/auth/login?return_to=/protected"] {
        person.navigate(path).await;
    }
    assert_eq!(me(&person).await, 200);
    let program = process.browser();
    let answer = login(&program, "alice", "pass").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let held = serde_json::json!({ "sessionId": body["sessionId"], "refreshToken": body["tokens"]["refresh_token"] });
    let fresh = program.post_json("/auth/refresh", &held).await;
    assert!([200, 429].contains(&fresh.status), "{}", fresh.text());
    assert_eq!(login(&program, "alice", "wrong").await.status, 401);
    assert_eq!(process.browser().get("/auth/callback/op?state=made-up&code=x").await.status, 400);
    assert_eq!(person.post_form("/auth/logout", &[]).await.status, 303);
    assert_eq!(me(&person).await, 401);
}

async fn visits(process: &Process, for_: Duration) -> usize {
    let until = Instant::now() + for_;
    let lanes = (0..4).map(|_| async {
        let mut count = 0;
        while Instant::now() < until {
            visit(process).await;
            count += 1;
        }
        count
    });
    join_all(lanes).await.into_iter().sum()
}

/// Some seconds of mixed load; `DOORWARD_TEST_LONG` makes them an hour.
#[tokio::test]
async fn re_12_mixed_load_leaves_memory_files_threads_and_connections_as_they_were() {
    let long = std::env::var_os("DOORWARD_TEST_LONG").is_some();
    let (warm_up, load) = if long {
        (Duration::from_mins(2), Duration::from_hours(1))
    } else {
        (Duration::from_secs(4), Duration::from_secs(8))
    };
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.password = Some(("alice".into(), "pass".into()));
        s.person = Person::named("alice");
    });
    let db = Database::postgres().await;
    let mut home = Home::with_op(&op)
        .env("DOORWARD__DATABASE__URL", &db.url)
        .env("DOORWARD__PROVIDER__OP__PASSWORD_LOGIN", "true")
        .env("DOORWARD__LOG__LEVEL", "warn,doorward::server=info");
    for limit in
        ["LOGIN_START", "CALLBACK", "REFRESH", "PASSWORD_FAILURES_ADDRESS", "PASSWORD_FAILURES_IDENTIFIER"]
    {
        home.set_env(&format!("DOORWARD__LIMITS__{limit}"), "off");
    }
    let mut process = home.open().await;
    visits(&process, warm_up).await;
    let before = Held::settled(&process, None).await;
    let count = visits(&process, load).await;
    let after = Held::settled(&process, Some(&before)).await;
    eprintln!("{count} visits: {before:?} then {after:?}");
    assert!(count >= 4, "{count} visits are no load");
    // Sessions of the load stay until they are swept; they live in the database, and nothing here grows with them.
    assert!(after.memory_kib < before.memory_kib + 16 * 1024, "{before:?} {after:?}");
    assert!(after.files <= before.files + 4, "{before:?} {after:?}");
    assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    assert!(after.database <= before.database, "{before:?} {after:?}");
    assert!(process.is_alive());
    process.stop().await;
}

/// A server of the same layers, with one route that panics.
struct Rigged {
    address: std::net::SocketAddr,
    handle: actix_web::dev::ServerHandle,
}

async fn rigged(house: &TestHouse) -> Rigged {
    use actix_web::{App, HttpResponse, HttpServer, middleware::from_fn, web};
    let app = house.app();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                App::new()
                    .wrap(from_fn(doorward::web::layer))
                    .app_data(web::Data::new(doorward::web::Door::new(Arc::clone(&app), &[7; 64], false)))
                    .route("/auth/boom", web::get().to(|| async { boom().await }))
                    .route("/auth/fine", web::get().to(HttpResponse::Ok))
            })
            .workers(2)
            .disable_signals()
            .bind("127.0.0.1:0")
            .unwrap();
            let address = server.addrs().remove(0);
            let server = server.run();
            let _ = tell.send(Rigged { address, handle: server.handle() });
            let _ = server.await;
        });
    });
    told.await.unwrap()
}

async fn boom() -> actix_web::HttpResponse {
    tokio::task::yield_now().await;
    panic!("canary in a panic");
}

#[tokio::test]
async fn lg_09_panics_under_load_are_500s_and_nobody_else_notices() {
    let house = TestHouse::open().await;
    let host = house.url.trim_start_matches("http://").to_owned();
    let rigged = rigged(&house).await;
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let ask = |path: &'static str| {
        let (client, host, address) = (http(), host.clone(), rigged.address);
        move || {
            let request = client.get(format!("http://{address}{path}")).header("host", &host);
            async move {
                let answer = request.send().await.expect("an answer, not a broken connection");
                (answer.status().as_u16(), answer.text().await.unwrap())
            }
        }
    };
    let mut others = JoinSet::new();
    for _ in 0..8 {
        let (over, served, fine) = (Arc::clone(&over), Arc::clone(&served), ask("/auth/fine"));
        others.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(fine().await.0, 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let boom = ask("/auth/boom");
    for _ in 0..10 {
        for (status, text) in join_all((0..20).map(|_| boom())).await {
            assert_eq!(status, 500, "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }
    over.store(true, Ordering::SeqCst);
    others.join_all().await;
    assert!(served.load(Ordering::SeqCst) > 20, "{served:?} served beside 200 panics");
    assert_eq!(ask("/auth/fine")().await.0, 200);
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    let told = metrics.lines().any(|line| {
        line.starts_with("doorward_http_requests_total") && line.contains("500") && line.ends_with(" 200")
    });
    assert!(told, "{metrics}");
    rigged.handle.stop(false).await;
}
