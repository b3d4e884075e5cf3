//! Notices a browser that is sent in circles: in, back to the app, and at once to the sign-in again (security.md RD-05).
//!
//! Each time a sign-in sends somebody back is a round, noted in a short-lived cookie of this browser, so that nothing is written to the
//! database and nobody else's rounds count. Five tabs restored at once begin five logins before the first of them ends; they count as none.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse};

use super::problem::Refused;
use super::{Door, visitor};
use crate::error::Error;
use crate::flows::audit::{self, Refusal};

const WITHIN_MS: i64 = 30_000;
/// The fifth sign-in in a row is the one that is not begun.
const ROUNDS_MAX: usize = 4;

/// Rounds of this browser that still count.
fn recent(door: &Door, headers: &HeaderMap) -> Vec<i64> {
    let now_ms = door.app.now_ms();
    let mut rounds = door.cookies.rounds(headers);
    rounds.retain(|at_ms| (now_ms - WITHIN_MS..=now_ms).contains(at_ms));
    rounds
}

/// The page that ends a circle, when this request would go on with it. It forgets the rounds: whoever reads it and tries again is a person.
pub async fn stop(request: &HttpRequest, door: &Door) -> Option<HttpResponse> {
    if recent(door, request.headers()).len() < ROUNDS_MAX {
        return None;
    }
    let refusal = Refusal { event: "login.failed", reason: Error::LoginLoop.reason(), provider: None };
    audit::refusal(&door.app, &refusal, &visitor(request)).await;
    let mut response = actix_web::ResponseError::error_response(&Refused(Error::LoginLoop));
    forget(request, door, &mut response);
    Some(response)
}

/// Counts an answer that sends the browser back from a sign-in.
pub fn note(request: &HttpRequest, door: &Door, response: &mut HttpResponse) {
    let mut rounds = recent(door, request.headers());
    rounds.push(door.app.now_ms());
    let newest = rounds.len().saturating_sub(ROUNDS_MAX);
    let cookie = door.cookies.with_rounds(rounds.get(newest..).unwrap_or_default(), WITHIN_MS);
    add(response, &cookie);
}

/// Signing out is a person's own act: what comes after it is no circle.
pub fn forget(request: &HttpRequest, door: &Door, response: &mut HttpResponse) {
    if !door.cookies.rounds(request.headers()).is_empty() {
        add(response, &door.cookies.no_rounds());
    }
}

fn add(response: &mut HttpResponse, cookie: &actix_web::cookie::Cookie<'_>) {
    if let Err(error) = response.add_cookie(cookie) {
        tracing::error!(%error, "a cookie of ours is no header");
    }
}
