//! Everybody who may end a session, and everybody who has to know: stories at the scripted provider and at Keycloak.

use std::time::{Duration, Instant};

use doorward::domain::Status;
use doorward::store::{sessions, users};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::house::browser::Browser;
use crate::house::fleet::{Fleet, keycloak_home};
use crate::house::home::TestHouse;
use crate::house::op::{Answer, Gate, Person, ScriptedOp};
use crate::house::servers::http;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};
use crate::house::tab::Tab;
use crate::security::{is_signed_in, keep_time, signed_in};
use crate::stores;

const SOON: Duration = Duration::from_secs(5);

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not happen in 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn an_open_tab_hears_that_its_session_ended_whoever_ended_it() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let other = signed_in(&house).await;
    for way in ["button", "elsewhere", "provider", "suspended", "all"] {
        let browser = signed_in(&house).await;
        let (mut tab, mut second, mut bystander) =
            (Tab::open(&browser).await, Tab::open(&browser).await, Tab::open(&other).await);
        let mine = browser.get_json("/auth/sessions").await.json()["sessions"].as_array().unwrap().clone();
        let id = mine.iter().find(|one| one["current"] == true).unwrap()["id"].as_str().unwrap().to_owned();
        match way {
            "button" => assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303),
            "elsewhere" => assert_eq!(other.delete(&format!("/auth/sessions/{id}")).await.status, 204),
            "provider" => {
                let token = op.logout_token(Some("alice"), Some(op.sids().last().unwrap()), |_| {});
                let url = format!("{}/auth/backchannel-logout/op", house.url);
                assert_eq!(
                    http().post(url).form(&[("logout_token", token)]).send().await.unwrap().status(),
                    200
                );
            }
            "suspended" => {
                op.script(|s| s.person = Person::named("bob"));
                let bob = signed_in(&house).await;
                let mut bobs = Tab::open(&bob).await;
                let store = &house.app().store;
                stores::write(store, async |w| users::set_status(w, "bob", Status::Suspended, 1).await).await;
                bobs.ends(SOON).await;
                op.script(|s| s.person = Person::named("alice"));
                continue;
            }
            _ => assert_eq!(other.delete("/auth/sessions").await.status, 204),
        }
        tab.ends(SOON).await;
        second.ends(SOON).await;
        assert!(bystander.is_quiet(Duration::from_millis(20)).await, "{way}: another session's tab heard it");
        assert!(!is_signed_in(&browser).await, "{way}");
    }
}

#[tokio::test]
async fn an_open_tab_hears_that_its_user_changed_and_nobody_elses() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let mut tab = Tab::open(&browser).await;
    op.script(|s| s.person = Person::named("bob"));
    signed_in(&house).await;
    // The same facts again are no news.
    op.script(|s| s.person = Person::named("alice"));
    signed_in(&house).await;
    assert!(tab.is_quiet(Duration::from_millis(20)).await);
    house.clock.advance(Duration::from_secs(2));
    keep_time(&op, &house);
    op.script(|s| s.person = Person::named("alice").with("name", "Alicia"));
    signed_in(&house).await;
    assert_eq!(tab.next(SOON).await.as_deref(), Some("user-updated"));
    assert_eq!(browser.get_json("/auth/me").await.json()["user"]["displayName"], "Alicia");
}

