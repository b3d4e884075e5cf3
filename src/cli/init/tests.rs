//! `init` on real folders.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::config::{Sources, load};

struct Person(Vec<&'static str>);

impl Ask for Person {
    fn ask(&mut self, _question: &str, _default: &str) -> io::Result<Option<String>> {
        Ok(Some(self.0.remove(0).to_owned()))
    }
}

fn counting(bytes: &mut [u8]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from(at * 37 % 251).unwrap();
    }
}

fn options(dir: &Path) -> InitOptions {
    InitOptions {
        dir: dir.to_owned(),
        kind: Some("oidc".into()),
        issuer: Some("https://id.test/".into()),
        client_id: Some("the \"app\"\n[x]".into()),
        public_url: Some("https://app.test/".into()),
    }
}

fn sources(dir: &Path) -> Sources {
    Sources { file: Some(dir.join("config.toml")), folder: dir.into(), environment: vec![] }
}

#[test]
fn what_init_writes_loads_once_the_named_files_exist() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new");
    let done = run(&options(&target), &mut Nobody, &mut counting).unwrap();
    assert_eq!(done.files, [target.join("config.toml"), target.join("secrets/k1")]);
    let faults = load(&sources(&target)).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["database.url_file", "provider.oidc.client_secret_file"]);
    fs::write(target.join("secrets/database-url"), "postgres://d@db/d\n").unwrap();
    fs::write(target.join("secrets/oidc"), "s3cret\n").unwrap();
    let loaded = load(&sources(&target)).unwrap();
    assert_eq!(loaded.config.providers[0].client_id, "the \"app\"\n[x]");
    assert_eq!(loaded.config.providers[0].issuer, "https://id.test/");
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn the_key_is_32_bytes_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    run(&options(dir.path()), &mut Nobody, &mut counting).unwrap();
    let key = dir.path().join("secrets/k1");
    assert_eq!(fs::read(&key).unwrap().len(), 32);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&dir.path().join("secrets"))), (0o600, 0o700));
}

#[test]
fn nothing_is_written_when_one_file_is_in_the_way() {
    for name in ["config.toml", "secrets/k1"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("secrets")).unwrap();
        fs::write(dir.path().join(name), "mine").unwrap();
        let error = run(&options(dir.path()), &mut Nobody, &mut counting).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "mine");
        let files = ["config.toml", "secrets/k1"].map(|name| dir.path().join(name).exists());
        assert_eq!(files.iter().filter(|exists| **exists).count(), 1);
    }
}

#[test]
fn a_person_is_asked_only_for_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { kind: None, public_url: None, ..options(dir.path()) };
    let mut person = Person(vec!["", "https://door.test"]);
    let done = run(&options, &mut person, &mut counting).unwrap();
    let text = fs::read_to_string(&done.files[0]).unwrap();
    assert!(person.0.is_empty());
    assert!(text.contains("kind = \"keycloak\"") && text.contains("https://door.test"));
}

#[test]
fn piped_input_is_not_asked_and_examples_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { dir: dir.path().into(), ..InitOptions::default() };
    let done = run(&options, &mut Nobody, &mut counting).unwrap();
    assert!(done.left_to_do[0].contains("example of issuer"), "{:?}", done.left_to_do);
    assert!(done.left_to_do[1].contains("example of public_url"), "{:?}", done.left_to_do);
}

#[test]
fn values_that_can_never_work_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = [
        InitOptions { kind: Some("dev".into()), ..options(dir.path()) },
        InitOptions { kind: Some("auth0".into()), ..options(dir.path()) },
        InitOptions { issuer: Some("http://id.test".into()), ..options(dir.path()) },
        InitOptions { client_id: Some(" ".into()), ..options(dir.path()) },
        InitOptions { public_url: Some("http://app.test".into()), ..options(dir.path()) },
    ];
    for options in wrong {
        let error = run(&options, &mut Nobody, &mut counting).unwrap_err();
        assert!(matches!(error, InitError::Invalid { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
