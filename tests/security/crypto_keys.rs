//! Chapter 13: keys, good and weak, old and new.

use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward::app::SystemRandom;
use doorward::config::{self, KeyMaterial, KeySource, Sources};
use doorward::domain::Random as _;
use doorward::flows::start::{self, Furniture, StartFault};
use doorward::flows::{check, rotate};
use doorward::server::Server;
use doorward::store::rotate::key_usage;

use super::{is_signed_in, signed_in};
use crate::house::browser::Browser;
use crate::house::databases::on_each_database;
use crate::house::home::{TestClock, TestHouse};
use crate::house::op::ScriptedOp;

/// A new strong key in a file of this name.
pub fn key_file(folder: &Path, name: &str) -> PathBuf {
    let mut key = [0; 32];
    SystemRandom.fill(&mut key);
    let path = folder.join(name);
    std::fs::write(&path, key).unwrap();
    path
}

/// Puts another ring in force, as a reload does.
pub async fn refit(house: &TestHouse, current: &str, ring: &[(&str, &PathBuf)]) -> Result<(), StartFault> {
    let app = house.app();
    let mut config = app.setup().config.clone();
    config.keys.current = current.to_owned();
    let source = |(id, path): &(&str, &PathBuf)| KeySource {
        id: (*id).to_owned(),
        material: KeyMaterial::File((*path).clone()),
    };
    config.keys.ring = ring.iter().map(source).collect();
    let keys = start::read_keys(&config, &*app.random)?;
    let at = Furniture { clock: app.clock.clone(), random: app.random.clone() };
    let setup = start::set_up(&app.store, config, keys, &at, None).await?;
    app.refurnish(setup);
    Ok(())
}

#[tokio::test]
async fn cr_02_a_key_past_ninety_days_is_a_finding_and_a_number() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let app = house.app();
    for (days, is_old) in [(89, false), (2, true)] {
        house.clock.advance(Duration::from_hours(24 * days));
        let config = app.setup().config.clone();
        let keys = start::read_keys(&config, &*app.random);
        let at = Furniture { clock: app.clock.clone(), random: app.random.clone() };
        let findings = check::run(config, keys, at).await;
        let old = findings.iter().find(|finding| finding.what == "key k1");
        assert_eq!(old.is_some_and(|finding| !finding.fine), is_old, "{findings:?}");
    }
    rotate::report_ages(&app).await.unwrap();
    let metrics = Browser::new(&house.operations).get("/metrics").await.text();
    assert!(metrics.contains("doorward_key_age_days{key=\"k1\"} 91"), "{metrics}");
}

/// Asks with every browser until told to stop; each answer must show an opened token.
async fn work(browsers: &[Browser], rounds: usize) {
    for round in 0..rounds {
        for browser in browsers {
            let page = browser.get_json("/auth/me").await;
            assert_eq!(page.status, 200, "round {round}: {}", page.text());
            assert_eq!(page.json()["claims"]["name"], "alice Tester", "round {round}");
        }
    }
}

async fn usage(house: &TestHouse) -> Vec<String> {
    let app = house.app();
    let mut reader = app.store.reader().await.unwrap();
    key_usage(&mut reader).await.unwrap().into_keys().collect()
}

