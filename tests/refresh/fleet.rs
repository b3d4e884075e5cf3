//! The promise under fire: three real processes, PostgreSQL, hundreds of requests at the moment of expiry.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::house::browser::Browser;
use crate::house::fleet::{Fleet, keycloak_home};
use crate::house::op::{Answer, Gate, ScriptedOp};
use crate::house::process::Home;
use crate::house::servers::keycloak::{self, RealmSpec};

const CROWD: usize = 500;

/// Waits until the first of the stored access tokens is over.
async fn expiry(fleet: &Fleet) {
    let over = fleet.database.number("SELECT min(token_expires_at) FROM sessions").await;
    loop {
        let now = fleet
            .database
            .number("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)")
            .await;
        if now > over {
            return;
        }
        tokio::time::sleep(Duration::from_millis(u64::try_from(over - now).unwrap() + 1)).await;
    }
}

/// Hundreds of requests of one person at once, over all replicas; how each was answered, and how long the slowest took.
async fn crowd(fleet: &Fleet, person: &Browser, count: usize) -> (Vec<u16>, Duration) {
    let doors = fleet.everywhere(person);
    let began = Instant::now();
    let asked = (0..count).map(|n| {
        let door = doors[n % doors.len()].clone();
        async move { door.get("/protected").await.status }
    });
    (futures_util::future::join_all(asked).await, began.elapsed())
}

async fn live(fleet: &Fleet) -> i64 {
    fleet.database.number("SELECT count(*) FROM sessions WHERE revoked_at IS NULL").await
}

async fn generations(fleet: &Fleet) -> Vec<String> {
    fleet.database.texts("SELECT CAST(generation AS TEXT) FROM sessions ORDER BY created_at").await
}

/// A fleet and a person whose next tokens live long: the storm meets one expiry, not several.
async fn before_the_storm(op: &ScriptedOp) -> (Fleet, Browser) {
    let fleet = Fleet::open(Home::with_op(op), 3).await;
    op.script(|s| s.token_life_s = 2);
    let person = fleet.signed_in().await;
    op.script(|s| s.token_life_s = 300);
    op.clear();
    (fleet, person)
}

