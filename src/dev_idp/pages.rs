//! The pages people see, and the stylesheet and script they link.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;
use url::{Host, Url};

use super::memory::Memory;
use super::people::Person;

pub(super) const STYLE: &str = include_str!("../../templates/dev_idp/style.css");
/// Sends the `form_post` page on by itself; without scripts its button does.
pub(super) const FORM_POST_SCRIPT: &str = "document.forms[0].submit();\n";

#[derive(Template)]
#[template(path = "dev_idp/sign_in.html")]
pub(super) struct SignInPage<'a> {
    /// The issuer's path, under which everything linked lies.
    pub(super) base: &'a str,
    pub(super) client_id: &'a str,
    pub(super) origin: String,
    /// The request, carried by the form itself so that any number of tabs may be open.
    pub(super) fields: Vec<(&'static str, &'a str)>,
    pub(super) people: Vec<Choice>,
}

/// One person's button.
pub(super) struct Choice {
    person: Arc<Person>,
    preselected: bool,
}

/// Everybody, with the hinted person's button in focus, or the first one's.
pub(super) fn choices(memory: &Memory, login_hint: Option<&str>) -> Vec<Choice> {
    let hinted =
        login_hint.and_then(|hint| memory.find_person(hint)).or_else(|| memory.people().next().cloned());
    let choice = |person: &Arc<Person>| Choice {
        person: Arc::clone(person),
        preselected: hinted.as_ref() == Some(person),
    };
    memory.people().map(choice).collect()
}

#[derive(Template)]
#[template(path = "dev_idp/notice.html")]
struct NoticePage<'a> {
    base: &'a str,
    title: &'a str,
    text: &'a str,
}

#[derive(Template)]
#[template(path = "dev_idp/form_post.html")]
struct FormPostPage<'a> {
    base: &'a str,
    action: &'a str,
    fields: &'a [(&'a str, &'a str)],
}

impl SignInPage<'_> {
    pub(super) fn response(&self, redirect: &Url) -> HttpResponse {
        render(HttpResponse::Ok().insert_header(policy(redirect, "")), self)
    }
}

/// A page without a way on: a request nobody may be sent back for, or the end of a logout.
pub(super) fn notice(base: &str, status: StatusCode, title: &str, text: &str) -> HttpResponse {
    render(&mut HttpResponse::build(status), &NoticePage { base, title, text })
}

pub(super) fn bad_request(base: &str, text: &str) -> HttpResponse {
    notice(base, StatusCode::BAD_REQUEST, "This request cannot be answered", text)
}

/// OAuth 2.0 Form Post Response Mode, section 2.
pub(super) fn form_post(base: &str, to: &Url, fields: &[(&str, &str)]) -> HttpResponse {
    let page = FormPostPage { base, action: to.as_str(), fields };
    render(HttpResponse::Ok().insert_header(policy(to, "; script-src 'self'")), &page)
}

pub(super) fn see_other(to: &Url) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, to.as_str())).finish()
}

/// Browsers apply `form-action` to the redirects after a POST too, so the client's origin is in it.
fn policy(redirect: &Url, more: &str) -> (actix_web::http::header::HeaderName, String) {
    // The grammar of CSP has no place for an IPv6 address; the scheme alone is the next best.
    let origin = match redirect.host() {
        Some(Host::Ipv6(_)) => "http:".to_owned(),
        _ => redirect.origin().ascii_serialization(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self' {origin}; base-uri 'none'; \
         frame-ancestors 'none'{more}"
    );
    (CONTENT_SECURITY_POLICY, policy)
}

fn render(response: &mut HttpResponseBuilder, page: &impl Template) -> HttpResponse {
    match page.render() {
        Ok(html) => response.content_type("text/html; charset=utf-8").body(html),
        Err(_) => HttpResponse::InternalServerError().body("The page could not be made."),
    }
}
