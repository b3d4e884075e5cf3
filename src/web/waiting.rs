//! The closed door: while the database is not there yet, every request learns so at once, people by a page.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};

use super::outer::wants_page;
use super::problem::Problem;
use super::{check, pages, views};
use crate::error::Error;

/// What the page of a closed door needs.
#[derive(Clone)]
pub struct ClosedDoor {
    auth_prefix: String,
    chrome: views::Chrome,
}

impl ClosedDoor {
    #[must_use]
    pub fn new(auth_prefix: &str, host: &str) -> Self {
        let chrome = views::Chrome {
            auth_prefix: auth_prefix.to_owned(),
            host: host.to_owned(),
            asset_version: views::asset_version(),
            signed_in_as: None,
        };
        Self { auth_prefix: auth_prefix.to_owned(), chrome }
    }
}

/// The look of the page, and 503 for everything else.
pub fn routes(cfg: &mut web::ServiceConfig, closed: &ClosedDoor) {
    cfg.app_data(web::Data::new(closed.clone()))
        .route(&format!("{}/static/{{name}}", closed.auth_prefix), web::get().to(look))
        .default_service(web::to(answer));
}

async fn look(name: web::Path<String>) -> HttpResponse {
    pages::asset(&name).map_or_else(
        || HttpResponse::NotFound().finish(),
        |(kind, text)| {
            HttpResponse::Ok().content_type(kind).insert_header((CACHE_CONTROL, "no-cache")).body(text)
        },
    )
}

/// The same problem that a database lost later would give.
async fn answer(request: HttpRequest, closed: web::Data<ClosedDoor>) -> HttpResponse {
    let down = Error::DatabaseDown(String::new());
    let is_question = check::is_place(&closed.auth_prefix, request.path());
    let problem = Problem::of(&down);
    let problem = if is_question { check::denial(problem) } else { problem };
    let mut response = HttpResponse::ServiceUnavailable();
    if is_question {
        response.status(StatusCode::FORBIDDEN).insert_header((check::CODE, problem.code));
    }
    for header in problem.headers() {
        response.insert_header(header);
    }
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((X_FRAME_OPTIONS, "DENY"));
    response.insert_header((
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'",
    ));
    let page = wants_page(request.method(), request.headers())
        .then(|| pages::problem(closed.chrome.clone(), &problem, "starting"));
    match page.flatten() {
        Some(html) => response.content_type("text/html; charset=utf-8").body(html),
        None => response.content_type("application/problem+json").body(problem.json("starting")),
    }
}
