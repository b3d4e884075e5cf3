//! `POST /auth/login`: name and password, as JSON from programs and as a form from our own page.
//!
//! The JSON call lies outside the session's middleware, so that no cookie is read or set there. The form never shows a token.

use std::borrow::Cow;

use actix_session::Session as Cookie;
use actix_web::guard::{Guard, GuardContext};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::login::{Caller, signed_in};
use super::outer::{self, Whole};
use super::pages::{self, Typed};
use super::problem::{Problem, Refused};
use super::session::{self, MaybeGuest};
use super::{Door, visitor, wire};
use crate::domain::SessionKind;
use crate::error::Error;
use crate::flows::password::{self, Entry};

type Answer = Result<HttpResponse, Refused>;

/// What programs send.
#[derive(Deserialize)]
pub struct Body {
    username: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    password: Option<SecretString>,
    provider: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(SecretString::from))
}

/// A POST that says it is JSON.
pub struct IsJson;

impl Guard for IsJson {
    fn check(&self, context: &GuardContext<'_>) -> bool {
        context.head().method == actix_web::http::Method::POST
            && essence(&context.head().headers) == "application/json"
    }
}

fn essence(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// `POST /auth/login` by a program.
pub async fn program(request: HttpRequest, body: web::Bytes, door: web::Data<Door>) -> Answer {
    let sent: Body = serde_json::from_slice(&body)
        .map_err(|_| Error::InvalidRequest("The body is not the JSON object that this address takes."))?;
    drop(body);
    let visitor = visitor(&request);
    let entry = Entry {
        provider: sent.provider.as_deref(),
        username: sent.username.as_deref(),
        password: sent.password,
        kind: SessionKind::Api,
        previous: None,
        visitor: &visitor,
    };
    let entered = password::with_password(&door.app, entry).await?;
    let (user, session) = (&entered.opened.guest.user, &entered.opened.guest.session);
    let profile = &user.profile;
    Ok(HttpResponse::Ok().json(json!({
        "message": "Login successful",
        "user": {
            "id": user.id,
            "email": profile.email.as_ref().map(crate::domain::Email::as_str),
            "username": profile.username,
            "firstName": profile.first_name,
            "lastName": profile.last_name,
        },
        "tokens": wire::tokens(&entered.tokens, door.app.now_ms()),
        "sessionId": session.id,
    })))
}

/// The fields of our own form.
struct Form<'b> {
    username: Cow<'b, str>,
    password: Option<SecretString>,
    provider: Cow<'b, str>,
    return_to: Cow<'b, str>,
}

/// Each field at most once; what else was sent is ignored.
fn fields(body: &[u8]) -> Result<Form<'_>, Error> {
    let empty = || Cow::Borrowed("");
    let mut form = Form { username: empty(), password: None, provider: empty(), return_to: empty() };
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        match name.as_ref() {
            _ if seen.contains(&name) => {
                return Err(Error::InvalidRequest("A field of the form appears twice."));
            }
            "username" => form.username = value,
            "password" => form.password = Some(SecretString::from(value.into_owned())),
            "provider" => form.provider = value,
            "return_to" => form.return_to = value,
            _ => continue,
        }
        seen.push(name);
    }
    Ok(form)
}

/// `POST /auth/login` by a person, from the form that `password_form` shows.
pub async fn person(
    request: HttpRequest,
    body: web::Bytes,
    door: web::Data<Door>,
    cookie: Cookie,
    guest: MaybeGuest,
) -> Answer {
    let setup = door.app.setup();
    if !setup.config.providers.iter().any(|provider| provider.password_form) {
        return Err(Refused(Error::NotOffered));
    }
    if essence(request.headers()) != "application/x-www-form-urlencoded" {
        return Err(Refused(Error::InvalidRequest("Send JSON, or the fields of the sign-in form.")));
    }
    // Whoever is not signed in has no cookie to prove anything with: the browser's own word is needed (login CSRF).
    let has_word = ["sec-fetch-site", "origin"].iter().any(|name| request.headers().contains_key(*name));
    if !has_word {
        return Err(Refused(Error::Csrf));
    }
    let form = fields(&body).map_err(Refused)?;
    let (visitor, previous) = (visitor(&request), session::key(&cookie));
    let offers = |id: &str| setup.config.providers.iter().any(|p| p.id == id && p.password_form);
    let named = Some(form.provider.as_ref()).filter(|id| !id.is_empty()).or_else(|| only_form(&setup));
    if named.is_some_and(|id| !offers(id)) {
        return Err(Refused(Error::NotOffered));
    }
    let entry = Entry {
        provider: named,
        username: Some(&form.username),
        password: form.password.clone(),
        kind: SessionKind::Browser,
        previous: previous.as_ref(),
        visitor: &visitor,
    };
    match password::with_password(&door.app, entry).await {
        Ok(entered) => {
            let by = Caller { door: &door, cookie: &cookie, guest: &guest };
            signed_in(&request, &by, &entered.opened, &form.return_to)
        }
        Err(error) => shown_again(&request, &door, &form, error),
    }
}

fn only_form(setup: &crate::app::Setup) -> Option<&str> {
    let mut with_form = setup.config.providers.iter().filter(|provider| provider.password_form);
    let first = with_form.next()?;
    with_form.next().is_none().then_some(first.id.as_str())
}

/// What a person can mend is said on the form itself, with the name as it was typed; never the password.
fn shown_again(request: &HttpRequest, door: &Door, form: &Form<'_>, error: Error) -> Answer {
    let is_mendable =
        matches!(error, Error::InvalidCredentials | Error::InvalidFields(_) | Error::TooMany { .. });
    if !is_mendable || !outer::wants_page(request.method(), request.headers()) {
        return Err(Refused(error));
    }
    let problem = Problem::of(&error);
    let faults = problem.errors.iter().map(|fault| fault.detail.clone());
    let mut said: Vec<String> = faults.collect();
    if said.is_empty() {
        said.push(match problem.retry_after_s {
            Some(seconds) => format!("That was too often. Try again in {}.", pages::wait(seconds)),
            None => "The name and the password do not belong together.".to_owned(),
        });
    }
    let typed = Typed { username: &form.username, provider: &form.provider, said };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if !form.return_to.is_empty() {
        query.append_pair("return_to", &form.return_to);
    }
    let mut response = pages::choose(door, &query.finish(), Some(&typed))?;
    *response.status_mut() = actix_web::http::StatusCode::from_u16(problem.status).unwrap_or_default();
    if let Some(seconds) = problem.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response.extensions_mut().insert(Whole);
    Ok(response)
}
