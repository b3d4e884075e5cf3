//! What the app behind the door receives, and what its answers become: one story each, on raw sockets where bytes matter.

mod addresses;
mod attached;
mod bodies;
mod sockets;
pub mod spa;
pub mod stage;
mod streams;

use self::stage::{Stage, body, cookie_line, status};
use crate::house::upstream::Step;

#[tokio::test]
async fn a_request_reaches_the_app_with_who_is_there_and_its_answer_comes_back() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    stage.app.always(vec![Step::answer(
        "201 Made",
        "x-app: 1\r\nserver: app/1\r\nset-cookie: theme=dark\r\n",
        "made",
    )]);
    let page = browser.with_header("x-mine", "2").get("/in/a%20b?c=d%2Fe").await;
    assert_eq!((page.status, page.text().as_str()), (201, "made"));
    assert_eq!((page.header("x-app"), page.header("server")), (Some("1"), Some("app/1")));
    assert_eq!(page.set_cookies()[0].name, "theme");
    assert_eq!(page.header("cache-control"), Some("private"), "made for one person");
    assert_eq!(page.header("content-security-policy"), None, "the app's pages are its own");
    let seen = stage.app.last();
    assert_eq!(seen.line(), "GET /in/a%20b?c=d%2Fe HTTP/1.1");
    assert_eq!(seen.one("host"), Some(stage.host()));
    assert_eq!(seen.one("x-mine"), Some("2"));
    assert_eq!(seen.one("x-auth-user"), Some("alice"));
    assert_eq!(seen.one("x-auth-provider"), Some("op"));
    assert_eq!(seen.one("x-auth-email"), Some("alice@example.test"));
    assert_eq!(seen.one("x-auth-name"), Some("alice%20Tester"));
    assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.one("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.one("x-forwarded-host"), Some(stage.host()));
    assert_eq!(seen.one("x-request-id"), page.header("x-request-id"));
    assert_eq!((seen.one("cookie"), seen.one("content-length"), seen.one("connection")), (None, None, None));
}

