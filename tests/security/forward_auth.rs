//! Chapter 11, asked directly: only a listed proxy is believed about another request, and only where it tells everything in one way.

use super::{events, signed_in};
use crate::forward_auth::stage::routes;
use crate::house::corpus::request_paths;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::ScriptedOp;
use crate::house::process::Home;
use crate::house::upstream::{PATIENCE, Wire};
use crate::proxy::stage::{cookie_line, status};

struct Asked {
    house: TestHouse,
    _op: ScriptedOp,
}

impl Asked {
    async fn open(trusted: &str) -> Self {
        let op = ScriptedOp::start().await;
        let text = format!("{}{}", op_provider("op", &op), routes());
        let house = TestHouse::with(&text).set("SERVER__TRUSTED_PROXIES", trusted).open().await;
        Self { house, _op: op }
    }

    fn host(&self) -> &str {
        self.house.url.trim_start_matches("http://")
    }

    async fn raw(&self, line: &str, headers: &str) -> String {
        let mut wire = Wire::open(self.house.address).await;
        wire.send(format!("{line} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")).await;
        String::from_utf8_lossy(&wire.rest().await).into_owned()
    }

    /// As nginx asks.
    async fn original(&self, method: &str, uri: &str, more: &str) -> String {
        let host = self.host();
        let told = format!("host: {host}\r\nx-original-method: {method}\r\nx-original-uri: {uri}\r\n{more}");
        self.raw("GET /auth/check", &told).await
    }

    /// As Traefik asks, under the name by which it reaches us.
    async fn forwarded(&self, method: &str, uri: &str, more: &str) -> String {
        let host = self.host();
        let told = format!(
            "host: doorward:8080\r\nx-forwarded-method: {method}\r\nx-forwarded-proto: http\r\nx-forwarded-host: {host}\r\nx-forwarded-uri: {uri}\r\n{more}"
        );
        self.raw("GET /auth/check", &told).await
    }

