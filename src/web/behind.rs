//! Everything that is not ours: the route table decides, then the app behind the door answers.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};

use super::bearer::{self, Caller};
use super::cookies::{self, SessionCookie};
use super::login::see_other;
use super::outer::wants_page;
use super::problem::Refused;
use super::{Door, cors, csrf, other_method, through, unread, visitor};
use crate::app::Setup;
use crate::domain::Principal;
use crate::domain::policy::Verdict;
use crate::error::Error;
use crate::flows::audit::{self, Refusal};
use crate::flows::recognise::{self, Known, recognise};
use crate::proxy::canonical::{CanonicalRequest, Odd};
use crate::proxy::routes::{Found, Route};
use crate::proxy::upgrade::{self, Wish};
use crate::proxy::{demo, identity};

pub type Answer = Result<HttpResponse, Refused>;

/// The answer to a request for what is not ours.
pub async fn answer(request: &HttpRequest, payload: Payload, door: &web::Data<Door>) -> HttpResponse {
    let setup = door.app.setup();
    if let Some(preflight) = cors::preflight(request, &setup) {
        return preflight;
    }
    let mut payload = unread::shared(request, payload);
    let answered = decide(request, &mut payload, door, &setup).await;
    let mut response = answered.unwrap_or_else(|refused| refused.error_response());
    cors::allow(request, &setup, response.headers_mut());
    response
}

async fn decide(
    request: &HttpRequest,
    payload: &mut Payload,
    door: &web::Data<Door>,
    setup: &Setup,
) -> Answer {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let read = CanonicalRequest::read(request.method().as_str(), target);
    let canonical = read.map_err(|odd: Odd| Error::InvalidRequest(odd.detail()))?;
    // Another spelling of a path of ours is nobody's: the app must not be able to stand in for us.
    if door.is_own_path(canonical.path()) {
        return Err(Refused(Error::NoRoute));
    }
    let route = match setup.routes.find(canonical.path(), canonical.method()) {
        Found::Route(route) => route,
        Found::OtherMethod(allow) => return Ok(other_method(&allow)),
        Found::Nothing => return Err(Refused(Error::NoRoute)),
    };
    let is_http_11 = request.version() >= actix_web::http::Version::HTTP_11;
    let wish = upgrade::wish(canonical.method(), is_http_11, request.headers());
    if wish == Wish::Malformed {
        return Err(Refused(Error::InvalidRequest("The WebSocket handshake is malformed.")));
    }
    let caller = match bearer::caller(request, door, route).await {
        Ok(caller) => caller,
        Err(problem) => return Ok(problem.response()),
    };
    let who = caller.who();
    let now_ms = door.app.now_ms();
    match route.policy.judge(who, now_ms) {
        Verdict::Pass => {}
        Verdict::SignIn | Verdict::StepUp => return to_login(request, door, route, &caller),
        Verdict::Forbid if caller.bearer().is_some() => return Ok(bearer::forbidden().response()),
        Verdict::Forbid => return Err(Refused(Error::NotAllowed)),
    }
    if needs_proof(request.method(), caller.came_by_cookie(), wish != Wish::Http) {
        Box::pin(check_origin(request, door, caller.came_by_cookie())).await?;
    }
    caller.note_activity(door, now_ms);
    // A route without an upstream serves forward-auth alone.
    let upstream = route.upstream.as_deref().and_then(|id| setup.upstreams.find(id)).ok_or(Error::NoRoute)?;
    if upstream.is_demo() {
        return Ok(demo_page(door, canonical.path(), who));
    }
    let bearer = caller.bearer();
    let way = through::Way { request, door, route, upstream, canonical: &canonical, who, bearer };
    match through::pass(&way, payload, &wish).await {
        // The session lives, and what the app needs of it does not.
        Err(Refused(Error::NotSignedIn)) => to_login(request, door, route, &caller),
        answered => answered,
    }
}

