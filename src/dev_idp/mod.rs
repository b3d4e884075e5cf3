//! A real, tiny OpenID issuer for development and tests: named people, ES256, everything in memory.
//!
//! Owns: its key, its people, its sign-in page, its codes and tokens, and the switch by which a
//! test says what its next answer is. It answers loopback alone and never through a proxy.
//! Never: knows the rest of this crate (it is reached over HTTP like any other issuer), writes
//! anything to disk, checks a client secret, or redirects to where it has not looked first.

mod address;
mod authorization_request;
mod authorize;
mod directory;
mod identity;
mod keys;
mod memory;
mod pages;
mod params;
mod people;
mod switch;
#[cfg(test)]
mod tests;
mod token;

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use self::address::Issuer;
use self::keys::SigningKey;
use self::memory::Memory;
use self::switch::Switch;
pub use self::switch::{Answer, Endpoint};

/// The largest form anybody sends here: an authorization request with an ID token as a hint.
const LARGEST_BODY: usize = 16 * 1024;

/// The house's clock: unix milliseconds.
pub type NowMs = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Why the development issuer does not start, or cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum DevIdpError {
    #[error(
        "the development IdP's issuer must be an http or https URL of a loopback host in its normal \
         spelling, without user info, query, fragment, default port or trailing slash; {0:?} is not"
    )]
    Issuer(String),
    #[error("the system gave no random bytes, or no signature")]
    Crypto,
}

impl From<aws_lc_rs::error::Unspecified> for DevIdpError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

/// The development issuer. Cheap to clone; every clone is the same issuer.
#[derive(Clone)]
pub struct DevIdp(Arc<Inner>);

struct Inner {
    issuer: Issuer,
    now: NowMs,
    keys: RwLock<Keys>,
    memory: Mutex<Memory>,
    switch: Mutex<Switch>,
}

/// As issuers publish them while clients catch up with a rotation.
#[derive(Clone)]
struct Keys {
    current: Arc<SigningKey>,
    before: Option<Arc<SigningKey>>,
}

impl DevIdp {
    /// An issuer such as `http://localhost:8080/dev-idp`, with a fresh key and nobody signed in.
    ///
    /// # Errors
    /// [`DevIdpError::Issuer`] unless it is an http or https URL of a loopback host in its normal spelling.
    pub fn new(issuer: &str, now: NowMs) -> Result<Self, DevIdpError> {
        Ok(Self(Arc::new(Inner {
            issuer: Issuer::parse(issuer)?,
            now,
            keys: RwLock::new(Keys { current: Arc::new(SigningKey::generate()?), before: None }),
            memory: Mutex::default(),
            switch: Mutex::default(),
        })))
    }

    /// Adds everything under the issuer's path.
    pub fn mount(&self, config: &mut web::ServiceConfig) {
        let style = web::get().to(|| asset("text/css; charset=utf-8", pages::STYLE));
        let script = web::get().to(|| asset("text/javascript", pages::FORM_POST_SCRIPT));
        let authorize = web::resource("/authorize")
            .route(web::get().to(authorize::show))
            .route(web::post().to(authorize::sign_in));
        let userinfo = web::resource("/userinfo")
            .route(web::get().to(identity::userinfo))
            .route(web::post().to(identity::userinfo));
        let logout = web::resource("/logout")
            .route(web::get().to(identity::logout))
            .route(web::post().to(identity::logout));
        let scope = web::scope(self.path())
            .app_data(web::Data::new(self.clone()))
            .app_data(web::PayloadConfig::new(LARGEST_BODY))
            .service(authorize)
            .service(userinfo)
            .service(logout)
            .route("/.well-known/openid-configuration", web::get().to(identity::discovery))
            .route("/jwks.json", web::get().to(identity::jwks))
            .route("/par", web::post().to(authorize::push))
            .route("/token", web::post().to(token::token))
            .service(
                web::resource("/directory/users")
                    .route(web::post().to(directory::create))
                    .route(web::get().to(directory::find)),
            )
            .route("/directory/users/{subject}", web::delete().to(directory::remove))
            .route("/revoke", web::post().to(token::revoke))
            .route("/style.css", style)
            .route("/form_post.js", script)
            .wrap(from_fn(address::guard));
        config.service(scope);
    }

    /// The switch for tests: what the next answer of an endpoint is. Several calls queue up.
    pub fn next_answer_is(&self, endpoint: Endpoint, answer: Answer) {
        self.switch().queue(endpoint, answer);
    }

    /// How many requests an endpoint has had, switched ones too.
    #[must_use]
    pub fn times_asked(&self, endpoint: Endpoint) -> u64 {
        self.switch().asked(endpoint)
    }

    /// Signs with a new key from now on; the one before stays published, older ones go.
    ///
    /// # Errors
    /// [`DevIdpError::Crypto`] when the system has no randomness.
    pub fn rotate_key(&self) -> Result<(), DevIdpError> {
        let key = Arc::new(SigningKey::generate()?);
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.before = Some(std::mem::replace(&mut keys.current, key));
        Ok(())
    }

    /// Names of the people who registered here, in the order they came.
    #[must_use]
    pub fn registered(&self) -> Vec<String> {
        let memory = self.memory();
        memory.people().filter(|person| person.mark.is_some()).map(|person| person.name.clone()).collect()
    }

    /// A token of this issuer's current key with these claims, for tests that need one of their
    /// own, such as a logout token (`logout+jwt`). Claims that are no JSON object are left out.
    ///
    /// # Errors
    /// [`DevIdpError::Crypto`] when the signature fails.
    pub fn sign(&self, typ: &str, claims: Value) -> Result<String, DevIdpError> {
        let header = Map::from_iter([("typ".to_owned(), json!(typ))]);
        let Value::Object(claims) = claims else {
            return self.key().sign(&header, &Map::new());
        };
        self.key().sign(&header, &claims)
    }

    fn issuer(&self) -> &str {
        &self.0.issuer.url
    }

    fn path(&self) -> &str {
        &self.0.issuer.path
    }

    fn now_ms(&self) -> i64 {
        (self.0.now)()
    }

    fn keys(&self) -> Keys {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self) -> Arc<SigningKey> {
        self.keys().current
    }

    fn key_set(&self) -> Value {
        let keys = self.keys();
        let published = std::iter::once(&keys.current).chain(&keys.before);
        json!({ "keys": published.map(|key| key.jwk()).collect::<Vec<_>>() })
    }

    /// The claims of a token signed by a published key; nothing but the signature is looked at.
    fn claims_of(&self, token: &str) -> Option<Value> {
        let keys = self.keys();
        let mut published = std::iter::once(&keys.current).chain(&keys.before);
        published.find_map(|key| key.claims_of(token))
    }

    /// A panic while the lock was held leaves nothing half-done that matters here.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.0.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asset(content_type: &'static str, text: &'static str) -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().content_type(content_type).body(text))
}
