//! Chapter 9 as far as a browser's own logout goes, and what logout owes the tokens (RT-08, RT-09).

use std::time::{Duration, Instant};

use super::signed_in;
use crate::house::browser::Browser;
use crate::house::home::TestHouse;
use crate::house::op::mint::peek;
use crate::house::op::{Answer, Gate, ScriptedOp};

async fn is_signed_in(browser: &Browser) -> bool {
    browser.get_json("/auth/me").await.status == 200
}

/// Waits for what happens beside the answer.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let over = Instant::now() + Duration::from_secs(5);
    while !done().await {
        assert!(Instant::now() < over, "{what} did not happen in 5 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn lo_01_a_link_an_image_or_a_foreign_form_signs_nobody_out() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let image = browser
        .with_header("sec-fetch-dest", "image")
        .with_header("sec-fetch-mode", "no-cors")
        .with_header("sec-fetch-site", "cross-site");
    assert_eq!(image.navigate("/auth/logout").await.status, 200);
    let shown = browser.click("https://evil.example/", "/auth/logout").await;
    assert_eq!(shown.status, 200);
    let [form] = &shown.forms()[..] else { panic!("one form: {}", shown.text()) };
    assert_eq!((form.method.as_str(), form.action.as_str()), ("post", "/auth/logout"));
    for path in
        ["/auth/logout?return_to=/", "/auth/logout/", "/auth/logout?confirm=1", "/auth/logout?_method=POST"]
    {
        browser.click("https://evil.example/", path).await;
    }
    assert_eq!(browser.post_form_from("https://evil.example/", "/auth/logout", &[]).await.status, 403);
    assert_eq!(house.refusals("csrf").await, 1);
    assert!(is_signed_in(&browser).await);
    assert_eq!(op.count("/end-session") + op.count("/revoke"), 0);
    let own = browser.submit(&shown, form, &[]).await;
    assert_eq!(own.status, 303);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn lo_01_the_row_dies_first_then_the_cookie_then_the_provider_is_told() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let key = browser.cookie("doorward").unwrap();
    let gate = Gate::closed();
    op.script(|s| s.hold_before.insert("/revoke".into(), gate.clone()));
    let left = browser.post_form("/auth/logout", &[]).await;
    assert_eq!(left.status, 303);
    gate.arrived(1).await;
    assert_eq!(house.live_sessions().await, 0, "the row was dead before the provider heard of it");
    assert!(left.set_cookies().iter().any(|c| c.name == "doorward" && c.value.is_empty()), "the cookie goes");
    gate.open();
    // A copy of the cookie is worth nothing.
    let thief = house.browser();
    thief.set_cookie("doorward", &key);
    assert!(!is_signed_in(&thief).await);
    assert_eq!(thief.navigate("/protected").await.status, 303);
    let logouts = house.database.number("SELECT count(*) FROM audit_log WHERE event = 'logout'").await;
    assert_eq!(logouts, 1);
}

#[tokio::test]
async fn lo_01_a_database_that_cannot_end_the_session_is_not_called_a_logout() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    house.database.execute("ALTER TABLE sessions RENAME TO away").await;
    let failed = browser.post_form("/auth/logout", &[]).await;
    assert!(failed.status >= 500, "{}", failed.status);
    assert!(failed.set_cookies().is_empty(), "the cookie stays, so that the person can try again");
    assert_eq!(op.count("/revoke"), 0);
    house.database.execute("ALTER TABLE away RENAME TO sessions").await;
    assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303);
    assert_eq!(house.live_sessions().await, 0);
}

