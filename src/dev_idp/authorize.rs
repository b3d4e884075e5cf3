//! `/authorize` and `/par`: who is signing in, and the code that says so.

use std::sync::Arc;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::authorization_request::{AuthorizationRequest, Prompt, Refusal, WayBack};
use super::keys::{random_text, sha256};
use super::memory::{Code, Grant, PushedRequest, Session};
use super::pages::{self, SignInPage};
use super::params::{Params, client_id};
use super::people::Person;
use super::switch::{Endpoint, Twist};
use super::{DevIdp, DevIdpError};

const SESSION_COOKIE: &str = "doorward-dev-idp";
const SESSION_LIFE_MS: i64 = 24 * 60 * 60 * 1000;
const CODE_LIFE_MS: i64 = 60_000;
const PUSHED_LIFE_SECONDS: i64 = 60;
/// RFC 9126, section 2.2.
const PUSHED_PREFIX: &str = "urn:ietf:params:oauth:request_uri:";

/// GET: a code at once for who is signed in already, else the form.
pub(super) async fn show(idp: web::Data<DevIdp>, request: HttpRequest) -> HttpResponse {
    idp.answer(Endpoint::Authorize, |twist| {
        let params = Params::parse(request.query_string().as_bytes());
        let outcome =
            params.map_err(Refusal::Here).and_then(|params| idp.pushed_or_plain(params)).and_then(|params| {
                let asked = AuthorizationRequest::parse(&params)?;
                Ok(idp.decide(&request, &params, &asked, twist))
            });
        outcome.unwrap_or_else(|refusal| idp.refuse(refusal))
    })
    .await
}

/// POST: the person whose button was pressed.
pub(super) async fn sign_in(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::SignIn, |twist| {
        idp.signed_in(&request, &body, twist).unwrap_or_else(|refusal| idp.refuse(refusal))
    })
    .await
}

/// Pushed Authorization Requests (RFC 9126, section 2).
pub(super) async fn push(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::PushedAuthorization, |twist| {
        let refused = |status, error: &str, description: &str| {
            twist.json(status, json!({ "error": error, "error_description": description }))
        };
        let invalid = |text| refused(StatusCode::BAD_REQUEST, "invalid_request", text);
        let params = match Params::of_form(&request, &body) {
            Ok(params) if params.find("request_uri").is_none() => params,
            Ok(_) => return invalid("request_uri may not be pushed"),
            Err(text) => return invalid(text),
        };
        let Some(client_id) = client_id(&request, &params) else {
            return refused(StatusCode::UNAUTHORIZED, "invalid_client", "which client is this?");
        };
        match AuthorizationRequest::parse(&params) {
            Err(Refusal::Here(text)) => invalid(text),
            Err(Refusal::Back(_, error, text)) => refused(StatusCode::BAD_REQUEST, error, text),
            Ok(_) => match random_text() {
                Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "server_error", ""),
                Ok(handle) => {
                    let expires_ms = idp.now_ms() + PUSHED_LIFE_SECONDS * 1000;
                    let uri = format!("{PUSHED_PREFIX}{handle}");
                    let pushed = PushedRequest { params, client_id, expires_ms };
                    idp.memory().pushed.insert(sha256(&uri), pushed);
                    let object = json!({ "request_uri": uri, "expires_in": PUSHED_LIFE_SECONDS });
                    twist.json(StatusCode::CREATED, object)
                }
            },
        }
    })
    .await
}

impl DevIdp {
    /// The parameters of a pushed request, once, or the given ones.
    fn pushed_or_plain(&self, params: Params) -> Result<Params, Refusal> {
        let Some(uri) = params.find("request_uri") else {
            return Ok(params);
        };
        let pushed = self.memory().pushed.take(&sha256(uri));
        let now_ms = self.now_ms();
        pushed
            .filter(|pushed| now_ms < pushed.expires_ms)
            .filter(|pushed| params.find("client_id") == Some(&pushed.client_id))
            .map(|pushed| pushed.params)
            .ok_or(Refusal::Here("The pushed request is unknown, used or expired. Start again from the app."))
    }

    fn decide(
        &self,
        request: &HttpRequest,
        params: &Params,
        asked: &AuthorizationRequest,
        twist: &Twist,
    ) -> HttpResponse {
        if let Some((error, description)) = &twist.error {
            return self.send_error(&asked.back, error, description);
        }
        let now = self.now_ms() / 1000;
        let fresh = self.session_of(request).filter(|session| {
            asked.max_age.is_none_or(|limit| now.saturating_sub(session.auth_time) < limit)
        });
        match (asked.prompt, fresh) {
            (Prompt::Never | Prompt::IfNeeded, Some(session)) => self.send_code(asked, &session),
            (Prompt::Never, None) => {
                self.send_error(&asked.back, "login_required", "Nobody is signed in here")
            }
            _ => SignInPage {
                base: self.path(),
                client_id: &asked.back.client_id,
                origin: asked.back.redirect.origin().ascii_serialization(),
                fields: AuthorizationRequest::fields(params),
                people: pages::choices(&self.memory(), asked.login_hint.as_deref()),
            }
            .response(&asked.back.redirect),
        }
    }

