//! `api_keys`, `leases`, and what an administrator sees.

use doorward::domain::KnownKey;
use doorward::store::sessions::{list_live, users_with_sessions};
use doorward::store::users::Road;
use doorward::store::{StoreError, api_keys, leases, users};

use super::{HOUR, NOW, apply, change, user_with_sessions, write};
use crate::house::databases::on_each_database;

fn key(id: &str) -> KnownKey {
    KnownKey {
        id: id.into(),
        name: "night shift".into(),
        created_at_ms: NOW,
        expires_at_ms: Some(NOW + HOUR),
        last_used_at_ms: None,
        revoked_at_ms: None,
        created_by: "cli:olga".into(),
    }
}

on_each_database! {
    async fn an_api_key_is_kept_whole_used_and_revoked_once(db: Database) {
        let store = db.open().await;
        write(&store, async |w| api_keys::insert(w, &key("a"), b"hash of a").await).await;
        write(&store, async |w| api_keys::insert(w, &KnownKey { created_at_ms: NOW + 1, ..key("b") }, b"b").await).await;
        let mut w = store.writer().await.unwrap();
        let twice = api_keys::insert(&mut w, &key("a"), b"other").await;
        assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
        drop(w);
        let found = api_keys::find(&mut store.reader().await.unwrap(), "a").await.unwrap();
        assert_eq!(found, Some((key("a"), b"hash of a".to_vec())));
        assert_eq!(api_keys::find(&mut store.reader().await.unwrap(), "c").await.unwrap(), None);
        for at_ms in [NOW + 5, NOW + 3] {
            write(&store, async |w| api_keys::touch(w, "a", at_ms).await).await;
        }
        assert!(write(&store, async |w| api_keys::revoke(w, "a", NOW + 7).await).await);
        assert!(!write(&store, async |w| api_keys::revoke(w, "a", NOW + 8).await).await);
        assert!(!write(&store, async |w| api_keys::revoke(w, "c", NOW + 8).await).await);
        let all = api_keys::list(&mut store.reader().await.unwrap()).await.unwrap();
        let seen: Vec<_> = all.iter().map(|key| (key.id.as_str(), key.last_used_at_ms, key.revoked_at_ms)).collect();
        assert_eq!(seen, [("b", None, None), ("a", Some(NOW + 5), Some(NOW + 7))]);
    }

    async fn a_lease_is_compared_and_set(db: Database) {
        let store = db.open().await;
        let claim = async |owner: &str, now, until| {
            write(&store, async |w| leases::claim(w, "work", owner, now, until).await).await
        };
        assert_eq!(leases::held_until(&mut store.reader().await.unwrap(), "work").await.unwrap(), None);
        assert_eq!(claim("one", NOW, NOW + 10).await, Some(1));
        assert_eq!(claim("two", NOW + 9, NOW + 99).await, None);
        assert_eq!(claim("one", NOW + 9, NOW + 99).await, None, "a holder renews instead");
        assert_eq!(leases::held_until(&mut store.reader().await.unwrap(), "work").await.unwrap(), Some(NOW + 10));
        for (owner, fence, kept) in [("one", 2, false), ("two", 1, false), ("one", 1, true)] {
            let renewed = write(&store, async |w| leases::renew(w, "work", owner, fence, NOW + 20).await).await;
            let held = write(&store, async |w| leases::holds(w, "work", owner, fence).await).await;
            assert_eq!((renewed, held), (kept, kept), "{owner} {fence}");
        }
        assert_eq!(claim("two", NOW + 20, NOW + 30).await, Some(2));
        // A replica whose clock was years ahead keeps the work from nobody.
        assert_eq!(claim("ahead", NOW + 9_999 * 24 * HOUR, NOW + 9_999 * 25 * HOUR).await, Some(3));
        assert_eq!(claim("two", NOW + 21, NOW + 31).await, Some(4));
        assert_eq!(claim("one", NOW + 22, NOW + 32).await, None);
        assert!(!write(&store, async |w| leases::holds(w, "work", "one", 1).await).await);
    }

    async fn a_holder_that_is_writing_cannot_be_overtaken(db: Database) {
        let stores = [db.open().await, db.open().await];
        write(&stores[0], async |w| leases::claim(w, "work", "one", NOW, NOW + 10).await).await;
        let mut writing = stores[0].writer().await.unwrap();
        assert!(leases::holds(&mut writing, "work", "one", 1).await.unwrap());
        let store = stores[1].clone();
        let overtaking = tokio::spawn(async move {
            write(&store, async |w| leases::claim(w, "work", "two", NOW + 10, NOW + 20).await).await
        });
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(!overtaking.is_finished(), "the next holder waits for the last write");
        writing.commit().await.unwrap();
        assert_eq!(overtaking.await.unwrap(), Some(2));
    }

    async fn an_administrator_sees_live_sessions_and_finds_users_by_any_name(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["a1", "a2"]).await;
        user_with_sessions(&store, "bob", &["b1"]).await;
        apply(&store, &change("100%_!"), Road::Sync, NOW + 1).await;
        let mut reader = store.reader().await.unwrap();
        let live = list_live(&mut reader, None, NOW + 1, HOUR).await.unwrap();
        let ids: Vec<_> = live.iter().map(|(session, user)| (session.id.as_str(), user.id.as_str())).collect();
        assert_eq!(ids, [("a1", "ada"), ("a2", "ada"), ("b1", "bob")]);
        assert_eq!(list_live(&mut reader, Some("bob"), NOW + 1, HOUR).await.unwrap().len(), 1);
        assert_eq!(list_live(&mut reader, None, NOW + HOUR, HOUR).await.unwrap().len(), 0);
        let mut with = users_with_sessions(&mut reader, 9).await.unwrap();
        with.sort_unstable();
        assert_eq!(with, ["ada", "bob"]);
        assert_eq!(users_with_sessions(&mut reader, 1).await.unwrap().len(), 1);
        for (text, found) in [
            ("", vec!["100%_!", "ada", "bob"]),
            ("ADA@mail", vec!["ada"]),
            ("Ob", vec!["bob"]),
            ("lovelace", vec!["100%_!", "ada", "bob"]),
            ("%_", vec!["100%_!"]),
            ("!", vec!["100%_!"]),
            ("a_a", vec![]),
            ("\0", vec!["100%_!", "ada", "bob"]),
        ] {
            let users = users::search(&mut reader, text, 9).await.unwrap();
            let ids: Vec<_> = users.iter().map(|user| user.id.as_str()).collect();
            assert_eq!(ids, found, "{text:?}");
        }
        assert_eq!(users::search(&mut reader, "", 2).await.unwrap().len(), 2);
    }
}
