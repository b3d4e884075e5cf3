//! The login story, told against every kind of provider and on both databases.

use doorward::dev_idp;

use crate::house::browser::Browser;
use crate::house::databases::on_each_database;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};
use crate::house::servers::http;
use crate::house::servers::keycloak::{self, RealmSpec};
use crate::house::servers::oidc_provider::{self, OpSpec};

/// What every login must give, once the browser has come back from the provider.
async fn is_signed_in(house: &TestHouse, browser: &Browser, name: &str) {
    let me = browser.get_json("/auth/me").await;
    assert_eq!(me.status, 200, "{}", me.text());
    let me = me.json();
    assert_eq!(me["user"]["username"], name);
    assert_eq!(me["user"]["email"], format!("{name}@example.test"));
    assert!(!me.to_string().contains("token"), "{me}");
    let page = browser.navigate("/protected").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains(name), "the app sees the person");
    let account = browser.navigate("/auth/account").await;
    assert!(account.text().contains(&format!("{name}@example.test")));
    assert_eq!(house.database.number("SELECT login_count FROM users").await, 1);
}

async fn leaves(house: &TestHouse, browser: &Browser) {
    let out = browser.post_form("/auth/logout", &[]).await;
    assert_eq!(out.status, 303);
    assert_eq!(browser.get_json("/auth/me").await.status, 401);
    assert_eq!(browser.navigate("/protected").await.status, 303, "the protected page asks to sign in");
    assert_eq!(house.live_sessions().await, 0);
}

on_each_database! {
    async fn alice_signs_in_at_the_development_issuer_and_out_again(db: Database) {
        let house = TestHouse::plan().database(&db).open().await;
        let browser = house.browser();
        let asked = browser.navigate("/protected").await;
        let form = browser.follow(asked, 5).await;
        assert!(form.url.path().starts_with("/dev-idp/"), "{}", form.url);
        let back = browser.submit(&form, form.forms().first().unwrap(), &[("username", "alice")]).await;
        let page = browser.follow(back, 5).await;
        assert_eq!(page.url.path(), "/protected");
        is_signed_in(&house, &browser, "alice").await;
        leaves(&house, &browser).await;
        assert_eq!(house.dev_idp().times_asked(dev_idp::Endpoint::Token), 1);
    }

    async fn a_person_signs_in_at_the_scripted_provider_and_out_again(db: Database) {
        let op = ScriptedOp::start().await;
        op.script(|s| s.person = Person::named("ada").with("preferred_username", "ada").with("email", "ada@example.test"));
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let browser = house.browser();
        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"));
        is_signed_in(&house, &browser, "ada").await;
        leaves(&house, &browser).await;
    }

    async fn alice_signs_in_at_keycloak_and_out_again(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let provider = format!(
            "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\n",
            realm.issuer, realm.client_id, realm.client_secret
        );
        let house = TestHouse::with(&provider).database(&db).open().await;
        let browser = house.browser();
        let start = browser.navigate("/auth/login?return_to=/protected").await;
        let callback = keycloak::sign_in(&http(), start.location().unwrap().as_str(), "alice", "alice-pass-1").await;
        let page = browser.follow(browser.click(&realm.issuer, &callback).await, 5).await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
        is_signed_in(&house, &browser, "alice").await;
        let roles = browser.get_json("/auth/me").await.json()["user"]["roles"].to_string();
        assert!(roles.contains("user"), "Keycloak's realm roles come from its access token: {roles}");
        leaves(&house, &browser).await;
    }

    async fn a_person_signs_in_at_a_certified_provider_and_out_again(db: Database) {
        let house_port = crate::house::home::free_port();
        let origin = format!("http://localhost:{house_port}");
        let op = oidc_provider::server(OpSpec {
            redirect_uris: vec![format!("{origin}/auth/callback/op")],
            post_logout_redirect_uris: vec![format!("{origin}/auth/signed-out")],
            ..OpSpec::default()
        })
        .await;
        let provider = format!(
            "[[provider]]\nid = \"op\"\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = '{}'\n",
            op.issuer,
            op.client_id,
            op.client_secret.clone()
        );
        let house = TestHouse::with(&provider).database(&db).set("SERVER__LISTEN", &format!("127.0.0.1:{house_port}")).open().await;
        let browser = house.browser();
        let start = browser.navigate("/auth/login?return_to=/protected").await;
        let callback = oidc_provider::sign_in(&http(), start.location().unwrap().as_str(), "carol").await;
        let page = browser.follow(browser.click(&op.issuer, &callback).await, 5).await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
        is_signed_in(&house, &browser, "carol").await;
        leaves(&house, &browser).await;
    }
}
