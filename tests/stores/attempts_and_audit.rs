//! `used_attempts` and `audit_log`.

use doorward::store::audit_log::{self, AuditEvent};
use doorward::store::used_attempts;

use super::{NOW, write};
use crate::house::databases::on_each_database;

fn plain(n: i64) -> AuditEvent {
    AuditEvent {
        at_ms: NOW,
        id: format!("event-{n}"),
        request_id: None,
        address: None,
        provider: None,
        user_id: None,
        session_ref: None,
        event: "session.ended",
        outcome: "success",
        reason: None,
        detail: serde_json::Value::Null,
    }
}

on_each_database! {
    async fn a_login_attempt_is_taken_once_and_forgotten_after_its_time(db: Database) {
        let store = db.open().await;
        assert!(write(&store, async |w| used_attempts::take(w, b"one", NOW + 10).await).await);
        assert!(!write(&store, async |w| used_attempts::take(w, b"one", NOW + 10).await).await);
        assert!(write(&store, async |w| used_attempts::take(w, b"two", NOW + 20).await).await);
        assert_eq!(write(&store, async |w| used_attempts::remove_expired(w, NOW + 10, 10).await).await, 0);
        assert_eq!(write(&store, async |w| used_attempts::remove_expired(w, NOW + 11, 10).await).await, 1);
        assert!(!write(&store, async |w| used_attempts::take(w, b"two", NOW + 20).await).await);
        assert!(write(&store, async |w| used_attempts::take(w, b"one", NOW + 10).await).await);
    }

    async fn a_single_statement_is_true_as_soon_as_it_returns_and_still_settles_a_race(db: Database) {
        let stores = [db.open().await, db.open().await];
        let mut first = stores[0].single().await.unwrap();
        assert!(used_attempts::take(&mut first, b"one", NOW).await.unwrap());
        // Nothing was committed and nothing dropped: the neighbour sees it all the same.
        let mut second = stores[1].single().await.unwrap();
        assert!(!used_attempts::take(&mut second, b"one", NOW).await.unwrap());
    }

    async fn expired_attempts_are_removed_in_bounded_batches(db: Database) {
        let store = db.open().await;
        for n in 0..5_u8 {
            write(&store, async |w| used_attempts::take(w, &[n], NOW).await).await;
        }
        assert_eq!(write(&store, async |w| used_attempts::remove_expired(w, NOW + 1, 2).await).await, 2);
        assert_eq!(write(&store, async |w| used_attempts::remove_expired(w, NOW + 1, 100).await).await, 3);
    }

    async fn of_twenty_simultaneous_callbacks_on_two_replicas_one_takes_the_attempt(db: Database) {
        let stores = [db.open().await, db.open().await];
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let store = stores[n % 2].clone();
            tasks.spawn(async move { write(&store, async |w| used_attempts::take(w, b"state", NOW).await).await });
        }
        let winners = tasks.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(winners, 1);
    }

    async fn a_writer_that_is_dropped_or_rolled_back_has_written_nothing(db: Database) {
        let store = db.open().await;
        let mut w = store.writer().await.unwrap();
        assert!(used_attempts::take(&mut w, b"one", NOW).await.unwrap());
        drop(w);
        let mut w = store.writer().await.unwrap();
        assert!(used_attempts::take(&mut w, b"one", NOW).await.unwrap());
        w.rollback().await.unwrap();
        assert!(write(&store, async |w| used_attempts::take(w, b"one", NOW).await).await);
    }

    async fn lg_04_of_many_events_in_one_transaction_none_is_lost_and_a_fault_takes_back_all(db: Database) {
        let store = db.open().await;
        let mut w = store.writer().await.unwrap();
        for n in 0..400 {
            audit_log::insert(&mut w, &plain(n)).await.unwrap();
        }
        w.commit().await.unwrap();
        assert_eq!(db.number("SELECT COUNT(*) FROM audit_log").await, 400);
        // The same id again; whoever waits for the answer is told.
        let mut w = store.writer().await.unwrap();
        let written = async {
            audit_log::insert(&mut w, &plain(400)).await?;
            audit_log::insert(&mut w, &plain(0)).await?;
            w.commit().await
        };
        written.await.unwrap_err();
        assert_eq!(db.number("SELECT COUNT(*) FROM audit_log").await, 400);
        write(&store, async |w| audit_log::insert(w, &plain(400)).await).await;
    }

    async fn audit_events_are_kept_whole_and_shown_newest_first(db: Database) {
        let store = db.open().await;
        let event = |n: i64| AuditEvent {
            at_ms: NOW + n,
            id: format!("event-{n}"),
            request_id: Some("request".into()),
            address: Some("192.0.2.7".into()),
            provider: Some("keycloak".into()),
            user_id: Some("nobody-any-more".into()),
            session_ref: Some("s1".into()),
            event: "login",
            outcome: "refused",
            reason: Some("account_suspended"),
            detail: serde_json::json!({ "line": "a\r\nb" }),
        };
        for n in 0..3 {
            write(&store, async |w| audit_log::insert(w, &event(n)).await).await;
        }
        let bare = AuditEvent {
            request_id: None,
            address: None,
            provider: None,
            user_id: None,
            session_ref: None,
            reason: None,
            detail: serde_json::Value::Null,
            ..event(9)
        };
        write(&store, async |w| audit_log::insert(w, &bare).await).await;
        let rows = audit_log::newest(&mut store.reader().await.unwrap(), 3).await.unwrap();
        let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, ["event-9", "event-2", "event-1"]);
        assert_eq!((rows[0].detail.as_str(), &rows[0].reason), ("{}", &None));
        assert_eq!(rows[1].detail, r#"{"line":"a\r\nb"}"#);
        assert_eq!(rows[1].reason.as_deref(), Some("account_suspended"));
        assert_eq!(rows[1].session_ref.as_deref(), Some("s1"));
        assert_eq!(rows[1].at_ms, NOW + 2);
        assert_eq!(write(&store, async |w| audit_log::remove_before(w, NOW + 2, 1).await).await, 1);
        assert_eq!(write(&store, async |w| audit_log::remove_before(w, NOW + 2, 9).await).await, 1);
        assert_eq!(audit_log::newest(&mut store.reader().await.unwrap(), 9).await.unwrap().len(), 2);
    }
}
