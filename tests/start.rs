//! How the program starts and stops: by itself in an empty folder, with a clear word when it cannot, and to its last visitor.

mod kills;
mod outages;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::house::browser::{Browser, Page};
use crate::house::databases::Database;
use crate::house::op::{Gate, ScriptedOp};
use crate::house::process::{Home, Process, me, signed_in};

/// A start that cannot succeed says so within this time.
const AT_ONCE: Duration = Duration::from_secs(5);
/// `server.shutdown`, and what a loaded machine may add.
const SHUTDOWN: Duration = Duration::from_secs(12);

/// Refused with exit code 1, in time, in one sentence with all these words, and without the word `canary`.
async fn refused(home: &Home, words: &[&str]) {
    let asked = Instant::now();
    let ran = home.run(&["serve"]).await;
    assert!(asked.elapsed() < AT_ONCE, "{words:?} took {:?}", asked.elapsed());
    assert_eq!(ran.code, 1, "{words:?}: {}", ran.all());
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not said: {}", ran.stderr);
    }
    assert!(!ran.all().contains("canary") && !ran.all().contains("panicked"), "{}", ran.all());
}

/// The browser at the door of the provider: the address of the callback, not yet asked for.
async fn callback_of(browser: &Browser) -> String {
    let start = browser.navigate("/auth/login?return_to=/protected").await;
    let at_provider = browser.follow(start, 1).await;
    at_provider.location().expect("the way back").into()
}

#[tokio::test]
async fn in_an_empty_folder_it_serves_a_newcomer_at_once() {
    let home = Home::empty();
    let mut process = home.serve().await;
    process.ready().await;
    let browser = process.browser();
    assert_eq!(browser.navigate("/").await.status, 200);
    for (file, mode) in [("secrets/k1", 0o600), ("doorward.db", 0o600), ("secrets", 0o700)] {
        let found = std::fs::metadata(home.path(file)).expect(file).permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}: {found:o}");
    }
    assert_eq!(home.read("secrets/k1").len(), 32);

    let people = browser.sign_in("/auth/login?return_to=/protected").await;
    assert!(people.url.path().starts_with("/dev-idp"), "{}", people.url);
    let form = people.forms().remove(0);
    let sent = browser.submit(&people, &form, &[("username", "alice")]).await;
    let inside = browser.follow(sent, 10).await;
    assert_eq!((inside.status, inside.url.path()), (200, "/protected"), "{}", inside.text());
    assert!(inside.text().contains("alice"), "{}", inside.text());
    assert_eq!(me(&browser).await, 200);
    process.stop().await;

    // The second start finds what the first one made; nobody is logged out.
    let key = home.read("secrets/k1");
    let mut home = home;
    home.stay_at(&process);
    let mut again = home.open().await;
    assert_eq!(me(&browser).await, 200, "{}", again.log());
    assert_eq!(home.read("secrets/k1"), key);
    again.stop().await;
}

#[tokio::test]
async fn a_database_that_can_never_work_is_said_at_once() {
    let op = ScriptedOp::start().await;
    let mut home = Home::with_op(&op);
    home.write("folder/file", "");
    home.write("text", "this is no database, whatever its name says, and is long enough to show it");
    for (url, words) in [
        ("postgres://", ["database.url", ""]),
        ("postgres://u:canary@127.0.0.1", ["database.url", "names no database"]),
        ("postgres://u:canary@127.0.0.1:port/x", ["database.url", "port"]),
        ("mysql://u:canary@127.0.0.1/x", ["database.url", "postgres://"]),
        ("sqlite:", ["database.url", "file"]),
        ("sqlite::memory:", ["database.url", "file"]),
        ("sqlite:absent/doorward.db", ["database.url", "absent does not exist"]),
        ("sqlite:folder", ["database.url", "folder"]),
        ("sqlite:text", ["database.url", "text"]),
        ("sqlite:/proc/doorward.db", ["database.url", "/proc"]),
    ] {
        home.set_env("DOORWARD__DATABASE__URL", url);
        refused(&home, &words).await;
    }
}

