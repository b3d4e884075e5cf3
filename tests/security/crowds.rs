//! Crowds at the door: those who take their time on purpose, and more than it can serve. Who behaves gets in meanwhile.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::load::resident_kib;
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, op_config, signed_in};
use crate::house::upstream::{FakeUpstream, Step, Wire};
use crate::proxy::stage::{cookie_line, routes, status};

/// A process of its own with an app behind it.
async fn house(op: &ScriptedOp, app: &FakeUpstream) -> (Home, Process) {
    let home = Home::with_config(&op_config(op, &routes(&format!("\"{}\"", app.url()))));
    home.write("secrets/op", op.script(|s| s.client_secret.clone()));
    home.write_key("secrets/k1");
    let process = home.open().await;
    (home, process)
}

fn host(process: &Process) -> &str {
    process.public_url.trim_start_matches("http://")
}

/// Many connections that begin like this.
async fn begin(process: &Process, count: usize, text: &str) -> Vec<Wire> {
    let mut wires = Vec::new();
    for _ in 0..count {
        let mut wire = Wire::open(process.public).await;
        wire.send(text).await;
        wires.push(wire);
    }
    wires
}

/// Times five people sign in at once, and all get in; how long five of them usually took.
async fn logins(process: &Process, times: usize) -> Duration {
    let mut took = Vec::new();
    for _ in 0..times {
        let asked = Instant::now();
        for guest in join_all((0..5).map(|_| signed_in(process))).await {
            assert_eq!(guest.get_json("/auth/me").await.status, 200);
        }
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    took[times / 2]
}

#[tokio::test]
async fn ht_08_ht_10_two_thousand_slow_connections_keep_nobody_from_signing_in() {
    let (op, app) = (ScriptedOp::start().await, FakeUpstream::start().await);
    app.plan(|seen| match seen.target() {
        "/pub/flood" => vec![
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n"),
            Step::Flood(1 << 28),
        ],
        _ => vec![Step::ReadBody, Step::answer("200 OK", "", "hello")],
    });
    let (_home, process) = house(&op, &app).await;
    let host = host(&process);
    let usual = logins(&process, 5).await;
    let before = resident_kib(process.id());
    let began = Instant::now();
    let heads = begin(&process, 800, &format!("GET /auth/login HTTP/1.1\r\nhost: {host}\r\nx-slow: ")).await;
    let own = format!(
        "POST /auth/logout HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nx-csrf: 1\r\ncontent-length: 60000\r\n\r\n{{"
    );
    let mut bodies = begin(&process, 400, &own).await;
    let theirs = format!("POST /big/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 60000\r\n\r\n{{");
    bodies.extend(begin(&process, 400, &theirs).await);
    let readers = begin(&process, 400, &format!("GET /pub/flood HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    // Each sends a byte now and then, as a slow line would.
    let drip = tokio::spawn(async move {
        let mut slow: Vec<Wire> = heads.into_iter().chain(bodies).collect();
        for _ in 0..100 {
            for wire in &mut slow {
                wire.send("a").await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        slow
    });
    let meanwhile = logins(&process, 20).await;
    assert!(meanwhile < usual * 5, "five logins took {meanwhile:?}, and {usual:?} before");
    let grown = resident_kib(process.id()).saturating_sub(before);
    assert!(grown < 160 * 1024, "{grown} KiB for 2,000 connections");
    // Who has not sent a whole head in ten seconds is shown out; who only reads slowly may stay.
    let mut slow = drip.await.unwrap();
    for head in slow.iter_mut().take(800) {
        let told = String::from_utf8_lossy(&head.rest().await).into_owned();
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
    }
    assert!(began.elapsed() > Duration::from_secs(9), "slow is not hostile at once");
    drop(readers);
}

/// Signed-in people who ask again as soon as they are answered; how long each answer took, the shortest first.
async fn crowd(process: &Process, cookie: &str, people: usize) -> Vec<Duration> {
    let request = format!("GET /in/x HTTP/1.1\r\nhost: {}\r\n{cookie}\r\n", host(process));
    let mut visitors = JoinSet::new();
    for _ in 0..people {
        let (request, address) = (request.clone(), process.public);
        visitors.spawn(async move {
            let (mut wire, mut took) = (Wire::open(address).await, Vec::new());
            let until = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < until {
                let asked = Instant::now();
                wire.send(&request).await;
                let answer = wire.until("hello").await;
                took.push(asked.elapsed());
                assert_eq!(status(&answer), 200, "{answer}");
            }
            took
        });
    }
    let mut all: Vec<Duration> = visitors.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn ds_06_under_twice_the_load_it_can_take_the_door_slows_down_and_does_not_break_down() {
    let (op, app) = (ScriptedOp::start().await, FakeUpstream::start().await);
    let (_home, process) = house(&op, &app).await;
    let cookie = cookie_line(&signed_in(&process).await);
    let late = |took: &[Duration]| took[took.len() * 95 / 100];
    // Sixty-four who never pause are all it can take: more of them only wait for each other.
    let warm = crowd(&process, &cookie, 64).await;
    let before = resident_kib(process.id());
    let mut slowdowns = Vec::new();
    for _ in 0..3 {
        let usual = late(&crowd(&process, &cookie, 64).await);
        let twice = late(&crowd(&process, &cookie, 128).await);
        slowdowns.push(twice.as_secs_f64() / usual.as_secs_f64());
    }
    let grown = resident_kib(process.id()).saturating_sub(before);
    slowdowns.sort_by(f64::total_cmp);
    assert!(warm.len() > 100, "{} answers are no load", warm.len());
    assert!(slowdowns[0] <= 5.0, "{slowdowns:?} times the usual time");
    assert!(grown < 16 * 1024, "{grown} KiB more");
}
