//! Watches over a session while something of it stays open: a WebSocket, a stream of events (security.md PX-17).

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::error::Result;
use crate::store::{sessions, users};

/// Twice within the second that an end may take to be noticed.
const LOOK: Duration = Duration::from_millis(500);
/// A database that cannot be asked for so many looks might hide an end: what is open is closed.
const BLIND_LOOKS_MAX: u32 = 4;

/// Ends when the session does, or its user may not be here any more.
pub async fn until_over(app: Arc<App>, session_id: String) {
    let mut blind = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        match is_alive(&app, &session_id).await {
            Ok(true) => blind = 0,
            Ok(false) => return,
            Err(error) => {
                blind += 1;
                tracing::debug!(%error, blind, "a session that is in use could not be looked at");
                if blind >= BLIND_LOOKS_MAX {
                    return;
                }
            }
        }
    }
}

async fn is_alive(app: &App, session_id: &str) -> Result<bool> {
    let idle_ms = app.setup().config.session.idle_ms;
    let mut reader = app.store.reader().await?;
    let Some(session) = sessions::find(&mut reader, session_id).await? else { return Ok(false) };
    if !session.is_alive(app.now_ms(), idle_ms) {
        return Ok(false);
    }
    let user = users::find(&mut reader, &session.user_id).await?;
    Ok(user.is_some_and(|user| user.admit().is_ok()))
}
