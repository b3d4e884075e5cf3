//! Chapter 10, password login: off by default, no enumeration, passwords unchanged and kept nowhere, states only after the password.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::house::browser::{Browser, Page};
use crate::house::databases::Database;
use crate::house::home::TestHouse;
use crate::house::op::{Answer, Person, ScriptedOp};
use crate::house::process::Home;

pub async fn login(browser: &Browser, username: &str, password: &str) -> Page {
    browser.post_json("/auth/login", &json!({ "username": username, "password": password })).await
}

/// A scripted provider that knows one person's password.
async fn op_with(name: &str, password: &str) -> ScriptedOp {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.password = Some((name.into(), password.into()));
        s.person = Person::named(name);
    });
    op
}

fn plan(op: &ScriptedOp) -> crate::house::home::Plan {
    TestHouse::with_op(op).set("PROVIDER__OP__PASSWORD_LOGIN", "true")
}

#[tokio::test]
async fn pw_01_password_login_is_off_unless_switched_on() {
    let op = op_with("ada", "pass").await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let page = login(&browser, "ada", "pass").await;
    assert_eq!((page.status, page.json()["code"].as_str()), (404, Some("not_offered")));
    let page = browser.post_form("/auth/login", &[("username", "ada"), ("password", "pass")]).await;
    assert_eq!(page.status, 404);
    assert_eq!(op.count("/token"), 0, "nobody was asked");
    // Switched on for programs, the form is still off.
    let house = plan(&op).open().await;
    assert_eq!(login(&house.browser(), "ada", "pass").await.status, 200);
    let page = house.browser().post_form("/auth/login", &[("username", "ada"), ("password", "pass")]).await;
    assert_eq!(page.status, 404);
    assert_eq!(house.browser().navigate("/auth/login").await.status, 303);
}

/// Everything of an answer that may be looked at, without what differs from answer to answer for everybody.
fn seen(page: &Page) -> (u16, Vec<(String, String)>, Value) {
    let mut headers: Vec<(String, String)> = page
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    let mut body = page.json();
    body["instance"] = Value::Null;
    (page.status, headers, body)
}

#[tokio::test]
async fn pw_02_unknown_wrong_and_locked_look_alike() {
    let op = op_with("ada", "pass").await;
    let house = plan(&op).set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"off\"").open().await;
    let browser = house.browser();
    assert_eq!(login(&browser, "ada", "pass").await.status, 200);
    // Locked here: strangers' tries are used up. The one who asks comes from a network that nobody knows.
    house.database.execute("DELETE FROM password_failures").await;
    let mut answers =
        vec![seen(&login(&browser, "nobody", "pass").await), seen(&login(&browser, "ada", "wrong").await)];
    house.database.execute("UPDATE password_failures SET consecutive = 1000 WHERE scope = 'account'").await;
    let asked = op.count("/token");
    answers.push(seen(&login(&browser, "ada", "wrong").await));
    answers.push(seen(&login(&browser, "ada", "pass").await));
    answers.push(seen(&login(&browser, "ada@example.test", "pass").await));
    assert_eq!(op.count("/token"), asked, "a closed account asks nobody");
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0].0, 401);
}

/// The share of pairs in which the first is the slower: one half when nothing tells them apart.
fn slower(first: &[Duration], second: &[Duration]) -> f64 {
    let wins: usize = first.iter().map(|a| second.iter().filter(|b| a > *b).count()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
    let share = wins as f64 / (first.len() * second.len()) as f64;
    share
}

#[tokio::test]
async fn pw_02_the_time_of_a_refusal_tells_nothing() {
    const SAMPLES: usize = 500;
    const KINDS: [&str; 3] = ["ada", "ghost", "eve"];
    let op = op_with("eve", "pass").await;
    let house = plan(&op)
        .set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"off\"")
        .set("LIMITS__PASSWORD_FAILURES_IDENTIFIER", "\"100000/15m\"")
        .set("LIMITS__LOGIN_START", "\"off\"")
        .open()
        .await;
    let browser = house.browser();
    assert_eq!(login(&browser, "eve", "pass").await.status, 200);
    op.script(|s| {
        s.password = Some(("ada".into(), "pass".into()));
        s.person = Person::named("ada");
    });
    assert_eq!(login(&browser, "ada", "pass").await.status, 200);
    // From here on this network is a stranger's, and eve's account is closed to strangers.
    house.database.execute("DELETE FROM password_failures").await;
    assert_eq!(login(&browser, "eve", "wrong").await.status, 401);
    house.database.execute("UPDATE password_failures SET consecutive = 1000 WHERE scope = 'account'").await;
    let mut took: [Vec<Duration>; 3] = [const { Vec::new() }; 3];
    // Of each kind at once; turn by turn, so that the machine's moods meet all alike.
    let mut at_once = 16;
    while took[0].len() < SAMPLES {
        // The others' accounts stay open: theirs are wrong passwords and nothing else.
        let open = "DELETE FROM password_failures WHERE scope = 'account' AND consecutive < 1000";
        house.database.execute(open).await;
        let asked = op.count("/token");
        let turn = (0..at_once * KINDS.len()).map(|n| {
            let browser = &browser;
            async move {
                let began = Instant::now();
                let page = login(browser, KINDS[n % KINDS.len()], "wrong").await;
                assert_eq!(page.status, 401, "{}", page.text());
                (n % KINDS.len(), began.elapsed())
            }
        });
        let turn = join_all(turn).await;
        assert_eq!(
            op.count("/token") - asked,
            2 * at_once,
            "the provider was asked for all but the closed one"
        );
        // A machine that is too slow for so many at once tells its own speed. Fewer fit within one step of half a second.
        if at_once > 2 && turn.iter().any(|(_, took)| *took > Duration::from_millis(900)) {
            at_once /= 2;
            continue;
        }
        for (kind, elapsed) in turn {
            took[kind].push(elapsed);
        }
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let (first, second) = (&took[one], &took[other]);
        let share = slower(first, second);
        let apart = middle(first).abs_diff(middle(second));
        let names = (KINDS[one], KINDS[other]);
        assert!((0.38..=0.62).contains(&share), "{names:?}: the first is slower in {share:.3} of the pairs");
        assert!(apart < Duration::from_millis(20), "{names:?}: {apart:?} between the medians");
    }
    let fastest = took.iter().flatten().min().unwrap();
    assert!(*fastest >= Duration::from_millis(490), "{fastest:?}");
}

