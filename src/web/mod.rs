//! The door: HTTP in, HTTP out, nothing else.
//!
//! Owns: the routes (all on this screen), cookies, the CSRF rule, the shapes of JSON and pages, and the one table from errors to problems.
//! Never does: SQL, calls to providers, decisions of its own; those are flows.
//!
//! ```text
//! listener ─► outer (id, limits, host, headers, problems) ─► own pages: guard ─► actix-session ─► handlers ─► flows
//!                                                         └► everything else: behind ─► route table ─► the app
//! ```

mod address;
mod admin;
mod api;
mod backchannel;
mod bearer;
mod behind;
mod check;
pub mod cookies;
mod cors;
mod csrf;
mod curfew;
mod events;
mod guard;
mod login;
pub mod operations;
mod outer;
mod pages;
mod password;
pub mod problem;
mod refresh;
mod register;
mod request_id;
mod session;
mod through;
mod unread;
pub mod views;
pub mod waiting;
mod wire;

use std::sync::Arc;

use actix_web::guard::{Any, Get, Head};
use actix_web::http::header::{ALLOW, HeaderValue, USER_AGENT};
use actix_web::middleware::from_fn;
use actix_web::{HttpMessage, HttpResponse, Resource, Route, web};

use self::cookies::{Cookies, SessionMac};
use self::outer::Arrival;
use self::problem::{Problem, Refused};
use self::request_id::RequestIds;
use crate::app::App;
use crate::dev_idp::DevIdp;
use crate::error::Error;
use crate::flows::Visitor;
use crate::proxy::headers::PublicOrigin;
use crate::proxy::upgrade::Sockets;
use crate::proxy::upstream::Pool;

pub use self::outer::layer;

/// What every handler of the public listener needs.
#[derive(Clone)]
pub struct Door {
    pub app: Arc<App>,
    pub cookies: Cookies,
    /// Signs the session cookie.
    mac: SessionMac,
    pub auth_prefix: String,
    /// Host and, where it is not the scheme's own, port of the public origin.
    authority: String,
    authority_with_port: String,
    /// As apps are told of it.
    public_origin: PublicOrigin,
    origin: String,
    is_loopback: bool,
    has_dev_idp: bool,
    asset_version: String,
    /// WebSockets that are open, on all workers.
    sockets: Sockets,
    request_ids: RequestIds,
}

impl Door {
    pub fn new(app: Arc<App>, mac: &[u8], has_dev_idp: bool) -> Self {
        let setup = app.setup();
        let server = &setup.config.server;
        let origin = server.public_url.origin().ascii_serialization();
        let host = server.public_url.host_str().unwrap_or_default();
        let port = server.public_url.port_or_known_default().unwrap_or_default();
        let authority =
            origin.split_once("://").map_or_else(String::new, |(_, authority)| authority.to_owned());
        Self {
            public_origin: PublicOrigin::new(server.public_url.scheme(), &authority),
            cookies: Cookies::new(
                server.public_url.scheme() == "https",
                setup.config.limits.login_attempt_ms,
            ),
            mac: SessionMac::new(mac),
            auth_prefix: server.auth_prefix.clone(),
            authority,
            authority_with_port: format!("{host}:{port}"),
            origin,
            is_loopback: crate::domain::address::is_loopback_host(host),
            has_dev_idp,
            asset_version: views::asset_version(),
            sockets: Sockets::default(),
            request_ids: RequestIds::default(),
            app,
        }
    }

    /// Whether a path lies where only we answer.
    fn is_own_path(&self, path: &str) -> bool {
        let under = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        under(&self.auth_prefix) || under(WELL_KNOWN) || (self.has_dev_idp && under("/dev-idp"))
    }

    /// Whether a Host, with or without its port, is the public origin's.
    fn is_own_authority(&self, named: &str) -> bool {
        named == self.authority
            || named.eq_ignore_ascii_case(&self.authority)
            || named.eq_ignore_ascii_case(&self.authority_with_port)
    }

    fn scheme(&self) -> &'static str {
        if self.cookies.secure() { "https" } else { "http" }
    }

    /// The content policy of our pages. Browsers apply `form-action` to the redirects after a form as well: signing out may lead to a provider
    /// and from there back to a listed origin.
    fn content_policy(&self) -> String {
        let setup = self.app.setup();
        let mut forms: Vec<String> = setup
            .providers()
            .iter()
            .flat_map(|provider| provider.form_targets())
            .chain(setup.config.cors.origins.iter().cloned())
            .collect();
        forms.sort_unstable();
        forms.dedup();
        format!(
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' {}",
            forms.join(" ")
        )
    }
}

/// Where apps find what they need to trust us.
const WELL_KNOWN: &str = "/.well-known/doorward";

/// Who asks, as the outer layer saw them.
fn visitor(request: &impl HttpMessage) -> Visitor {
    let extensions = request.extensions();
    let Some(Arrival { client, request_id, .. }) = extensions.get() else { return Visitor::default() };
    let user_agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    Visitor {
        address: client.as_ref().map(address::spelled),
        user_agent: user_agent.map(str::to_owned),
        request_id: request_id.to_string(),
    }
}

