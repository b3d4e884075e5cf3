//! `registrations`: one claim at a time, and whoever slept through theirs changes nothing.

use doorward::domain::registration::Person;
use doorward::store::registrations::{self, Registration, State};

use crate::house::databases::on_each_database;

fn attempt(id: &str, key: Option<&[u8]>) -> Registration {
    Registration {
        id: id.into(),
        idempotency_hash: key.map(<[u8]>::to_vec),
        fingerprint: None,
        provider: "op".into(),
        issuer: "https://id.example".into(),
        username: "nina".into(),
        email: "nina@new.example".into(),
        person: Person { first_name: Some("Nina".into()), ..Person::default() },
        state: State::Pending,
        subject: None,
        user_id: None,
        owner: "first".into(),
        next_try_at_ms: 100,
        attempts: 1,
        absences: 0,
        network: "203.0.113.7".into(),
        created_at_ms: 10,
    }
}

on_each_database! {
    async fn a_key_has_one_attempt_until_it_is_released(db: Database) {
        let store = db.open().await;
        let mut single = store.single().await.unwrap();
        let one = attempt("a", Some(b"key"));
        assert!(registrations::insert(&mut single, &one).await.unwrap());
        assert!(!registrations::insert(&mut single, &attempt("b", Some(b"key"))).await.unwrap());
        for keyless in ["c", "d"] {
            assert!(registrations::insert(&mut single, &attempt(keyless, None)).await.unwrap());
        }
        assert_eq!(registrations::find_by_key(&mut single, b"key").await.unwrap(), Some(one.clone()));
        drop(single);
        let mut writer = store.writer().await.unwrap();
        assert!(registrations::close(&mut writer, &one, State::Undone, "absent", 20).await.unwrap());
        assert!(!registrations::close(&mut writer, &one, State::Failed, "late", 21).await.unwrap(), "over is over");
        writer.commit().await.unwrap();
        let mut single = store.single().await.unwrap();
        assert_eq!(registrations::find_by_key(&mut single, b"key").await.unwrap(), None);
        let over = registrations::find(&mut single, "a").await.unwrap().unwrap();
        assert_eq!((over.state, over.username.as_str(), over.person), (State::Undone, "", Person::default()));
        assert!(registrations::insert(&mut single, &attempt("b", Some(b"key"))).await.unwrap());
        assert_eq!(registrations::count_from(&mut single, "203.0.113.7", 5).await.unwrap(), (4, Some(10)));
        assert_eq!(registrations::count_from(&mut single, "203.0.113.7", 10).await.unwrap(), (0, None));
        assert_eq!(registrations::remove_over(&mut single, 20, 9).await.unwrap(), 0);
        assert_eq!(registrations::remove_over(&mut single, 21, 9).await.unwrap(), 1, "what is open stays");
    }

    async fn one_claim_at_a_time_and_the_one_before_is_fenced_off(db: Database) {
        let store = db.open().await;
        let slow = attempt("a", None);
        let mut single = store.single().await.unwrap();
        assert!(registrations::insert(&mut single, &slow).await.unwrap());
        assert!(registrations::due(&mut single, 99, 9).await.unwrap().is_empty());
        assert!(registrations::claim(&mut single, "a", "early", 99, 200).await.unwrap().is_none());
        assert_eq!(registrations::due(&mut single, 100, 9).await.unwrap(), ["a"]);
        let own = registrations::claim(&mut single, "a", "second", 100, 200).await.unwrap().unwrap();
        assert_eq!((own.owner.as_str(), own.attempts, own.next_try_at_ms), ("second", 2, 200));
        assert!(registrations::claim(&mut single, "a", "third", 150, 250).await.unwrap().is_none());
        assert!(!registrations::created(&mut single, &slow, "s", 150).await.unwrap());
        assert!(!registrations::undo(&mut single, &slow, None, "late", 150).await.unwrap());
        registrations::postpone(&mut single, &slow, 7, 0).await.unwrap();
        assert!(registrations::created(&mut single, &own, "s", 150).await.unwrap());
        registrations::postpone(&mut single, &own, 1, 300).await.unwrap();
        assert!(registrations::undo(&mut single, &own, None, "internal", 160).await.unwrap());
        assert_eq!(registrations::count_undoing(&mut single).await.unwrap(), 1);
        let row = registrations::find(&mut single, "a").await.unwrap().unwrap();
        assert_eq!((row.state, row.subject.as_deref(), row.absences, row.next_try_at_ms), (State::Undoing, Some("s"), 1, 300));
        drop(single);
        let mut writer = store.writer().await.unwrap();
        assert!(!registrations::finish(&mut writer, &slow, ("s", "u"), 170).await.unwrap());
        assert!(!registrations::finish(&mut writer, &own, ("s", "u"), 170).await.unwrap(), "what is undone is not finished");
        writer.rollback().await.unwrap();
    }
}
