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
