//! What the program tells of itself: everything an operator needs, and nothing that a thief could use.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::house::browser::{Browser, Page};
use crate::house::databases::Database;
use crate::house::op::{Answer, Person, ScriptedOp, mint};
use crate::house::process::{Home, Process, hang_up, op_config, signed_in};
use crate::house::servers::postgres;

/// Everything that nobody may read, and everything that was printed or shown.
#[derive(Default)]
struct Search {
    secrets: BTreeSet<String>,
    shown: Vec<(String, String)>,
}

impl Search {
    fn secret(&mut self, text: &str) {
        assert!(text.len() >= 8, "{text:?} would be found anywhere");
        self.secrets.insert(text.to_owned());
        self.secrets.insert(url::form_urlencoded::byte_serialize(text.as_bytes()).collect());
    }

    fn show(&mut self, what: &str, text: String) {
        self.shown.push((what.to_owned(), text));
    }

    /// A page that people or programs see.
    fn page(&mut self, page: &Page) {
        self.show(page.url.path(), page.text());
    }

    fn finds_nothing(&self) {
        assert!(self.secrets.len() > 40, "{} secrets", self.secrets.len());
        for (what, text) in &self.shown {
            for secret in &self.secrets {
                let found = text.lines().find(|line| line.contains(secret.as_str()));
                assert!(found.is_none(), "{what} shows {secret}: {found:?}");
            }
        }
    }
}

/// Notes every token that the provider hands out.
fn watch_tokens(op: &ScriptedOp) -> Arc<Mutex<Vec<String>>> {
    let tokens: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = tokens.clone();
    op.script(|s| {
        s.token_response(move |answer| {
            let held = ["access_token", "refresh_token", "id_token"]
                .iter()
                .filter_map(|name| answer[*name].as_str());
            seen.lock().unwrap().extend(held.map(str::to_owned));
        });
    });
    tokens
}

/// A login by hand, so that every value on the way is known.
async fn login(process: &Process, search: &mut Search) -> (Browser, Page) {
    let browser = process.browser();
    let start =
        browser.navigate("/auth/login?return_to=/protected&login_hint=hint-canary@example.test").await;
    let provider = start.location().expect("a provider");
    for (name, value) in provider.query_pairs() {
        if matches!(name.as_ref(), "state" | "nonce" | "code_challenge") {
            search.secret(&value);
        }
    }
    for cookie in browser.cookies() {
        search.secret(&cookie.value);
    }
    let back = browser.follow(start, 1).await;
    let Some(callback) = back.location() else { return (browser, back) };
    for (name, value) in callback.query_pairs().filter(|(name, _)| name == "code") {
        assert_eq!(name, "code");
        search.secret(&value);
    }
    let end = browser.navigate(callback.as_str()).await;
    if let Some(cookie) = browser.cookie("doorward") {
        search.secret(&cookie);
        search.secret(&cookie[cookie.len() - 43..]);
    }
    (browser, end)
}

/// A login that must fail; its page is searched.
async fn refused_login(process: &Process, search: &mut Search) {
    let (_, end) = login(process, search).await;
    assert!(end.status >= 400, "{}\n{}", end.status, process.log());
    search.page(&end);
}

/// Everything that can go wrong with a provider, each with a secret in it.
fn troubles() -> Vec<(&'static str, Answer)> {
    let object = json!({
        "error": "invalid_grant", "error_description": "body-canary-1 of the code",
        "access_token": "body-canary-2", "id_token": "body-canary-3",
    });
    vec![
        ("/token", Answer::json(400, &object)),
        (
            "/token",
            Answer::json(401, &json!({"error": "invalid_client", "error_description": "body-canary-4"})),
        ),
        ("/token", Answer::text(500, "text/html", "<h1>body-canary-5</h1>")),
        ("/token", Answer::json(200, &json!({"access_token": "body-canary-6", "token_type": "Bearer"}))),
        ("/token", Answer::text(200, "application/json", "{\"access_token\": \"body-canary-7")),
        ("/token", Answer::Redirect(302, "http://127.0.0.1:9/?code=body-canary-8".into())),
        ("/token", Answer::Close),
        ("/token", Answer::Truncated("application/json", b"{\"id_token\":\"body-canary-9".to_vec())),
        ("/userinfo", Answer::json(200, &json!({"sub": "body-canary-a", "email": "body-canary-b@x.test"}))),
        ("/userinfo", Answer::text(403, "text/plain", "body-canary-c")),
    ]
}

