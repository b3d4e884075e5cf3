//! The security requirements row by row, through the real listener: each test's name begins with its row.

mod authorization;
mod callback;
mod discovery;
mod id_token;
mod id_token_form;
mod keys;
mod mix_up;
mod parallel;
mod pushed;
mod stage;
mod step_up;
mod token_answer;

use crate::house::browser::Page;
use crate::house::home::TestHouse;

/// "Rejects" of the requirements: an error, no session row, no session cookie, and one audit event of this
/// request with this reason (`*` takes any). That the process stays up shows in what a test does next.
pub async fn assert_rejected(house: &TestHouse, page: &Page, reason: &str) {
    let told = format!("{} {}\n{}", page.status, page.url, page.text());
    assert!(page.status >= 400, "not refused: {told}");
    let given = page.set_cookies();
    let session = given.iter().find(|c| c.name.ends_with("doorward") && !c.value.is_empty());
    assert!(session.is_none(), "a session cookie came with {told}");
    assert_eq!(house.live_sessions().await, 0, "a session row came with {told}");
    let id = page.header("x-request-id").expect("every answer has a request id");
    let events = format!("SELECT outcome || ' ' || reason FROM audit_log WHERE request_id = '{id}'");
    let events = house.database.texts(&events).await;
    let [event] = events.as_slice() else { panic!("{events:?} recorded for {told}") };
    assert!(
        reason == "*" || *event == format!("refused {reason}"),
        "recorded {event:?}, not {reason}: {told}"
    );
    assert!(event.starts_with("refused "), "{event}");
}