fn middle(all: &[Duration]) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[tokio::test]
async fn pw_07_two_hundred_logins_at_once_hash_nothing_here_and_stay_within_bounds() {
    let op = op_with("ada", "pass").await;
    let home = Home::with_op(&op)
        .env("DOORWARD__PROVIDER__OP__PASSWORD_LOGIN", "true")
        .env("DOORWARD__LIMITS__PASSWORD_FAILURES_ADDRESS", "off")
        .env("DOORWARD__LIMITS__PASSWORD_FAILURES_IDENTIFIER", "off");
    let mut process = home.open().await;
    let browser = process.browser();
    for _ in 0..5 {
        assert_eq!(login(&browser, "ada", "pass").await.status, 200);
    }
    let before = memory_kib(process.id(), "VmRSS:");
    let pages = join_all((0..200).map(|_| login(&browser, "ada", "pass"))).await;
    // Tries count as wrong until they are answered, and a provider has a number of places: some are refused.
    let refused = pages.iter().filter(|page| page.status != 200);
    let odd: Vec<String> =
        refused.filter(|page| ![401, 503].contains(&page.status)).map(Page::text).collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert!(pages.iter().any(|page| page.status == 200));
    let most = memory_kib(process.id(), "VmHWM:");
    assert!(most.saturating_sub(before) < 64 * 1024, "{before} KiB, at most {most} KiB");
    assert!(process.is_alive());
    assert_eq!(login(&browser, "ada", "pass").await.status, 200);
    // The provider alone knows passwords: nothing stored here could be checked against one.
    process.stop().await;
    let files = home.files().into_iter().filter(|file| file.contains("doorward.db"));
    let stored: Vec<u8> = files.flat_map(|file| home.read(&file)).collect();
    for sort in ["argon2", "$2b$", "pbkdf2", "scrypt"] {
        assert!(!stored.windows(sort.len()).any(|w| w == sort.as_bytes()), "{sort}");
    }
}

/// A line of `/proc/PID/status` in KiB.
pub fn memory_kib(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|known| known.strip_prefix(line)).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn pw_05_passwords_pass_unchanged_and_are_kept_nowhere() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let home =
        home.env("DOORWARD__PROVIDER__OP__PASSWORD_LOGIN", "true").env("DOORWARD__LOG__LEVEL", "trace");
    let mut process = home.open().await;
    let browser = process.browser();
    let long = "é".repeat(512);
    let odd = [
        " leading and trailing ",
        "tab\tand\nline",
        "nul\u{0}inside",
        "e\u{301} is not \u{e9}",
        "\u{1f511}\u{200d}\u{202e}\u{feff}",
        "%00+&=%zz;\"'<>",
        "ſﬁ ½ Å",
        &"x".repeat(64),
        long.as_str(),
    ];
    for password in odd {
        op.script(|s| s.password = Some(("ada".into(), password.into())));
        op.script(|s| s.person = Person::named("ada"));
        assert_eq!(login(&browser, "ada", password).await.status, 200, "{password:?}");
        let sent = op.requests_to("/token").pop().unwrap().form("password").unwrap();
        assert_eq!(sent.as_bytes(), password.as_bytes());
    }
    let asked = op.count("/token");
    let page = login(&browser, "ada", &"x".repeat(1025)).await;
    assert_eq!((page.status, page.json()["errors"][0]["code"].as_str()), (422, Some("too_long")));
    let canary = "canary-of-a-password-7261";
    assert_eq!(login(&browser, "ada", canary).await.status, 401);
    assert_eq!(op.count("/token"), asked + 1);
    process.stop().await;
    let database: Vec<u8> =
        home.files().iter().filter(|f| f.contains("doorward.db")).flat_map(|f| home.read(f)).collect();
    for secret in [canary, "leading and trailing", "is not \u{e9}"] {
        assert!(!process.log().contains(secret), "{secret} in the log");
        assert!(!database.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} in the database");
    }
    // Nor does the table of failures tell who was tried.
    assert!(database.len() > 4096);
}

