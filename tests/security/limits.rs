//! Chapters 10 and 17: how often anybody may knock, and how often a password may be wrong.

use std::time::Duration;

use futures_util::future::join_all;

use super::password::login;
use crate::house::browser::Browser;
use crate::house::databases::Database;
use crate::house::home::{Plan, TestHouse, free_port, op_provider};
use crate::house::op::{Gate, Person, ScriptedOp};

async fn op() -> ScriptedOp {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.password = Some(("ada".into(), "right".into()));
        s.person = Person::named("ada");
    });
    op
}

/// Addresses are told by a proxy on this machine.
fn plan(op: &ScriptedOp) -> Plan {
    TestHouse::with_op(op)
        .set("PROVIDER__OP__PASSWORD_LOGIN", "true")
        .set("SERVER__TRUSTED_PROXIES", "[\"127.0.0.0/8\", \"::1/128\"]")
        .set("LIMITS__LOGIN_START", "\"off\"")
}

fn from(house: &TestHouse, address: &str) -> Browser {
    house.browser().with_header("x-forwarded-for", address)
}

fn address(n: usize) -> String {
    format!("198.18.{}.{}", n / 250, n % 250 + 1)
}

#[tokio::test]
async fn ds_02_each_door_has_a_rate_per_address_and_off_switches_it_off() {
    let op = op().await;
    let house =
        plan(&op).set("LIMITS__LOGIN_START", "\"5/1m\"").set("LIMITS__CALLBACK", "\"3/1m\"").open().await;
    let browser = from(&house, "198.51.100.7");
    for (path, count) in [("/auth/login", 5_i64), ("/auth/callback/op?state=x&code=y", 3)] {
        house.clock.advance(Duration::from_mins(2));
        house.clock.stand_at(doorward::domain::Clock::now_ms(&*house.clock));
        let mut statuses = Vec::new();
        for _ in 0..count + 2 {
            statuses.push(browser.navigate(path).await);
        }
        let refused: Vec<_> = statuses.iter().filter(|page| page.status == 429).collect();
        assert_eq!(refused.len(), 2, "{path}: {:?}", statuses.iter().map(|p| p.status).collect::<Vec<_>>());
        let wait: i64 = refused[0].header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60 / count + 1).contains(&wait), "{path}: {wait}");
        assert!(refused[0].text().contains("too_many") || refused[0].text().contains("often"));
        // Others are not held back, the /64 of a neighbour is one visitor, and time gives it back.
        assert_ne!(from(&house, "198.51.100.8").navigate(path).await.status, 429, "{path}");
        house.clock.advance(Duration::from_secs(u64::try_from(wait).unwrap()));
        assert_ne!(browser.navigate(path).await.status, 429, "{path}");
    }
    assert_eq!((house.refusals("login_start").await, house.refusals("callback").await), (2, 2));
    let six = |n: usize| from(&house, &format!("2001:db8:1:2::{n:x}"));
    let mut refused = 0;
    for n in 1..=7 {
        refused += usize::from(six(n).navigate("/auth/login").await.status == 429);
    }
    assert_eq!(refused, 2, "one /64 is one visitor");

    let house = plan(&op).set("LIMITS__CALLBACK", "\"off\"").open().await;
    let browser = house.browser();
    for _ in 0..700 {
        assert_ne!(browser.navigate("/auth/callback/op?state=x&code=y").await.status, 429);
    }
}

#[tokio::test]
async fn pw_04_a_stranger_cannot_choose_the_address_that_is_counted() {
    let op = op().await;
    let house = TestHouse::with_op(&op)
        .set("PROVIDER__OP__PASSWORD_LOGIN", "true")
        .set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"5/15m\"")
        .open()
        .await;
    let mut statuses = Vec::new();
    for n in 0..8 {
        let claims = house
            .browser()
            .with_header("x-forwarded-for", &address(n))
            .with_header("forwarded", &format!("for={}", address(n)))
            .with_header("x-real-ip", &address(n));
        statuses.push(login(&claims, &format!("somebody-{n}"), "wrong").await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
}

#[tokio::test]
async fn pw_03_one_address_is_stopped_and_others_are_not() {
    let op = op().await;
    let house = plan(&op).set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"20/15m\"").open().await;
    super::keep_time(&op, &house);
    let attacker = from(&house, "198.51.100.7");
    let names: Vec<String> = (0..40).map(|n| format!("person-{n}")).collect();
    let pages = join_all(names.iter().map(|name| login(&attacker, name, "Summer2026!"))).await;
    assert_eq!(pages.iter().filter(|page| page.status == 401).count(), 20);
    assert_eq!(pages.iter().filter(|page| page.status == 429).count(), 20);
    assert_eq!(op.count("/token"), 20, "no guess beyond the limit reaches the provider");
    assert_eq!(login(&attacker, "ada", "right").await.status, 429, "not even a right one");
    assert_eq!(login(&from(&house, "198.51.100.8"), "ada", "right").await.status, 200);
    house.clock.advance(Duration::from_mins(15));
    assert_eq!(login(&attacker, "ada", "right").await.status, 200);
}

