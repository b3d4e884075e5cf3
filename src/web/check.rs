//! Forward-auth: another proxy asks whether a request may pass, and is answered by the same table and the same judgement as our own road to the app.
//!
//! Only a listed proxy is believed about another request, and only where it tells everything, once, in one way (security.md PX-07). Whatever is
//! unclear denies. No cookie is set here, and no page is made for whom the answer is yes.

use actix_web::dev::Payload;
use actix_web::http::header::{self, HOST, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytestring::ByteString;

use super::login::see_other;
use super::outer::{self, ADDRESS_MAX, SEC_FETCH_MODE, Whose};
use super::problem::{Problem, Refused};
use super::through::{Asker, Attached};
use super::{Door, bearer, behind, unread, visitor};
use crate::app::Setup;
use crate::domain::policy::Verdict;
use crate::error::Error;
use crate::flows::audit::{self, Refusal};
use crate::proxy::canonical::{CanonicalRequest, Odd};
use crate::proxy::routes::{Found, Route};

/// Where proxies ask, below our prefix; Envoy writes the path that it asks about behind it.
pub const PLACE: &str = "/check";
/// The problem's code, for proxies that hand on a status and headers alone.
pub const CODE: HeaderName = HeaderName::from_static("x-doorward-code");
/// Where a person can sign in, for proxies that cannot hand on a redirect.
pub const LOGIN: HeaderName = HeaderName::from_static("x-doorward-login");

/// nginx's way to tell; the host is the one of the question itself.
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// Traefik's and Caddy's way to tell.
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What the proxy asks about, as it told it.
struct Asked<'r> {
    method: &'r str,
    /// `/path?query`.
    target: &'r str,
    /// A person who is not signed in may be sent to the login by the answer itself.
    may_redirect: bool,
}

/// Why the answer is no.
enum No {
    /// Somebody has to sign in, or to prove more; the address of the login where the request can be repeated afterwards.
    SignIn {
        login: Option<String>,
        may_redirect: bool,
    },
    Refused(Problem),
}

impl<E: Into<Refused>> From<E> for No {
    fn from(error: E) -> Self {
        Self::Refused(error.into().problem())
    }
}

/// Whether a path is where proxies ask, as it was written.
pub fn is_place(auth_prefix: &str, path: &str) -> bool {
    let rest = path.strip_prefix(auth_prefix).and_then(|rest| rest.strip_prefix(PLACE));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A problem as a proxy can hand it on: nginx knows three answers, 2xx, 401 and 403, so every other no is a 403 that names its reason.
pub fn denial(mut problem: Problem) -> Problem {
    if problem.status != 401 {
        problem.status = 403;
        problem.retry_after_s = None;
    }
    problem
}

/// `GET /auth/check`, and what Envoy asks with the method of the request in question.
pub async fn routed(request: HttpRequest, payload: web::Payload, door: web::Data<Door>) -> HttpResponse {
    answer(&request, payload.into_inner(), &door).await
}

/// The answer to a proxy's question.
pub async fn answer(request: &HttpRequest, payload: Payload, door: &web::Data<Door>) -> HttpResponse {
    // The question has no body that anybody would read.
    drop(unread::shared(request, payload));
    let setup = door.app.setup();
    match decide(request, door, &setup).await {
        Ok(yes) => yes,
        Err(No::SignIn { login: Some(login), may_redirect: true }) => see_other(&login).finish(),
        Err(No::SignIn { login, .. }) => no(Refused(Error::NotSignedIn).problem(), login.as_deref()),
        Err(No::Refused(problem)) => no(problem, None),
    }
}

async fn decide(request: &HttpRequest, door: &web::Data<Door>, setup: &Setup) -> Result<HttpResponse, No> {
    let asked = match asked(request, door, setup) {
        Ok(asked) => asked,
        Err((reason, error)) => {
            let refusal = Refusal { event: "check.refused", reason, provider: None };
            Box::pin(audit::refusal(&door.app, &refusal, &visitor(request))).await;
            return Err(error.into());
        }
    };
    let read = CanonicalRequest::read(asked.method, asked.target);
    let canonical = read.map_err(|odd: Odd| Error::InvalidRequest(odd.detail()))?;
    // Proxies send on what the client wrote: behind a bare # one app reads on, and another does not.
    if asked.target.contains('#') {
        return Err(Error::InvalidRequest(Odd::Path.detail()).into());
    }
    if asked.target.len() > ADDRESS_MAX {
        return Err(Error::AddressTooLong.into());
    }
    if door.is_own_path(canonical.path()) {
        return Err(Error::NoRoute.into());
    }
    let method = Method::from_bytes(canonical.method().as_bytes()).map_err(|_| Error::MethodNotAllowed)?;
    if method == Method::TRACE || method == Method::CONNECT {
        return Err(Error::MethodNotAllowed.into());
    }
    let route = match setup.routes.find(canonical.path(), canonical.method()) {
        Found::Route(route) => route,
        Found::OtherMethod(_) => return Err(Error::MethodNotAllowed.into()),
        Found::Nothing => return Err(Error::NoRoute.into()),
    };
    judge(request, door, route, &Question { asked: &asked, method: &method }).await
}

struct Question<'a> {
    asked: &'a Asked<'a>,
    method: &'a Method,
}

