//! The guard of our own pages: stands before actix-session and after it.
//!
//! Before: the CSRF rule, and no session at all from two cookies. After: a cookie that opened nothing is taken away.

use std::time::Duration;

use actix_session::SessionExt as _;
use actix_web::body::MessageBody;
use actix_web::cookie::{self, Cookie};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, web};

use super::Door;
use super::cookies::SessionCookie;
use super::csrf::{self, Proof};
use super::problem::Refused;
use super::session::Life;
use super::visitor;
use crate::error::Error;
use crate::flows::audit::{self, Refusal};

/// A body of ours is a form of a few hundred bytes.
const BODY_TIME: Duration = Duration::from_secs(30);

pub async fn layer(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Some(door) = request.app_data::<web::Data<Door>>().cloned() else {
        return Err(Refused(Error::Internal("the door is missing".to_owned())).into());
    };
    let held = match door.cookies.session(request.headers()) {
        SessionCookie::Absent => false,
        SessionCookie::One(_) => true,
        SessionCookie::Doubled => {
            let refusal = Refusal { event: "session.refused", reason: "cookie_doubled", provider: None };
            audit::refusal(&door.app, &refusal, &visitor(&request)).await;
            true
        }
    };
    keep_own_cookies(&door, &mut request);
    Box::pin(check_origin(&door, &request, held)).await?;
    take_body(&mut request).await?;
    let mut response = next.call(request).await?;
    // actix-session leaves a cookie alone whose session is gone; the browser would carry it for ever.
    let opened = response.request().extensions().get::<Opened>().is_some();
    if held && !opened && !sets_session(&door, &response) {
        let gone = door.cookies.no_session().to_string();
        if let Ok(value) = HeaderValue::from_str(&gone) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
    let life = response.request().extensions().get::<Life>().map(|life| life.left_ms);
    if let Some(left_ms) = life {
        shorten_session(&door, &mut response, left_ms);
    }
    Ok(response)
}

/// For calls of programs, which bring their own proof: no cookie is looked at, so there is none to abuse.
pub async fn without_cookies(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Some(door) = request.app_data::<web::Data<Door>>().cloned() else {
        return Err(Refused(Error::Internal("the door is missing".to_owned())).into());
    };
    Box::pin(check_origin(&door, &request, false)).await?;
    request.headers_mut().remove(COOKIE);
    take_body(&mut request).await?;
    next.call(request).await
}

/// Reads a small body whole, within its time: who sends a byte a minute must not hold a place here.
async fn take_body(request: &mut ServiceRequest) -> Result<(), actix_web::Error> {
    if csrf::is_safe(request.method()) {
        return Ok(());
    }
    match tokio::time::timeout(BODY_TIME, request.extract::<web::Bytes>()).await {
        Ok(body) => {
            request.set_payload(Payload::from(body?));
            Ok(())
        }
        Err(_) => Err(Refused(Error::TooSlow).into()),
    }
}

/// A session that follows its token ends before the overall limit, which is the one life that actix-session knows; the browser's cookie
/// must not outlive it (security.md CK-07).
fn shorten_session<B>(door: &Door, response: &mut ServiceResponse<B>, left_ms: i64) {
    let lines: Vec<HeaderValue> = response.headers_mut().remove(SET_COOKIE).collect();
    for line in lines {
        let line = shortened(&door.cookies.session_name(), &line, left_ms).unwrap_or(line);
        response.headers_mut().append(SET_COOKIE, line);
    }
}

fn shortened(name: &str, line: &HeaderValue, left_ms: i64) -> Option<HeaderValue> {
    let mut cookie = Cookie::parse_encoded(line.to_str().ok()?).ok()?;
    let left = cookie::time::Duration::milliseconds(left_ms);
    if cookie.name() != name || cookie.max_age().is_none_or(|age| age <= left) {
        return None;
    }
    cookie.set_max_age(left);
    HeaderValue::from_str(&cookie.encoded().to_string()).ok()
}

/// Marks a request whose cookie opened a session.
struct Opened;

/// Stands inside actix-session, which empties the session's state on the way out.
pub async fn inside(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if request.get_session().entries().contains_key("key") {
        request.extensions_mut().insert(Opened);
    }
    next.call(request).await
}

fn sets_session(door: &Door, response: &ServiceResponse<impl MessageBody>) -> bool {
    let start = format!("{}=", door.cookies.session_name());
    response.headers().get_all(SET_COOKIE).any(|value| value.as_bytes().starts_with(start.as_bytes()))
}

/// Leaves of the cookies what our own reader saw, so that no later parser can see another session than it did.
fn keep_own_cookies(door: &Door, request: &mut ServiceRequest) {
    let own = door.cookies.own_header(request.headers());
    request.headers_mut().remove(COOKIE);
    if let Some(own) = own {
        request.headers_mut().insert(COOKIE, own);
    }
}

/// Our own unsafe endpoints. The callback's form post comes from the provider by design, and its sealed attempt is its proof.
async fn check_origin(door: &Door, request: &ServiceRequest, has_cookie: bool) -> Result<(), Refused> {
    let is_callback = request
        .path()
        .strip_prefix(door.auth_prefix.as_str())
        .is_some_and(|rest| rest.starts_with("/callback/"));
    if csrf::is_safe(request.method()) || is_callback {
        return Ok(());
    }
    let setup = door.app.setup();
    let proof = if has_cookie { Proof::Cookie } else { Proof::None };
    if csrf::is_ours(request.headers(), &setup.config.server.public_url, &setup.config.cors.origins, proof) {
        return Ok(());
    }
    door.app.metrics.csrf_refused();
    let refusal = Refusal { event: "request.refused", reason: "csrf", provider: None };
    audit::refusal(&door.app, &refusal, &visitor(request)).await;
    Err(Refused(Error::Csrf))
}