#[tokio::test]
async fn pw_03_parallel_guesses_do_not_slip_past_the_limit() {
    let (op, db) = (op().await, Database::postgres().await);
    let (first, second) = replicas(&op, &db).await;
    super::keep_time(&op, &first);
    first.clock.stand_at(doorward::domain::Clock::now_ms(&*first.clock));
    let gate = Gate::closed();
    op.script(|s| s.hold_before.insert("/token".into(), gate.clone()));
    let guess = |n: usize| {
        let house = if n.is_multiple_of(2) { &first } else { &second };
        let browser =
            Browser::behind_tls(&first.url, house.address).with_header("x-forwarded-for", &address(n));
        async move {
            login(&browser, if n.is_multiple_of(3) { "ada" } else { " ADA" }, &format!("guess-{n}"))
                .await
                .status
        }
    };
    let all = join_all((0..60).map(guess));
    let opening = async {
        gate.arrived(10).await;
        // Whoever is refused is refused while these are still under way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        gate.open();
    };
    let (statuses, ()) = tokio::join!(all, opening);
    assert_eq!(
        (op.count("/token"), statuses.iter().filter(|s| **s == 429).count()),
        (10, 50),
        "{statuses:?}"
    );
}

async fn replicas(op: &ScriptedOp, db: &Database) -> (TestHouse, TestHouse) {
    let (port, text) = (free_port(), format!("{}password_login = true\n", op_provider("op", op)));
    let origin = format!("\"http://localhost:{port}\"");
    let plan = || {
        TestHouse::with(&text)
            .database(db)
            .set("SERVER__PUBLIC_URL", &origin)
            .set("SERVER__TRUSTED_PROXIES", "[\"127.0.0.0/8\", \"::1/128\"]")
            .set("LIMITS__LOGIN_START", "\"off\"")
    };
    let first = plan().set("SERVER__LISTEN", &format!("\"127.0.0.1:{port}\"")).open().await;
    let second = plan().folder(&first.folder).clock(&first.clock).open().await;
    (first, second)
}