/// One JSON object with what every line has; its events by message.
fn events(log: &str) -> Vec<Value> {
    let read = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for name in ["timestamp", "level", "target"] {
            assert!(event[name].is_string(), "no {name}: {line}");
        }
        assert!(event["fields"].is_object(), "{line}");
        event
    };
    log.lines().map(read).collect()
}

#[tokio::test]
async fn lg_01_lg_02_lg_03_at_trace_level_no_secret_is_told_whatever_goes_wrong() {
    let op = ScriptedOp::start().await;
    let mut cluster = postgres::own_cluster().await;
    let mut search = Search::default();
    let tokens = watch_tokens(&op);
    let url = cluster.url("doorward").replace("doorward@", "doorward:database-canary@");
    let home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &url);
    home.write(
        "config.toml",
        op_config(&op, "[log]\nformat = \"json\"\nlevel = \"trace,hyper=trace,reqwest=trace,sqlx=trace,doorward=trace\"\n")
            .replace("client_secret_file", "userinfo = \"always\"\nclient_secret_file"),
    );
    search.secret("database-canary");
    search.secret(&op.script(|s| s.client_secret.clone()));
    for text in
        ["hint-canary", "query-canary", "bearer-canary", "password-canary", "header-canary", "error-canary"]
    {
        search.secret(text);
    }
    for number in "123456789abc".chars() {
        search.secret(&format!("body-canary-{number}"));
    }
    let mut process = home.open().await;

    let (guest, end) = login(&process, &mut search).await;
    assert_eq!(end.status, 303, "{}", process.log());
    assert_eq!(guest.navigate("/protected?token=query-canary").await.status, 200);
    assert_eq!(guest.get_json("/auth/me").await.status, 200);

    let made = home.run(&["apikey", "create", "--name", "canary", "--json"]).await.json();
    let key = made["key"].as_str().expect("a key").to_owned();
    search.secret(&key[16..]);
    let program = process.browser().with_header("authorization", &format!("Bearer {key}"));
    search.page(&program.get("/auth/admin/api/users/alice/sessions").await);

    bad_answers(&op, &process, &mut search).await;
    strangers(&process, &guest, &mut search).await;

    let left = guest.post_form("/auth/logout", &[]).await;
    assert_eq!(left.status, 303, "{}", left.text());
    let (_, end) = login(&process, &mut search).await;
    assert_eq!(end.status, 303, "the provider is well again: {}", end.text());
    cluster.stop().await;
    search.page(&guest.navigate("/auth/me").await);
    refused_login(&process, &mut search).await;
    hang_up(&mut process).await;
    cluster.start().await;
    op.stop().await;
    process.operations("/readyz").await;
    search.page(&process.browser().navigate("/auth/login").await);
    search.page(&process.operations("/metrics").await);
    process.stop().await;

    for token in tokens.lock().unwrap().iter() {
        search.secret(token);
        // Nor the half of a JWT that would be enough to know its person.
        token.split('.').filter(|part| part.len() > 60).for_each(|part| search.secret(part));
    }
    for request in op.requests_to("/token") {
        let values = ["code_verifier", "client_secret"].iter().filter_map(|name| request.form(name));
        values.for_each(|value| search.secret(&value));
        search.secret(
            request
                .header("authorization")
                .expect("a client that proves itself")
                .trim_start_matches("Basic "),
        );
    }
    let log = process.log();
    let events = events(&log);
    assert!(events.len() > 40, "{log}");
    search.show("the log", log);
    search.finds_nothing();
}

