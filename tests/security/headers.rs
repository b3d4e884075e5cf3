//! Chapter 6, headers: what every answer of ours says of framing, content, caching and referrers.

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::signed_in;
use crate::house::browser::{Browser, Page};
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;
use crate::house::servers::http;

/// Every place of ours, good answers and errors, as anybody and as a guest.
const PLACES: &[&str] = &[
    "/auth",
    "/auth/",
    "/auth/login",
    "/auth/login?prompt=nonsense",
    "/auth/login?provider=nobody",
    "/auth/login?max_age=x",
    "/auth/callback/op",
    "/auth/callback/op?code=a&state=b",
    "/auth/callback/op?error=access_denied&state=b",
    "/auth/callback/nobody",
    "/auth/logout",
    "/auth/signed-out",
    "/auth/signed-out?left_open=op",
    "/auth/signed-out?state=x",
    "/auth/me",
    "/auth/sessions",
    "/auth/sessions/none",
    "/auth/account",
    "/auth/account/sessions/end-all",
    "/auth/register",
    "/auth/refresh",
    "/auth/nowhere",
    "/auth/static/nothing",
    "/auth/%zz",
];

fn one<'h>(headers: &'h HeaderMap, name: &str, case: &str) -> &'h str {
    let mut all = headers.get_all(name).iter();
    let first = all.next().unwrap_or_else(|| panic!("{case}: no {name}")).to_str().unwrap();
    assert!(all.next().is_none(), "{case}: {name} twice");
    first
}

/// What holds for every answer of ours.
fn assert_guarded(headers: &HeaderMap, secure: bool, case: &str) {
    let policy = one(headers, "content-security-policy", case);
    for part in ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"] {
        assert!(policy.split("; ").any(|own| own.starts_with(part)), "{case}: {policy}");
    }
    assert!(!policy.contains("unsafe-") && !policy.contains('*'), "{case}: {policy}");
    assert!(!policy.contains("object-src") || policy.contains("object-src 'none'"), "{case}: {policy}");
    assert_eq!(one(headers, "x-frame-options", case), "DENY", "{case}");
    assert_eq!(one(headers, "x-content-type-options", case), "nosniff", "{case}");
    assert_eq!(one(headers, "cross-origin-opener-policy", case), "same-origin", "{case}");
    let referrer = one(headers, "referrer-policy", case);
    assert!(["no-referrer", "same-origin"].contains(&referrer), "{case}: {referrer}");
    assert!(!one(headers, "x-request-id", case).is_empty(), "{case}");
    let transport = headers.get("strict-transport-security").map(|value| value.to_str().unwrap());
    assert_eq!(transport, secure.then_some("max-age=31536000"), "{case}");
    for told in ["server", "x-powered-by"] {
        assert!(!headers.contains_key(told), "{case}: {told}");
    }
}

fn assert_not_stored(headers: &HeaderMap, case: &str) {
    assert_eq!(one(headers, "cache-control", case), "no-store", "{case}");
}

async fn everywhere(browser: &Browser, secure: bool) {
    for place in PLACES {
        for (kind, page) in [
            ("navigate", browser.navigate(place).await),
            ("fetch", browser.get_json(place).await),
            ("program", browser.get(place).await),
            ("DELETE", browser.delete(place).await),
            ("elsewhere", browser.post_form_from("https://evil.example", place, &[]).await),
        ] {
            // A deleted session list and the like are not what is looked at here.
            let case = format!("{kind} {place} {}", page.status);
            assert_guarded(&page.headers, secure, &case);
            assert_not_stored(&page.headers, &case);
            assert_ne!(page.status, 500, "{case}");
        }
    }
}

#[tokio::test]
async fn wb_05_wb_07_wb_08_every_answer_of_ours_carries_its_headers_for_strangers_and_guests() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    everywhere(&house.browser(), false).await;
    everywhere(&signed_in(&house).await, false).await;
}

