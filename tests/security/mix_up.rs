//! Two providers, one door: what belongs to one login never reaches the other's provider, nor any third host.

use std::time::Duration;

use super::assert_rejected;
use super::stage::{Stage, param, with_params};
use crate::house::browser::Browser;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Answer, ScriptedOp, SilentListener};

struct Two {
    a: ScriptedOp,
    b: ScriptedOp,
    house: TestHouse,
}

async fn two() -> Two {
    let (a, b) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let house = TestHouse::with(&format!("{}{}", op_provider("a", &a), op_provider("b", &b))).open().await;
    Two { a, b, house }
}

impl Two {
    async fn callback_of(&self, browser: &Browser, login: &str) -> String {
        let start = browser.navigate(login).await;
        browser.follow(start, 1).await.location().unwrap().to_string()
    }
}

#[tokio::test]
async fn ar_05_a_login_begun_at_one_provider_does_not_end_at_another() {
    let two = two().await;
    let issuer_b = two.b.issuer();
    for iss in [None, Some(issuer_b.as_str())] {
        let browser = two.house.browser();
        let callback = two.callback_of(&browser, "/auth/login?provider=a").await;
        let mut crossed = callback.replace("/auth/callback/a", "/auth/callback/b");
        if let Some(iss) = iss {
            crossed = with_params(&crossed, &[("iss", Some(iss))]);
        }
        let page = browser.click(&two.a.issuer(), &crossed).await;
        assert_rejected(&two.house, &page, "callback_provider").await;
    }
    assert_eq!((two.a.count("/token"), two.b.count("/token")), (0, 0), "no code went anywhere");
    // The other way about, with B's issuer at A's path.
    let browser = two.house.browser();
    let callback = two.callback_of(&browser, "/auth/login?provider=a").await;
    let page = browser.click(&two.a.issuer(), &with_params(&callback, &[("iss", Some(&issuer_b))])).await;
    assert_rejected(&two.house, &page, "callback_iss").await;
    assert_eq!((two.a.count("/token"), two.b.count("/token")), (0, 0));
    for id in ["a", "b"] {
        let page =
            two.house.browser().sign_in(&format!("/auth/login?provider={id}&return_to=/protected")).await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{id}");
    }
}

#[tokio::test]
async fn ar_05_the_codes_of_two_open_logins_do_not_mix() {
    let two = two().await;
    let browser = two.house.browser();
    let at_a = two.callback_of(&browser, "/auth/login?provider=a").await;
    let at_b = two.callback_of(&browser, "/auth/login?provider=b").await;
    // A code of B put into A's answer goes to A, who does not know it.
    let code_b = param(&url::Url::parse(&at_b).unwrap(), "code");
    let page = browser.click(&two.a.issuer(), &with_params(&at_a, &[("code", Some(&code_b))])).await;
    assert_rejected(&two.house, &page, "code_refused").await;
    assert_eq!((two.a.count("/token"), two.b.count("/token")), (1, 0));
    assert_eq!(browser.click(&two.b.issuer(), &at_b).await.status, 303, "B's own login is unharmed");
}

#[tokio::test]
async fn ar_05_nothing_of_the_callbacks_request_decides_where_the_code_goes() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
    let silent = SilentListener::start();
    let evil = silent.url("/token");
    let changed: Vec<(&str, Option<&str>)> = [
        "redirect_uri",
        "token_endpoint",
        "client_id",
        "code_verifier",
        "nonce",
        "return_to",
        "provider",
        "issuer",
    ]
    .map(|name| (name, Some(evil.as_str())))
    .to_vec();
    let page = browser.click(&stage.op.issuer(), &with_params(&callback, &changed)).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")));
    let request = stage.op.requests_to("/token").pop().unwrap();
    assert_eq!(request.form("redirect_uri").unwrap(), format!("{}/auth/callback/op", stage.house.url));
    assert!(!String::from_utf8_lossy(&request.body).contains(&silent.address().port().to_string()));
    silent.assert_silent();
}

#[tokio::test]
async fn ar_07_each_provider_has_a_callback_path_of_its_own() {
    let two = two().await;
    for (id, op, other) in [("a", &two.a, "b"), ("b", &two.b, "a")] {
        let start = two.house.browser().navigate(&format!("/auth/login?provider={id}")).await;
        let sent = start.location().unwrap();
        assert!(sent.as_str().starts_with(&op.issuer()));
        assert_eq!(param(&sent, "redirect_uri"), format!("{}/auth/callback/{id}", two.house.url));
        // A provider without `iss` is told apart by the path alone.
        op.script(|s| {
            s.discovery(|d| {
                d.remove("authorization_response_iss_parameter_supported");
            });
            s.authorization_response(|pairs| pairs.retain(|(name, _)| name != "iss"));
        });
        two.house.clock.advance(Duration::from_hours(2));
        op.set_now({
            let clock = std::sync::Arc::clone(&two.house.clock);
            std::sync::Arc::new(move || doorward::domain::Clock::now_ms(&*clock))
        });
        let browser = two.house.browser();
        let callback = two.callback_of(&browser, &format!("/auth/login?provider={id}")).await;
        let crossed = callback.replace(&format!("/callback/{id}"), &format!("/callback/{other}"));
        let page = browser.click(&op.issuer(), &crossed).await;
        assert_rejected(&two.house, &page, "callback_provider").await;
    }
    let page = two.house.browser().navigate("/auth/callback/unknown?code=a&state=b").await;
    assert_eq!(page.status, 404);
    assert_eq!((two.a.count("/token"), two.b.count("/token")), (0, 0));
}

