//! Chapter 17: what strangers can cost us, and who still gets in meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{is_signed_in, signed_in};
use crate::house::browser::{Browser, raw};
use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, signed_in as signed_in_at};

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Asks for `/auth/login` on one connection until `count` answers came or the time is over; how many were redirects.
async fn start_logins(address: SocketAddr, host: String, count: usize, until: Instant) -> usize {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /auth/login HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let (mut done, mut answer) = (0, Vec::new());
    while done < count && Instant::now() < until {
        stream.write_all(&request).await.unwrap();
        answer.clear();
        // A redirect has a head and no body.
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the door hung up");
        }
        assert!(answer.starts_with(b"HTTP/1.1 303"), "{}", String::from_utf8_lossy(&answer));
        done += 1;
    }
    done
}

/// Many logins that nobody means to finish.
async fn flood(process: &Process, count: usize, within: Duration) -> usize {
    let host = process.public_url.trim_start_matches("http://").to_owned();
    let until = Instant::now() + within;
    let mut visitors = tokio::task::JoinSet::new();
    for _ in 0..16 {
        visitors.spawn(start_logins(process.public, host.clone(), count / 16, until));
    }
    visitors.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn ds_01_a_hundred_thousand_started_logins_cost_no_row_and_no_growing_memory() {
    let op = ScriptedOp::start().await;
    let db = Database::sqlite();
    // The rates per address would end the flood at once; here the flood itself is looked at.
    let home = Home::with_op(&op)
        .env("DOORWARD__DATABASE__URL", &db.url)
        .env("DOORWARD__LIMITS__LOGIN_START", "off")
        .env("DOORWARD__LOG__LEVEL", "warn,doorward::server=info");
    let mut process = home.open().await;
    let rows = "SELECT (SELECT count(*) FROM used_attempts) + (SELECT count(*) FROM sessions) + (SELECT count(*) FROM audit_log)";
    let before = db.number(rows).await;
    // What is made once is made: connections, caches, the allocator's pages.
    let warm = flood(&process, 4_000, Duration::from_secs(8)).await;
    let started_with = resident_kib(process.id());
    let half = flood(&process, 100_000, Duration::from_secs(20)).await;
    let grown = resident_kib(process.id()).saturating_sub(started_with);
    assert!(warm > 100 && half > 2_000, "{warm} and {half} starts are no flood");
    assert!(grown < 8 * 1024, "{grown} KiB more after {half} starts");
    assert_eq!(db.number(rows).await, before, "a started login writes nothing");
    let guest = signed_in_at(&process).await;
    assert_eq!(guest.get_json("/auth/me").await.status, 200);
    process.stop().await;
}

on_each_database! {
    async fn ds_03_with_every_connection_taken_everything_is_refused_in_time_and_says_when_to_come_back(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).set("DATABASE__POOL_SIZE", "2").open().await;
        let guest = signed_in(&house).await;
        // Who is remembered needs no database for a page of an app.
        house.app().store.doubt_all();
        let store = house.app().store.clone();
        let mut held = Vec::new();
        let mut written = Vec::new();
        for _ in 0..2 {
            held.push(store.reader().await.unwrap());
        }
        if db.path().is_some() {
            written.push(store.writer().await.unwrap());
        }
        let asked = Instant::now();
        let (me, page, end, left) = tokio::join!(
            guest.get_json("/auth/me"),
            guest.navigate("/protected"),
            guest.delete("/auth/sessions"),
            guest.post_form("/auth/logout", &[]),
        );
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        for refused in [&me, &page, &end, &left] {
            assert_eq!(refused.status, 503, "{}: {}", refused.url, refused.text());
            assert!(refused.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok_and(|s| s > 0)));
        }
        assert_eq!(me.json()["code"], "database_unavailable");
        // A login begins without the database, and its end is refused before the code is spent.
        let other = house.browser();
        let start = other.navigate("/auth/login").await;
        let back = other.navigate(start.location().unwrap().as_str()).await;
        let asked = Instant::now();
        let end = other.navigate(back.location().unwrap().as_str()).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        assert_eq!(end.status, 503, "{}", end.text());
        assert_eq!(op.requests_to("/token").len(), 1, "the guest's own");
        drop((held, written));
        assert!(is_signed_in(&guest).await, "nothing was lost");
        signed_in(&house).await;
    }
}

