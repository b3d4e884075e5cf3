//! Which pages of other origins may call ours from their scripts: those listed exactly, and nobody else (security.md WB-04).
//!
//! Never answers `*`, never repeats an origin that is not listed, and knows no `null`: the configuration refuses such entries.

use std::sync::Arc;

use actix_cors::Cors;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse};

use crate::app::{App, Setup};

/// How long a browser may remember the answer to a preflight, seconds; a delisted origin is refused at the real request anyway.
const REMEMBERED: usize = 600;
const CSRF: HeaderName = HeaderName::from_static("x-csrf");

/// Reads the list anew for each request, so that a reload counts at once.
pub fn layer(app: &Arc<App>) -> Cors {
    let app = Arc::clone(app);
    Cors::default()
        .allowed_origin_fn(move |origin, _| {
            app.setup().config.cors.origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
        })
        .allowed_methods(["GET", "POST", "DELETE"])
        .allowed_headers([ACCEPT, CONTENT_TYPE, CSRF])
        .supports_credentials()
        .max_age(REMEMBERED)
}

/// The origin of a request that is listed, exactly.
fn listed<'r>(request: &'r HttpRequest, setup: &Setup) -> Option<&'r HeaderValue> {
    let mut origins = request.headers().get_all(ORIGIN);
    let origin = origins.next().filter(|_| origins.next().is_none())?;
    let is_listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
    setup.config.cors.origins.iter().any(is_listed).then_some(origin)
}

/// The answer to a listed origin's question whether it may ask the app something; every other preflight is an ordinary request.
pub fn preflight(request: &HttpRequest, setup: &Setup) -> Option<HttpResponse> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    let asked = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD)?;
    listed(request, setup)?;
    let mut response = HttpResponse::NoContent().finish();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
    if let Some(names) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(REMEMBERED));
    allow(request, setup, headers);
    Some(response)
}

/// Lets a listed origin read an answer of the app.
pub fn allow(request: &HttpRequest, setup: &Setup, headers: &mut HeaderMap) {
    if setup.config.cors.origins.is_empty() {
        return;
    }
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = listed(request, setup) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// The library allows credentials in every answer, also where it allows no origin; without one the word only confuses.
pub fn tidy(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
}
