//! Watches over a session while something of it stays open: a WebSocket, a stream of events (security.md PX-17).

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::domain::Session;
use crate::events::live::Event;
use crate::flows::bearer::{self, Bearer};
use crate::flows::session::{self, Guest};
use crate::proxy::forward::Curfew;

/// How late an end by the clock is noticed; every other end is told.
const TICK: Duration = Duration::from_secs(1);
/// A database that cannot be asked for so long might hide an end: what is open is closed.
const BLIND_TICKS_MAX: u32 = 3;

/// Ends when the guest's session does.
pub fn of(app: &Arc<App>, guest: &Guest) -> Curfew {
    let (app, session, user_id) = (Arc::clone(app), guest.session.clone(), guest.user.id.clone());
    Box::pin(async move { until_over(&app, session, &user_id).await })
}

/// Ends when a token without a session of ours does: at its own end, or when its user may not be here any more.
pub fn of_token(app: &Arc<App>, bearer: &Bearer) -> Curfew {
    let (app, bearer) = (Arc::clone(app), bearer.clone());
    Box::pin(async move { until_token_is_over(&app, &bearer).await })
}

async fn until_token_is_over(app: &App, bearer: &Bearer) {
    let guest = &bearer.guest;
    let Some(mut listening) = app.live.attend(&guest.session.id, &guest.user.id) else { return };
    let mut tick = tokio::time::interval(TICK);
    let mut blind = 0;
    loop {
        // A provider's logout of a session that is not ours is told to nobody: only a look shows it.
        match bearer::still_open(app, bearer).await {
            Ok(true) => blind = 0,
            Ok(false) => return,
            Err(_) if blind >= BLIND_TICKS_MAX => return,
            Err(_) => blind += 1,
        }
        tokio::select! {
            event = listening.next() => if matches!(event, Event::Closed | Event::SessionEnded) { return },
            _ = tick.tick() => {}
        }
    }
}

async fn until_over(app: &App, mut session: Session, user_id: &str) {
    let Some(mut listening) = app.live.attend(&session.id, user_id) else { return };
    let mut tick = tokio::time::interval(TICK);
    let mut blind = 0;
    // What ended between the look at the cookie and now was told to nobody.
    let mut must_look = true;
    loop {
        if must_look {
            match session::still_open(app, &session.id).await {
                Ok(Some(row)) => (session, blind) = (row, 0),
                Ok(None) => return,
                Err(_) if blind >= BLIND_TICKS_MAX => return,
                Err(_) => blind += 1,
            }
        }
        must_look = tokio::select! {
            event = listening.next() => match event {
                Event::Closed | Event::SessionEnded => return,
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
