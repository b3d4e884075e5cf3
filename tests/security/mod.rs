//! The numbered promises of the security document, each kept through the real HTTP surface: a test's name begins with its row.

mod authorization;
mod callback;
mod cookies;
mod cookies_hostile;
mod crowds;
mod crypto;
mod crypto_keys;
mod crypto_sources;
pub mod crypto_tls;
mod csrf;
mod denials;
mod discovery;
mod escaping;
mod forward_auth;
mod headers;
mod http;
mod http2;
mod id_token;
mod id_token_form;
mod identity;
mod identity_attributes;
mod keys;
mod limits;
mod load;
mod logging;
mod logout;
mod logout_races;
pub mod logout_tokens;
mod loops;
mod many_people;
mod mix_up;
mod outgoing;
mod parallel;
mod password;
pub mod proxy;
mod pushed;
mod redirects;
mod refresh;
mod registration;
mod registration_kills;
mod session;
mod session_ends;
mod smuggling;
mod soak;
mod stage;
mod staying_up;
mod step_up;
mod token_answer;

use std::sync::Arc;

use doorward::domain::Clock as _;

use crate::house::browser::{Browser, Page};
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

/// What "rejects" means: an error page, no session, no session cookie, one audit event of this request with this reason (`*` takes
/// any), and a door that still answers. Forgets the refusals so far, so that the next case of a table starts at none.
pub async fn assert_rejected(house: &TestHouse, page: &Page, reason: &str) {
    let case = format!("{} {reason}: {} {}", page.url, page.status, page.text());
    assert!((400..=599).contains(&page.status) && page.status != 500, "{case}");
    assert!(!sets_session(page), "{case}");
    assert_eq!(house.live_sessions().await, 0, "{case}");
    let id = page.header("x-request-id").expect("every answer has a request id");
    let events = format!("SELECT outcome || ' ' || reason FROM audit_log WHERE request_id = '{id}'");
    let events = house.database.texts(&events).await;
    let [event] = events.as_slice() else { panic!("{events:?} recorded for {case}") };
    let wanted = format!("refused {reason}");
    assert!(
        *event == wanted || (reason == "*" && event.starts_with("refused ")),
        "recorded {event:?} for {case}"
    );
    house.database.execute("DELETE FROM audit_log WHERE outcome = 'refused'").await;
    let app = Browser::behind_tls(&house.url, house.address).navigate("/protected").await;
    assert_eq!(app.status, 303, "the app stays closed, and the door answers: {case}");
}

/// Whether an answer hands out a session cookie; one that takes it away does not count.
pub fn sets_session(page: &Page) -> bool {
    let is_session = |name: &str| matches!(name, "doorward" | "__Host-doorward");
    page.set_cookies().iter().any(|cookie| is_session(&cookie.name) && !cookie.value.is_empty())
}

/// A new visitor who signs in without a hitch.
pub async fn signed_in(house: &TestHouse) -> Browser {
    let browser = house.browser();
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
    browser
}

/// As [`signed_in`], as this person.
pub async fn signed_in_as(house: &TestHouse, op: &ScriptedOp, person: Person) -> Browser {
    op.script(|s| s.person = person);
    signed_in(house).await
}

/// Whether this browser is signed in, by the word of `/auth/me`.
pub async fn is_signed_in(browser: &Browser) -> bool {
    match browser.get_json("/auth/me").await.status {
        200 => true,
        401 => false,
        other => panic!("/auth/me answered {other}"),
    }
}

/// What `/auth/me` says of the user.
pub async fn me(browser: &Browser) -> serde_json::Value {
    let page = browser.get_json("/auth/me").await;
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()["user"].clone()
}

/// The provider's clock follows the house's.
pub fn keep_time(op: &ScriptedOp, house: &TestHouse) {
    let clock = Arc::clone(&house.clock);
    op.set_now(Arc::new(move || clock.now_ms()));
}

/// How many audit events of a kind there are.
pub async fn events(house: &TestHouse, event: &str) -> i64 {
    house.database.number(&format!("SELECT count(*) FROM audit_log WHERE event = '{event}'")).await
}

/// Lower-case hex, as databases and key files write bytes.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