#[tokio::test]
async fn ar_14_the_code_goes_by_post_with_client_authentication_and_in_no_address() {
    let stage = Stage::open().await;
    stage.accepted("a login").await;
    let [request] = stage.op.requests_to("/token").try_into().unwrap();
    assert_eq!((request.method.as_str(), request.query.as_str()), ("POST", ""));
    assert!(request.header("authorization").unwrap().starts_with("Basic "));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(request.form("client_secret").is_none(), "one method of authentication, not two");
    assert!(request.form("code").is_some() && request.form("code_verifier").is_some());
    for other in stage.op.requests().iter().filter(|r| r.path != "/token") {
        let text = format!("{}{:?}{}", other.query, other.headers, String::from_utf8_lossy(&other.body));
        assert!(!text.contains(&request.form("code").unwrap()), "{} saw the code", other.path);
        assert!(!text.contains("referer"), "{} saw where we come from", other.path);
    }
}

#[tokio::test]
async fn ar_14_a_redirect_at_the_token_endpoint_is_an_error_and_is_not_followed() {
    let stage = Stage::open().await;
    let silent =
        SilentListener::serving("application/json", "{\"access_token\":\"a\",\"token_type\":\"Bearer\"}");
    for status in [300, 301, 302, 303, 307, 308] {
        for target in [silent.url("/token"), stage.op.url("/token"), "//evil.example/".to_owned()] {
            let answer = Answer::Redirect(status, target.clone());
            stage.lie(&format!("{status} to {target}"), "redirected", |s| s.next("/token", answer)).await;
        }
    }
    silent.assert_silent();
    assert_eq!(stage.op.count("/token"), 18, "each code was sent once");
    stage.accepted("no redirect").await;
}

#[tokio::test]
async fn ar_14_a_redirect_for_metadata_or_keys_is_not_followed() {
    let silent = SilentListener::serving("application/json", "{}");
    for path in ["/.well-known/openid-configuration", "/jwks", "/userinfo"] {
        let op = ScriptedOp::start().await;
        op.script(|s| s.answer(path, Answer::Redirect(302, silent.url(path))));
        let text = format!("{}userinfo = \"always\"\n", op_provider("op", &op));
        let stage = Stage::of(op, TestHouse::with(&text)).await;
        let (browser, page) = stage.tries().await;
        assert!(page.status >= 400, "{path}: {}", page.status);
        assert_eq!(browser.navigate("/protected").await.status, 303, "{path}");
        assert_eq!(stage.house.live_sessions().await, 0, "{path}");
    }
    silent.assert_silent();
}

#[tokio::test]
async fn ar_15_the_redirect_uri_is_the_configured_one_whatever_the_headers_say() {
    for trusted in ["[]", "[\"127.0.0.1/32\", \"::1/128\"]"] {
        let op = ScriptedOp::start().await;
        let plan = TestHouse::with_op(&op).set("SERVER__TRUSTED_PROXIES", trusted);
        let stage = Stage::of(op, plan).await;
        let wanted = format!("{}/auth/callback/op", stage.house.url);
        for (name, value) in [
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "444"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "host=evil.example;proto=https;for=192.0.2.1"),
            ("x-original-host", "evil.example"),
            ("x-host", "evil.example"),
            ("x-original-url", "/evil"),
            ("origin", "https://evil.example"),
            ("referer", "https://evil.example/"),
        ] {
            let page = stage.browser().with_header(name, value).navigate("/auth/login").await;
            if let Some(sent) = page.location() {
                assert_eq!(param(&sent, "redirect_uri"), wanted, "{name}, trusted {trusted}");
            } else {
                assert!(page.status >= 400, "{name}, trusted {trusted}");
            }
        }
        for host in
            ["evil.example", "localhost.evil.example", "localhost:1", "localhost@evil.example", "[::1].evil"]
        {
            let page = stage.browser().with_header("host", host).navigate("/auth/login").await;
            let led = page.location().map(|url| url.to_string()).unwrap_or_default();
            assert!(!led.contains("evil") && !led.contains("redirect_uri"), "{host}: {led}");
            assert!(
                page.status == 421 || page.status == 400 || led.starts_with(&stage.house.url),
                "{host}: {}",
                page.status
            );
        }
        assert_eq!(stage.op.count("/authorize"), 0);
    }
}