async fn judge(
    request: &HttpRequest,
    door: &web::Data<Door>,
    route: &Route,
    question: &Question<'_>,
) -> Result<HttpResponse, No> {
    let Question { asked, method } = *question;
    let headers = request.headers();
    let caller = bearer::caller(request, door, route).await.map_err(|problem| No::Refused(*problem))?;
    let who = caller.who();
    let sign_in = || {
        // Programs follow no login page.
        if caller.bearer().is_some() {
            return No::Refused(bearer::step_up(&route.policy));
        }
        let place = || behind::login_address(door, route, asked.target, who.is_some());
        let login = behind::may_redirect(method, headers).then(|| format!("{}{}", door.origin, place()));
        No::SignIn { login, may_redirect: asked.may_redirect }
    };
    let now_ms = door.app.now_ms();
    match route.policy.judge(who, now_ms) {
        Verdict::Pass => {}
        Verdict::SignIn | Verdict::StepUp => return Err(sign_in()),
        Verdict::Forbid if caller.bearer().is_some() => return Err(No::Refused(bearer::forbidden())),
        Verdict::Forbid => return Err(Error::NotAllowed.into()),
    }
    if behind::needs_proof(method, caller.came_by_cookie(), is_socket(headers)) {
        Box::pin(behind::check_origin(request, door, caller.came_by_cookie())).await?;
    }
    let attached = match Attached::of(door, route, who, caller.bearer(), Asker::OtherProxy).await {
        // The session lives, and what the app needs of it does not.
        Err(Refused(Error::NotSignedIn)) => return Err(sign_in()),
        attached => attached?,
    };
    caller.note_activity(door, now_ms);
    let yes = yes(attached.fields())?;
    outer::mark(request, Whose::Yes);
    Ok(yes)
}

/// What is asked about, and why nothing is where that is not clear: a word for the audit log, and the error.
fn asked<'r>(
    request: &'r HttpRequest,
    door: &Door,
    setup: &Setup,
) -> Result<Asked<'r>, (&'static str, Error)> {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let is_trusted =
        peer.is_some_and(|peer| setup.config.server.trusted_proxies.iter().any(|net| net.contains(&peer)));
    if !is_trusted {
        let told = "Only a proxy that server.trusted_proxies lists may ask this.";
        return Err(("untrusted_proxy", Error::InvalidRequest(told)));
    }
    let told = told(request, door).ok_or((
        "unclear_question",
        Error::InvalidRequest("The proxy does not say clearly which request it asks about."),
    ))?;
    let host_is_ours = door.is_own_authority(told.host);
    let scheme = if door.cookies.secure() { ["https", "wss"] } else { ["http", "ws"] };
    if !host_is_ours || told.scheme.is_some_and(|told| !scheme.contains(&told)) {
        return Err(("wrong_host", Error::WrongHost));
    }
    Ok(told.asked)
}

