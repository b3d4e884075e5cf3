//! `own_keys`, canaries and rotation.

use std::collections::BTreeMap;

use doorward::crypto::{KeyRing, OpenError};
use doorward::store::rotate::{self, Progress};
use doorward::store::sessions::refresh::{self, Fresh};
use doorward::store::sessions::{self as rows};
use doorward::store::{Store, StoreError, own_keys};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use super::refresh::bid;
use super::{NOW, RANDOM, master, ring, session, tokens, user_with_sessions, write};
use crate::house::databases::on_each_database;

fn draw() -> Zeroizing<Vec<u8>> {
    use doorward::domain::Random as _;
    let mut bytes = Zeroizing::new(vec![0; 32]);
    RANDOM.fill(&mut bytes);
    bytes
}

async fn own_key(store: &Store, ring: &KeyRing) -> Vec<u8> {
    let mut w = store.writer().await.unwrap();
    let key = own_keys::find_or_insert(&mut w, "cookie-mac", draw, ring, NOW).await.unwrap();
    w.commit().await.unwrap();
    key.to_vec()
}

/// One whole pass; returns what was resealed and what was unreadable.
async fn pass(store: &Store, ring: &KeyRing, limit: u32) -> (u32, u32) {
    let (mut progress, mut sums) = (Some(Progress::default()), (0, 0));
    while let Some(from) = progress {
        let done = write(store, async |w| rotate::reseal_batch(w, ring, &from, limit).await).await;
        assert!(done.seen <= limit);
        sums = (sums.0 + done.resealed, sums.1 + done.unreadable);
        progress = done.next;
    }
    sums
}

async fn usage(store: &Store) -> BTreeMap<String, u64> {
    rotate::key_usage(&mut store.reader().await.unwrap()).await.unwrap()
}

async fn access(store: &Store, id: &str, ring: &KeyRing) -> String {
    let sealed = rows::tokens(&mut store.reader().await.unwrap(), id).await.unwrap().unwrap();
    sealed.open(ring).unwrap().access.unwrap().expose_secret().to_owned()
}

