//! Login by name and password: programs get tokens and no cookie, people a cookie and no token.

use serde_json::{Value, json};

use crate::house::browser::Page;
use crate::house::databases::on_each_database;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};
use crate::house::servers::chromium;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};

/// A house whose development issuer also shows its form.
const DEV_FORM: &str = "[[provider]]\nid = \"dev\"\nkind = \"dev\"\nclient_id = \"doorward\"\nlabel = \"Company login\"\npassword_login = true\npassword_form = true\n";

pub fn keycloak_provider(realm: &Realm) -> String {
    format!(
        "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nlabel = \"Company login\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\npassword_login = true\npassword_form = true\n",
        realm.issuer, realm.client_id, realm.client_secret
    )
}

async fn login(house: &TestHouse, username: &str, password: &str) -> Page {
    house.browser().post_json("/auth/login", &json!({ "username": username, "password": password })).await
}

fn fields_at_fault(page: &Page) -> Vec<String> {
    let errors = page.json()["errors"].as_array().cloned().unwrap_or_default();
    errors
        .iter()
        .map(|e| format!("{} {}", e["field"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect()
}

fn assert_tokens(answer: &Value) {
    let tokens = answer["tokens"].as_object().unwrap();
    for name in ["access_token", "refresh_token", "id_token"] {
        assert!(tokens[name].as_str().is_some_and(|token| !token.is_empty()), "{name}");
    }
    assert_eq!(tokens["token_type"], "Bearer");
    assert!(tokens["expires_in"].as_i64().is_some_and(|s| (250..=300).contains(&s)), "{tokens:?}");
}

on_each_database! {
    async fn a_program_signs_in_at_the_development_issuer(db: Database) {
        let house = TestHouse::plan().database(&db).open().await;
        let page = login(&house, "alice", "alice").await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.set_cookies().is_empty() && page.header("cache-control") == Some("no-store"));
        let answer = page.json();
        assert_eq!(answer["message"], "Login successful");
        let user = json!({ "id": "alice", "email": "alice@example.test", "username": "alice", "firstName": "Alice", "lastName": "Archer" });
        assert_eq!(answer["user"], user);
        assert_tokens(&answer);
        let id = answer["sessionId"].as_str().unwrap();
        let row = house.database.texts(&format!("SELECT kind || ' ' || user_id FROM sessions WHERE id = '{id}'")).await;
        assert_eq!(row, ["api alice"]);
        let audit = house.database.texts("SELECT event || ' ' || outcome FROM audit_log WHERE event = 'login'").await;
        assert_eq!(audit, ["login success"]);
        // By e-mail address as well; a wrong password is 401 and leaves no session.
        assert_eq!(login(&house, "alice@example.test", "alice").await.status, 200);
        let wrong = login(&house, "alice", "Alice").await;
        assert_eq!((wrong.status, wrong.json()["code"].as_str()), (401, Some("invalid_credentials")));
        assert_eq!(house.live_sessions().await, 2);
        assert_eq!(house.refusals("invalid_credentials").await, 1);
    }

    async fn a_program_signs_in_at_keycloak_with_roles_and_a_session_there(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let house = TestHouse::with(&keycloak_provider(&realm)).database(&db).open().await;
        let page = login(&house, "ALICE@example.test", "alice-pass-1").await;
        assert_eq!(page.status, 200, "{}", page.text());
        let answer = page.json();
        assert_tokens(&answer);
        assert_eq!(answer["user"]["username"], "alice");
        assert_eq!(answer["user"]["id"], realm.user_id("alice").await);
        let roles = house.database.texts("SELECT roles FROM users").await;
        assert!(roles[0].contains("user"), "{roles:?}");
        assert_eq!(house.database.number("SELECT count(*) FROM sessions WHERE provider_session_id IS NOT NULL").await, 1);
        for (name, password) in [("alice", "wrong"), ("nobody", "alice-pass-1"), ("alice", "alice-pass-1 "), ("alice", "Alice-pass-1")] {
            let page = login(&house, name, password).await;
            assert_eq!((page.status, page.json()["code"].as_str()), (401, Some("invalid_credentials")), "{name} {password}");
        }
        // Keycloak says "disabled" before it looks at the password, so nobody hears it here.
        realm.disable_user("bob").await;
        for password in ["bob-pass-1", "wrong"] {
            let page = login(&house, "bob", password).await;
            assert_eq!((page.status, page.json()["code"].as_str()), (401, Some("invalid_credentials")), "{password}");
        }
        // "Not fully set up" comes after the right password alone.
        realm.change_user("ada", &json!({ "requiredActions": ["UPDATE_PASSWORD"] })).await;
        let page = login(&house, "ada", "ada-pass-1").await;
        assert_eq!((page.status, page.json()["code"].as_str()), (403, Some("account_action_required")), "{}", page.text());
        assert_eq!(login(&house, "ada", "wrong").await.status, 401);
        assert_eq!(house.live_sessions().await, 1);
    }

    async fn a_person_signs_in_by_the_form_and_never_sees_a_token(db: Database) {
        let house = TestHouse::with(DEV_FORM).database(&db).open().await;
        let browser = house.browser();
        let asked = browser.navigate("/protected").await;
        let page = browser.follow(asked, 1).await;
        assert_eq!((page.status, page.url.path()), (200, "/auth/login"));
        let form = page.forms().first().cloned().unwrap();
        let wrong = browser.submit(&page, &form, &[("username", "alice \"<b>"), ("password", "s3cret-typed")]).await;
        assert_eq!(wrong.status, 401);
        let text = wrong.text();
        assert!(text.contains("do not belong together") && text.contains("alice &#34;&#60;b&#62;"), "{text}");
        assert!(!text.contains("s3cret-typed") && wrong.set_cookies().is_empty());
        let form = wrong.forms().first().cloned().unwrap();
        let done = browser.submit(&wrong, &form, &[("username", "alice"), ("password", "alice")]).await;
        assert_eq!((done.status, done.header("location")), (303, Some("/protected")), "{}", done.text());
        assert_eq!(browser.navigate("/protected").await.status, 200);
        assert_eq!(browser.get_json("/auth/me").await.json()["user"]["username"], "alice");
        assert_eq!(house.database.texts("SELECT kind FROM sessions").await, ["browser"]);
        // The next login in this browser ends that session.
        let page = browser.post_form("/auth/login", &[("username", "bob"), ("password", "bob"), ("return_to", "//evil.example")]).await;
        assert_eq!((page.status, page.header("location")), (303, Some("/")));
        assert_eq!((house.live_sessions().await, browser.get_json("/auth/me").await.json()["user"]["username"].as_str()), (1, Some("bob")));
    }
}

#[tokio::test]
async fn the_form_is_offered_only_where_it_can_give_what_is_asked() {
    let house = TestHouse::with(DEV_FORM).open().await;
    let browser = house.browser();
    let page = browser.navigate("/auth/login?login_hint=ada&return_to=/protected").await;
    let (text, form) = (page.text(), page.forms().first().cloned().unwrap());
    assert!(text.contains("value=\"ada\"") && text.contains("/auth/login?provider=dev"), "{text}");
    assert!(form.fields.contains(&("return_to".into(), "/protected".into())), "{form:?}");
    // A password proves neither an age nor a strength of the sign-in, and whoever names the provider goes there.
    for wish in ["max_age=0", "acr_values=2", "prompt=login", "screen=signup", "provider=dev"] {
        let page = browser.navigate(&format!("/auth/login?{wish}")).await;
        assert_eq!(page.status, 303, "{wish}");
    }
}

#[tokio::test]
async fn all_faults_of_a_login_are_told_at_once() {
    let op = ScriptedOp::start().await;
    let second = format!(
        "{DEV_FORM}[[provider]]\nid = \"op\"\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"doorward\"\nclient_secret = \"s\"\npassword_login = true\n",
        op.issuer()
    );
    let house = TestHouse::with(&second).open().await;
    let browser = house.browser();
    let page = browser.post_json("/auth/login", &json!({ "username": "", "password": null })).await;
    assert_eq!(page.status, 422);
    assert_eq!(fields_at_fault(&page), ["provider required", "username required", "password required"]);
    let page = browser
        .post_json(
            "/auth/login",
            &json!({ "username": "a\u{0}b", "password": "p".repeat(1025), "provider": "dev" }),
        )
        .await;
    assert_eq!(fields_at_fault(&page), ["username invalid", "password too_long"]);
    for body in [json!([]), json!("x"), json!({ "username": 7 }), json!(null)] {
        assert_eq!(browser.post_json("/auth/login", &body).await.status, 400, "{body}");
    }
    for unknown in ["nowhere", "Dev", "dev "] {
        let body = json!({ "username": "alice", "password": "alice", "provider": unknown });
        let page = browser.post_json("/auth/login", &body).await;
        assert_eq!((page.status, page.json()["code"].as_str()), (404, Some("not_offered")), "{unknown}");
    }
    let named = json!({ "username": "alice", "password": "alice", "provider": "dev" });
    assert_eq!(browser.post_json("/auth/login", &named).await.status, 200);
    // The provider without a form takes programs alone.
    let form = [("username", "alice"), ("password", "alice"), ("provider", "op")];
    assert_eq!(browser.post_form("/auth/login", &form).await.status, 404);
}

#[tokio::test]
async fn a_json_login_knows_no_cookie() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    let asked = browser.navigate("/auth/login").await;
    let form = browser.follow(asked, 5).await;
    let back = browser.submit(&form, form.forms().first().unwrap(), &[("username", "alice")]).await;
    browser.follow(back, 5).await;
    let held = browser.cookie("doorward").unwrap();
    let page = browser.post_json("/auth/login", &json!({ "username": "bob", "password": "bob" })).await;
    assert_eq!((page.status, page.set_cookies().len()), (200, 0));
    assert_eq!(browser.cookie("doorward").unwrap(), held);
    assert_eq!(
        browser.get_json("/auth/me").await.json()["user"]["username"],
        "alice",
        "the browser's session goes on"
    );
    // A cookie that opens nothing is no business of this call either.
    let other = house.browser();
    other.set_cookie("doorward", "nonsense");
    let page = other.post_json("/auth/login", &json!({ "username": "bob", "password": "bob" })).await;
    assert_eq!((page.status, page.set_cookies().len()), (200, 0));
    let page = other.post_json("/auth/login", &json!({ "username": "bob", "password": "wrong" })).await;
    assert_eq!((page.status, page.set_cookies().len()), (401, 0));
    // And the handle of an api session is no browser's key.
    assert_eq!(house.database.number("SELECT count(*) FROM sessions WHERE kind = 'api'").await, 2);
}

#[tokio::test]
async fn a_suspended_person_learns_it_only_with_the_right_password() {
    let house = TestHouse::open().await;
    let page = login(&house, "sam", "wrong").await;
    assert_eq!((page.status, page.json()["code"].as_str()), (401, Some("invalid_credentials")));
    let page = login(&house, "sam", "sam").await;
    assert_eq!((page.status, page.json()["code"].as_str()), (403, Some("account_disabled")));
    // Our own word counts the same way.
    assert_eq!(login(&house, "alice", "alice").await.status, 200);
    house.database.execute("UPDATE users SET status = 'suspended' WHERE id = 'alice'").await;
    let page = login(&house, "alice", "alice").await;
    assert_eq!((page.status, page.json()["code"].as_str()), (403, Some("account_suspended")));
    assert_eq!(login(&house, "alice", "wrong").await.status, 401);
}

#[tokio::test]
async fn the_scripted_providers_word_is_checked_like_any_login() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.password = Some(("ada".into(), "pass word".into()));
        s.person = Person::named("ada");
    });
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__PASSWORD_LOGIN", "true").open().await;
    assert_eq!(login(&house, "ada", "pass word").await.status, 200);
    let request = op.requests_to("/token").pop().unwrap();
    assert_eq!(request.form("scope").as_deref(), Some("openid email profile"));
    op.script(|s| s.claims(|claims| drop(claims.insert("nonce".into(), "another".into()))));
    assert_eq!(login(&house, "ada", "pass word").await.status, 400);
    op.script(|s| s.claims(|claims| drop(claims.insert("aud".into(), "another".into()))));
    assert_eq!(login(&house, "ada", "pass word").await.status, 400);
    assert_eq!(house.live_sessions().await, 1);
}

