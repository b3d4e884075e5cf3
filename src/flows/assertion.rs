//! A signed word to an app about who is there, and the keys that it checks it with. All replicas sign with the same keys.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::app::App;
use crate::crypto::assertion::{self, Facts, Key, Keys, SEED_BYTES};
use crate::domain::{Fact, Principal};
use crate::error::{Error, Result};
use crate::store::own_keys::{self, OwnKey};

/// `assertion:<number>`: of two replicas that make a successor at once, one wins the number.
const PREFIX: &str = "assertion:";

/// Makes the keys that are due, before anybody asks for them.
///
/// # Errors
/// The database's.
pub async fn renew(app: &App) -> Result<()> {
    keys(app).await.map(|_| ())
}

/// The keys of this moment; makes the first, and a successor when it is due.
///
/// # Errors
/// The database's.
pub async fn keys(app: &App) -> Result<Arc<Keys>> {
    let now_ms = app.now_ms();
    if let Some(keys) = app.assertions.keys(now_ms) {
        return Ok(keys);
    }
    let ring = &app.setup().ring;
    let mut reader = app.store.reader().await?;
    let mut stored = own_keys::list(&mut reader, PREFIX, ring).await?;
    drop(reader);
    let newest_ms = stored.iter().map(|key| key.created_at_ms).max();
    if assertion::is_successor_due(newest_ms, now_ms) {
        stored = succeed(app, stored).await?;
    }
    let keys: std::result::Result<Vec<Key>, _> =
        stored.iter().map(|key| Key::from_private(&key.value, key.created_at_ms)).collect();
    let keys = keys.map_err(|fault| Error::Internal(format!("a stored assertion key: {fault}")))?;
    Ok(app.assertions.put(Keys::new(keys, now_ms)))
}

async fn succeed(app: &App, stored: Vec<OwnKey>) -> Result<Vec<OwnKey>> {
    let (now_ms, ring) = (app.now_ms(), &app.setup().ring);
    let number = |key: &OwnKey| key.name.strip_prefix(PREFIX).and_then(|text| text.parse::<u32>().ok());
    let next = stored.iter().filter_map(number).max().map_or(1, |last| last + 1);
    let make = || {
        let mut seed = Zeroizing::new(vec![0_u8; SEED_BYTES]);
        app.random.fill(&mut seed);
        seed
    };
    let mut writer = app.store.writer().await?;
    own_keys::find_or_insert(&mut writer, &format!("{PREFIX}{next:06}"), make, ring, now_ms).await?;
    // A key whose successor has signed for a day is needed by nobody.
    for (old, successor) in stored.iter().zip(stored.iter().skip(1)) {
        if assertion::is_retired(successor.created_at_ms, now_ms) {
            own_keys::remove(&mut writer, &old.name).await?;
        }
    }
    let all = own_keys::list(&mut writer, PREFIX, ring).await?;
    writer.commit().await?;
    Ok(all)
}

/// The public keys, for `/.well-known/doorward/jwks.json`.
///
/// # Errors
/// The database's.
pub async fn jwks(app: &App) -> Result<Value> {
    Ok(keys(app).await?.jwks())
}

/// A signed assertion about somebody for one upstream; a fresh one made before serves again.
///
/// # Errors
/// The database's, or a signature that could not be made.
pub async fn write(app: &App, who: &Principal, upstream_id: &str) -> Result<Arc<str>> {
    let keys = keys(app).await?;
    let setup = app.setup();
    let known = |fact| who.spelled(fact).map(|_| who.plain(fact).into_owned());
    let items = |fact| who.items(fact).map(Cow::into_owned).collect();
    let facts = Facts {
        issuer: setup.config.server.public_url.origin().ascii_serialization(),
        audience: upstream_id.to_owned(),
        subject: who.plain(Fact::UserId).into_owned(),
        session: who.plain(Fact::Session).into_owned(),
        email: known(Fact::Email),
        roles: items(Fact::Roles),
        groups: items(Fact::Groups),
        tenant: known(Fact::Tenant),
    };
    let written = app.assertions.write(&keys, facts, app.now_ms());
    written.map_err(|fault| Error::Internal(format!("an assertion could not be signed: {fault}")))
}
