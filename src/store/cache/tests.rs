use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::{Email, Profile, Renewal, Session, SessionKind, Status, User};

const HOUR_MS: i64 = 3_600_000;

fn principal(session_id: &str, user_id: &str) -> Principal {
    let user = User {
        id: user_id.to_owned(),
        provider: "keycloak".into(),
        issuer: "https://id.example.test".into(),
        subject: user_id.to_owned(),
        profile: Profile {
            email: Email::parse("ada.lovelace@example.test"),
            display_name: Some("Ada Lovelace".into()),
            ..Profile::default()
        },
        usertag: "ada".into(),
        roles: vec!["editor".into(), "offline_access".into()],
        groups: vec!["/engines".into()],
        local_roles: Vec::new(),
        is_active: true,
        status: Status::Active,
        has_app_access: true,
        created_at_ms: 0,
        updated_at_ms: 0,
        last_login_at_ms: None,
        login_count: 1,
        provider_updated_at_ms: None,
        synced_at_ms: 0,
        deleted_at_ms: None,
        app_data: "{}".into(),
    };
    let session = Session {
        id: session_id.to_owned(),
        kind: SessionKind::Browser,
        user_id: user_id.to_owned(),
        provider: "keycloak".into(),
        issuer: "https://id.example.test".into(),
        provider_session_id: None,
        token_expires_at_ms: None,
        refresh_expires_at_ms: None,
        ip: None,
        user_agent: None,
        created_at_ms: 0,
        last_active_at_ms: 0,
        expires_at_ms: HOUR_MS,
        revoked_at_ms: None,
        generation: 1,
        auth_time_ms: None,
        acr: None,
        scope: None,
        renewal: Renewal::default(),
    };
    Principal::of(&user, &session)
}

fn key(n: u64) -> [u8; 32] {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    key[8..16].copy_from_slice(&n.to_le_bytes());
    key
}

fn at(now_ms: i64) -> Limits {
    Limits { now_ms, last_active_at_ms: now_ms, until_ms: i64::MAX }
}

fn know(cache: &Cache, n: u64, session_id: &str, user_id: &str) {
    let _ = cache.know(key(n), cache.marks.ticket(), principal(session_id, user_id), at(0));
}

#[test]
fn se_05_what_was_said_of_a_session_or_its_user_counts_at_once_and_for_them_alone() {
    let cache = Cache::new(1 << 20);
    for (n, session_id, user_id) in [(1, "s1", "ada"), (2, "s2", "ada"), (3, "s3", "bob")] {
        know(&cache, n, session_id, user_id);
    }
    let known = |cache: &Cache| [1, 2, 3].map(|n| cache.recall(&key(n)).is_some());
    assert_eq!(known(&cache), [true; 3]);
    cache.hear(&[Note::Ended("s1".into())]);
    assert_eq!(known(&cache), [false, true, true]);
    cache.hear(&[Note::User("ada".into())]);
    assert_eq!(known(&cache), [false, false, true]);
    // A session that is called like a user is another thing.
    cache.hear(&[Note::Changed("bob".into()), Note::User("s3".into())]);
    assert_eq!(known(&cache), [false, false, true]);
    cache.doubt_all();
    assert_eq!(known(&cache), [false; 3]);
    know(&cache, 1, "s1", "ada");
    assert_eq!(known(&cache), [true, false, false], "read again, it counts again");
    cache.sweep(0);
    assert_eq!(cache.map.len(), 1, "what does not count is not kept");
    cache.sweep(LIFE_MAX_MS);
    assert_eq!((cache.map.len(), cache.map.weight()), (0, 0));
}

#[test]
fn se_06_a_slow_reader_does_not_bring_back_what_ended_meanwhile() {
    let cache = Cache::new(1 << 20);
    let ticket = cache.marks.ticket();
    cache.hear(&[Note::Ended("s1".into())]);
    let known = cache.know(key(1), ticket, principal("s1", "ada"), at(0));
    assert_eq!(known.principal.plain(Fact::Session), "s1", "the request at hand began before the end");
    assert!(cache.recall(&key(1)).is_none() && cache.map.is_empty());
}

