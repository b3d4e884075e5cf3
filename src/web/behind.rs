//! Everything that is not ours: the route table decides, then the app behind the door answers.

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};

use super::cookies::SessionCookie;
use super::login::see_other;
use super::outer::wants_page;
use super::problem::Refused;
use super::{Door, csrf, other_method, visitor};
use crate::domain::policy::Verdict;
use crate::error::Error;
use crate::flows::audit::{self, Refusal};
use crate::flows::session::{self, Guest};
use crate::proxy::routes::{self, Found, Route};
use crate::proxy::{demo, identity};

type Answer = Result<HttpResponse, Refused>;

const DEMO: &str = "builtin:demo";

/// The handler of last resort.
pub async fn answer(request: HttpRequest, door: web::Data<Door>) -> Answer {
    let setup = door.app.setup();
    let path = routes::canonical_path(request.path())
        .ok_or(Error::InvalidRequest("The path can be read in more than one way."))?;
    let route = match setup.routes.find(&path, request.method().as_str()) {
        Found::Route(route) => route,
        Found::OtherMethod(allow) => return Ok(other_method(&allow)),
        Found::Nothing => return Err(Refused(Error::NoRoute)),
    };
    let guest = guest(&request, &door, route).await?;
    let facts = guest.as_ref().map(|guest| (&guest.user, &guest.session));
    match route.policy.judge(facts, door.app.now_ms()) {
        Verdict::Pass => {}
        Verdict::SignIn | Verdict::StepUp if may_redirect(&request) => {
            return Ok(to_login(&request, &door, route, guest.is_some()));
        }
        Verdict::SignIn | Verdict::StepUp => return Err(Refused(Error::NotSignedIn)),
        Verdict::Forbid => return Err(Refused(Error::NotAllowed)),
    }
    check_origin(&request, &door, guest.is_some()).await?;
    if let Some(guest) = &guest {
        session::note_activity(&door.app, &guest.session).await;
    }
    let upstream =
        setup.config.upstreams.iter().find(|upstream| Some(&upstream.id) == route.upstream.as_ref());
    match upstream.and_then(|upstream| upstream.urls.first()).map(String::as_str) {
        Some(DEMO) => Ok(demo_page(&door, &path, guest.as_ref())),
        // A route without an upstream serves forward-auth alone.
        None if route.upstream.is_none() => Err(Refused(Error::NoRoute)),
        _ => Err(Refused(Error::UpstreamDown("this release proxies to builtin:demo alone".to_owned()))),
    }
}

/// The guest of the session cookie, by the lean reader. On a public route an unreadable session is simply nobody.
async fn guest(request: &HttpRequest, door: &Door, route: &Route) -> Result<Option<Guest>, Refused> {
    let key = match door.cookies.session(request.headers()) {
        SessionCookie::Absent => None,
        SessionCookie::One(value) => door.cookies.verify(value, &door.mac),
        SessionCookie::Doubled => {
            doubled(request, door).await;
            None
        }
    };
    let Some(key) = key else { return Ok(None) };
    match session::find(&door.app, &key).await {
        Err(_) if route.policy.public => Ok(None),
        found => Ok(found?),
    }
}

/// Two session cookies: somebody else planted one.
pub async fn doubled(request: &HttpRequest, door: &Door) {
    let refusal = Refusal { event: "session.refused", reason: "cookie_doubled", provider: None };
    audit::refusal(&door.app, &refusal, &visitor(request)).await;
}

/// Only a person's navigation of a whole tab is sent to a login page, and only by a method that may be repeated as GET: a provider's page
/// shows itself in no frame.
fn may_redirect(request: &HttpRequest) -> bool {
    let framed = request.headers().get("sec-fetch-dest").is_some_and(|dest| dest != "document");
    matches!(*request.method(), Method::GET | Method::HEAD)
        && wants_page(request.method(), request.headers())
        && !framed
}

fn to_login(request: &HttpRequest, door: &Door, route: &Route, signed_in: bool) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("return_to", target);
    if signed_in {
        if let Some(acr) = &route.policy.acr {
            query.append_pair("acr_values", acr);
        }
        if let Some(max_age_ms) = route.policy.max_age_ms {
            query.append_pair("max_age", &(max_age_ms / 1000).to_string());
        }
    }
    see_other(&format!("{}/login?{}", door.auth_prefix, query.finish())).finish()
}

/// A door lends its cookie to every app behind it, so the app's own unsafe requests need the same proof as ours.
async fn check_origin(request: &HttpRequest, door: &Door, has_session: bool) -> Result<(), Refused> {
    if csrf::is_safe(request.method()) || !has_session {
        return Ok(());
    }
    let setup = door.app.setup();
    if csrf::is_ours(
        request.headers(),
        &setup.config.server.public_url,
        &setup.config.cors.origins,
        csrf::Proof::Cookie,
    ) {
        return Ok(());
    }
    door.app.metrics.csrf_refused();
    audit::refusal(
        &door.app,
        &Refusal { event: "request.refused", reason: "csrf", provider: None },
        &visitor(request),
    )
    .await;
    Err(Refused(Error::Csrf))
}

fn demo_page(door: &Door, path: &str, guest: Option<&Guest>) -> HttpResponse {
    let headers: Vec<(String, String)> = guest
        .into_iter()
        .flat_map(|guest| identity::headers(&guest.user))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let page = demo::page(path, &headers, &door.auth_prefix);
    let status = actix_web::http::StatusCode::from_u16(page.status).unwrap_or_default();
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header(("referrer-policy", "same-origin"))
        .body(page.html)
}
