//! Watches over a session while something of it stays open: a WebSocket, a stream of events (security.md PX-17).

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::domain::{Fact, Principal, Session};
use crate::events::live::Event;
use crate::flows::bearer::{self, Bearer};
use crate::flows::session;
use crate::proxy::forward::{Curfew, Over};

/// How late an end by the clock is noticed; every other end is told.
const TICK: Duration = Duration::from_secs(1);
/// A database that cannot be asked for so long might hide an end: what is open is closed.
const BLIND_TICKS_MAX: u32 = 3;

/// Ends when this session does.
pub fn of(app: &Arc<App>, who: &Principal) -> Curfew {
    let app = Arc::clone(app);
    let (session_id, user_id) = (who.plain(Fact::Session).into_owned(), who.plain(Fact::UserId).into_owned());
    Box::pin(async move { until_over(&app, &session_id, &user_id).await })
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

/// Ends when a token without a session of ours does: at its own end, or when its user may not be here any more.
pub fn of_token(app: &Arc<App>, bearer: &Bearer) -> Curfew {
    let (app, bearer) = (Arc::clone(app), bearer.clone());
    Box::pin(async move { until_token_is_over(&app, &bearer).await })
}

async fn until_token_is_over(app: &App, bearer: &Bearer) -> Over {
    let guest = &bearer.guest;
    let Some(mut listening) = app.live.attend(&guest.session.id, &guest.user.id) else { return Over::House };
    let mut tick = tokio::time::interval(TICK);
    let mut blind = 0;
    loop {
        // A provider's logout of a session that is not ours is told to nobody: only a look shows it.
        match bearer::still_open(app, bearer).await {
            Ok(true) => blind = 0,
            Ok(false) => return Over::Session,
            Err(_) if blind >= BLIND_TICKS_MAX => return Over::Session,
            Err(_) => blind += 1,
        }
        tokio::select! {
            event = listening.next() => match event {
                Event::Closed => return Over::House,
                Event::SessionEnded => return Over::Session,
                Event::UserUpdated | Event::LookAgain => {}
            },
            _ = tick.tick() => {}
        }
    }
}

async fn until_over(app: &App, session_id: &str, user_id: &str) -> Over {
    let Some(mut listening) = app.live.attend(session_id, user_id) else { return Over::House };
    let mut session = None;
    let mut tick = tokio::time::interval(TICK);
    let mut blind = 0;
    // What ended between the look at the cookie and now was told to nobody.
    let mut must_look = true;
    loop {
        if must_look {
            match session::still_open(app, session_id).await {
                // Who has to show that the provider still honours them does so by coming again; what is open cannot.
                Ok(Some(row)) if row.renewal.must_prove => return Over::Session,
                Ok(Some(row)) => (session, blind) = (Some(row), 0),
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
                let idle_ms = app.setup().config.session.idle_ms;
                let in_time = session.as_ref().is_some_and(|row: &Session| row.is_alive(app.now_ms(), idle_ms));
                // While other processes are not heard, only the row can tell.
                blind > 0 || !in_time || !app.store.is_channel_healthy()
            }
        };
    }
}