#[tokio::test]
async fn a_person_at_a_real_browser_signs_in_by_the_form() {
    let house = TestHouse::with(DEV_FORM).open().await;
    let chrome = chromium::browser().await;
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    chrome.goto(&format!("{}/auth/login?return_to=/protected", house.url)).await;
    chrome.wait_for("#username").await;
    chrome.screenshot(&folder.join("password-form.png")).await;
    chrome.fill("#username", "alice").await;
    chrome.fill("#password", "wrong").await;
    chrome.click("form.sign-in button").await;
    chrome.wait_for("#said").await;
    assert_eq!(chrome.run("return document.querySelector('#username').value").await, "alice");
    assert_eq!(chrome.run("return document.querySelector('#password').value").await, "");
    chrome.set_size(390, 844).await;
    chrome.screenshot(&folder.join("password-form-again.png")).await;
    chrome.dark(true).await;
    chrome.screenshot(&folder.join("password-form-dark.png")).await;
    chrome.fill("#password", "alice").await;
    chrome.click("form.sign-in button").await;
    chrome.wait_for("table.headers").await;
    assert!(chrome.current_url().await.path() == "/protected");
    let log = chrome.console_log().await;
    assert!(!log.iter().any(|line| line.contains("Content Security Policy")), "{log:?}");
    chrome.close().await;
}
