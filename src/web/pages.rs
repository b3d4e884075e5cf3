//! Our pages: who signs in where, signed out, the account, and errors for people.

use std::borrow::Cow;

use actix_session::Session as Cookie;
use actix_web::http::header::{CACHE_CONTROL, REFERRER_POLICY};
use actix_web::{HttpRequest, HttpResponse, web};

use super::login::see_other;
use super::outer::CLEAR_COOKIES;
use super::problem::{Problem, Refused};
use super::session::{MaybeGuest, SignedIn};
use super::views::{self, Template};
use super::{Door, visitor, wire};
use crate::domain::{ReturnTo, Session};
use crate::error::Error;
use crate::flows::session::{Extent, Guest};
use crate::flows::{activity, logout, register, session};

type Answer = Result<HttpResponse, Refused>;

/// Browsers keep whole pages for their Back button, `no-store` or not; whoever signed out must not find them there (security.md WB-10).
const FORGET_PAGES: (&str, &str) = ("clear-site-data", "\"cache\"");

/// A page. It may name itself to our own forms as their origin, which `no-referrer` would hide from browsers without `Sec-Fetch-Site`.
pub fn page(template: &impl Template) -> Answer {
    let html = template.render().map_err(|e| Refused(Error::Internal(e.to_string())))?;
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((REFERRER_POLICY, "same-origin"))
        .body(html))
}

pub fn chrome(door: &Door, guest: Option<&Guest>) -> views::Chrome {
    views::Chrome {
        auth_prefix: door.auth_prefix.clone(),
        host: door.authority.clone(),
        asset_version: door.asset_version.clone(),
        signed_in_as: guest.map(|guest| guest.user.display().to_owned()),
    }
}

/// The page of a problem, with one way on where there is one.
pub fn problem(chrome: views::Chrome, problem: &Problem, request_id: &str) -> Option<String> {
    let way_on = match problem.code {
        "login_expired" | "login_failed" | "not_signed_in" | "login_cancelled" => {
            Some(("Sign in", format!("{}/login", chrome.auth_prefix)))
        }
        "account_disabled" | "account_suspended" | "no_app_access" => {
            Some(("Use another account", format!("{}/login?prompt=select_account", chrome.auth_prefix)))
        }
        "no_route" | "not_found" | "not_allowed" => Some(("To the front page", "/".to_owned())),
        // The only one of this code that its visitor cannot mend by sending less.
        "too_large" if problem.status == 431 => {
            Some(("Clear this site's cookies", format!("{}{CLEAR_COOKIES}", chrome.auth_prefix)))
        }
        "csrf" => Some(("To your account", format!("{}/account", chrome.auth_prefix))),
        _ => None,
    };
    let page = views::ProblemPage {
        chrome,
        status: problem.status,
        title: problem.title.to_owned(),
        detail: problem.detail.to_owned(),
        code: problem.code.to_owned(),
        request_id: request_id.to_owned(),
        faults: Vec::new(),
        action: way_on.map(|(label, href)| views::Action { label: label.to_owned(), href }),
    };
    page.render().map_err(|error| tracing::error!(%error, "the error page cannot be rendered")).ok()
}

/// What somebody typed into the form, and what was wrong with it.
pub struct Typed<'t> {
    pub username: &'t str,
    pub provider: &'t str,
    pub said: Vec<String>,
}

/// How to sign in: the form where a provider has one, and a link to each provider, which keeps what was asked.
pub fn choose(door: &Door, query: &str, typed: Option<&Typed<'_>>) -> Answer {
    let setup = door.app.setup();
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let choices = setup.config.providers.iter().map(|provider| {
        let mut link = url::form_urlencoded::Serializer::new(String::new());
        link.append_pair("provider", &provider.id);
        link.extend_pairs(pairs.iter().filter(|(name, _)| name != "provider"));
        views::Choice {
            label: provider.label.clone(),
            href: format!("{}/login?{}", door.auth_prefix, link.finish()),
            detail: None,
            initial: views::initials(&provider.label),
        }
    });
    let first = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_ref());
    let with_form = setup.config.providers.iter().filter(|provider| provider.password_form);
    let offered: Vec<views::Place> = with_form
        .map(|provider| views::Place {
            id: provider.id.clone(),
            label: provider.label.clone(),
            chosen: typed.is_some_and(|typed| typed.provider == provider.id),
        })
        .collect();
    let form = (!offered.is_empty()).then(|| views::PasswordForm {
        providers: offered,
        username: typed
            .map_or_else(|| first("login_hint").unwrap_or_default(), |typed| typed.username)
            .to_owned(),
        return_to: first("return_to")
            .and_then(|to| ReturnTo::parse(to, &setup.return_rules))
            .map(|to| to.as_str().to_owned()),
        said: typed.map(|typed| typed.said.clone()).unwrap_or_default(),
    });
    let register_href =
        (!register::offered(&setup).is_empty()).then(|| super::register::href(door, first("return_to")));
    page(&views::ChooseProvider {
        chrome: chrome(door, None),
        providers: choices.collect(),
        notice: None,
        form,
        register_href,
    })
}

