//! From a checked configuration to a furnished house: database, keys, providers. Each fault is a sentence for the operator.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::app::{App, Setup};
use crate::config::{self, Config, KeyMaterial, ProviderKind};
use crate::crypto::key::SALT_BYTES;
use crate::crypto::{KeyRing, MasterKey};
use crate::domain::{Clock, Random};
use crate::store::{Store, StoreError, StoreOptions, own_keys, users};

/// Why the house cannot open.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// Waiting may help: the database is not there yet.
    #[error("{0}")]
    NotYet(String),
    /// An operator must act; one sentence per fault.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
}

impl StartFault {
    fn one(sentence: impl Into<String>) -> Self {
        Self::Faults(vec![sentence.into()])
    }
}

impl From<StoreError> for StartFault {
    fn from(error: StoreError) -> Self {
        match error {
            unavailable if unavailable.is_unavailable() => Self::NotYet(unavailable.to_string()),
            StoreError::WrongKey(id) => Self::one(format!(
                "keys.ring.{id}: this is not the key that sealed the database; restore the key file that was in use, nothing stored opens without it"
            )),
            StoreError::Sealed { what, source } => Self::one(format!(
                "keys.ring: the stored {what} does not open: {source}; put the missing key back into the ring, and retire it when `doorward keys list` counts no rows of it"
            )),
            other => Self::one(format!("database.url: {other}")),
        }
    }
}

/// A key of the ring as its file gives it; a passphrase still needs the salt that the database keeps.
pub enum Material {
    Key(MasterKey),
    Passphrase(SecretString),
}

/// Keys read before the database is asked, so that a missing file is noticed while the database is still down.
pub type Keys = Vec<(String, Material)>;

/// Reads every key file. With a development provider a missing one is made.
///
/// # Errors
/// One sentence per key that is missing, unreadable or weak.
pub fn read_keys(config: &Config, random: &dyn Random) -> Result<Keys, StartFault> {
    let (mut keys, mut faults) = (Vec::new(), Vec::new());
    for source in &config.keys.ring {
        match read_key(&source.material, config.has_dev_provider(), random) {
            Ok(material) => keys.push((source.id.clone(), material)),
            Err(problem) => faults.push(format!("keys.ring.{}: {problem}", source.id)),
        }
    }
    if faults.is_empty() { Ok(keys) } else { Err(StartFault::Faults(faults)) }
}

