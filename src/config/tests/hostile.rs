//! Secrets that must not show, and text that must not break the loader.

use proptest::prelude::*;

use super::*;

#[test]
fn secret_files_must_be_readable_and_filled() {
    let folder = Folder::new();
    folder.write("empty", "\n");
    folder.write("large", &"x".repeat(70_000));
    for (name, problem) in [("absent", "cannot read"), ("empty", "is empty"), ("large", "64 KiB")] {
        let text = GOOD.replace("\"secret\"", &format!("\"{name}\""));
        let faults = folder.load_with(&text, &[]).unwrap_err();
        one_fault(faults, "provider.keycloak.client_secret_file", problem);
    }
}

#[test]
fn a_syntax_error_is_one_fault_with_line_and_column_and_quotes_nothing() {
    let text = "[database]\nurl = \"postgres://d:canary@db\n";
    let faults = Folder::new().load_with(text, &[]).unwrap_err();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.origin, "config.toml:2");
    assert!(fault.problem.starts_with("column "), "{fault}");
    assert!(!fault.to_string().contains("canary"), "{fault}");
}

#[test]
fn no_secret_shows_in_debug_or_in_the_masked_print() {
    let environment = [
        ("DOORWARD__KEYS__RING__K1__VALUE", KEY),
        ("DOORWARD__PROVIDER__KEYCLOAK__ADMIN", "{ client_id = 'a', client_secret = 'x-canary' }"),
        ("DOORWARD__PROVIDER__KEYCLOAK__WEBHOOK", "{ secret = 'w-canary' }"),
        ("DOORWARD__PROVIDER__KEYCLOAK__EXTRA_AUTH_PARAMS", "{ api_key = 'e-canary' }"),
    ];
    let hook = "[[webhook_out]]\nurl = \"https://h.example/?t=q-canary\"\nsecret = \"o-canary\"\n";
    let loaded = more(hook, &environment).unwrap();
    let masked = loaded.config.masked();
    assert!(!masked.contains("canary") && !masked.contains(KEY), "{masked}");
    let debug = format!("{loaded:?}");
    for secret in
        ["password-canary", "first-secret", "second-secret", "x-canary", "w-canary", "o-canary", KEY]
    {
        assert!(!debug.contains(secret), "{secret}");
    }
}

#[test]
fn the_masked_print_is_toml_that_says_the_same() {
    let config = good().config;
    let masked = config.masked();
    let table: toml::Table = masked.parse().unwrap();
    assert_eq!(table["provider"][0]["client_secret"].as_str(), Some("***"));
    assert_eq!(table["limits"]["register"].as_str(), Some("20/1h"));
    let folder = Folder::new();
    let readable = masked
        .replacen("url = \"***\"", "url_file = \"database-url\"", 1)
        .replace("k1 = { file = ", "k1 = { file = \"k1\" } # ");
    let again = folder.load_with(&readable, &[]).unwrap().config.masked();
    let but_keys =
        |text: &str| text.lines().filter(|l| !l.starts_with("k1")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(but_keys(&again), but_keys(&masked));
}

#[test]
fn risky_settings_are_named_in_one_line_each_sc04() {
    let environment = [
        ("DOORWARD__SERVER__TRUSTED_PROXIES", "[\"0.0.0.0/0\"]"),
        ("DOORWARD__SERVER__OPERATIONS_LISTEN", "0.0.0.0:9090"),
        ("DOORWARD__LIMITS__CALLBACK", "off"),
        ("DOORWARD__PROVIDER__KEYCLOAK__PASSWORD_LOGIN", "true"),
    ];
    let warnings = more("", &environment).unwrap().warnings;
    let named = ["trusted_proxies", "operations_listen", "limits.callback", "password_login"];
    assert_eq!(warnings.len(), named.len(), "{warnings:?}");
    for word in named {
        assert!(warnings.iter().any(|line| line.contains(word)), "{word}: {warnings:?}");
    }
}

fn never_panics(text: &str, variables: Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), text).unwrap();
    let sources = Sources { file: None, folder: folder.path().into(), environment: variables };
    match load(&sources) {
        Ok(loaded) => drop(loaded.config.masked()),
        Err(faults) => assert!(!faults.is_empty()),
    }
}

/// Lines of a real configuration with one of them mangled, which get deeper than mere noise.
fn mangled() -> impl Strategy<Value = String> {
    let values = prop_oneof![
        Just("\"\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("-9223372036854775808".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("[[1], {a = 1}, \"x\"]".to_owned()),
        "\"[a-z0-9:/*.%ü-]{0,20}\"",
        "\\PC{0,20}",
    ];
    let texts = prop_oneof![Just(BUILT_IN.to_owned()), Just(GOOD.to_owned())];
    (texts, any::<prop::sample::Index>(), values).prop_map(|(text, index, value)| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = index.index(lines.len());
        let key = lines[at].split(" = ").next().unwrap_or_default().trim_start_matches("# ");
        lines[at] = format!("{key} = {value}");
        lines.join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_text_never_panics_the_loader(text in "(?s).{0,400}") {
        never_panics(&text, vec![]);
    }

    #[test]
    fn mangled_configurations_never_panic_the_loader(text in mangled()) {
        never_panics(&text, vec![]);
    }

    #[test]
    fn arbitrary_environments_never_panic_the_loader(
        variables in prop::collection::vec(("DOORWARD__[A-Z_]{0,24}", "\\PC{0,30}"), 0..6),
    ) {
        never_panics(BUILT_IN, variables);
    }
}

#[test]
fn a_password_inside_an_address_is_not_repeated() {
    let text = GOOD
        .replace("https://app.example", "https://u:canary@app.example")
        .replace("http://127.0.0.1:3000", "http://u:canary@127.0.0.1:3000")
        .replace("https://id.example", "https://u:canary@id.example");
    let more = "[telemetry]\notlp_endpoint = 'https://u:canary@t'\n\
                [cors]\norigins = ['http://u:canary@x']\n";
    let faults = Folder::new().load_with(&format!("{text}{more}"), &[]).unwrap_err();
    assert_eq!(faults.len(), 5, "{faults:#?}");
    for fault in faults {
        assert!(!fault.to_string().contains("canary"), "{fault}");
    }
}

#[test]
fn a_link_to_nowhere_never_becomes_the_development_set_up() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("config.toml")).unwrap();
    let sources = Sources { file: None, folder: folder.path().into(), environment: vec![] };
    assert_eq!(load(&sources).unwrap_err()[0].origin, "config.toml");
}
