//! Chapters 16 and 18: what calls to providers may cost, and what a provider in trouble costs everybody else.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;

use super::password::login;
use crate::house::browser::Browser;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Answer, Person, ScriptedOp, SilentListener};
use crate::house::process::Home;

async fn op() -> ScriptedOp {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.password = Some(("ada".into(), "right".into()));
        s.person = Person::named("ada");
    });
    op
}

fn plan(op: &ScriptedOp) -> crate::house::home::Plan {
    TestHouse::with_op(op).set("PROVIDER__OP__PASSWORD_LOGIN", "true")
}

async fn circuit(house: &TestHouse) -> bool {
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    match metrics
        .lines()
        .find_map(|line| line.strip_prefix("doorward_provider_circuit_open{provider=\"op\"} "))
    {
        Some("1") => true,
        Some("0") => false,
        other => panic!("{other:?}:\n{metrics}"),
    }
}

#[tokio::test]
async fn re_01_re_10_a_flapping_provider_is_left_alone_and_recovery_needs_no_restart() {
    let op = op().await;
    let house = plan(&op).open().await;
    let browser = house.browser();
    let person = house.browser();
    let page = person.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!(page.url.path(), "/protected");
    for flap in 0..3 {
        assert_eq!(login(&browser, "ada", "right").await.status, 200, "flap {flap}");
        assert!(!circuit(&house).await);
        op.script(|s| s.answer("/token", Answer::text(500, "text/html", "broken")));
        let before = op.count("/token");
        for _ in 0..20 {
            let page = login(&browser, "ada", "right").await;
            assert_eq!((page.status, page.json()["code"].as_str()), (503, Some("provider_unavailable")));
            assert!(page.header("retry-after").is_some());
        }
        assert_eq!(op.count("/token") - before, 5, "the sixth failure is refused at once");
        assert!(circuit(&house).await);
        // Who is signed in stays signed in.
        assert_eq!(person.navigate("/protected").await.status, 200);
        // One probe at a time, and it fails.
        house.clock.advance(Duration::from_secs(2));
        join_all((0..10).map(|_| login(&browser, "ada", "right"))).await;
        assert_eq!(op.count("/token") - before, 6);
        op.script(|s| s.answer("/token", Answer::Normal));
        house.clock.advance(Duration::from_secs(6));
    }
    assert_eq!(login(&browser, "ada", "right").await.status, 200);
}

#[tokio::test]
async fn re_10_a_reload_keeps_the_circuit() {
    let op = op().await;
    let home = Home::with_op(&op).env("DOORWARD__PROVIDER__OP__PASSWORD_LOGIN", "true");
    let mut process = home.open().await;
    op.script(|s| s.answer("/token", Answer::text(500, "text/html", "broken")));
    for _ in 0..5 {
        login(&process.browser(), "ada", "right").await;
    }
    assert_eq!(process.log().matches("calls are refused for a moment").count(), 1, "{}", process.log());
    crate::house::process::hang_up(&mut process).await;
    let metrics = process.operations("/metrics").await.text();
    assert!(metrics.contains("doorward_provider_circuit_open{provider=\"op\"} 1"), "{metrics}");
}

