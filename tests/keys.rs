//! The key ring in the hands of an operator: rotated under load, mistaken, shared by replicas, and of no use to a thief.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::house::browser::Browser;
use crate::house::databases::{Database, on_each_database};
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, Ran, hang_up, me, op_config, signed_in, try_sign_in};

/// `expose_claims` makes `/auth/me` open the stored ID token, so that every question tries the ring.
fn with_ring(op: &ScriptedOp, current: &str, ids: &[&str]) -> String {
    let ring: Vec<String> = ids.iter().map(|id| format!("{id} = {{ file = \"secrets/{id}\" }}")).collect();
    let more = format!(
        "[session]\nexpose_claims = [\"email\"]\n[keys]\ncurrent = \"{current}\"\nring = {{ {} }}\n",
        ring.join(", ")
    );
    op_config(op, &more)
}

fn home(op: &ScriptedOp, database: &Database) -> Home {
    let home = Home::with_op(op).env("DOORWARD__DATABASE__URL", &database.url);
    home.write("config.toml", with_ring(op, "k1", &["k1"]));
    home
}

/// Gives the running server another ring; what it says to that.
async fn reload(home: &Home, process: &mut Process, text: &str) -> String {
    home.write("config.toml", text);
    hang_up(process).await
}

fn rows_of(ran: &Ran, id: &str) -> i64 {
    assert_eq!(ran.code, 0, "{}", ran.all());
    key(ran, id)["rows"].as_i64().expect("a number of rows")
}

fn key(ran: &Ran, id: &str) -> Value {
    let keys = ran.json()["keys"].as_array().expect("a list of keys").clone();
    keys.iter().find(|key| key["id"] == id).cloned().unwrap_or_else(|| panic!("no {id} in {keys:?}"))
}

async fn email(browser: &Browser) -> Value {
    browser.get_json("/auth/me").await.json()["claims"]["email"].clone()
}

/// People who look and people who come, for as long as the test wants.
struct Load {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    people: JoinSet<()>,
}

impl Load {
    fn of(process: &Process, guests: &[Browser]) -> Self {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut people = JoinSet::new();
        for guest in guests {
            let guest = guest.clone();
            let (over, asked) = (over.clone(), asked.clone());
            people.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let page = guest.get_json("/auth/me").await;
                    assert_eq!(page.status, 200, "a guest was sent away: {}", page.text());
                    assert_eq!(page.json()["claims"]["email"], "alice@example.test");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (stop, url) = (over.clone(), process.public_url.clone());
        people.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let newcomer = Browser::new(&url);
                let page = try_sign_in(&newcomer).await.unwrap();
                assert_eq!(page.status, 303, "a newcomer was sent away: {}", page.text());
                assert_eq!(me(&newcomer).await, 200);
            }
        });
        Self { over, asked, people }
    }

    /// Waits until that many more questions were answered well.
    async fn answered(&self, more: usize) {
        let enough = self.asked.load(Ordering::Relaxed) + more;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while self.asked.load(Ordering::Relaxed) < enough {
            assert!(std::time::Instant::now() < deadline, "the load stands still");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.people.join_all().await;
    }
}

