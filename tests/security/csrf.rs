//! Chapter 6, requests from elsewhere: forged ones, cross-origin reads, and links that must not change anything.

use reqwest::{Method, Response};

use super::signed_in;
use crate::house::browser::Browser;
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;
use crate::house::servers::http;

const SPA: &str = "https://spa.example";

/// Sends exactly these headers, with the visitor's session cookie.
async fn send(house: &TestHouse, who: &Browser, call: (&str, &str), headers: &[(&str, &str)]) -> Response {
    let method = Method::from_bytes(call.0.as_bytes()).unwrap();
    let mut request = http().request(method, format!("{}{}", house.url, call.1));
    if let Some(key) = who.cookie("doorward") {
        request = request.header("cookie", format!("doorward={key}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Every combination of the three headers, and whether product.md lets it pass. `OWN` stands for our origin.
const COMBINATIONS: &[(&[(&str, &str)], bool)] = &[
    (&[("sec-fetch-site", "same-origin")], true),
    (&[("sec-fetch-site", "none")], true),
    (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], true),
    (&[("sec-fetch-site", "same-site")], false),
    (&[("sec-fetch-site", "cross-site")], false),
    (&[("sec-fetch-site", "cross-site"), ("x-csrf", "1")], false),
    (&[("sec-fetch-site", "cross-site"), ("origin", "OWN")], false),
    (&[("sec-fetch-site", "same-site"), ("origin", "OWN"), ("x-csrf", "1")], false),
    (&[("sec-fetch-site", "cross-site"), ("origin", "null")], false),
    (&[("sec-fetch-site", "cross-site"), ("origin", SPA)], true),
    (&[("sec-fetch-site", "same-site"), ("origin", SPA)], true),
    (&[("sec-fetch-site", "")], false),
    (&[("sec-fetch-site", "Same-Origin")], false),
    (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], false),
    (&[("origin", "OWN")], true),
    (&[("origin", SPA)], true),
    (&[("origin", "null")], false),
    (&[("origin", "null"), ("x-csrf", "1")], false),
    (&[("origin", "")], false),
    (&[("origin", "https://evil.example")], false),
    (&[("origin", "https://evil.example"), ("x-csrf", "1")], false),
    (&[("origin", "https://spa.example.evil")], false),
    (&[("origin", "http://spa.example")], false),
    (&[("origin", "http://localhost")], false),
    (&[("origin", "OWN"), ("origin", "OWN")], false),
    (&[("x-csrf", "1")], true),
    (&[("x-csrf", "0")], false),
    (&[("x-csrf", "")], false),
    (&[("x-csrf", "1"), ("x-csrf", "1")], false),
    (&[("referer", "OWN")], false),
    (&[], false),
];

async fn guarded_house() -> (ScriptedOp, TestHouse) {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("CORS__ORIGINS", r#"["https://spa.example"]"#).open().await;
    (op, house)
}

fn filled<'a>(headers: &[(&'a str, &'a str)], own: &'a str) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, if *value == "OWN" { own } else { *value })).collect()
}

async fn assert_csrf(answer: Response, case: &str) {
    assert_eq!(answer.status(), 403, "{case}");
    let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["code"], "csrf", "{case}");
}

#[tokio::test]
async fn wb_01_every_combination_of_the_three_headers_is_judged_by_the_rule() {
    let (_op, house) = guarded_house().await;
    let browser = signed_in(&house).await;
    let own = house.url.clone();
    for (headers, passes) in COMBINATIONS {
        let headers = filled(headers, &own);
        let case = format!("{headers:?}");
        let answer = send(&house, &browser, ("DELETE", "/auth/sessions"), &headers).await;
        if *passes {
            assert_eq!(answer.status(), 204, "{case}");
        } else {
            assert_csrf(answer, &case).await;
        }
    }
    let refused = COMBINATIONS.iter().filter(|(_, passes)| !passes).count();
    assert_eq!(house.refusals("csrf").await, i64::try_from(refused).unwrap(), "one event for each");
    assert_eq!(browser.get_json("/auth/me").await.status, 200);
}

