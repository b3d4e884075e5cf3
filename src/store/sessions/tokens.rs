//! A session's tokens: sealed by the ring, each bound to its row and column (CR-03).

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::crypto::{KeyRing, OpenError, Place};
use crate::domain::Tokens;
use crate::store::{Db, StoreError};

pub(in crate::store) const TABLE: &str = "sessions";
pub(in crate::store) const ACCESS: &str = "access_token";
pub(in crate::store) const REFRESH: &str = "refresh_token";
pub(in crate::store) const ID: &str = "id_token";

/// Tokens as they are stored.
#[derive(Clone, sqlx::FromRow)]
pub struct SealedTokens {
    #[sqlx(rename = "id")]
    session_id: String,
    #[sqlx(rename = "access_token")]
    pub(super) access: Option<Vec<u8>>,
    #[sqlx(rename = "refresh_token")]
    pub(super) refresh: Option<Vec<u8>>,
    #[sqlx(rename = "id_token")]
    pub(super) id: Option<Vec<u8>>,
    token_expires_at: Option<i64>,
    refresh_expires_at: Option<i64>,
    scope: Option<String>,
    /// The session's generation when these tokens were read.
    pub generation: i64,
}

impl std::fmt::Debug for SealedTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedTokens").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

impl SealedTokens {
    pub(super) fn seal(session_id: &str, tokens: &Tokens, ring: &KeyRing) -> Self {
        let seal = |column, token: Option<&SecretString>| {
            let place = Place { table: TABLE, row: session_id, column };
            token.map(|token| ring.seal(place, token.expose_secret().as_bytes()))
        };
        Self {
            session_id: session_id.to_owned(),
            access: seal(ACCESS, tokens.access.as_ref()),
            refresh: seal(REFRESH, tokens.refresh.as_ref()),
            id: seal(ID, tokens.id.as_ref()),
            token_expires_at: tokens.access_expires_at_ms,
            refresh_expires_at: tokens.refresh_expires_at_ms,
            scope: tokens.scope.clone(),
            generation: 0,
        }
    }

    /// # Errors
    /// A token that does not open is no token: the caller ends the session
    /// and raises `crypt_decrypt_fail` (CR-08).
    pub fn open(&self, ring: &KeyRing) -> Result<Tokens, OpenError> {
        let open = |column, sealed: Option<&Vec<u8>>| -> Result<Option<SecretString>, OpenError> {
            let Some(sealed) = sealed else { return Ok(None) };
            let mut opened: Zeroizing<Vec<u8>> =
                ring.open(Place { table: TABLE, row: &self.session_id, column }, sealed)?;
            // Moved, not copied: the secret string wipes itself.
            let text = String::from_utf8(std::mem::take(&mut *opened)).map_err(|_| OpenError::Malformed)?;
            Ok(Some(text.into()))
        };
        Ok(Tokens {
            access: open(ACCESS, self.access.as_ref())?,
            refresh: open(REFRESH, self.refresh.as_ref())?,
            id: open(ID, self.id.as_ref())?,
            access_expires_at_ms: self.token_expires_at,
            refresh_expires_at_ms: self.refresh_expires_at,
            scope: self.scope.clone(),
        })
    }
}

/// The sealed tokens of a session that has not ended.
///
/// # Errors
/// The database's.
pub async fn tokens(db: &mut impl Db, session_id: &str) -> Result<Option<SealedTokens>, StoreError> {
    sql!(fetch_optional in db,
        "SELECT id, access_token, refresh_token, id_token, token_expires_at, refresh_expires_at, scope, \
         generation FROM sessions WHERE id = $1 AND revoked_at IS NULL",
        session_id)
}
