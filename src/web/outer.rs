//! The outermost layer: what holds for every request and every answer, so that no handler has to think of it.
//!
//! A request gets an id, a span and limits, and must name our host. An answer gets its security headers; an error becomes a problem for
//! programs or a page for people; a panic becomes a 500 and the process lives on.

use std::cell::Cell;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse, web};
use bytestring::ByteString;
use futures_util::FutureExt as _;

use super::login::see_other;
use super::problem::{Problem, Refused};
use super::unread::{Held, Unread};
use super::{Door, behind, check, pages};
use crate::domain::address;
use crate::error::Error;
use crate::telemetry;

/// A request's head, checked after actix parsed it (whose own limits are 128 KiB and 96 fields).
const HEAD_MAX: usize = 16 * 1024;
pub const ADDRESS_MAX: usize = 8 * 1024;
/// The largest body that a place of ours takes; one that announces more is refused unread.
const BODY_MAX: u64 = 64 * 1024;
/// The way out for whoever holds more cookies than fit; a visitor with a normal head is only sent to the front page.
pub const CLEAR_COOKIES: &str = "/clear-cookies";
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which house answers a path; it decides who writes the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Own,
    DevIdp,
    Behind,
}

impl Class {
    fn of(door: &Door, path: &str) -> Self {
        let under = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if under(&door.auth_prefix) || under(super::WELL_KNOWN) {
            Self::Own
        } else if door.has_dev_idp && under("/dev-idp") {
            Self::DevIdp
        } else {
            Self::Behind
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Own => "auth",
            Self::DevIdp => "dev_idp",
            Self::Behind => "app",
        }
    }
}

/// What the layer remembers of a request while it is answered.
struct Seen {
    id: ByteString,
    method: Method,
    class: Class,
    /// Another proxy asks about a request of its own.
    is_question: bool,
    wants_page: bool,
    started: Instant,
}

/// Who asks, as this layer saw them, and what those who answer leave word of; the rest of a [`Visitor`] is put together where somebody
/// wants to know it.
pub struct Arrival {
    pub client: Option<IpAddr>,
    pub request_id: ByteString,
    whose: Cell<Whose>,
    unread: Cell<Option<Unread>>,
}

/// Whose business the headers of an answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whose {
    /// They protect a page.
    #[default]
    Ours,
    /// An app's own, but for what takes nothing away from it.
    Apps,
    /// A yes that a proxy reads.
    Yes,
}

/// Leaves word of whose answer it is.
pub fn mark(request: &impl HttpMessage, whose: Whose) {
    if let Some(arrival) = request.extensions().get::<Arrival>() {
        arrival.whose.set(whose);
    }
}

/// Has the rest of a request's body held until its answer is over.
pub fn hold(request: &impl HttpMessage, unread: Unread) {
    if let Some(arrival) = request.extensions().get::<Arrival>() {
        arrival.unread.set(Some(unread));
    }
}

/// Runs a request through the house.
///
/// # Errors
/// Never one that reaches the visitor bare: each carries a finished problem.
pub async fn layer(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(door) = request.app_data::<web::Data<Door>>().cloned() else {
        return Err(actix_web::error::ErrorInternalServerError("the door is missing"));
    };
    let seen = look(&door, &request);
    let told = telemetry::Request::new(seen.id.clone(), seen.method.as_str(), seen.class.name());
    let headers = request.headers();
    let begun = told.begin(|| telemetry::parent_from(|name| headers.get(name)?.to_str().ok()));
    begun.answer(pass(door, seen, request, next)).await
}

