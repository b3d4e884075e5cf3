//! TLS in Doorward itself, as an operator and a visitor meet it: the real binary, certificates made by OpenSSL's command line.

use std::process::Command;
use std::time::{Duration, Instant};

use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::house::browser::Browser;
use crate::house::op::ScriptedOp;
use crate::house::process::{Home, Process, hang_up, op_config};
use crate::house::servers::chromium;
use crate::house::two::{Two, secure, shown, try_secure};
use crate::house::upstream::FakeUpstream;
use crate::proxy::spa::tabs;
use crate::proxy::stage::routes;
use crate::security::crypto_tls::{Authority, Leaf, openssl};

const FILES: &str = "{ certificate_file = \"secrets/tls.pem\", key_file = \"secrets/tls.key\" }";

/// A folder with a certificate for `localhost`, and who signed it.
struct Site {
    home: Home,
    authority: Authority,
    _op: ScriptedOp,
}

impl Site {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With more in its configuration.
    async fn with(more: &str) -> Self {
        let op = ScriptedOp::start().await;
        let (home, authority) = (Home::with_op(&op).env("DOORWARD__SERVER__TLS", FILES), Authority::new());
        home.write("config.toml", op_config(&op, more));
        let site = Self { home, authority, _op: op };
        site.install(&site.leaf("first"));
        site
    }

    fn leaf(&self, name: &str) -> Leaf {
        self.authority.sign(name, "DNS:localhost", 30)
    }

    /// As a certificate tool does it: each file is exchanged in one step, the certificate first.
    fn install(&self, leaf: &Leaf) {
        for (name, from) in [("secrets/tls.pem", &leaf.certificate), ("secrets/tls.key", &leaf.key)] {
            self.home.write("secrets/new", std::fs::read(from).unwrap());
            std::fs::rename(self.home.path("secrets/new"), self.home.path(name)).unwrap();
        }
    }

    fn browser(&self, process: &Process) -> Browser {
        Browser::trusting(&process.public_url, &self.authority.file())
    }
}

fn der(leaf: &Leaf) -> Vec<u8> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(&leaf.certificate).unwrap().to_vec()
}

async fn signs_in(browser: &Browser, process: &Process) {
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}\n{}", page.text(), process.log());
}

#[tokio::test]
async fn wb_08_a_person_signs_in_over_https_and_http_2_shares_the_session() {
    let site = Site::new().await;
    let mut process = site.home.open().await;
    assert!(process.public_url.starts_with("https://localhost:"), "{}", process.public_url);
    let browser = site.browser(&process);
    signs_in(&browser, &process).await;
    let cookies = browser.cookies();
    assert_eq!(cookies.len(), 1, "the attempt's cookie is gone");
    assert!(cookies.iter().all(|cookie| cookie.name == "__Host-doorward" && cookie.secure));
    let page = browser.get("/protected").await;
    assert_eq!(page.header("strict-transport-security"), Some("max-age=31536000"));
    let mut two = Two::open(process.public, &site.authority.file()).await;
    let cookie = format!("__Host-doorward={}", browser.cookie("__Host-doorward").unwrap());
    let me = two.ask("GET", "/auth/me", &[("cookie", &cookie), ("cookie", "other=1")]).await;
    assert_eq!(me.status, 200, "{}", me.text());
    assert_eq!(me.header("strict-transport-security"), Some("max-age=31536000"));
    assert!(
        me.header("date").is_some_and(|date| date.ends_with(" GMT")) && me.header("connection").is_none()
    );
    assert_eq!(two.get("/auth/me").await.status, 401);
    let head = two.ask("HEAD", "/protected", &[("cookie", &cookie)]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    // A form, whose body has no length: the button of the logout page.
    let request = two.request(
        "POST",
        "/auth/logout",
        &[
            ("cookie", &cookie),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/x-www-form-urlencoded"),
        ],
    );
    let gone = two.try_send(request, Some(b"")).await.unwrap();
    assert_eq!(gone.status, 303, "{}", gone.text());
    assert_eq!(two.ask("GET", "/auth/me", &[("cookie", &cookie)]).await.status, 401);
    // The operations listener stays plain.
    assert_eq!(process.operations("/healthz").await.status, 200);
    process.stop().await;
}

#[tokio::test]
async fn the_built_in_set_up_works_over_https_as_well() {
    let authority = Authority::new();
    let leaf = authority.sign("localhost", "DNS:localhost", 30);
    let home = Home::empty().env("DOORWARD__SERVER__TLS", FILES);
    // Its own calls to the development issuer trust what the listener shows: the authority at the end of the chain.
    let chain = [std::fs::read(&leaf.certificate).unwrap(), std::fs::read(authority.file()).unwrap()];
    home.write("secrets/tls.pem", chain.concat());
    home.write("secrets/tls.key", std::fs::read(&leaf.key).unwrap());
    let process = home.open().await;
    let browser = Browser::trusting(&process.public_url, &authority.file());
    let page = browser.navigate("/auth/login?return_to=/protected").await;
    let page = browser.follow(page, 5).await;
    let form = page.forms().into_iter().next().unwrap_or_else(|| panic!("{}: {}", page.url, page.text()));
    let page = browser.submit(&page, &form, &[("username", "alice")]).await;
    let page = browser.follow(page, 5).await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}\n{}", page.text(), process.log());
    let metrics = process.operations("/metrics").await.text();
    let ends = metrics.lines().find_map(|line| line.strip_prefix("doorward_certificate_ends_seconds "));
    assert!(ends.is_some_and(|ends| ends.parse::<i64>().unwrap() > 1_700_000_000), "{metrics}");
}

