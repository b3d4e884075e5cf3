//! Which pages of other origins may call ours from their scripts: those listed exactly, and nobody else (security.md WB-04).
//!
//! Never answers `*`, never repeats an origin that is not listed, and knows no `null`: the configuration refuses such entries.

use std::sync::Arc;

use actix_cors::Cors;
use actix_web::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderMap,
    HeaderName,
};

use crate::app::App;

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

/// The library allows credentials in every answer, also where it allows no origin; without one the word only confuses.
pub fn tidy(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
}