fn all_well(answers: &[u16], fleet: &Fleet) {
    let odd: Vec<_> = answers.iter().filter(|status| **status != 200).collect();
    assert!(odd.is_empty(), "{odd:?}\n{}", fleet.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rt_01_a_crowd_at_the_moment_of_expiry_costs_one_call() {
    let op = ScriptedOp::start().await;
    let (fleet, person) = before_the_storm(&op).await;
    expiry(&fleet).await;
    let (answers, took) = crowd(&fleet, &person, CROWD).await;
    all_well(&answers, &fleet);
    assert_eq!(op.count("/token"), 1, "{took:?}");
    assert_eq!((live(&fleet).await, generations(&fleet).await), (1, vec!["2".to_owned()]));
    // The new refresh token is the good one.
    let (answers, _) = crowd(&fleet, &person, 30).await;
    all_well(&answers, &fleet);
    assert_eq!(op.count("/token"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rt_01_a_crowd_before_a_slow_token_endpoint_costs_one_call() {
    let op = ScriptedOp::start().await;
    let (fleet, person) = before_the_storm(&op).await;
    let gate = Gate::closed();
    op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
    expiry(&fleet).await;
    let slow = async {
        gate.arrived(1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        gate.open();
    };
    let ((answers, took), ()) = tokio::join!(crowd(&fleet, &person, CROWD), slow);
    all_well(&answers, &fleet);
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!(op.count("/token"), 1);
    assert_eq!((live(&fleet).await, generations(&fleet).await), (1, vec!["2".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rt_05_a_crowd_before_a_failing_token_endpoint_costs_two_calls_one_after_the_other() {
    let op = ScriptedOp::start().await;
    let (fleet, person) = before_the_storm(&op).await;
    op.script(|s| s.next("/token", Answer::text(500, "text/html", "oops")));
    expiry(&fleet).await;
    let (answers, _) = crowd(&fleet, &person, CROWD).await;
    all_well(&answers, &fleet);
    let calls = op.requests_to("/token");
    assert_eq!(calls.len(), 2);
    assert!(calls[1].at - calls[0].at >= 250, "one after the other");
    assert_eq!(calls[0].form("refresh_token"), calls[1].form("refresh_token"));
    assert_eq!((live(&fleet).await, generations(&fleet).await), (1, vec!["2".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rt_02_a_winner_that_dies_before_it_stores_costs_one_more_call_and_at_most_its_own_session() {
    let op = ScriptedOp::start().await;
    let fleet = Fleet::open(Home::with_op(&op), 3).await;
    let bystander = fleet.signed_in().await;
    op.script(|s| s.token_life_s = 2);
    let person = fleet.signed_in().await;
    op.script(|s| s.token_life_s = 300);
    op.clear();
    let mut fleet = fleet;
    let gate = Gate::closed();
    op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
    expiry(&fleet).await;
    // The provider has rotated the token, and the one who asked dies before it hears so.
    let doomed = person.by_way_of(fleet.processes[0].public);
    let asking = tokio::spawn(async move { doomed.try_get("/protected").await.is_ok() });
    gate.arrived(1).await;
    let died = Instant::now();
    fleet.processes[0].kill();
    assert!(!asking.await.unwrap(), "nobody answers");
    op.script(|s| drop(s.hold_answer.remove("/token")));
    gate.open();
    fleet.processes.remove(0);
    // Meanwhile nobody else calls, and nobody is sent away.
    let (answers, _) = crowd(&fleet, &person, 30).await;
    all_well(&answers, &fleet);
    assert_eq!(op.count("/token"), 1);
    let over = died + Duration::from_secs(25);
    while op.count("/token") < 2 {
        assert!(Instant::now() < over, "nobody took over\n{}", fleet.logs());
        person.by_way_of(fleet.processes[0].public).get("/protected").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(died.elapsed() > Duration::from_secs(13), "only after the lease: {:?}", died.elapsed());
    // That call was refused, for the token was spent: this session is over, once, and without a loop.
    let (answers, _) = crowd(&fleet, &person, 30).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    assert_eq!(op.count("/token"), 2);
    let events = "SELECT reason FROM audit_log WHERE event = 'session.ended'";
    assert_eq!(fleet.database.texts(events).await, ["refresh_refused"]);
    assert_eq!(live(&fleet).await, 1);
    assert_eq!(bystander.by_way_of(fleet.processes[0].public).get("/protected").await.status, 200);
    let page = person.by_way_of(fleet.processes[1].public).sign_in("/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "signing in again is all it takes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rt_01_a_crowd_at_keycloak_with_rotation_and_reuse_detection_stays_signed_in() {
    let spec = RealmSpec { access_token_seconds: Some(2), ..RealmSpec::default() };
    let realm = keycloak::server().await.realm(spec).await;
    let fleet = Fleet::open(keycloak_home(&realm, ""), 3).await;
    let person = fleet.signed_in_at(&realm, "alice").await;
    realm.admin(Method::PUT, "", Some(&json!({ "accessTokenLifespan": 300 }))).await;
    // Keycloak remembers no refreshes unless it is told to.
    let remembered = json!({
        "eventsEnabled": true, "eventsListeners": ["jboss-logging"],
        "enabledEventTypes": ["REFRESH_TOKEN", "REFRESH_TOKEN_ERROR"],
    });
    realm.admin(Method::PUT, "/events/config", Some(&remembered)).await;
    expiry(&fleet).await;
    let (answers, _) = crowd(&fleet, &person, CROWD).await;
    all_well(&answers, &fleet);
    assert_eq!((live(&fleet).await, generations(&fleet).await), (1, vec!["2".to_owned()]));
    let refreshes = realm.admin(Method::GET, "/events?type=REFRESH_TOKEN&max=100", None).await;
    assert_eq!(refreshes.as_array().map(Vec::len), Some(1), "{refreshes}");
    let errors = realm.admin(Method::GET, "/events?type=REFRESH_TOKEN_ERROR&max=100", None).await;
    assert_eq!(errors.as_array().map(Vec::len), Some(0), "{errors}");
    // The stored token is the living one: Keycloak would refuse every other.
    fleet.rewrite("UPDATE sessions SET token_expires_at = 0").await;
    // The word of it takes a moment to reach those who remember the session.
    let heard = Instant::now();
    while generations(&fleet).await == ["2"] {
        assert!(heard.elapsed() < Duration::from_secs(5), "nobody hears of it");
        let (answers, _) = crowd(&fleet, &person, 30).await;
        all_well(&answers, &fleet);
    }
    assert_eq!((live(&fleet).await, generations(&fleet).await), (1, vec!["3".to_owned()]));
}