#[tokio::test]
async fn pw_06_no_answer_that_asks_for_more_is_a_login() {
    let op = op_with("ada", "pass").await;
    let house = plan(&op).set("LIMITS__PASSWORD_FAILURES_IDENTIFIER", "\"off\"").open().await;
    let browser = house.browser();
    let said = |error: &str, description: &str| json!({ "error": error, "error_description": description });
    let with_tokens =
        json!({ "error": "mfa_required", "access_token": "a", "token_type": "Bearer", "id_token": "x.y.z" });
    for (status, body, answer) in [
        (400, said("invalid_grant", "Account is not fully set up"), 401),
        (403, said("mfa_required", "Multifactor authentication required"), 502),
        (401, said("password_expired", ""), 502),
        (200, said("email_not_verified", ""), 502),
        (200, with_tokens, 502),
        (400, said("unauthorized_client", "Client not allowed for direct access grants"), 502),
        (200, json!({ "access_token": "a", "token_type": "Bearer" }), 400),
        (200, json!({}), 400),
        (200, json!({ "access_token": "a", "token_type": "Bearer", "id_token": "e30.e30." }), 400),
        (500, said("unknown_error", ""), 503),
    ] {
        op.script(|s| s.next("/token", Answer::json(status, &body)));
        let page = login(&browser, "ada", "pass").await;
        assert_eq!(page.status, answer, "{status} {body}: {}", page.text());
    }
    assert_eq!(house.live_sessions().await, 0);
    assert_eq!(login(&browser, "ada", "pass").await.status, 200);
}

#[tokio::test]
async fn pw_08_stuffing_shows_in_metrics_and_audit() {
    let op = op_with("ada", "pass").await;
    let house = plan(&op).set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"5/15m\"").open().await;
    let browser = house.browser();
    for n in 0..7 {
        login(&browser, &format!("person-{n}"), "Summer2026!").await;
    }
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    for line in [
        "doorward_password_logins_total{provider=\"op\",outcome=\"invalid_credentials\"} 5",
        "doorward_password_logins_total{provider=\"op\",outcome=\"too_many\"} 2",
        "doorward_rate_limited_total{limit=\"password_address\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    assert_eq!(house.refusals("password_address").await, 2);
    assert_eq!(house.refusals("invalid_credentials").await, 5);
}

#[tokio::test]
async fn the_form_needs_the_browsers_own_word_and_json_says_that_it_is_json() {
    let db = Database::sqlite();
    let dev = "[[provider]]\nid = \"dev\"\nkind = \"dev\"\nclient_id = \"doorward\"\npassword_login = true\npassword_form = true\n";
    let house = TestHouse::with(dev).database(&db).open().await;
    let fields = [("username", "alice"), ("password", "alice")];
    let page = house.browser().post_form_from("https://evil.example", "/auth/login", &fields).await;
    assert_eq!((page.status, page.set_cookies().len()), (403, 0));
    #[expect(clippy::disallowed_methods, reason = "a program without a browser's headers")]
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = format!("{}/auth/login", house.url);
    let bare = || {
        http.post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("username=alice&password=alice")
    };
    assert_eq!(bare().send().await.unwrap().status(), 403, "no word at all");
    assert_eq!(
        bare().header("x-csrf", "1").send().await.unwrap().status(),
        403,
        "X-CSRF is no word of the browser's"
    );
    assert_eq!(bare().header("origin", &house.url).send().await.unwrap().status(), 303);
    let json = r#"{"username":"alice","password":"alice"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let sent = http
            .post(&url)
            .header("content-type", kind)
            .header("origin", &house.url)
            .body(json)
            .send()
            .await
            .unwrap();
        assert!([400, 422].contains(&sent.status().as_u16()), "{kind}: {}", sent.status());
    }
    let sent = http
        .post(&url)
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(json)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 200);
    let foreign =
        http.post(&url).header("content-type", "application/json").header("origin", "https://evil.example");
    assert_eq!(foreign.body(json).send().await.unwrap().status(), 403);
}
