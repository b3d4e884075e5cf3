//! The admin API and the commands that administer: by key, by role, by the operator; true at the next request, and recorded.

use serde_json::{Value, json};

use crate::house::browser::{Browser, Page};
use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};
use crate::house::process::{Home, Process, Ran, me, signed_in};
use crate::security::{is_signed_in, signed_in_as};

use doorward::flows::Visitor;
use doorward::flows::admin::{Actor, Administrator};
use doorward::flows::api_keys;

const HOUR_MS: i64 = 3_600_000;

fn operator() -> Administrator {
    let actor = Actor::CommandLine { account: "test".to_owned() };
    Administrator { actor, visitor: Visitor::default() }
}

async fn new_key(house: &TestHouse, life_ms: Option<i64>) -> (String, String) {
    let made = api_keys::create(&house.app(), "cron", life_ms, &operator()).await.unwrap();
    (made.known.id, made.key.expose())
}

/// A program that holds this key, without any cookie.
fn program(house: &TestHouse, key: &str) -> Browser {
    house.browser().with_header("authorization", &format!("Bearer {key}"))
}

async fn handle(browser: &Browser) -> String {
    browser.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned()
}

/// What the audit log says of administration, oldest first.
async fn deeds(database: &Database) -> Vec<String> {
    database
        .texts("SELECT event || ' ' || detail FROM audit_log WHERE event LIKE 'admin.%' AND outcome = 'success' ORDER BY at, event")
        .await
}

