//! What an operator writes, and what the program says to it: faults, sources, secrets, `init` and `check`.

mod commands;

use serde_json::Value;

use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Ran};

/// Whatever is wrong here, nothing of it may be a network's fault.
const PROVIDER: &str = r#"
[[provider]]
id = "main"
kind = "oidc"
issuer = "http://127.0.0.1:9"
client_id = "doorward"
client_secret = "not-so-secret"
"#;

fn faults(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, 1, "{}", ran.all());
    ran.json()["faults"].as_array().expect("a list of faults").clone()
}

fn one_fault(ran: &Ran, key: &str, problem: &str) -> Value {
    let faults = faults(ran);
    let found = faults.iter().find(|fault| fault["key"] == key).cloned();
    let found = found.unwrap_or_else(|| panic!("{key} is not among {faults:#?}"));
    assert!(text(&found, "problem").contains(problem), "{found}");
    found
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect(name)
}

/// Each line with a fault, the key that must be named, and a word of the problem or the advice.
const PLANTED: [(&str, &str, &str); 12] = [
    ("listen = \"nowhere\"", "server.listen", "127.0.0.1:8080"),
    ("public_url = \"http://app.example\"", "server.public_url", "https"),
    ("auht_prefix = \"/in\"", "server.auht_prefix", "did you mean \"auth_prefix\"?"),
    ("url = \"mysql://u:password-canary@h/x\"", "database.url", "postgres://"),
    ("idle = \"48h\"", "session.idle", "longer than session.overall"),
    ("current = \"k9\"", "keys.current", "not in the ring"),
    ("ring = { k1 = { value = \"ab\" } }", "keys.ring.k1.value", "openssl rand"),
    ("callback = \"many\"", "limits.callback", "not understood"),
    ("level = \"loud\"", "log.level", "debug"),
    ("client_id = \"\"", "provider.main.client_id", "missing"),
    ("client_secret_file = \"secrets/x\"", "provider.main.client_secret_file", "both given"),
    ("urls = [\"ftp://x\"]", "upstream.app.urls", ""),
];

const BAD: &str = r#"
[server]
listen = "nowhere"
public_url = "http://app.example"
auht_prefix = "/in"
[database]
url = "mysql://u:password-canary@h/x"
[session]
idle = "48h"
[keys]
current = "k9"
ring = { k1 = { value = "ab" } }
[limits]
callback = "many"
[log]
level = "loud"
[[provider]]
id = "main"
kind = "oidc"
issuer = "https://id.example"
client_id = ""
client_secret = "secret-canary"
client_secret_file = "secrets/x"
[[upstream]]
id = "app"
urls = ["ftp://x"]
"#;