#[tokio::test]
async fn se_04_listening_keeps_no_session_alive_and_the_stream_ends_with_it() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("SESSION__IDLE", "\"10m\"").open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    let mut tab = Tab::open(&browser).await;
    house.clock.advance(Duration::from_mins(9));
    assert_eq!(browser.navigate("/protected").await.status, 200);
    house.clock.advance(Duration::from_mins(9));
    assert!(tab.is_quiet(Duration::from_millis(1_500)).await, "the request kept the session alive");
    house.clock.advance(Duration::from_mins(2));
    tab.ends(SOON).await;
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test]
async fn event_streams_are_for_the_signed_in_limited_and_no_reason_to_stay_open() {
    let op = ScriptedOp::start().await;
    let mut house = TestHouse::with_op(&op).open().await;
    assert_eq!(house.browser().get_json("/auth/events").await.status, 401);
    let browser = signed_in(&house).await;
    assert_eq!(browser.post_json("/auth/events", &json!({})).await.status, 405);
    let mut tabs = Vec::new();
    for _ in 0..16 {
        tabs.push(Tab::open(&browser).await);
    }
    let full = browser.get_json("/auth/events").await;
    assert_eq!((full.status, full.json()["code"].as_str()), (429, Some("too_many")));
    // Who closes a tab makes room.
    tabs.pop();
    until("room", async || browser.open("/auth/events").await.status() == 200).await;
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    assert!(metrics.contains("doorward_event_streams "), "{metrics}");
    let began = Instant::now();
    tokio::task::spawn_blocking(move || house.close()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "a stop waited {:?} for tabs", began.elapsed());
    assert_eq!(tabs.remove(0).next(SOON).await, None, "a stop is no logout");
}

/// Makes the newest session one of an API client; its handle.
async fn as_client(house: &TestHouse) -> String {
    house.rewrite("UPDATE sessions SET kind = 'api' WHERE revoked_at IS NULL").await;
    house.database.texts("SELECT id FROM sessions WHERE revoked_at IS NULL").await.remove(0)
}

async fn leaves(house: &TestHouse, body: &Value) -> (u16, Value) {
    let url = format!("{}/auth/logout", house.url);
    let sent = http().post(url).header("content-type", "application/json").body(body.to_string());
    let answer = sent.send().await.unwrap();
    assert!(answer.headers().get("set-cookie").is_none());
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test]
async fn an_api_client_leaves_by_its_refresh_token_and_by_nothing_less() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.token_response(|body| {
            body.insert("refresh_token".into(), "the-token".into());
        });
    });
    let house = TestHouse::with_op(&op).open().await;
    signed_in(&house).await;
    let browsers = house.database.texts("SELECT id FROM sessions").await.remove(0);
    let of_browser = leaves(&house, &json!({ "sessionId": browsers, "refreshToken": "the-token" })).await;
    assert_eq!(of_browser.0, 401, "a browser's session is no client's");
    let id = as_client(&house).await;
    for (case, body, status, code) in [
        ("another token", json!({ "sessionId": id, "refreshToken": "the-tokem" }), 401, "session_ended"),
        ("an empty token", json!({ "sessionId": id, "refreshToken": "" }), 401, "session_ended"),
        (
            "an unknown session",
            json!({ "sessionId": "x", "refreshToken": "the-token" }),
            401,
            "session_ended",
        ),
        ("no token", json!({ "sessionId": id }), 400, "invalid_request"),
        ("no session", json!({ "refreshToken": "the-token" }), 400, "invalid_request"),
        ("numbers", json!({ "sessionId": 1, "refreshToken": 2 }), 400, "invalid_request"),
    ] {
        let (answered, body) = leaves(&house, &body).await;
        assert_eq!((answered, body["code"].as_str()), (status, Some(code)), "{case}");
    }
    assert_eq!((house.live_sessions().await, op.count("/revoke")), (1, 0));
    let gate = Gate::closed();
    op.script(|s| s.hold_before.insert("/revoke".into(), gate.clone()));
    let (status, body) = leaves(&house, &json!({ "sessionId": id, "refreshToken": "the-token" })).await;
    assert_eq!((status, body), (200, json!({ "message": "Signed out." })));
    gate.arrived(1).await;
    assert_eq!(house.live_sessions().await, 0, "the row was dead before the provider heard of it");
    gate.open();
    until("the revocation", async || op.count("/revoke") == 1).await;
    assert_eq!(op.requests_to("/revoke")[0].form("token").as_deref(), Some("the-token"));
    let again = leaves(&house, &json!({ "sessionId": id, "refreshToken": "the-token" })).await;
    assert_eq!(again.0, 401);
}

