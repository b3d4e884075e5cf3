//! Browser login: `/auth/login` and `/auth/callback/{provider}`.

use std::borrow::Cow;

use actix_session::Session as Cookie;
use actix_web::http::header::LOCATION;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _, web};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::problem::Refused;
use super::session::{self, MaybeGuest};
use super::{Door, other_method, pages, visitor, wire};
use crate::config::ResponseMode;
use crate::domain::login::CallbackFault;
use crate::domain::{Callback, LoginAttempt, LoginRequest, Prompt, ReturnTo};
use crate::error::Error;
use crate::flows::login::{self, Arrival, Begun, Direction, Finished, SealedAttempt};
use crate::flows::refresh;
use crate::flows::session::Opened;

type Answer = Result<HttpResponse, Refused>;

const HINT_MAX: usize = 512;
const ACR_VALUES_MAX: usize = 10;
const FORM_MAX: usize = 64 * 1024;

/// `GET /auth/login`
pub async fn start(request: HttpRequest, door: web::Data<Door>, guest: MaybeGuest) -> Answer {
    let mut asked = read(&door, request.query_string()).map_err(Refused)?;
    asked.previous = guest.0.as_ref().map(|guest| guest.session.id.clone());
    if let Some(guest) = &guest.0 {
        let another = login::asks_for_another(&door.app, &asked, &guest.session.provider)?;
        // What an app needs of the session may be over although the session is not: only a login brings another token.
        let lacks_token = refresh::lacks_token(&door.app, &guest.session);
        if !asked.wants_a_new_login() && !another && !lacks_token {
            return Ok(see_other(asked.return_to.unwrap_or_default().as_str()).finish());
        }
    }
    let held = door.cookies.attempts(request.headers());
    match Box::pin(login::begin(&door.app, &asked, &held, &visitor(&request))).await? {
        Direction::Begun(begun) => Ok(to_provider(&door, begun)),
        Direction::Choose(_) => pages::choose(&door, request.query_string(), None),
    }
}

/// Known parameters only, each at most once; everything else on the link is ignored (security.md AR-21).
fn read(door: &Door, query: &str) -> Result<LoginRequest, Error> {
    let mut asked = LoginRequest::default();
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    let setup = door.app.setup();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() {
            continue;
        }
        if seen.contains(&name) {
            return Err(Error::InvalidRequest("A parameter of the sign-in link appears twice."));
        }
        let short =
            || (value.len() <= HINT_MAX && !value.chars().any(char::is_control)).then(|| value.to_string());
        let needed = |found: Option<String>| {
            found.map(Some).ok_or(Error::InvalidRequest(
                "A parameter of the sign-in link is too long or not plain text.",
            ))
        };
        match name.as_ref() {
            "provider" => asked.provider = needed(short())?,
            // A hostile address costs the visitor nothing: they simply land on the front page.
            "return_to" | "target_link_uri" => {
                asked.return_to =
                    asked.return_to.take().or_else(|| ReturnTo::parse(&value, &setup.return_rules));
            }
            "login_hint" => asked.login_hint = needed(short())?,
            "prompt" => {
                asked.prompt = Some(
                    Prompt::parse(&value)
                        .ok_or(Error::InvalidRequest("prompt is not one that is known here."))?,
                );
            }
            "max_age" => {
                asked.max_age = Some(
                    value
                        .parse()
                        .map_err(|_| Error::InvalidRequest("max_age is not a number of seconds."))?,
                );
            }
            "acr_values" => {
                asked.acr_values = needed(short())?
                    .unwrap_or_default()
                    .split(' ')
                    .filter(|acr| !acr.is_empty())
                    .take(ACR_VALUES_MAX)
                    .map(str::to_owned)
                    .collect();
            }
            "organization" => asked.organization = needed(short())?,
            "screen" => asked.signup = value == "signup",
            "iss" => asked.issuer = needed(short())?,
            _ => continue,
        }
        seen.push(name);
    }
    Ok(asked)
}

fn to_provider(door: &Door, begun: Begun) -> HttpResponse {
    let mut response = see_other(begun.redirect.as_str());
    for tag in &begun.dropped {
        response.cookie(door.cookies.no_attempt(tag));
    }
    response.cookie(door.cookies.attempt(begun.cookie, begun.cross_site_post));
    response.finish()
}

/// A redirect after which the browser asks by GET; 307 would post a password or a code to the next house (RFC 9700 4.12).
pub fn see_other(location: &str) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::SeeOther();
    // A header is ASCII; what a browser would encode on its own is encoded here, for all that stands between.
    let location: Cow<'_, str> = utf8_percent_encode(location, CONTROLS).into();
    response.insert_header((LOCATION, location.as_ref()));
    response
}

/// `GET /auth/callback/{provider}`
pub async fn finish_get(
    request: HttpRequest,
    provider: web::Path<String>,
    door: web::Data<Door>,
    cookie: Cookie,
    guest: MaybeGuest,
) -> Answer {
    if let Some(other) = other_mode(&door, &provider, ResponseMode::Query)? {
        return Ok(other);
    }
    let query = request.query_string().to_owned();
    // In a box, as what follows is large: the server moves a handler's future several times before it begins.
    Box::pin(finish(&request, &provider, &query, Caller { door: &door, cookie: &cookie, guest: &guest }))
        .await
}