#[tokio::test]
async fn one_run_names_every_fault_with_key_place_problem_and_advice() {
    // The environment would mend the address; here the file's own has to count.
    let home = Home::with_config(BAD).without_env("DOORWARD__SERVER__LISTEN");
    home.write("secrets/x", "other-canary");
    for command in ["serve", "check", "migrate", "keys"] {
        let arguments =
            if command == "keys" { vec!["keys", "list", "--json"] } else { vec![command, "--json"] };
        let ran = home.run(&arguments).await;
        let found = faults(&ran);
        for (line, key, word) in PLANTED {
            let fault = found.iter().find(|fault| fault["key"] == key);
            let fault = fault.unwrap_or_else(|| panic!("{command}: {key} is not among {found:#?}"));
            let number = BAD.lines().position(|known| known == line).expect("a planted line") + 1;
            assert_eq!(fault["origin"], format!("config.toml:{number}"), "{fault}");
            assert!(
                format!("{} {}", fault["problem"], fault["advice"]).replace('\\', "").contains(word),
                "{fault}"
            );
            assert!(!text(fault, "problem").is_empty() && !text(fault, "advice").is_empty(), "{fault}");
        }
        assert_eq!(found.len(), PLANTED.len(), "{found:#?}");
        assert!(!ran.all().contains("canary"), "{}", ran.all());
    }
    let people = home.run(&[]).await;
    assert_eq!(people.code, 1);
    assert!(people.stderr.starts_with("12 faults in the configuration:"), "{}", people.stderr);
    for (_, key, _) in PLANTED {
        assert!(people.stderr.contains(&format!("  {key}  (config.toml:")), "{key}: {}", people.stderr);
    }
    assert_eq!(people.stderr.matches("try: ").count(), 12, "{}", people.stderr);
    assert!(!people.all().contains("canary"), "{}", people.all());
    assert_eq!(home.files(), ["config.toml", "secrets/x"], "a refused configuration leaves nothing behind");
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error_and_help_is_none() {
    let home = Home::empty();
    for line in [
        vec!["serv"],
        vec!["--confg", "x"],
        vec!["keys"],
        vec!["keys", "turn"],
        vec!["serve", "--client-secret", "x"],
        vec!["--config"],
        vec!["init", "--issuer", "not a url"],
        vec!["init", "--kind", "dev"],
    ] {
        let ran = home.run(&line).await;
        assert_eq!(ran.code, 2, "{line:?}: {}", ran.all());
        assert!(!ran.stderr.is_empty(), "{line:?}");
    }
    for line in [vec!["--help"], vec!["--version"], vec!["keys", "--help"]] {
        let ran = home.run(&line).await;
        assert!(ran.code == 0 && !ran.stdout.is_empty(), "{line:?}: {}", ran.all());
    }
    assert_eq!(home.files(), Vec::<String>::new());
}

#[tokio::test]
async fn config_and_json_stand_before_or_after_the_command() {
    let home = Home::empty();
    home.write("elsewhere/other.toml", PROVIDER);
    home.write_key("elsewhere/secrets/k1");
    let mut origins = Vec::new();
    for line in [
        ["--config", "elsewhere/other.toml", "--json", "check"],
        ["check", "--config", "elsewhere/other.toml", "--json"],
        ["--json", "check", "--config", "elsewhere/other.toml"],
    ] {
        origins.push(text(&home.run(&line).await.json(), "origin").to_owned());
    }
    assert_eq!(origins, ["elsewhere/other.toml"; 3]);
    let absent = home.run(&["--config", "absent.toml", "serve", "--json"]).await;
    let fault = &faults(&absent)[0];
    assert_eq!(text(fault, "origin"), "absent.toml");
    assert!(text(fault, "advice").contains("doorward init"), "{fault}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file_and_is_named_in_its_faults() {
    let text_of_file = format!("[session]\nidle = \"1h\"\n{PROVIDER}label = \"from the file\"\n");
    let mut home = Home::with_config(&text_of_file)
        .env("DOORWARD__SESSION__IDLE", "30m")
        .env("DOORWARD__PROVIDER__MAIN__LABEL", "from outside");
    home.write_key("secrets/k1");
    let printed = home.run(&["check", "--print"]).await.stdout;
    assert!(printed.contains("idle = \"30m\"") && printed.contains("label = \"from outside\""), "{printed}");
    assert!(!printed.contains("from the file"), "{printed}");

    home.set_env("DOORWARD__SESSION__IDEL", "30m");
    home.set_env("DOORWARD__LIMITS__SESSIONS_PER_USER", "many");
    home.set_env("DOORWARD__PROVIDER__MIAN__LABEL", "x");
    let ran = home.run(&["check", "--json"]).await;
    let unknown = one_fault(&ran, "session.idel", "not a known key");
    assert_eq!(unknown["origin"], "environment DOORWARD__SESSION__IDEL");
    assert!(text(&unknown, "advice").contains("idle"), "{unknown}");
    one_fault(&ran, "limits.sessions_per_user", "whole number");
    assert!(text(&one_fault(&ran, "provider.mian.label", "no provider"), "advice").contains("MAIN"));
    assert_eq!(faults(&ran).len(), 3);
}

#[tokio::test]
async fn secrets_come_from_files_beside_the_configuration_and_never_twice() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    crate::house::process::signed_in(&process).await;
    process.stop().await;

    home.remove("secrets/op");
    one_fault(&home.run(&["serve", "--json"]).await, "provider.op.client_secret_file", "cannot read");
    home.write("secrets/op", "\n");
    one_fault(&home.run(&["serve", "--json"]).await, "provider.op.client_secret_file", "is empty");
    home.write("secrets/op", "good");
    let twice = String::from_utf8(home.read("config.toml")).unwrap()
        + "\n[database]\nurl = \"sqlite:a\"\nurl_file = \"b\"\n";
    home.write("config.toml", twice);
    one_fault(&home.run(&["serve", "--json"]).await, "database.url_file", "both given");
}

#[tokio::test]
async fn cr_09_sc_05_no_command_prints_a_secret_whatever_is_wrong_with_it() {
    let key = "c8a1f0e2b37d4956c8a1f0e2b37d4956881199aabbccddee0f1e2d3c4b5a6978";
    let good = format!(
        "[database]\nurl = \"postgres://u:database-canary@127.0.0.1:9/x\"\n[keys]\nring = {{ k1 = {{ value = \"{key}\" }} }}\n{}",
        PROVIDER.replace("not-so-secret", "client-canary")
    );
    let home = Home::with_config(&good)
        .env("DOORWARD__PROVIDER__MAIN__WEBHOOK", "{ secret = 'webhook-canary-of-some-length' }")
        .env("DOORWARD__PROVIDER__MAIN__ADMIN", "{ client_id = 'a', client_secret = 'admin-canary' }");
    let ran = home.run(&["check", "--print"]).await;
    assert!(ran.stdout.contains("client_secret = \"***\""), "{}", ran.stdout);
    assert!(ran.stdout.contains("k1 = { value = \"***\" }"), "{}", ran.stdout);
    assert!(!ran.all().contains("canary") && !ran.all().contains(key), "{}", ran.all());
    for spoilt in [
        good.replace("client_secret = \"client-canary\"", "client_secret = [\"client-canary\"]"),
        good.replace("client_secret = \"client-canary\"", "client_secrets = \"client-canary\""),
        good.replace("client_secret = \"client-canary\"", "client_secret = \"client-canary"),
        good.replace(
            "client_secret = \"client-canary\"",
            "client_secret = \"a-canary\"\nclient_secret = \"b-canary\"",
        ),
        good.replace("client_secret = ", "client_secret = client-canary"),
        good.replace("postgres://u:", "mysql://u:"),
        good.replace("127.0.0.1:9/x", "127.0.0.1:port-canary/x"),
        good.replace("issuer = \"http://", "issuer = \"http://u:issuer-canary@"),
        good.replace(&key[..40], ""),
        good.replace(&key[..8], "canary"),
        good.replace("[keys]", "[keys]\ncurrent = 5"),
    ] {
        for line in [vec!["check", "--print"], vec!["serve", "--json"], vec!["serve"]] {
            let ran = home_with(&home, &spoilt).run(&line).await;
            assert_eq!(ran.code, 1, "{spoilt}");
            assert!(
                !ran.all().contains("canary") && !ran.all().contains(&key[40..]),
                "{spoilt}\n{}",
                ran.all()
            );
        }
    }
}

fn home_with<'h>(home: &'h Home, text: &str) -> &'h Home {
    home.write("config.toml", text);
    home
}