#[tokio::test]
async fn lo_02_an_api_client_leaves_while_the_provider_is_down_and_not_while_the_database_is() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.token_response(|body| {
            body.insert("refresh_token".into(), "the-token".into());
        });
    });
    let house = TestHouse::with_op(&op).open().await;
    signed_in(&house).await;
    let body = json!({ "sessionId": as_client(&house).await, "refreshToken": "the-token" });
    house.database.execute("ALTER TABLE audit_log RENAME TO away").await;
    assert!(leaves(&house, &body).await.0 >= 500);
    house.database.execute("ALTER TABLE away RENAME TO audit_log").await;
    assert_eq!(house.live_sessions().await, 1, "half a logout is none");
    op.script(|s| s.answer("/revoke", Answer::Hang));
    let began = Instant::now();
    assert_eq!(leaves(&house, &body).await.0, 200);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_script_of_our_own_pages_leaves_with_its_cookie_in_json() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let left = browser.post_json("/auth/logout", &json!({})).await;
    assert_eq!(left.status, 200, "{}", left.text());
    assert!(left.json()["redirectTo"].as_str().unwrap().starts_with(&op.url("/end-session")));
    assert!(!is_signed_in(&browser).await);
}

fn keycloak_provider(realm: &Realm) -> String {
    format!(
        "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\n",
        realm.issuer, realm.client_id, realm.client_secret
    )
}

async fn enters(house: &TestHouse, realm: &Realm) -> Browser {
    let browser = house.browser();
    let start = browser.navigate("/auth/login?return_to=/protected").await;
    let asked = start.location().unwrap();
    let callback = keycloak::sign_in(&http(), asked.as_str(), "alice", "alice-pass-1").await;
    let page = browser.follow(browser.click(&realm.issuer, &callback).await, 5).await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
    browser
}

async fn sessions_at(realm: &Realm, user: &str) -> usize {
    let id = realm.user_id(user).await;
    realm.admin(Method::GET, &format!("/users/{id}/sessions"), None).await.as_array().unwrap().len()
}

#[tokio::test]
async fn leaving_ends_keycloaks_session_too_although_it_calls_back_before_it_answers() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let house = TestHouse::with(&keycloak_provider(&realm)).open().await;
    realm.set_backchannel_logout(&format!("{}/auth/backchannel-logout/keycloak", house.url)).await;
    // By the button, and the person never arrives at Keycloak's own logout page.
    let browser = enters(&house, &realm).await;
    assert_eq!(sessions_at(&realm, "alice").await, 1);
    assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303);
    let took = until("Keycloak's end", async || sessions_at(&realm, "alice").await == 0).await;
    assert!(took < Duration::from_secs(4), "Keycloak waited for us: {took:?}");
    // By an API client.
    enters(&house, &realm).await;
    let id = as_client(&house).await;
    let app = house.app();
    let sealed = sessions::tokens(&mut app.store.reader().await.unwrap(), &id).await.unwrap().unwrap();
    let token = sealed.open(&app.setup().ring).unwrap().refresh.unwrap();
    let body = json!({ "sessionId": id, "refreshToken": token.expose_secret() });
    assert_eq!(leaves(&house, &body).await.0, 200);
    let took = until("Keycloak's end", async || sessions_at(&realm, "alice").await == 0).await;
    assert!(took < Duration::from_secs(4), "Keycloak waited for us: {took:?}");
    let heard = "SELECT count(*) FROM audit_log WHERE event = 'logout.backchannel'";
    until("both calls back", async || house.database.number(heard).await == 2).await;
    assert_eq!(
        house.database.number("SELECT count(*) FROM audit_log WHERE event = 'logout.refused'").await,
        0
    );
}

/// Stands at the public origin and leads to the last process, as a balancer would.
fn balancer(fleet: &Fleet) {
    let at = url::Url::parse(&fleet.public_url).unwrap().port().unwrap();
    let to = fleet.processes.last().unwrap().public;
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", at)).await.unwrap();
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut onward = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut onward).await;
            });
        }
    });
}

async fn name_only_the_person(realm: &Realm) {
    let found = realm.admin(Method::GET, "/clients?clientId=doorward", None).await;
    let id = found[0]["id"].as_str().unwrap();
    let body = json!({ "attributes": { "backchannel.logout.session.required": "false" } });
    realm.admin(Method::PUT, &format!("/clients/{id}"), Some(&body)).await;
}

