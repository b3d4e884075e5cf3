//! A million sessions in the database and a hundred thousand of them in use, made by the store itself; nobody signs in a million times.

use std::path::Path;
use std::sync::Arc;

use actix_web::cookie::{Cookie, CookieJar, Key};
use doorward::app::{App, SystemClock, SystemRandom};
use doorward::config::{self, Sources};
use doorward::domain::{
    Change, NewSession, Profile, Renewal, Session, SessionKey, SessionKind, Tokens, clock,
};
use doorward::flows::start::{self, Furniture};
use doorward::store::sessions;
use doorward::store::users::{self, Road};

use super::Outcome;

pub const STORED: usize = 1_000_000;
pub const IN_USE: usize = 100_000;
/// Rows in one transaction.
const PAGE: usize = 20_000;
/// People; each has a thousand sessions.
const PEOPLE: usize = 1_000;

/// Fills the database of the house in this folder; the cookies of the sessions in use.
pub async fn fill(folder: &Path) -> Outcome<Vec<String>> {
    let sources = Sources {
        file: Some(folder.join("config.toml")),
        folder: folder.to_owned(),
        environment: Vec::new(),
    };
    let loaded = config::load(&sources).map_err(|faults| format!("{faults:?}"))?;
    // The built-in set-up names its files by the working folder.
    std::env::set_current_dir(folder)?;
    let at = Furniture { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) };
    let keys = start::read_keys(&loaded.config, &*at.random).map_err(|fault| format!("{fault:?}"))?;
    let store = start::open_store(&loaded.config).await.map_err(|fault| format!("{fault:?}"))?;
    start::prepare(&store).await.map_err(|fault| format!("{fault:?}"))?;
    let app = start::furnish(store, loaded.config, keys, at).await.map_err(|fault| format!("{fault:?}"))?;
    let mac = start::cookie_key(&app).await.map_err(|fault| format!("{fault:?}"))?;
    let mac = Key::from(&mac);
    people(&app).await?;
    let mut cookies = Vec::with_capacity(IN_USE);
    for page in 0..STORED / PAGE {
        let mut writer = app.store.writer().await?;
        for n in page * PAGE..(page + 1) * PAGE {
            let new = session(&app, n);
            sessions::insert(&mut writer, &new, &app.setup().ring, None).await?;
            if n % (STORED / IN_USE) == 0 {
                cookies.push(signed(new.key.expose(), &mac));
            }
        }
        writer.commit().await?;
    }
    app.store.close().await;
    Ok(cookies)
}

async fn people(app: &App) -> Outcome<()> {
    let mut writer = app.store.writer().await?;
    for n in 0..PEOPLE {
        let change = Change {
            provider: "dev".into(),
            issuer: "https://id.example.test".into(),
            former_issuers: Vec::new(),
            subject: format!("person-{n:0>28}"),
            id_prefix: String::new(),
            profile: Profile { display_name: Some(format!("Person {n}")), ..Profile::default() },
            roles: vec!["editor".into(), "offline_access".into()],
            groups: vec!["/engines".into()],
            is_active: Some(true),
            default_roles: Vec::new(),
            provider_updated_at_ms: None,
            observed_at_ms: app.now_ms(),
        };
        users::apply(&mut writer, &change, Road::Login, app.now_ms()).await?;
    }
    Ok(writer.commit().await?)
}

fn session(app: &App, n: usize) -> NewSession {
    let now_ms = app.now_ms();
    let session = Session {
        id: clock::token_128(&*app.random),
        kind: SessionKind::Browser,
        user_id: format!("person-{:0>28}", n % PEOPLE),
        provider: "dev".into(),
        issuer: "https://id.example.test".into(),
        provider_session_id: None,
        token_expires_at_ms: None,
        refresh_expires_at_ms: None,
        ip: Some("192.0.2.7".into()),
        user_agent: Some("bench".into()),
        created_at_ms: now_ms,
        last_active_at_ms: now_ms,
        expires_at_ms: now_ms + 86_400_000,
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms: None,
        acr: None,
        scope: None,
        renewal: Renewal::default(),
    };
    let tokens = Tokens {
        access: None,
        refresh: None,
        id: None,
        access_expires_at_ms: None,
        refresh_expires_at_ms: None,
        scope: None,
    };
    NewSession { session, key: SessionKey::draw(&*app.random), tokens }
}

/// As the door hands it out.
fn signed(key: &str, mac: &Key) -> String {
    let mut jar = CookieJar::new();
    jar.signed_mut(mac).add(Cookie::new("doorward", key.to_owned()));
    jar.get("doorward").map(|cookie| cookie.encoded().to_string()).unwrap_or_default()
}