/// A wait in words.
pub fn wait(seconds: u32) -> String {
    match seconds {
        1 => "a second".to_owned(),
        2..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}

#[derive(serde::Deserialize)]
pub struct ReturnQuery {
    return_to: Option<String>,
}

impl ReturnQuery {
    fn checked(&self, door: &Door) -> Option<ReturnTo> {
        ReturnTo::parse(self.return_to.as_deref()?, &door.app.setup().return_rules)
    }
}

/// `GET /auth/logout`: one button, because a link must not sign anybody out.
pub async fn sign_out(door: web::Data<Door>, guest: MaybeGuest, query: web::Query<ReturnQuery>) -> Answer {
    let return_to = query.checked(&door).map(|to| to.as_str().to_owned());
    page(&views::SignOut { chrome: chrome(&door, guest.0.as_ref()), return_to })
}

/// `POST /auth/logout` by a browser: the session first, then the cookie, then the provider.
pub async fn leave(
    request: HttpRequest,
    door: web::Data<Door>,
    cookie: Cookie,
    form: Option<web::Form<ReturnQuery>>,
) -> Answer {
    let return_to = form.and_then(|form| form.checked(&door));
    leave_to(&request, &door, &cookie, return_to).await
}

/// Signs this browser out, whatever form the wish came in.
pub async fn leave_to(
    request: &HttpRequest,
    door: &Door,
    cookie: &Cookie,
    return_to: Option<ReturnTo>,
) -> Answer {
    let key = super::session::key(cookie);
    let left = logout::leave(&door.app, key.as_ref(), return_to, &visitor(request)).await?;
    cookie.purge();
    let next = left.provider_url.map_or_else(
        || signed_out_at(door, left.left_open.as_deref(), left.return_to.as_ref()),
        String::from,
    );
    if super::login::accepts_json(request) {
        let body = serde_json::json!({ "message": "Signed out.", "redirectTo": next });
        return Ok(HttpResponse::Ok().insert_header(FORGET_PAGES).json(body));
    }
    Ok(see_other(&next).insert_header(FORGET_PAGES).finish())
}

fn signed_out_at(door: &Door, left_open: Option<&str>, return_to: Option<&ReturnTo>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(id) = left_open {
        query.append_pair("left_open", id);
    }
    if let Some(to) = return_to {
        query.append_pair("return_to", to.as_str());
    }
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}/signed-out{mark}{query}", door.auth_prefix)
}

#[derive(serde::Deserialize)]
pub struct SignedOutQuery {
    /// Sealed by us, brought back by the provider.
    state: Option<String>,
    /// The provider that could not be told.
    left_open: Option<String>,
    return_to: Option<String>,
}

/// `GET /auth/clear-cookies` of a visitor whose cookies fit: there is nothing to clear. The outer layer answers those whose do not.
pub async fn cleared() -> HttpResponse {
    see_other("/").finish()
}