#[tokio::test]
async fn nobody_is_nobody_on_a_public_route_and_is_not_let_in_elsewhere() {
    let stage = Stage::open().await;
    let answer = stage.ask("GET /pub/x", "").await;
    assert_eq!((status(&answer), body(&answer)), (200, "hello"));
    assert!(!stage.app.last().head.to_lowercase().contains("x-auth-"), "{}", stage.app.last().head);
    stage.app.forget();
    let program = stage.ask("GET /in/x", "").await;
    assert_eq!(status(&program), 401);
    assert!(program.contains("not_signed_in") && program.contains("www-authenticate: Bearer"), "{program}");
    let person = stage.ask("GET /in/x?y=z", "accept: text/html\r\nsec-fetch-mode: navigate\r\n").await;
    assert_eq!(status(&person), 303);
    assert!(person.contains("location: /auth/login?return_to=%2Fin%2Fx%3Fy%3Dz\r\n"), "{person}");
    let form = stage
        .ask("POST /in/x", "accept: text/html\r\nsec-fetch-mode: navigate\r\ncontent-length: 0\r\n")
        .await;
    assert_eq!(status(&form), 401, "a POST cannot be repeated as GET");
    let fetch = stage.ask("GET /in/x", "accept: text/html\r\nsec-fetch-mode: cors\r\n").await;
    assert_eq!(status(&fetch), 401);
    stage.app.assert_silent("nobody");
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one_and_the_connection_lives_on() {
    let stage = Stage::open().await;
    stage.app.plan(|seen| {
        let text = match seen.target() {
            "/pub/204" => "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "/pub/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n",
            "/pub/head" => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
            "/pub/head-chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "/pub/early-hints" => {
                "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nend",
        };
        vec![Step::send(text)]
    });
    let mut wire = stage.wire().await;
    for (line, code, length) in [
        ("GET /pub/204", "204", None),
        ("GET /pub/304", "304", Some("1234")),
        ("HEAD /pub/head", "200", Some("1234")),
        ("HEAD /pub/head-chunked", "200", None),
        ("GET /pub/early-hints", "200", Some("0")),
    ] {
        wire.send(stage.head(line, "")).await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{line}: {head}");
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(announced, length, "{line}: {head}");
        assert_eq!(head.matches("content-length").count(), usize::from(length.is_some()), "{line}: {head}");
    }
    wire.send(stage.head("GET /pub/last", "connection: close\r\n")).await;
    assert!(wire.rest().await.ends_with(b"\r\n\r\nend"));
    assert_eq!(stage.app.seen().len(), 6);
}

#[tokio::test]
async fn an_old_client_gets_no_chunks() {
    let stage = Stage::open().await;
    stage.app.always(vec![Step::send(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )]);
    let mut wire = stage.wire().await;
    wire.send(format!("GET /pub/x HTTP/1.0\r\nhost: {}\r\n\r\n", stage.host())).await;
    let answer = String::from_utf8(wire.rest().await).unwrap();
    assert!(answer.ends_with("\r\n\r\nabcde"), "{answer}");
    assert!(!answer.contains("chunked"), "{answer}");
}

#[tokio::test]
async fn a_single_page_app_of_a_listed_origin_may_ask_and_read_and_no_other() {
    let stage = Stage::with(|plan| plan.set("CORS__ORIGINS", r#"["https://spa.example"]"#)).await;
    let browser = stage.signed_in().await;
    let cookie = cookie_line(&browser);
    stage.app.always(vec![
        Step::ReadBody,
        Step::answer(
            "200 OK",
            "access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n",
            "data",
        ),
    ]);
    let preflight = "access-control-request-method: PUT\r\naccess-control-request-headers: x-csrf\r\n";
    let granted = stage.ask("OPTIONS /in/x", &format!("origin: https://spa.example\r\n{preflight}")).await;
    assert_eq!(status(&granted), 204);
    for line in [
        "access-control-allow-origin: https://spa.example\r\n",
        "access-control-allow-methods: PUT\r\n",
        "access-control-allow-headers: x-csrf\r\n",
        "access-control-allow-credentials: true\r\n",
    ] {
        assert!(granted.contains(line), "{line}: {granted}");
    }
    let refused = stage.ask("OPTIONS /in/x", &format!("origin: https://evil.example\r\n{preflight}")).await;
    assert_eq!(status(&refused), 401);
    assert!(!refused.contains("access-control-allow"), "{refused}");
    stage.app.assert_silent("preflights");
    for (origin, reads) in [("https://spa.example", true), ("https://evil.example", false), ("null", false)] {
        let answer = stage.ask("GET /in/x", &format!("origin: {origin}\r\n{cookie}")).await;
        assert_eq!(status(&answer), 200, "{origin}");
        let allowed =
            answer.lines().filter(|line| line.starts_with("access-control-allow-origin")).collect::<Vec<_>>();
        let expected: Vec<String> =
            reads.then(|| format!("access-control-allow-origin: {origin}")).into_iter().collect();
        assert_eq!(allowed, expected, "{answer}");
        assert_eq!(answer.contains("access-control-allow-credentials"), reads, "{answer}");
        assert!(answer.contains("vary: Origin"), "{answer}");
        let nobody = stage.ask("GET /in/x", &format!("origin: {origin}\r\n")).await;
        assert_eq!(
            (status(&nobody), nobody.contains("access-control-allow-origin")),
            (401, reads),
            "errors too"
        );
        stage.app.forget();
        let post =
            stage.ask("POST /in/x", &format!("origin: {origin}\r\ncontent-length: 0\r\n{cookie}")).await;
        assert_eq!(status(&post), if reads { 200 } else { 403 }, "{origin}: {post}");
        if !reads {
            stage.app.assert_silent(origin);
        }
    }
}

#[tokio::test]
async fn a_reload_moves_the_app_while_requests_go_on() {
    let stage = Stage::open().await;
    let other = crate::house::upstream::FakeUpstream::start().await;
    other.always(vec![Step::answer("200 OK", "", "other")]);
    assert_eq!(body(&stage.ask("GET /pub/x", "").await), "hello");
    let app = stage.house.app();
    let setup = app.setup();
    let mut config = setup.config.clone();
    config.upstreams.iter_mut().find(|upstream| upstream.id == "app").unwrap().urls = vec![other.url()];
    let ring = doorward::crypto::KeyRing::new(
        "k1",
        vec![(
            "k1".to_owned(),
            doorward::crypto::MasterKey::from_bytes(&crate::house::process::random_key()).unwrap(),
        )],
    );
    let next =
        doorward::app::Setup::build(config, ring.unwrap(), &app.clock, &app.random, Some(&setup)).unwrap();
    app.refurnish(next);
    assert_eq!(body(&stage.ask("GET /pub/x", "").await), "other");
}
