//! Chapter 3: what is believed of a person besides who they are.

use serde_json::{Value, json};

use super::{events, me, signed_in_as};
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

#[tokio::test]
async fn id_06_an_odd_address_is_no_address() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let odd = [
        json!("a@evil.example@corp.example"),
        json!("\"a@evil.example\"@corp.example"),
        json!("a@corp.example "),
        json!("a b@corp.example"),
        json!("a@corp.example\r\nBcc: x"),
        json!("a\u{0}@corp.example"),
        json!("a@corp\u{200b}.example"),
        json!("a\u{202e}@corp.example"),
        json!("a@[::1]"),
        json!("a@corp.example#"),
        json!("a@b,c@corp.example"),
        json!(format!("{}@corp.example", "a".repeat(300))),
        json!(["a@corp.example"]),
        json!({"value": "a@corp.example"}),
        json!(7),
        json!(""),
    ];
    for email in odd {
        let browser = signed_in_as(&house, &op, Person::named("ada").with("email", email.clone())).await;
        let user = me(&browser).await;
        assert_eq!((&user["email"], &user["emailVerified"]), (&Value::Null, &json!(false)), "{email}");
        let page = browser.navigate("/protected").await;
        assert!(!page.text().contains("X-Auth-Email"), "the app is told none: {email}");
    }
    let browser = signed_in_as(&house, &op, Person::named("ada").with("email", "a@corp.example")).await;
    assert_eq!(me(&browser).await["email"], "a@corp.example");
}

#[tokio::test]
async fn id_07_look_alikes_at_login_are_stored_apart_and_noted_and_nobody_is_locked_out() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let people = [
        ("one", "kim", "kim@example.test"),
        ("two", "\u{212a}im", "Kim@Example.TEST"),
        ("three", "KIM", "KIM@example.test"),
        ("four", "\u{ff4b}im", "kim@example.test"),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (sub, username, email) in people {
        let person = Person::named(sub).with("preferred_username", username).with("email", email);
        let user = me(&signed_in_as(&house, &op, person).await).await;
        assert_eq!((&user["username"], &user["email"]), (&json!(username), &json!(email)));
        assert!(seen.insert(user["usertag"].to_string()), "public names never collide: {user}");
    }
    assert_eq!(events(&house, "user.created").await, 4);
    assert_eq!(events(&house, "user.email_shared").await, 3, "each newcomer's collision is noted");
}

#[tokio::test]
async fn id_08_a_changed_address_keeps_the_user_and_a_taken_one_is_noted_not_merged() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let grace = me(&signed_in_as(&house, &op, Person::named("grace")).await).await;
    let ada = me(&signed_in_as(&house, &op, Person::named("ada")).await).await;
    let person =
        Person::named("ada").with("email", "free@example.test").with("preferred_username", "countess");
    let renamed = me(&signed_in_as(&house, &op, person).await).await;
    assert_eq!(renamed["id"], ada["id"]);
    assert_eq!((&renamed["email"], &renamed["username"]), (&json!("free@example.test"), &json!("countess")));
    assert_eq!(renamed["usertag"], ada["usertag"], "the public name was given once");
    assert_eq!(events(&house, "user.email_shared").await, 0);

    let taken = Person::named("ada").with("email", grace["email"].clone());
    let shared = me(&signed_in_as(&house, &op, taken).await).await;
    assert_eq!((&shared["id"], &shared["email"]), (&ada["id"], &grace["email"]));
    assert_eq!(events(&house, "user.email_shared").await, 1);
    assert_eq!(house.database.number("SELECT count(*) FROM users").await, 2);
}

/// Signs Ada in with this `roles` claim and returns the roles she has and what the admin page answers.
async fn with_roles(house: &TestHouse, op: &ScriptedOp, claim: Option<&Value>) -> (Value, u16) {
    let mut person = Person::named("ada");
    if let Some(claim) = claim {
        person = person.with("roles", claim.clone());
    }
    let browser = signed_in_as(house, op, person).await;
    (me(&browser).await["roles"].clone(), browser.navigate("/admin-only").await.status)
}

#[tokio::test]
async fn id_09_roles_are_a_string_or_a_list_and_anything_else_is_none() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__CLAIMS__ROLES", "\"roles\"").open().await;
    let admin = (json!(["admin"]), 200);
    assert_eq!(with_roles(&house, &op, Some(&json!("admin"))).await, admin);
    let list = with_roles(&house, &op, Some(&json!(["editor", "admin", "admin"]))).await;
    assert_eq!(list, (json!(["admin", "editor"]), 200));
    let odd = [
        None,
        Some(json!({"admin": true})),
        Some(json!({"roles": ["admin"]})),
        Some(json!(1)),
        Some(json!(true)),
        Some(json!(null)),
        Some(json!([["admin"]])),
        Some(json!(["admin", 7])),
        Some(json!([{"name": "admin"}])),
        Some(json!(["admin\r\nX-Auth-Roles: root"])),
        Some(json!("")),
        Some(json!("admin,editor")),
        Some(json!("Admin")),
        Some(json!(vec!["admin"; 5_000])),
    ];
    for claim in odd {
        // She was an admin at her last login, so that a kept role would show.
        assert_eq!(with_roles(&house, &op, Some(&json!("admin"))).await.1, 200);
        let (roles, status) = with_roles(&house, &op, claim.as_ref()).await;
        let shown = claim.map(|claim| claim.to_string().chars().take(60).collect::<String>());
        assert!(!roles.as_array().unwrap().contains(&json!("admin")), "{shown:?} gave {roles}");
        assert_eq!(status, 403, "{shown:?}");
    }
}

#[tokio::test]
async fn id_09_ten_thousand_roles_are_none_and_hold_nobody_up() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.claims(|claims| drop(claims.remove("email")));
        s.userinfo(|o| {
            o.insert(
                "roles".into(),
                (0..10_000).map(|n| format!("role-{n}")).chain(["admin".into()]).collect(),
            );
        });
    });
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__CLAIMS__ROLES", "\"roles\"").open().await;
    assert_eq!(with_roles(&house, &op, None).await, (json!([]), 403));
}

#[tokio::test]
async fn id_09_roles_are_read_where_the_operator_said_and_nowhere_else() {
    let op = ScriptedOp::start().await;
    let path = "\"https://app.example/roles\"";
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__CLAIMS__ROLES", path).open().await;
    let mut person = Person::named("ada").with("https://app.example/roles", json!(["reader"]));
    for name in
        ["roles", "role", "groups", "user_metadata", "app_metadata", "profile", "realm_access", "local_roles"]
    {
        let value = if name.contains("meta") || name == "realm_access" {
            json!({"roles": ["admin"]})
        } else {
            json!(["admin"])
        };
        person = person.with(name, value);
    }
    let browser = signed_in_as(&house, &op, person).await;
    assert_eq!(me(&browser).await["roles"], json!(["reader"]));
    assert_eq!(browser.navigate("/admin-only").await.status, 403);

    // Without a configured claim nobody has a role from the provider.
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__CLAIMS__ROLES", "\"\"").open().await;
    let browser = signed_in_as(&house, &op, Person::named("eve").with("roles", json!(["admin"]))).await;
    assert_eq!(me(&browser).await["roles"], json!([]));
}