#[tokio::test]
async fn chromium_speaks_http_2_to_us_with_a_certificate_that_it_knows() {
    let site = Site::new().await;
    let process = site.home.open().await;
    let chrome =
        chromium::browser_with(&[format!("--ignore-certificate-errors-spki-list={}", pin(&site))]).await;
    chrome.goto(&format!("{}/protected", process.public_url)).await;
    let over = Instant::now() + Duration::from_secs(15);
    while !chrome.current_url().await.as_str().starts_with(&format!("{}/protected", process.public_url)) {
        assert!(Instant::now() < over, "at {}: {}", chrome.current_url().await, process.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    chrome.wait_for("main").await;
    let protocol = chrome.run("return performance.getEntriesByType('navigation')[0].nextHopProtocol").await;
    assert_eq!(protocol, "h2");
    assert_eq!(chrome.run("return window.isSecureContext").await, true);
    chrome.goto(&format!("{}/auth/me", process.public_url)).await;
    assert!(chrome.text("body").await.contains("alice"), "the cookie came along, in crumbs or whole");
    chrome.close().await;
}

#[tokio::test]
async fn px_17_over_tls_a_tab_speaks_websocket_and_learns_of_its_sessions_end() {
    let app = FakeUpstream::start().await;
    let site = Site::with(&routes(&format!("\"{}\"", app.url()))).await;
    let process = site.home.open().await;
    let trusts = [format!("--ignore-certificate-errors-spki-list={}", pin(&site))];
    let browsers = [chromium::browser_with(&trusts).await, chromium::browser_with(&trusts).await];
    assert!(process.public_url.starts_with("https://"), "{}", process.public_url);
    tabs(&process.public_url, &app, browsers).await;
}

/// What Chromium is told to take for good: the hash of the certificate's public key.
fn pin(site: &Site) -> String {
    use base64::Engine as _;
    let folder = site.home.path("secrets");
    openssl(&folder, &["x509", "-in", "tls.pem", "-pubkey", "-noout", "-out", "pub.pem"]);
    openssl(&folder, &["pkey", "-pubin", "-in", "pub.pem", "-outform", "DER", "-out", "pub.der"]);
    let key = std::fs::read(folder.join("pub.der")).unwrap();
    base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(key))
}

#[tokio::test]
async fn changed_files_are_shown_to_new_connections_and_a_bad_pair_keeps_the_old_one() {
    let site = Site::new().await;
    let (second, third) = (site.leaf("second"), site.leaf("third"));
    let mut process = site.home.open().await;
    let mut early = Two::open(process.public, &site.authority.file()).await;
    assert_ne!(early.certificate.to_vec(), der(&second));
    // By themselves, as after a renewal.
    site.install(&second);
    process.heard("another certificate is shown").await;
    let late = Two::open(process.public, &site.authority.file()).await;
    assert_eq!(late.certificate.to_vec(), der(&second));
    assert_eq!(early.get("/").await.status, 200, "an open connection goes on");
    // A key that does not fit.
    let from = process.log().len();
    site.home.write("secrets/tls.key", std::fs::read(&third.key).unwrap());
    process.heard_after(from, "the old certificate stays in force").await;
    assert!(process.log()[from..].contains("server.tls.key_file"), "{}", &process.log()[from..]);
    let stream = secure(process.public, &site.authority.file(), &["http/1.1"]).await;
    assert_eq!(shown(&stream).to_vec(), der(&second));
    // The signal says so as well, and nothing else is reloaded.
    let told = hang_up(&mut process).await;
    assert!(told.contains("not reloaded") && told.contains("does not fit"), "{told}");
    // The other half arrives: by the signal, at once.
    site.install(&third);
    let told = hang_up(&mut process).await;
    assert!(!told.contains("not reloaded"), "{told}");
    let stream = secure(process.public, &site.authority.file(), &["http/1.1"]).await;
    assert_eq!(shown(&stream).to_vec(), der(&third));
    assert_eq!(early.get("/auth/me").await.status, 401, "still the same connection");
    process.stop().await;
}

#[tokio::test]
async fn tls_is_switched_on_and_off_by_a_restart_alone_and_other_paths_count_at_once() {
    let op = ScriptedOp::start().await;
    let site = Site { home: Home::with_op(&op), authority: Authority::new(), _op: op };
    site.install(&site.leaf("first"));
    let text = String::from_utf8(site.home.read("config.toml")).unwrap();
    let tls = |name: &str| {
        format!("[server]\ntls = {{ certificate_file = \"{name}.pem\", key_file = \"{name}.key\" }}\n{text}")
    };
    site.home.write("config.toml", tls("secrets/tls"));
    let mut process = site.home.open().await;
    let other = site.leaf("other");
    site.home.write("other.pem", std::fs::read(&other.certificate).unwrap());
    site.home.write("other.key", std::fs::read(&other.key).unwrap());
    site.home.write("config.toml", tls("other"));
    assert!(!hang_up(&mut process).await.contains("not reloaded"));
    let stream = secure(process.public, &site.authority.file(), &[]).await;
    assert_eq!(shown(&stream).to_vec(), der(&other));
    site.home.write("config.toml", &text);
    let told = hang_up(&mut process).await;
    assert!(told.contains("server.tls") && told.contains("only after a restart"), "{told}");
    let stream = secure(process.public, &site.authority.file(), &[]).await;
    assert_eq!(shown(&stream).to_vec(), der(&other));
    process.stop().await;
}

/// What the start says of these files; it must end with a fault.
async fn refused(site: &Site) -> String {
    let ran = site.home.run(&["serve"]).await;
    assert_eq!(ran.code, 1, "{}", ran.all());
    ran.all()
}

#[tokio::test]
async fn files_that_cannot_serve_stop_the_start_with_key_file_and_advice() {
    let site = Site::new().await;
    let (certificate, key) = (site.home.read("secrets/tls.pem"), site.home.read("secrets/tls.key"));
    let put = |name: &str, content: &[u8]| site.home.write(name, content);
    let (pem, secret) = ("secrets/tls.pem", "secrets/tls.key");
    site.home.remove(pem);
    let told = refused(&site).await;
    assert!(told.contains("server.tls.certificate_file") && told.contains("cannot be read"), "{told}");
    put(pem, b"not a certificate");
    put(secret, b"");
    let told = refused(&site).await;
    assert!(
        told.contains("holds no certificate") && told.contains("holds no private key"),
        "both at once: {told}"
    );
    put(pem, &key);
    put(secret, &key);
    assert!(refused(&site).await.contains("holds no certificate"));
    put(pem, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(refused(&site).await.contains("cannot be read"));
    put(pem, &certificate);
    put(secret, &std::fs::read(site.leaf("stranger").key).unwrap());
    let told = refused(&site).await;
    assert!(told.contains("server.tls.key_file") && told.contains("does not fit the certificate"), "{told}");
    let folder = site.home.path("secrets");
    put("secrets/plain.key", &key);
    openssl(&folder, &["pkcs8", "-topk8", "-in", "plain.key", "-out", "tls.key", "-passout", "pass:x"]);
    assert!(refused(&site).await.contains("without a passphrase"));
    put(secret, &key);
    let checked = site.home.run(&["check"]).await;
    assert!(checked.stdout.contains("certificate: fits its key, names localhost"), "{}", checked.all());
}

#[tokio::test]
async fn an_expired_or_foreign_certificate_is_a_warning_and_a_fault_of_check() {
    for (name, days, expected) in [
        ("DNS:localhost", -1, "expired on"),
        ("DNS:other.example", 30, "is not for localhost"),
        ("DNS:localhost", 3, "expires on"),
    ] {
        let site = Site::new().await;
        site.install(&site.authority.sign("odd", name, days));
        let mut process = site.home.open().await;
        assert!(process.log().contains(expected), "{}", process.log());
        assert!(
            try_secure(process.public, &site.authority.file(), &[]).await.is_ok()
                == (expected == "expires on")
        );
        let checked = site.home.run(&["check"]).await;
        assert!(checked.code == 1 && checked.stdout.contains(expected), "{}", checked.all());
        process.stop().await;
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so_and_noise_is_closed() {
    let site = Site::new().await;
    let process = site.home.open().await;
    let said = async |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(process.public).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        let _ = tcp.read_to_string(&mut answer).await;
        answer
    };
    let answer = said(b"GET /protected HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("https://") && !answer.to_lowercase().contains("set-cookie"), "{answer}");
    assert_eq!(said(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.get(..12), Some("HTTP/1.1 400"));
    assert_eq!(said(b"\0\0\0").await, "");
    assert!(said(b"\x16\x03\x01\x00\x02\x01\x00").await.len() < 16, "an alert at most");
}

/// What OpenSSL agrees on with the server, offering this version alone.
fn offers(process: &Process, version: &str) -> bool {
    let target = format!("127.0.0.1:{}", process.public.port());
    let arguments = ["s_client", "-connect", &target, "-brief", "-cipher", "ALL:@SECLEVEL=0", version];
    let done = Command::new("openssl").args(arguments).stdin(std::process::Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("openssl: {error}; apt-get install openssl"));
    done.status.success() && String::from_utf8_lossy(&done.stderr).contains("Protocol version: TLSv1.")
}

#[tokio::test]
async fn ht_12_tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let site = Site::new().await;
    let process = site.home.open().await;
    assert!(offers(&process, "-tls1_3") && offers(&process, "-tls1_2"));
    assert!(!offers(&process, "-tls1_1") && !offers(&process, "-tls1"));
    let file = site.authority.file();
    for (offered, agreed) in [(["http/1.1", "h2"], "h2"), (["http/1.1", "spdy/3"], "http/1.1")] {
        let stream = secure(process.public, &file, &offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
    }
    assert!(try_secure(process.public, &file, &["h3"]).await.is_err(), "nothing in common is nothing");
    // Who offers nothing speaks HTTP/1.1.
    let mut stream = secure(process.public, &file, &[]).await;
    let host = process.public_url.trim_start_matches("https://");
    let request = format!("GET /auth/me HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn ht_10_handshakes_that_hang_keep_nobody_from_signing_in_and_end_by_themselves() {
    let site = Site::new().await;
    let process = site.home.open().await;
    let mut hanging = Vec::new();
    for n in 0..1_500 {
        let mut tcp = TcpStream::connect(process.public).await.unwrap();
        // Half of them say nothing at all, half begin and stop.
        if n % 2 == 0 {
            tcp.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        hanging.push(tcp);
    }
    let began = Instant::now();
    signs_in(&site.browser(&process), &process).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let mut last = hanging.pop().unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), last.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "closed after five seconds");
}

#[tokio::test]
async fn the_closed_door_speaks_tls_too_and_a_stop_waits_for_no_idle_connection() {
    let op = ScriptedOp::start().await;
    let authority = Authority::new();
    let home = Home::with_op(&op)
        .env("DOORWARD__SERVER__TLS", FILES)
        .env("DOORWARD__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none");
    let site = Site { home, authority, _op: op };
    site.install(&site.leaf("first"));
    let mut process = site.home.serve().await;
    process.heard("the door stays closed").await;
    let mut two = Two::open(process.public, &site.authority.file()).await;
    assert_eq!(two.get("/protected").await.status, 503);
    assert_eq!(site.browser(&process).get("/").await.status, 503);
    process.stop().await;
    let site = Site::new().await;
    let mut process = site.home.open().await;
    let mut idle = Two::open(process.public, &site.authority.file()).await;
    assert_eq!(idle.get("/").await.status, 200);
    let asked = Instant::now();
    process.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    let ended = tokio::time::timeout(Duration::from_secs(5), idle.connection).await.expect("told to go");
    // By a GOAWAY; where its answer crosses the end of the house, an idle client may read that the connection is closed.
    let ended = ended.unwrap();
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
}