#[tokio::test]
async fn wb_05_to_wb_08_hold_over_https_with_transport_security() {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("SERVER__PUBLIC_URL", "\"https://app.example\"");
    let house = plan.open().await;
    let browser = Browser::behind_tls("https://app.example", house.address);
    let landed = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((landed.status, landed.url.path()), (200, "/protected"), "{}", landed.text());
    everywhere(&browser, true).await;
}

#[tokio::test]
async fn wb_05_nothing_may_be_framed_whatever_goes_wrong() {
    let house = TestHouse::open().await;
    let raw = |method: &str, path: &str, host: &str| {
        let request =
            http().request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", house.url));
        request.header("host", host).header("accept", "text/html").send()
    };
    let own = house.url.trim_start_matches("http://").to_owned();
    let long = format!("/{}", "a".repeat(9000));
    for (method, path, host, status) in [
        ("GET", "/auth/me", "evil.example", 421),
        ("GET", "/auth/me", "127.0.0.1:1", 303),
        ("TRACE", "/auth/me", own.as_str(), 405),
        ("GET", long.as_str(), own.as_str(), 414),
        ("GET", "/nowhere", own.as_str(), 404),
        ("GET", "/admin-only", own.as_str(), 303),
        ("PATCH", "/auth/me", own.as_str(), 405),
        ("GET", "/a/%2e%2e/b%2f", own.as_str(), 400),
    ] {
        let answer = raw(method, path, host).await.unwrap();
        let case = format!("{method} {} {host}", &path[..path.len().min(30)]);
        assert_eq!(answer.status(), status, "{case}");
        assert_guarded(answer.headers(), false, &case);
        assert_not_stored(answer.headers(), &case);
    }
}

/// The stylesheet may be kept for ever by its version, but never together with a cookie.
#[tokio::test]
async fn wb_07_static_files_may_be_kept_and_an_answer_with_a_cookie_never() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    let page = browser.navigate("/auth/logout").await.text();
    let start = page.find("/auth/static/doorward.css?v=").unwrap();
    let style = page[start..].split('"').next().unwrap().to_owned();
    let kept = browser.get(&style).await;
    assert_eq!(kept.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_guarded(&kept.headers, false, &style);
    let unversioned = browser.get("/auth/static/doorward.css").await;
    assert_eq!(unversioned.header("cache-control"), Some("no-cache"));
    assert!(kept.set_cookies().is_empty() && unversioned.set_cookies().is_empty());
    browser.set_cookie("doorward", "left-over-from-another-time");
    for path in [style.as_str(), "/auth/static/doorward.svg", "/auth/signed-out"] {
        browser.set_cookie("doorward", "left-over-from-another-time");
        let answer = browser.get(path).await;
        assert!(!answer.set_cookies().is_empty(), "{path}: a dead cookie is taken away");
        assert_not_stored(&answer.headers, path);
    }
}

/// A redirect of a login carries the headers and no address of ours in a referrer.
#[tokio::test]
async fn wb_07_redirects_of_a_login_are_not_stored() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let check = |page: &Page| {
        assert_eq!(page.status, 303);
        assert_not_stored(&page.headers, page.url.path());
        assert_guarded(&page.headers, false, page.url.path());
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    };
    let door = browser.navigate("/protected").await;
    check(&door);
    let start = browser.follow(door, 1).await;
    check(&start);
    let callback = browser.follow(start, 1).await.location().unwrap();
    check(&browser.navigate(callback.as_str()).await);
    check(&browser.post_form("/auth/logout", &[]).await);
}

/// The forms of our pages may lead to the provider and, from a logout, on to a listed origin; nowhere else.
#[tokio::test]
async fn wb_06_form_action_names_the_providers_and_listed_origins_alone() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("CORS__ORIGINS", r#"["https://spa.example"]"#).open().await;
    let page = house.browser().navigate("/auth/logout").await;
    let policy = page.header("content-security-policy").unwrap().to_owned();
    let forms = policy.split("; ").find(|part| part.starts_with("form-action")).unwrap();
    let mut expected = vec![op.issuer(), "https://spa.example".to_owned()];
    expected.sort();
    assert_eq!(forms, format!("form-action 'self' {}", expected.join(" ")));
}
