//! The loader from outside: real files, whole configurations.

use std::{fs, path::Path};

use secrecy::ExposeSecret as _;

use super::*;

mod hostile;
mod providers;
mod sections;

/// A folder with the secrets that [`GOOD`] names.
struct Folder(tempfile::TempDir);

const GOOD: &str = r#"
[server]
public_url = "https://app.example"
[database]
url_file = "database-url"
[keys]
ring = { k1 = { file = "k1" } }
[[provider]]
id = "keycloak"
kind = "keycloak"
issuer = "https://id.example/realms/doorward"
client_id = "doorward"
client_secret_file = "secret"
[[provider]]
id = "other-one"
kind = "oidc"
issuer = "https://other.example"
client_id = "doorward"
client_secret = "second-secret-canary"
[[upstream]]
id = "app"
urls = ["http://127.0.0.1:3000"]
[[route]]
path = "/**"
upstream = "app"
"#;

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("database-url", "postgres://d:password-canary@db/d\r\n");
        folder.write("secret", "first-secret-canary\n\n");
        folder.write("k1", "k");
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn load_with(&self, text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
        self.write("config.toml", text);
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = environment.iter().map(pair).collect();
        load(&Sources { file: None, folder: self.path().into(), environment })
    }
}

fn good() -> Loaded {
    Folder::new().load_with(GOOD, &[]).unwrap()
}

/// The good configuration with one text in another's place.
fn faults(from: &str, to: &str) -> Vec<Fault> {
    assert!(GOOD.contains(from), "{from}");
    Folder::new().load_with(&GOOD.replacen(from, to, 1), &[]).err().unwrap_or_default()
}

/// The good configuration with more text at its end and the environment over it.
fn more(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
    Folder::new().load_with(&format!("{GOOD}{text}"), environment)
}

fn keys(faults: &[Fault]) -> Vec<&str> {
    faults.iter().map(|fault| fault.key.as_str()).collect()
}

#[track_caller]
fn one_fault(result: impl AsRef<[Fault]>, key: &str, problem: &str) {
    let [fault] = result.as_ref() else { panic!("not one fault: {:#?}", result.as_ref()) };
    assert_eq!(fault.key, key, "{fault}");
    assert!(fault.problem.contains(problem), "{fault}");
    assert!(!fault.advice.is_empty(), "{fault}");
}

fn built_in(environment: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
    let folder = tempfile::tempdir().unwrap();
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment = environment.iter().map(pair).collect();
    load(&Sources { file: None, folder: folder.path().into(), environment })
}

#[test]
fn the_built_in_set_up_loads_and_is_what_a_newcomer_is_promised() {
    let Loaded { config, warnings, origin } = built_in(&[]).unwrap();
    assert_eq!(origin, "built-in config.toml");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.public_url.as_str(), "http://localhost:8080/");
    assert!(config.server.public_url_is_default);
    let [dev] = config.providers.as_slice() else { panic!() };
    assert_eq!((dev.id.as_str(), dev.kind), ("dev", ProviderKind::Dev));
    assert_eq!(dev.issuer, "http://localhost:8080/dev-idp");
    assert_eq!((dev.client_auth, dev.id_prefix.as_str()), (ClientAuth::None, ""));
    assert!(dev.password_login && dev.registration);
    let routes: Vec<_> = config.routes.iter().map(|r| (r.path.as_str(), r.access)).collect();
    let signed_in = Access::SignedIn;
    assert_eq!(routes, [("/", Access::Public), ("/protected", signed_in), ("/admin-only", signed_in)]);
    assert_eq!(config.routes[2].roles, ["admin"]);
    assert!(warnings.iter().any(|line| line.contains("plain http")), "{warnings:?}");
    assert!(warnings.iter().any(|line| line.contains("provider.dev.kind dev")), "{warnings:?}");
}

