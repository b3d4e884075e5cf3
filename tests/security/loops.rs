//! RD-05: several logins at once are no circle.

use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;

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
