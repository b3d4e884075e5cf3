//! `sessions`: keys hashed, tokens sealed, ends final.

use base64::Engine as _;
use doorward::crypto::OpenError;
use doorward::domain::{Session, Tokens};
use doorward::store::sessions::refresh::{self, Fresh};
use doorward::store::sessions::{self as rows};
use doorward::store::{Store, StoreError};
use secrecy::ExposeSecret;

use super::refresh::bid;
use super::{HOUR, NOW, ring, session, tokens, user_with_sessions, write};
use crate::house::databases::on_each_database;

async fn find(store: &Store, id: &str) -> Session {
    rows::find(&mut store.reader().await.unwrap(), id).await.unwrap().unwrap()
}

async fn sealed(store: &Store, id: &str) -> Option<rows::SealedTokens> {
    rows::tokens(&mut store.reader().await.unwrap(), id).await.unwrap()
}

fn plain(tokens: &Tokens) -> [Option<&str>; 3] {
    [&tokens.access, &tokens.refresh, &tokens.id].map(|token| token.as_ref().map(ExposeSecret::expose_secret))
}

on_each_database! {
    async fn a_session_is_found_by_its_keys_hash_with_its_user_and_by_nothing_like_it(db: Database) {
        let store = db.open().await;
        let made = user_with_sessions(&store, "ada", &["s1", "s2"]).await;
        let mut reader = store.reader().await.unwrap();
        let (session, user) = rows::find_by_key_hash(&mut reader, &made[0].key.hash()).await.unwrap().unwrap();
        assert_eq!(session, made[0].session);
        assert_eq!((user.id.as_str(), user.usertag.as_str()), ("ada", "ada"));
        assert_eq!(user.created_at_ms, NOW);
        assert_eq!(find(&store, "s2").await, made[1].session);
        assert!(rows::find(&mut reader, "S1").await.unwrap().is_none());
        let mut almost = made[0].key.hash();
        almost[31] ^= 1;
        for hash in [almost.as_slice(), b"", made[0].key.expose().as_bytes()] {
            assert!(rows::find_by_key_hash(&mut reader, hash).await.unwrap().is_none());
        }
    }

    async fn a_session_with_few_facts_is_read_as_it_was_written(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &[]).await;
        let mut new = session("s1", "ada");
        new.session.renewal.has_token = false;
        new.session = Session {
            kind: doorward::domain::SessionKind::Api,
            provider_session_id: None,
            token_expires_at_ms: None,
            refresh_expires_at_ms: None,
            ip: None,
            user_agent: None,
            auth_time_ms: None,
            acr: None,
            scope: None,
            ..new.session
        };
        new.tokens = Tokens { access: None, refresh: None, id: None, ..new.tokens };
        write(&store, async |w| rows::insert(w, &new, &ring("k1", &["k1"]), None).await).await;
        assert_eq!(find(&store, "s1").await, new.session);
        let opened = sealed(&store, "s1").await.unwrap().open(&ring("k1", &["k1"])).unwrap();
        assert_eq!(plain(&opened), [None, None, None]);
    }

    async fn a_doubled_id_or_key_and_an_unknown_user_are_conflicts_that_name_no_value(db: Database) {
        let store = db.open().await;
        let made = user_with_sessions(&store, "ada", &["s1"]).await;
        let mut same_key = session("s2", "ada");
        same_key.key = made[0].key.clone();
        for new in [session("s1", "ada"), same_key, session("s3", "CANARY")] {
            let mut w = store.writer().await.unwrap();
            let error = rows::insert(&mut w, &new, &ring("k1", &["k1"]), None).await.unwrap_err();
            assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
            assert!(!format!("{error:?} {error}").contains("CANARY"), "{error:?}");
        }
    }

    async fn se_01_neither_key_nor_token_of_a_session_is_in_a_dump(db: Database) {
        let store = db.open().await;
        let mut new = session("s1", "ada");
        user_with_sessions(&store, "ada", &[]).await;
        new.tokens = tokens("CANARY-IN-A-TOKEN");
        write(&store, async |w| rows::insert(w, &new, &ring("k1", &["k1"]), None).await).await;
        let dump = db.dump().await;
        let holds = |text: &[u8]| dump.windows(text.len()).any(|window| window == text);
        assert!(holds(b"ada@mail.example"), "the search finds what is there");
        for secret in ["CANARY-IN-A-TOKEN", new.key.expose()] {
            assert!(!holds(secret.as_bytes()));
            assert!(!holds(doorward::crypto::key::to_hex(secret.as_bytes()).as_bytes()));
        }
        let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(new.key.expose()).unwrap();
        assert!(!holds(&raw) && !holds(doorward::crypto::key::to_hex(&raw).as_bytes()));
    }

    async fn tokens_open_in_their_own_row_and_column_only(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1", "s2"]).await;
        let opened = sealed(&store, "s1").await.unwrap().open(&ring("k2", &["k1", "k2"])).unwrap();
        assert_eq!(plain(&opened), [Some("access-s1"), Some("refresh-s1"), Some("id-s1")]);
        assert_eq!((opened.access_expires_at_ms, opened.refresh_expires_at_ms), (Some(NOW + HOUR), Some(NOW + 8 * HOUR)));
        assert_eq!(opened.scope.as_deref(), Some("openid profile"));
        let other = sealed(&store, "s1").await.unwrap().open(&ring("k2", &["k2"])).unwrap_err();
        assert_eq!(other, OpenError::UnknownKey("k1".into()));

        // CR-03: a ciphertext that was moved opens nowhere.
        db.execute("UPDATE sessions SET access_token = (SELECT access_token FROM sessions WHERE id = 's2') WHERE id = 's1'").await;
        let moved = sealed(&store, "s1").await.unwrap().open(&ring("k1", &["k1"])).unwrap_err();
        assert_eq!(moved, OpenError::NotAuthentic);
        db.execute("UPDATE sessions SET refresh_token = access_token WHERE id = 's2'").await;
        let moved = sealed(&store, "s2").await.unwrap().open(&ring("k1", &["k1"])).unwrap_err();
        assert_eq!(moved, OpenError::NotAuthentic);
    }

    async fn cr_08_a_corrupt_row_is_an_error_of_its_own_and_no_panic(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        let words = if db.path().is_some() { "X'0102'" } else { "'\\x0102'" };
        db.execute(&format!("UPDATE sessions SET access_token = {words}")).await;
        assert_eq!(sealed(&store, "s1").await.unwrap().open(&ring("k1", &["k1"])).unwrap_err(), OpenError::Malformed);
        assert!(!format!("{:?}", sealed(&store, "s1").await).contains("[1, 2]"));
    }

    async fn se_06_an_ended_session_stays_ended_and_its_tokens_are_gone(db: Database) {
        let store = db.open().await;
        let made = user_with_sessions(&store, "ada", &["s1", "s2"]).await;
        let before = write(&store, async |w| refresh::claim(w, bid("s1", 1, "o1")).await).await.unwrap();
        assert!(write(&store, async |w| rows::end(w, "s1", NOW + 5).await).await);
        assert!(!write(&store, async |w| rows::end(w, "s1", NOW + 6).await).await);
        assert!(!write(&store, async |w| rows::end(w, "none", NOW + 6).await).await);
        let ended = find(&store, "s1").await;
        assert_eq!((ended.revoked_at_ms, ended.generation), (Some(NOW + 5), 2));
        assert!(sealed(&store, "s1").await.is_none());
        assert_eq!(db.number("SELECT count(*) FROM sessions WHERE access_token IS NOT NULL \
            OR refresh_token IS NOT NULL OR id_token IS NOT NULL").await, 1);
        // The row is still found, so that its cookie is known to be dead and not merely unknown.
        let mut reader = store.reader().await.unwrap();
        let (session, _) = rows::find_by_key_hash(&mut reader, &made[0].key.hash()).await.unwrap().unwrap();
        assert!(!session.is_alive(NOW + 6, HOUR));
        // Neither a late touch nor a late refresh brings it back.
        assert!(!write(&store, async |w| rows::touch(w, "s1", NOW + 9).await).await);
        let late = tokens("late");
        let late = Fresh { session_id: "s1", owner: &before.owner, tokens: &late, previous_hash: None, proves: None };
        assert!(!write(&store, async |w| refresh::save(w, &late, &ring("k1", &["k1"]), NOW + 9).await).await);
        assert!(write(&store, async |w| refresh::claim(w, bid("s1", 2, "o2")).await).await.is_none());
        assert_eq!(find(&store, "s1").await, ended);
    }

    async fn activity_moves_forward_only(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        assert!(write(&store, async |w| rows::touch(w, "s1", NOW + 5).await).await);
        assert!(!write(&store, async |w| rows::touch(w, "s1", NOW + 5).await).await);
        assert!(!write(&store, async |w| rows::touch(w, "s1", NOW + 4).await).await);
        let touched = find(&store, "s1").await;
        assert_eq!((touched.last_active_at_ms, touched.expires_at_ms), (NOW + 5, NOW + 24 * HOUR));
        assert_eq!(touched.generation, 1);
    }

    async fn the_living_sessions_of_a_user_are_listed_latest_use_first(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1", "s2", "s3", "s4"]).await;
        user_with_sessions(&store, "bob", &["s5"]).await;
        write(&store, async |w| rows::end(w, "s3", NOW).await).await;
        write(&store, async |w| rows::touch(w, "s2", NOW + 10).await).await;
        write(&store, async |w| rows::touch(w, "s1", NOW + 20).await).await;
        let live = async |now_ms, idle_ms| -> Vec<String> {
            let mut reader = store.reader().await.unwrap();
            let live = rows::list_live_of_user(&mut reader, "ada", now_ms, idle_ms).await.unwrap();
            live.into_iter().map(|session| session.id).collect()
        };
        assert_eq!(live(NOW + 20, HOUR).await, ["s1", "s2", "s4"]);
        assert_eq!(live(NOW + HOUR, HOUR).await, ["s1", "s2"]);
        assert_eq!(live(NOW + HOUR + 10, HOUR).await, ["s1"]);
        assert!(live(NOW + 24 * HOUR, 48 * HOUR).await.is_empty());
    }

    async fn sessions_end_by_user_by_number_and_by_the_providers_sid(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1", "s2", "s3", "s4"]).await;
        user_with_sessions(&store, "bob", &["s5", "s6"]).await;
        for (n, id) in ["s3", "s1", "s4", "s2"].into_iter().enumerate() {
            let at_ms = NOW + 1 + i64::try_from(n).unwrap();
            write(&store, async |w| rows::touch(w, id, at_ms).await).await;
        }
        let mut ended = write(&store, async |w| rows::end_oldest_beyond(w, "ada", 2, NOW + 9).await).await;
        ended.sort_unstable();
        assert_eq!(ended, ["s1", "s3"]);
        assert!(write(&store, async |w| rows::end_oldest_beyond(w, "ada", 2, NOW + 9).await).await.is_empty());
        let ended = write(&store, async |w| rows::end_of_user(w, "ada", Some("s4"), NOW + 9).await).await;
        assert_eq!(ended, ["s2"]);
        let issuer = "https://id.example/realms/app";
        for (provider, issuer, sid) in [("other", issuer, "sid-s5"), ("keycloak", "x", "sid-s5"), ("keycloak", issuer, "sid")] {
            assert!(write(&store, async |w| rows::end_by_sid(w, provider, issuer, sid, NOW).await).await.is_empty());
        }
        assert_eq!(write(&store, async |w| rows::end_by_sid(w, "keycloak", issuer, "sid-s5", NOW).await).await, ["s5"]);
        assert!(write(&store, async |w| rows::end_by_sid(w, "keycloak", issuer, "sid-s5", NOW).await).await.is_empty());
        assert_eq!(write(&store, async |w| rows::end_of_user(w, "bob", None, NOW).await).await, ["s6"]);
        assert!(find(&store, "s4").await.is_alive(NOW + 9, HOUR));
    }

    async fn se_13_dead_sessions_are_removed_in_bounded_batches_and_living_ones_stay(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["live", "idle", "ended", "over"]).await;
        db.execute("UPDATE sessions SET last_active_at = last_active_at + 100000000").await;
        write(&store, async |w| rows::end(w, "ended", NOW).await).await;
        db.execute(&format!("UPDATE sessions SET expires_at = {NOW} WHERE id = 'over'")).await;
        db.execute(&format!("UPDATE sessions SET last_active_at = {NOW} WHERE id = 'idle'")).await;
        let remove = async |before_ms, limit| write(&store, async |w| rows::remove_dead(w, before_ms, HOUR, limit).await).await;
        assert_eq!(remove(NOW, 10).await, 0);
        assert_eq!(remove(NOW + HOUR + 1, 2).await, 2);
        assert_eq!(remove(NOW + HOUR + 1, 10).await, 1);
        assert_eq!(remove(NOW + HOUR + 1, 10).await, 0);
        assert!(find(&store, "live").await.is_alive(NOW + 1, HOUR));
    }
}