#[test]
fn the_built_in_set_up_writes_out_the_defaults_of_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let minimal = "[[provider]]\nid = \"dev\"\nkind = \"dev\"\nclient_id = \"doorward\"\n\
                   label = \"Development sign-in\"\npassword_login = true\nregistration = true\n";
    fs::write(folder.path().join("config.toml"), minimal).unwrap();
    let minimal = Sources { file: None, folder: folder.path().into(), environment: vec![] };
    let minimal = load(&minimal).unwrap().config.masked();
    let folder = tempfile::tempdir_in(folder.path()).unwrap();
    let sources = Sources { file: None, folder: folder.path().into(), environment: vec![] };
    let built_in = load(&sources).unwrap().config.masked();
    let without_ring = |text: &str| {
        let lines = text.lines().take_while(|line| *line != "[[upstream]]");
        lines
            .filter(|line| !line.is_empty() && !line.starts_with("k1 = "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(without_ring(&minimal), without_ring(&built_in));
}

#[test]
fn the_built_in_set_up_names_every_key_that_the_reader_knows() {
    // Every key that the masked print knows, for which the built-in text is the manual.
    let extended = "[[webhook_out]]\nurl = \"https://h.example/\"\nsecret = \"s\"\n";
    let masked = more(extended, &[]).unwrap().config.masked();
    for line in masked.lines() {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let named = BUILT_IN.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("{key}_file = "))
        });
        assert!(named || key == "k1", "{key}");
    }
}

#[test]
fn ten_planted_faults_are_reported_in_one_run_with_key_and_line() {
    let text = r#"[server]
listen = "8080"
public_url = "http://app.example"
[session]
idle = "soon"
colour = "red"
[keys]
current = "k9"
ring = { k1 = { file = "k1" } }
[log]
format = "xml"
[limits]
sessions_per_user = "many"
[[provider]]
id = "keycloak"
kind = "keycloak"
client_id = "doorward"
client_secret_file = "absent"
issuer = "http://id.example"
id_token_algs = ["RS256", "HS256"]
[[route]]
path = "/a/**/b"
upstream = "app"
"#;
    let faults = Folder::new().load_with(text, &[]).unwrap_err();
    let seen: Vec<_> = faults.iter().map(|fault| (fault.key.as_str(), fault.origin.as_str())).collect();
    let expected = [
        ("server.listen", "config.toml:2"),
        ("server.public_url", "config.toml:3"),
        ("session.idle", "config.toml:5"),
        ("session.colour", "config.toml:6"),
        ("keys.current", "config.toml:8"),
        ("log.format", "config.toml:11"),
        ("limits.sessions_per_user", "config.toml:13"),
        ("provider.keycloak.client_secret_file", "config.toml:18"),
        ("provider.keycloak.issuer", "config.toml:19"),
        ("provider.keycloak.id_token_algs", "config.toml:20"),
        ("route.\"/a/**/b\".path", "config.toml:22"),
        ("route.\"/a/**/b\".upstream", "config.toml:23"),
    ];
    assert_eq!(seen, expected);
    assert!(faults.iter().all(|f| !f.problem.is_empty() && !f.advice.is_empty()));
}

#[test]
fn a_good_file_becomes_checked_values() {
    let Loaded { config, warnings, origin } = good();
    assert_eq!((origin.as_str(), warnings), ("config.toml", vec![]));
    let [first, second] = config.providers.as_slice() else { panic!() };
    assert_eq!(first.claims.roles.as_deref(), Some("realm_access.roles"));
    assert_eq!(second.claims.roles.as_deref(), Some("roles"));
    assert_eq!((first.id_prefix.as_str(), second.id_prefix.as_str()), ("", "other-one|"));
    assert_eq!((first.label.as_str(), first.clock_skew_ms), ("keycloak", 60_000));
    assert_eq!(config.limits.register, Some(Rate { count: 20, window_ms: 3_600_000 }));
    assert_eq!((config.session.idle_ms, config.session.refresh_margin_ms), (3_600_000, None));
    assert_eq!((config.cache.size_bytes, config.routes[0].body_limit_bytes), (128 << 20, 10 << 20));
    assert_eq!(config.server.shutdown_ms, 10_000);
}

