//! RG-02, RE-04, RE-05: the process is killed at every message that a registration sends or gets, to Keycloak or to PostgreSQL, one after the other.
//! Afterwards each person is there on both sides or on neither.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::jobs::JOBS;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use url::Url;

use crate::house::databases::Database;
use crate::house::home::DEMO_ROUTES;
use crate::house::invariants;
use crate::house::process::{Home, Process, random_key};
use crate::house::servers::http;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};
use crate::house::wire::{self, Counter};
use crate::register::{registering, wish};

/// For one step. A busy machine is no failure.
const PATIENCE: Duration = Duration::from_mins(3);
/// Of 50 ms each at least.
const LOOKS: u32 = 2_000;
const UNFINISHED: &str =
    "SELECT count(*) FROM registrations WHERE state IN ('pending', 'created', 'undoing')";
/// Leases and pauses are over, and whoever was not found has not been found before.
const LATER: &str =
    "UPDATE registrations SET next_try_at = 0, absences = 1 WHERE state IN ('pending', 'created', 'undoing')";

struct Scene {
    realm: Realm,
    database: Database,
    home: Home,
    counter: Arc<Counter>,
}

fn address_of(url: &str) -> SocketAddr {
    let url = Url::parse(url).unwrap();
    format!("127.0.0.1:{}", url.port_or_known_default().unwrap()).parse().unwrap()
}

