//! A thousand people at once, whose tokens run out meanwhile: whatever races, an app never sees one person's name or token in another's request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::cookie::{Cookie, CookieJar, Key};
use doorward::domain::{
    Change, NewSession, Profile, Renewal, Session, SessionKey, SessionKind, Tokens, clock,
};
use doorward::flows::start::cookie_key;
use doorward::store::sessions;
use doorward::store::users::{self, Road};
use futures_util::future::join_all;

use super::keep_time;
use crate::house::op::Person;
use crate::house::op::mint::peek;
use crate::house::upstream::{Seen, Step, Wire};
use crate::proxy::stage::{Stage, status};

const PEOPLE: usize = 1_000;
/// Each person's requests stand side by side, so that some are under way at the same moment.
const REQUESTS_EACH: usize = 3;
/// Connections, each of which carries one person's request after the other's.
const LANES: usize = 16;
const TOKEN_LIFE_S: i64 = 600;

struct Visitor {
    name: String,
    cookie: String,
}

/// People whose sessions stand in the database and whose tokens have just run out.
async fn people(stage: &Stage) -> Vec<Visitor> {
    let app = stage.house.app();
    let mac = Key::from(&cookie_key(&app).await.unwrap());
    let (setup, now_ms) = (app.setup(), app.now_ms());
    let mut writer = app.store.writer().await.unwrap();
    let mut all = Vec::new();
    for n in 0..PEOPLE {
        let name = format!("person-{n}");
        users::apply(&mut writer, &change(stage, &name, now_ms), Road::Login, now_ms).await.unwrap();
        let key = SessionKey::draw(&*app.random);
        let mut jar = CookieJar::new();
        jar.signed_mut(&mac).add(Cookie::new("doorward", key.expose().to_owned()));
        let cookie = format!("cookie: doorward={}\r\n", jar.get("doorward").unwrap().value());
        let id = clock::token_128(&*app.random);
        let new = NewSession {
            session: session(stage, &name, id, now_ms),
            key,
            tokens: tokens(stage, &name, now_ms),
        };
        sessions::insert(&mut writer, &new, &setup.ring, None).await.unwrap();
        all.push(Visitor { name, cookie });
    }
    writer.commit().await.unwrap();
    all
}

fn change(stage: &Stage, name: &str, now_ms: i64) -> Change {
    Change {
        provider: "op".to_owned(),
        issuer: stage.op.issuer(),
        former_issuers: Vec::new(),
        subject: name.to_owned(),
        id_prefix: String::new(),
        profile: Profile { display_name: Some(name.to_owned()), ..Profile::default() },
        roles: Vec::new(),
        groups: vec![format!("group-of-{name}")],
        is_active: None,
        default_roles: Vec::new(),
        provider_updated_at_ms: None,
        observed_at_ms: now_ms,
    }
}

fn session(stage: &Stage, name: &str, id: String, now_ms: i64) -> Session {
    let began_ms = now_ms - TOKEN_LIFE_S * 1000;
    Session {
        id,
        kind: SessionKind::Browser,
        user_id: name.to_owned(),
        provider: "op".to_owned(),
        issuer: stage.op.issuer(),
        provider_session_id: Some(format!("sid-of-{name}")),
        token_expires_at_ms: Some(now_ms - 1),
        refresh_expires_at_ms: None,
        ip: None,
        user_agent: None,
        created_at_ms: began_ms,
        last_active_at_ms: now_ms,
        expires_at_ms: now_ms + 24 * 3_600_000,
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms: Some(began_ms / 1000 * 1000),
        acr: None,
        scope: None,
        renewal: Renewal { has_token: true, ..Renewal::default() },
    }
}

fn tokens(stage: &Stage, name: &str, now_ms: i64) -> Tokens {
    let began_s = (now_ms - TOKEN_LIFE_S * 1000) / 1000;
    Tokens {
        access: Some("an.expired.token".to_owned().into()),
        refresh: Some(stage.op.granted(Person::named(name), began_s).into()),
        id: None,
        access_expires_at_ms: Some(now_ms - 1),
        refresh_expires_at_ms: None,
        scope: None,
    }
}