on_each_database! {
    async fn a_program_with_a_key_sees_and_ends_sessions_at_the_next_request(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let (id, key) = new_key(&house, None).await;
        let cron = program(&house, &key);
        let alice = [
            signed_in_as(&house, &op, Person::named("alice")).await,
            signed_in_as(&house, &op, Person::named("alice")).await,
            signed_in_as(&house, &op, Person::named("alice")).await,
        ];
        let bob = signed_in_as(&house, &op, Person::named("bob")).await;

        let listed = cron.get("/auth/admin/api/users/alice/sessions").await;
        assert_eq!(listed.status, 200, "{}", listed.text());
        let rows = listed.json()["sessions"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 3);
        let members: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            [
                "acr", "authTime", "createdAt", "device", "expiresAt", "id", "idleExpiresAt", "ip", "kind",
                "lastActiveAt", "provider", "userAgent"
            ]
        );
        assert_eq!(rows[0]["kind"], "browser");

        let first = handle(&alice[0]).await;
        let path = format!("/auth/admin/api/sessions/{first}");
        assert_eq!(cron.delete(&path).await.status, 204);
        assert!(!is_signed_in(&alice[0]).await);
        let again = cron.delete(&path).await;
        assert_eq!((again.status, again.json()["code"].as_str()), (404, Some("not_found")));
        assert!(is_signed_in(&alice[1]).await);

        let ended = cron.delete("/auth/admin/api/users/alice/sessions").await;
        assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 2 })));
        assert!(!is_signed_in(&alice[1]).await && !is_signed_in(&alice[2]).await);
        assert!(is_signed_in(&bob).await, "nobody else's");
        for path in ["/auth/admin/api/users/nobody/sessions", "/auth/admin/api/users/%00/sessions"] {
            assert_eq!((cron.get(path).await.status, cron.delete(path).await.status), (404, 404), "{path}");
        }
        assert_eq!(cron.delete("/auth/admin/api/sessions/%00").await.status, 404);
        assert_eq!(bob.delete("/auth/sessions/%00").await.status, 404);
        let by = format!("\"by\":\"apikey:{id}\"");
        let told = deeds(&house.database).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("admin.session_ended") && told[0].contains(&by), "{told:?}");
        assert!(told[1].contains("\"count\":2") && told[1].contains(&by), "{told:?}");
        let used = "SELECT count(*) FROM api_keys WHERE last_used_at IS NOT NULL";
        assert_eq!(house.database.number(used).await, 1);
        house.browser().get("/auth/me").await;
    }

    async fn whatever_is_wrong_with_a_key_the_caller_learns_nothing_and_the_log_all(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let admin = signed_in_as(&house, &op, Person::named("ada").with("roles", json!(["admin"]))).await;
        let (_, good) = new_key(&house, None).await;
        let (_, short) = new_key(&house, Some(HOUR_MS)).await;
        let (revoked_id, revoked) = new_key(&house, None).await;
        assert_eq!(program(&house, &short).get("/auth/admin/api/users/ada/sessions").await.status, 200);
        assert!(api_keys::revoke(&house.app(), &revoked_id, &operator()).await.unwrap());
        assert!(!api_keys::revoke(&house.app(), &revoked_id, &operator()).await.unwrap());
        house.clock.advance(std::time::Duration::from_hours(1));
        let wrong = format!("{}{}", &good[..20], short.get(20..).unwrap());
        let unknown = good.replacen("dw_", "dw_000000000000_", 1).replace(&good[3..16], "");
        let mut bodies = std::collections::BTreeSet::new();
        for (header, reason) in [
            (format!("Bearer {wrong}"), "api_key_wrong"),
            (format!("Bearer {unknown}"), "api_key_unknown"),
            (format!("Bearer {short}"), "api_key_expired"),
            (format!("bearer  {revoked}"), "api_key_revoked"),
            (format!("Bearer {good}x"), "api_key_malformed"),
            ("Bearer ".to_owned(), "api_key_malformed"),
            (format!("Basic {good}"), "api_key_malformed"),
            (good.clone(), "api_key_malformed"),
        ] {
            // A person who may, with a key that does not count: the key decides.
            for who in [house.browser(), admin.clone()] {
                let page = who.with_header("authorization", &header).get("/auth/admin/api/users/ada/sessions").await;
                assert_eq!(page.status, 401, "{reason}: {}", page.text());
                assert_eq!(page.header("www-authenticate"), Some("Bearer"), "{reason}");
                let mut body = page.json();
                body["instance"] = Value::Null;
                bodies.insert(body.to_string());
            }
            assert_eq!(house.refusals(reason).await, 2, "{reason}");
            house.database.execute("DELETE FROM audit_log WHERE outcome = 'refused'").await;
        }
        assert_eq!(bodies.len(), 1, "{bodies:?}");
        let fine = program(&house, &good).get("/auth/admin/api/users/ada/sessions").await;
        assert_eq!(fine.status, 200, "{}", fine.text());
        let dump = String::from_utf8_lossy(&house.database.dump().await).into_owned();
        for key in [&good, &short, &revoked] {
            assert!(!dump.contains(&key[16..]), "a stored secret is a hash");
        }
        house.browser().get("/auth/me").await;
    }
}

#[tokio::test]
async fn a_person_administers_with_the_role_alone_and_only_from_this_site() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let user = signed_in_as(&house, &op, Person::named("alice")).await;
    let other =
        signed_in_as(&house, &op, Person::named("bob").with("roles", json!(["Admin", "admins"]))).await;
    let admin = signed_in_as(&house, &op, Person::named("ada").with("roles", json!(["admin"]))).await;
    let path = "/auth/admin/api/users/alice/sessions";
    let nobody: Page = house.browser().get(path).await;
    assert_eq!((nobody.status, nobody.json()["code"].as_str()), (401, Some("not_signed_in")));
    assert_eq!(house.browser().delete(path).await.status, 401);
    for person in [&user, &other] {
        for page in [person.get(path).await, person.delete(path).await] {
            assert_eq!(
                (page.status, page.json()["code"].as_str()),
                (403, Some("not_allowed")),
                "{}",
                page.text()
            );
        }
    }
    assert_eq!(house.refusals("not_allowed").await, 4);
    let foreign =
        admin.with_header("sec-fetch-site", "cross-site").with_header("origin", "https://evil.example");
    assert_eq!(foreign.delete(path).await.json()["code"], "csrf");
    assert!(is_signed_in(&user).await);
    let ended = admin.delete(path).await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 1 })), "{}", ended.text());
    assert!(!is_signed_in(&user).await);
    assert!(deeds(&house.database).await[0].contains("\"by\":\"user:ada\""));
    // The administrator's own go as well, and with them the right.
    assert_eq!(admin.delete("/auth/admin/api/users/ada/sessions").await.status, 200);
    assert_eq!(admin.get(path).await.status, 401);
}

