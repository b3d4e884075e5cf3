//! `doorward init` and `doorward check`, from an empty folder to a green light.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::text;
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, Ran, signed_in};
use crate::house::servers::postgres;

const INIT: [&str; 11] = [
    "init",
    "--dir",
    "made",
    "--kind",
    "keycloak",
    "--issuer",
    "http://127.0.0.1:9/realms/doorward",
    "--client-id",
    "gate",
    "--public-url",
    "http://localhost:8080",
];

fn mode(home: &Home, name: &str) -> u32 {
    std::fs::metadata(home.path(name)).expect(name).permissions().mode() & 0o777
}

/// What `check --json` found: name, whether it is fine, detail.
fn findings(ran: &Ran) -> Vec<(String, bool, String)> {
    let report = ran.json();
    let rows = report["checks"].as_array().unwrap_or_else(|| panic!("{}", ran.all()));
    let read = |row: &Value| {
        let fine = row["fine"].as_bool().expect("fine");
        (text(row, "what").to_owned(), fine, text(row, "detail").to_owned())
    };
    rows.iter().map(read).collect()
}

fn faulty(ran: &Ran) -> Vec<String> {
    findings(ran).into_iter().filter(|(_, fine, _)| !fine).map(|(what, ..)| what).collect()
}

#[tokio::test]
async fn init_writes_a_start_for_production_that_lacks_only_the_named_secrets() {
    let home = Home::empty();
    let made = home.run(&INIT).await;
    assert_eq!(made.code, 0, "{}", made.all());
    assert_eq!(home.files(), ["made/config.toml", "made/secrets/k1"]);
    assert_eq!(mode(&home, "made/secrets"), 0o700);
    assert_eq!(mode(&home, "made/secrets/k1"), 0o600);
    assert_eq!(home.read("made/secrets/k1").len(), 32);
    for step in ["made/secrets/database-url", "made/secrets/keycloak", "/auth/callback/keycloak", "check"] {
        assert!(made.stdout.contains(step), "{step}: {}", made.stdout);
    }

    let early = home.run(&["check", "--config", "made/config.toml", "--json"]).await;
    let keys: Vec<_> = super::faults(&early).iter().map(|fault| text(fault, "key").to_owned()).collect();
    assert_eq!(keys, ["database.url_file", "provider.keycloak.client_secret_file"]);

    home.write("made/secrets/database-url", "postgres://doorward@127.0.0.1:9/doorward\n");
    home.write("made/secrets/keycloak", "the client's secret\n");
    let ready = home.run(&["check", "--config", "made/config.toml", "--json"]).await;
    assert_eq!(ready.code, 1);
    assert_eq!(faulty(&ready), ["database", "provider keycloak", "upstream app"], "{}", ready.all());
    for (what, _, detail) in findings(&ready) {
        assert!(!detail.is_empty(), "{what}");
    }
}

#[tokio::test]
async fn init_overwrites_nothing_and_leaves_the_folder_as_it_was() {
    for (name, content) in [("made/config.toml", "mine"), ("made/secrets/k1", "my key")] {
        let home = Home::empty();
        home.write(name, content);
        let refused = home.run(&INIT).await;
        assert_eq!(refused.code, 1, "{}", refused.all());
        assert!(
            refused.stderr.contains("already exists") && refused.stderr.contains(name),
            "{}",
            refused.stderr
        );
        assert_eq!(home.read(name), content.as_bytes());
        assert_eq!(home.files(), [name]);
    }
    let home = Home::empty();
    home.run(&INIT).await;
    let first = home.read("made/secrets/k1");
    assert_eq!(home.run(&INIT).await.code, 1);
    assert_eq!(home.read("made/secrets/k1"), first);
}

#[tokio::test]
async fn init_asks_nothing_when_piped_and_says_what_was_only_an_example() {
    let home = Home::empty();
    let made = home.run(&["init", "--json"]).await;
    assert_eq!(made.code, 0, "{}", made.all());
    let steps = made.json()["leftToDo"].to_string();
    assert!(steps.contains("example of issuer") && steps.contains("example of public_url"), "{steps}");
    assert_eq!(home.files(), ["config.toml", "secrets/k1"]);
}

#[tokio::test]
async fn what_init_wrote_serves_once_its_secrets_are_there() {
    let op = ScriptedOp::start().await;
    let database = postgres::fresh_database().await;
    let home = Home::empty();
    let issuer = op.issuer();
    let made = home
        .run(&[
            "init",
            "--kind",
            "oidc",
            "--issuer",
            &issuer,
            "--client-id",
            "doorward",
            "--public-url",
            "http://localhost:1",
        ])
        .await;
    assert_eq!(made.code, 0, "{}", made.all());
    home.write("secrets/database-url", &database.url);
    home.write("secrets/oidc", op.script(|s| s.client_secret.clone()));
    let mut process: Process = home.open().await;
    process.stop().await;
}

#[tokio::test]
async fn check_tells_every_fault_of_the_world_at_once() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let issuer = op.issuer();
    drop(op);
    let more = format!(
        "{}\n[[provider]]\nid = \"second\"\nkind = \"oidc\"\nissuer = \"http://127.0.0.1:9/other\"\nclient_id = \"x\"\nclient_auth = \"none\"\n\n\
         [[upstream]]\nid = \"dead\"\nurls = [\"http://127.0.0.1:9\", \"http://nowhere.invalid\"]\n\n[database]\nurl = \"postgres://u:canary@127.0.0.1:9/x\"\n",
        String::from_utf8(home.read("config.toml")).unwrap()
    );
    home.write("config.toml", more);
    home.write("secrets/k1", [0; 32]);
    let ran = home.run(&["check", "--json"]).await;
    assert_eq!(ran.code, 1);
    let expected = ["keys", "database", "provider op", "provider second", "upstream dead", "upstream dead"];
    assert_eq!(faulty(&ran), expected, "{}", ran.all());
    assert_eq!(ran.json()["faults"], 6);
    assert!(!ran.all().contains("canary"), "{}", ran.all());

    let people = home.run(&["check"]).await;
    assert_eq!(people.code, 1);
    assert_eq!(people.stdout.matches("FAULT").count(), 6, "{}", people.stdout);
    assert!(
        people.stdout.contains("provider op: ") && !people.stdout.contains("canary"),
        "{issuer} {}",
        people.stdout
    );
}

#[tokio::test]
async fn check_is_green_when_all_is_well() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let ran = home.run(&["check", "--json"]).await;
    assert_eq!((ran.code, faulty(&ran)), (0, Vec::new()), "{}", ran.all());
    let fine: Vec<_> = findings(&ran).into_iter().map(|(what, ..)| what).collect();
    assert_eq!(
        fine,
        ["keys", "database", "key ring", "clock beside provider op", "provider op", "upstream demo"]
    );
    // Beside a running server it is green as well, and disturbs nobody.
    let process = home.open().await;
    let browser = signed_in(&process).await;
    assert_eq!(home.run(&["check"]).await.code, 0);
    assert_eq!(crate::house::process::me(&browser).await, 200);
    // The development set-up of an empty folder too.
    let newcomer = Home::empty().run(&["check"]).await;
    assert_eq!(newcomer.code, 0, "{}", newcomer.all());
}