on_each_database! {
    async fn a_key_of_ours_is_made_once_and_the_same_for_all_replicas(db: Database) {
        let stores = [db.open().await, db.open().await];
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..10 {
            let store = stores[n % 2].clone();
            tasks.spawn(async move { own_key(&store, &ring("k1", &["k1"])).await });
        }
        let mut keys = tasks.join_all().await;
        keys.dedup();
        assert_eq!(keys.len(), 1);
        assert_eq!(own_key(&stores[0], &ring("k2", &["k1", "k2"])).await, keys[0]);
        let dump = db.dump().await;
        let hex = doorward::crypto::key::to_hex(&keys[0]);
        assert!(!dump.windows(32).any(|w| w == keys[0]) && !dump.windows(64).any(|w| w == hex.as_bytes()));
    }

    async fn a_key_of_ours_that_does_not_open_or_was_planted_is_an_error(db: Database) {
        let store = db.open().await;
        own_key(&store, &ring("k1", &["k1"])).await;
        let error = async |ring: &KeyRing| {
            let mut w = store.writer().await.unwrap();
            own_keys::find_or_insert(&mut w, "cookie-mac", draw, ring, NOW).await.unwrap_err()
        };
        let unknown = error(&ring("k2", &["k2"])).await;
        assert!(matches!(unknown, StoreError::Sealed { source: OpenError::UnknownKey(_), .. }), "{unknown:?}");
        db.execute("UPDATE own_keys SET sealed = FALSE").await;
        let planted = error(&ring("k1", &["k1"])).await;
        assert!(matches!(planted, StoreError::Sealed { source: OpenError::Malformed, .. }), "{planted:?}");
    }

    async fn the_salt_of_a_passphrase_is_made_once(db: Database) {
        let stores = [db.open().await, db.open().await];
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..10_u8 {
            let store = stores[usize::from(n % 2)].clone();
            tasks.spawn(async move { write(&store, async |w| own_keys::salt(w, "k1", || [n; 16], NOW).await).await });
        }
        let mut salts = tasks.join_all().await;
        salts.dedup();
        assert_eq!(salts.len(), 1);
        assert_eq!(write(&stores[0], async |w| own_keys::salt(w, "k1", || [99; 16], NOW).await).await, salts[0]);
        assert_eq!(write(&stores[0], async |w| own_keys::salt(w, "k2", || [99; 16], NOW).await).await, [99; 16]);
        db.execute("UPDATE own_keys SET value = ''").await;
        let mut w = stores[0].writer().await.unwrap();
        let error = own_keys::salt(&mut w, "k1", || [1; 16], NOW).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongKey(id) if id == "k1"));
    }

    async fn a_replaced_key_of_a_known_name_is_noticed_by_its_canary(db: Database) {
        let store = db.open().await;
        let check = async |ring: KeyRing| {
            let mut w = store.writer().await.unwrap();
            let checked = own_keys::check_canaries(&mut w, &ring, NOW).await;
            w.commit().await.unwrap();
            checked
        };
        check(ring("k1", &["k1"])).await.unwrap();
        check(ring("k2", &["k1", "k2"])).await.unwrap();
        check(ring("k2", &["k2"])).await.unwrap();
        let wrong = KeyRing::new("k1", vec![("k1".into(), master("another")), ("k2".into(), master("k2"))]).unwrap();
        let error = check(wrong).await.unwrap_err();
        assert!(matches!(&error, StoreError::WrongKey(id) if id == "k1"), "{error:?}");
        assert!(error.to_string().contains("\"k1\""));
        assert!(usage(&store).await.is_empty(), "canaries belong to their keys and keep none of them in use");
    }

    async fn cr_05_rotation_reseals_every_cell_and_changes_no_value(db: Database) {
        let store = db.open().await;
        let old = ring("k1", &["k1"]);
        let both = ring("k2", &["k1", "k2"]);
        user_with_sessions(&store, "ada", &["s1", "s2", "s3", "s4", "s5"]).await;
        write(&store, async |w| rows::end(w, "s5", NOW).await).await;
        let key = own_key(&store, &old).await;
        write(&store, async |w| own_keys::salt(w, "k1", || [7; 16], NOW).await).await;
        write(&store, async |w| own_keys::check_canaries(w, &both, NOW).await).await;
        assert_eq!(usage(&store).await, BTreeMap::from([("k1".to_owned(), 13)]));
        assert_eq!(pass(&store, &both, 2).await, (13, 0));
        assert_eq!(usage(&store).await, BTreeMap::from([("k2".to_owned(), 13)]));
        assert_eq!(pass(&store, &both, 100).await, (0, 0));
        let new = ring("k2", &["k2"]);
        for id in ["s1", "s2", "s3", "s4"] {
            assert_eq!(access(&store, id, &new).await, format!("access-{id}"));
        }
        assert_eq!(own_key(&store, &new).await, key);
        let found = rows::find(&mut store.reader().await.unwrap(), "s1").await.unwrap().unwrap();
        assert_eq!(found.generation, 1, "nobody has to be told");
        // And back again.
        assert_eq!(pass(&store, &ring("k1", &["k1", "k2"]), 3).await, (13, 0));
        assert_eq!(access(&store, "s1", &old).await, "access-s1");
    }

    async fn cells_that_do_not_open_are_counted_and_hold_nothing_up(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1", "s2", "s3"]).await;
        db.execute("UPDATE sessions SET access_token = refresh_token WHERE id = 's1'").await;
        db.execute("UPDATE sessions SET id_token = '' WHERE id = 's3'").await;
        assert_eq!(pass(&store, &ring("k2", &["k1", "k2"]), 1).await, (7, 2));
        assert_eq!(usage(&store).await, BTreeMap::from([("k1".into(), 1), ("k2".into(), 7), (String::new(), 1)]));
        // A key that is not in the ring is no reason to stop either.
        assert_eq!(pass(&store, &ring("k3", &["k3"]), 10).await, (0, 9));
    }

    async fn cr_05_rotation_under_concurrent_writers_loses_nothing(db: Database) {
        let (here, there) = (db.open().await, db.open().await);
        let ids: Vec<String> = (0..12).map(|n| format!("s{n:02}")).collect();
        user_with_sessions(&here, "ada", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let writers = tokio::spawn(async move {
            // A replica that does not know the new key as current yet goes
            // on refreshing, ending and opening sessions.
            let behind = ring("k1", &["k1", "k2"]);
            for round in 1..=5_i64 {
                for n in 0..10 {
                    let (id, tokens) = (format!("s{n:02}"), tokens(&format!("s{n:02}-{round}")));
                    let claimed = write(&there, async |w| refresh::claim(w, bid(&id, round, "here")).await).await;
                    assert!(claimed.is_some(), "rotation does not compete for the generation");
                    let fresh = Fresh { session_id: &id, owner: "here", tokens: &tokens, previous_hash: None, proves: None };
                    let saved = write(&there, async |w| refresh::save(w, &fresh, &behind, NOW).await).await;
                    assert!(saved, "rotation does not compete for the generation");
                }
            }
            write(&there, async |w| rows::end(w, "s10", NOW).await).await;
            write(&there, async |w| rows::insert(w, &session("new", "ada"), &behind, None).await).await;
        });
        let both = ring("k2", &["k1", "k2"]);
        while !writers.is_finished() {
            assert_eq!(pass(&here, &both, 5).await.1, 0);
        }
        writers.await.unwrap();
        pass(&here, &both, 5).await;
        assert_eq!(usage(&here).await, BTreeMap::from([("k2".to_owned(), 36)]));
        for n in 0..10 {
            assert_eq!(access(&here, &format!("s{n:02}"), &both).await, format!("access-s{n:02}-5"));
        }
        assert_eq!(access(&here, "s11", &both).await, "access-s11");
        assert_eq!(access(&here, "new", &both).await, "access-new");
        assert!(rows::tokens(&mut here.reader().await.unwrap(), "s10").await.unwrap().is_none());
    }
}