#[tokio::test]
async fn ob_05_a_hanging_provider_slows_nobody_else() {
    let (hanging, well) = (op().await, op().await);
    let text = format!(
        "{}password_login = true\n{}password_login = true\n",
        op_provider("hanging", &hanging),
        op_provider("well", &well)
    );
    let house = TestHouse::with(&text)
        .set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"off\"")
        .set("LIMITS__PASSWORD_FAILURES_IDENTIFIER", "\"off\"")
        .open()
        .await;
    let browser = house.browser();
    let at = |provider: &'static str| {
        let browser = browser.clone();
        async move {
            let body = serde_json::json!({ "username": "ada", "password": "right", "provider": provider });
            let began = Instant::now();
            (browser.post_json("/auth/login", &body).await.status, began.elapsed())
        }
    };
    assert_eq!(at("well").await.0, 200);
    assert_eq!(at("hanging").await.0, 200);
    hanging.script(|s| s.answer("/token", Answer::Hang));
    let crowd = join_all((0..200).map(|_| at("hanging")));
    let measured = async {
        // Once every place at the hanging one is taken.
        let over = Instant::now() + Duration::from_secs(10);
        while hanging.count("/token") < 65 {
            assert!(Instant::now() < over, "{}", hanging.count("/token"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            let (status, took) = at("well").await;
            assert_eq!(status, 200);
            slowest = slowest.max(took);
        }
        slowest
    };
    let (ends, slowest) = tokio::join!(crowd, measured);
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    assert_eq!(hanging.count("/token"), 65, "64 at a time, and one before");
    let soon = ends.iter().filter(|(_, took)| *took < Duration::from_secs(8)).count();
    assert!(soon >= 130, "who finds no place is told so soon: {soon}");
    assert!(ends.iter().all(|(status, took)| *status == 503 && *took < Duration::from_secs(13)));
}

#[tokio::test]
async fn ob_08_only_what_changes_nothing_is_asked_again() {
    let op = op().await;
    // A fetch of metadata or keys that fails for a moment costs nobody a login.
    op.script(|s| {
        s.next("/.well-known/openid-configuration", Answer::Close);
        s.next("/jwks", Answer::text(503, "text/plain", "later"));
        s.next("/jwks", Answer::Raw(503, vec![("Retry-After".into(), "0".into())], Vec::new()));
    });
    let house = plan(&op).open().await;
    assert_eq!(
        login(&house.browser(), "ada", "right").await.status,
        503,
        "503 without a date is no invitation"
    );
    assert_eq!(login(&house.browser(), "ada", "right").await.status, 200);
    assert_eq!((op.count("/.well-known/openid-configuration"), op.count("/jwks")), (2, 3));
    // The token endpoint is asked once, whatever happens.
    for answer in [Answer::Close, Answer::text(502, "text/plain", ""), Answer::text(503, "text/plain", "")] {
        let before = op.count("/token");
        let case = format!("{answer:?}");
        op.script(|s| s.next("/token", answer));
        let page = house.browser().sign_in("/auth/login").await;
        assert_eq!((page.status, op.count("/token") - before), (503, 1), "{case}");
    }
    // A wait that does not fit the time of the whole is not begun.
    let op = self::op().await;
    op.script(|s| s.answer("/jwks", Answer::Raw(503, vec![("Retry-After".into(), "60".into())], Vec::new())));
    let house = plan(&op).open().await;
    let began = Instant::now();
    assert_eq!(login(&house.browser(), "ada", "right").await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(5) && op.count("/jwks") == 1);
}

#[tokio::test]
async fn ob_01_nothing_that_is_sent_to_us_chooses_whom_we_call() {
    let (op, silent) = (op().await, SilentListener::start());
    let (url, bait) = (silent.url("/bait"), silent.url("/bait"));
    op.script(|s| {
        s.person = Person::named("ada").with("picture", url.clone()).with("profile", url.clone());
        s.id_token(move |header, claims| {
            for name in ["jku", "x5u"] {
                header.insert(name.into(), bait.clone().into());
            }
            claims.insert("request_uri".into(), bait.clone().into());
        });
        let url = url.clone();
        s.token_response(move |answer| drop(answer.insert("token_endpoint".into(), url.clone().into())));
    });
    let house = plan(&op).open().await;
    let browser = house.browser();
    // A key that the token itself offers is no key, and its address is not asked.
    assert_eq!(login(&browser, "ada", "right").await.status, 400);
    op.script(|s| s.id_token(|_, _| {}));
    assert_eq!(login(&browser, "ada", "right").await.status, 200);
    for provider in [url.as_str(), "http://127.0.0.1", "../op", "op@evil.example"] {
        let body = serde_json::json!({ "username": "ada", "password": "right", "provider": provider, "issuer": url, "request_uri": url });
        assert_eq!(browser.post_json("/auth/login", &body).await.status, 404, "{provider}");
    }
    let named = url::form_urlencoded::byte_serialize(url.as_bytes()).collect::<String>();
    for wish in ["iss", "provider", "request_uri", "target_link_uri", "return_to"] {
        browser.navigate(&format!("/auth/login?{wish}={named}")).await;
    }
    silent.assert_silent();
}

#[tokio::test]
async fn ob_03_no_call_follows_a_redirect() {
    let silent = SilentListener::serving("application/json", "{}");
    for path in ["/.well-known/openid-configuration", "/jwks", "/token", "/userinfo"] {
        for status in [301, 302, 303, 307, 308] {
            let op = op().await;
            op.script(|s| s.answer(path, Answer::Redirect(status, silent.url(path))));
            let house = plan(&op).set("PROVIDER__OP__USERINFO", "\"always\"").open().await;
            let page = login(&house.browser(), "ada", "right").await;
            assert!([400, 502, 503].contains(&page.status), "{path} {status}: {}", page.status);
            assert_eq!(house.live_sessions().await, 0);
        }
    }
    silent.assert_silent();
}

#[tokio::test]
async fn ob_04_no_answer_takes_longer_or_more_than_it_may() {
    let op = op().await;
    let house = plan(&op).open().await;
    let browser = house.browser();
    assert_eq!(login(&browser, "ada", "right").await.status, 200);
    for (case, answer) in [
        ("endless", Answer::Endless),
        ("a bomb", super::discovery::gzip()),
        ("a page", Answer::text(200, "text/html", "<html>welcome</html>")),
        ("cut", Answer::Truncated("application/json", b"{".to_vec())),
        ("a drop a second", Answer::Drip),
        ("nothing", Answer::Hang),
    ] {
        op.script(|s| s.next("/token", answer));
        let began = Instant::now();
        let page = login(&browser, "ada", "right").await;
        assert!([400, 503].contains(&page.status), "{case}: {}", page.status);
        assert!(began.elapsed() < Duration::from_secs(12), "{case}: {:?}", began.elapsed());
    }
    assert_eq!(login(&browser, "ada", "right").await.status, 200);
    assert_eq!(house.live_sessions().await, 2);
}

#[tokio::test]
async fn ob_07_proxies_of_the_environment_are_not_asked() {
    let (op, silent) = (op().await, SilentListener::start());
    let mut home = Home::with_op(&op).env("DOORWARD__PROVIDER__OP__PASSWORD_LOGIN", "true");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        home.set_env(name, &silent.url(""));
    }
    let process = home.open().await;
    assert_eq!(login(&process.browser(), "ada", "right").await.status, 200);
    silent.assert_silent();
}