/// `POST /auth/callback/{provider}`, for `response_mode = "form_post"` alone.
pub async fn finish_post(
    request: HttpRequest,
    provider: web::Path<String>,
    body: web::Bytes,
    door: web::Data<Door>,
    cookie: Cookie,
) -> Answer {
    if let Some(other) = other_mode(&door, &provider, ResponseMode::FormPost)? {
        return Ok(other);
    }
    if body.len() > FORM_MAX {
        return Err(Refused(Error::TooLarge));
    }
    let form = String::from_utf8_lossy(&body).into_owned();
    let caller = Caller { door: &door, cookie: &cookie, guest: &MaybeGuest(None) };
    Box::pin(finish(&request, &provider, &form, caller)).await
}

/// The refusal of a callback that comes by the other method than its provider was told.
fn other_mode(door: &Door, provider: &str, mode: ResponseMode) -> Result<Option<HttpResponse>, Refused> {
    let setup = door.app.setup();
    let configured = setup.provider(provider).ok_or(Refused(Error::NotFound))?.config().response_mode;
    let takes = match configured {
        ResponseMode::Query => "GET, HEAD",
        ResponseMode::FormPost => "POST",
    };
    Ok((configured != mode).then(|| other_method(takes)))
}

#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub door: &'a Door,
    pub cookie: &'a Cookie,
    pub guest: &'a MaybeGuest,
}

async fn finish(request: &HttpRequest, provider: &str, parameters: &str, by: Caller<'_>) -> Answer {
    let state = url::form_urlencoded::parse(parameters.as_bytes())
        .find(|(name, _)| name == "state")
        .map(|(_, value)| value.into_owned());
    let tag = LoginAttempt::tag(&state.unwrap_or_default());
    let held = by.door.cookies.attempts(request.headers());
    let cookie = held.iter().find(|attempt| attempt.tag == tag);
    let mut response = answer(request, provider, parameters, cookie, &by).await?;
    // Well or badly ended, this attempt is over: a cookie left behind would confuse the next one (security.md AR-12).
    if cookie.is_some() {
        let gone = by.door.cookies.no_attempt(&tag);
        response.add_cookie(&gone).map_err(|e| Refused(Error::Internal(e.to_string())))?;
    }
    Ok(response)
}

async fn answer(
    request: &HttpRequest,
    provider: &str,
    parameters: &str,
    cookie: Option<&SealedAttempt>,
    by: &Caller<'_>,
) -> Answer {
    let visitor = visitor(request);
    let callback = match Callback::parse(url::form_urlencoded::parse(parameters.as_bytes())) {
        Ok(callback) => callback,
        Err(fault) => {
            login::unreadable(&by.door.app, provider, reason(fault), &visitor).await;
            return Ok(Refused(Error::InvalidRequest(sentence(fault))).error_response());
        }
    };
    let previous = session::key(by.cookie);
    let arrival =
        Arrival { provider, callback: &callback, cookie, previous: previous.as_ref(), visitor: &visitor };
    let finished = login::finish(&by.door.app, &arrival).await;
    match finished {
        Ok(Finished::SignedIn { opened, return_to }) => signed_in(request, by, &opened, &return_to),
        Ok(Finished::Again(begun)) => Ok(to_provider(by.door, begun)),
        // A reloaded or revisited callback: who is signed in already is simply let in.
        Err(Error::LoginExpired) if by.guest.0.is_some() => Ok(see_other("/").finish()),
        Err(error) => Ok(Refused(error).error_response()),
    }
}

/// Hands the session to the browser and sends it on.
pub fn signed_in(request: &HttpRequest, by: &Caller<'_>, opened: &Opened, return_to: &str) -> Answer {
    session::begin(by.cookie, opened)?;
    let left_ms = opened.guest.session.expires_at_ms - opened.guest.session.created_at_ms;
    request.extensions_mut().insert(session::Life { left_ms });
    // Checked when it was sealed; the rules may have changed since.
    let return_to = ReturnTo::parse(return_to, &by.door.app.setup().return_rules).unwrap_or_default();
    if accepts_json(request) {
        let idle_ms = by.door.app.setup().config.session.idle_ms;
        let body = serde_json::json!({ "user": wire::user(&opened.guest.user), "session": wire::session(&opened.guest.session, idle_ms) });
        return Ok(HttpResponse::Ok().json(body));
    }
    Ok(see_other(return_to.as_str()).finish())
}

/// Whether the caller asks for JSON in so many words.
pub fn accepts_json(request: &HttpRequest) -> bool {
    let accept = request.headers().get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

fn reason(fault: CallbackFault) -> &'static str {
    match fault {
        CallbackFault::Repeated => "callback_repeated_parameter",
        CallbackFault::TokenInFront => "callback_token_in_front",
        CallbackFault::Malformed => "callback_malformed",
    }
}

fn sentence(fault: CallbackFault) -> &'static str {
    match fault {
        CallbackFault::Repeated => "A parameter of the sign-in answer appears twice.",
        CallbackFault::TokenInFront => "The sign-in answer carries a token where none belongs.",
        CallbackFault::Malformed => "The sign-in answer is incomplete or malformed.",
    }
}
