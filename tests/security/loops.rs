//! RD-05: no way back into our own pages, and an end to every circle.

use std::time::Duration;

use super::{assert_rejected, signed_in};
use crate::house::browser::Browser;
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;

/// One turn of a circle: whatever the visitor has, the app wants a sign-in.
async fn turn(browser: &Browser) -> u16 {
    browser.forget("doorward");
    browser.sign_in("/auth/login?return_to=/").await.status
}

#[tokio::test]
async fn rd_05_the_fifth_login_within_thirty_seconds_becomes_an_error_page() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    for round in 1..=4 {
        assert_eq!(turn(&browser).await, 200, "round {round}");
    }
    browser.forget("doorward");
    let asked = op.count("/authorize");
    let page = browser.navigate("/auth/login?return_to=/").await;
    assert_eq!(page.status, 400);
    assert!(page.text().contains("in circles"), "{}", page.text());
    assert_rejected(&house, &page, "login_loop").await;
    assert_eq!(op.count("/authorize"), asked, "the provider is left in peace");
    // Whoever reads the page and clicks is a person.
    assert_eq!(turn(&browser).await, 200);
}

#[tokio::test]
async fn rd_05_an_app_that_always_says_401_to_a_signed_in_visitor_is_a_circle_too() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    for _ in 0..3 {
        let back = browser.navigate("/auth/login?return_to=/protected").await;
        assert_eq!((back.status, back.header("location")), (303, Some("/protected")));
    }
    assert_eq!(browser.navigate("/auth/login?return_to=/protected").await.status, 400);
    assert_eq!(browser.get_json("/auth/me").await.status, 200, "nobody is signed out by it");
}

#[tokio::test]
async fn rd_05_slow_returns_other_browsers_and_people_who_sign_out_are_no_circle() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    for _ in 0..8 {
        assert_eq!(turn(&browser).await, 200);
        house.clock.advance(Duration::from_secs(8));
        op.set_now({
            let clock = std::sync::Arc::clone(&house.clock);
            std::sync::Arc::new(move || doorward::domain::Clock::now_ms(&*clock))
        });
    }
    for _ in 0..8 {
        signed_in(&house).await;
    }
    let browser = house.browser();
    for _ in 0..8 {
        assert_eq!(browser.sign_in("/auth/login?return_to=/protected").await.status, 200);
        assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303);
    }
}

#[tokio::test]
async fn rd_05_five_tabs_restored_at_once_all_arrive() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let mut tabs = Vec::new();
    for n in 0..5 {
        tabs.push(browser.navigate(&format!("/auth/login?return_to=/?tab={n}")).await);
    }
    for (n, tab) in tabs.into_iter().enumerate().rev() {
        let page = browser.follow(tab, 5).await;
        assert_eq!(
            (page.status, page.url.query()),
            (200, Some(format!("tab={n}").as_str())),
            "{}",
            page.text()
        );
    }
}

#[tokio::test]
async fn rd_05_a_made_up_count_stops_nobody_else_and_never_breaks_the_reader() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for odd in ["", ".", "....", "x.y.z", "-1.-2", "99999999999999999999", "9223372036854775807.1.2.3.4"] {
        let browser = house.browser();
        browser.set_cookie("doorward-login-recent", odd);
        assert_eq!(browser.sign_in("/auth/login?return_to=/protected").await.status, 200, "{odd}");
    }
}