/// A provider in every kind of trouble, and in the end well again.
async fn bad_answers(op: &ScriptedOp, process: &Process, search: &mut Search) {
    for (path, answer) in troubles() {
        op.script(|s| s.next(path, answer));
        refused_login(process, search).await;
    }
    op.script(|s| s.raw_id_token(|minted| mint::flip_bit(&minted.token, 2, 9)));
    refused_login(process, search).await;
    op.script(|s| s.raw_id_token(|minted| minted.token.clone()));
    op.script(|s| s.deny("access_denied"));
    refused_login(process, search).await;
    op.script(|s| {
        s.authorization_response(|pairs| {
            pairs.retain(|(name, _)| name != "code");
            for (name, value) in [("error", "server_error"), ("error_description", "error-canary")] {
                pairs.push((name.into(), value.into()));
            }
        });
    });
    refused_login(process, search).await;
    op.script(|s| s.authorization_response(|_| {}));
}

/// Requests of people who should not be here, with whatever they bring.
async fn strangers(process: &Process, guest: &Browser, search: &mut Search) {
    let browser = process.browser();
    for (name, value) in [
        ("authorization", "Bearer bearer-canary"),
        ("x-request-id", "header-canary\u{1b}[31m"),
        ("user-agent", "\"}{\"level\":\"INFO\",\"header-canary\":\"\u{1b}[2J"),
        ("traceparent", "00-header-canary-01"),
        ("cookie", "doorward=header-canary; doorward-login-00000000=header-canary"),
    ] {
        let odd = browser.with_header(name, &value.replace('\u{1b}', "\t"));
        for path in [
            "/auth/me",
            "/protected?x=query-canary",
            "/auth/callback/op?code=query-canary&state=query-canary",
        ] {
            search.page(&odd.get(path).await);
        }
    }
    for path in [
        "/auth/login?prompt=query-canary",
        "/auth/login?provider=query-canary",
        "/auth/login?return_to=https://query-canary.example/",
        "/auth/callback/op?error=query-canary&error_description=query-canary&state=x",
        "/auth/callback/op?code=query-canary&code=query-canary",
        "/auth/callback/query-canary?code=x",
        "/auth/callback/op?id_token=query-canary&state=y",
        "/auth/signed-out?state=query-canary",
        "/absent/%0d%0aquery-canary",
    ] {
        let page = browser.navigate(path).await;
        // The demo app behind the door may repeat a path; our own pages may not.
        search.page(&page);
    }
    let words = [("username", "alice"), ("password", "password-canary")];
    search.page(&browser.post_form("/auth/login", &words).await);
    let words = json!({"username": "alice", "password": "password-canary", "refreshToken": "query-canary"});
    for path in ["/auth/login", "/auth/refresh", "/auth/register", "/auth/logout"] {
        search.page(&browser.post_json(path, &words).await);
    }
    search
        .page(&guest.post_form_from("https://evil.example/", "/auth/logout", &[("x", "query-canary")]).await);
}

#[tokio::test]
async fn the_request_id_of_an_error_page_leads_to_its_line_in_the_log_and_the_audit() {
    let op = ScriptedOp::start().await;
    let database = Database::sqlite();
    let home =
        Home::with_op(&op).env("DOORWARD__DATABASE__URL", &database.url).env("DOORWARD__LOG__FORMAT", "json");
    let mut process = home.open().await;
    op.script(|s| s.answer("/token", Answer::error(400, "invalid_grant")));
    let browser = process.browser();
    let page = browser.sign_in("/auth/login").await;
    assert_eq!(page.status, 400, "{}", page.text());
    let id = page.header("x-request-id").expect("an id").to_owned();
    assert!(page.text().contains(&id), "{}", page.text());
    // A stranger's own id is not taken over: it could be made to look like another's.
    let program = browser.with_header("x-request-id", &id).get_json("/auth/me").await;
    let other = program.json()["instance"].as_str().expect("an instance").to_owned();
    assert_ne!(other, id);
    assert_eq!(program.header("x-request-id"), Some(other.as_str()));
    process.stop().await;

    let log = process.log();
    let of_request = |id: &str| {
        let names = |event: &Value| {
            event["spans"].as_array().is_some_and(|spans| spans.iter().any(|s| s["request_id"] == id))
        };
        events(&log).into_iter().filter(names).collect::<Vec<_>>()
    };
    let lines = of_request(&id);
    let refused =
        lines.iter().find(|event| event["fields"]["message"] == "login refused").expect("the refusal");
    assert_eq!(
        (&refused["fields"]["reason"], &refused["fields"]["provider"]),
        (&"code_refused".into(), &"op".into())
    );
    assert!(lines.iter().any(|event| event["fields"]["status"] == 400), "{lines:#?}");
    assert!(of_request(&other).iter().any(|event| event["fields"]["status"] == 401), "{log}");
    let audited =
        format!("SELECT count(*) FROM audit_log WHERE request_id = '{id}' AND reason = 'code_refused'");
    assert_eq!(database.number(&audited).await, 1);
}

