//! `users`: the guarded upsert.

use doorward::domain::{Change, Email, Status, User};
use doorward::store::users::{self, ApplyError, Outcome, Road};
use doorward::store::{Store, sessions as rows};

use super::{HOUR, NOW, apply, change, user_with_sessions, write};
use crate::house::databases::on_each_database;

async fn find(store: &Store, id: &str) -> Option<User> {
    users::find(&mut store.reader().await.unwrap(), id).await.unwrap()
}

async fn refuse(store: &Store, change: &Change) -> ApplyError {
    let mut w = store.writer().await.unwrap();
    users::apply(&mut w, change, Road::Login, NOW).await.unwrap_err()
}

on_each_database! {
    async fn a_first_login_makes_the_whole_row(db: Database) {
        let store = db.open().await;
        let news = Change { id_prefix: "keycloak|".into(), provider_updated_at_ms: Some(NOW - 9), ..change("ada") };
        let applied = apply(&store, &news, Road::Login, NOW + 5).await;
        assert_eq!(applied.outcome, Outcome::Created);
        assert!(!applied.moved_issuer && !applied.email_shared && applied.ended_sessions.is_empty());
        let expected = User {
            id: "keycloak|ada".into(),
            provider: news.provider.clone(),
            issuer: news.issuer.clone(),
            subject: "ada".into(),
            profile: news.profile.clone(),
            usertag: "ada".into(),
            roles: vec!["admin".into(), "editor".into()],
            groups: vec!["/engines".into()],
            local_roles: vec!["member".into()],
            is_active: true,
            status: Status::Active,
            has_app_access: true,
            created_at_ms: NOW + 5,
            updated_at_ms: NOW + 5,
            last_login_at_ms: Some(NOW + 5),
            login_count: 1,
            provider_updated_at_ms: Some(NOW - 9),
            synced_at_ms: NOW,
            deleted_at_ms: None,
            app_data: "{}".into(),
        };
        assert_eq!(applied.user, expected);
        assert_eq!(find(&store, "keycloak|ada").await.unwrap(), expected);
        let mut reader = store.reader().await.unwrap();
        let found = users::find_by_identity(&mut reader, &news.provider, &news.issuer, "ada").await.unwrap();
        assert_eq!(found.unwrap(), expected);
        for (provider, issuer, subject) in [
            ("other", news.issuer.as_str(), "ada"),
            ("keycloak", "https://id.example/realms/app/", "ada"),
            ("keycloak", &news.issuer, "Ada"),
            ("keycloak", &news.issuer, "ada "),
        ] {
            let none = users::find_by_identity(&mut reader, provider, issuer, subject).await.unwrap();
            assert_eq!(none, None, "{provider} {issuer} {subject}");
        }
    }

    async fn an_empty_profile_is_stored_and_read_as_empty(db: Database) {
        let store = db.open().await;
        let bare = Change { profile: doorward::domain::Profile::default(), roles: vec![], groups: vec![], ..change("x") };
        let applied = apply(&store, &bare, Road::Sync, NOW).await;
        assert_eq!(applied.user.usertag, "x__");
        assert_eq!((applied.user.login_count, applied.user.last_login_at_ms), (0, None));
        assert_eq!(find(&store, "x").await.unwrap(), applied.user);
    }

    async fn every_login_counts_and_only_news_changes_the_row(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        let again = Change { observed_at_ms: NOW + 10, ..change("ada") };
        let applied = apply(&store, &again, Road::Login, NOW + 11).await;
        assert_eq!(applied.outcome, Outcome::Unchanged);
        assert_eq!((applied.user.login_count, applied.user.last_login_at_ms), (2, Some(NOW + 11)));
        assert_eq!(applied.user.updated_at_ms, NOW);
        assert_eq!(applied.user.synced_at_ms, NOW + 10);

        let mut other = Change { observed_at_ms: NOW + 20, roles: vec![], default_roles: vec!["x".into()], ..change("ada") };
        other.profile.email = Email::parse("countess@mail.example");
        other.profile.nickname = None;
        let applied = apply(&store, &other, Road::Sync, NOW + 21).await;
        assert_eq!(applied.outcome, Outcome::Updated);
        let user = find(&store, "ada").await.unwrap();
        assert_eq!(user, applied.user);
        assert_eq!(user.profile, other.profile);
        assert_eq!((user.login_count, user.updated_at_ms), (2, NOW + 21));
        assert!(user.roles.is_empty());
        assert_eq!((user.usertag.as_str(), user.local_roles), ("ada", vec!["member".to_owned()]));
    }

    async fn wh_06_older_news_changes_nothing_but_a_login_still_counts(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        let mut old = Change { observed_at_ms: NOW - 1, roles: vec!["owner".into()], ..change("ada") };
        old.profile.first_name = Some("Augusta".into());
        assert_eq!(apply(&store, &old, Road::Sync, NOW + 5).await.outcome, Outcome::Stale);
        let applied = apply(&store, &old, Road::Login, NOW + 6).await;
        assert_eq!(applied.outcome, Outcome::Stale);
        let user = find(&store, "ada").await.unwrap();
        assert_eq!(user, applied.user);
        assert_eq!(user.profile, change("ada").profile);
        assert_eq!((user.login_count, user.last_login_at_ms), (2, Some(NOW + 6)));
        assert_eq!((user.synced_at_ms, user.updated_at_ms), (NOW, NOW));
        assert!(!user.roles.contains(&"owner".to_owned()));
    }

    async fn wh_06_the_providers_own_time_beats_when_it_was_heard(db: Database) {
        let store = db.open().await;
        let at = |provider_updated_at_ms, observed_at_ms, name: &str| {
            let mut news = Change { provider_updated_at_ms, observed_at_ms, ..change("ada") };
            news.profile.first_name = Some(name.into());
            news
        };
        apply(&store, &at(Some(200), NOW, "two"), Road::Sync, NOW).await;
        // Heard later, but older at the provider.
        assert_eq!(apply(&store, &at(Some(100), NOW + 9, "one"), Road::Sync, NOW).await.outcome, Outcome::Stale);
        // Heard earlier, but newer at the provider; when it was last heard of does not go back.
        let applied = apply(&store, &at(Some(300), NOW - 9, "three"), Road::Sync, NOW).await;
        assert_eq!((applied.outcome, applied.user.synced_at_ms), (Outcome::Updated, NOW));
        // Without the provider's time, hearing decides, and what was known of it stays known.
        assert_eq!(apply(&store, &at(None, NOW - 1, "four"), Road::Sync, NOW).await.outcome, Outcome::Stale);
        let applied = apply(&store, &at(None, NOW + 1, "five"), Road::Sync, NOW).await;
        assert_eq!((applied.outcome, applied.user.provider_updated_at_ms), (Outcome::Updated, Some(300)));
    }

    async fn what_belongs_to_the_operator_and_the_app_is_never_touched(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        db.execute(
            "UPDATE users SET app_data = '{\"theme\":\"dark\"}', local_roles = '[\"own\"]', status = 'suspended', \
             has_app_access = FALSE",
        )
        .await;
        let news = Change { observed_at_ms: NOW + 1, is_active: Some(true), roles: vec!["x".into()], ..change("ada") };
        apply(&store, &news, Road::Login, NOW).await;
        let user = find(&store, "ada").await.unwrap();
        assert_eq!(user.app_data, r#"{"theme":"dark"}"#);
        assert_eq!(user.local_roles, ["own"]);
        assert_eq!((user.status, user.has_app_access), (Status::Suspended, false));
    }

    async fn se_07_disabling_ends_all_sessions_and_silence_about_it_changes_nothing(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1", "s2"]).await;
        let quiet = Change { observed_at_ms: NOW + 1, is_active: None, ..change("ada") };
        assert_eq!(apply(&store, &quiet, Road::Sync, NOW + 1).await.outcome, Outcome::Unchanged);
        // Stale news of being disabled ends nothing.
        let late = Change { observed_at_ms: NOW, is_active: Some(false), ..change("ada") };
        assert!(apply(&store, &late, Road::Sync, NOW + 1).await.ended_sessions.is_empty());
        let off = Change { observed_at_ms: NOW + 2, is_active: Some(false), ..change("ada") };
        let applied = apply(&store, &off, Road::Sync, NOW + 2).await;
        let mut ended = applied.ended_sessions.clone();
        ended.sort_unstable();
        assert_eq!(ended, ["s1", "s2"]);
        assert!(!find(&store, "ada").await.unwrap().is_active);
        assert_eq!(rows::find(&mut store.reader().await.unwrap(), "s1").await.unwrap().unwrap().revoked_at_ms, Some(NOW + 2));
        let quiet = Change { observed_at_ms: NOW + 3, is_active: None, ..change("ada") };
        assert!(!apply(&store, &quiet, Road::Login, NOW + 3).await.user.is_active);
        let on = Change { observed_at_ms: NOW + 4, ..change("ada") };
        assert!(apply(&store, &on, Road::Sync, NOW + 4).await.user.is_active);
    }

    async fn id_11_a_tombstone_wins_over_everything_that_comes_after(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        let mut w = store.writer().await.unwrap();
        let buried = users::bury(&mut w, &Change { is_active: Some(false), ..change("ada") }, NOW + 1).await.unwrap();
        w.commit().await.unwrap();
        assert_eq!((buried.outcome, buried.ended_sessions), (Outcome::Tombstone, vec!["s1".to_owned()]));
        let tombstone = find(&store, "ada").await.unwrap();
        assert_eq!((tombstone.deleted_at_ms, tombstone.is_active), (Some(NOW + 1), false));
        for road in [Road::Sync, Road::Login] {
            let news = Change { observed_at_ms: NOW + HOUR, is_active: Some(true), ..change("ada") };
            let applied = apply(&store, &news, road, NOW + HOUR).await;
            assert_eq!(applied.outcome, Outcome::Tombstone);
            assert!(applied.user.admit().is_err());
        }
        assert_eq!(find(&store, "ada").await.unwrap(), tombstone);
        // Buried twice stays as it was.
        let mut w = store.writer().await.unwrap();
        users::bury(&mut w, &change("ada"), NOW + 9).await.unwrap();
        w.commit().await.unwrap();
        assert_eq!(find(&store, "ada").await.unwrap(), tombstone);
        // A deletion that overtook the creation leaves its tombstone too.
        let mut w = store.writer().await.unwrap();
        users::bury(&mut w, &change("bob"), NOW).await.unwrap();
        w.commit().await.unwrap();
        assert_eq!(apply(&store, &change("bob"), Road::Sync, NOW + 1).await.outcome, Outcome::Tombstone);
    }

    async fn a_row_under_a_former_issuer_moves_over_with_its_sessions(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        let new = "https://login.example/realms/app";
        let moved = Change {
            issuer: new.into(),
            former_issuers: vec!["https://older.example".into(), change("ada").issuer],
            observed_at_ms: NOW + 1,
            ..change("ada")
        };
        let applied = apply(&store, &moved, Road::Login, NOW + 1).await;
        assert_eq!((applied.outcome, applied.moved_issuer), (Outcome::Unchanged, true));
        assert_eq!((applied.user.issuer.as_str(), applied.user.login_count), (new, 2));
        assert_eq!(find(&store, "ada").await.unwrap(), applied.user);
        assert_eq!(rows::find(&mut store.reader().await.unwrap(), "s1").await.unwrap().unwrap().issuer, new);
        let again = apply(&store, &moved, Road::Login, NOW + 2).await;
        assert!(!again.moved_issuer);
        // Without the list of former issuers the same id would be somebody else.
        assert!(matches!(refuse(&store, &change("ada")).await, ApplyError::IdentityConflict { id } if id == "ada"));
    }

    async fn id_03_equal_subjects_of_two_providers_stay_apart_and_one_id_for_two_is_a_conflict(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        let other = Change { provider: "auth0".into(), issuer: "https://auth0.example/".into(), ..change("ada") };
        assert!(matches!(refuse(&store, &other).await, ApplyError::IdentityConflict { .. }));
        assert_eq!(find(&store, "ada").await.unwrap().provider, "keycloak");
        let apart = Change { id_prefix: "auth0|".into(), ..other };
        let applied = apply(&store, &apart, Road::Login, NOW).await;
        assert_eq!((applied.outcome, applied.user.id.as_str()), (Outcome::Created, "auth0|ada"));
        // The same mail at two providers: told, not merged, not locked out.
        assert!(applied.email_shared);
        assert_eq!(applied.user.usertag, "ada-2");
    }

    async fn id_08_an_email_that_becomes_another_users_is_told_once_and_ignores_case(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        assert!(!apply(&store, &change("bob"), Road::Login, NOW).await.email_shared);
        let mut news = Change { observed_at_ms: NOW + 1, ..change("bob") };
        news.profile.email = Email::parse("ADA@mail.example");
        assert!(apply(&store, &news, Road::Sync, NOW).await.email_shared);
        assert!(!apply(&store, &news, Road::Sync, NOW).await.email_shared);
        news.observed_at_ms += 1;
        news.profile.email = None;
        assert!(!apply(&store, &news, Road::Sync, NOW).await.email_shared);
    }

    async fn usertags_that_collide_are_numbered_and_never_change(db: Database) {
        let store = db.open().await;
        let mut tags = Vec::new();
        for n in 0..6 {
            let mut news = change(&format!("subject-{n}"));
            news.profile.email = Email::parse("Info@mail.example");
            tags.push(apply(&store, &news, Road::Sync, NOW).await.user.usertag);
        }
        assert_eq!(tags, ["info", "info-2", "info-3", "info-4", "info-5", "info-6"]);
        let mut news = Change { observed_at_ms: NOW + 1, ..change("subject-3") };
        news.profile.email = Email::parse("ada@mail.example");
        assert_eq!(apply(&store, &news, Road::Login, NOW).await.user.usertag, "info-4");
    }

    async fn two_replicas_see_one_subject_for_the_first_time_at_once(db: Database) {
        let stores = [db.open().await, db.open().await];
        for round in 0..5 {
            let subject = format!("subject-{round}");
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..8 {
                let (store, news) = (stores[n % 2].clone(), change(&subject));
                tasks.spawn(async move { apply(&store, &news, Road::Login, NOW).await.outcome });
            }
            let outcomes = tasks.join_all().await;
            assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Created).count(), 1, "{outcomes:?}");
            assert_eq!(find(&stores[0], &subject).await.unwrap().login_count, 8);
        }
        assert_eq!(db.number("SELECT count(*) FROM users").await, 5);
    }

    async fn many_people_who_would_like_one_tag_come_at_once_and_each_gets_one(db: Database) {
        let stores = [db.open().await, db.open().await];
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let store = stores[n % 2].clone();
            let mut news = change(&format!("subject-{n}"));
            news.profile.email = Email::parse("info@mail.example");
            tasks.spawn(async move { apply(&store, &news, Road::Login, NOW).await.user.usertag });
        }
        let mut tags = tasks.join_all().await;
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 8, "{tags:?}");
    }

    async fn one_row_moves_over_from_its_former_issuer_on_two_replicas_at_once(db: Database) {
        let stores = [db.open().await, db.open().await];
        apply(&stores[0], &change("ada"), Road::Login, NOW).await;
        let moved = Change {
            issuer: "https://login.example".into(),
            former_issuers: vec![change("ada").issuer],
            ..change("ada")
        };
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let (store, news) = (stores[n % 2].clone(), moved.clone());
            tasks.spawn(async move { apply(&store, &news, Road::Login, NOW).await.moved_issuer });
        }
        assert_eq!(tasks.join_all().await.into_iter().filter(|moved| *moved).count(), 1);
        assert_eq!(find(&stores[0], "ada").await.unwrap().login_count, 9);
    }

    async fn the_operator_suspends_and_takes_access_and_sessions_end(db: Database) {
        let store = db.open().await;
        user_with_sessions(&store, "ada", &["s1"]).await;
        user_with_sessions(&store, "bob", &["s2"]).await;
        let ended = write(&store, async |w| users::set_status(w, "ada", Status::Suspended, NOW + 1).await).await;
        assert_eq!(ended, Some(vec!["s1".to_owned()]));
        assert_eq!(find(&store, "ada").await.unwrap().status, Status::Suspended);
        let ended = write(&store, async |w| users::set_status(w, "ada", Status::Active, NOW + 2).await).await;
        assert_eq!(ended, Some(vec![]));
        assert_eq!(find(&store, "ada").await.unwrap().status, Status::Active);
        let ended = write(&store, async |w| users::set_app_access(w, "bob", false, NOW + 3).await).await;
        assert_eq!(ended, Some(vec!["s2".to_owned()]));
        assert!(!find(&store, "bob").await.unwrap().has_app_access);
        assert_eq!(write(&store, async |w| users::set_app_access(w, "bob", true, NOW + 4).await).await, Some(vec![]));
        assert_eq!(write(&store, async |w| users::set_status(w, "nobody", Status::Active, NOW).await).await, None);
        assert_eq!(write(&store, async |w| users::set_app_access(w, "nobody", true, NOW).await).await, None);
    }

    async fn the_prefix_in_use_is_read_from_what_is_stored(db: Database) {
        let store = db.open().await;
        let prefix = async |provider| {
            users::id_prefix_in_use(&mut store.reader().await.unwrap(), provider).await.unwrap()
        };
        assert_eq!(prefix("keycloak").await, None);
        apply(&store, &change("ada"), Road::Login, NOW).await;
        let other = Change { provider: "auth0".into(), id_prefix: "auth0|".into(), ..change("ada") };
        apply(&store, &other, Road::Login, NOW).await;
        assert_eq!(prefix("keycloak").await.as_deref(), Some(""));
        assert_eq!(prefix("auth0").await.as_deref(), Some("auth0|"));
    }

    async fn damaged_words_in_a_row_grant_nothing(db: Database) {
        let store = db.open().await;
        apply(&store, &change("ada"), Road::Login, NOW).await;
        db.execute("UPDATE users SET roles = 'admin', local_roles = '{}', status = 'Active', email = 'a b'").await;
        let user = find(&store, "ada").await.unwrap();
        assert!(user.effective_roles().is_empty());
        assert_eq!((user.status, user.profile.email), (Status::Suspended, None));
    }

    async fn a_name_with_a_nul_is_stored_without_it(db: Database) {
        let store = db.open().await;
        let mut news = change("ada");
        news.profile.display_name = Some("A\0da \u{1F980} O'Neil\"; DROP TABLE users".into());
        apply(&store, &news, Road::Login, NOW).await;
        let name = find(&store, "ada").await.unwrap().profile.display_name;
        assert_eq!(name.as_deref(), Some("Ada \u{1F980} O'Neil\"; DROP TABLE users"));
    }
}