#[tokio::test]
async fn lo_02_with_the_provider_down_or_without_its_logout_the_local_one_succeeds_and_says_so() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.discovery(|document| {
            document.remove("end_session_endpoint");
        });
    });
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let page =
        browser.follow(browser.post_form("/auth/logout", &[("return_to", "/admin-only")]).await, 3).await;
    assert_eq!((page.status, page.url.path()), (200, "/auth/signed-out"));
    assert!(page.text().contains("Your session at Provider op may still be open."), "{}", page.text());
    assert!(page.text().contains("href=\"/admin-only\""), "the way on is kept: {}", page.text());
    assert!(!is_signed_in(&browser).await);

    let down = ScriptedOp::start().await;
    let house = TestHouse::with_op(&down).open().await;
    let browser = signed_in(&house).await;
    down.stop().await;
    let began = Instant::now();
    let page = browser.post_form("/auth/logout", &[]).await;
    assert!(page.status == 303 && began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(house.live_sessions().await, 0);
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn lo_02_whoever_is_not_signed_in_is_signed_out_all_the_same() {
    let house = TestHouse::open().await;
    for _ in 0..2 {
        let browser = house.browser();
        let page = browser.follow(browser.post_form("/auth/logout", &[]).await, 3).await;
        assert_eq!((page.status, page.url.path()), (200, "/auth/signed-out"));
        assert!(!page.text().contains("may still be open"));
    }
}

#[tokio::test]
async fn lo_03_the_provider_is_told_by_hint_and_state_and_sends_back_to_the_one_address() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let left = browser.post_form("/auth/logout", &[("return_to", "/admin-only?x=1")]).await;
    let told = left.location().unwrap();
    assert_eq!(told.as_str().split('?').next(), Some(op.url("/end-session").as_str()));
    let one = |name: &str| {
        let mut found = told.query_pairs().filter(|(n, _)| n == name);
        let first = found.next().map(|(_, value)| value.into_owned());
        assert!(found.next().is_none(), "{name} twice");
        first
    };
    let (_, claims) = peek(&one("id_token_hint").unwrap()).unwrap();
    assert_eq!(claims["aud"], "doorward");
    let back_to = format!("{}/auth/signed-out", house.url);
    assert_eq!(one("post_logout_redirect_uri"), Some(back_to.clone()), "exactly what is registered");
    let state = one("state").unwrap();
    assert!(!told.as_str().contains("admin-only"), "the way back is nobody's to read");
    let landed = browser.follow(left, 2).await;
    assert_eq!(landed.header("location"), Some("/admin-only?x=1"), "{}", landed.text());
    // Providers drop the state, and strangers make one up: harmless.
    for query in [
        String::new(),
        "?state=".into(),
        "?state=x".into(),
        format!("?state={}A", state),
        format!("?state={}", "A".repeat(3000)),
    ] {
        let page = browser.navigate(&format!("/auth/signed-out{query}")).await;
        assert_eq!(page.status, 200, "{query}");
        assert!(page.text().contains("You are signed out"));
    }
    let twice = browser.navigate(&format!("/auth/signed-out?state={state}&state={state}")).await;
    assert_eq!(twice.status, 400);
}

#[tokio::test]
async fn lo_03_a_script_is_told_where_to_go_and_goes_nowhere_itself() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let left = browser.post_json("/auth/logout", &serde_json::json!({})).await;
    assert_eq!(left.status, 200, "{}", left.text());
    assert!(left.json()["redirectTo"].as_str().unwrap().starts_with(&op.url("/end-session")));
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn rt_08_no_token_reaches_the_browser_a_page_or_the_app() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.token_response(|answer| {
            answer.insert("access_token".into(), "canary-access-token".into());
            answer.insert("refresh_token".into(), "canary-refresh-token".into());
        });
        s.claims(|claims| {
            claims.remove("at_hash");
        });
        s.id_token(|_, claims| {
            claims.remove("at_hash");
            claims.insert("marker".into(), "canary-in-the-id-token".into());
        });
    });
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let mut page = browser.navigate("/auth/login?return_to=/protected").await;
    let mut seen = Vec::new();
    while page.is_redirect() {
        seen.push(page.location().unwrap().to_string());
        page = browser.follow(page, 1).await;
        if page.url.as_str().starts_with(&house.url) {
            seen.push(format!("{:?} {}", page.headers, page.text()));
        }
    }
    assert_eq!(page.url.path(), "/protected");
    for path in ["/", "/protected", "/auth/me", "/auth/sessions", "/auth/account", "/auth/logout"] {
        let page = browser.navigate(path).await;
        seen.push(format!("{:?} {}", page.headers, page.text()));
        let page = browser.get_json(path).await;
        seen.push(format!("{:?} {}", page.headers, page.text()));
    }
    for text in seen {
        assert!(!text.contains("canary") && !text.contains("eyJ"), "{text}");
    }
    for canary in ["canary-access", "canary-refresh", "canary-in-the-id"] {
        let dump = house.database.dump().await;
        let found = dump.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!found, "{canary} lies in the database in clear");
    }
}

#[tokio::test]
async fn rt_09_logout_revokes_the_tokens_beside_the_redirect() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    browser.post_form("/auth/logout", &[]).await;
    until("the revocation", async || op.count("/revoke") == 1).await;
    let told = op.requests_to("/revoke").remove(0);
    assert_eq!(told.method, "POST");
    assert!(told.query.is_empty() && told.form("token").is_some(), "the token travels in the body alone");
    assert!(told.header("authorization").is_some(), "with the client's own proof");
}

#[tokio::test]
async fn rt_09_a_provider_that_is_slow_or_refuses_to_revoke_holds_nobody_up() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for answer in [
        Answer::Hang,
        Answer::error(500, "server_error"),
        Answer::Close,
        Answer::Redirect(307, op.url("/else")),
    ] {
        op.script(|s| s.answer("/revoke", answer.clone()));
        let browser = signed_in(&house).await;
        let before = op.count("/revoke");
        let began = Instant::now();
        let left = browser.post_form("/auth/logout", &[]).await;
        assert_eq!(left.status, 303, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{answer:?} took {:?}", began.elapsed());
        assert!(!is_signed_in(&browser).await, "{answer:?}");
        until("the revocation", async || op.count("/revoke") > before).await;
    }
    assert_eq!(op.count("/else"), 0, "a token follows no redirect");
}