/// Whom a request speaks of, if all of it speaks of one person with a token that lives.
fn whose(seen: &Seen, now_ms: i64) -> Result<String, String> {
    let user = seen.one("x-auth-user").ok_or("nobody")?;
    let token =
        seen.one("authorization").and_then(|value| value.strip_prefix("Bearer ")).ok_or("no token")?;
    let (_, claims) = peek(token).ok_or("no JWT")?;
    let lives = claims["exp"].as_i64().is_some_and(|exp_s| now_ms < exp_s * 1000);
    let (_, asserted) = seen.one("x-auth-assertion").and_then(peek).ok_or("no assertion")?;
    let all_of_one = claims["sub"] == user
        && asserted["sub"] == user
        && seen.one("x-auth-subject") == Some(user)
        && seen.one("x-auth-name") == Some(user)
        && seen.one("x-auth-groups") == Some(&format!("group-of-{user}"));
    if lives && all_of_one {
        Ok(user.to_owned())
    } else {
        Err(format!("{}\n{claims}\n{asserted}", seen.head))
    }
}

/// Every person's requests, on many connections at once; each answer is the asking person's own. How many were put off.
async fn all_ask(stage: &Stage, people: &[Visitor]) -> usize {
    let (next, put_off) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let lane = async || {
        let mut wire = stage.wire().await;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed) / REQUESTS_EACH;
            let Some(visitor) = people.get(at) else { return };
            while !ask(stage, &mut wire, visitor).await {
                let before = put_off.fetch_add(1, Ordering::Relaxed);
                assert!(before < PEOPLE / 10, "too many are put off");
            }
        }
    };
    join_all((0..LANES).map(|_| lane())).await;
    put_off.into_inner()
}

/// One request and its answer; `false` when the person is asked to come back, as on a machine that is too busy to renew a token in time.
async fn ask(stage: &Stage, wire: &mut Wire, visitor: &Visitor) -> bool {
    wire.send(stage.head("GET /both/mine", &visitor.cookie)).await;
    let head = wire.head().await;
    if status(&head) == 503 {
        wire.until("}").await;
        return false;
    }
    assert_eq!(status(&head), 200, "{}: {head}", visitor.name);
    let told = wire.until("\r\n").await;
    assert_eq!(told.trim_end(), visitor.name, "another person's answer");
    true
}

#[tokio::test]
async fn px_14_a_thousand_people_whose_tokens_are_renewed_meanwhile_are_never_taken_for_each_other() {
    let stage = Stage::open().await;
    keep_time(&stage.op, &stage.house);
    stage.op.script(|script| script.token_life_s = TOKEN_LIFE_S);
    let mixed_up: Arc<Mutex<Vec<String>>> = Arc::default();
    let (wrong, clock) = (Arc::clone(&mixed_up), Arc::clone(&stage.house.clock));
    stage.app.plan(move |seen| {
        let told = whose(seen, doorward::domain::Clock::now_ms(&*clock)).unwrap_or_else(|what| {
            wrong.lock().unwrap().push(what);
            "nobody".to_owned()
        });
        vec![Step::answer("200 OK", "", &format!("{told}\r\n"))]
    });
    let people = people(&stage).await;
    // All are over: everybody waits for their own. Later all are due: one renews, the others go on.
    let mut put_off = 0;
    for ahead_s in [0, TOKEN_LIFE_S - 30] {
        stage.house.clock.advance(Duration::from_secs(ahead_s.unsigned_abs()));
        put_off += all_ask(&stage, &people).await;
        let mixed_up = mixed_up.lock().unwrap();
        assert!(mixed_up.is_empty(), "{} such as {}", mixed_up.len(), mixed_up[0]);
    }
    assert_eq!(stage.app.seen().len(), 2 * PEOPLE * REQUESTS_EACH, "who was put off never reached the app");
    let over = Instant::now() + Duration::from_secs(20);
    while stage.op.count("/token") < 2 * PEOPLE {
        assert!(Instant::now() < over, "{} renewals", stage.op.count("/token"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let renewals = stage.op.count("/token");
    assert!(put_off > 0 || renewals == 2 * PEOPLE, "{renewals} renewals for {PEOPLE} people, two each");
}
