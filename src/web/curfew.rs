//! Watches over a session while something of it stays open: a WebSocket, a stream of events (security.md PX-17).

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::domain::Session;
use crate::events::live::Event;
use crate::flows::session::{self, Guest};
use crate::proxy::forward::{Curfew, Over};

/// How late an end by the clock is noticed; every other end is told.
const TICK: Duration = Duration::from_secs(1);
/// A database that cannot be asked for so long might hide an end: what is open is closed.
const BLIND_TICKS_MAX: u32 = 3;

/// Ends when the guest's session does.
pub fn of(app: &Arc<App>, guest: &Guest) -> Curfew {
    let (app, session, user_id) = (Arc::clone(app), guest.session.clone(), guest.user.id.clone());
    Box::pin(async move { until_over(&app, session, &user_id).await })
}

/// For what belongs to no session: ends when the house closes, so that a stop waits for nobody who only listens.
pub fn of_nobody(app: &Arc<App>) -> Curfew {
    let app = Arc::clone(app);
    Box::pin(async move {
        // No session has this id, and no user.
        let Some(mut listening) = app.live.attend("", "") else { return Over::House };
        while listening.next().await != Event::Closed {}
        Over::House
    })
}

async fn until_over(app: &App, mut session: Session, user_id: &str) -> Over {
    let Some(mut listening) = app.live.attend(&session.id, user_id) else { return Over::House };
    let mut tick = tokio::time::interval(TICK);
    let mut blind = 0;
    // What ended between the look at the cookie and now was told to nobody.
    let mut must_look = true;
    loop {
        if must_look {
            match session::still_open(app, &session.id).await {
                Ok(Some(row)) => (session, blind) = (row, 0),
                Ok(None) => return Over::Session,
                Err(_) if blind >= BLIND_TICKS_MAX => return Over::Session,
                Err(_) => blind += 1,
            }
        }
        must_look = tokio::select! {
            event = listening.next() => match event {
                Event::Closed => return Over::House,
                Event::SessionEnded => return Over::Session,
                Event::UserUpdated | Event::LookAgain => true,
            },
            _ = tick.tick() => {
                let in_time = session.is_alive(app.now_ms(), app.setup().config.session.idle_ms);
                // While other processes are not heard, only the row can tell.
                blind > 0 || !in_time || !app.store.is_channel_healthy()
            }
        };
    }
}