fn read_key(material: &KeyMaterial, may_make: bool, random: &dyn Random) -> Result<Material, String> {
    let key =
        |content: &[u8]| MasterKey::from_bytes(content).map(Material::Key).map_err(|fault| fault.to_string());
    match material {
        KeyMaterial::Value(text) => key(text.expose_secret().as_bytes()),
        KeyMaterial::File(path) => {
            if may_make && !path.exists() {
                make_key_file(path, random).map_err(|e| format!("{} cannot be made: {e}", path.display()))?;
            }
            let content = std::fs::read(path).map(Zeroizing::new).map_err(|e| unreadable(path, &e))?;
            key(&content).map_err(|fault| format!("{}: {fault}", path.display()))
        }
        KeyMaterial::PassphraseFile(path) => {
            let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| unreadable(path, &e))?;
            let passphrase = text.strip_suffix('\n').unwrap_or(&text);
            // The salt is not known yet, but a weak passphrase shows at once.
            MasterKey::check_passphrase(passphrase)
                .map_err(|fault| format!("{}: {fault}", path.display()))?;
            Ok(Material::Passphrase(SecretString::from(passphrase)))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!(
        "{} cannot be read: {error}; make one with 32 random bytes, mode 0600, or restore the old one",
        path.display()
    )
}

fn make_key_file(path: &Path, random: &dyn Random) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut key = Zeroizing::new([0_u8; 32]);
    random.fill(&mut *key);
    // Another process that starts at the same moment must not get half a key: the whole file appears at once or not at all.
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    tracing::info!(file = %path.display(), "made a new key for this development set-up");
    file.write_all(&*key)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Opens the store without asking the database anything yet.
///
/// # Errors
/// A malformed address, or a SQLite file that cannot be written.
pub async fn open_store(config: &Config) -> Result<Store, StartFault> {
    let database = &config.database;
    let options =
        StoreOptions { url: database.url.clone(), pool_size: database.pool_size, migrate: database.migrate };
    Ok(Store::open(&options).await?)
}

/// Migrates the schema, or waits for nobody: a database that is down is [`StartFault::NotYet`].
///
/// # Errors
/// As [`StartFault`].
pub async fn prepare(store: &Store) -> Result<(), StartFault> {
    Ok(store.prepare().await?)
}

/// The key ring of a configuration, checked against what the database was sealed with.
///
/// # Errors
/// As [`StartFault`].
pub async fn ring(store: &Store, config: &Config, keys: Keys, at: &Furniture) -> Result<KeyRing, StartFault> {
    let now_ms = at.clock.now_ms();
    let mut writer = store.writer().await?;
    let mut masters = Vec::new();
    for (id, material) in keys {
        let master = match material {
            Material::Key(master) => master,
            Material::Passphrase(passphrase) => {
                let fresh = || {
                    let mut salt = [0_u8; SALT_BYTES];
                    at.random.fill(&mut salt);
                    salt
                };
                let salt = own_keys::salt(&mut writer, &id, fresh, now_ms).await?;
                MasterKey::from_passphrase(passphrase.expose_secret(), &salt)
                    .map_err(|e| StartFault::one(format!("keys.ring.{id}: {e}")))?
            }
        };
        masters.push((id, master));
    }
    let ring =
        KeyRing::new(&config.keys.current, masters).map_err(|e| StartFault::one(format!("keys: {e}")))?;
    own_keys::check_canaries(&mut writer, &ring, now_ms).await?;
    own_keys::check_opens(&mut writer, &ring).await?;
    writer.commit().await?;
    Ok(ring)
}

/// The house's time and randomness.
#[derive(Clone)]
pub struct Furniture {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

/// Everything after the database answered: ring, providers, and whether the stored ids fit the configured prefixes.
///
/// # Errors
/// As [`StartFault`].
pub async fn furnish(store: Store, config: Config, keys: Keys, at: Furniture) -> Result<App, StartFault> {
    let setup = set_up(&store, config, keys, &at, None).await?;
    store.remember(setup.config.cache.size_bytes);
    Ok(App::new(setup, store, at.clock, at.random))
}

/// What a start and a reload have in common.
///
/// # Errors
/// As [`StartFault`].
pub async fn set_up(
    store: &Store,
    config: Config,
    keys: Keys,
    at: &Furniture,
    earlier: Option<&Setup>,
) -> Result<Setup, StartFault> {
    let mut config = config;
    let ring = fitting_ring(store, &config, keys, at).await?;
    recognise_dev_idp(store, &mut config).await?;
    Setup::build(config, ring, &at.clock, &at.random, earlier).map_err(StartFault::Faults)
}

/// The development issuer's name holds the port, which changes from start to start; its people stay the same.
async fn recognise_dev_idp(store: &Store, config: &mut Config) -> Result<(), StartFault> {
    let is_dev =
        |provider: &&mut config::Provider| provider.kind == ProviderKind::Dev && provider.issuer_is_default;
    for provider in config.providers.iter_mut().filter(is_dev) {
        let mut reader = store.reader().await?;
        provider.former_issuers.extend(users::issuers_in_use(&mut reader, &provider.id).await?);
    }
    Ok(())
}

/// The ring, once everything that the database holds was found to fit the configuration.
///
/// # Errors
/// As [`StartFault`].
pub async fn fitting_ring(
    store: &Store,
    config: &Config,
    keys: Keys,
    at: &Furniture,
) -> Result<KeyRing, StartFault> {
    let ring = ring(store, config, keys, at).await?;
    check_prefixes(store, config).await?;
    Ok(ring)
}

/// `users.id` is what the app refers to: a prefix that differs from the stored rows would split every user in two.
async fn check_prefixes(store: &Store, config: &Config) -> Result<(), StartFault> {
    let mut reader = store.reader().await?;
    let mut faults = Vec::new();
    for provider in &config.providers {
        match users::id_prefix_in_use(&mut reader, &provider.id).await? {
            Some(stored) if stored != provider.id_prefix => faults.push(format!(
                "provider.{}.id_prefix: is {:?}, and its stored users have {stored:?}; write id_prefix = {stored:?}",
                provider.id, provider.id_prefix
            )),
            _ => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(StartFault::Faults(faults)) }
}

const COOKIE_MAC: &str = "cookie-mac";
const COOKIE_MAC_BYTES: usize = 64;

/// The key that signs session cookies: made once, sealed by the ring, the same on every replica, untouched by ring rotation.
///
/// # Errors
/// As [`StartFault`].
pub async fn cookie_key(app: &App) -> Result<Zeroizing<Vec<u8>>, StartFault> {
    let make = || {
        let mut key = Zeroizing::new(vec![0_u8; COOKIE_MAC_BYTES]);
        app.random.fill(&mut key);
        key
    };
    let mut writer = app.store.writer().await?;
    let key =
        own_keys::find_or_insert(&mut writer, COOKIE_MAC, make, &app.setup().ring, app.now_ms()).await?;
    writer.commit().await?;
    Ok(key)
}
