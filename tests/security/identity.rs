//! Chapter 3: whose account a login is.

use doorward::domain::{Change, Status};
use doorward::store::users::{self, Outcome, Road};
use serde_json::{Value, json};

use super::{assert_rejected, events, is_signed_in, keep_time, me, signed_in, signed_in_as};
use crate::house::databases::on_each_database;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Person, ScriptedOp};

/// What the directory would say of this person.
fn news(op: &ScriptedOp, subject: &str, house: &TestHouse) -> Change {
    Change {
        provider: "op".into(),
        issuer: op.issuer(),
        former_issuers: vec![],
        subject: subject.into(),
        id_prefix: String::new(),
        profile: doorward::domain::Profile::default(),
        roles: vec![],
        groups: vec![],
        is_active: Some(true),
        default_roles: vec![],
        provider_updated_at_ms: None,
        observed_at_ms: house.app().now_ms() + 60_000,
    }
}

#[tokio::test]
async fn id_01_userinfo_about_somebody_else_ends_the_login() {
    let op = ScriptedOp::start().await;
    op.script(|s| s.person = Person::named("ada"));
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__USERINFO", "\"always\"").open().await;
    for sub in [json!("eve"), json!("Ada"), json!("ada "), json!(""), json!(null), json!(7), json!(["ada"])] {
        let told = sub.clone();
        op.script(|s| s.userinfo(move |o| drop(o.insert("sub".into(), told.clone()))));
        let page = house.browser().sign_in("/auth/login").await;
        assert_eq!(page.status, 400, "{sub}");
        assert_rejected(&house, &page, "userinfo_sub").await;
    }
    op.script(|s| s.userinfo(|o| drop(o.remove("sub"))));
    let page = house.browser().sign_in("/auth/login").await;
    assert_rejected(&house, &page, "userinfo_sub").await;
    assert_eq!(house.database.number("SELECT count(*) FROM users").await, 0, "nothing of it was used");

    op.script(|s| s.userinfo(|o| drop(o.insert("name".into(), "From Userinfo".into()))));
    let browser = signed_in(&house).await;
    assert_eq!(me(&browser).await["displayName"], "From Userinfo", "an honest one is used");
}

#[tokio::test]
async fn id_01_userinfo_that_is_asked_only_for_want_of_an_email_is_checked_as_well() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.claims(|claims| drop(claims.remove("email")));
        s.userinfo(|o| drop(o.insert("sub".into(), "eve".into())));
    });
    let house = TestHouse::with_op(&op).open().await;
    let page = house.browser().sign_in("/auth/login").await;
    assert_rejected(&house, &page, "userinfo_sub").await;
    assert_eq!(op.count("/userinfo"), 1);
}

#[tokio::test]
async fn id_01_userinfo_does_not_overwrite_what_the_id_token_says_of_itself() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.userinfo(|o| {
            for (name, value) in
                [("iss", json!("https://evil.example")), ("sid", json!("evil")), ("acr", json!("gold"))]
            {
                o.insert(name.into(), value);
            }
        });
    });
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__USERINFO", "\"always\"").open().await;
    let browser = signed_in(&house).await;
    assert_ne!(browser.get_json("/auth/me").await.json()["session"]["acr"], "gold");
    let odd = "SELECT count(*) FROM sessions WHERE provider_session_id = 'evil' OR issuer LIKE '%evil%'";
    assert_eq!(house.database.number(odd).await, 0);
}

#[tokio::test]
async fn id_02_access_tokens_travel_in_the_authorization_header_only() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__USERINFO", "\"always\"").open().await;
    let browser = signed_in(&house).await;
    browser.post_form("/auth/logout", &[]).await;
    let asked = op.requests_to("/userinfo");
    assert_eq!(asked.len(), 1);
    let bearer = asked[0].header("authorization").unwrap();
    let token = bearer.strip_prefix("Bearer ").expect("a bearer token").to_owned();
    assert!(token.len() > 20);
    assert_eq!((asked[0].query.as_str(), asked[0].body.len()), ("", 0));
    for request in op.requests() {
        assert!(!request.query.contains(&token), "{}", request.path);
        let in_header =
            request.headers.iter().any(|(name, value)| name != "authorization" && value.contains(&token));
        assert!(!in_header, "{}", request.path);
    }
}

