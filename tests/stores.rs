//! Conformance: every function of the store, the same story on SQLite and on PostgreSQL.

mod api_keys;
mod attempts_and_audit;
mod keys;
mod opening;
mod outages;
mod password_failures;
mod refresh;
mod registrations;
mod sessions;
mod users;

use std::sync::atomic::{AtomicU64, Ordering};

use doorward::crypto::{KeyRing, MasterKey};
use doorward::domain::{
    Change, Email, NewSession, Profile, Random, Renewal, Session, SessionKey, SessionKind, Tokens,
};
use doorward::store::users::{Applied, Road, apply as apply_change};
use doorward::store::{Store, StoreError, Writer, sessions as rows};

const HOUR: i64 = 3_600_000;
/// A moment; every story has its own clock.
pub const NOW: i64 = 1_800_000_000_000;

/// A generator that repeats nothing and surprises nobody.
struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).to_be_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }
}

static RANDOM: Counter = Counter(AtomicU64::new(1));

pub fn ring(current: &str, ids: &[&str]) -> KeyRing {
    KeyRing::new(current, ids.iter().map(|id| ((*id).to_owned(), master(id))).collect()).unwrap()
}

/// A strong key that belongs to a name.
fn master(name: &str) -> MasterKey {
    let bytes: Vec<u8> = (0..32_u8)
        .map(|i| name.bytes().fold(i.wrapping_mul(89).wrapping_add(i / 3), |a, b| a.rotate_left(3) ^ b))
        .collect();
    MasterKey::from_bytes(&bytes).unwrap()
}

pub fn change(subject: &str) -> Change {
    Change {
        provider: "keycloak".into(),
        issuer: "https://id.example/realms/app".into(),
        former_issuers: vec![],
        subject: subject.into(),
        id_prefix: String::new(),
        profile: Profile {
            email: Email::parse(&format!("{subject}@mail.example")),
            email_verified: true,
            username: Some(subject.to_owned()),
            first_name: Some("Ada".into()),
            last_name: Some("Lovelace".into()),
            display_name: Some("Ada Lovelace".into()),
            nickname: Some("ada".into()),
            picture_url: Some("https://id.example/ada.png".into()),
            locale: Some("en-GB".into()),
            tenant_id: Some("engines".into()),
        },
        roles: vec!["editor".into(), "admin".into()],
        groups: vec!["/engines".into()],
        is_active: Some(true),
        default_roles: vec!["member".into()],
        provider_updated_at_ms: None,
        observed_at_ms: NOW,
    }
}

/// Applies and commits.
async fn apply(store: &Store, change: &Change, road: Road, now_ms: i64) -> Applied {
    let mut w = store.writer().await.unwrap();
    let applied = apply_change(&mut w, change, road, now_ms).await.unwrap();
    w.commit().await.unwrap();
    applied
}

pub fn tokens(mark: &str) -> Tokens {
    Tokens {
        access: Some(format!("access-{mark}").into()),
        refresh: Some(format!("refresh-{mark}").into()),
        id: Some(format!("id-{mark}").into()),
        access_expires_at_ms: Some(NOW + HOUR),
        refresh_expires_at_ms: Some(NOW + 8 * HOUR),
        scope: Some("openid profile".into()),
    }
}

fn session(id: &str, user_id: &str) -> NewSession {
    NewSession {
        session: Session {
            id: id.into(),
            kind: SessionKind::Browser,
            user_id: user_id.into(),
            provider: "keycloak".into(),
            issuer: "https://id.example/realms/app".into(),
            provider_session_id: Some(format!("sid-{id}")),
            token_expires_at_ms: Some(NOW + HOUR),
            refresh_expires_at_ms: Some(NOW + 8 * HOUR),
            ip: Some("192.0.2.7".into()),
            user_agent: Some("a browser".into()),
            created_at_ms: NOW,
            last_active_at_ms: NOW,
            expires_at_ms: NOW + 24 * HOUR,
            revoked_at_ms: None,
            generation: 1,
            auth_time_ms: Some(NOW - 5_000),
            acr: Some("2".into()),
            scope: Some("openid profile".into()),
            renewal: Renewal { has_token: true, ..Renewal::default() },
        },
        key: SessionKey::draw(&RANDOM),
        tokens: tokens(id),
    }
}

/// One user with sessions `ids`, committed.
pub async fn user_with_sessions(store: &Store, subject: &str, ids: &[&str]) -> Vec<NewSession> {
    apply(store, &change(subject), Road::Login, NOW).await;
    let mut w = store.writer().await.unwrap();
    let mut made = Vec::new();
    for id in ids {
        let new = session(id, subject);
        rows::insert(&mut w, &new, &ring("k1", &["k1"]), None).await.unwrap();
        made.push(new);
    }
    w.commit().await.unwrap();
    made
}

/// Runs one write and commits it.
pub async fn write<T>(store: &Store, work: impl AsyncFnOnce(&mut Writer) -> Result<T, StoreError>) -> T {
    let mut w = store.writer().await.unwrap();
    let done = work(&mut w).await.unwrap();
    w.commit().await.unwrap();
    done
}