#[tokio::test]
async fn lg_08_metrics_name_what_happened_and_nobody_and_are_not_for_the_public() {
    let op = ScriptedOp::start().await;
    op.script(|s| s.person = Person::named("person-canary"));
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    guest.get("/auth/callback/stranger-canary?code=x&state=y").await;
    guest.get("/auth/stranger-canary").await;
    guest.post_form_from("https://evil.example/", "/auth/logout", &[]).await;
    assert_eq!(guest.post_form("/auth/logout", &[]).await.status, 303);
    op.script(|s| s.deny("access_denied"));
    guest.sign_in("/auth/login").await;

    let page = process.operations("/metrics").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    let metrics = page.text();
    for line in [
        "doorward_build_info{version=\"",
        "doorward_login_starts_total{provider=\"op\",outcome=\"ok\"} 2",
        "doorward_login_callbacks_total{provider=\"op\",outcome=\"ok\"} 1",
        "doorward_login_callbacks_total{provider=\"op\",outcome=\"login_cancelled\"} 1",
        "doorward_logouts_total{kind=\"browser\",outcome=\"ok\"} 1",
        "doorward_sessions_ended_total{reason=\"logout\"} 1",
        "doorward_csrf_refusals_total 1",
        "doorward_http_requests_total{route=\"auth\",method=\"GET\",status=\"303\"}",
        "doorward_http_request_duration_seconds_bucket{le=\"",
        "doorward_provider_calls_total{provider=\"op\",operation=\"exchange\",outcome=\"ok\"} 1",
        "doorward_log_lines_lost_total 0",
        "doorward_key_age_days{key=\"k1\"} 0",
        "doorward_audit_rows_dropped_total 0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is missing: {metrics}");
    }
    for word in ["canary", "@", "127.0.0.1", "localhost"] {
        assert!(!metrics.contains(word), "{word}: {metrics}");
    }
    let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 200, "{series} series after a dozen requests");

    for path in ["/metrics", "/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(process.browser().get(path).await.status, 404, "{path} is public");
        assert_eq!(process.operations(path).await.status, 200, "{path}");
    }
    for path in ["/", "/auth/me", "/auth/login", "/protected"] {
        assert_eq!(process.operations(path).await.status, 404, "{path} on the operations listener");
    }
    process.stop().await;
}

#[tokio::test]
async fn lg_03_what_json_lines_say_of_a_start_that_fails_is_json_too() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op).env("DOORWARD__LOG__FORMAT", "json");
    home.open().await.stop().await;
    home.write_key("secrets/k1");
    let ran = home.run(&["serve"]).await;
    assert_eq!(ran.code, 1, "{}", ran.all());
    let said = events(&ran.stderr);
    let last = said.last().expect("a last word");
    assert!(last["level"] == "ERROR" && last.to_string().contains("not the key that sealed"), "{last}");
}

#[tokio::test]
async fn lines_for_people_are_plain_when_nobody_sits_at_a_terminal() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op).env("DOORWARD__LOG__LEVEL", "trace");
    let mut process = home.open().await;
    signed_in(&process).await.with_header("user-agent", "a\tb").navigate("/%1b%5b31m?%0a").await;
    process.stop().await;
    let log = process.log();
    assert!(!log.contains('\u{1b}') && !log.contains('\r'), "{log}");
    for line in log.lines() {
        let level = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        assert!(
            ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level),
            "not an event of its own: {line}"
        );
    }
}
