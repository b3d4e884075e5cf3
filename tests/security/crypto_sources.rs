//! Chapter 13: what only reading can prove. The sources, the configuration's `Debug`, and the documents.

use std::fs;
use std::path::{Path, PathBuf};

use doorward::config::{self, Sources};

/// Every Rust source of the crate, without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.to_string_lossy().contains("tests")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.push((path, code));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 80);
    found
}

/// Lines of code that hold one of these words, with their places.
fn lines_with(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, code) in sources() {
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn cr_01_no_source_seeds_a_generator() {
    let seeded = ["SeedableRng", "seed_from_u64", "from_seed(", "StdRng", "SmallRng", "ChaCha", "thread_rng"];
    assert_eq!(lines_with(&seeded), Vec::<String>::new());
}

#[test]
fn cr_09_no_debug_of_a_configuration_shows_a_secret() {
    const KEY: &str = "9f1c5d7ae03b6284c1d2e3f4a5b6c7d8091a2b3c4d5e6f708192a3b4c5d6e7f1";
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[database]
url = "postgres://door:CANARY-database@db.example/door"
[keys]
ring = { k1 = { value = "KEY" } }
[[provider]]
id = "op"
kind = "oidc"
issuer = "https://id.example"
client_id = "door"
client_secret = "CANARY-client"
admin = { client_id = "a", client_secret = "CANARY-admin" }
webhook = { secret = "CANARY-webhook-in" }
[[webhook_out]]
url = "https://hook.example/"
secret = "CANARY-webhook-out"
"#;
    let load = |text: &str| {
        fs::write(folder.path().join("config.toml"), text.replace("KEY", KEY)).unwrap();
        config::load(&Sources { file: None, folder: folder.path().to_owned(), environment: vec![] })
    };
    let loaded = load(text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let config = &loaded.config;
    let mut shown = vec![
        ("Loaded", format!("{loaded:?}{loaded:#?}")),
        ("Config", format!("{config:?}")),
        ("Server", format!("{:?}", config.server)),
        ("Database", format!("{:?}", config.database)),
        ("Keys", format!("{:?}", config.keys)),
        ("Session", format!("{:?}", config.session)),
        ("Provider", format!("{:?}", config.providers)),
        ("WebhookOut", format!("{:?}", config.webhooks_out)),
        ("Telemetry", format!("{:?}", config.telemetry)),
        ("masked", config.masked()),
        ("warnings", loaded.warnings.join("\n")),
    ];
    // The same secrets beside mistakes: no fault quotes them.
    for (right, wrong) in [
        ("[[webhook_out]]", "unknown = 1\n[[webhook_out]]"),
        ("postgres://", "mysql://"),
        ("CANARY-client\"", "CANARY-client\"\nclient_secret_file = \"x\""),
        ("value = \"KEY\"", "value = \"KEYCANARY\""),
        ("secret = \"CANARY-webhook-out\"", "secret = [\"CANARY-webhook-out\"]"),
        ("client_secret = \"CANARY-admin\"", "client_secrets = \"CANARY-admin\""),
        ("kind = \"oidc\"", "kind = \"oidc"),
    ] {
        let faults = load(&text.replace(right, wrong)).expect_err(wrong);
        shown.push((
            "a fault",
            format!("{faults:?} {}", faults.iter().map(ToString::to_string).collect::<String>()),
        ));
    }
    for (what, text) in shown {
        assert!(!text.contains("CANARY") && !text.contains(KEY), "{what}: {text}");
    }
}

#[test]
fn cr_10_no_secret_is_compared_by_an_operator() {
    let words =
        ["secret", "expose", "mac", "signature", "digest", "hash", "password", "token", "verifier", "nonce"];
    let mut suspects = Vec::new();
    for line in lines_with(&[" == ", " != "]) {
        let (_, code) = line.split_once(".rs:").unwrap();
        let code = code.to_lowercase();
        let compared = words.iter().any(|word| {
            code.contains(&format!("{word} == "))
                || code.contains(&format!("{word} != "))
                || code.contains(&format!("{word}() == "))
        });
        // Equality of a name, a kind or a length is no comparison of the secret itself.
        if compared && !code.contains("len() ==") && !line.contains("dev_idp") {
            suspects.push(line);
        }
    }
    assert_eq!(suspects, Vec::<String>::new(), "compare in constant time, with subtle");
    let login = include_str!("../../src/flows/login.rs");
    assert!(login.contains("attempt.state.as_bytes().ct_eq"), "the state is compared in constant time");
    let key = include_str!("../../src/crypto/key.rs");
    assert!(key.contains("ct_eq"));
}

#[test]
fn cr_11_there_are_no_primitives_of_our_own_and_rsa_keys_of_ours_stay_with_aws_lc() {
    let rsa = lines_with(&[" rsa::", "RsaPrivateKey", "use rsa", "pkcs1v15::SigningKey", " ring::"]);
    let foreign: Vec<_> = rsa.into_iter().filter(|line| !line.contains("aws_lc_rs")).collect();
    assert_eq!(foreign, Vec::<String>::new());
    let manifest = include_str!("../../Cargo.toml");
    let ours = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap();
    for line in ours.lines() {
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        assert!(
            !matches!(
                name,
                "rsa" | "ring" | "openssl" | "native-tls" | "md5" | "md-5" | "sha1" | "jsonwebtoken"
            ),
            "{line}"
        );
    }
    // Rounds of a cipher or hash look like this, wherever they are written; the asset hash guards nothing and says so.
    let homemade = lines_with(&["rotate_left", "rotate_right", "sbox", "S_BOX", "0x6a09e667", "0x67452301"]);
    assert_eq!(homemade, Vec::<String>::new());
    // Keys are used in few places.
    for line in lines_with(&[
        "Aes256Gcm",
        "Hkdf",
        "Argon2::",
        "RsaKeyPair",
        "EcdsaKeyPair",
        "Ed25519KeyPair",
        "hmac::Key",
    ]) {
        let allowed = ["src/crypto/", "src/dev_idp/keys.rs"];
        assert!(allowed.iter().any(|place| line.contains(place)), "{line}");
    }
}

#[test]
fn cr_12_the_cryptographic_inventory_and_the_life_of_keys_are_written_down() {
    let document = include_str!("../../docs/SECURITY.md");
    for word in [
        "### Inventory",
        "### Lifecycle",
        "AES-256-GCM",
        "HKDF",
        "Argon2",
        "HMAC-SHA256",
        "**Rotated**",
        "**Retired**",
        "**Leaked**",
        "**Lost**",
    ] {
        assert!(document.contains(word), "{word}");
    }
    // Every label by which a key is derived is named or reserved there.
    let key = include_str!("../../src/crypto/key.rs");
    assert!(key.contains("doorward/1/seal") && document.contains("doorward/1/seal"));
    for algorithm in ["RS256", "ES256", "PS256", "EdDSA", "RS384", "RS512", "PS384", "PS512", "ES384"] {
        assert!(document.contains(algorithm), "{algorithm}");
    }
}

#[test]
fn se_15_what_ends_a_session_and_when_one_must_sign_in_again_is_written_down() {
    let document = include_str!("../../docs/SECURITY.md");
    for word in [
        "[session] idle",
        "[session] overall",
        "sessions_per_user",
        "me_keeps_alive",
        "RP-initiated logout",
        "max_age",
    ] {
        assert!(document.contains(word), "{word}");
    }
}
