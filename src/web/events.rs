//! `GET /auth/events`: an open tab learns at once that its session ended, or that what is known of its user changed.

use std::time::Duration;

use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use futures_util::stream;
use tokio::time::Interval;

use super::Door;
use super::problem::Refused;
use super::session::SignedIn;
use crate::app::App;
use crate::domain::Session;
use crate::error::Error;
use crate::events::live::{Event, Full, Listening};
use crate::flows::session;

/// How late a stream notices that its session's time is over.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two signs of life: proxies commonly hang up after 30 s or a minute of silence.
const HEARTBEAT: u32 = 15;

/// The stream (WHATWG HTML, server-sent events). It is no activity: an open tab alone keeps nobody signed in.
pub async fn stream(door: web::Data<Door>, SignedIn(guest): SignedIn) -> Result<HttpResponse, Refused> {
    let listening = door.app.live.listen(&guest.session.id, &guest.user.id).map_err(|full| match full {
        Full::Session => Error::TooMany { retry_after_s: 60 },
        Full::House => Error::Overloaded("event streams"),
    })?;
    // What ended between the look at the cookie and now was told to nobody.
    let Some(row) = session::still_open(&door.app, &guest.session.id).await? else {
        return Err(Refused(Error::NotSignedIn));
    };
    let tab =
        Tab { door, session: row, listening, tick: tokio::time::interval(TICK), ticks: 0, is_over: false };
    let events = stream::unfold(tab, |mut tab| async move {
        let said = tab.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(said.as_bytes())), tab))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        // nginx would collect the stream until its buffer is full.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(Box::pin(events)))
}

const SESSION_ENDED: &str = "event: session-ended\ndata: {}\n\n";
const USER_UPDATED: &str = "event: user-updated\ndata: {}\n\n";
/// Comes first too, so that the client knows at once that it is heard.
const SIGN_OF_LIFE: &str = ":\n\n";

struct Tab {
    door: web::Data<Door>,
    /// As it was read last.
    session: Session,
    listening: Listening,
    tick: Interval,
    ticks: u32,
    is_over: bool,
}

impl Tab {
    /// What to say next; `None` when the stream is over.
    async fn next(&mut self) -> Option<&'static str> {
        if self.is_over {
            return None;
        }
        loop {
            tokio::select! {
                event = self.listening.next() => match event {
                    Event::Closed => return None,
                    Event::SessionEnded => return Some(self.end()),
                    Event::UserUpdated => return Some(USER_UPDATED),
                    Event::LookAgain => if !self.is_still_open().await {
                        return Some(self.end());
                    },
                },
                _ = self.tick.tick() => {
                    let is_heartbeat = self.ticks.is_multiple_of(HEARTBEAT);
                    self.ticks = self.ticks.wrapping_add(1);
                    let app: &App = &self.door.app;
                    let in_time = self.session.is_alive(app.now_ms(), app.setup().config.session.idle_ms);
                    // While other processes are not heard, only the row can tell.
                    let in_doubt = is_heartbeat && !app.store.is_channel_healthy();
                    if (!in_time || in_doubt) && !self.is_still_open().await {
                        return Some(self.end());
                    }
                    if is_heartbeat {
                        return Some(SIGN_OF_LIFE);
                    }
                }
            }
        }
    }

    fn end(&mut self) -> &'static str {
        self.is_over = true;
        SESSION_ENDED
    }

    /// By the row. While the database is away nothing is said: the next request is refused anyway.
    async fn is_still_open(&mut self) -> bool {
        match session::still_open(&self.door.app, &self.session.id).await {
            Ok(Some(session)) => {
                self.session = session;
                true
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }
}
