//! Chapter 12 as far as the front door goes: which host, which method, how much. On raw sockets, so that nothing is tidied on the way.

use std::net::SocketAddr;

use crate::house::browser::raw;
use crate::house::home::{BrokenClock, TestHouse};

/// The status of each answer on the connection, in order, and all that came.
async fn ask(address: SocketAddr, bytes: impl Into<Vec<u8>>) -> (Vec<u16>, String) {
    let bytes = bytes.into();
    let answer = tokio::task::spawn_blocking(move || raw(address, &bytes)).await.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let statuses = text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect();
    (statuses, text)
}

/// One request that closes its connection.
fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")
}

fn host_of(house: &TestHouse) -> String {
    house.url.trim_start_matches("http://").to_owned()
}

async fn assert_open(house: &TestHouse) {
    assert_eq!(house.browser().navigate("/").await.status, 200, "the door lives on");
}

#[tokio::test]
async fn px_12_another_host_is_421_a_loopback_name_is_redirected_and_disagreement_is_400() {
    let house = TestHouse::open().await;
    let own = host_of(&house);
    let port = house.address.port();
    let table: Vec<(String, String, u16)> = vec![
        ("GET /auth/me".into(), format!("host: {own}\r\n"), 401),
        ("GET /auth/me".into(), format!("Host: {}\r\n", own.to_uppercase()), 401),
        ("GET /auth/me".into(), "host: evil.example\r\n".into(), 421),
        ("GET /auth/me".into(), format!("host: {own}.evil.example\r\n"), 421),
        ("GET /auth/me".into(), format!("host: evil.example:{port}\r\n"), 421),
        ("GET /auth/me".into(), format!("host: {own}@evil.example\r\n"), 421),
        ("GET /auth/me".into(), "host: \r\n".into(), 421),
        ("GET /auth/me".into(), "host: h\u{f6}st\r\n".into(), 421),
        ("GET /".into(), "host: evil.example\r\nx-forwarded-host: localhost\r\n".into(), 421),
        ("GET /protected".into(), "host: evil.example\r\n".into(), 421),
        ("GET /auth/me".into(), String::new(), 400),
        ("GET /auth/me".into(), format!("host: {own}\r\nhost: {own}\r\n"), 400),
        ("GET /auth/me".into(), format!("host: {own}\r\nhost: evil.example\r\n"), 400),
        ("GET /auth/me".into(), format!("host: evil.example\r\nhost: {own}\r\n"), 400),
        (format!("GET http://{own}/auth/me"), format!("host: {own}\r\n"), 401),
        (format!("GET http://{own}/auth/me"), "host: evil.example\r\n".into(), 400),
        ("GET http://evil.example/auth/me".into(), format!("host: {own}\r\n"), 400),
        ("GET http://evil.example/auth/me".into(), "host: evil.example\r\n".into(), 421),
        (format!("GET http://u:p@{own}/auth/me"), format!("host: {own}\r\n"), 400),
        ("GET /auth/me".into(), format!("host: 127.0.0.1:{port}\r\n"), 303),
        ("GET /auth/me".into(), format!("host: [::1]:{port}\r\n"), 303),
        ("GET /auth/me".into(), "host: localhost\r\n".into(), 303),
        ("HEAD /auth/me".into(), format!("host: 127.0.0.1:{port}\r\n"), 303),
        ("POST /auth/logout".into(), format!("host: 127.0.0.1:{port}\r\n"), 421),
        ("OPTIONS *".into(), format!("host: {own}\r\n"), 400),
    ];
    for (line, headers, status) in table {
        let (statuses, text) = ask(house.address, request(&line, &headers)).await;
        assert_eq!(statuses, [status], "{line} {headers:?}: {text}");
        let location = text.lines().find(|l| l.to_lowercase().starts_with("location:"));
        if let Some(location) = location {
            assert!(location.trim_end().ends_with(&format!("{}/auth/me", house.url)), "{location}");
        }
        assert_eq!(location.is_some(), status == 303, "{line} {headers:?}");
    }
    assert_open(&house).await;
}