/// Whose the session cookie is, by the lean reader. On a public route an unreadable session is simply nobody.
pub async fn known(request: &HttpRequest, door: &Door, route: &Route) -> Result<Option<Arc<Known>>, Refused> {
    let signed = match door.cookies.session(request.headers()) {
        SessionCookie::Absent => return Ok(None),
        SessionCookie::One(value) => value,
        SessionCookie::Doubled => {
            Box::pin(doubled(request, door)).await;
            return Ok(None);
        }
    };
    if let Some(known) = recognise::at_hand(&door.app, signed) {
        return Ok(Some(known));
    }
    let Some(key) = cookies::verify(signed, &door.mac) else { return Ok(None) };
    match recognise(&door.app, &key).await {
        Err(_) if route.policy.public => Ok(None),
        found => Ok(found?.inspect(|known| recognise::keep_at_hand(known, &key, signed))),
    }
}

/// Two session cookies: somebody else planted one.
pub async fn doubled(request: &HttpRequest, door: &Door) {
    let refusal = Refusal { event: "session.refused", reason: "cookie_doubled", provider: None };
    audit::refusal(&door.app, &refusal, &visitor(request)).await;
}

/// Only a person's navigation of a whole tab is sent to a login page, and only by a method that may be repeated as GET: a provider's page
/// shows itself in no frame, and answers no WebSocket.
pub fn may_redirect(method: &Method, headers: &HeaderMap) -> bool {
    let is_socket = headers.contains_key("sec-websocket-key");
    let framed = headers.get("sec-fetch-dest").is_some_and(|dest| dest != "document");
    matches!(*method, Method::GET | Method::HEAD) && wants_page(method, headers) && !framed && !is_socket
}

fn to_login(request: &HttpRequest, door: &Door, route: &Route, caller: &Caller) -> Answer {
    if caller.bearer().is_some() {
        return Ok(bearer::step_up(&route.policy).response());
    }
    if !may_redirect(request.method(), request.headers()) {
        return Err(Refused(Error::NotSignedIn));
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    Ok(see_other(&login_address(door, route, target, caller.who().is_some())).finish())
}

/// The path of the login that leads back to this target, and asks for what the route asks of a guest who is signed in already.
pub fn login_address(door: &Door, route: &Route, target: &str, signed_in: bool) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("return_to", target);
    if signed_in {
        if let Some(acr) = &route.policy.acr {
            query.append_pair("acr_values", acr);
        }
        if let Some(max_age_ms) = route.policy.max_age_ms {
            query.append_pair("max_age", &(max_age_ms / 1000).to_string());
        }
    }
    format!("{}/login?{}", door.auth_prefix, query.finish())
}

/// A door lends its cookie to every app behind it, so the app's own unsafe requests need the same proof as ours. A WebSocket can be opened from any
/// page, and is read by it: it needs the proof although it is a GET (security.md HT-07).
pub fn needs_proof(method: &Method, has_session: bool, is_socket: bool) -> bool {
    is_socket || (has_session && !csrf::is_safe(method))
}

/// Refuses what another site's page sent.
pub async fn check_origin(request: &HttpRequest, door: &Door, has_session: bool) -> Result<(), Refused> {
    let setup = door.app.setup();
    let proof = if has_session { csrf::Proof::Cookie } else { csrf::Proof::None };
    let config = &setup.config;
    if csrf::is_ours(request.headers(), &config.server.public_url, &config.cors.origins, proof) {
        return Ok(());
    }
    door.app.metrics.csrf_refused();
    audit::refusal(
        &door.app,
        &Refusal { event: "request.refused", reason: "csrf", provider: None },
        &visitor(request),
    )
    .await;
    Err(Refused(Error::Csrf))
}

fn demo_page(door: &Door, path: &str, who: Option<&Principal>) -> HttpResponse {
    let headers: Vec<(String, String)> = who
        .into_iter()
        .flat_map(identity::headers)
        .map(|(name, value)| (name.written.to_owned(), value.to_owned()))
        .collect();
    let page = demo::page(path, &headers, &door.auth_prefix);
    let status = actix_web::http::StatusCode::from_u16(page.status).unwrap_or_default();
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header(("referrer-policy", "same-origin"))
        .body(page.html)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F: Future>(_: impl Fn(&'a HttpRequest, Payload, &'a web::Data<Door>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_each_request_allocates_and_copies_is_small() {
        // It is in a box of its own for each request; what is rarely needed is boxed where it is.
        assert!(size(answer) <= 900, "{} bytes", size(answer));
        let question = size(crate::web::check::answer);
        assert!(question <= 800, "{question} bytes for a question");
    }
}