    fn signed_in(&self, request: &HttpRequest, body: &[u8], twist: &Twist) -> Result<HttpResponse, Refusal> {
        // A page elsewhere may not choose who is signed in here (login CSRF).
        let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Refusal::Here("The form was sent by another site."));
        }
        let form = Params::of_form(request, body).map_err(Refusal::Here)?;
        // The form carries the request; a script may leave it in the query instead.
        let asked = if form.find("client_id").is_some() {
            AuthorizationRequest::parse(&form)?
        } else {
            let query = Params::parse(request.query_string().as_bytes()).map_err(Refusal::Here)?;
            AuthorizationRequest::parse(&self.pushed_or_plain(query)?)?
        };
        if let Some((error, description)) = &twist.error {
            return Ok(self.send_error(&asked.back, error, description));
        }
        if form.find("cancel").is_some() {
            return Ok(self.send_error(&asked.back, "access_denied", "The person cancelled"));
        }
        let person = form.find("username").and_then(|name| self.memory().find_person(name));
        let person = person.ok_or(Refusal::Here("There is nobody of this name here."))?;
        if person.suspended {
            return Ok(self.send_error(&asked.back, "account_disabled", "Account disabled"));
        }
        Ok(match self.open_session(request, &person) {
            Ok((session, cookie)) => {
                let mut response = self.send_code(&asked, &session);
                // Only a cookie that cannot be written as a header fails here; this one can.
                let _ = response.add_cookie(&cookie);
                response
            }
            Err(_) => self.send_error(&asked.back, "server_error", ""),
        })
    }

    /// A new session key at every sign-in; the same person keeps the session's id, so that a
    /// step-up belongs to the session it started from.
    fn open_session(
        &self,
        request: &HttpRequest,
        person: &Arc<Person>,
    ) -> Result<(Session, Cookie<'static>), DevIdpError> {
        let (key, new_sid) = (random_text()?, random_text()?);
        let now_ms = self.now_ms();
        let before = self.session_of(request).filter(|session| session.person == *person);
        let session = Session {
            person: Arc::clone(person),
            sid: before.map_or(new_sid, |session| session.sid),
            auth_time: now_ms / 1000,
            expires_ms: now_ms + SESSION_LIFE_MS,
        };
        let mut memory = self.memory();
        if let Some(old) = request.cookie(SESSION_COOKIE) {
            memory.sessions.take(&sha256(old.value()));
        }
        memory.sessions.insert(sha256(&key), session.clone());
        drop(memory);
        Ok((session, self.cookie(key)))
    }

    fn cookie(&self, value: String) -> Cookie<'static> {
        let path = if self.path().is_empty() { "/" } else { self.path() };
        Cookie::build(SESSION_COOKIE, value)
            .path(path.to_owned())
            .http_only(true)
            .same_site(SameSite::Lax)
            .finish()
    }

    /// The cookie that takes the session's cookie away.
    pub(super) fn removal_cookie(&self) -> Cookie<'static> {
        let mut cookie = self.cookie(String::new());
        cookie.make_removal();
        cookie
    }

    pub(super) fn session_of(&self, request: &HttpRequest) -> Option<Session> {
        let cookie = request.cookie(SESSION_COOKIE)?;
        let session = self.memory().sessions.find(&sha256(cookie.value())).cloned()?;
        (self.now_ms() < session.expires_ms).then_some(session)
    }

    fn send_code(&self, asked: &AuthorizationRequest, session: &Session) -> HttpResponse {
        let Ok(code) = random_text() else {
            return self.send_error(&asked.back, "server_error", "");
        };
        let grant = Grant {
            client_id: asked.back.client_id.clone(),
            person: Arc::clone(&session.person),
            scope: asked.scope.clone(),
            nonce: asked.nonce.clone(),
            acr: asked.acr.clone(),
            resource: asked.resource.clone(),
            sid: session.sid.clone(),
            auth_time: session.auth_time,
        };
        let entry = Code {
            grant,
            redirect_uri: asked.redirect_uri.clone(),
            challenge: asked.challenge.clone(),
            expires_ms: self.now_ms() + CODE_LIFE_MS,
            spent_for: None,
        };
        self.memory().codes.insert(sha256(&code), entry);
        self.send(&asked.back, vec![("code", &code)])
    }

    fn refuse(&self, refusal: Refusal) -> HttpResponse {
        match refusal {
            Refusal::Here(text) => pages::bad_request(self.path(), text),
            Refusal::Back(back, error, description) => self.send_error(&back, error, description),
        }
    }

    fn send_error(&self, back: &WayBack, error: &str, description: &str) -> HttpResponse {
        let mut answer = vec![("error", error)];
        if !description.is_empty() {
            answer.push(("error_description", description));
        }
        self.send(back, answer)
    }

    /// The authorization response, errors too, with `state` and `iss` (RFC 9207, section 2).
    fn send<'a>(&'a self, back: &'a WayBack, mut answer: Vec<(&str, &'a str)>) -> HttpResponse {
        if let Some(state) = &back.state {
            answer.push(("state", state));
        }
        answer.push(("iss", self.issuer()));
        if back.form_post {
            return pages::form_post(self.path(), &back.redirect, &answer);
        }
        let mut to = back.redirect.clone();
        to.query_pairs_mut().extend_pairs(answer);
        pages::see_other(&to)
    }
}