#[tokio::test]
async fn sc_04_ck_10_every_risky_setting_is_one_line_at_start_and_the_worst_are_refused() {
    let home = Home::empty()
        .env("DOORWARD__SERVER__OPERATIONS_LISTEN", "0.0.0.0:0")
        .env("DOORWARD__SERVER__TRUSTED_PROXIES", "['0.0.0.0/0']")
        .env("DOORWARD__CORS__ORIGINS", "['http://spa.example']")
        .env("DOORWARD__LIMITS__CALLBACK", "off");
    let mut process = home.open().await;
    let log = process.log();
    process.stop().await;
    for (setting, word) in [
        ("server.public_url", "plain http"),
        ("server.operations_listen", "readable from other machines"),
        ("server.trusted_proxies 0.0.0.0/0", "anybody may claim"),
        ("cors.origins http://spa.example", "plain http"),
        ("limits.callback", "off"),
        ("provider.dev.kind dev", "without a password"),
    ] {
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains(setting) && line.contains(word)).collect();
        assert_eq!(lines.len(), 1, "{setting}: {log}");
        assert!(lines[0].contains("WARN"), "{}", lines[0]);
    }

    let public = Home::empty().env("DOORWARD__SERVER__PUBLIC_URL", "http://app.example");
    let refused = public.run(&["serve", "--json"]).await;
    one_fault(&refused, "server.public_url", "http on a public address");
    let https = Home::empty().env("DOORWARD__SERVER__PUBLIC_URL", "https://app.example");
    one_fault(&https.run(&["serve", "--json"]).await, "provider.dev.kind", "loopback public_url");
    let open = Home::empty().env("DOORWARD__SERVER__LISTEN", "0.0.0.0:0");
    one_fault(&open.run(&["serve", "--json"]).await, "provider.dev.kind", "loopback listener");
}

