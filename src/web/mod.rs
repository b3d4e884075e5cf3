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
mod api;
mod behind;
pub mod cookies;
mod csrf;
mod guard;
mod login;
pub mod operations;
mod outer;
mod pages;
pub mod problem;
mod session;
pub mod views;
pub mod waiting;
mod wire;

use std::sync::Arc;

use actix_web::cookie::Key;
use actix_web::middleware::from_fn;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use url::Url;

use self::cookies::Cookies;
use self::problem::Refused;
use crate::app::App;
use crate::dev_idp::DevIdp;
use crate::error::Error;
use crate::flows::Visitor;

pub use self::outer::layer;

/// What every handler of the public listener needs.
#[derive(Clone)]
pub struct Door {
    pub app: Arc<App>,
    pub cookies: Cookies,
    /// Signs the session cookie.
    mac: Key,
    pub auth_prefix: String,
    /// Host and, where it is not the scheme's own, port of the public origin.
    authority: String,
    authority_with_port: String,
    origin: String,
    is_loopback: bool,
    has_dev_idp: bool,
    asset_version: String,
}

impl Door {
    pub fn new(app: Arc<App>, mac: &[u8], has_dev_idp: bool) -> Self {
        let setup = app.setup();
        let server = &setup.config.server;
        let origin = server.public_url.origin().ascii_serialization();
        let host = server.public_url.host_str().unwrap_or_default();
        let port = server.public_url.port_or_known_default().unwrap_or_default();
        Self {
            cookies: Cookies::new(
                server.public_url.scheme() == "https",
                setup.config.limits.login_attempt_ms,
            ),
            mac: Key::from(mac),
            auth_prefix: server.auth_prefix.clone(),
            authority: origin
                .split_once("://")
                .map_or_else(String::new, |(_, authority)| authority.to_owned()),
            authority_with_port: format!("{host}:{port}"),
            origin,
            is_loopback: crate::domain::address::is_loopback_host(host),
            has_dev_idp,
            asset_version: views::asset_version(),
            app,
        }
    }

    /// The content policy of our pages. A form may lead to us and, by the redirect after it, to a provider: browsers apply `form-action` to both.
    fn content_policy(&self) -> String {
        let setup = self.app.setup();
        let mut forms: Vec<String> = setup
            .config
            .providers
            .iter()
            .filter_map(|p| Url::parse(&p.issuer).ok())
            .map(|url| url.origin().ascii_serialization())
            .collect();
        forms.sort_unstable();
        forms.dedup();
        format!(
            "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' {}",
            forms.join(" ")
        )
    }
}

/// Who asks, as the outer layer saw them.
fn visitor(request: &HttpRequest) -> Visitor {
    request.extensions().get::<Visitor>().cloned().unwrap_or_default()
}

/// Every route of the public listener.
pub fn routes(cfg: &mut web::ServiceConfig, door: &Door, dev_idp: Option<&DevIdp>) {
    if let Some(dev_idp) = dev_idp {
        dev_idp.mount(cfg);
    }
    let own = web::scope(&door.auth_prefix)
        .wrap(from_fn(guard::inside))
        .wrap(session::middleware(&door.app, &door.cookies, door.mac.clone()))
        .wrap(from_fn(guard::layer))
        .route("/login", web::get().to(login::start))
        .route("/callback/{provider}", web::get().to(login::finish_get))
        .route("/callback/{provider}", web::post().to(login::finish_post))
        .route("/logout", web::get().to(pages::sign_out))
        .route("/logout", web::post().to(pages::leave))
        .route("/signed-out", web::get().to(pages::signed_out))
        .route("/me", web::get().to(api::me))
        .route("/sessions", web::get().to(api::sessions))
        .route("/sessions", web::delete().to(api::end_many))
        .route("/sessions/{id}", web::delete().to(api::end_one))
        .route("/account", web::get().to(pages::account))
        .route("/account/sessions/end-others", web::post().to(pages::end_others))
        .route("/account/sessions/end-all", web::post().to(pages::end_all))
        .route("/account/sessions/{id}/end", web::post().to(pages::end_one))
        .route("/static/{name}", web::get().to(pages::look))
        .default_service(web::to(nothing));
    cfg.app_data(web::Data::new(door.clone())).service(own).default_service(web::to(behind::answer));
}

async fn nothing() -> Result<HttpResponse, Refused> {
    Err(Refused(Error::NotFound))
}
