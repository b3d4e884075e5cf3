//! How tokens stay fresh, told against every kind of provider and on both databases.

mod api;
mod fleet;

use std::time::Duration;

use doorward::domain::Tokens;
use doorward::store::sessions;
use secrecy::{ExposeSecret as _, SecretString};

use crate::house::browser::Browser;
use crate::house::databases::on_each_database;
use crate::house::home::{TestHouse, free_port};
use crate::house::op::ScriptedOp;
use crate::house::servers::http;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};
use crate::house::servers::oidc_provider::{self, OpSpec};
use crate::security::{events, keep_time, signed_in};

/// The handle of the one session there is.
pub async fn only_session(house: &TestHouse) -> String {
    let ids = house.database.texts("SELECT id FROM sessions").await;
    let [id] = ids.as_slice() else { panic!("{ids:?}") };
    id.clone()
}

/// What the house holds of a session, opened with its own key.
pub async fn held(house: &TestHouse, id: &str) -> Tokens {
    let app = house.app();
    let mut reader = app.store.reader().await.unwrap();
    let sealed = sessions::tokens(&mut reader, id).await.unwrap().expect("a living session");
    sealed.open(&app.setup().ring).unwrap()
}

pub fn plain(token: Option<&SecretString>) -> String {
    token.expect("a token").expose_secret().to_owned()
}

pub async fn generation(house: &TestHouse) -> i64 {
    house.database.number("SELECT generation FROM sessions").await
}

pub fn keycloak_provider(realm: &Realm) -> String {
    format!(
        "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\n",
        realm.issuer, realm.client_id, realm.client_secret
    )
}

/// Signs in at Keycloak's own page, to a house in this process.
pub async fn signed_in_at(realm: &Realm, house: &TestHouse, name: &str) -> Browser {
    let browser = house.browser();
    let start = browser.navigate("/auth/login?return_to=/protected").await;
    let password = format!("{name}-pass-1");
    let callback = keycloak::sign_in(&http(), start.location().unwrap().as_str(), name, &password).await;
    let page = browser.follow(browser.click(&realm.issuer, &callback).await, 5).await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
    browser
}

/// Lets the stored access token be over. A real server has a clock of its own, from which the house's must not stray far.
async fn make_due(house: &TestHouse) {
    house.rewrite("UPDATE sessions SET token_expires_at = created_at").await;
    house.clock.advance(Duration::from_secs(2));
}

/// A use below the margin brings new tokens, one above it does not; twice, so that the new refresh token is proven good.
async fn stays_fresh(house: &TestHouse, browser: &Browser) {
    let id = only_session(house).await;
    for round in 1..=2 {
        let before = held(house, &id).await;
        assert_eq!(browser.get("/protected").await.status, 200);
        assert_eq!(generation(house).await, round, "nothing is due");
        make_due(house).await;
        let (one, two) = tokio::join!(browser.get("/protected"), browser.get_json("/auth/me"));
        assert_eq!((one.status, two.status), (200, 200));
        for page in [one, two] {
            assert!(page.set_cookies().is_empty(), "a renewal is nothing that a browser sees");
        }
        let after = held(house, &id).await;
        assert_eq!(generation(house).await, round + 1, "once per generation");
        assert_ne!(plain(before.access.as_ref()), plain(after.access.as_ref()));
        assert_ne!(plain(before.refresh.as_ref()), plain(after.refresh.as_ref()), "it rotates");
        assert!(after.access_expires_at_ms > before.access_expires_at_ms);
    }
    assert_eq!(browser.get_json("/auth/me").await.status, 200);
}

/// The provider's word ends the session, with one event, and the next use asks to sign in.
async fn ends_when_refused(house: &TestHouse, browser: &Browser, reason: &str) {
    make_due(house).await;
    assert_eq!(browser.get("/protected").await.status, 401);
    assert_eq!(browser.get_json("/auth/me").await.status, 401);
    let asked = browser.navigate("/protected").await;
    assert_eq!(asked.status, 303);
    assert!(asked.location().unwrap().path().ends_with("/auth/login"));
    let ended =
        format!("SELECT count(*) FROM audit_log WHERE event = 'session.ended' AND reason = '{reason}'");
    assert_eq!(house.database.number(&ended).await, 1);
    assert_eq!(events(house, "session.ended").await, 1);
    assert_eq!(house.live_sessions().await, 0);
}

