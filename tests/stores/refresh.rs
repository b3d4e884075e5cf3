//! Claims on a session's tokens: one owner at a time, and nobody who lost the claim changes anything.

use doorward::domain::Session;
use doorward::store::sessions::refresh::{self, Bid, Fresh};
use doorward::store::sessions::{self as rows};
use doorward::store::{Store, users};
use secrecy::ExposeSecret as _;

use super::{NOW, ring, tokens, user_with_sessions, write};
use crate::house::databases::on_each_database;

const LEASE: i64 = 15_000;

/// A bid at `NOW`, for a lease.
pub fn bid<'a>(session_id: &'a str, generation: i64, owner: &'a str) -> Bid<'a> {
    Bid { session_id, generation, owner, now_ms: NOW, until_ms: NOW + LEASE }
}

async fn claim(store: &Store, bid: Bid<'_>) -> Option<refresh::Claim> {
    write(store, async |w| refresh::claim(w, bid).await).await
}

async fn save(store: &Store, owner: &str, mark: &str, proves: Option<i64>) -> bool {
    let tokens = tokens(mark);
    let fresh = Fresh { session_id: "s1", owner, tokens: &tokens, previous_hash: Some(b"hash"), proves };
    write(store, async |w| refresh::save(w, &fresh, &ring("k1", &["k1"]), NOW + 1).await).await
}

async fn row(store: &Store) -> Session {
    rows::find(&mut store.reader().await.unwrap(), "s1").await.unwrap().unwrap()
}

async fn access(store: &Store) -> String {
    let stored = refresh::stored(&mut store.reader().await.unwrap(), "s1").await.unwrap().unwrap();
    stored.sealed.open(&ring("k1", &["k1"])).unwrap().access.unwrap().expose_secret().to_owned()
}

on_each_database! {
    async fn rt_01_of_many_bids_for_one_generation_one_wins(db: Database) {
        let (here, there) = (db.open().await, db.open().await);
        user_with_sessions(&here, "ada", &["s1"]).await;
        let (one, two) = tokio::join!(claim(&here, bid("s1", 1, "one")), claim(&there, bid("s1", 1, "two")));
        let winner = one.as_ref().or(two.as_ref()).unwrap();
        assert!(one.is_some() != two.is_some());
        assert_eq!((winner.sealed.generation, winner.failures, winner.must_prove), (1, 0, false));
        assert_eq!(row(&here).await.renewal.claimed_until_ms, Some(NOW + LEASE));
        assert!(claim(&here, bid("s1", 1, "three")).await.is_none());
        let loser = if winner.owner == "one" { "two" } else { "one" };
        assert!(!save(&here, loser, "stolen", None).await);
        assert!(save(&there, &winner.owner, "won", None).await);
        assert_eq!(access(&here).await, "access-won");
        let row = row(&here).await;
        assert_eq!((row.generation, row.renewal.refreshed_at_ms, row.renewal.claimed_until_ms), (2, Some(NOW + 1), None));
        assert!(!save(&there, &winner.owner, "again", None).await, "a claim is good once");
        assert!(claim(&here, bid("s1", 1, "late")).await.is_none(), "the old view has nothing to renew");
        assert!(claim(&here, bid("s1", 2, "next")).await.is_some());
    }

    async fn rt_02_after_the_lease_another_takes_over_and_the_late_owner_changes_nothing(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        claim(&store, bid("s1", 1, "paused")).await.unwrap();
        let before_its_end = Bid { now_ms: NOW + LEASE - 1, ..bid("s1", 1, "early") };
        assert!(claim(&store, before_its_end).await.is_none());
        let after = Bid { now_ms: NOW + LEASE, until_ms: NOW + 2 * LEASE, ..bid("s1", 1, "second") };
        assert!(claim(&store, after).await.is_some());
        assert!(!save(&store, "paused", "late", None).await);
        assert!(!write(&store, async |w| refresh::fail(w, "s1", "paused", NOW).await).await);
        assert!(!write(&store, async |w| refresh::release(w, "s1", "paused").await).await);
        assert!(!write(&store, async |w| refresh::vouched(w, "s1", "paused", 1).await).await);
        assert_eq!(access(&store).await, "access-s1");
        assert!(save(&store, "second", "second", None).await);
    }

    async fn rt_05_a_failed_try_pauses_the_session_and_counts(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        claim(&store, bid("s1", 1, "one")).await.unwrap();
        assert!(write(&store, async |w| refresh::fail(w, "s1", "one", NOW + 1_000).await).await);
        assert!(claim(&store, bid("s1", 1, "two")).await.is_none());
        let later = Bid { now_ms: NOW + 1_000, ..bid("s1", 1, "two") };
        assert_eq!(claim(&store, later).await.unwrap().failures, 1);
        assert!(save(&store, "two", "new", None).await);
        assert!(!row(&store).await.renewal.is_paused(NOW));
        assert_eq!(claim(&store, bid("s1", 2, "three")).await.unwrap().failures, 0);
    }

    async fn se_06_a_renewal_wakes_no_session_that_ended_meanwhile(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        claim(&store, bid("s1", 1, "one")).await.unwrap();
        write(&store, async |w| users::deactivate(w, "ada", NOW).await).await;
        let ended = row(&store).await;
        assert!(ended.revoked_at_ms.is_some());
        assert!(!save(&store, "one", "late", None).await);
        assert!(!write(&store, async |w| refresh::vouched(w, "s1", "one", 1).await).await);
        assert!(!write(&store, async |w| refresh::release(w, "s1", "one").await).await);
        assert_eq!(row(&store).await, ended);
    }

    async fn a_mark_goes_with_the_proof_that_was_asked_for_it_and_with_no_other(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        claim(&store, bid("s1", 1, "one")).await.unwrap();
        // Marked while a renewal that knew nothing of it was under way.
        let mark = "UPDATE sessions SET must_prove = TRUE, changed_at = changed_at + 1";
        db.execute(mark).await;
        assert!(save(&store, "one", "one", None).await);
        assert!(row(&store).await.renewal.must_prove);
        let two = claim(&store, bid("s1", 2, "two")).await.unwrap();
        assert!(two.must_prove);
        assert!(save(&store, "two", "two", Some(two.changed_at_ms)).await);
        assert!(!row(&store).await.renewal.must_prove);
        // Marked again while a proof was under way.
        db.execute(mark).await;
        let three = claim(&store, bid("s1", 3, "three")).await.unwrap();
        db.execute(mark).await;
        assert!(save(&store, "three", "three", Some(three.changed_at_ms)).await);
        assert!(row(&store).await.renewal.must_prove);
        let four = claim(&store, bid("s1", 4, "four")).await.unwrap();
        assert!(write(&store, async |w| refresh::vouched(w, "s1", "four", four.changed_at_ms).await).await);
        let row = row(&store).await;
        assert!(!row.renewal.must_prove && row.generation == 4);
    }
}