/// `GET /auth/signed-out`: the one post-logout address; sends on to a checked `return_to` at once when the provider was told.
pub async fn signed_out(door: web::Data<Door>, query: web::Query<SignedOutQuery>) -> Answer {
    let setup = door.app.setup();
    if let Some(to) = query.state.as_deref().and_then(|state| logout::way_back(&door.app, state)) {
        return Ok(see_other(to.as_str()).finish());
    }
    let labels = setup.labels();
    let left_open = query
        .left_open
        .as_deref()
        .and_then(|id| labels.get(id))
        .map(|label| format!("Your session at {label} may still be open."));
    let go_on = query.return_to.as_deref().and_then(|to| ReturnTo::parse(to, &setup.return_rules));
    page(&views::SignedOut {
        chrome: chrome(&door, None),
        left_open,
        sign_in_href: format!("{}/login", door.auth_prefix),
        continue_href: go_on.map(|to| to.as_str().to_owned()),
    })
}

/// `GET /auth/account`
pub async fn account(door: web::Data<Door>, SignedIn(guest): SignedIn) -> Answer {
    activity::note(&door.app, &guest.session);
    let sessions = session::list(&door.app, &guest).await?;
    let setup = door.app.setup();
    let labels = setup.labels();
    let label = |id: &str| labels.get(id).map_or_else(|| id.to_owned(), |label| (*label).to_owned());
    let profile = &guest.user.profile;
    let rows: Vec<views::SessionRow> =
        sessions.iter().map(|session| row(session, &guest, label(&session.provider))).collect();
    page(&views::Account {
        chrome: chrome(&door, Some(&guest)),
        user: views::Profile {
            display_name: guest.user.display().to_owned(),
            initials: views::initials(guest.user.display()),
            email: profile.email.as_ref().map(|email| email.as_str().to_owned()),
            username: profile.username.clone(),
            provider_label: label(&guest.user.provider),
            roles: guest.user.effective_roles(),
            groups: guest.user.groups.clone(),
            tenant: profile.tenant_id.clone(),
        },
        others: rows.len() > 1,
        sessions: rows,
        notice: None,
    })
}

fn row(session: &Session, guest: &Guest, provider_label: String) -> views::SessionRow {
    let moment = |ms| views::Moment { iso: wire::time(ms), text: wire::readable(ms) };
    views::SessionRow {
        id: session.id.clone(),
        current: session.id == guest.session.id,
        device: views::device(session.user_agent.as_deref().unwrap_or_default()),
        ip: session.ip.clone().unwrap_or_default(),
        created: moment(session.created_at_ms),
        last_active: moment(session.last_active_at_ms),
        expires: moment(session.expires_at_ms),
        provider_label,
    }
}

/// `POST /auth/account/sessions/{id}/end`
pub async fn end_one(
    request: HttpRequest,
    door: web::Data<Door>,
    SignedIn(guest): SignedIn,
    id: web::Path<String>,
) -> Answer {
    session::end_one(&door.app, &guest, &id, &visitor(&request)).await?;
    Ok(see_other(&format!("{}/account", door.auth_prefix)).finish())
}

/// `POST /auth/account/sessions/end-others`
pub async fn end_others(request: HttpRequest, door: web::Data<Door>, SignedIn(guest): SignedIn) -> Answer {
    session::end_many(&door.app, &guest, Extent::Others, &visitor(&request)).await?;
    Ok(see_other(&format!("{}/account", door.auth_prefix)).finish())
}

/// `POST /auth/account/sessions/end-all`: every other session, then this one with its farewell at the provider.
pub async fn end_all(
    request: HttpRequest,
    door: web::Data<Door>,
    SignedIn(guest): SignedIn,
    cookie: Cookie,
) -> Answer {
    session::end_many(&door.app, &guest, Extent::Others, &visitor(&request)).await?;
    leave(request, door, cookie, None).await
}

/// `GET /auth/static/{name}`: the look of our pages. A page names the version it wants, so that one may be kept for ever.
pub async fn look(request: HttpRequest, door: web::Data<Door>, name: web::Path<String>) -> Answer {
    let (kind, text) = asset(&name).ok_or(Refused(Error::NotFound))?;
    let exact = request.query_string() == format!("v={}", door.asset_version);
    let keep = if exact { "public, max-age=31536000, immutable" } else { "no-cache" };
    Ok(HttpResponse::Ok().content_type(kind).insert_header((CACHE_CONTROL, keep)).body(text))
}

/// Content type and text of a file that our pages name.
pub fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "doorward.css" => Some(("text/css; charset=utf-8", views::STYLESHEET)),
        "doorward.svg" => Some(("image/svg+xml", views::LOGO)),
        _ => None,
    }
}
