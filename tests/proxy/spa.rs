//! A single-page app in a real browser: what its scripts may do through the door, and what an open tab learns of its session's end.

use std::time::{Duration, Instant};

use super::stage::Stage;
use crate::chromium::assert_policy_kept;
use crate::house::servers::chromium::{self, Chrome};
use crate::house::spa;
use crate::house::upstream::FakeUpstream;

/// Waits until the page shows this text at this place.
async fn shows(chrome: &Chrome, id: &str, text: &str) {
    let over = Instant::now() + Duration::from_secs(15);
    loop {
        let shown = chrome.text(id).await;
        if shown == text {
            return;
        }
        assert!(Instant::now() < over, "{id} shows {shown:?}, not {text:?}: {}", chrome.text("body").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn px_17_a_tab_whose_session_ended_elsewhere_is_told_and_its_socket_and_stream_are_closed() {
    let stage = Stage::open().await;
    tabs(&stage.house.url, &stage.app, [chromium::browser().await, chromium::browser().await]).await;
}

/// Two tabs of one person at this door; one of them ends the other's session.
pub async fn tabs(url: &str, app: &FakeUpstream, [here, there]: [Chrome; 2]) {
    app.plan(spa::answer);
    for chrome in [&here, &there] {
        // The door asks the provider first, which has no page of its own.
        chrome.goto(&format!("{url}/in/spa/")).await;
        for (id, text) in
            [("#who", "alice Tester"), ("#session", "open"), ("#news", "fresh"), ("#talk", "echo: hello")]
        {
            shows(chrome, id, text).await;
        }
        chrome.click("#save").await;
        shows(chrome, "#note", "kept for alice").await;
        assert_policy_kept(chrome).await;
    }
    let ended = here.run("return fetch('/auth/sessions', { method: 'DELETE' }).then(a => a.status)").await;
    assert_eq!(ended, 204);
    let began = Instant::now();
    shows(&there, "#session", "ended elsewhere").await;
    shows(&there, "#talk", "closed 1008").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    shows(&there, "#news", "closed").await;
    app.forget();
    there.click("#save").await;
    shows(&there, "#note", "401 not_signed_in").await;
    app.assert_silent("the ended session's note");
    for (id, text) in [("#session", "open"), ("#news", "fresh"), ("#talk", "echo: hello")] {
        shows(&here, id, text).await;
    }
    here.close().await;
    there.close().await;
}