#[tokio::test]
async fn wb_01_nothing_of_ours_that_changes_something_takes_a_request_from_elsewhere() {
    let (_op, house) = guarded_house().await;
    let browser = signed_in(&house).await;
    let id = browser.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned();
    let paths = [
        ("POST", "/auth/logout".to_owned()),
        ("DELETE", "/auth/sessions".to_owned()),
        ("DELETE", "/auth/sessions?all=true".to_owned()),
        ("DELETE", format!("/auth/sessions/{id}")),
        ("POST", "/auth/account/sessions/end-all".to_owned()),
        ("POST", "/auth/account/sessions/end-others".to_owned()),
        ("POST", format!("/auth/account/sessions/{id}/end")),
        ("POST", "/auth/login".to_owned()),
        ("POST", "/auth/register".to_owned()),
        ("PUT", "/auth/me".to_owned()),
    ];
    for (method, path) in &paths {
        for headers in [
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")][..],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "null")],
            &[("origin", "https://evil.example"), ("content-type", "text/plain")],
            &[],
        ] {
            let answer = send(&house, &browser, (method, path), headers).await;
            assert_csrf(answer, &format!("{method} {path} {headers:?}")).await;
        }
    }
    // No cookie counts there, so nothing but the headers of a browser elsewhere can be refused.
    for headers in
        [&[("sec-fetch-site", "cross-site")][..], &[("sec-fetch-site", "same-site")], &[("origin", "null")]]
    {
        assert_csrf(send(&house, &browser, ("POST", "/auth/refresh"), headers).await, "refresh").await;
    }
    assert_eq!(send(&house, &browser, ("POST", "/auth/refresh"), &[]).await.status(), 400);
    assert_eq!(house.live_sessions().await, 1);
    assert_eq!(browser.get_json("/auth/me").await.status, 200, "still signed in");
    let page = browser.post_form_from("https://evil.example/", "/auth/logout", &[]).await;
    assert!(page.status == 403 && page.text().contains("came from elsewhere"), "{}", page.text());
    assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303, "our own button works");
}

#[tokio::test]
async fn wb_02_the_same_guard_stands_before_the_apps_own_unsafe_methods() {
    let (_op, house) = guarded_house().await;
    let browser = signed_in(&house).await;
    let own = house.url.clone();
    for (headers, passes) in COMBINATIONS {
        let headers = filled(headers, &own);
        let answer = send(&house, &browser, ("POST", "/protected"), &headers).await;
        if *passes {
            assert_eq!(answer.status(), 200, "{headers:?}");
        } else {
            assert_csrf(answer, &format!("{headers:?}")).await;
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        for body in [None, Some("a=b")] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let key = browser.cookie("doorward").unwrap();
            let mut request = http()
                .request(method.clone(), format!("{}/protected", house.url))
                .header("cookie", format!("doorward={key}"))
                .header("sec-fetch-site", "cross-site");
            if let Some(body) = body {
                request = request.header("content-type", "text/plain").body(body);
            }
            assert_csrf(request.send().await.unwrap(), &format!("{method} {body:?}")).await;
        }
    }
}

#[tokio::test]
async fn wb_03_password_login_and_registration_are_not_offered_and_never_from_elsewhere() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let nobody = house.browser();
    let own = house.url.clone();
    for path in ["/auth/login", "/auth/register"] {
        for headers in [&[("sec-fetch-site", "same-origin")][..], &[("origin", own.as_str())], &[]] {
            let answer = send(&house, &nobody, ("POST", path), headers).await;
            assert_eq!(answer.status(), 404, "{path} {headers:?}");
            let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body["code"], "not_offered", "{path} {headers:?}");
        }
        for headers in [&[("sec-fetch-site", "cross-site")][..], &[("origin", "null")]] {
            assert_csrf(send(&house, &nobody, ("POST", path), headers).await, path).await;
        }
    }
    assert_eq!(send(&house, &nobody, ("GET", "/auth/register"), &[]).await.status(), 404);
    assert_eq!(op.count("/token"), 0, "no password went anywhere");
}

fn cors_of(answer: &Response) -> (Option<String>, Option<String>) {
    let one = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    (one("access-control-allow-origin"), one("access-control-allow-credentials"))
}

#[tokio::test]
async fn wb_04_only_an_exactly_listed_origin_may_read_our_answers() {
    let (_op, house) = guarded_house().await;
    let browser = signed_in(&house).await;
    for who in [&browser, &house.browser()] {
        let answer = send(&house, who, ("GET", "/auth/me"), &[("origin", SPA)]).await;
        let expected = if who.cookie("doorward").is_some() { 200 } else { 401 };
        assert_eq!(answer.status(), expected, "an error is readable too");
        assert_eq!(cors_of(&answer), (Some(SPA.to_owned()), Some("true".to_owned())));
        assert!(answer.headers()["vary"].to_str().unwrap().contains("Origin"));
    }
    for other in [
        "null",
        "",
        "*",
        "https://evil.example",
        "https://spa.example.evil",
        "https://sub.spa.example",
        "https://spa.example:443",
        "https://spa.example/",
        "http://spa.example",
        "HTTPS://SPA.EXAMPLE",
        "https://spa.example, https://evil.example",
    ] {
        for path in ["/auth/me", "/auth/sessions", "/auth/login", "/auth/nowhere", "/", "/protected"] {
            let answer = send(&house, &browser, ("GET", path), &[("origin", other)]).await;
            assert_eq!(cors_of(&answer), (None, None), "{other} {path}");
        }
    }
    let plain = send(&house, &browser, ("GET", "/auth/me"), &[]).await;
    assert_eq!(cors_of(&plain), (None, None));
    assert!(plain.headers()["vary"].to_str().unwrap().contains("Origin"));
}

