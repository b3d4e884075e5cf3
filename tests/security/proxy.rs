//! Chapter 11: nothing of a client's word about itself reaches the app, every request is judged and forwarded as one and the same, and after each denial
//! a spy says that the app was not called.

use percent_encoding::percent_decode_str;

use super::{is_signed_in, signed_in_as};
use crate::house::corpus::request_paths;
use crate::house::op::Person;
use crate::house::upstream::Step;
use crate::proxy::stage::{Stage, body, cookie_line, status};

/// Every header that this door can emit towards an app, and others that apps believe.
pub const WORDS: [&str; 22] = [
    "X-Auth-User",
    "X-Auth-Provider",
    "X-Auth-Subject",
    "X-Auth-Email",
    "X-Auth-Name",
    "X-Auth-Roles",
    "X-Auth-Groups",
    "X-Auth-Tenant",
    "X-Auth-Assertion",
    "Authorization",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-User",
    "X-Forwarded-Prefix",
    "X-Real-IP",
    "X-Original-URI",
    "X-Original-URL",
    "X-Rewrite-URL",
    "Forwarded",
    "X-Request-Id",
    "X-HTTP-Method-Override",
];

pub fn spellings(name: &str) -> Vec<String> {
    let swapped: String = name
        .chars()
        .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    vec![
        name.to_owned(),
        name.to_lowercase(),
        swapped,
        name.replace('-', "_"),
        name.replacen('-', "_", 1),
        name.to_uppercase().replace('-', "_"),
        name.replace('-', "."),
    ]
}

#[tokio::test]
async fn px_01_px_02_no_word_of_a_client_about_itself_reaches_the_app_in_any_spelling() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&stage.signed_in().await);
    for (path, cookie) in [("/pub/x", ""), ("/pub/x", cookie.as_str()), ("/in/x", &cookie)] {
        for name in WORDS {
            let fields: String = spellings(name)
                .iter()
                .chain(&spellings(name))
                .fold(String::new(), |all, name| format!("{all}{name}: evil-canary\r\n"));
            let answer = stage.ask(&format!("GET {path}"), &format!("{cookie}{fields}")).await;
            assert_eq!(status(&answer), 200, "{name}: {answer}");
            let seen = stage.app.last();
            assert!(!seen.head.contains("evil-canary"), "{name} on {path}: {}", seen.head);
            assert_eq!(seen.one("x-auth-user"), (!cookie.is_empty()).then_some("alice"), "{name} on {path}");
            assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
        }
    }
}

#[tokio::test]
async fn px_03_px_04_fields_of_the_connection_are_consumed_in_both_directions() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&stage.signed_in().await);
    stage.app.always(vec![Step::ReadBody, Step::answer(
        "200 OK",
        "connection: keep-alive, x-hop\r\nx-hop: canary\r\nkeep-alive: timeout=canary\r\nproxy-authenticate: canary\r\n\
         proxy-connection: canary\r\ntrailer: canary\r\nte: canary\r\nupgrade: canary\r\nx-end: 1\r\n",
        "hello",
    )]);
    let fields = "keep-alive: canary\r\nproxy-connection: canary\r\nproxy-authorization: canary\r\nte: canary\r\ntrailer: canary\r\n\
        upgrade: canary\r\nx-hop: canary\r\nx-end: 1\r\n";
    for named in [
        "x-hop",
        "x-hop, X-Auth-User, x-auth-email, x-forwarded-for, x-request-id, host, content-length",
        "close, x-hop",
        "upgrade, x-hop,,",
    ] {
        let mut wire = stage.wire().await;
        wire.send(stage.head("GET /in/x", &format!("{cookie}connection: {named}\r\n{fields}"))).await;
        let answer = wire.head().await;
        let seen = stage.app.last();
        assert!(!seen.head.contains("canary"), "{named}: {}", seen.head);
        assert_eq!((seen.one("x-auth-user"), seen.one("x-end")), (Some("alice"), Some("1")), "{named}");
        assert!(
            seen.one("x-forwarded-for").is_some() && seen.one("host").is_some(),
            "{named}: {}",
            seen.head
        );
        assert!(!answer.contains("canary") && answer.contains("x-end: 1"), "{named}: {answer}");
    }
}