async fn pass(
    door: web::Data<Door>,
    seen: Seen,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if let Some(refused) = check(&door, &seen, &request) {
        let mut response = refused.unwrap_or_else(|error| refuse(&door, &seen, &error));
        finish_headers(&door, &seen, response.headers_mut());
        measure(&door, &seen, response.status());
        return Ok(request.into_response(response));
    }
    let answered = AssertUnwindSafe(reach(&door, &seen, request, next)).catch_unwind().await;
    let response = match answered {
        Ok(Ok(response)) => {
            let problem = problem_in(&seen, response.response());
            match problem {
                // The inner answer may carry cookies that must be taken away; they stay.
                Some(problem) => {
                    mark(response.request(), Whose::Ours);
                    let kept = response.headers().clone();
                    response.into_response(with_headers(finish_problem(&door, &seen, &problem), &kept))
                }
                None => response,
            }
        }
        Ok(Err(error)) => return Err(broken(&door, &seen, &error)),
        Err(_) => {
            tracing::error!(path_class = seen.class.name(), "a request panicked");
            return Err(broken(&door, &seen, &Refused(Error::Internal("panic".to_owned())).into()));
        }
    };
    let mut response = response;
    let (whose, unread) = word_left(response.request());
    // What comes after a handshake that was not taken up is no request (RFC 9110 7.8): the server below takes it for a body.
    if seen.class == Class::Own && response.request().headers().contains_key(header::UPGRADE) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    match whose {
        Whose::Apps => finish_from_app(&door, &seen, response.headers_mut()),
        Whose::Yes => finish_yes(&seen, response.headers_mut()),
        Whose::Ours => finish_headers(&door, &seen, response.headers_mut()),
    }
    measure(&door, &seen, response.status());
    Ok(match unread {
        Some(unread) => response.map_body(|_, body| Held { body, _unread: unread }.boxed()),
        None => response,
    })
}