#[tokio::test]
async fn id_03_the_same_subject_at_two_providers_is_two_users() {
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    for op in [&one, &two] {
        op.script(|s| s.person = Person::named("ada"));
    }
    let house =
        TestHouse::with(&format!("{}{}", op_provider("one", &one), op_provider("two", &two))).open().await;
    let mut ids = Vec::new();
    for provider in ["one", "two"] {
        let browser = house.browser();
        browser.sign_in(&format!("/auth/login?provider={provider}")).await;
        let user = me(&browser).await;
        assert_eq!(user["provider"], provider);
        ids.push(user["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(house.database.number("SELECT count(*) FROM users").await, 2);
}

#[tokio::test]
async fn id_03_subjects_are_compared_exactly_and_nothing_else_is() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let mut ids = std::collections::BTreeSet::new();
    let subjects = ["ada", "Ada", "ADA", "ada.", "a\u{308}da", "\u{e4}da", "ada%20", "1"];
    for subject in subjects {
        let person =
            Person::named(subject).with("email", "ada@example.test").with("preferred_username", "ada");
        let browser = signed_in_as(&house, &op, person).await;
        ids.insert(me(&browser).await["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), subjects.len());
    // Back again under another address and name: the same user.
    let person =
        Person::named("ada").with("email", "new@example.test").with("preferred_username", "lovelace");
    let again = me(&signed_in_as(&house, &op, person).await).await;
    assert_eq!((&again["id"], &again["email"]), (&json!("ada"), &json!("new@example.test")));
}

on_each_database! {
    async fn id_03_a_new_issuer_under_the_old_name_meets_strangers_unless_the_old_one_is_named(db: Database) {
        let (old, new) = (ScriptedOp::start().await, ScriptedOp::start().await);
        for op in [&old, &new] {
            op.script(|s| s.person = Person::named("ada"));
        }
        let mut before = TestHouse::with_op(&old).database(&db).open().await;
        let browser = signed_in(&before).await;
        browser.post_form("/auth/logout", &[]).await;
        before.close();

        let replica = |op: &ScriptedOp| TestHouse::with_op(op).database(&db).folder(&before.folder);
        let mut moved = replica(&new).open().await;
        let page = moved.browser().sign_in("/auth/login").await;
        assert_eq!(page.status, 409, "{}", page.text());
        assert_rejected(&moved, &page, "identity_conflict").await;
        moved.close();

        let former = format!("[\"{}\"]", old.issuer());
        let house = replica(&new).set("PROVIDER__OP__FORMER_ISSUERS", &former).open().await;
        let browser = signed_in(&house).await;
        assert_eq!(me(&browser).await["id"], "ada");
        assert_eq!(events(&house, "user.moved_issuer").await, 1);
        let rows = format!("SELECT count(*) FROM users WHERE issuer = '{}' AND login_count = 2", new.issuer());
        assert_eq!(house.database.number(&rows).await, 1, "the row moved over");
        assert_eq!(house.database.number("SELECT count(*) FROM users").await, 1);
    }
}

#[tokio::test]
async fn id_04_no_state_of_email_verified_links_two_accounts() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let victim =
        signed_in_as(&house, &op, Person::named("victim").with("email", "victim@corp.example")).await;
    let id = me(&victim).await["id"].clone();
    let words: [Option<Value>; 7] = [
        Some(json!(true)),
        Some(json!(false)),
        None,
        Some(json!("true")),
        Some(json!(1)),
        Some(json!(null)),
        Some(json!(["true"])),
    ];
    for (at, word) in words.into_iter().enumerate() {
        let mut person = Person::named(&format!("eve-{at}")).with("email", "victim@corp.example");
        person.claims.remove("email_verified");
        if let Some(word) = &word {
            person = person.with("email_verified", word.clone());
        }
        let browser = signed_in_as(&house, &op, person).await;
        let user = me(&browser).await;
        assert_ne!(user["id"], id, "{word:?}");
        let sure = matches!(&word, Some(Value::Bool(true))) || word == Some(json!("true"));
        assert_eq!(user["emailVerified"], sure, "{word:?}");
    }
    assert_eq!(house.database.number("SELECT count(*) FROM users").await, 8);
    assert_eq!(house.database.number("SELECT login_count FROM users WHERE subject = 'victim'").await, 1);
}

#[tokio::test]
async fn id_05_who_took_the_address_first_gets_nothing_when_its_owner_arrives() {
    let (open, corp) = (ScriptedOp::start().await, ScriptedOp::start().await);
    open.script(|s| s.person = Person::named("early").with("email", "owner@corp.example"));
    corp.script(|s| {
        s.person = Person::named("owner").with("email", "owner@corp.example").with("roles", json!(["admin"]));
    });
    let text = format!("{}{}", op_provider("open", &open), op_provider("corp", &corp));
    let house = TestHouse::with(&text).set("PROVIDER__CORP__CLAIMS__ROLES", "\"roles\"").open().await;
    let early = house.browser();
    early.sign_in("/auth/login?provider=open").await;
    let before = me(&early).await;

    let owner = house.browser();
    owner.sign_in("/auth/login?provider=corp").await;
    assert_eq!(owner.navigate("/admin-only").await.status, 200);
    assert_ne!(me(&owner).await["id"], before["id"]);
    assert_eq!(me(&early).await, before, "nothing came to the first account");
    assert_eq!(early.navigate("/admin-only").await.status, 403);
    let sessions = |page: crate::house::browser::Page| page.json()["sessions"].as_array().unwrap().len();
    assert_eq!(sessions(early.get_json("/auth/sessions").await), 1, "and it sees its own sessions only");
    assert_eq!(sessions(owner.get_json("/auth/sessions").await), 1);
}

#[tokio::test]
async fn id_10_no_endpoint_links_identities() {
    let table = include_str!("../../src/web/mod.rs");
    let openapi: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let described = openapi["paths"].as_object().unwrap().keys().cloned();
    let routed =
        table.split("at(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(path, _)| path.to_owned());
    let all: Vec<String> = routed.chain(described).collect();
    assert!(all.len() > 10, "{all:?}");
    for path in &all {
        for word in ["link", "connect", "merge", "attach", "associate", "identit"] {
            assert!(!path.contains(word), "{path}");
        }
    }
    // Signing in at a second provider while signed in changes who one is; it adds nothing to the first account.
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let house =
        TestHouse::with(&format!("{}{}", op_provider("one", &one), op_provider("two", &two))).open().await;
    let browser = house.browser();
    browser.sign_in("/auth/login?provider=one").await;
    let first = me(&browser).await["id"].clone();
    browser.sign_in("/auth/login?provider=two").await;
    assert_ne!(me(&browser).await["id"], first);
    assert_eq!(house.live_sessions().await, 1);
    assert_eq!(house.database.number("SELECT count(*) FROM users").await, 2);
}

on_each_database! {
    async fn id_11_a_deleted_user_stays_deleted_whatever_comes_late(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let browser = signed_in_as(&house, &op, Person::named("ada")).await;
        let mut writer = house.app().store.writer().await.unwrap();
        users::bury(&mut writer, &news(&op, "ada", &house), house.app().now_ms()).await.unwrap();
        writer.commit().await.unwrap();
        assert!(!is_signed_in(&browser).await, "the sessions ended with the account");

        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        assert!(page.status == 403 && page.text().contains("account_disabled"), "{}", page.text());
        assert_rejected(&house, &page, "account_disabled").await;

        let mut writer = house.app().store.writer().await.unwrap();
        let mut late = news(&op, "ada", &house);
        late.observed_at_ms += 3_600_000;
        let applied = users::apply(&mut writer, &late, Road::Sync, house.app().now_ms()).await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(applied.outcome, Outcome::Tombstone);
        let page = browser.sign_in("/auth/login").await;
        assert_rejected(&house, &page, "account_disabled").await;
        assert_eq!(house.database.number("SELECT count(*) FROM users WHERE deleted_at IS NOT NULL").await, 1);
        signed_in_as(&house, &op, Person::named("grace")).await;
    }

    async fn se_07_whoever_is_disabled_loses_every_session_and_cannot_come_back(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        for (name, code) in [("sue", "account_suspended"), ("nat", "no_app_access"), ("dis", "account_disabled")] {
            let person = Person::named(name);
            let browsers = [signed_in_as(&house, &op, person.clone()).await, signed_in_as(&house, &op, person).await];
            let app = house.app();
            let mut writer = app.store.writer().await.unwrap();
            let ended = match code {
                "account_suspended" => users::set_status(&mut writer, name, Status::Suspended, app.now_ms()).await.unwrap().unwrap(),
                "no_app_access" => users::set_app_access(&mut writer, name, false, app.now_ms()).await.unwrap().unwrap(),
                _ => {
                    let gone = Change { is_active: Some(false), ..news(&op, name, &house) };
                    users::apply(&mut writer, &gone, Road::Sync, app.now_ms()).await.unwrap().ended_sessions
                }
            };
            writer.commit().await.unwrap();
            assert_eq!(ended.len(), 2, "{name}");
            for browser in &browsers {
                assert!(!is_signed_in(browser).await, "{name}");
                assert_eq!(browser.navigate("/protected").await.status, 303, "{name}");
            }
            if code == "account_disabled" {
                // The provider's own word at a login makes an account active again: only a provider that says no keeps it out.
                continue;
            }
            let page = house.browser().sign_in("/auth/login").await;
            assert!(page.status == 403 && page.text().contains(code), "{name}: {}", page.text());
            assert_rejected(&house, &page, code).await;
        }
        signed_in_as(&house, &op, Person::named("good")).await;
    }
}

#[tokio::test]
async fn se_07_a_row_that_says_disabled_shuts_the_door_although_its_session_lives() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in_as(&house, &op, Person::named("ada")).await;
    for change in [
        "is_active = 0",
        "status = 'suspended'",
        "status = 'something new'",
        "has_app_access = 0",
        "deleted_at = 1",
    ] {
        house.rewrite(&format!("UPDATE users SET {change}")).await;
        assert!(!is_signed_in(&browser).await, "{change}");
        assert_eq!(browser.navigate("/protected").await.status, 303, "{change}");
        let well = "UPDATE users SET is_active = 1, status = 'active', has_app_access = 1, deleted_at = NULL";
        house.rewrite(well).await;
        // The refused answer took the cookie away from the jar, as a browser would.
        signed_in_as(&house, &op, Person::named("ada")).await;
    }
}

#[tokio::test]
async fn se_07_a_person_whom_the_provider_calls_suspended_is_told_so() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    let form = browser.sign_in("/auth/login").await;
    let back = browser.submit(&form, form.forms().first().unwrap(), &[("username", "sam")]).await;
    let page = browser.follow(back, 5).await;
    assert!(page.status == 403 && page.text().contains("account_disabled"), "{}", page.text());
    assert_rejected(&house, &page, "account_disabled").await;
}