#[tokio::test]
async fn px_05_px_06_where_a_request_came_from_is_believed_of_listed_peers_alone() {
    for (trusted, chain, expected) in [
        ("[]", "198.51.100.1", "127.0.0.1"),
        (r#"["10.0.0.0/8"]"#, "198.51.100.1", "127.0.0.1"),
        (r#"["127.0.0.0/8"]"#, "198.51.100.1", "198.51.100.1"),
        (r#"["127.0.0.0/8"]"#, "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (r#"["127.0.0.0/8", "10.0.0.0/8"]"#, "6.6.6.6, 198.51.100.1, 10.1.1.1, 10.2.2.2", "198.51.100.1"),
        (r#"["127.0.0.0/8"]"#, "2001:db8::1", "2001:db8::1"),
    ] {
        let stage = Stage::with(|plan| plan.set("SERVER__TRUSTED_PROXIES", trusted)).await;
        let fields = format!(
            "x-forwarded-for: {chain}\r\nx-real-ip: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nx-forwarded-proto: gopher\r\nx-forwarded-host: evil.example\r\n"
        );
        assert_eq!(status(&stage.ask("GET /pub/x", &fields).await), 200);
        let seen = stage.app.last();
        assert_eq!(
            (seen.one("x-forwarded-for"), seen.one("x-real-ip")),
            (Some(expected), Some(expected)),
            "{trusted} {chain}"
        );
        assert_eq!(
            (seen.one("x-forwarded-proto"), seen.one("x-forwarded-host")),
            (Some("http"), Some(stage.host()))
        );
        assert!(
            seen.one("forwarded").unwrap().contains(expected) && !seen.head.contains("6.6.6.6"),
            "{}",
            seen.head
        );
    }
}

#[tokio::test]
async fn px_08_the_path_that_was_judged_is_the_path_that_goes_on() {
    let stage = Stage::open().await;
    let mut forwarded = 0;
    for raw in request_paths() {
        stage.app.forget();
        let answer = stage.ask(&format!("GET {raw}"), "").await;
        let code = status(&answer);
        let seen = stage.app.seen();
        let Some(seen) = seen.first() else {
            let is_ours = raw.starts_with("/.well-known/doorward/") && answer.contains("\"keys\":[");
            assert!(matches!(code, 400 | 401 | 404) || is_ours, "{raw}: {answer}");
            continue;
        };
        assert_eq!(code, 200, "{raw}");
        forwarded += 1;
        let decoded = |target: &str| {
            let path = target.split(['?', '#']).next().unwrap();
            percent_decode_str(path).decode_utf8().unwrap().into_owned()
        };
        let path = decoded(seen.target());
        assert_eq!(path, decoded(&raw), "{raw} went on as {}", seen.target());
        assert!(path == "/pub" || path.starts_with("/pub/"), "{raw} went on as {}", seen.target());
        let is_plain = |segment: &str| {
            !matches!(segment, "." | "..") && !segment.contains(['\\', ';', '\0', '\r', '\n'])
        };
        assert!(path.split('/').all(is_plain) && !path.contains("//"), "{raw} went on as {}", seen.target());
        assert!(
            seen.target().bytes().all(|byte| byte.is_ascii_graphic()),
            "{raw} went on as {}",
            seen.target()
        );
    }
    assert!(forwarded >= 30, "the good ones pass: {forwarded}");
}

#[tokio::test]
async fn px_08_another_spelling_of_our_own_prefix_is_nobodys() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&stage.signed_in().await);
    assert_eq!(status(&stage.ask("GET /auth/me", &cookie).await), 200);
    for raw in
        ["/%61uth/me", "/a%75th/me", "/%61uth/login", "/%61uth/check", "/.well-known/%64oorward/jwks.json"]
    {
        let answer = stage.ask(&format!("GET {raw}"), &cookie).await;
        assert!(status(&answer) == 404 && answer.contains("no_route"), "{raw}: {answer}");
        stage.app.assert_silent(raw);
    }
}

#[tokio::test]
async fn px_09_rules_look_at_the_path_alone_and_at_the_true_method() {
    let stage = Stage::open().await;
    for (line, expected) in [
        ("GET /in/x?x=/pub/x", 401),
        ("GET /in/x?/pub/", 401),
        ("GET /in", 401),
        ("GET /publicx", 404),
        ("GET /PUB/x", 404),
        ("POST /get/x", 405),
        ("DELETE /pub/a/star", 405),
        ("get /pub/x", 400),
        ("Get /in/x", 400),
        ("GET_ /pub/x", 400),
    ] {
        let overrides = "x-http-method-override: GET\r\nx-http-method: GET\r\nx-method-override: GET\r\nx-original-url: /pub/x\r\nx-rewrite-url: /pub/x\r\n";
        let answer = stage.ask(line, overrides).await;
        assert_eq!(status(&answer), expected, "{line}: {answer}");
        stage.app.assert_silent(line);
    }
    assert_eq!(status(&stage.ask("HEAD /get/x", "").await), 200, "HEAD follows GET");
    assert_eq!(stage.app.last().line(), "HEAD /get/x HTTP/1.1");
}

#[tokio::test]
async fn px_10_no_sender_opens_what_is_closed() {
    let stage = Stage::open().await;
    for agent in
        ["GoogleHC/1.0", "kube-probe/1.29", "ELB-HealthChecker/2.0", "Prometheus/2.0", "doorward-health"]
    {
        for path in ["/in/x", "/in/healthz", "/in/ping"] {
            let answer = stage.ask(&format!("GET {path}"), &format!("user-agent: {agent}\r\n")).await;
            assert_eq!(status(&answer), 401, "{agent}: {answer}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/ping", "/openapi.json"] {
        assert_eq!(status(&stage.ask(&format!("GET {path}"), "").await), 404, "{path}");
    }
    stage.app.assert_silent("probes");
}

#[tokio::test]
async fn px_11_whatever_fails_in_the_decision_denies() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    let cookie = cookie_line(&browser);
    for planted in ["doorward=x", "doorward=", "doorward=%00", "doorward=a; doorward=b"] {
        let answer = stage.ask("GET /in/x", &format!("cookie: {planted}\r\n")).await;
        assert_eq!(status(&answer), 401, "{planted}");
    }
    assert_eq!(
        status(&stage.ask("GET /in/x", &format!("{cookie}{cookie}")).await),
        401,
        "two of one name are none"
    );
    assert_eq!(status(&stage.ask("GET /admins/x", &cookie).await), 403);
    stage.app.assert_silent("odd cookies");
    stage.house.database.execute("UPDATE sessions SET access_token = X'00'").await;
    assert_eq!(status(&stage.ask("GET /token/x", &cookie).await), 401, "a token that does not open is none");
    stage.app.assert_silent("an unreadable token");
    stage.house.rewrite("ALTER TABLE sessions RENAME TO hidden").await;
    let answer = stage.ask("GET /in/x", &cookie).await;
    assert!(matches!(status(&answer), 500 | 503), "{answer}");
    stage.app.assert_silent("no table");
    assert_eq!(status(&stage.ask("GET /pub/x", &cookie).await), 200, "a public route needs nobody");
    assert_eq!(stage.app.last().one("x-auth-user"), None);
}

#[tokio::test]
async fn px_13_nothing_of_a_request_chooses_where_it_goes() {
    let stage = Stage::open().await;
    let elsewhere = crate::house::upstream::FakeUpstream::start().await;
    let other = elsewhere.address;
    for line in [
        format!("GET http://{other}/pub/x"),
        format!("GET //{other}/pub/x"),
        format!("GET /pub/@{other}/"),
        format!("GET @{other}/pub/x"),
        format!("GET /pub/http://{other}/"),
        format!("GET {other}"),
        format!("CONNECT {other}"),
        format!("GET /pub/x?url=http://{other}/"),
    ] {
        let fields = format!(
            "x-forwarded-host: {other}\r\nx-original-url: http://{other}/\r\nx-forwarded-server: {other}\r\n"
        );
        let answer = stage.ask(&line, &fields).await;
        assert!(matches!(status(&answer), 200 | 400 | 405 | 421), "{line}: {answer}");
        elsewhere.assert_silent(&line);
    }
    // A redirect of the app is the visitor's to follow.
    stage.app.always(vec![Step::answer("302 Found", &format!("location: http://{other}/\r\n"), "")]);
    let answer = stage.ask("GET /pub/x", "").await;
    assert_eq!(status(&answer), 302);
    elsewhere.assert_silent("a redirect");
}

#[tokio::test]
async fn px_14_our_cookies_and_the_clients_authorization_do_not_reach_the_app_which_cannot_set_them() {
    let stage = Stage::open().await;
    let browser = stage.signed_in().await;
    let key = browser.cookie("doorward").unwrap();
    let cookies = format!(
        "cookie: a=1; doorward={key}; b=\"2\"\r\ncookie: doorward-login-abcdefgh=x;c=3\r\ncookie: __Host-doorward=y\r\nauthorization: Basic canary\r\n"
    );
    assert_eq!(status(&stage.ask("GET /in/x", &cookies).await), 200);
    let seen = stage.app.last();
    assert_eq!(seen.all("cookie"), ["a=1; b=\"2\"", "c=3"]);
    assert!(!seen.head.contains(&key) && !seen.head.contains("canary"), "{}", seen.head);
    let theirs = "set-cookie: doorward=evil; Path=/\r\nSet-Cookie: DoorWard=evil\r\nset-cookie: doorward =evil\r\nset-cookie: __Host-doorward=evil; Secure\r\n\
        set-cookie: __host-DOORWARD=evil\r\nset-cookie: doorward-login-abcdefgh=evil\r\nset-cookie: %64oorward=evil\r\nset-cookie: doorward\r\nset-cookie: app=fine\r\n";
    stage.app.always(vec![Step::answer("200 OK", theirs, "ok")]);
    let page = browser.get("/in/x").await;
    let names: Vec<String> = page.set_cookies().into_iter().map(|cookie| cookie.name).collect();
    assert_eq!(names, ["app"]);
    assert!(is_signed_in(&browser).await, "the session is untouched");
}

#[tokio::test]
async fn px_15_px_16_hostile_names_are_spelled_and_too_many_groups_are_refused_whole() {
    let stage = Stage::open().await;
    let person = Person::named("zoe").with("name", "Zoë, \"%\" <b>").with("groups", vec!["a,b", "c d", "ü"]);
    let browser = signed_in_as(&stage.house, &stage.op, person).await;
    assert_eq!(browser.get("/in/x").await.status, 200);
    let seen = stage.app.last();
    assert_eq!(seen.one("x-auth-name"), Some("Zo%C3%AB%2C%20\"%25\"%20<b>"));
    assert_eq!(seen.one("x-auth-groups"), Some("a%2Cb,c%20d,%C3%BC"));
    stage.app.forget();
    let groups: Vec<String> = (0..5000).map(|n| format!("group-{n}")).collect();
    let groups = serde_json::to_string(&groups).unwrap();
    stage.house.rewrite(&format!("UPDATE users SET groups = '{groups}'")).await;
    let answer = stage.ask("GET /in/x", &cookie_line(&browser)).await;
    assert_eq!(status(&answer), 403, "{answer}");
    stage.app.assert_silent("5,000 groups");
}

#[tokio::test]
async fn px_20_what_was_made_for_one_person_is_not_a_shared_caches_to_keep() {
    let stage = Stage::open().await;
    let cookie = cookie_line(&stage.signed_in().await);
    let control = |answer: &str| {
        answer
            .lines()
            .find_map(|line| line.strip_prefix("cache-control: "))
            .map(|value| value.trim().to_owned())
    };
    for (theirs, for_guest, for_nobody) in [
        ("", Some("private"), None),
        ("cache-control: public, max-age=60\r\n", Some("public, max-age=60"), Some("public, max-age=60")),
        ("expires: Thu, 01 Jan 2099 00:00:00 GMT\r\n", None, None),
    ] {
        stage.app.always(vec![Step::answer("200 OK", theirs, "ok")]);
        let answer = stage.ask("GET /in/account/x.css", &cookie).await;
        assert_eq!(control(&answer).as_deref(), for_guest, "{answer}");
        assert_eq!(stage.app.last().target(), "/in/account/x.css");
        assert_eq!(control(&stage.ask("GET /pub/x.css", "").await).as_deref(), for_nobody);
    }
    assert_eq!(body(&stage.ask("GET /pub/x", "").await), "ok");
}