on_each_database! {
    async fn a_session_at_the_development_issuer_stays_fresh(db: Database) {
        let house = TestHouse::plan().database(&db).open().await;
        let browser = house.browser();
        let asked = browser.navigate("/protected").await;
        let form = browser.follow(asked, 5).await;
        let back = browser.submit(&form, form.forms().first().unwrap(), &[("username", "alice")]).await;
        assert_eq!(browser.follow(back, 5).await.url.path(), "/protected");
        stays_fresh(&house, &browser).await;
    }

    async fn a_session_at_a_provider_that_ends_families_on_reuse_stays_fresh_until_it_is_refused(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let browser = signed_in(&house).await;
        stays_fresh(&house, &browser).await;
        op.revoke_all_grants();
        ends_when_refused(&house, &browser, "refresh_refused").await;
    }

    async fn a_session_at_keycloak_stays_fresh_until_an_administrator_ends_it(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let house = TestHouse::with(&keycloak_provider(&realm)).database(&db).open().await;
        let browser = signed_in_at(&realm, &house, "alice").await;
        stays_fresh(&house, &browser).await;
        realm.logout_user("alice").await;
        ends_when_refused(&house, &browser, "refresh_refused").await;
    }

    async fn whom_keycloak_disables_is_switched_off_here_too(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let house = TestHouse::with(&keycloak_provider(&realm)).database(&db).open().await;
        let first = signed_in_at(&realm, &house, "alice").await;
        house.clock.advance(Duration::from_secs(100));
        let second = signed_in_at(&realm, &house, "alice").await;
        realm.disable_user("alice").await;
        // Only the first session's tokens are due; what it learns ends the other one too.
        house.clock.advance(Duration::from_secs(150));
        assert_eq!(first.get("/protected").await.status, 401);
        assert_eq!(second.get("/protected").await.status, 401);
        assert_eq!(house.database.number("SELECT count(*) FROM users WHERE NOT is_active").await, 1);
        assert_eq!(events(&house, "session.ended").await, 2);
        assert_eq!(events(&house, "user.deactivated").await, 1);
        // Who is let in again there is let in again here.
        realm.change_user("alice", &serde_json::json!({ "enabled": true })).await;
        let again = signed_in_at(&realm, &house, "alice").await;
        assert_eq!(again.get("/protected").await.status, 200);
    }

    async fn a_session_at_a_certified_provider_stays_fresh_until_the_account_is_gone(db: Database) {
        let port = free_port();
        let op = oidc_provider::server(OpSpec {
            redirect_uris: vec![format!("http://localhost:{port}/auth/callback/op")],
            ..OpSpec::default()
        })
        .await;
        let provider = format!(
            "[[provider]]\nid = \"op\"\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = '{}'\n",
            op.issuer, op.client_id, op.client_secret
        );
        let name = format!("dora-{port}");
        let house = TestHouse::with(&provider).database(&db).set("SERVER__LISTEN", &format!("127.0.0.1:{port}")).open().await;
        let browser = house.browser();
        let start = browser.navigate("/auth/login?return_to=/protected").await;
        let callback = oidc_provider::sign_in(&http(), start.location().unwrap().as_str(), &name).await;
        let page = browser.follow(browser.click(&op.issuer, &callback).await, 5).await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
        stays_fresh(&house, &browser).await;
        op.remove(&name).await;
        ends_when_refused(&house, &browser, "refresh_refused").await;
    }
}

#[tokio::test]
async fn a_request_that_goes_away_does_not_take_the_renewal_with_it() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    let gate = crate::house::op::Gate::closed();
    op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
    house.clock.advance(Duration::from_secs(400));
    let leaving = browser.clone();
    let request = tokio::spawn(async move { leaving.get("/protected").await.status });
    gate.arrived(1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(browser.get("/protected").await.status, 200);
    assert_eq!(generation(&house).await, 2);
    assert_eq!(op.requests_to("/token").len(), 2, "the login's and one more");
    assert_eq!(house.live_sessions().await, 1);
}

#[tokio::test]
async fn a_margin_that_is_set_is_honoured() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("SESSION__REFRESH_MARGIN", "\"200s\"").open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    house.clock.advance(Duration::from_secs(97));
    assert_eq!(browser.get("/protected").await.status, 200);
    assert_eq!(generation(&house).await, 1);
    house.clock.advance(Duration::from_secs(5));
    assert_eq!(browser.get("/protected").await.status, 200);
    assert_eq!(generation(&house).await, 2);
}

#[tokio::test]
async fn a_metric_counts_renewals_by_their_outcome() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    house.clock.advance(Duration::from_secs(400));
    assert_eq!(browser.get("/protected").await.status, 200);
    op.revoke_all_grants();
    house.clock.advance(Duration::from_secs(400));
    assert_eq!(browser.get("/protected").await.status, 401);
    let page = Browser::new(&house.operations).get("/metrics").await.text();
    for line in [
        "doorward_refreshes_total{provider=\"op\",outcome=\"ok\"} 1",
        "doorward_refreshes_total{provider=\"op\",outcome=\"revoked\"} 1",
        "doorward_sessions_ended_total{reason=\"refresh_refused\"} 1",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}