/// Guesses at one account from a thousand addresses, on two replicas, over a restart and weeks: it is slowed, then closed, and its owner is
/// never shut out.
#[tokio::test]
async fn pw_03_a_thousand_addresses_two_replicas_and_a_restart_get_a_hundred_guesses_and_lock_nobody_out() {
    let (op, db) = (op().await, Database::postgres().await);
    let (first, second) = replicas(&op, &db).await;
    let at = |house: &TestHouse, from: &str| {
        Browser::behind_tls(&first.url, house.address).with_header("x-forwarded-for", from)
    };
    super::keep_time(&op, &first);
    // Time stands still: the burst may take longer than the first pauses last.
    first.clock.stand_at(doorward::domain::Clock::now_ms(&*first.clock));
    let home = "203.0.113.5";
    assert_eq!(login(&at(&first, home), "ada", "right").await.status, 200);
    let asked = || op.count("/token") - 1;

    // In one burst ten guesses get through, whatever their addresses and spellings; from then on each waits longer.
    let burst = |from: usize| {
        let guesses = (from..from + 100).map(|n| {
            let name = ["ada", "ADA", " ada", "ada@example.test", "Ada@Example.Test"][n % 5];
            let browser = at(if n.is_multiple_of(2) { &first } else { &second }, &address(n));
            async move { login(&browser, name, "guess").await.status }
        });
        join_all(guesses)
    };
    burst(0).await;
    assert_eq!(asked(), 10, "names of one person share one tally");
    // The owner's network is known: no stranger slows it down.
    assert_eq!(login(&at(&second, home), "ada", "right").await.status, 200);
    // Patience does not help either: whoever waits as long as it must gets one guess at a time, and not more than 80 in a row.
    let patient = async |from: usize, guesses: usize| {
        let before = op.count("/token");
        for n in from..from + guesses {
            first.clock.advance(Duration::from_mins(16));
            let at = at(if n.is_multiple_of(2) { &first } else { &second }, &address(n));
            assert_eq!(login(&at, ["ada", "ada@example.test"][n % 2], "guess").await.status, 401);
        }
        op.count("/token") - before
    };
    assert_eq!(patient(100, 8).await, 8);
    let count = "SELECT max(consecutive) FROM password_failures WHERE scope = 'account'";
    assert_eq!(first.database.number(count).await, 8);
    first.database.execute("UPDATE password_failures SET consecutive = 76 WHERE scope = 'account'").await;
    assert_eq!(patient(900, 8).await, 4, "at most 80 in a row by strangers");
    // Closed to strangers; a restart changes nothing, and the owner comes in from home.
    drop(second);
    let second = TestHouse::with(&format!("{}password_login = true\n", op_provider("op", &op)))
        .database(&db)
        .set("SERVER__PUBLIC_URL", &format!("\"{}\"", first.url))
        .set("SERVER__TRUSTED_PROXIES", "[\"127.0.0.0/8\", \"::1/128\"]")
        .folder(&first.folder)
        .clock(&first.clock)
        .open()
        .await;
    let asked = op.count("/token");
    assert_eq!(login(&at(&second, "192.0.2.77"), "ada", "right").await.status, 401);
    assert_eq!(op.count("/token"), asked);
    assert_eq!(login(&at(&second, home), "ada", "wrong").await.status, 401);
    assert_eq!(login(&at(&second, home), "ada", "right").await.status, 200);
    // And with that the account is open again for everybody.
    assert_eq!(login(&at(&second, "192.0.2.77"), "ada", "right").await.status, 200);
}

#[tokio::test]
async fn pw_03_a_browser_login_at_the_provider_opens_a_closed_account() {
    let op = op().await;
    let house = plan(&op).open().await;
    login(&from(&house, &address(1)), "ada", "guess").await;
    house.database.execute("UPDATE password_failures SET consecutive = 80 WHERE scope = 'account'").await;
    house.clock.advance(Duration::from_hours(24));
    assert_eq!(login(&from(&house, "192.0.2.9"), "ada", "right").await.status, 401);
    super::keep_time(&op, &house);
    let page = from(&house, "192.0.2.9").sign_in("/auth/login?return_to=/protected").await;
    assert_eq!(page.url.path(), "/protected", "{}", page.text());
    assert_eq!(login(&from(&house, "192.0.2.9"), "ada", "right").await.status, 200);
}

#[tokio::test]
async fn pw_03_all_failures_together_have_a_limit_that_known_networks_do_not_meet() {
    let op = op().await;
    // Thirty times one address's allowance.
    let house = plan(&op).set("LIMITS__PASSWORD_FAILURES_ADDRESS", "\"2/15m\"").open().await;
    super::keep_time(&op, &house);
    let home = from(&house, "203.0.113.5");
    assert_eq!(login(&home, "ada", "right").await.status, 200);
    let statuses = join_all((0..62).map(|n| {
        let browser = from(&house, &address(n));
        async move { login(&browser, &format!("person-{n}"), "Summer2026!").await.status }
    }))
    .await;
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
    assert_eq!(login(&from(&house, "198.51.100.1"), "somebody", "x").await.status, 429);
    assert_eq!(login(&home, "ada", "right").await.status, 200);
    house.clock.advance(Duration::from_mins(15));
    assert_eq!(login(&from(&house, "198.51.100.1"), "somebody", "x").await.status, 401);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_counts_nobody_as_wrong() {
    let op = op().await;
    let house = plan(&op).open().await;
    let browser = from(&house, "203.0.113.5");
    for _ in 0..12 {
        op.script(|s| s.next("/token", crate::house::op::Answer::text(503, "text/html", "down")));
        assert_eq!(login(&browser, "ada", "right").await.status, 503);
        house.clock.advance(Duration::from_secs(6));
    }
    assert_eq!(house.database.number("SELECT coalesce(max(failures), 0) FROM password_failures").await, 0);
    op.script(|s| s.queue.clear());
    assert_eq!(login(&browser, "ada", "right").await.status, 200);
}
