//! SIGHUP (RE-13): a good change is there for the next request, a bad one changes nothing and says why.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::house::op::{Gate, ScriptedOp};
use crate::house::process::{Home, Process, hang_up, me, op_config, signed_in};

/// A second provider and one more route.
fn more(second: &ScriptedOp) -> String {
    format!(
        "[[provider]]\nid = \"second\"\nkind = \"oidc\"\nlabel = \"Partner login\"\nissuer = \"{}\"\nclient_id = \"doorward\"\n\
         client_secret_file = \"secrets/op\"\n\n[[route]]\npath = \"/admin-only\"\nupstream = \"demo\"\n",
        second.issuer()
    )
}

/// Puts another configuration in place; what the program says to it.
async fn reload(home: &Home, process: &mut Process, text: &str) -> String {
    home.write("config.toml", text);
    hang_up(process).await
}

/// One connection that is kept alive, with nothing between the test and the bytes.
struct Kept(TcpStream, String);

impl Kept {
    async fn to(process: &Process) -> Self {
        let host = process.public_url.trim_start_matches("http://").to_owned();
        Self(TcpStream::connect(process.public).await.unwrap(), host)
    }

    /// Status and body of the next answer on this very connection.
    async fn get(&mut self, path: &str, accept: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: {accept}\r\n\r\n", self.1);
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length: Option<usize> =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.expect("a length") {
                    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
                    return (status, body.to_owned());
                }
            }
            let mut piece = [0; 4096];
            let read = self.0.read(&mut piece).await.unwrap();
            assert!(read > 0, "the connection was dropped: {text}");
            answer.extend_from_slice(&piece[..read]);
        }
    }
}

#[tokio::test]
async fn re_13_a_good_change_is_there_at_once_and_drops_no_connection() {
    let (op, second) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    let mut kept = Kept::to(&process).await;
    assert_eq!(kept.get("/admin-only", "*/*").await.0, 404);
    assert_eq!(kept.get("/auth/login", "text/html").await.0, 303);
    // A login under way keeps the set-up that it was begun with.
    let gate = Gate::closed();
    op.script(|s| s.hold_answer.insert("/token".into(), gate.clone()));
    let late = process.browser();
    let start = late.navigate("/auth/login?return_to=/protected").await;
    let callback = late.follow(start, 1).await.location().expect("the way back");
    let visitor = late.clone();
    let login = tokio::spawn(async move { visitor.navigate(callback.as_str()).await.status });
    gate.arrived(1).await;

    let said = reload(&home, &mut process, &op_config(&op, &more(&second))).await;
    assert!(!said.contains("not reloaded"), "{said}");
    assert_eq!(kept.get("/admin-only", "*/*").await.0, 401);
    let (status, page) = kept.get("/auth/login", "text/html").await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Company login") && page.contains("Partner login"), "{page}");

    op.script(|s| s.hold_answer.clear());
    gate.open();
    assert_eq!(login.await.unwrap(), 303, "{}", process.log());
    assert_eq!((me(&late).await, me(&guest).await), (200, 200));
    let partner = process.browser();
    let inside = partner.sign_in("/auth/login?provider=second&return_to=/admin-only").await;
    assert_eq!((inside.status, inside.url.path()), (200, "/admin-only"), "{}", inside.text());
    assert_eq!(partner.get_json("/auth/me").await.json()["user"]["id"], "second|alice");

    // And back: the route is gone, who is signed in stays.
    reload(&home, &mut process, &op_config(&op, "")).await;
    assert_eq!(kept.get("/admin-only", "*/*").await.0, 404);
    assert_eq!((me(&guest).await, me(&partner).await), (200, 200));
    process.stop().await;
}