#[tokio::test]
async fn keycloaks_administrator_logs_a_person_out_of_three_browsers_on_three_processes() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let fleet = Fleet::open(keycloak_home(&realm, ""), 3).await;
    balancer(&fleet);
    realm.set_backchannel_logout(&format!("{}/auth/backchannel-logout/keycloak", fleet.public_url)).await;
    name_only_the_person(&realm).await;
    let (mut tabs, mut people) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let person = fleet.signed_in_at(&realm, "alice").await;
        let here = fleet.everywhere(&person).remove(n);
        tabs.push(Tab::open(&here).await);
        people.push(person);
    }
    let bob = fleet.signed_in_at(&realm, "bob").await;
    let mut bobs = Tab::open(&bob).await;
    realm.logout_user("alice").await;
    for tab in &mut tabs {
        tab.ends(SOON).await;
    }
    for person in &people {
        for at in fleet.everywhere(person) {
            assert!(!is_signed_in(&at).await, "{}", fleet.logs());
        }
    }
    assert!(bobs.is_quiet(Duration::from_millis(20)).await && is_signed_in(&bob).await);
}

#[tokio::test]
async fn of_six_sessions_keycloak_names_one_and_all_six_end_on_every_process() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let fleet = Fleet::open(keycloak_home(&realm, ""), 3).await;
    balancer(&fleet);
    realm.set_backchannel_logout(&format!("{}/auth/backchannel-logout/keycloak", fleet.public_url)).await;
    let mut people = Vec::new();
    for _ in 0..6 {
        people.push(fleet.signed_in_at(&realm, "alice").await);
    }
    let bob = fleet.signed_in_at(&realm, "bob").await;
    realm.logout_user("alice").await;
    let ended = "SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL";
    assert_eq!(fleet.database.number(ended).await, 1, "{}", fleet.logs());
    let doubted = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND must_prove";
    assert_eq!(fleet.database.number(doubted).await, 5);
    for (n, person) in people.iter().enumerate() {
        let at = fleet.everywhere(person);
        assert!(!is_signed_in(&at[n % 3]).await, "{}", fleet.logs());
        assert_eq!(at[(n + 1) % 3].navigate("/protected").await.status, 303);
    }
    assert_eq!(fleet.database.number(ended).await, 6);
    assert!(is_signed_in(&bob).await);
}

#[tokio::test]
async fn a_session_in_doubt_asks_the_provider_and_waits_while_that_is_down() {
    let op = ScriptedOp::start().await;
    let provider =
        crate::house::home::op_provider("op", &op).replace("kind = \"oidc\"", "kind = \"keycloak\"");
    let house = TestHouse::with(&provider).open().await;
    let tell = async |token: String| {
        let url = format!("{}/auth/backchannel-logout/op", house.url);
        assert_eq!(http().post(url).form(&[("logout_token", token)]).send().await.unwrap().status(), 200);
    };
    let (one, other) = (signed_in(&house).await, signed_in(&house).await);
    let sids = op.sids();
    tell(op.logout_token(Some("alice"), Some(&sids[0]), |_| {})).await;
    assert!(!is_signed_in(&one).await);
    op.script(|s| s.answer("/token", Answer::error(503, "temporarily_unavailable")));
    let asked = other.get_json("/auth/me").await;
    assert_eq!((asked.status, house.live_sessions().await), (503, 1), "{}", asked.text());
    op.script(|s| s.answer("/token", Answer::Normal));
    // A failed try pauses the session for a moment.
    house.clock.advance(Duration::from_secs(40));
    assert!(is_signed_in(&other).await, "the provider still honours it");
    let calls = op.count("/token");
    assert!(is_signed_in(&other).await);
    assert_eq!(op.count("/token"), calls, "a proof is asked once");
    let third = signed_in(&house).await;
    tell(op.logout_token(Some("alice"), op.sids().last().map(String::as_str), |_| {})).await;
    assert!(!is_signed_in(&third).await);
    op.revoke_all_grants();
    assert!(!is_signed_in(&other).await, "refused");
    assert_eq!(house.live_sessions().await, 0);
}