#[tokio::test]
async fn wb_04_a_preflight_passes_for_a_listed_origin_alone() {
    let (_op, house) = guarded_house().await;
    let nobody = house.browser();
    let ask = |origin: &'static str, method: &'static str| {
        let (house, nobody) = (&house, &nobody);
        async move {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", method),
                ("access-control-request-headers", "x-csrf, content-type"),
            ];
            send(house, nobody, ("OPTIONS", "/auth/sessions"), &headers).await
        }
    };
    let granted = ask(SPA, "DELETE").await;
    assert_eq!(granted.status(), 200);
    assert_eq!(cors_of(&granted), (Some(SPA.to_owned()), Some("true".to_owned())));
    let methods = granted.headers()["access-control-allow-methods"].to_str().unwrap();
    assert!(methods.contains("DELETE") && !methods.contains('*'), "{methods}");
    assert!(granted.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-csrf"));
    for (origin, method) in [
        ("null", "GET"),
        ("https://evil.example", "GET"),
        ("https://spa.example.evil", "DELETE"),
        (SPA, "PATCH"),
    ] {
        let refused = ask(origin, method).await;
        assert!(refused.status().is_client_error(), "{origin} {method}: {}", refused.status());
        assert_eq!(cors_of(&refused), (None, None), "{origin} {method}");
    }
}

#[tokio::test]
async fn wb_04_without_a_list_nobody_else_reads_anything() {
    let house = TestHouse::open().await;
    let nobody = house.browser();
    for origin in ["https://spa.example", "null", house.url.as_str()] {
        let answer = send(&house, &nobody, ("GET", "/auth/me"), &[("origin", origin)]).await;
        assert_eq!(cors_of(&answer), (None, None), "{origin}");
    }
}

/// Everything the database holds, and every cookie's name; reading is allowed to leave both alone only.
#[tokio::test]
async fn wb_11_get_head_and_options_change_nothing_but_the_start_of_a_login() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let id = browser.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned();
    let paths = [
        "/",
        "/protected",
        "/admin-only",
        "/nowhere",
        "/auth",
        "/auth/login",
        "/auth/login?prompt=login",
        "/auth/logout",
        "/auth/logout?return_to=/",
        "/auth/signed-out",
        "/auth/me",
        "/auth/sessions",
        "/auth/sessions?all=true",
        &format!("/auth/sessions/{id}"),
        "/auth/account",
        "/auth/account/sessions/end-all",
        "/auth/account/sessions/end-others",
        &format!("/auth/account/sessions/{id}/end"),
        "/auth/register",
        "/auth/refresh",
        "/auth/static/doorward.css",
        "/auth/backchannel-logout/op",
        "/auth/frontchannel-logout/op",
        "/auth/webhooks/op",
        "/auth/admin",
        "/.well-known/doorward/jwks.json",
    ];
    let before = house.database.dump().await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        for path in paths {
            let prefetch =
                [("sec-purpose", "prefetch"), ("sec-fetch-mode", "navigate"), ("accept", "text/html")];
            let answer = send(&house, &browser, (method, path), &prefetch).await;
            let given = answer.headers().get_all("set-cookie").iter();
            for cookie in given.map(|value| value.to_str().unwrap()) {
                assert!(cookie.starts_with("doorward-login-"), "{method} {path}: {cookie}");
            }
            assert_ne!(answer.status(), 500, "{method} {path}");
        }
    }
    assert_eq!(browser.get_json("/auth/me").await.status, 200, "nobody was signed out");
    assert!(before == house.database.dump().await, "reading wrote to the database");
    assert_eq!(op.count("/end-session") + op.count("/revoke"), 0);
}

/// No page of ours runs scripts at all, so none can talk to another window.
#[tokio::test]
async fn wb_12_no_page_of_ours_carries_a_script_that_could_post_a_message() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    for path in ["/auth/logout", "/auth/signed-out", "/auth/nowhere", "/auth/callback/dev", "/"] {
        let page = browser.navigate(path).await;
        assert!(!page.text().to_lowercase().contains("<script"), "{path}");
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("script-src"),
            "{path}: {policy}"
        );
    }
}
