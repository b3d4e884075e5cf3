//! Connections and addresses of an app: kept, closed meanwhile, several, ill, behind TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_rustls::TlsAcceptor;

use super::stage::{Stage, body, routes, status};
use crate::house::home::{TestHouse, free_port, op_provider};
use crate::house::op::ScriptedOp;
use crate::house::upstream::{FakeUpstream, Step, Wire};
use crate::security::crypto_tls::{Authority, acceptor};

async fn ask(house: &TestHouse, line: &str) -> String {
    let host = house.url.trim_start_matches("http://");
    let mut wire = Wire::open(house.address).await;
    wire.send(format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
    String::from_utf8_lossy(&wire.rest().await).into_owned()
}

async fn house_at(op: &ScriptedOp, urls: &str, more: &str) -> TestHouse {
    let text = format!("{}{}", op_provider("op", op), routes(urls));
    let text = text.replacen("id = \"app\"\n", &format!("id = \"app\"\n{more}\n"), 1);
    TestHouse::with(&text).open().await
}

#[tokio::test]
async fn px_19_a_request_is_repeated_only_where_that_changes_nothing() {
    let stage = Stage::open().await;
    let mut wire = stage.wire().await;
    // One connection is kept; the app reads the next request on it and dies without a word.
    let deaths = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deaths);
    stage.app.plan(move |seen| {
        if seen.target().contains("die") && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            vec![Step::Close]
        } else {
            vec![Step::ReadBody, Step::answer("200 OK", "", "hello")]
        }
    });
    for (method, framing, repeated) in [
        ("GET", "", true),
        ("HEAD", "", true),
        ("DELETE", "", true),
        ("POST", "content-length: 0\r\n", false),
        ("PATCH", "", false),
        ("PUT", "content-length: 3\r\n\r\nabc", false),
        ("GET", "content-length: 3\r\n\r\nabc", false),
    ] {
        wire.send(stage.head("GET /pub/keep", "")).await;
        wire.until("hello").await;
        deaths.store(0, Ordering::SeqCst);
        stage.app.forget();
        let before = stage.app.connections();
        let (framing, payload) =
            framing.split_once("\r\n\r\n").map_or((framing.to_owned(), ""), |(f, p)| (format!("{f}\r\n"), p));
        // Over the same wire, so that the worker is the one that keeps the connection.
        wire.send(stage.head(&format!("{method} /pub/die"), &framing) + payload).await;
        let head = wire.head().await;
        let case = format!("{method} {framing:?}: {head}");
        assert_eq!(status(&head), if repeated { 200 } else { 502 }, "{case}");
        assert_eq!(stage.app.seen().len(), if repeated { 2 } else { 1 }, "{case}");
        assert_eq!(stage.app.connections() - before, usize::from(repeated), "{case}");
        wire = stage.wire().await;
    }
    // A fresh connection that dies is an answer: it is not asked again.
    stage.app.forget();
    stage.app.always(vec![Step::Close]);
    assert_eq!(status(&stage.ask("GET /pub/always", "").await), 502);
    assert_eq!(stage.app.seen().len(), 1);
}

#[tokio::test]
async fn connections_are_kept_and_one_that_was_closed_meanwhile_is_noticed() {
    let stage = Stage::open().await;
    let mut wire = stage.wire().await;
    for _ in 0..20 {
        wire.send(stage.head("GET /pub/x", "")).await;
        wire.until("hello").await;
    }
    assert_eq!(stage.app.connections(), 1);
    stage.app.always(vec![Step::ReadBody, Step::answer("200 OK", "", "hello"), Step::Close]);
    for n in 1..5 {
        wire.send(stage.head("POST /pub/x", "content-length: 1\r\n") + "a").await;
        wire.until("hello").await;
        stage.app.until("it is closed", |seen| seen.last().is_some_and(|seen| seen.is_closed)).await;
        assert_eq!(stage.app.connections(), n, "a POST never meets a dead connection");
    }
}

#[tokio::test]
async fn of_several_addresses_one_that_is_down_is_passed_over_and_comes_back() {
    let op = ScriptedOp::start().await;
    let (one, two) = (FakeUpstream::start().await, FakeUpstream::start().await);
    one.always(vec![Step::ReadBody, Step::answer("200 OK", "", "one")]);
    two.always(vec![Step::ReadBody, Step::answer("200 OK", "", "two")]);
    let dead = free_port();
    let urls = format!("\"{}\", \"http://127.0.0.1:{dead}\", \"{}\"", one.url(), two.url());
    let house = house_at(&op, &urls, "").await;
    let mut said = Vec::new();
    for _ in 0..12 {
        let answer = ask(&house, "GET /pub/x").await;
        assert_eq!(status(&answer), 200, "{answer}");
        said.push(body(&answer).to_owned());
    }
    assert!(said.contains(&"one".to_owned()) && said.contains(&"two".to_owned()), "{said:?}");
    let house = house_at(&op, &format!("\"http://127.0.0.1:{dead}\""), "").await;
    assert_eq!(status(&ask(&house, "GET /pub/x").await), 502);
}

#[tokio::test]
async fn an_address_whose_health_path_fails_gets_no_requests_until_it_is_well() {
    let op = ScriptedOp::start().await;
    let (ill, well) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let answers = |health: &'static str, name: &'static str| {
        move |seen: &crate::house::upstream::Seen| match seen.target() {
            "/healthz?deep" => vec![Step::answer(health, "", "")],
            _ => vec![Step::ReadBody, Step::answer("200 OK", "", name)],
        }
    };
    ill.plan(answers("503 Down", "ill"));
    well.plan(answers("200 OK", "well"));
    let urls = format!("\"{}\", \"{}\"", ill.url(), well.url());
    let house = house_at(&op, &urls, "health_path = \"/healthz?deep\"").await;
    house.app().setup().upstreams.probe().await;
    assert_eq!(ill.last().one("user-agent"), Some("doorward-health"));
    for _ in 0..6 {
        assert_eq!(body(&ask(&house, "GET /pub/x").await), "well");
    }
    ill.plan(answers("204 Fine", "ill"));
    house.app().setup().upstreams.probe().await;
    let mut said = Vec::new();
    for _ in 0..6 {
        said.push(body(&ask(&house, "GET /pub/x").await).to_owned());
    }
    assert!(said.contains(&"ill".to_owned()), "{said:?}");
}

#[tokio::test]
async fn px_13_an_app_behind_tls_must_show_a_certificate_of_its_authority() {
    let op = ScriptedOp::start().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let secure = |leaf| async move {
        let acceptor: TlsAcceptor = acceptor(&leaf);
        FakeUpstream::start_with(move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        })
        .await
    };
    let good = secure(authority.sign("good", "DNS:localhost", 30)).await;
    let other_name = secure(authority.sign("other", "DNS:elsewhere.example", 30)).await;
    let foreign = secure(stranger.sign("foreign", "DNS:localhost", 30)).await;
    let ca = format!("tls_ca_file = \"{}\"", authority.file().display());
    for (app, trusted, expected) in
        [(&good, ca.as_str(), 200), (&good, "", 502), (&other_name, &ca, 502), (&foreign, &ca, 502)]
    {
        let url = format!("\"https://localhost:{}\"", app.address.port());
        let house = house_at(&op, &url, trusted).await;
        let answer = ask(&house, "GET /pub/x").await;
        assert_eq!(status(&answer), expected, "{trusted}: {answer}");
        if expected != 200 {
            app.assert_silent("not trusted");
        }
        app.forget();
    }
}