impl Scene {
    async fn set() -> Self {
        let mut realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let database = Database::postgres().await;
        let counter = Counter::new();
        let to_keycloak = wire::lay("Keycloak", address_of(&realm.issuer), &counter).await;
        let mut issuer = Url::parse(&realm.issuer).unwrap();
        issuer.set_port(Some(to_keycloak.port())).unwrap();
        realm.issuer = issuer.to_string();
        let mut url = Url::parse(&database.url).unwrap();
        let to_postgres = wire::lay("PostgreSQL", postgres_address(&url), &counter).await;
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(to_postgres.port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let text = format!("{}\n{DEMO_ROUTES}", registering(&realm));
        let home = Home::with_config(&text)
            .env("DOORWARD__DATABASE__URL", url.as_str())
            .env("DOORWARD__LIMITS__REGISTER", "off");
        home.write_key("secrets/k1");
        home.open().await.stop().await;
        Self { realm, database, home, counter }
    }

    /// Starts the program once leases are over, and waits until it has settled what its predecessor left.
    async fn recover(&self) -> Process {
        // A lease outlives every call. Only its time is cut short here, never the calls that it waits for.
        self.counter.quiet().await;
        self.database.execute(LATER).await;
        let process = self.home.open().await;
        // Counted, not timed: a machine that stands still for minutes lets nobody work meanwhile.
        let mut looks = 0;
        while self.database.number(UNFINISHED).await > 0 {
            let rows = "SELECT state || ' ' || username || ' ' || attempts FROM registrations WHERE state IN ('pending', 'created', 'undoing')";
            let left = self.database.texts(rows).await;
            assert!(looks < LOOKS, "{left:?}\n{}", process.log());
            looks += 1;
            self.database.execute(LATER).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process
    }

    /// Everybody is there on both sides or on neither.
    async fn is_whole(&self, at: &str) {
        invariants::hold(&self.database).await;
        let there = self.realm.admin(Method::GET, "/users?email=new.example&max=5000", None).await;
        let there: BTreeSet<String> =
            there.as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect();
        let here = self.database.texts("SELECT subject FROM users").await.into_iter().collect();
        assert_eq!(there, here, "Keycloak and the database differ after {at}");
    }
}

fn postgres_address(url: &Url) -> SocketAddr {
    format!("127.0.0.1:{}", url.port().unwrap_or(5432)).parse().unwrap()
}

fn registration(url: &str, name: &str) -> reqwest::RequestBuilder {
    http()
        .post(format!("{url}/auth/register"))
        .header("content-type", "application/json")
        .header("idempotency-key", name)
        .body(wish(name).to_string())
}

async fn registers(url: String, name: String) -> Option<u16> {
    registration(&url, &name).send().await.ok().map(|answer| answer.status().as_u16())
}

/// As a client with a key should: what is not to be had now is asked for again, after as long as the answer says.
async fn repeats(scene: &Scene, process: &Process, name: &str) -> Option<u16> {
    let patience = Instant::now() + PATIENCE;
    loop {
        let request = registration(&process.public_url, name);
        let answer = request.send().await.ok()?;
        let wait = answer.headers().get("retry-after").and_then(|s| s.to_str().ok()?.parse().ok());
        match (answer.status().as_u16(), wait) {
            (503, Some(wait)) if Instant::now() < patience => {
                scene.database.execute(LATER).await;
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            (status, _) => return Some(status),
        }
    }
}

#[tokio::test]
async fn rg_02_killed_at_each_message_a_registration_is_whole_or_absent_and_the_key_still_answers() {
    let scene = Scene::set().await;
    let mut process = scene.recover().await;
    for deliver in [true, false] {
        let mut cuts = Vec::new();
        // What the program does beside the request is counted too, and may take the place of one of its messages.
        for pass in 0..5 {
            cut_at_each(&scene, &mut process, (deliver, pass), &mut cuts).await;
            if are_all(&cuts) {
                break;
            }
        }
        assert!(are_all(&cuts), "deliver: {deliver}: {cuts:#?}");
    }
    scene.is_whole("the end").await;
}

/// Whether the cuts went through a whole registration.
fn are_all(cuts: &[String]) -> bool {
    let of = |side: &str| cuts.iter().filter(|cut| cut.starts_with(side)).count();
    let asked = cuts.iter().any(|cut| cut.starts_with("to Keycloak: POST /admin/realms"));
    asked && of("from Keycloak: HTTP/1.1 201") >= 1 && of("to PostgreSQL") >= 8
}

/// One registration after the other, each cut a message later than the one before, until one comes through.
async fn cut_at_each(
    scene: &Scene,
    process: &mut Process,
    (deliver, pass): (bool, u32),
    cuts: &mut Vec<String>,
) {
    for nth in 0.. {
        let name = format!("p{}-{pass}-{nth}", u8::from(deliver));
        at_rest(process).await;
        scene.counter.arm(nth);
        let asked = tokio::spawn(registers(process.public_url.clone(), name.clone()));
        let answered = async {
            while !asked.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let patience = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                biased;
                at = scene.counter.cut() => Some(at),
                () = answered => None,
            }
        });
        let Some(at) = patience.await.expect("neither an answer nor a cut") else {
            assert_eq!(asked.await.unwrap(), Some(201), "{}", process.log());
            return;
        };
        process.kill();
        scene.counter.release(deliver);
        asked.abort();
        *process = scene.recover().await;
        scene.is_whole(&format!("{name} at message {nth}, {at}")).await;
        cuts.push(at);
        // The client repeats itself and gets the one answer: 201, whichever side of the cut it was on.
        let again = repeats(scene, process, &name).await;
        assert_eq!(again, Some(201), "{name} after a cut at message {nth}: {cuts:?}\n{}", process.log());
    }
}

/// Until the jobs of a start are done: what they say would be counted as the registration's.
async fn at_rest(process: &Process) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let told = process.operations("/metrics").await.text();
        if JOBS.iter().all(|job| told.contains(&format!("doorward_job_runs_total{{job=\"{}\"", job.name))) {
            return;
        }
        assert!(Instant::now() < patience, "{told}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn re_11_a_frozen_process_wakes_to_a_registration_that_another_has_finished() {
    let scene = Scene::set().await;
    let (frozen, _other) = (scene.home.open().await, scene.home.open().await);
    scene.counter.hold_at("from Keycloak: HTTP/1.1 201");
    let asked = tokio::spawn(registers(frozen.public_url.clone(), "sleeper".into()));
    tokio::time::timeout(PATIENCE, scene.counter.cut()).await.expect("Keycloak's answer");
    frozen.signal("STOP");
    scene.counter.release(true);
    let patience = Instant::now() + PATIENCE;
    while scene.database.number(UNFINISHED).await > 0 {
        assert!(Instant::now() < patience, "nobody took it over");
        scene.database.execute(LATER).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    frozen.signal("CONT");
    assert_eq!(asked.await.unwrap(), Some(201), "{}", frozen.log());
    scene.is_whole("the sleeper woke").await;
    for (what, count) in [
        ("users WHERE username = 'sleeper'", 1),
        ("audit_log WHERE event = 'registration'", 1),
        ("registrations WHERE state = 'finished'", 1),
    ] {
        assert_eq!(scene.database.number(&format!("SELECT count(*) FROM {what}")).await, count, "{what}");
    }
}

/// Random kills under load; `DOORWARD_TEST_LONG` makes them two hundred.
#[tokio::test]
async fn re_04_re_05_random_kills_under_load_leave_no_orphan_on_either_side() {
    let long = std::env::var_os("DOORWARD_TEST_LONG").is_some();
    let scene = Scene::set().await;
    let (mut done, mut lost) = (0, 0);
    for round in 0..if long { 200 } else { 4 } {
        let mut process = scene.recover().await;
        let mut people = JoinSet::new();
        for person in 0..6 {
            people.spawn(registers(process.public_url.clone(), format!("r{round}-{person}")));
        }
        let pause = u64::from(random_key()[0]) * 2 % 300;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        process.kill();
        for answer in people.join_all().await {
            assert!(matches!(answer, None | Some(201)), "{answer:?}");
            done += u32::from(answer.is_some());
            lost += u32::from(answer.is_none());
        }
    }
    let process = scene.recover().await;
    scene.is_whole("random kills").await;
    let finished = scene.database.number("SELECT count(*) FROM users").await;
    assert!(finished >= i64::from(done), "{finished} users, {done} were promised, {lost} unanswered");
    let after = registers(process.public_url.clone(), "afterwards".into()).await;
    assert_eq!(after, Some(201), "{}", json!({ "done": done, "lost": lost }));
}