/// Every route of the public listener.
pub fn routes(cfg: &mut web::ServiceConfig, door: &Door, dev_idp: Option<&DevIdp>) {
    if let Some(dev_idp) = dev_idp {
        dev_idp.mount(cfg);
    }
    let with_session = web::scope("")
        .wrap(from_fn(guard::inside))
        .wrap(session::middleware(&door.app, &door.cookies, door.mac.key()))
        .wrap(from_fn(guard::layer))
        .wrap(cors::layer(&door.app))
        .service(
            at("/login", "GET, HEAD, POST")
                .route(read().to(login::start))
                .route(web::post().to(password::person)),
        )
        .service(
            at("/register", "GET, HEAD, POST")
                .route(read().to(register::show))
                .route(web::post().to(register::register)),
        )
        .service(
            at("/callback/{provider}", "GET, HEAD, POST")
                .route(read().to(login::finish_get))
                .route(web::post().to(login::finish_post)),
        )
        .service(
            at("/logout", "GET, HEAD, POST")
                .route(read().to(pages::sign_out))
                .route(web::post().guard(wire::in_json()).to(api::leave))
                .route(web::post().to(pages::leave)),
        )
        .service(at("/events", "GET").route(web::get().to(events::stream)))
        .service(at("/signed-out", "GET, HEAD").route(read().to(pages::signed_out)))
        .service(at("/clear-cookies", "GET, HEAD").route(read().to(pages::cleared)))
        .service(at("/me", "GET, HEAD").route(read().to(api::me)))
        .service(
            at("/sessions", "GET, HEAD, DELETE")
                .route(read().to(api::sessions))
                .route(web::delete().to(api::end_many)),
        )
        .service(at("/sessions/{id}", "DELETE").route(web::delete().to(api::end_one)))
        .service(at("/account", "GET, HEAD").route(read().to(pages::account)))
        .service(at("/account/sessions/end-others", "POST").route(web::post().to(pages::end_others)))
        .service(at("/account/sessions/end-all", "POST").route(web::post().to(pages::end_all)))
        .service(at("/account/sessions/{id}/end", "POST").route(web::post().to(pages::end_one)))
        .configure(administration)
        .default_service(web::to(nothing));
    let programs = at("/login", "GET, HEAD, POST")
        .guard(password::IsJson)
        .wrap(from_fn(guard::without_cookies))
        .wrap(cors::layer(&door.app))
        .route(web::post().to(password::program));
    // What anybody may keep, and what a provider says, needs no session, and must never carry a cookie.
    let own = web::scope(&door.auth_prefix)
        .service(at("/check", "GET, HEAD").route(read().to(check::routed)))
        .service(at("/backchannel-logout/{provider}", "POST").route(web::post().to(backchannel::logout)))
        .service(at("/frontchannel-logout/{provider}", "GET, HEAD").route(read().to(backchannel::frame)))
        .service(at("/static/{name}", "GET, HEAD").route(read().to(pages::look)))
        .service(programs)
        // Envoy writes path and method of what it asks about into its question.
        .service(web::resource("/check/{path:.*}").to(check::routed))
        .service(
            at("/refresh", "POST")
                .route(web::post().to(refresh::renew))
                .wrap(from_fn(guard::without_cookies))
                .wrap(cors::layer(&door.app)),
        )
        .service(with_session);
    // Called once for each worker: connections to apps stay with the worker that made them.
    cfg.app_data(Pool::new());
    cfg.app_data(web::Data::new(door.clone()))
        .service(own)
        .service(well_known())
        .default_service(web::to(nothing));
}

/// What administrators do by API key or by role.
fn administration(scope: &mut web::ServiceConfig) {
    scope
        .service(
            at("/admin/api/users/{id}/sessions", "GET, HEAD, DELETE")
                .route(read().to(admin::sessions_of_user))
                .route(web::delete().to(admin::end_sessions_of_user)),
        )
        .service(at("/admin/api/sessions/{id}", "DELETE").route(web::delete().to(admin::end_session)));
}

/// What apps need to trust us.
fn well_known() -> actix_web::Scope {
    web::scope(WELL_KNOWN)
        .service(at("/jwks.json", "GET, HEAD").route(read().to(api::jwks)))
        .default_service(web::to(nothing))
}

/// A place of ours, which says of itself what it takes when asked for anything else.
fn at(path: &str, takes: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || async move { other_method(takes) }))
}

/// 405 with the methods that this place takes (RFC 9110 15.5.6).
fn other_method(takes: &str) -> HttpResponse {
    let mut response = Problem::of(&Error::MethodNotAllowed).response();
    if let Ok(takes) = HeaderValue::from_str(takes) {
        response.headers_mut().insert(ALLOW, takes);
    }
    response
}

/// HEAD is GET without the body (RFC 9110 9.3.2).
fn read() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

async fn nothing() -> Result<HttpResponse, Refused> {
    Err(Refused(Error::NotFound))
}