#[tokio::test]
async fn re_13_a_bad_reload_keeps_the_old_configuration_whole_and_says_why() {
    let (op, second) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    let mut kept = Kept::to(&process).await;
    let good = op_config(&op, "");
    // Each has the second provider and the route too: half a reload would show them.
    let changed = op_config(&op, &more(&second));
    for (text, words) in [
        (
            format!("{changed}\n[session]\nidel = \"5m\"\nidle = \"never\"\n"),
            vec!["session.idel", "session.idle", "config.toml:", "did you mean"],
        ),
        (format!("{changed}\n[keys]\ncurrent = \"k2\"\n"), vec!["keys.current", "not in the ring"]),
        (
            format!("{changed}\n[keys]\nring = {{ k1 = {{ file = \"secrets/absent\" }} }}\n"),
            vec!["keys.ring.k1", "absent does not exist"],
        ),
        (
            format!("{changed}\n[keys]\nring = {{ k1 = {{ file = \"secrets/other\" }} }}\n"),
            vec!["keys.ring.k1", "not the key"],
        ),
        (
            format!("{changed}\n[keys]\nring = {{ k1 = {{ file = \"secrets/weak\" }} }}\n"),
            vec!["keys.ring.k1", "all zero"],
        ),
        (
            changed.replace("id = \"second\"", "id = \"second\"\nid_prefix = \"\""),
            vec!["second", "id_prefix"],
        ),
        (
            changed.replace("id = \"op\"", "id = \"op\"\nid_prefix = \"op|\""),
            vec!["provider.op.id_prefix", "stored users"],
        ),
        (changed.replace("secrets/op", "secrets/gone"), vec!["client_secret_file", "cannot read"]),
        (format!("{changed}\n[["), vec!["config.toml:", "column"]),
        (String::new(), vec!["provider", "add a [[provider]]"]),
    ] {
        home.write_key("secrets/other");
        home.write("secrets/weak", [0; 32]);
        let said = reload(&home, &mut process, &text).await;
        assert!(said.contains("not reloaded; the old configuration stays in force"), "{words:?}: {said}");
        for word in &words {
            assert!(said.contains(word), "{word:?} is not said: {said}");
        }
        assert_eq!(kept.get("/admin-only", "*/*").await.0, 404, "{words:?}");
        assert_eq!(kept.get("/auth/login", "text/html").await.0, 303, "{words:?}");
        assert_eq!(me(&guest).await, 200, "{words:?}");
    }
    signed_in(&process).await;
    // Mended, it works as if nothing had been.
    let said = reload(&home, &mut process, &changed).await;
    assert!(!said.contains("not reloaded"), "{said}");
    assert_eq!(kept.get("/admin-only", "*/*").await.0, 401);
    reload(&home, &mut process, &good).await;
    process.stop().await;
}

#[tokio::test]
async fn a_configuration_that_is_gone_is_a_fault_and_never_the_development_set_up() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    home.remove("config.toml");
    let said = hang_up(&mut process).await;
    assert!(said.contains("not reloaded") && said.contains("config.toml"), "{said}");
    assert_eq!(me(&guest).await, 200);
    let start = process.browser().navigate("/auth/login").await;
    assert!(start.header("location").is_some_and(|to| to.starts_with(&op.issuer())), "{:?}", start.headers);
    process.stop().await;
}

#[tokio::test]
async fn what_only_a_restart_can_change_is_named_and_stays() {
    let op = ScriptedOp::start().await;
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    let text = op_config(
        &op,
        "[server]\npublic_url = \"http://localhost:1\"\nauth_prefix = \"/door\"\n[database]\nurl = \"sqlite:other.db\"\n\
         [session]\noverall = \"2h\"\n[log]\nlevel = \"doorward=debug,info\"\n",
    );
    let said = reload(&home, &mut process, &text).await;
    assert!(!said.contains("not reloaded"), "{said}");
    for key in ["server.public_url", "server.auth_prefix", "database.url", "session.overall", "log"] {
        let told =
            said.lines().any(|line| line.contains("after a restart") && line.contains(&format!("key={key}")));
        assert!(told, "{key}: {said}");
    }
    assert_eq!(me(&guest).await, 200);
    signed_in(&process).await;
    assert!(!home.path("other.db").exists());
    process.stop().await;
}

#[tokio::test]
async fn re_13_reloads_in_a_storm_of_requests_fail_nobody() {
    let (op, second) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let home = Home::with_op(&op);
    let mut process = home.open().await;
    let guest = signed_in(&process).await;
    let (over, mut storm) = (tokio::sync::watch::Sender::new(false), tokio::task::JoinSet::new());
    for _ in 0..4 {
        let (guest, over) = (guest.clone(), over.subscribe());
        storm.spawn(async move {
            let mut asked = 0;
            while !*over.borrow() {
                assert_eq!(guest.get_json("/protected").await.status, 200);
                assert_eq!(me(&guest).await, 200);
                asked += 1;
            }
            asked
        });
    }
    for round in 0..10 {
        let text = if round % 2 == 0 { op_config(&op, &more(&second)) } else { op_config(&op, "") };
        let said = reload(&home, &mut process, &text).await;
        assert!(!said.contains("not reloaded"), "{said}");
    }
    over.send_replace(true);
    let asked: u32 = storm.join_all().await.into_iter().sum();
    assert!(asked > 20, "{asked} requests are no storm");
    process.stop().await;
}
