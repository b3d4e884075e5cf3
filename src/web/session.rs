//! actix-session over our own rows: the browser's cookie in, a [`Guest`] out.
//!
//! A thin face: only `flows::session` writes session rows. `load` finds the guest, `save` hands back the key that the login flow drew,
//! `update` and `update_ttl` do nothing (they would revive a session that ended meanwhile), `delete` ends.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_session::config::{CookieContentSecurity, PersistentSession, TtlExtensionPolicy};
use actix_session::storage::{LoadError, SaveError, SessionKey as StoredKey, SessionStore, UpdateError};
use actix_session::{Session as Cookie, SessionExt as _, SessionMiddleware};
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Key, SameSite};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use super::cookies::Cookies;
use super::problem::Refused;
use crate::app::App;
use crate::domain::SessionKey;
use crate::error::Error;
use crate::flows::session::{Guest, Opened};
use crate::flows::{Visitor, session};

const GUEST: &str = "guest";
const KEY: &str = "key";
/// Why a living session has no guest: its provider must be asked first, and does not answer.
const UNPROVEN: &str = "unproven";

/// Our rows, as actix-session wants to see them.
pub struct Rows(pub Arc<App>);

impl SessionStore for Rows {
    async fn load(&self, key: &StoredKey) -> Result<Option<HashMap<String, String>>, LoadError> {
        let Some(key) = SessionKey::parse(key.as_ref()) else { return Ok(None) };
        let text =
            |value: serde_json::Result<String>| value.map_err(|e| LoadError::Other(anyhow::Error::new(e)));
        let guest = match Box::pin(session::find(&self.0, &key)).await {
            Ok(Some(guest)) => guest,
            Ok(None) => return Ok(None),
            // The session is there and can be left; who is behind it is not known now.
            Err(Error::ProviderDown(why)) => {
                return Ok(Some(HashMap::from([
                    (UNPROVEN.to_owned(), text(serde_json::to_string(&why))?),
                    (KEY.to_owned(), text(serde_json::to_string(key.expose()))?),
                ])));
            }
            Err(error) => return Err(LoadError::Other(anyhow::Error::new(error))),
        };
        Ok(Some(HashMap::from([
            (GUEST.to_owned(), text(serde_json::to_string(&guest))?),
            (KEY.to_owned(), text(serde_json::to_string(key.expose()))?),
        ])))
    }

    async fn save(&self, state: HashMap<String, String>, _ttl: &Duration) -> Result<StoredKey, SaveError> {
        let drawn: Option<String> = state.get(KEY).and_then(|json| serde_json::from_str(json).ok());
        // Nothing but a finished login may make a session.
        let drawn = drawn
            .ok_or_else(|| SaveError::Other(anyhow::Error::msg("no login drew a key for this session")))?;
        StoredKey::try_from(drawn).map_err(|e| SaveError::Other(anyhow::Error::new(e)))
    }

    async fn update(
        &self,
        key: StoredKey,
        _state: HashMap<String, String>,
        _ttl: &Duration,
    ) -> Result<StoredKey, UpdateError> {
        Ok(key)
    }

    async fn update_ttl(&self, _key: &StoredKey, _ttl: &Duration) -> Result<(), anyhow::Error> {
        Ok(())
    }

    async fn delete(&self, key: &StoredKey) -> Result<(), anyhow::Error> {
        if let Some(key) = SessionKey::parse(key.as_ref()) {
            session::end_by_key(&self.0, &key, &Visitor::default()).await?;
        }
        Ok(())
    }
}

/// The middleware for the scope of our own pages; the proxied path reads the same cookie without it.
pub fn middleware(app: &Arc<App>, cookies: &Cookies, mac: Key) -> SessionMiddleware<Rows> {
    let life = Duration::milliseconds(app.setup().config.session.overall_ms);
    // Set once at login and never sent again: its Max-Age is the session's own overall limit.
    let lifecycle = PersistentSession::default()
        .session_ttl(life)
        .session_ttl_extension_policy(TtlExtensionPolicy::OnStateChanges);
    SessionMiddleware::builder(Rows(Arc::clone(app)), mac)
        .cookie_name(cookies.session_name())
        .cookie_path("/".to_owned())
        .cookie_secure(cookies.secure())
        .cookie_http_only(true)
        .cookie_same_site(SameSite::Lax)
        .cookie_content_security(CookieContentSecurity::Signed)
        .session_lifecycle(lifecycle)
        .build()
}

/// Lets the middleware hand the new key to the browser, and forget the old one.
pub fn begin(cookie: &Cookie, opened: &Opened) -> Result<(), Refused> {
    cookie.clear();
    cookie.renew();
    cookie.insert(KEY, opened.key.expose()).map_err(|e| Refused(Error::Internal(e.to_string())))
}

/// How long a session that has just begun can live at most; left in the request for the guard, which sees the finished cookie.
pub struct Life {
    pub left_ms: i64,
}

/// The key that this request's cookie names, live or not.
pub fn key(cookie: &Cookie) -> Option<SessionKey> {
    SessionKey::parse(&cookie.get::<String>(KEY).ok()??)
}

/// Who is signed in, if anybody.
pub struct MaybeGuest(pub Option<Guest>);

impl FromRequest for MaybeGuest {
    type Error = Refused;
    type Future = Ready<Result<Self, Refused>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.get_session().get(GUEST).ok().flatten())))
    }
}

/// Who is signed in; without anybody the request is refused.
pub struct SignedIn(pub Guest);

impl FromRequest for SignedIn {
    type Error = Refused;
    type Future = Ready<Result<Self, Refused>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let cookie = request.get_session();
        let guest = cookie.get(GUEST).ok().flatten();
        let why = || match cookie.get(UNPROVEN) {
            Ok(Some(why)) => Error::ProviderDown(why),
            _ => Error::NotSignedIn,
        };
        ready(guest.map(Self).ok_or_else(|| Refused(why())))
    }
}