on_each_database! {
    async fn cr_05_keys_rotate_and_roll_back_under_load_and_nobody_is_signed_out(db: Database) {
        let op = ScriptedOp::start().await;
        let names = "[\"name\"]";
        let one = TestHouse::with_op(&op).database(&db).set("SESSION__EXPOSE_CLAIMS", names).open().await;
        let plan = TestHouse::with_op(&op).database(&db).set("SESSION__EXPOSE_CLAIMS", names);
        let two = plan.clock(&one.clock).folder(&one.folder).open().await;
        let (k1, k2) = (one.folder.join("k1"), key_file(&one.folder, "k2"));
        let mut browsers = Vec::new();
        for _ in 0..3 {
            browsers.push(signed_in(&one).await);
        }
        assert_eq!(usage(&one).await, ["k1"]);

        // First every replica learns the key, then one of them seals with it while the other still uses the old one.
        refit(&one, "k1", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
        refit(&two, "k2", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
        let app = two.app();
        let (rotated, ()) = futures_util::future::join(rotate::run(&app), work(&browsers, 20)).await;
        assert_eq!(rotated.unwrap().unreadable, 0);
        browsers.push(signed_in(&one).await);
        refit(&one, "k2", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
        rotate::run(&app).await.unwrap();
        assert_eq!(usage(&one).await, ["k2"]);
        work(&browsers, 2).await;

        // Back again, and forward for good.
        refit(&two, "k1", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
        let (rotated, ()) = futures_util::future::join(rotate::run(&app), work(&browsers, 5)).await;
        assert_eq!(rotated.unwrap().unreadable, 0);
        assert_eq!(usage(&two).await, ["k1"]);
        refit(&two, "k2", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
        rotate::run(&app).await.unwrap();

        // No row names the old key: it can go, and everybody stays signed in.
        refit(&one, "k2", &[("k2", &k2)]).await.unwrap();
        work(&browsers, 2).await;
        signed_in(&one).await;
    }
}

#[tokio::test]
async fn cr_05_a_ring_that_lacks_a_key_in_use_is_refused_and_the_old_one_stays_in_force() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("SESSION__EXPOSE_CLAIMS", "[\"name\"]").open().await;
    let browser = signed_in(&house).await;
    let (k1, k2) = (house.folder.join("k1"), key_file(&house.folder, "k2"));
    // Our own keys and the sessions are still under k1.
    let fault = refit(&house, "k2", &[("k2", &k2)]).await.unwrap_err();
    assert!(fault.to_string().contains("k1"), "{fault}");
    assert!(is_signed_in(&browser).await);
    // Another key under the old name.
    let other = key_file(&house.folder, "other");
    let fault = refit(&house, "k1", &[("k1", &other)]).await.unwrap_err();
    assert!(fault.to_string().contains("keys.ring.k1"), "{fault}");
    refit(&house, "k1", &[("k1", &k1)]).await.unwrap();
    assert!(is_signed_in(&browser).await);
    signed_in(&house).await;
}

#[tokio::test]
async fn cr_06_the_ring_may_change_while_the_cookies_key_stays() {
    let op = ScriptedOp::start().await;
    let mut house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let (k1, k2) = (house.folder.join("k1"), key_file(&house.folder, "k2"));
    refit(&house, "k2", &[("k1", &k1), ("k2", &k2)]).await.unwrap();
    rotate::run(&house.app()).await.unwrap();
    assert!(is_signed_in(&browser).await);
    house.close();
    let plan = TestHouse::with_op(&op).clock(&house.clock).folder(&house.folder);
    let file = k2.display().to_string();
    let again = plan.set("KEYS__RING__K2__FILE", &file).set("KEYS__CURRENT", "k2").open().await;
    let page = browser.get(&format!("{}/auth/me", again.url)).await;
    assert_eq!(page.status, 200, "after a restart as well: {}", page.text());
}

/// Why a server with this key does not start; `None` when it does.
async fn start_fault(folder: &Path, key: &str, value: &str) -> Option<String> {
    let pair = |name: &str, value: &str| (format!("DOORWARD__{name}"), value.to_owned());
    let environment = vec![
        pair("SERVER__LISTEN", "127.0.0.1:0"),
        pair("SERVER__OPERATIONS_LISTEN", "127.0.0.1:0"),
        pair("DATABASE__URL", &format!("sqlite:{}", folder.join("db").display())),
        pair(key, value),
    ];
    let sources = Sources { file: None, folder: folder.to_owned(), environment };
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(faults) => return Some(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    };
    let at = Furniture { clock: TestClock::new(), random: std::sync::Arc::new(SystemRandom) };
    Server::bind(loaded.config, Some(sources), at).await.err().map(|fault| fault.to_string())
}

#[tokio::test]
async fn cr_07_weak_and_broken_key_files_stop_the_start_with_a_sentence_and_no_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let mut sound = [0_u8; 32];
    SystemRandom.fill(&mut sound);
    let hex = |bytes: &[u8]| super::hex(bytes).into_bytes();
    let sequence: Vec<u8> = (0..32).collect();
    let weak: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("one byte", vec![7]),
        ("31 bytes", sound[..31].to_vec()),
        ("33 bytes", [sound.as_slice(), &[1]].concat()),
        ("16 bytes in hex", hex(&sound[..16])),
        ("33 bytes in hex", hex(&[sound.as_slice(), &[1]].concat())),
        ("64 letters that are no hex", vec![b'g'; 64]),
        ("all zero", vec![0; 32]),
        ("all zero in hex", vec![b'0'; 64]),
        ("one byte repeated", vec![0xa5; 32]),
        ("a short pattern repeated", sound[..8].repeat(4)),
        ("a sequence", sequence),
        ("two values", (0..32).map(|n| if n % 3 == 0 { 200 } else { 17 }).collect()),
        ("a password", b"correct horse battery staple 123".to_vec()),
        (
            "a standard's example",
            b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4".to_vec(),
        ),
        ("a hashed word", hex(&<sha2::Sha256 as sha2::Digest>::digest(b"changeme"))),
    ];
    let file = path.display().to_string();
    for (case, content) in weak {
        std::fs::write(&path, &content).unwrap();
        let fault = start_fault(folder.path(), "KEYS__RING__K1__FILE", &file).await;
        let fault = fault.unwrap_or_else(|| panic!("a key that is {case} was taken"));
        assert!(fault.contains("keys.ring.k1"), "{case}: {fault}");
        let text = String::from_utf8_lossy(&content).into_owned();
        assert!(text.len() < 8 || !fault.contains(&text), "{case}: {fault}");
    }
    for (case, content) in [
        ("raw", sound.to_vec()),
        ("hex", hex(&sound)),
        ("hex and a line end", [hex(&sound), b"\n".to_vec()].concat()),
    ] {
        std::fs::write(&path, &content).unwrap();
        assert_eq!(start_fault(folder.path(), "KEYS__RING__K1__FILE", &file).await, None, "{case}");
    }
    // In place of the file, a text: the same rules.
    for (value, fine) in [(hex(&sound), true), (vec![b'0'; 64], false), (b"short".to_vec(), false)] {
        let other = tempfile::tempdir().unwrap();
        let text = String::from_utf8(value).unwrap();
        let fault = start_fault(other.path(), "KEYS__RING__K1__VALUE", &text).await;
        assert_eq!(fault.is_none(), fine, "{fault:?}");
        assert!(fine || !fault.unwrap().contains(&text));
    }
}

#[tokio::test]
async fn cr_07_passphrases_are_long_and_mixed_and_stretched_with_a_salt_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words");
    let file = path.display().to_string();
    for weak in [
        "",
        "short",
        "twenty-three characters",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "abcabcabcabcabcabcabcabcabcabc",
        "                              ",
    ] {
        std::fs::write(&path, weak).unwrap();
        let fault = start_fault(folder.path(), "KEYS__RING__K2__PASSPHRASE_FILE", &file).await;
        let fault = fault.unwrap_or_else(|| panic!("{weak:?} was taken"));
        assert!(weak.trim().is_empty() || weak == "short" || !fault.contains(weak), "{fault}");
    }
    std::fs::write(&path, "walnut river seven quiet lamps\n").unwrap();
    let op = ScriptedOp::start().await;
    let mut salts = Vec::new();
    for _ in 0..2 {
        let plan = TestHouse::with_op(&op).set("KEYS__RING__K2__PASSPHRASE_FILE", &file);
        let house = plan.set("KEYS__CURRENT", "k2").open().await;
        let browser = signed_in(&house).await;
        assert_eq!(usage(&house).await, ["k2"]);
        salts.push(
            house
                .database
                .number("SELECT count(*) FROM own_keys WHERE name = 'salt:k2' AND length(value) = 16")
                .await,
        );
        assert!(is_signed_in(&browser).await);
    }
    assert_eq!(salts, [1, 1]);
}

#[tokio::test]
async fn cr_07_a_missing_key_is_made_for_development_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/k1");
    assert_eq!(start_fault(folder.path(), "KEYS__RING__K1__FILE", &path.display().to_string()).await, None);
    let made = std::fs::read(&path).unwrap();
    assert_eq!((made.len(), std::fs::metadata(&path).unwrap().permissions().mode() & 0o777), (32, 0o600));
    std::fs::write(
        folder.path().join("config.toml"),
        "[[provider]]\nid = \"op\"\nkind = \"oidc\"\nissuer = \"https://id.example\"\nclient_id = \"x\"\nclient_secret = \"y\"\n",
    )
    .unwrap();
    let absent = folder.path().join("absent");
    let fault = start_fault(folder.path(), "KEYS__RING__K1__FILE", &absent.display().to_string()).await;
    assert!(fault.unwrap().contains("keys.ring"));
    assert!(!absent.exists());
}