#[tokio::test]
async fn a_newer_or_a_missing_schema_stops_the_start_on_both_databases() {
    let op = ScriptedOp::start().await;
    for database in [Database::sqlite(), Database::postgres().await] {
        let mut home = Home::with_op(&op).env("DOORWARD__DATABASE__URL", &database.url);
        home.set_env("DOORWARD__DATABASE__MIGRATE", "false");
        refused(&home, &["database.url", "schema 0", "doorward migrate", "database.migrate"]).await;
        let migrated = home.run(&["migrate", "--json"]).await;
        assert_eq!(
            (migrated.code, migrated.json()["migrated"].as_bool()),
            (0, Some(true)),
            "{}",
            migrated.all()
        );
        home.open().await.stop().await;
        database
            .execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 SELECT 99990101000000, 'from the future', success, checksum, execution_time FROM _sqlx_migrations \
                 WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)",
            )
            .await;
        refused(&home, &["99990101000000", "newer Doorward"]).await;
        home.set_env("DOORWARD__DATABASE__MIGRATE", "true");
        refused(&home, &["99990101000000", "newer Doorward"]).await;
        assert_eq!(home.run(&["migrate"]).await.code, 1);
    }
}

#[tokio::test]
async fn a_missing_or_wrong_key_stops_the_start_and_is_never_replaced() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    home.open().await.stop().await;
    let right = home.read("secrets/k1");
    home.remove("secrets/k1");
    refused(&home, &["keys.ring", "secrets/k1 does not exist", "restore"]).await;
    assert!(!home.path("secrets/k1").exists());
    home.write_key("secrets/k1");
    refused(&home, &["keys.ring.k1", "not the key that sealed the database", "restore"]).await;
    assert_eq!(home.run(&["keys", "rotate"]).await.code, 1);
    home.write("secrets/k1", &right);
    home.open().await.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (key, variable) in [
        ("server.listen", "DOORWARD__SERVER__LISTEN"),
        ("server.operations_listen", "DOORWARD__SERVER__OPERATIONS_LISTEN"),
    ] {
        let home = Home::empty().env(variable, &taken);
        refused(&home, &[&format!("{key}: cannot listen on {taken}"), "another port"]).await;
    }
}

/// Nobody is taken any more: a caller is refused instead of left waiting.
async fn takes_nobody(process: &Process) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while tokio::net::TcpStream::connect(process.public).await.is_ok() {
        assert!(Instant::now() < deadline, "still takes callers:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn re_06_sigterm_lets_a_callback_under_way_finish_and_takes_nobody_new() {
    let op = ScriptedOp::start().await;
    let mut home = Home::with_op(&op);
    let mut process = home.open().await;
    home.stay_at(&process);
    let browser = process.browser();
    let callback = callback_of(&browser).await;
    let gate = Gate::closed();
    op.script(|s| s.hold_answer.insert("/token".into(), gate.clone()));
    let visitor = browser.clone();
    let login = tokio::spawn(async move { visitor.navigate(&callback).await });
    gate.arrived(1).await;
    process.signal("TERM");
    process.heard("stopping").await;
    takes_nobody(&process).await;
    assert!(process.is_alive(), "{}", process.log());
    gate.open();
    let page: Page = login.await.unwrap();
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")), "{}", process.log());
    assert_eq!(process.exit(SHUTDOWN).await, Some(0), "{}", process.log());
    assert!(process.log().contains("stopped"), "{}", process.log());
    op.script(|s| s.hold_answer.clear());
    let mut again = home.open().await;
    assert_eq!(me(&browser).await, 200, "the login that was under way counts: {}", again.log());
    again.stop().await;
}

#[tokio::test]
async fn re_06_what_never_finishes_does_not_hold_up_the_stop() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op).env("DOORWARD__SERVER__SHUTDOWN", "1s");
    for signal in ["TERM", "INT"] {
        let mut process = home.open().await;
        let browser = process.browser();
        let callback = callback_of(&browser).await;
        let gate = Gate::closed();
        op.script(|s| s.hold_answer.insert("/token".into(), gate.clone()));
        let login = tokio::spawn(async move { browser.try_get(&callback).await.map(|page| page.status) });
        gate.arrived(1).await;
        process.signal(signal);
        assert_eq!(process.exit(Duration::from_secs(4)).await, Some(0), "{signal}: {}", process.log());
        gate.open();
        op.script(|s| s.hold_answer.clear());
        // A refusal or a broken connection, as it happens; never an answer that looks well.
        let answer = login.await.unwrap();
        assert!(!matches!(answer, Ok(..500)), "{signal}: {answer:?}\n{}", process.log());
    }
}

#[tokio::test]
async fn a_stop_with_idle_visitors_is_quick() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    // Their connections stay open and ask for nothing.
    let visitors = [signed_in(&process).await, signed_in(&process).await];
    process.signal("TERM");
    let asked = Instant::now();
    assert_eq!(process.exit(SHUTDOWN).await, Some(0), "{}", process.log());
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "took {:?} with {} idle visitors",
        asked.elapsed(),
        visitors.len()
    );
}
