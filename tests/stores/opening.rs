//! Addresses, files, schemas.

use doorward::store::{Store, StoreError, StoreOptions, sessions};

use crate::house::databases::{Database, on_each_database};

fn options(url: &str) -> StoreOptions {
    StoreOptions { url: url.into(), pool_size: 2, migrate: true }
}

on_each_database! {
    async fn two_replicas_prepare_an_empty_database_at_once_and_again(db: Database) {
        let (one, two) = (Store::open(&db.options()).await.unwrap(), Store::open(&db.options()).await.unwrap());
        let (first, second) = tokio::join!(one.prepare(), two.prepare());
        first.unwrap();
        second.unwrap();
        one.prepare().await.unwrap();
        one.ping().await.unwrap();
        assert_eq!(one.is_local(), db.path().is_some());
        one.close().await;
        two.ping().await.unwrap();
    }

    async fn re_08_an_unknown_newer_schema_is_refused(db: Database) {
        let store = db.open().await;
        db.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', TRUE, '', 0)",
        )
        .await;
        let error = store.prepare().await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 9999, .. }), "{error}");
        assert!(error.to_string().contains("newer Doorward"));
    }

    async fn without_migrating_an_old_schema_is_refused_and_a_current_one_is_fine(db: Database) {
        let checking = StoreOptions { migrate: false, ..db.options() };
        let store = Store::open(&checking).await.unwrap();
        let error = store.prepare().await.unwrap_err();
        assert!(matches!(error, StoreError::OlderSchema { found: 0, .. }), "{error}");
        db.open().await;
        store.prepare().await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_quoting_it() {
    for url in [
        "",
        "CANARY",
        "mysql://CANARY:CANARY@db.example/app",
        "sqlite::memory:",
        "sqlite:",
        "sqlite:file?mode=CANARY",
        "sqlite:file?CANARY=1",
        "postgres:",
        "postgres://",
        "postgres://user:CANARY@db.example",
        "postgres://user:CANARY@db.example:port/app",
        "postgres://user:CANARY@db.example:99999/app",
        "postgres://user:CANARY@[::1/app",
        "postgres://user:CANARY@db.example/app?sslmode=CANARY",
    ] {
        let error = Store::open(&options(url)).await.unwrap_err();
        assert!(matches!(error, StoreError::BadUrl(_)), "{url}: {error:?}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("CANARY"), "{text}");
    }
    assert!(!format!("{:?}", options("postgres://u:CANARY@h/d")).contains("CANARY"));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_with_its_path_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    std::fs::create_dir(folder.path().join("taken")).unwrap();
    std::fs::write(folder.path().join("text"), "This is no database, and long enough to be one.".repeat(50))
        .unwrap();
    for (url, words) in [
        (format!("sqlite:{path}/missing/doorward.sqlite"), "/missing does not exist; create the folder"),
        (format!("sqlite:{path}/taken"), "correct `database.url`"),
        (format!("sqlite:{path}/text"), "correct `database.url`"),
        // Not even root writes here.
        ("sqlite:/proc/doorward.sqlite".to_owned(), "/proc/doorward.sqlite"),
    ] {
        let error = Store::open(&options(&url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unwritable { .. }), "{url}: {error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_new_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let db = Database::sqlite();
    db.open().await;
    let mode = std::fs::metadata(db.path().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn sqlite_keeps_what_was_committed_through_a_power_failure_and_checks_references() {
    let db = Database::sqlite();
    let store = db.open().await;
    // What the store's connections are set to is seen by what they do: a session without a user is refused.
    let mut w = store.writer().await.unwrap();
    let new = super::session("s1", "nobody");
    let inserted = sessions::insert(&mut w, &new, &super::ring("k1", &["k1"]), None).await;
    let error = inserted.unwrap_err();
    assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
    assert!(std::fs::exists(format!("{}-wal", db.path().unwrap().display())).unwrap());
}

#[tokio::test]
async fn a_file_that_another_process_is_creating_or_writing_opens_all_the_same() {
    for _ in 0..5 {
        let db = Database::sqlite();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let options = db.options();
            tasks.spawn(async move {
                let store = Store::open(&options).await.unwrap();
                store.prepare().await.unwrap();
            });
        }
        tasks.join_all().await;
    }
    let db = Database::sqlite();
    let held = db.open().await.writer().await.unwrap();
    let other = Store::open(&db.options()).await.unwrap();
    other.ping().await.unwrap();
    drop(held);
}
