//! The parts that a login and a page are made of, one by one, in this process.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::app;
use doorward::crypto::{KeyRing, MasterKey, Place};
use doorward::domain::{Change, NewSession, Profile, Renewal, Session, SessionKey, SessionKind, Tokens};
use doorward::providers::oidc::jws::Jws;
use doorward::providers::oidc::keys;
use doorward::store::users::Road;
use doorward::store::{Store, StoreOptions, sessions, users};
use secrecy::SecretString;
use serde_json::json;

use super::Outcome;
use super::report::{Report, median};
use super::servers::postgres;

/// A round is long enough that the clock's own cost and a lost time slice drown.
const ROUND: Duration = Duration::from_millis(50);
const ROUNDS: usize = 11;
const SESSIONS: usize = 10_000;
const NOW_MS: i64 = 1_760_000_000_000;
/// About what an access token weighs that is a JWT.
const TOKEN_BYTES: usize = 1_200;

/// Times on the wall, in µs, medians of rounds.
pub async fn measure(report: &mut Report) -> Outcome<()> {
    report.heading("Parts: one call, on the wall, with nothing else running");
    let ring = ring()?;
    seal_and_open(report, &ring)?;
    signature(report)?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("doorward.db").display());
    let lookup_us = lookup(&url, &ring).await?;
    report.tell(&format!("session and user by key, 1 of {SESSIONS}, SQLite"), lookup_us, "µs");
    let database = postgres::fresh_database().await;
    let lookup_us = lookup(&database.url, &ring).await?;
    report.tell(&format!("session and user by key, 1 of {SESSIONS}, PostgreSQL"), lookup_us, "µs");
    Ok(())
}

fn ring() -> Outcome<KeyRing> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(KeyRing::new("k1", vec![("k1".to_owned(), MasterKey::from_bytes(&bytes)?)])?)
}

fn seal_and_open(report: &Report, ring: &KeyRing) -> Outcome<()> {
    let place = Place { table: "sessions", row: "0123456789abcdefghijkl", column: "access_token" };
    let token = [b'x'; TOKEN_BYTES];
    let sealed = ring.seal(place, &token);
    if ring.open(place, &sealed)?.as_slice() != token {
        return Err("a sealed token does not open".into());
    }
    report.tell("seal a token of 1.2 kB", each_us(|| drop(black_box(ring.seal(place, &token)))), "µs");
    report.tell("open it", each_us(|| drop(black_box(ring.open(place, &sealed)))), "µs");
    Ok(())
}

/// What an RS256 ID token costs before its claims are looked at.
fn signature(report: &Report) -> Outcome<()> {
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    // PKCS #1 `RSAPublicKey` of 2048 bits: nine bytes of DER, the modulus, and at the end the exponent 65537.
    let modulus = pair.public_key().as_ref().get(9..265).ok_or("a key of another size")?;
    let n = URL_SAFE_NO_PAD.encode(modulus);
    let set =
        json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k", "n": n, "e": "AQAB" }] });
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "k" });
    let claims = json!({
        "iss": "https://id.example", "sub": "alice", "aud": "doorward", "exp": 1_760_000_300, "iat": 1_760_000_000,
        "nonce": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG", "at_hash": "0123456789abcdefghijkl",
        "email": "alice@example.test", "email_verified": true, "name": "Alice Archer", "given_name": "Alice",
        "family_name": "Archer", "preferred_username": "alice", "locale": "en", "roles": ["user"], "groups": [],
    });
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", encode(&header), encode(&claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)?;
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(&signature));
    let keys = keys::read_set(set.to_string().as_bytes())?;
    let verify = || Jws::read(&token).is_ok_and(|jws| jws.verify(&keys).is_ok());
    if !verify() {
        return Err("a good token is refused".into());
    }
    report.tell("read an RS256 ID token, verify its signature", each_us(|| _ = black_box(verify())), "µs");
    Ok(())
}

async fn lookup(url: &str, ring: &KeyRing) -> Outcome<f64> {
    let url = SecretString::from(url);
    let store = Store::open(&StoreOptions { url, pool_size: 10, migrate: true }).await?;
    store.prepare().await?;
    let keys = fill(&store, ring).await?;
    let mut rounds = Vec::new();
    // A step that meets every key in an order that no cache foresees.
    let mut keys = keys.iter().cycle().step_by(4_999);
    for _ in 0..ROUNDS {
        let (began, mut calls) = (Instant::now(), 0.0);
        while began.elapsed() < ROUND {
            let key = keys.next().ok_or("no session")?;
            let mut reader = store.reader().await?;
            if sessions::find_by_key_hash(&mut reader, &key.hash()).await?.is_none() {
                return Err("a stored session is not found".into());
            }
            calls += 1.0;
        }
        rounds.push(began.elapsed().as_secs_f64() * 1e6 / calls);
    }
    store.close().await;
    Ok(median(&mut rounds))
}

async fn fill(store: &Store, ring: &KeyRing) -> Outcome<Vec<SessionKey>> {
    let mut keys = Vec::new();
    let mut writer = store.writer().await?;
    for n in 0..SESSIONS {
        let user = format!("person-{}", n % 100);
        if n < 100 {
            users::apply(&mut writer, &change(&user), Road::Login, NOW_MS).await?;
        }
        let new = session(&user, n);
        sessions::insert(&mut writer, &new, ring, None).await?;
        keys.push(new.key);
    }
    writer.commit().await?;
    Ok(keys)
}

fn change(subject: &str) -> Change {
    Change {
        provider: "op".to_owned(),
        issuer: "https://id.example".to_owned(),
        former_issuers: Vec::new(),
        subject: subject.to_owned(),
        id_prefix: String::new(),
        profile: Profile { username: Some(subject.to_owned()), ..Profile::default() },
        roles: vec!["user".to_owned()],
        groups: Vec::new(),
        is_active: None,
        default_roles: Vec::new(),
        provider_updated_at_ms: None,
        observed_at_ms: NOW_MS,
    }
}

fn session(user: &str, n: usize) -> NewSession {
    let session = Session {
        id: format!("session-{n}"),
        kind: SessionKind::Browser,
        user_id: user.to_owned(),
        provider: "op".to_owned(),
        issuer: "https://id.example".to_owned(),
        provider_session_id: None,
        token_expires_at_ms: None,
        refresh_expires_at_ms: None,
        ip: Some("192.0.2.7".to_owned()),
        user_agent: Some("Mozilla/5.0".to_owned()),
        created_at_ms: NOW_MS,
        last_active_at_ms: NOW_MS,
        expires_at_ms: NOW_MS + 86_400_000,
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms: None,
        acr: None,
        scope: None,
        renewal: Renewal::default(),
    };
    let token = || Some(SecretString::from("x".repeat(TOKEN_BYTES)));
    let tokens = Tokens {
        access: token(),
        refresh: token(),
        id: token(),
        access_expires_at_ms: None,
        refresh_expires_at_ms: None,
        scope: None,
    };
    NewSession { session, key: SessionKey::draw(&app::SystemRandom), tokens }
}

/// Medians of rounds; each round is as many calls as fit into its time.
fn each_us(mut call: impl FnMut()) -> f64 {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (began, mut calls) = (Instant::now(), 0.0);
        while began.elapsed() < ROUND {
            for _ in 0..10 {
                call();
            }
            calls += 10.0;
        }
        rounds.push(began.elapsed().as_secs_f64() * 1e6 / calls);
    }
    median(&mut rounds)
}