#[tokio::test]
async fn ds_04_no_parser_of_ours_is_led_into_depth_or_breadth() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let guest = signed_in(&house).await;
    let host = house.url.trim_start_matches("http://").to_owned();
    let cookie = guest.cookie("doorward").unwrap();
    let deep = "[".repeat(30_000);
    let wide = format!("{{{}}}", vec!["\"a\":1"; 9_000].join(","));
    let pairs = "a=b&".repeat(15_000);
    let numbers = format!("{{\"sessionId\":{}}}", "9".repeat(60_000));
    for path in ["/auth/logout", "/auth/login", "/auth/refresh", "/auth/register", "/auth/callback/op"] {
        for (kind, body) in [
            ("application/json", deep.as_str()),
            ("application/json", &deep.replace('[', "{\"a\":")),
            ("application/json", &wide),
            ("application/json", &numbers),
            ("application/x-www-form-urlencoded", &pairs),
            ("application/x-www-form-urlencoded", &"%".repeat(60_000)),
            ("multipart/form-data; boundary=x", &"--x\r\n".repeat(10_000)),
        ] {
            let body = &body[..body.len().min(64 * 1024)];
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                house.url,
                body.len()
            );
            answers(house.address, request, path).await;
        }
    }
    let dots = ".".repeat(7_000);
    let escapes = "%41".repeat(2_500);
    for path in [
        format!("/{}", "a/".repeat(4_000)),
        format!("/{}", "%2e%2e/".repeat(1_000)),
        format!("/auth/{escapes}"),
        format!("/auth/login?{}", "a=b&".repeat(1_900)),
        format!("/auth/login?return_to={escapes}"),
        format!("/auth/callback/op?code=x&state={dots}"),
        format!("/auth/signed-out?state={escapes}"),
        format!("/auth/frontchannel-logout/op?iss={dots}&sid=x"),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: doorward={cookie}\r\nAuthorization: Bearer {dots}\r\nConnection: close\r\n\r\n"
        );
        answers(house.address, request, &path[..path.len().min(60)]).await;
    }
    assert!(is_signed_in(&guest).await);
}

/// An answer, in time, that is no fault of ours.
async fn answers(address: SocketAddr, request: String, what: &str) {
    let asked = Instant::now();
    let answer = tokio::task::spawn_blocking(move || raw(address, request.as_bytes())).await.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status: u16 =
        text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!((200..500).contains(&status), "{what}: {text}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{what} took {:?}", asked.elapsed());
}

/// A visitor with more cookies than fit.
fn bombed(guest: &Browser) {
    for n in 0..6 {
        guest.set_cookie(&format!("bomb{n}"), &"x".repeat(3_000));
    }
}

#[tokio::test]
async fn ds_05_the_page_for_too_many_cookies_offers_to_clear_them_and_does() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let guest = signed_in(&house).await;
    bombed(&guest);
    let page = guest.navigate("/protected").await;
    assert_eq!(page.status, 431);
    let text = page.text();
    assert!(text.contains("href=\"/auth/clear-cookies\"") && text.contains("Clear this site"), "{text}");
    // Another site's link clears nothing.
    let foreign = guest.click("https://evil.example/", "/auth/clear-cookies").await;
    assert_eq!((foreign.status, foreign.header("clear-site-data")), (431, None), "{}", foreign.text());
    let cleared = guest.click(&house.url, "/auth/clear-cookies").await;
    assert_eq!((cleared.status, cleared.header("location")), (303, Some("/")), "{}", cleared.text());
    assert_eq!(cleared.header("clear-site-data"), Some("\"cookies\""));
    assert_eq!(cleared.header("cache-control"), Some("no-store"));
    assert!(guest.cookies().is_empty(), "{} are left", guest.cookies().len());
    assert_eq!(guest.navigate("/").await.status, 200);
    let page = guest.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!(page.status, 200, "{}", page.text());

    // Whose cookies fit loses none by that address.
    let link = guest.click(&house.url, "/auth/clear-cookies").await;
    assert_eq!(
        (link.status, link.header("location"), link.header("clear-site-data")),
        (303, Some("/"), None)
    );
    assert!(is_signed_in(&guest).await);
}