#[test]
fn secret_files_lose_one_line_break_and_are_relative_to_the_file() {
    let Loaded { config, .. } = good();
    assert_eq!(config.database.url.expose_secret(), "postgres://d:password-canary@db/d");
    let secret = config.providers[0].client_secret.as_ref().unwrap();
    assert_eq!(secret.expose_secret(), "first-secret-canary\n");

    let folder = Folder::new();
    folder.write("config.toml", GOOD);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("config.toml"));
    let sources = Sources { file, folder: elsewhere.path().into(), environment: vec![] };
    assert!(load(&sources).is_ok());
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [
        ("DOORWARD__SERVER__LISTEN", "127.0.0.1:0"),
        ("DOORWARD__CORS__ORIGINS", "[\"https://spa.example\"]"),
        ("DOORWARD__DATABASE__POOL_SIZE", "7"),
        ("DOORWARD__PROVIDER__KEYCLOAK__CLIENT_SECRET", "0123"),
        ("DOORWARD__PROVIDER__OTHER_ONE__LABEL", "\"Quoted\""),
        ("DOORWARD__PROVIDER__OTHER_ONE__CLAIMS__ROLES", "app.roles"),
        ("DOORWARD__KEYS__RING__K1__VALUE", KEY),
        ("HOME", "/"),
    ];
    let config = more("", &environment).unwrap().config;
    assert_eq!(config.server.listen.port(), 0);
    assert_eq!(config.cors.origins, ["https://spa.example"]);
    assert_eq!(config.database.pool_size, 7);
    assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose_secret(), "0123");
    assert_eq!(config.providers[1].label, "Quoted");
    assert_eq!(config.providers[1].claims.roles.as_deref(), Some("app.roles"));
    assert!(matches!(config.keys.ring[0].material, KeyMaterial::Value(_)));
}

const KEY: &str = "5f0d3ab1c94e7726d81b60f2a4c3970e1188e5cd42b7963fa05d7ce2914b683a";

#[test]
fn faults_of_the_environment_name_the_variable() {
    let environment = [
        ("DOORWARD__PROVIDER__KEYCLAOK__LABEL", "x"),
        ("DOORWARD__ROUTE__ALL__ACCESS", "public"),
        ("DOORWARD__SERVER__LISTEN", "nowhere"),
        ("DOORWARD__SERVER__LISTEM", "127.0.0.1:1"),
        ("DOORWARD__SESSION__IDLE__X", "1"),
        ("DOORWARD__SERVER__", "1"),
    ];
    let text = "[session]\nidle = \"1h\"\n";
    let faults = more(text, &environment).unwrap_err();
    assert_eq!(faults.len(), 6, "{faults:#?}");
    for fault in &faults {
        let name = fault.origin.strip_prefix("environment ").unwrap();
        assert!(environment.iter().any(|(known, _)| *known == name), "{fault}");
    }
    let unknown = faults.iter().find(|fault| fault.key == "server.listem").unwrap();
    assert_eq!(unknown.advice, "did you mean \"listen\"?");
    let id = faults.iter().find(|fault| fault.key.starts_with("provider")).unwrap();
    assert!(id.advice.contains("KEYCLOAK, OTHER_ONE"), "{id}");
}

#[test]
fn a_secret_given_twice_in_one_source_is_a_fault() {
    let twice = "client_secret_file = \"secret\"\nclient_secret = \"x\"";
    let key = "provider.keycloak.client_secret_file";
    one_fault(faults("client_secret_file = \"secret\"", twice), key, "both given");
    let environment = [
        ("DOORWARD__PROVIDER__KEYCLOAK__CLIENT_SECRET", "x"),
        ("DOORWARD__PROVIDER__KEYCLOAK__CLIENT_SECRET_FILE", "secret"),
    ];
    one_fault(more("", &environment).unwrap_err(), key, "both given");
}

#[test]
fn a_named_file_that_is_missing_is_a_fault() {
    let folder = Folder::new();
    let file = Some("absent.toml".into());
    let sources = Sources { file, folder: folder.path().into(), environment: vec![] };
    let faults = load(&sources).unwrap_err();
    assert_eq!(faults[0].origin, "absent.toml");
}