    /// As Envoy asks.
    async fn suffix(&self, method: &str, uri: &str, more: &str) -> String {
        self.raw(&format!("{method} /auth/check{uri}"), &format!("host: {}\r\n{more}", self.host())).await
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

const TRUSTED: &str = r#"["127.0.0.1"]"#;

#[tokio::test]
async fn px_05_px_07_nobody_is_believed_unless_listed_and_an_empty_list_is_nobody() {
    for trusted in ["[]", r#"["10.0.0.0/8", "::1"]"#] {
        let asked = Asked::open(trusted).await;
        let cookie = cookie_line(&signed_in(&asked.house).await);
        for path in ["/pub/x", "/in/x"] {
            for answer in [
                asked.original("GET", path, &cookie).await,
                asked.forwarded("GET", path, &cookie).await,
                asked.suffix("GET", path, &cookie).await,
                asked.original("GET", path, &format!("{cookie}x-forwarded-for: 10.0.0.1\r\n")).await,
            ] {
                assert_eq!(status(&answer), 403, "{trusted} {path}: {answer}");
                assert_eq!(header(&answer, "x-doorward-code"), Some("invalid_request"));
                assert!(header(&answer, "x-auth-user").is_none(), "{answer}");
            }
        }
        assert_eq!(asked.house.refusals("untrusted_proxy").await, 8);
        assert_eq!(events(&asked.house, "check.refused").await, 8);
    }
}

/// The two ways to tell by headers, part by part.
struct Parts {
    own: String,
    original: [String; 2],
    forwarded: [String; 4],
}

impl Parts {
    fn of(host: &str) -> Self {
        Self {
            own: format!("host: {host}\r\n"),
            original: ["x-original-method: GET\r\n".to_owned(), "x-original-uri: /pub/x\r\n".to_owned()],
            forwarded: [
                "x-forwarded-method: GET\r\n".to_owned(),
                "x-forwarded-proto: http\r\n".to_owned(),
                format!("x-forwarded-host: {host}\r\n"),
                "x-forwarded-uri: /pub/x\r\n".to_owned(),
            ],
        }
    }

    fn by_original(&self) -> String {
        format!("{}{}", self.own, self.original.concat())
    }

    fn by_forwarded(&self) -> String {
        format!("{}{}", self.own, self.forwarded.concat())
    }

    /// Something missing, doubled, or told twice.
    fn unclear(&self) -> Vec<String> {
        let mut cases = vec![self.own.clone()];
        let (original, forwarded) = (self.by_original(), self.by_forwarded());
        for part in &self.original {
            cases.push(original.replace(part.as_str(), ""));
            cases.push(format!("{original}{part}"));
            cases.push(format!("{forwarded}{part}"));
        }
        for part in &self.forwarded {
            cases.push(forwarded.replace(part.as_str(), ""));
            cases.push(format!("{forwarded}{part}"));
            cases.push(format!("{original}{part}"));
        }
        cases
    }

    /// Another value in the place of a sound one.
    fn odd(&self) -> Vec<String> {
        let (original, forwarded) = (self.by_original(), self.by_forwarded());
        let host = self.own.trim().trim_start_matches("host: ");
        let mut cases: Vec<String> = [
            ("x-forwarded-proto: http", "https"),
            ("x-forwarded-proto: http", "http,https"),
            ("x-forwarded-proto: http", ""),
            (&format!("x-forwarded-host: {host}"), "evil.example"),
            (&format!("x-forwarded-host: {host}"), "localhost"),
            (&format!("x-forwarded-host: {host}"), &format!("{host}, {host}")),
            ("x-forwarded-uri: /pub/x", "http://localhost/pub/x"),
            ("x-forwarded-uri: /pub/x", "pub/x"),
            ("x-forwarded-uri: /pub/x", ""),
            ("x-forwarded-method: GET", "get"),
            ("x-forwarded-method: GET", "GET, POST"),
            ("x-forwarded-method: GET", ""),
            ("x-forwarded-method: GET", "TRACE"),
            ("x-forwarded-method: GET", "CONNECT"),
        ]
        .map(|(from, to)| {
            let name = from.split(": ").next().unwrap();
            let case = forwarded.replace(from, &format!("{name}: {to}"));
            assert_ne!(case, forwarded, "{from}");
            case
        })
        .to_vec();
        cases.push(original.replace(&self.own, "host: evil.example\r\n"));
        cases.push(original.replace("uri: /pub/x", "uri: /pub#x"));
        cases.push(original.replace("uri: /pub/x", &format!("uri: /pub/{}", "x".repeat(9000))));
        cases.push(original.replace("uri: /pub/x", &format!("uri: /pub/{}", "x".repeat(17_000))));
        cases
    }
}

#[tokio::test]
async fn px_07_missing_doubled_and_contradicting_parts_deny() {
    let asked = Asked::open(TRUSTED).await;
    let parts = Parts::of(asked.host());
    let (by_original, by_forwarded) = (parts.by_original(), parts.by_forwarded());
    assert_eq!(status(&asked.raw("GET /auth/check", &by_original).await), 200);
    assert_eq!(status(&asked.raw("HEAD /auth/check", &by_forwarded).await), 200);
    assert_eq!(status(&asked.raw("GET /auth/check/pub/x", &parts.own).await), 200);
    let unclear = parts.unclear();
    let told = i64::try_from(unclear.len()).unwrap();
    for case in &unclear {
        let answer = asked.raw("GET /auth/check", case).await;
        assert_eq!(status(&answer), 403, "{case}: {answer}");
        assert_eq!(header(&answer, "x-doorward-code"), Some("invalid_request"), "{case}: {answer}");
    }
    assert_eq!(asked.house.refusals("unclear_question").await, told);
    for case in parts.odd() {
        let answer = asked.raw("GET /auth/check", &case).await;
        assert_eq!(status(&answer), 403, "{case}: {answer}");
        assert!(header(&answer, "x-doorward-code").is_some(), "{case}: {answer}");
    }
    for part in parts.original.iter().chain(&parts.forwarded) {
        let answer = asked.raw("GET /auth/check/pub/x", &format!("{}{part}", parts.own)).await;
        assert_eq!(status(&answer), 403, "Envoy's way beside {part}: {answer}");
    }
    for place in [
        "/auth/%63heck",
        "/auth//check",
        "/auth/check%2fpub/x",
        "/auth/%63heck/pub/x",
        "/auth/check/../check/pub/x",
    ] {
        let answer = asked.raw(&format!("GET {place}"), &by_original).await;
        assert!(matches!(status(&answer), 400 | 403 | 404), "{place}: {answer}");
    }
    let post = asked.raw("POST /auth/check", &format!("{by_original}content-length: 0\r\n")).await;
    assert_eq!(status(&post), 405);
}

#[tokio::test]
async fn px_21_the_answer_is_a_fixed_contract() {
    let asked = Asked::open(TRUSTED).await;
    let browser = signed_in(&asked.house).await;
    let cookie = cookie_line(&browser);
    let person = "accept: text/html\r\nsec-fetch-mode: navigate\r\n";
    let url = &asked.house.url;
    for family in 0..3 {
        let ask = async |method: &str, uri: &str, more: &str| match family {
            0 => asked.original(method, uri, more).await,
            1 => asked.forwarded(method, uri, more).await,
            _ => asked.suffix(method, uri, more).await,
        };
        let yes = ask("GET", "/in/x?a=b", &cookie).await;
        assert_eq!(status(&yes), 200, "{yes}");
        for (name, value) in [
            ("x-auth-user", "alice"),
            ("x-auth-provider", "op"),
            ("x-auth-subject", "alice"),
            ("x-auth-email", "alice@example.test"),
            ("x-auth-name", "alice%20Tester"),
            ("cache-control", "no-store"),
            ("content-length", "0"),
        ] {
            assert_eq!(header(&yes, name), Some(value), "{yes}");
        }
        assert!(header(&yes, "x-auth-roles").is_none() && header(&yes, "x-request-id").is_some(), "{yes}");
        assert_eq!(status(&ask("HEAD", "/get/x", "").await), 200);
        let token = ask("GET", "/token/x", &cookie).await;
        assert!(header(&token, "authorization").is_some_and(|token| token.starts_with("Bearer ")), "{token}");
        assert!(header(&ask("GET", "/assert/x", &cookie).await, "x-auth-assertion").is_some());
        for (method, uri, more, expected, code) in [
            ("GET", "/in/x", "", 401, "not_signed_in"),
            ("POST", "/in/x", person, 401, "not_signed_in"),
            ("GET", "/admins/x", cookie.as_str(), 403, "not_allowed"),
            ("GET", "/nowhere", &cookie, 403, "no_route"),
            ("POST", "/get/x", &cookie, 403, "method_not_allowed"),
            ("GET", "/auth/me", &cookie, 403, "no_route"),
            ("GET", "/pub/%2e%2e/in/x", &cookie, 403, "invalid_request"),
            ("POST", "/in/x", &cookie, 403, "csrf"),
            ("DELETE", "/in/x", &format!("{cookie}origin: https://evil.example\r\n"), 403, "csrf"),
        ] {
            let answer = ask(method, uri, more).await;
            let case = format!("{family} {method} {uri} {more}: {answer}");
            // Our own place takes no method that is unknown to it, and Envoy uses the one it asks about.
            assert_eq!(
                (status(&answer), header(&answer, "x-doorward-code")),
                (expected, Some(code)),
                "{case}"
            );
            assert!(
                header(&answer, "set-cookie").is_none() && header(&answer, "x-auth-user").is_none(),
                "{case}"
            );
            assert_eq!(header(&answer, "www-authenticate").is_some(), expected == 401, "{case}");
        }
        let own = format!("{cookie}origin: {url}\r\n");
        assert_eq!(status(&ask("POST", "/in/x", &own).await), 200);
    }
}

#[tokio::test]
async fn px_21_only_a_person_is_shown_the_login_and_it_leads_back() {
    let asked = Asked::open(TRUSTED).await;
    let cookie = cookie_line(&signed_in(&asked.house).await);
    let person = "accept: text/html\r\nsec-fetch-mode: navigate\r\n";
    let url = &asked.house.url;
    let login = |to: &str| format!("{url}/auth/login?return_to={to}");
    let shown = asked.original("GET", "/in/x?a=b", person).await;
    assert_eq!(
        (status(&shown), header(&shown, "x-doorward-login")),
        (401, Some(login("%2Fin%2Fx%3Fa%3Db").as_str()))
    );
    let program = asked.original("GET", "/in/x", "accept: text/html\r\nsec-fetch-mode: cors\r\n").await;
    assert_eq!((status(&program), header(&program, "x-doorward-login")), (401, None));
    let envoy = asked.suffix("GET", "/in/x?a=b", person).await;
    assert_eq!(
        (status(&envoy), header(&envoy, "location")),
        (303, Some(login("%2Fin%2Fx%3Fa%3Db").as_str()))
    );
    let up = asked.suffix("GET", "/strong/x", &format!("{cookie}{person}")).await;
    let expected = format!("{}&acr_values=gold&max_age=900", login("%2Fstrong%2Fx"));
    assert_eq!((status(&up), header(&up, "location")), (303, Some(expected.as_str())));
    let told = format!("host: {}\r\nx-original-method: GET\r\nx-original-uri: /in/x\r\n", asked.host());
    let sent = asked.raw("GET /auth/check?redirect", &format!("{told}{person}")).await;
    assert_eq!((status(&sent), header(&sent, "location")), (303, Some(login("%2Fin%2Fx").as_str())));
    assert!(header(&sent, "set-cookie").is_none(), "{sent}");
    assert_eq!(
        status(&asked.raw("GET /auth/check?redirect", &told).await),
        401,
        "a program is not sent away"
    );
}

#[tokio::test]
async fn px_08_the_question_is_judged_by_the_same_canonical_path_as_a_request_through_the_door() {
    let asked = Asked::open(TRUSTED).await;
    let mut passed = 0;
    for raw in request_paths() {
        // A field's value cannot hold these; such a request never becomes a question.
        if raw.contains(['\r', '\n', '\0']) || raw.trim() != raw {
            continue;
        }
        let answer = asked.original("GET", &raw, "").await;
        match status(&answer) {
            200 => {
                passed += 1;
                let path = raw.split('?').next().unwrap();
                let path = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
                let plain = path.split('/').all(|part| !matches!(part, "." | ".."))
                    && !path.contains("//")
                    && !path.contains(['\\', ';'])
                    && !raw.contains('#');
                assert!(plain && (path == "/pub" || path.starts_with("/pub/")), "{raw}");
            }
            code => assert!(matches!(code, 400 | 401 | 403), "{raw}: {answer}"),
        }
    }
    assert!(passed >= 25, "the good ones pass: {passed}");
}

#[tokio::test]
async fn px_11_px_16_whatever_fails_in_the_question_denies_with_403() {
    let asked = Asked::open(TRUSTED).await;
    let cookie = cookie_line(&signed_in(&asked.house).await);
    assert_eq!(
        status(&asked.original("GET", "/in/x", &format!("{cookie}{cookie}")).await),
        401,
        "two of one name"
    );
    let groups: Vec<String> = (0..5000).map(|n| format!("group-{n}")).collect();
    let groups = serde_json::to_string(&groups).unwrap();
    asked.house.rewrite(&format!("UPDATE users SET groups = '{groups}'")).await;
    let answer = asked.original("GET", "/in/x", &cookie).await;
    assert_eq!((status(&answer), header(&answer, "x-doorward-code")), (403, Some("not_allowed")), "{answer}");
    asked.house.rewrite("ALTER TABLE sessions RENAME TO hidden").await;
    let answer = asked.original("GET", "/in/x", &cookie).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(
        matches!(header(&answer, "x-doorward-code"), Some("database_unavailable" | "internal")),
        "{answer}"
    );
    assert_eq!(status(&asked.original("GET", "/pub/x", &cookie).await), 200, "a public route needs nobody");
}

#[tokio::test]
async fn px_11_before_the_database_is_there_the_answer_is_a_no_that_nginx_understands() {
    let op = ScriptedOp::start().await;
    let mut home = Home::with_op(&op);
    home.set_env("DOORWARD__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none");
    let process = home.serve().await;
    let deadline = std::time::Instant::now() + PATIENCE;
    // The closed door opens a moment after the log line.
    while tokio::net::TcpStream::connect(process.public).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "{}", process.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for place in ["/auth/check", "/auth/check/protected"] {
        let answer = process.browser().get(place).await;
        assert_eq!((answer.status, answer.header("x-doorward-code")), (403, Some("database_unavailable")));
    }
    assert_eq!(process.browser().get("/protected").await.status, 503);
}