/// Hands a request to whoever answers it. What nearly all of them are has one place to go; the others are routed.
async fn reach(
    door: &web::Data<Door>,
    seen: &Seen,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let is_question = seen.is_question && matches!(seen.method, Method::GET | Method::HEAD);
    if seen.class != Class::Behind && !is_question {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let (request, payload) = request.into_parts();
    let response = if is_question {
        Box::pin(check::answer(&request, payload, door)).await
    } else {
        Box::pin(behind::answer(&request, payload, door)).await
    };
    Ok(ServiceResponse::new(request, response))
}

fn word_left(request: &impl HttpMessage) -> (Whose, Option<Unread>) {
    let extensions = request.extensions();
    let arrival = extensions.get::<Arrival>();
    arrival.map_or((Whose::Ours, None), |arrival| (arrival.whose.get(), arrival.unread.take()))
}

fn look(door: &Door, request: &ServiceRequest) -> Seen {
    let id = door.request_ids.next(&*door.app.random);
    let peer = request.peer_addr().map(|peer| peer.ip());
    let client = door.app.of_setup(|setup| {
        super::address::of_client(peer, request.headers(), &setup.config.server.trusted_proxies)
    });
    let arrival = Arrival { client, request_id: id.clone(), whose: Cell::default(), unread: Cell::default() };
    request.extensions_mut().insert(arrival);
    Seen {
        id,
        method: request.method().clone(),
        class: Class::of(door, request.path()),
        is_question: check::is_place(&door.auth_prefix, request.path()),
        wants_page: wants_page(request.method(), request.headers()),
        started: Instant::now(),
    }
}

pub const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// People navigate (`Sec-Fetch-Mode` first, then `Accept`); programs fetch.
pub fn wants_page(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let takes_html = || text(header::ACCEPT).is_some_and(|accept| accept.contains("text/html"));
    match text(SEC_FETCH_MODE) {
        Some("navigate") => !text(header::ACCEPT).is_some_and(|accept| accept.contains("application/json")),
        Some(_) => false,
        None => {
            takes_html()
                && text(X_REQUESTED_WITH).is_none()
                && matches!(*method, Method::GET | Method::HEAD | Method::POST)
        }
    }
}

/// Refusals that need no routing; a redirect is a whole answer, the rest are errors.
fn check(door: &Door, seen: &Seen, request: &ServiceRequest) -> Option<Result<HttpResponse, Error>> {
    let headers = request.headers();
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > ADDRESS_MAX {
        return Some(Err(Error::AddressTooLong));
    }
    let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head > HEAD_MAX {
        let wants_out = request.path().strip_prefix(door.auth_prefix.as_str()) == Some(CLEAR_COOKIES);
        let may = wants_out && matches!(seen.method, Method::GET | Method::HEAD) && is_own_wish(headers);
        return Some(if may { Ok(without_cookies(door, headers)) } else { Err(Error::HeadTooLarge) });
    }
    if seen.method == Method::TRACE || seen.method == Method::CONNECT {
        return Some(Err(Error::MethodNotAllowed));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if seen.class == Class::Own && announced.is_some_and(|length: u64| length > BODY_MAX) {
        return Some(Err(Error::TooLarge));
    }
    if !request.path().starts_with('/') {
        return Some(Err(Error::InvalidRequest("The request target is not a path.")));
    }
    // Over HTTP/1.1 nobody states a scheme; whoever does must mean this very door (RFC 9113 8.3.1).
    let scheme = request.uri().scheme_str();
    if request.version() == Version::HTTP_2 && scheme.is_some_and(|scheme| scheme != door.scheme()) {
        return Some(Err(Error::InvalidRequest("The request names another scheme.")));
    }
    // The development issuer guards itself: it must be reachable by every loopback name. So does forward-auth: some proxies ask under
    // the name by which they reach us, and say elsewhere which host was asked for.
    let guards_itself = seen.class == Class::DevIdp || seen.is_question;
    if guards_itself { None } else { check_host(door, seen, request) }
}

/// A refusal of this layer; a proxy that asks gets it in the few words that it knows.
fn refuse(door: &Door, seen: &Seen, error: &Error) -> HttpResponse {
    if !seen.is_question {
        return finish_problem(door, seen, &Problem::of(error));
    }
    let problem = check::denial(Problem::of(error));
    let mut response = finish_problem(door, seen, &problem);
    response.headers_mut().insert(check::CODE, HeaderValue::from_static(problem.code));
    response
}

/// Another site must not sign anybody out by a link.
fn is_own_wish(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none")
}

/// Forgets every cookie of this site. A neighbour on a sibling domain that planted them is out of reach by name, so the browser is asked to
/// clear them all (W3C Clear Site Data); for older ones those that we can name expire.
fn without_cookies(door: &Door, headers: &HeaderMap) -> HttpResponse {
    let mut response = see_other("/");
    response.insert_header(("clear-site-data", "\"cookies\""));
    for gone in door.cookies.none_of(headers) {
        response.append_header((header::SET_COOKIE, gone.to_string()));
    }
    response.finish()
}

fn check_host(door: &Door, seen: &Seen, request: &ServiceRequest) -> Option<Result<HttpResponse, Error>> {
    let mut hosts = request.headers().get_all(header::HOST);
    let first = hosts.next();
    if hosts.next().is_some() {
        return Some(Err(Error::InvalidRequest("The request names its host twice.")));
    }
    let named = first
        .and_then(|value| value.to_str().ok())
        .or_else(|| request.uri().authority().map(actix_web::http::uri::Authority::as_str))
        .unwrap_or_default();
    let in_target = request.uri().authority().map(actix_web::http::uri::Authority::as_str);
    if in_target.is_some_and(|target| !target.eq_ignore_ascii_case(named)) {
        return Some(Err(Error::InvalidRequest("Request target and Host disagree.")));
    }
    if door.is_own_authority(named) {
        return None;
    }
    let name = named
        .rsplit_once(':')
        .map_or(named, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { named });
    let both_local = door.is_loopback && address::is_loopback_host(name);
    if both_local && matches!(seen.method, Method::GET | Method::HEAD) {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let location = format!("{}{target}", door.origin);
        return Some(Ok(see_other(&location).finish()));
    }
    Some(Err(Error::WrongHost))
}

/// Marks an answer that is whole although its status is an error's: a form shown again, with what is wrong beside its fields.
pub struct Whole;

/// The problem that an answer stands for: one of ours, or an error that a library made on one of our own paths.
fn problem_in(seen: &Seen, response: &HttpResponse<BoxBody>) -> Option<Problem> {
    if let Some(problem) = response.extensions().get::<Problem>() {
        return Some(problem.clone());
    }
    if response.extensions().get::<Whole>().is_some() {
        return None;
    }
    let status = response.status();
    (seen.class == Class::Own && (status.is_client_error() || status.is_server_error()))
        .then(|| Problem::of_status(status.as_u16()))
}

/// An error that no handler made: the session store could not be asked, or a panic.
fn broken(door: &Door, seen: &Seen, error: &actix_web::Error) -> actix_web::Error {
    let problem = if let Some(refused) = error.as_error::<Refused>() {
        Problem::of(&refused.0)
    } else {
        tracing::warn!(error = %error, "the session could not be read or written");
        Problem::of(&Error::DatabaseDown(String::new()))
    };
    let mut response = finish_problem(door, seen, &problem);
    finish_headers(door, seen, response.headers_mut());
    measure(door, seen, response.status());
    InternalError::from_response(problem.title, response).into()
}

fn finish_problem(door: &Door, seen: &Seen, problem: &Problem) -> HttpResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for header in problem.headers() {
        response.insert_header(header);
    }
    let page =
        seen.wants_page.then(|| pages::problem(pages::chrome(door, None), problem, &seen.id)).flatten();
    let mut response = match page {
        Some(html) => response.content_type("text/html; charset=utf-8").body(html),
        None => response.content_type("application/problem+json").body(problem.json(&seen.id)),
    };
    finish_headers(door, seen, response.headers_mut());
    response
}

fn with_headers(mut response: HttpResponse, kept: &HeaderMap) -> HttpResponse {
    for name in [
        header::SET_COOKIE,
        header::ALLOW,
        header::VARY,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        check::CODE,
        check::LOGIN,
    ] {
        for value in kept.get_all(&name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

/// What an app's answer gets besides its own headers: nothing that could take away what the app relies on.
fn finish_from_app(door: &Door, seen: &Seen, headers: &mut HeaderMap) {
    super::cors::tidy(headers);
    if !headers.contains_key(&REQUEST_ID) {
        set_request_id(seen, headers);
    }
    if !headers.contains_key(header::X_CONTENT_TYPE_OPTIONS) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if door.cookies.secure() && !headers.contains_key(header::STRICT_TRANSPORT_SECURITY) {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

/// Headers of every answer of ours. What a page or the development issuer set itself is left as it is.
fn finish_headers(door: &Door, seen: &Seen, headers: &mut HeaderMap) {
    super::cors::tidy(headers);
    // A shared cache that kept this answer would hand one visitor's cookie to the next.
    if headers.contains_key(header::SET_COOKIE) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    // A page that names who may frame it says so in the newer header alone.
    let may_be_framed = seen.class == Class::Own
        && headers.get(header::CONTENT_SECURITY_POLICY).is_some_and(super::backchannel::is_for_frames);
    let mut set = |name: HeaderName, value: &str| {
        if !headers.contains_key(&name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    };
    set(REQUEST_ID, &seen.id);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    if !may_be_framed {
        set(header::X_FRAME_OPTIONS, "DENY");
    }
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    if door.cookies.secure() {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    // Last, and only where it is needed: putting it together costs more than all others.
    if seen.class != Class::DevIdp
        && !headers.contains_key(header::CONTENT_SECURITY_POLICY)
        && let Ok(policy) = HeaderValue::from_str(&door.content_policy())
    {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// What a proxy's question gets besides its answer.
fn finish_yes(seen: &Seen, headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set_request_id(seen, headers);
}

fn set_request_id(seen: &Seen, headers: &mut HeaderMap) {
    if let Ok(id) = HeaderValue::from_maybe_shared(seen.id.clone().into_bytes()) {
        headers.insert(REQUEST_ID, id);
    }
}

fn measure(door: &Door, seen: &Seen, status: StatusCode) {
    let method = match seen.method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    let elapsed = seen.started.elapsed();
    door.app.metrics.http(seen.class.name(), method, status.as_u16(), elapsed.as_secs_f64());
    tracing::info!(
        status = status.as_u16(),
        elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        "answered"
    );
}
