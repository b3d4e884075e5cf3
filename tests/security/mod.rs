//! The numbered promises of the security requirements, kept through the real HTTP surface: a test's name begins with its row.

mod csrf;
mod escaping;
mod headers;
mod http;
mod logout;
mod loops;
mod redirects;

use crate::house::browser::{Browser, Page};
use crate::house::home::TestHouse;

/// "Rejects": an error, no session cookie, no new session, one audit event of this reason; the door lives on and the app stays closed.
pub async fn assert_rejected(house: &TestHouse, page: &Page, reason: &str) {
    let case = format!("{} {reason}: {} {}", page.url, page.status, page.text());
    assert!((400..500).contains(&page.status), "{case}");
    assert!(
        !page.set_cookies().iter().any(|c| c.name.ends_with("doorward") && !c.value.is_empty()),
        "{case}"
    );
    assert_eq!(house.refusals(reason).await, 1, "{case}");
    house.database.execute(&format!("DELETE FROM audit_log WHERE reason = '{reason}'")).await;
    assert_eq!(house.browser().navigate("/protected").await.status, 303, "{case}");
}

/// A visitor who signs in without a hitch and lands on the protected page.
pub async fn signed_in(house: &TestHouse) -> Browser {
    let browser = house.browser();
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
    browser
}
