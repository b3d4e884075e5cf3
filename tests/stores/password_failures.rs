//! `password_failures`: one tally per key, whoever asks for it first.

use doorward::domain::guesses::Tally;
use doorward::store::password_failures as tallies;

use super::{HOUR, NOW, Road, apply, change, write};
use crate::house::databases::on_each_database;

on_each_database! {
    async fn a_tally_is_made_once_kept_and_forgotten(db: Database) {
        let store = db.open().await;
        let fresh = write(&store, async |w| tallies::lock(w, "address", b"one", NOW).await).await;
        assert_eq!(fresh, Tally { since_ms: NOW, ..Tally::default() });
        let counted = Tally { failures: 3, consecutive: 7, blocked_until_ms: NOW + 5, ..fresh };
        write(&store, async |w| tallies::save(w, b"one", &counted).await).await;
        assert_eq!(write(&store, async |w| tallies::lock(w, "address", b"one", NOW + 1).await).await, counted);
        let mut reader = store.reader().await.unwrap();
        assert_eq!(tallies::find(&mut reader, b"one").await.unwrap(), Some(counted));
        assert_eq!(tallies::find(&mut reader, b"two").await.unwrap(), None);
        drop(reader);
        write(&store, async |w| tallies::forget(w, b"one").await).await;
        assert_eq!(write(&store, async |w| tallies::lock(w, "address", b"one", NOW).await).await, fresh);
    }

    async fn twenty_at_once_on_two_replicas_count_to_twenty(db: Database) {
        let stores = [db.open().await, db.open().await];
        let counts = (0..20).map(|n| {
            let store = stores[n % 2].clone();
            async move {
                write(&store, async |w| {
                    let mut tally = tallies::lock(w, "identifier", b"one", NOW).await?;
                    tally.failures += 1;
                    tallies::save(w, b"one", &tally).await?;
                    Ok(tally.failures)
                })
                .await
            }
        });
        let mut counts = futures_util::future::join_all(counts).await;
        counts.sort_unstable();
        assert_eq!(counts, (1..=20).collect::<Vec<i64>>());
    }

    async fn a_typed_name_finds_its_user_by_name_or_address_at_that_provider_alone(db: Database) {
        let store = db.open().await;
        let mut ada = change("ada");
        ada.profile.username = Some("Ada".into());
        apply(&store, &ada, Road::Login, NOW).await;
        let mut reader = store.reader().await.unwrap();
        for (provider, name, found) in [
            ("keycloak", "ada", true),
            ("keycloak", "ada@mail.example", true),
            ("keycloak", "nobody", false),
            ("other", "ada", false),
        ] {
            let whom = tallies::whom(&mut reader, provider, name).await.unwrap();
            assert_eq!(whom.as_deref(), found.then_some("ada"), "{provider} {name}");
        }
    }

    async fn old_tallies_go_and_known_networks_stay_longer(db: Database) {
        let store = db.open().await;
        for (scope, key, at) in [("address", b"a", NOW), ("known", b"k", NOW), ("account", b"b", NOW + HOUR)] {
            write(&store, async |w| tallies::lock(w, scope, key, at).await).await;
        }
        let remove = async |before, known| write(&store, async |w| tallies::remove_old(w, before, known, 10).await).await;
        assert_eq!(remove(NOW, NOW).await, 0);
        assert_eq!(remove(NOW + 1, NOW).await, 1);
        assert_eq!(remove(NOW + 1, NOW + 1).await, 1);
        assert_eq!(remove(NOW + 1, NOW + 1).await, 0);
    }
}
