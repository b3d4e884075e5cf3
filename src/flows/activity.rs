//! A session's use keeps it alive: noted at once in this process, at most once a minute for each session, and written to its row soon after.

use crate::app::App;
use crate::domain::{Fact, Session};
use crate::error::Result;
use crate::store::{Known, sessions};

/// A use must not become a write: activity is noted at most this often.
const STEP_MS: i64 = 60_000;
/// Rows in one statement; a login must not wait long for the writer.
const BATCH: usize = 500;

fn step_ms(app: &App) -> i64 {
    STEP_MS.min(app.of_setup(|setup| setup.config.session.idle_ms) / 10)
}

/// Notes that a guest who was read from the row is active.
pub fn note(app: &App, session: &Session) {
    let now_ms = app.now_ms();
    if now_ms.saturating_sub(session.last_active_at_ms) >= step_ms(app) {
        app.activity.note(&session.id, now_ms);
    }
}

/// Notes that whoever came to the door is active.
pub fn note_known(app: &App, known: &Known, now_ms: i64) {
    if known.note_activity(now_ms, step_ms(app)) {
        app.activity.note(&known.principal.plain(Fact::Session), now_ms);
    }
}

/// Writes what was noted. What cannot be written now is kept, and counts in this process meanwhile.
///
/// # Errors
/// The database's.
pub async fn write(app: &App) -> Result<()> {
    loop {
        let batch = app.activity.batch(BATCH);
        if batch.is_empty() {
            return Ok(());
        }
        let mut single = app.store.mark().await?;
        sessions::touch_many(&mut single, &batch).await?;
        app.activity.written(&batch);
    }
}