/// Every text that this provider was sent, wherever in a request it stood.
fn heard(op: &ScriptedOp) -> String {
    let all = op.requests().into_iter().map(|request| {
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let basic = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
        let basic = basic.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let opened = String::from_utf8_lossy(&basic).into_owned();
        format!(
            "{} {}?{}\n{}{opened}\n{body}",
            request.method,
            request.path,
            request.query,
            headers.collect::<String>()
        )
    });
    all.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn ob_06_a_secret_goes_to_its_own_provider_and_to_nobody_else() {
    let (one, other) = (op().await, op().await);
    let secrets = [(&one, "secret-of-the-one"), (&other, "secret-of-the-other")];
    let mut text = String::new();
    for (id, (op, secret)) in ["one", "other"].into_iter().zip(secrets) {
        op.script(|s| s.client_secret = secret.to_owned());
        text += &op_provider(id, op).replace("s3cret+with%odd&chars:", secret);
        text += "password_login = true\n";
    }
    let house = TestHouse::with(&text).open().await;
    for id in ["one", "other"] {
        let person = house.browser();
        let page = person.sign_in(&format!("/auth/login?provider={id}&return_to=/protected")).await;
        assert_eq!(page.url.path(), "/protected", "{}", page.text());
        let body = serde_json::json!({ "username": "ada", "password": "right", "provider": id });
        let program = house.browser();
        let tokens = program.post_json("/auth/login", &body).await.json();
        let held = serde_json::json!({ "sessionId": tokens["sessionId"], "refreshToken": tokens["tokens"]["refresh_token"] });
        let fresh = program.post_json("/auth/refresh", &held).await;
        assert_eq!(fresh.status, 200, "{}", fresh.text());
        assert_eq!(person.post_form("/auth/logout", &[]).await.status, 303);
    }
    for (op, own) in secrets {
        let heard = heard(op);
        for (_, secret) in secrets {
            assert_eq!(heard.contains(secret), secret == own, "{secret} at {own}:\n{heard}");
        }
    }
}

#[tokio::test]
async fn ob_06_metadata_cannot_send_a_vendors_secret_elsewhere() {
    const DISCOVERY: &str = "/.well-known/openid-configuration";
    let (own, thief) = (op().await, op().await);
    let honest =
        crate::house::servers::http().get(own.url(DISCOVERY)).send().await.unwrap().text().await.unwrap();
    let honest: serde_json::Value = serde_json::from_str(&honest).unwrap();
    let provider = op_provider("op", &own).replace("kind = \"oidc\"", "kind = \"keycloak\"");
    for endpoint in
        ["token_endpoint", "revocation_endpoint", "userinfo_endpoint", "jwks_uri", "end_session_endpoint"]
    {
        let mut metadata = honest.clone();
        metadata[endpoint] = thief.url("/stolen").into();
        own.script(|s| s.answer(DISCOVERY, Answer::json(200, &metadata)));
        let house = TestHouse::with(&format!("{provider}password_login = true\n")).open().await;
        let page = login(&house.browser(), "ada", "right").await;
        let reasons = house.database.texts("SELECT reason FROM audit_log WHERE outcome = 'refused'").await;
        assert_eq!(page.status, 502, "{endpoint}: {reasons:?} {}", page.text());
        assert_eq!(house.browser().navigate("/auth/login").await.location(), None, "{endpoint}");
        assert_eq!(thief.requests().len(), 0, "{endpoint}");
    }
    own.script(|s| s.answer(DISCOVERY, Answer::Normal));
    let house = TestHouse::with(&format!("{provider}password_login = true\n")).open().await;
    assert_eq!(login(&house.browser(), "ada", "right").await.status, 200);
}
