//! The access token that an app behind the door receives, where a route asks for it.

use secrecy::SecretString;

use crate::app::App;
use crate::domain::Session;
use crate::error::{Error, Result};
use crate::store::sessions;

/// A session's access token; never one that is over (security.md RT-06).
///
/// # Errors
/// [`Error::NotSignedIn`] when only a new login can bring one, or the database's.
pub async fn access_token(app: &App, session: &Session) -> Result<SecretString> {
    let setup = app.setup();
    let mut reader = app.store.reader().await?;
    let sealed = sessions::tokens(&mut reader, &session.id).await?.ok_or(Error::NotSignedIn)?;
    drop(reader);
    let tokens = sealed.open(&setup.ring).map_err(|error| {
        app.metrics.crypt_decrypt_fail(error.word());
        Error::NotSignedIn
    })?;
    let lives = tokens.access_expires_at_ms.is_none_or(|at_ms| app.now_ms() < at_ms);
    tokens.access.filter(|_| lives).ok_or(Error::NotSignedIn)
}

/// Whether an app needs an access token and the session's is over: signing in again brings another, though nobody was signed out.
#[must_use]
pub fn lacks_token(app: &App, session: &Session) -> bool {
    let is_over = session.token_expires_at_ms.is_some_and(|at_ms| app.now_ms() >= at_ms);
    is_over && app.setup().routes.attaches_access_token()
}