struct Told<'r> {
    asked: Asked<'r>,
    host: &'r str,
    /// nginx and Envoy do not say: they are configured for one origin.
    scheme: Option<&'r str>,
}

/// Reads the one way in which the proxy told it; two ways, a missing part and a doubled one are none.
fn told<'r>(request: &'r HttpRequest, door: &Door) -> Option<Told<'r>> {
    let headers = request.headers();
    let has = |names: &[HeaderName]| names.iter().any(|name| headers.contains_key(name));
    let by_original = has(&[ORIGINAL_METHOD, ORIGINAL_URI]);
    let by_forwarded = has(&[FORWARDED_METHOD, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_URI]);
    // The place is compared as it was written: a proxy that keeps visitors away from it may not know other spellings.
    let whole = request.uri().path_and_query()?.as_str();
    let rest = whole.strip_prefix(door.auth_prefix.as_str())?.strip_prefix(PLACE)?;
    let by_path = rest.starts_with('/');
    let query = request.query_string();
    match (by_path, by_original, by_forwarded) {
        (true, false, false) => Some(Told {
            // The query is the app's, so that it can hold no wish of the proxy's: Envoy hands on any answer.
            asked: Asked { method: request.method().as_str(), target: rest, may_redirect: true },
            host: one(headers, &HOST)?,
            scheme: None,
        }),
        (false, true, false) => Some(Told {
            asked: Asked {
                method: one(headers, &ORIGINAL_METHOD)?,
                target: one(headers, &ORIGINAL_URI)?,
                may_redirect: wants_redirect(query),
            },
            host: one(headers, &HOST)?,
            scheme: None,
        }),
        (false, false, true) => Some(Told {
            asked: Asked {
                method: one(headers, &FORWARDED_METHOD)?,
                target: one(headers, &FORWARDED_URI)?,
                may_redirect: wants_redirect(query),
            },
            host: one(headers, &FORWARDED_HOST)?,
            scheme: Some(one(headers, &FORWARDED_PROTO)?),
        }),
        _ => None,
    }
}

/// A field that stands exactly once.
fn one<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<&'r str> {
    let mut all = headers.get_all(name);
    let first = all.next()?;
    if all.next().is_some() { None } else { first.to_str().ok() }
}

/// `?redirect` of the question.
fn wants_redirect(query: &str) -> bool {
    query.split('&').any(|part| matches!(part, "redirect" | "redirect=" | "redirect=1" | "redirect=true"))
}

/// A WebSocket is a GET of any page's making. Fields of the connection do not reach us through every proxy; these do.
fn is_socket(headers: &HeaderMap) -> bool {
    headers.contains_key(header::SEC_WEBSOCKET_KEY)
        || headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        || headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "websocket")
}

fn yes(fields: impl Iterator<Item = (HeaderName, ByteString)>) -> Result<HttpResponse, Refused> {
    let mut response = HttpResponse::new(StatusCode::OK);
    for (name, value) in fields {
        let unspeakable = |_| Refused(Error::Internal(format!("{name} cannot be put into a header")));
        let value = HeaderValue::from_maybe_shared(value.into_bytes()).map_err(unspeakable)?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn no(problem: Problem, login: Option<&str>) -> HttpResponse {
    let problem = denial(problem);
    let code = problem.code;
    let mut response = problem.response();
    response.headers_mut().insert(CODE, HeaderValue::from_static(code));
    if let Some(login) = login.and_then(|login| HeaderValue::from_str(login).ok()) {
        response.headers_mut().insert(LOGIN, login);
    }
    response
}
