//! PostgreSQL: one connection that listens, and proves by a beat to itself that it is heard.
//!
//! Neither a half-dead connection nor a frozen server says that it is one (`recv` hides even a reconnect), so only an echo counts.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Board, Body, SILENCE_MAX};
use crate::store::{PATIENCE, StoreError, Writer};

const CHANNEL: &str = "doorward";
/// Four beats fit into the silence after which nobody trusts the channel.
const BEAT: Duration = Duration::from_millis(250);

/// Sent by the server when the transaction commits, and only then.
pub(super) async fn post(w: &mut Writer, body: &str) -> Result<(), StoreError> {
    sql!(execute in w, "SELECT $1, $2" => "SELECT pg_notify($1, $2)", CHANNEL, body).map(|_| ())
}

/// Listens until the connection cannot be trusted; says why.
pub(super) async fn run(board: &Board, pool: &PgPool) -> String {
    match listen(board, pool).await {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

async fn listen(board: &Board, pool: &PgPool) -> Result<std::convert::Infallible, String> {
    let text = |error: sqlx::Error| StoreError::from(error).to_string();
    let slow = |_| "no answer in time".to_owned();
    let options = (*pool.connect_options()).clone().application_name("doorward-notices");
    // A pool of its own: a visitor's burst must not keep the listener waiting, nor the listener a visitor. A new one each time,
    // because the old one may still be waiting for a frozen connection.
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(PATIENCE)
        .test_before_acquire(false)
        .connect_lazy_with(options);
    let mut listener =
        timeout(PATIENCE, PgListener::connect_with(&own)).await.map_err(slow)?.map_err(text)?;
    listener.eager_reconnect(false);
    timeout(SILENCE_MAX, listener.listen(CHANNEL)).await.map_err(slow)?.map_err(text)?;
    let mut echo = Echo { heard: 0, heard_at: Instant::now() };
    let mut next_beat = Instant::now();
    loop {
        if Instant::now() >= next_beat {
            let body = Body { node: board.node(), notes: Vec::new(), beat: Some(board.moment()) };
            let body = serde_json::to_string(&body).map_err(|e| e.to_string())?;
            // By the listening connection itself: what comes back has passed everything that a notice must pass.
            let beat =
                sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(body).execute(&mut listener);
            timeout_at(echo.over(), beat).await.map_err(slow)?.map_err(text)?;
            next_beat = Instant::now() + BEAT;
        }
        match timeout_at(next_beat.min(echo.over()), listener.try_recv()).await {
            Err(_) if Instant::now() >= echo.over() => {
                return Err("its own beat does not come back".to_owned());
            }
            Err(_) => {}
            Ok(Ok(Some(notification))) => hear(board, &mut echo, notification.payload()),
            Ok(Ok(None)) => return Err("the connection broke".to_owned()),
            Ok(Err(error)) => return Err(text(error)),
        }
    }
}

/// How the beat fares.
struct Echo {
    /// The newest that came back; 0 = none.
    heard: u64,
    heard_at: Instant,
}

impl Echo {
    /// When the silence is too long.
    fn over(&self) -> Instant {
        self.heard_at + SILENCE_MAX
    }
}

fn hear(board: &Board, echo: &mut Echo, payload: &str) {
    // Somebody else's word on our channel is no reason to stop.
    let Ok(body) = serde_json::from_str::<Body>(payload) else { return };
    match body.beat {
        None => board.heard(&body),
        Some(beat) if body.node == board.node() && beat > echo.heard => {
            let is_first = echo.heard == 0;
            echo.heard = beat;
            echo.heard_at = Instant::now();
            if is_first {
                // What was said while nobody listened is gone: first whoever remembers looks again, then the channel is trusted.
                board.lost();
            }
            // A slow channel proves nothing about what was sent after this beat.
            board.proven(beat);
        }
        Some(_) => {}
    }
}