on_each_database! {
async fn cr_05_a_rotation_under_load_logs_nobody_out_and_lets_the_old_key_go(database: Database) {
    let op = ScriptedOp::start().await;
    let mut home = home(&op, &database);
    let mut process = home.open().await;
    home.stay_at(&process);
    let mut guests = Vec::new();
    for _ in 0..6 {
        guests.push(signed_in(&process).await);
    }
    // Begun before anything changes, finished after everything has.
    let early = process.browser();
    let start = early.navigate("/auth/login?return_to=/protected").await;
    let callback = early.follow(start, 1).await.location().expect("the way back");

    let load = Load::of(&process, &guests);
    load.answered(20).await;
    home.write_key("secrets/k2");
    let said = reload(&home, &mut process, &with_ring(&op, "k2", &["k1", "k2"])).await;
    assert!(!said.contains("not reloaded"), "{said}");
    let before = home.run(&["keys", "list", "--json"]).await;
    assert!(rows_of(&before, "k1") >= 18, "{}", before.stdout);
    assert_eq!((&key(&before, "k2")["current"], &key(&before, "k1")["inRing"]), (&true.into(), &true.into()));

    let rotated = home.run(&["keys", "rotate", "--json"]).await;
    assert_eq!(rotated.code, 0, "{}", rotated.all());
    let report = rotated.json();
    assert_eq!(report["unreadable"], 0, "{report}");
    assert!(report["resealed"].as_i64() >= Some(18), "{report}");
    load.answered(20).await;
    let after = home.run(&["keys", "list", "--json"]).await;
    assert_eq!(rows_of(&after, "k1"), 0, "{}", after.stdout);
    assert!(rows_of(&after, "k2") >= 18, "{}", after.stdout);
    let people = home.run(&["keys", "list"]).await.stdout;
    let line = people.lines().find(|line| line.starts_with("k1")).expect("a line for k1");
    assert!(line.contains("may be retired"), "{people}");
    assert_eq!(home.run(&["keys", "rotate", "--json"]).await.json()["resealed"], 0, "a second time has nothing to do");

    let page = early.navigate(callback.as_str()).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")), "{}", page.text());
    guests.push(early);

    let said = reload(&home, &mut process, &with_ring(&op, "k2", &["k2"])).await;
    assert!(!said.contains("not reloaded"), "{said}\n{}", process.log());
    home.remove("secrets/k1");
    load.answered(20).await;
    load.end().await;
    process.stop().await;
    let mut again = home.open().await;
    for guest in &guests {
        assert_eq!(email(guest).await, "alice@example.test", "{}", again.log());
    }
    signed_in(&again).await;
    again.stop().await;
}

async fn cr_05_a_key_that_rows_still_name_cannot_be_taken_away(database: Database) {
    let op = ScriptedOp::start().await;
    let mut home = home(&op, &database);
    let mut process = home.open().await;
    home.stay_at(&process);
    let guest = signed_in(&process).await;
    home.write_key("secrets/k2");
    let said = reload(&home, &mut process, &with_ring(&op, "k2", &["k2"])).await;
    assert!(said.contains("not reloaded"), "{said}");
    let log = process.log();
    assert!(log.contains("keys.ring") && log.contains("k1") && log.contains("not in the ring"), "{log}");
    assert_eq!(email(&guest).await, "alice@example.test");
    process.stop().await;

    for command in [vec!["serve"], vec!["keys", "rotate"], vec!["check"]] {
        let ran = home.run(&command).await;
        assert_eq!(ran.code, 1, "{command:?}: {}", ran.all());
        assert!(ran.all().contains("not in the ring") && ran.all().contains("k1"), "{command:?}: {}", ran.all());
    }
    home.write("config.toml", with_ring(&op, "k2", &["k1", "k2"]));
    let mut again = home.open().await;
    assert_eq!(email(&guest).await, "alice@example.test", "{}", again.log());
    again.stop().await;
}

async fn cr_08_a_row_that_does_not_open_is_no_session_and_never_a_500(database: Database) {
    let op = ScriptedOp::start().await;
    let home = home(&op, &database);
    let mut process = home.open().await;
    let hurt = signed_in(&process).await;
    database.execute("UPDATE sessions SET id_token = access_token").await;
    let spared = signed_in(&process).await;
    for _ in 0..3 {
        assert_eq!(me(&hurt).await, 401, "{}", process.log());
    }
    assert_eq!(email(&spared).await, "alice@example.test");
    let audited = "SELECT count(*) FROM audit_log WHERE event = 'crypt_decrypt_fail'";
    assert!(database.number(audited).await >= 1);
    let metrics = process.operations("/metrics").await.text();
    assert!(metrics.contains("doorward_decrypt_failures_total{reason=\"not_authentic\"} 1"), "{metrics}");
    // Whoever lost a session signs in again, and it holds.
    let back = try_sign_in(&hurt).await.unwrap();
    assert_eq!((back.status, me(&hurt).await), (303, 200), "{}", back.text());
    process.stop().await;
}

async fn cr_07_a_passphrase_opens_what_it_sealed_and_another_is_the_wrong_key(database: Database) {
    let op = ScriptedOp::start().await;
    let mut home = home(&op, &database);
    let ring = "[session]\nexpose_claims = [\"email\"]\n[keys]\nring = { k1 = { passphrase_file = \"secrets/words\" } }\n";
    home.write("config.toml", op_config(&op, ring));
    home.write("secrets/words", "seven wet canaries sang on a wire\n");
    let mut process = home.open().await;
    home.stay_at(&process);
    let guest = signed_in(&process).await;
    process.stop().await;
    // How the file ends does not matter.
    home.write("secrets/words", "seven wet canaries sang on a wire");
    let mut again = home.open().await;
    assert_eq!(email(&guest).await, "alice@example.test", "{}", again.log());
    again.stop().await;
    home.write("secrets/words", "seven wet canaries sang on a tree\n");
    let refused = home.run(&["serve"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("keys.ring.k1: this is not the key that sealed the database"), "{}", refused.stderr);
    assert!(!refused.all().contains("canaries"), "{}", refused.all());
}

async fn se_01_cr_03_a_stolen_database_holds_no_cookie_no_token_and_no_key(database: Database) {
    let op = ScriptedOp::start().await;
    let tokens: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let seen = tokens.clone();
    op.script(|s| s.token_response(move |answer| {
        let held = ["access_token", "refresh_token", "id_token"].map(|name| answer[name].as_str().unwrap().to_owned());
        seen.lock().unwrap().extend(held);
    }));
    let home = home(&op, &database);
    let mut process = home.open().await;
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for _ in 0..3 {
        let browser = process.browser();
        browser.navigate("/auth/login").await;
        secrets.extend(browser.cookies().into_iter().map(|attempt| attempt.value.into_bytes()));
        let guest = signed_in(&process).await;
        let cookie = guest.cookie("doorward").expect("a session");
        // The key behind its signature, which alone would do.
        secrets.push(cookie.as_bytes()[cookie.len() - 43..].to_vec());
        secrets.push(cookie.into_bytes());
    }
    secrets.extend(tokens.lock().unwrap().drain(..).map(String::into_bytes));
    secrets.extend(op.requests_to("/token").iter().filter_map(|r| r.form("code")).map(String::into_bytes));
    secrets.push(home.read("secrets/k1"));
    secrets.push(home.read("secrets/op"));
    assert!(secrets.len() > 15 && secrets.iter().all(|secret| secret.len() > 15), "{}", secrets.len());
    let dump = database.dump().await;
    let holds = |what: &[u8]| dump.windows(what.len()).any(|part| part == what);
    assert!(holds(b"alice@example.test"), "this is no dump");
    for secret in secrets {
        // PostgreSQL shows bytes in hex.
        let hex: String = secret.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(b"0123456789abcdef"[usize::from(half)])).collect();
        let shown = String::from_utf8_lossy(&secret);
        assert!(!holds(&secret) && !holds(hex.as_bytes()), "the database holds {shown}");
    }
    process.stop().await;
}

async fn cr_05_re_07_replicas_may_have_different_rings_while_a_new_key_is_handed_out(database: Database) {
    let op = ScriptedOp::start().await;
    let shared = |home: Home| home.env("DOORWARD__SERVER__PUBLIC_URL", "https://app.example");
    let (here, there) = (shared(home(&op, &database)), shared(home(&op, &database)));
    there.write("secrets/k1", here.read("secrets/k1"));
    let k2 = here.write_key("secrets/k2");
    there.write("secrets/k2", k2);
    let (mut a, mut b) = (here.open().await, there.open().await);

    // First every replica learns to open with it, one after the other; then one begins to seal with it.
    reload(&here, &mut a, &with_ring(&op, "k1", &["k1", "k2"])).await;
    crossed(&a, &b).await;
    crossed(&b, &a).await;
    reload(&there, &mut b, &with_ring(&op, "k1", &["k1", "k2"])).await;
    reload(&here, &mut a, &with_ring(&op, "k2", &["k1", "k2"])).await;
    crossed(&a, &b).await;
    crossed(&b, &a).await;
    // Back again, as an operator might who has second thoughts.
    reload(&here, &mut a, &with_ring(&op, "k1", &["k1", "k2"])).await;
    crossed(&a, &b).await;

    // A third replica with another key of the same id would seal what nobody opens: it does not start.
    let stranger = shared(home(&op, &database));
    stranger.write("secrets/k1", here.read("secrets/k1"));
    stranger.write_key("secrets/k2");
    stranger.write("config.toml", with_ring(&op, "k1", &["k1", "k2"]));
    let refused = stranger.run(&["serve"]).await;
    assert_eq!(refused.code, 1, "{}", refused.all());
    assert!(refused.stderr.contains("keys.ring.k2: this is not the key"), "{}", refused.stderr);
    a.stop().await;
    b.stop().await;
}
}

/// One person at two replicas: begun at the first, finished at the second, seen by both.
async fn crossed(first: &Process, second: &Process) {
    let at_first = Browser::behind_tls("https://app.example", first.public);
    let at_second = Browser::behind_tls("https://app.example", second.public);
    let start = at_first.navigate("/auth/login?return_to=/protected").await;
    let callback = at_first.follow(start, 1).await.location().expect("the way back");
    for cookie in at_first.cookies() {
        at_second.set_cookie(&cookie.name, &cookie.value);
    }
    let page = at_second.navigate(callback.as_str()).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")), "{}", page.text());
    for cookie in at_second.cookies() {
        at_first.set_cookie(&cookie.name, &cookie.value);
    }
    for (guest, process) in [(&at_first, first), (&at_second, second)] {
        assert_eq!(email(guest).await, "alice@example.test", "{}", process.log());
    }
}
