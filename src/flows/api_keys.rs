//! API keys: made once, shown once, checked on each use.

use subtle::ConstantTimeEq as _;

use super::Visitor;
use super::admin::{Actor, Administrator};
use super::audit::{self, AdminDeed, Refusal};
use crate::app::App;
use crate::domain::{ApiKey, KnownKey, Standing};
use crate::error::{Error, Result};
use crate::store::{Writer, api_keys};

const NAME_MAX: usize = 100;
/// A row read per request must not become a write per request.
const TOUCH_MS: i64 = 60_000;
/// What the key of no row is compared with, so that an unknown id takes as long as a wrong secret. No SHA-256 that anybody knows gives it.
const NO_HASH: [u8; 32] = [0; 32];

/// A key that has just been made; it is shown now and never again.
#[derive(Debug)]
pub struct Made {
    pub key: ApiKey,
    pub known: KnownKey,
}

/// Makes a key that counts for `life_ms`, or until it is revoked.
///
/// # Errors
/// A name that is empty, too long or not plain text, or the database's.
pub async fn create(app: &App, name: &str, life_ms: Option<i64>, by: &Administrator) -> Result<Made> {
    if name.trim().is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(Error::InvalidRequest("the name of a key is 1 to 100 characters of plain text"));
    }
    let now_ms = app.now_ms();
    let key = ApiKey::draw(&*app.random);
    let known = KnownKey {
        id: key.id().to_owned(),
        name: name.trim().to_owned(),
        created_at_ms: now_ms,
        expires_at_ms: life_ms.map(|life_ms| now_ms.saturating_add(life_ms)),
        last_used_at_ms: None,
        revoked_at_ms: None,
        created_by: by.actor.to_string(),
    };
    let mut writer = app.store.writer().await?;
    api_keys::insert(&mut writer, &known, &key.secret_hash()).await?;
    tell(app, &mut writer, "apikey.created", &known.id, by).await?;
    writer.commit().await?;
    Ok(Made { key, known })
}

async fn tell(
    app: &App,
    writer: &mut Writer,
    event: &'static str,
    key_id: &str,
    by: &Administrator,
) -> Result<()> {
    let fact = Some(("key", key_id.into()));
    let deed = AdminDeed { event, user_id: None, session_id: None, by: &by.actor.to_string(), fact };
    audit::admin(app, writer, &deed, &by.visitor).await
}

/// Every key, the newest first.
///
/// # Errors
/// The database's.
pub async fn list(app: &App) -> Result<Vec<KnownKey>> {
    let mut reader = app.store.reader().await?;
    Ok(api_keys::list(&mut reader).await?)
}

/// Ends a key; its next use is refused. `false` when it was revoked before.
///
/// # Errors
/// [`Error::NotFound`] without such a key, or the database's.
pub async fn revoke(app: &App, id: &str, by: &Administrator) -> Result<bool> {
    let mut writer = app.store.writer().await?;
    if !api_keys::revoke(&mut writer, id, app.now_ms()).await? {
        return api_keys::find(&mut writer, id).await?.map(|_| false).ok_or(Error::NotFound);
    }
    tell(app, &mut writer, "apikey.revoked", id, by).await?;
    writer.commit().await?;
    Ok(true)
}

/// Who a presented key is. Whatever is wrong with it, the caller learns only that it does not count; the audit log learns what.
///
/// # Errors
/// [`Error::NotSignedIn`], or the database's.
pub async fn check(app: &App, presented: &str, visitor: &Visitor) -> Result<Actor> {
    match judge(app, presented).await? {
        Ok(known) => {
            note_use(app, &known).await;
            Ok(Actor::Key { id: known.id })
        }
        Err(reason) => {
            audit::refusal(app, &Refusal { event: "apikey.refused", reason, provider: None }, visitor).await;
            Err(Error::NotSignedIn)
        }
    }
}

async fn judge(app: &App, presented: &str) -> Result<std::result::Result<KnownKey, &'static str>> {
    let Some(key) = ApiKey::parse(presented) else { return Ok(Err("api_key_malformed")) };
    let mut reader = app.store.reader().await?;
    let found = api_keys::find(&mut reader, key.id()).await?;
    let (known, stored) = found.unzip();
    // In constant time, and before anything else is told apart.
    let is_right = key.secret_hash().as_slice().ct_eq(stored.as_deref().unwrap_or(&NO_HASH));
    Ok(match known {
        None => Err("api_key_unknown"),
        Some(_) if !bool::from(is_right) => Err("api_key_wrong"),
        Some(known) => match known.standing(app.now_ms()) {
            Standing::Good => Ok(known),
            Standing::Expired => Err("api_key_expired"),
            Standing::Revoked => Err("api_key_revoked"),
        },
    })
}

async fn note_use(app: &App, known: &KnownKey) {
    let now_ms = app.now_ms();
    if known.last_used_at_ms.is_some_and(|last| now_ms - last < TOUCH_MS) {
        return;
    }
    let noted = async {
        let mut single = app.store.mark().await?;
        api_keys::touch(&mut single, &known.id, now_ms).await
    };
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the use of an API key could not be noted");
    }
}