#[tokio::test]
async fn cr_07_weak_keys_are_refused_before_anything_is_sealed_with_them() {
    let sequence: Vec<u8> = (0..32).collect();
    let files: [(&str, &[u8]); 12] = [
        ("nothing at all", b""),
        ("16 bytes", &[7, 201, 33, 90, 14, 255, 2, 61, 77, 80, 93, 104, 118, 120, 133, 149]),
        ("all zero", &[0; 32]),
        ("one byte repeated", &[0xa5; 32]),
        ("two bytes repeated", b"\x01\xf0".repeat(16).leak()),
        ("a sequence", sequence.leak()),
        ("a word", b"correct horse"),
        ("32 printable characters", b"this is a password of 32 letters"),
        ("hex of zeros", "00".repeat(32).leak().as_bytes()),
        ("an example of a standard", b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
        ("SHA-256 of password", b"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"),
        ("base64 of 16 bytes", b"B8khWg7/Aj1NUF1odniFlQ=="),
    ];
    for (what, content) in files {
        let home = Home::with_config(PROVIDER);
        home.write("secrets/k1", content);
        let ran = home.run(&["serve"]).await;
        assert_eq!(ran.code, 1, "{what}: {}", ran.all());
        assert!(
            ran.stderr.contains("keys.ring.k1: ") && ran.stderr.contains("secrets/k1"),
            "{what}: {}",
            ran.stderr
        );
        let shown = String::from_utf8_lossy(content);
        assert!(shown.len() < 10 || !ran.all().contains(shown.trim()), "{what}: {}", ran.all());
        assert!(!home.path("doorward.db").exists(), "{what}: nothing is opened with a weak key");
    }
    for (what, passphrase) in
        [("short", "only 23 characters long"), ("simple", "aaaaaaaaaaaaaabbbbbbbbbbbbbb"), ("empty", "")]
    {
        let home = Home::with_config(&format!(
            "[keys]\nring = {{ k1 = {{ passphrase_file = \"words\" }} }}\n{PROVIDER}"
        ));
        home.write("words", passphrase);
        let ran = home.run(&["serve"]).await;
        assert_eq!(ran.code, 1, "{what}: {}", ran.all());
        assert!(ran.stderr.contains("passphrase"), "{what}: {}", ran.stderr);
        assert!(passphrase.is_empty() || !ran.all().contains(passphrase), "{what}: {}", ran.all());
    }
    for (what, value) in [
        ("zeros", "00".repeat(32)),
        ("text", "this is a password of 32 letters".into()),
        ("short", "ab".into()),
    ] {
        let text = format!("[keys]\nring = {{ k1 = {{ value = \"{value}\" }} }}\n{PROVIDER}");
        let ran = Home::with_config(&text).run(&["serve", "--json"]).await;
        one_fault(&ran, "keys.ring.k1.value", "");
        assert!(value.len() < 10 || !ran.all().contains(&value), "{what}: {}", ran.all());
    }
}