/// A home on this database and one running process.
async fn served(op: &ScriptedOp, db: &Database) -> (Home, Process) {
    let home = Home::with_op(op)
        .env("DOORWARD__DATABASE__URL", &db.url)
        .env("USER", "olga")
        .without_env("SUDO_USER");
    let process = home.open().await;
    (home, process)
}

async fn run(home: &Home, arguments: &[&str]) -> Ran {
    let ran = home.run(arguments).await;
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.all());
    ran
}

on_each_database! {
    async fn the_operator_lists_and_ends_sessions_beside_the_running_server(db: Database) {
        let op = ScriptedOp::start().await;
        let (home, mut process) = served(&op, &db).await;
        let mut people = Vec::new();
        for name in ["alice", "alice", "bob", "carol"] {
            op.script(|s| s.person = Person::named(name));
            people.push(signed_in(&process).await);
        }
        let listed = run(&home, &["sessions", "list", "--json"]).await.json();
        assert_eq!(listed["sessions"].as_array().unwrap().len(), 4, "{listed}");
        let of_alice = run(&home, &["--json", "sessions", "list", "--user", "alice"]).await.json();
        assert_eq!(of_alice["sessions"].as_array().unwrap().len(), 2);
        let shown = run(&home, &["sessions", "list"]).await.stdout;
        assert!(shown.starts_with("SESSION ") && shown.lines().count() == 5, "{shown}");

        let one = handle(&people[0]).await;
        assert_eq!(run(&home, &["sessions", "revoke", &one]).await.stdout, "1 session ended\n");
        assert_eq!((me(&people[0]).await, me(&people[1]).await), (401, 200));
        let again = home.run(&["sessions", "revoke", &one]).await;
        assert_eq!(again.code, 1);
        assert!(again.stderr.contains(&one) && again.stderr.contains("sessions list"), "{}", again.stderr);
        assert_eq!(run(&home, &["sessions", "revoke", "--user", "alice", "--json"]).await.json(), json!({"ended": 1}));
        assert_eq!((me(&people[1]).await, me(&people[2]).await), (401, 200));
        assert_eq!(run(&home, &["sessions", "revoke", "--all", "--json"]).await.json(), json!({"ended": 2}));
        assert_eq!((me(&people[2]).await, me(&people[3]).await), (401, 401));
        let swept = run(&home, &["sessions", "cleanup", "--json"]).await.json();
        assert_eq!(swept["sessions"], 0, "what ended today stays for a day: {swept}");
        for arguments in [
            vec!["sessions", "revoke", "--user", "nobody"],
            vec!["sessions", "list", "--user", "nobody"],
            vec!["users", "show", "nobody"],
            vec!["users", "suspend", "nobody"],
        ] {
            let ran = home.run(&arguments).await;
            assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.all());
            assert!(ran.stderr.contains("no user \"nobody\""), "{}", ran.stderr);
            let mut scripted = arguments.clone();
            scripted.push("--json");
            assert!(home.run(&scripted).await.json()["faults"][0].is_string());
        }
        for arguments in [
            vec!["sessions", "revoke"],
            vec!["sessions", "revoke", "x", "--all"],
            vec!["sessions", "revoke", "--user", "x", "--all"],
            vec!["sessions"],
            vec!["users", "show"],
            vec!["apikey", "create"],
            vec!["apikey", "create", "--name", "x", "--expires", "soon"],
            vec!["apikey", "create", "--name", "x", "--expires", "0d"],
        ] {
            assert_eq!(home.run(&arguments).await.code, 2, "{arguments:?}");
        }
        let told = deeds(&db).await;
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|deed| deed.contains("\"by\":\"cli:olga\"")), "{told:?}");
        process.stop().await;
    }

    async fn a_suspended_user_is_out_at_once_and_stays_out_until_it_is_undone(db: Database) {
        let op = ScriptedOp::start().await;
        let (home, mut process) = served(&op, &db).await;
        op.script(|s| s.person = Person::named("alice").with("name", "Alice %_! \u{1b}[31m"));
        let alice = signed_in(&process).await;
        let found = run(&home, &["users", "list", "--search", "ALI", "--json"]).await.json();
        assert_eq!(found["users"][0]["id"], "alice", "{found}");
        for (text, count) in [("zzz", 0), ("%", 0), ("_", 0), ("", 1)] {
            let found = run(&home, &["users", "list", "--search", text, "--json"]).await.json();
            assert_eq!(found["users"].as_array().unwrap().len(), count, "{text:?}: {found}");
        }
        let shown = run(&home, &["users", "show", "alice"]).await.stdout;
        assert!(shown.contains("active") && shown.contains(&handle(&alice).await), "{shown}");
        assert!(!shown.contains('\u{1b}') && !run(&home, &["users", "list"]).await.stdout.contains('\u{1b}'));

        let done = run(&home, &["users", "suspend", "alice", "--json"]).await.json();
        assert_eq!(done, json!({ "id": "alice", "status": "suspended", "ended": 1 }));
        assert_eq!(me(&alice).await, 401);
        let refused = process.browser().sign_in("/auth/login").await;
        assert_eq!(refused.status, 403, "{}", refused.text());
        let user = run(&home, &["users", "show", "alice", "--json"]).await.json();
        assert_eq!((&user["user"]["status"], &user["sessions"]), (&json!("suspended"), &json!([])));
        run(&home, &["users", "suspend", "alice", "--undo"]).await;
        assert_eq!(me(&alice).await, 401, "an ended session stays ended");
        signed_in(&process).await;
        let told = deeds(&db).await;
        assert_eq!(told.len(), 2, "{told:?}");
        process.stop().await;
    }

    async fn a_key_is_made_shown_once_used_and_revoked_at_the_command_line(db: Database) {
        let op = ScriptedOp::start().await;
        let (home, mut process) = served(&op, &db).await;
        signed_in(&process).await;
        let made = run(&home, &["apikey", "create", "--name", "night shift"]).await;
        let key = made.stdout.trim().to_owned();
        assert!(key.starts_with("dw_") && key.len() == 59, "{}", made.all());
        let scripted = run(&home, &["apikey", "create", "--name", "x", "--expires", "90d", "--json"]).await.json();
        let id = scripted["id"].as_str().unwrap();
        assert!(scripted["key"].as_str().unwrap().contains(id) && scripted["expiresAt"].is_string(), "{scripted}");

        let listed = run(&home, &["apikey", "list", "--json"]).await;
        assert!(!listed.stdout.contains(&key[16..]), "{}", listed.stdout);
        assert_eq!(listed.json()["apiKeys"].as_array().unwrap().len(), 2);
        assert!(run(&home, &["apikey", "list"]).await.stdout.contains("night shift"));
        let cron = process.browser().with_header("authorization", &format!("Bearer {key}"));
        let path = "/auth/admin/api/users/alice/sessions";
        assert_eq!(cron.get(path).await.status, 200, "{}", process.log());
        let short = &key[3..15];
        run(&home, &["apikey", "revoke", short]).await;
        assert_eq!(cron.get(path).await.status, 401);
        assert!(run(&home, &["apikey", "revoke", short]).await.stdout.contains("before"));
        let unknown = home.run(&["apikey", "revoke", "000000000000"]).await;
        assert!(unknown.code == 1 && unknown.stderr.contains("no API key"), "{}", unknown.all());
        let bad = home.run(&["apikey", "create", "--name", " "]).await;
        assert_eq!(bad.code, 1, "{}", bad.all());
        process.stop().await;
        assert!(!process.log().contains(&key[16..]));
    }
}