/// What looks like another host in the path of a loopback redirect stays a path.
#[tokio::test]
async fn px_12_the_loopback_redirect_leads_to_our_own_origin_alone() {
    let house = TestHouse::open().await;
    let port = house.address.port();
    for path in
        ["//evil.example", "//evil.example/%2e%2e", "/\\evil.example", "/@evil.example", "/?x=//evil.example"]
    {
        let line = format!("GET {path}");
        let (_, text) = ask(house.address, request(&line, &format!("host: 127.0.0.1:{port}\r\n"))).await;
        let location = text.lines().find_map(|l| l.strip_prefix("location: "));
        if let Some(location) = location {
            assert_eq!(
                url::Url::parse(location.trim()).unwrap().origin().ascii_serialization(),
                house.url,
                "{path}"
            );
        } else {
            assert!(text.starts_with("HTTP/1.1 400"), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn ht_09_trace_connect_and_unknown_methods_are_refused_and_told_what_is_taken() {
    let house = TestHouse::open().await;
    let own = host_of(&house);
    for (line, status) in [
        ("TRACE /auth/me", 405),
        ("TRACE /", 405),
        ("CONNECT /auth/me", 405),
        ("BREW /auth/me", 405),
        ("PROPFIND /auth/account", 405),
        ("PUT /auth/logout", 405),
        ("DELETE /auth/login", 405),
        ("POST /auth/signed-out", 405),
        ("GET /auth/refresh", 405),
        ("GET /auth/sessions/x", 405),
        ("PATCH /auth/callback/dev", 405),
        ("POST /auth/callback/dev", 405),
    ] {
        let headers = format!("host: {own}\r\nx-secret: canary-in-a-header\r\norigin: {}\r\n", house.url);
        let (statuses, text) = ask(house.address, request(line, &headers)).await;
        assert_eq!(statuses, [status], "{line}: {text}");
        assert!(!text.contains("canary"), "{line} echoes: {text}");
        assert!(text.contains("method_not_allowed"), "{line}: {text}");
        let of_ours = !line.starts_with("TRACE") && !line.starts_with("CONNECT");
        assert_eq!(text.contains("\nallow: "), of_ours, "{line}: {text}");
    }
    let (statuses, _) =
        ask(house.address, request("CONNECT evil.example:443", &format!("host: {own}\r\n"))).await;
    assert!(matches!(statuses[..], [400 | 405]), "{statuses:?}");
    assert_open(&house).await;
}

#[tokio::test]
async fn ht_08_each_limit_answers_properly_at_one_below_and_one_above() {
    let house = TestHouse::open().await;
    let own = host_of(&house);
    let target = |length: usize| {
        let line = format!("GET /{}", "a".repeat(length - 1));
        request(&line, &format!("host: {own}\r\n"))
    };
    assert_eq!(ask(house.address, target(8 * 1024)).await.0, [404]);
    let (statuses, text) = ask(house.address, target(8 * 1024 + 1)).await;
    assert_eq!(statuses, [414]);
    assert!(text.contains("too_large"), "{text}");
    // 16 KiB of names, values and separators.
    let fixed = "host".len() + own.len() + 4 + "connection".len() + "close".len() + 4 + "x".len() + 4;
    let head = |length: usize| {
        let headers = format!("host: {own}\r\nx: {}\r\n", "b".repeat(length - fixed));
        request("GET /", &headers)
    };
    assert_eq!(ask(house.address, head(16 * 1024)).await.0, [200]);
    let (statuses, text) = ask(house.address, head(16 * 1024 + 1)).await;
    assert_eq!(statuses, [431]);
    assert!(text.contains("too_large"), "{text}");
    let many: String = (0..200).fold(String::new(), |all, n| format!("{all}x-{n}: 1\r\n"));
    let (statuses, _) = ask(house.address, request("GET /", &format!("host: {own}\r\n{many}"))).await;
    assert!(matches!(statuses[..], [400 | 431]), "{statuses:?}");
    assert_open(&house).await;
}

#[tokio::test]
async fn ht_08_a_body_over_the_limit_is_413_and_never_read_as_the_next_request() {
    let house = TestHouse::open().await;
    let own = host_of(&house);
    let post = |length: usize, sent: usize| {
        format!(
            "POST /auth/logout HTTP/1.1\r\nhost: {own}\r\norigin: {}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{}",
            house.url,
            "a".repeat(sent)
        )
    };
    assert_eq!(ask(house.address, post(64 * 1024, 64 * 1024)).await.0, [303]);
    let (statuses, text) = ask(house.address, post(64 * 1024 + 1, 0)).await;
    assert_eq!(statuses, [413], "{text}");
    assert!(text.contains("too_large"));
    let smuggled = format!("{}GET /auth/me HTTP/1.1\r\nhost: {own}\r\n\r\n", post(1_000_000, 0));
    let (statuses, text) = ask(house.address, smuggled).await;
    assert_eq!(statuses, [413], "{text}");
    assert_open(&house).await;
}

#[tokio::test]
async fn ht_11_head_answers_as_get_without_a_body() {
    let house = TestHouse::open().await;
    let own = host_of(&house);
    for (path, status) in [
        ("/", 200),
        ("/protected", 303),
        ("/auth/login", 303),
        ("/auth/logout", 200),
        ("/auth/signed-out", 200),
        ("/auth/me", 401),
        ("/auth/account", 401),
        ("/auth/nowhere", 404),
        ("/auth/static/doorward.css", 200),
    ] {
        let headers = format!("host: {own}\r\naccept: text/html\r\n");
        let (statuses, text) = ask(house.address, request(&format!("HEAD {path}"), &headers)).await;
        assert_eq!(statuses, [status], "{path}: {text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "", "{path}");
    }
}

/// The layer alone, around a handler that panics: nothing in the house can be made to.
#[actix_web::test]
async fn lg_09_a_panic_in_a_handler_is_a_500_and_the_process_lives_on() {
    use actix_web::{App, HttpResponse, middleware::from_fn, test, web};
    let house = TestHouse::open().await;
    let door = doorward::web::Door::new(house.app(), &[7; 64], false);
    let service = test::init_service(
        App::new()
            .wrap(from_fn(doorward::web::layer))
            .app_data(web::Data::new(door))
            .route("/auth/boom", web::get().to(|| async { boom() }))
            .route("/auth/fine", web::get().to(HttpResponse::Ok)),
    )
    .await;
    for (accept, kind) in [("text/html", "text/html"), ("application/json", "application/problem+json")] {
        let request = test::TestRequest::get()
            .uri("/auth/boom")
            .insert_header(("host", host_of(&house)))
            .insert_header(("accept", accept))
            .to_request();
        let error = test::try_call_service(&service, request).await.err();
        let response = error.expect("the layer hands on an error that is an answer").error_response();
        assert_eq!(response.status(), 500);
        assert!(response.headers().get("content-type").unwrap().to_str().unwrap().starts_with(kind));
        assert_eq!(response.headers().get("x-frame-options").unwrap(), "DENY");
        let body = actix_web::body::to_bytes(response.into_body()).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("internal") && !text.contains("canary"), "{text}");
    }
    // What is not ours is answered without any routing, and no less safely.
    let request = test::TestRequest::get().uri("/").insert_header(("host", host_of(&house))).to_request();
    let broken = BrokenClock::here();
    let error = test::try_call_service(&service, request).await.err();
    drop(broken);
    assert_eq!(error.expect("an error that is an answer").error_response().status(), 500);
    let request =
        test::TestRequest::get().uri("/auth/fine").insert_header(("host", host_of(&house))).to_request();
    assert_eq!(test::call_service(&service, request).await.status(), 200);
}

fn boom() -> actix_web::HttpResponse {
    panic!("canary in a panic");
}
