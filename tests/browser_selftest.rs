//! The test visitor itself: Fetch Metadata, cookies and the pretended TLS proxy.

use std::sync::Arc;

use serde_json::json;

use crate::house::browser::Browser;
use crate::house::op::{Answer, ScriptedOp};

#[tokio::test]
async fn a_browser_tells_sites_apart_and_carries_its_cookies() {
    let op = ScriptedOp::start().await;
    let browser = Browser::new(&op.issuer());
    let cookies = vec![
        ("set-cookie".to_owned(), "a=1; Path=/; HttpOnly".to_owned()),
        ("set-cookie".to_owned(), "b=2; Max-Age=600".to_owned()),
        ("location".to_owned(), "/landed".to_owned()),
    ];
    op.script(|s| s.next("/start", Answer::Raw(303, cookies, Vec::new())));
    let page = browser.navigate("/start").await;
    assert_eq!(page.set_cookies().len(), 2);
    assert!(page.set_cookies()[0].has("HttpOnly"));
    browser.follow(page, 1).await;
    let landed = op.requests_to("/landed").remove(0);
    assert_eq!(landed.header("cookie"), Some("a=1; b=2"));
    assert_eq!(landed.header("sec-fetch-site"), Some("none"));
    assert_eq!(landed.header("sec-fetch-mode"), Some("navigate"));
    assert_eq!(browser.cookie("b").as_deref(), Some("2"));
    assert!(browser.cookies_for("/deep/x")[0].http_only);
    browser.set_now(Arc::new(|| i64::MAX / 2));
    assert_eq!(browser.cookie("b"), None);
    browser.set_cookie("c", "3");
    browser.forget("a");
    assert_eq!(browser.cookies().len(), 1);
    browser.post_form_from("http://evil.example/", "/form", &[("k", "v w")]).await;
    let form = op.requests_to("/form").remove(0);
    assert_eq!(form.header("sec-fetch-site"), Some("cross-site"));
    assert_eq!(form.header("origin"), Some("http://evil.example"));
    assert_eq!(form.body, b"k=v+w");
    browser.clear();
    let script = browser.with_header("X-CSRF", "1");
    assert_eq!(script.get_json("/jwks").await.status, 200);
    script.delete("/thing").await;
    let thing = op.requests_to("/thing").remove(0);
    assert_eq!((thing.method.as_str(), thing.header("cookie")), ("DELETE", None));
    assert_eq!(thing.header("x-csrf"), Some("1"));
}

#[tokio::test]
async fn a_visitor_behind_tls_keeps_host_cookies() {
    let op = ScriptedOp::start().await;
    let browser = Browser::behind_tls("https://app.example.test", op.address());
    let cookie = "__Host-doorward=x; Path=/; Secure; HttpOnly; SameSite=Lax".to_owned();
    let headers = vec![("set-cookie".to_owned(), cookie)];
    op.script(|s| s.next("/a", Answer::Raw(204, headers, Vec::new())));
    browser.navigate("/a").await;
    browser.post_json("/b", &json!({"x": 1})).await;
    let request = op.requests_to("/b").remove(0);
    assert_eq!(request.header("cookie"), Some("__Host-doorward=x"));
    assert_eq!(request.header("host"), Some("app.example.test"));
    assert_eq!(request.header("origin"), Some("https://app.example.test"));
    assert_eq!(request.header("content-type"), Some("application/json"));
}