#[test]
fn se_04_an_entry_is_in_time_between_its_reading_and_the_first_of_its_limits() {
    let cache = Cache::new(1 << 20);
    let ticket = cache.marks.ticket();
    let limits = Limits { now_ms: 1_000_000, last_active_at_ms: 990_000, until_ms: 1_100_000 };
    let known = cache.know(key(1), ticket, principal("s", "u"), limits);
    for (now_ms, idle_ms, is_in_time) in [
        (1_000_000, 60_000, true),
        (999_999, 60_000, false),
        (1_049_999, 60_000, true),
        (1_050_000, 60_000, false),
        (1_099_999, 600_000, true),
        (1_100_000, 600_000, false),
    ] {
        assert_eq!(known.is_in_time(now_ms, idle_ms), is_in_time, "{now_ms} {idle_ms}");
    }
    assert!(!known.note_activity(1_049_000, 60_000), "the row was told less than a minute ago");
    assert!(known.note_activity(1_050_000, 60_000) && !known.note_activity(1_050_000, 60_000));
    assert!(known.is_in_time(1_099_999, 60_000), "use moves the idle limit and no other");
    assert!(!known.is_in_time(1_100_000, 60_000));
    let old = cache.know(key(2), ticket, principal("s", "u"), at(0));
    assert!(old.is_in_time(LIFE_MAX_MS - 1, HOUR_MS) && !old.is_in_time(LIFE_MAX_MS, HOUR_MS));
}

#[test]
fn memory_is_bounded_by_the_size_whatever_comes() {
    let bytes = 4 << 20;
    let cache = Cache::new(bytes);
    for n in 0..60_000_u64 {
        know(&cache, n, &format!("session-{n}"), &format!("user-{n}"));
    }
    let (entries, weight) = (cache.map.len(), cache.map.weight());
    assert!(weight <= bytes, "{weight}");
    let each = weight / u64::try_from(entries).unwrap();
    eprintln!(
        "{each} bytes for each of {entries} remembered sessions, {} of them the map's",
        own_share(&cache)
    );
    assert!(each <= 400 + OVERHEAD, "{each} bytes for each of {entries} entries");
    // What the map itself holds is what `OVERHEAD` stands for.
    assert!(own_share(&cache) <= OVERHEAD);
}

/// Bytes of the map itself for each entry.
fn own_share(cache: &Cache) -> u64 {
    u64::try_from(cache.map.memory_used().total() / cache.map.len()).unwrap()
}

/// One step of a story of readers and writers.
#[derive(Debug, Clone)]
enum Step {
    /// A reader looks at the row and will remember it later.
    Read(u8),
    /// The oldest reader under way remembers what it read.
    Insert,
    /// A writer commits, and will tell of it later.
    Write(u8),
    WriteUser(u8),
    /// The oldest commit that was not told yet is told.
    Tell,
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0_u8..4;
    let step = prop_oneof![
        4 => id.clone().prop_map(Step::Read),
        4 => Just(Step::Insert),
        2 => id.clone().prop_map(Step::Write),
        1 => (0_u8..2).prop_map(Step::WriteUser),
        3 => Just(Step::Tell),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Rows carry a version that each write moves on. Whatever the order of reads, commits, notices and insertions: once a commit was
    /// told, nobody is served what was true before it.
    #[test]
    fn se_05_nothing_older_than_a_told_commit_is_ever_served(story in steps()) {
        let cache = Cache::new(1 << 20);
        let user_of = |session: u8| session % 2;
        let mut rows: BTreeMap<u8, i64> = (0..4).map(|id| (id, 0)).collect();
        let mut told: BTreeMap<u8, i64> = rows.clone();
        let mut readers = std::collections::VecDeque::new();
        let mut commits: std::collections::VecDeque<(Note, Vec<(u8, i64)>)> = std::collections::VecDeque::new();
        for step in story {
            match step {
                Step::Read(id) => readers.push_back((id, cache.marks.ticket(), rows[&id])),
                Step::Insert => if let Some((id, ticket, version)) = readers.pop_front() {
                    let principal = principal(&format!("s{id}"), &format!("u{}", user_of(id)));
                    let limits = Limits { now_ms: version, last_active_at_ms: 0, until_ms: i64::MAX };
                    let _ = cache.know(key(id.into()), ticket, principal, limits);
                },
                Step::Write(id) => {
                    *rows.get_mut(&id).unwrap() += 1;
                    commits.push_back((Note::Changed(format!("s{id}")), vec![(id, rows[&id])]));
                }
                Step::WriteUser(user) => {
                    let of_user: Vec<u8> = (0..4).filter(|id| user_of(*id) == user).collect();
                    for id in &of_user {
                        *rows.get_mut(id).unwrap() += 1;
                    }
                    let now = of_user.iter().map(|id| (*id, rows[id])).collect();
                    commits.push_back((Note::User(format!("u{user}")), now));
                }
                Step::Tell => if let Some((note, versions)) = commits.pop_front() {
                    cache.hear(&[note]);
                    told.extend(versions);
                },
                Step::Lose => {
                    cache.doubt_all();
                    told = rows.clone();
                }
            }
            for id in 0..4 {
                if let Some(known) = cache.recall(&key(id.into())) {
                    prop_assert!(known.read_at_ms >= told[&id], "{id}: {} after {}", known.read_at_ms, told[&id]);
                }
            }
        }
    }
}
