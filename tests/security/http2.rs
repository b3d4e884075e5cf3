//! Chapters 11 and 12 over HTTP/2: what is refused over HTTP/1.1 does not slip in by the newer protocol, and its own floods end at a limit.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::house::browser::Browser;
use crate::house::corpus::request_paths;
use crate::house::two::{
    self, Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, Raw,
    SETTINGS, Two, fields, frame, headers,
};
use crate::house::upstream::{Gate, Step};
use crate::proxy::stage::Stage;
use crate::security::crypto_tls::{Authority, Leaf};

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The value of `server.tls`.
pub fn tls(leaf: &Leaf) -> String {
    let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
    format!("{{ certificate_file = \"{certificate}\", key_file = \"{key}\" }}")
}

/// A stage that is reached by TLS alone.
struct Secure {
    stage: Stage,
    authority: Authority,
}

impl Secure {
    async fn open() -> Self {
        let authority = Authority::new();
        let leaf = authority.sign("localhost", "DNS:localhost", 30);
        let stage = Stage::with(|plan| plan.set("SERVER__TLS", &tls(&leaf))).await;
        Self { stage, authority }
    }

    async fn two(&self) -> Two {
        Two::open(self.stage.house.address, &self.authority.file()).await
    }

    async fn raw(&self) -> Raw {
        Raw::open(self.stage.house.address, &self.authority.file()).await
    }

    async fn signed_in(&self) -> Browser {
        let browser = Browser::trusting(&self.stage.house.url, &self.authority.file());
        let page = browser.sign_in("/auth/login?return_to=/in/x").await;
        assert_eq!((page.status, page.url.path()), (200, "/in/x"), "{}", page.text());
        browser
    }
}

fn is_about(stream: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM)
}

/// Whether the connection still answers a request.
async fn is_alive(raw: &mut Raw, stream: u32) -> bool {
    let request = headers(stream, &raw.get("/pub/alive"));
    raw.send(&request).await && raw.until(is_about(stream)).await.is_some_and(|frame| frame.kind == HEADERS)
}

type Fields = &'static [(&'static str, &'static str)];

/// Behind the pseudo-fields of a sound POST.
const FORBIDDEN: &[(&str, Fields)] = &[
    ("connection", &[("connection", "close")]),
    ("connection nominates", &[("connection", "x-auth-user")]),
    ("keep-alive", &[("keep-alive", "1")]),
    ("proxy-connection", &[("proxy-connection", "x")]),
    ("transfer-encoding", &[("transfer-encoding", "chunked")]),
    ("upgrade", &[("upgrade", "websocket")]),
    ("te", &[("te", "gzip")]),
    ("upper case", &[("X-Auth-User", "x")]),
    ("CR LF in a value", &[("x", "a\r\nx-auth-user: alice")]),
    ("LF in a value", &[("x", "a\nb")]),
    ("NUL in a value", &[("x", "a\0b")]),
    ("CR LF in a name", &[("x\r\ny", "a")]),
    ("space in a name", &[("x y", "a")]),
    ("an empty name", &[("", "a")]),
    ("an unknown pseudo-field", &[(":user", "a")]),
    ("a pseudo-field twice", &[(":path", "/pub/y")]),
    ("a pseudo-field of answers", &[(":status", "200")]),
    ("a late pseudo-field", &[("x", "y"), (":path", "/pub/y")]),
    ("a length that is none", &[("content-length", "5x")]),
    ("two lengths", &[("content-length", "0"), ("content-length", "5")]),
];

/// Pseudo-fields that are no request; `@` stands for our own authority.
const NO_REQUEST: &[(&str, Fields)] = &[
    ("no method", &[(":scheme", "https"), (":authority", "@"), (":path", "/pub/x")]),
    ("no path", &[(":method", "GET"), (":scheme", "https"), (":authority", "@")]),
    ("no scheme", &[(":method", "GET"), (":authority", "@"), (":path", "/pub/x")]),
    ("an empty path", &[(":method", "GET"), (":scheme", "https"), (":authority", "@"), (":path", "")]),
    (
        "a space in the method",
        &[(":method", "GET /pub/y"), (":scheme", "https"), (":authority", "@"), (":path", "/pub/x")],
    ),
    (
        "a space in the path",
        &[(":method", "GET"), (":scheme", "https"), (":authority", "@"), (":path", "/pub/x HTTP/1.1")],
    ),
    (
        "CR LF in the path",
        &[(":method", "GET"), (":scheme", "https"), (":authority", "@"), (":path", "/pub/x\r\nx: y")],
    ),
    (
        "a slash in the host",
        &[(":method", "GET"), (":scheme", "https"), (":authority", "localhost/x"), (":path", "/pub/x")],
    ),
    (
        "a WebSocket (RFC 8441)",
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "@"),
            (":path", "/pub/x"),
        ],
    ),
];

#[tokio::test]
async fn ht_05_what_http_2_forbids_is_a_stream_error_and_never_reaches_the_app() {
    let secure = Secure::open().await;
    let mut raw = secure.raw().await;
    let authority = raw.authority.clone();
    let sound = [(":method", "POST"), (":scheme", "https"), (":authority", "@"), (":path", "/pub/x")];
    let forbidden = FORBIDDEN.iter().map(|(case, more)| (*case, [sound.as_slice(), more].concat()));
    let cases = forbidden.chain(NO_REQUEST.iter().map(|(case, list)| (*case, list.to_vec())));
    let mut stream = 1;
    for (case, list) in cases {
        let block: Vec<_> = list
            .iter()
            .map(|(name, value)| (*name, if *value == "@" { &authority } else { *value }))
            .collect();
        assert!(raw.send(&headers(stream, &block)).await, "{case}");
        let ended = raw.until(|frame| is_about(stream)(frame) || frame.kind == GOAWAY).await;
        let ended = ended.unwrap_or_else(|| panic!("{case}: the connection ended"));
        // The library answers what is well-formed but no request with a bare 400, the rest with a reset; a name that HPACK may not carry ends
        // the connection (RFC 9113 5.4.1 leaves that open).
        let is_bare_400 = ended.kind == HEADERS && ended.flags & END_STREAM != 0 && !status_is_200(&ended);
        let is_reset = matches!(ended.kind, RST_STREAM | GOAWAY) && ended.code() == PROTOCOL_ERROR;
        assert!(is_bare_400 || is_reset, "{case}: {ended:?}");
        secure.stage.app.assert_silent(case);
        stream += 2;
        if ended.kind == GOAWAY {
            (raw, stream) = (secure.raw().await, 1);
        }
    }
    assert!(is_alive(&mut raw, stream).await, "one bad stream does not end the others");
}

#[tokio::test]
async fn ht_05_a_body_that_is_not_as_long_as_announced_is_no_whole_body() {
    let secure = Secure::open().await;
    for (case, body) in [("shorter", "hell"), ("longer", "hello!")] {
        secure.stage.app.forget();
        let mut raw = secure.raw().await;
        let mut list = raw.get("/pub/x");
        list[0].1 = "POST";
        list.push(("content-length", "5"));
        let request =
            [frame(HEADERS, END_HEADERS, 1, &fields(&list)), frame(DATA, END_STREAM, 1, body.as_bytes())];
        raw.send(&request.concat()).await;
        let ended = raw.until(is_about(1)).await.unwrap();
        let is_refused = ended.kind == RST_STREAM || !status_is_200(&ended);
        assert!(is_refused, "{case}: {ended:?}");
        for seen in secure.stage.app.seen() {
            assert!(seen.body.len() < 5, "{case}: the app saw a whole body: {seen:?}");
        }
    }
}

/// The first field is `:status`; 8 is its place in the table for 200 (RFC 7541 A).
fn status_is_200(frame: &Frame) -> bool {
    frame.payload.first() == Some(&0x88)
}

#[tokio::test]
async fn px_12_host_authority_and_scheme_must_all_mean_this_door() {
    let secure = Secure::open().await;
    let browser = secure.signed_in().await;
    let cookie = format!("__Host-doorward={}", browser.cookie("__Host-doorward").unwrap());
    let mut two = secure.two().await;
    secure.stage.app.forget();
    let own = two.authority.clone();
    let cases: [(&str, &str, &str, u16); 6] = [
        ("https", "evil.example", "", 421),
        ("https", &own, "evil.example", 400),
        ("https", "evil.example", &own, 400),
        ("http", &own, "", 400),
        ("https", &format!("user@{own}"), "", 421),
        ("https", &own, &own, 200),
    ];
    for (scheme, authority, host, expected) in cases {
        let uri = format!("{scheme}://{authority}/in/x");
        let mut request = http::Request::builder().uri(uri).header("cookie", &cookie);
        if !host.is_empty() {
            request = request.header("host", host);
        }
        let case = format!("{scheme} {authority} {host}");
        let answer = two.try_send(request.body(()).unwrap(), None).await;
        let status = answer.as_ref().map_or(400, |answer| answer.status);
        assert_eq!(status, expected, "{case}: {answer:?}");
        if expected != 200 {
            secure.stage.app.assert_silent(&case);
        }
    }
    assert_eq!(secure.stage.app.last().one("host"), Some(own.as_str()));
}

/// Whether the same request over HTTP/1.1 is answered with 200.
async fn over_one(secure: &Secure, method: &str, path: &str) -> bool {
    let mut stream = two::secure(secure.stage.house.address, &secure.authority.file(), &["http/1.1"]).await;
    let host = secure.stage.house.url.trim_start_matches("https://");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn px_08_ht_09_a_target_or_method_that_http_1_1_refuses_is_refused_over_http_2() {
    let secure = Secure::open().await;
    let mut raw = secure.raw().await;
    let authority = raw.authority.clone();
    let mut stream = 1;
    let odd = ["*", "pub/x", "http://localhost/pub/x", "/auth/%6de", "/%61uth/me"].map(str::to_owned);
    let targets = request_paths().into_iter().chain(odd);
    let methods = ["get", "TRACE", "G_T", "CONNECT"].map(|method| (method, "/pub/x".to_owned()));
    for (method, path) in targets.map(|path| ("GET", path)).chain(methods) {
        secure.stage.app.forget();
        let old = over_one(&secure, method, &path).await;
        let list = [(":method", method), (":scheme", "https"), (":authority", &authority), (":path", &path)];
        raw.send(&headers(stream, &list)).await;
        let ended = raw.until(is_about(stream)).await.expect("the connection lives");
        let passed = ended.kind == HEADERS && status_is_200(&ended);
        let seen: Vec<String> = secure.stage.app.seen().iter().map(|seen| seen.target().to_owned()).collect();
        // Either both come to the app, by one spelling, or neither does.
        assert!(!passed || old, "{method} {path:?} comes in by HTTP/2 alone: {ended:?}");
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{method} {path:?}: {seen:?}");
        stream += 2;
    }
    assert!(is_alive(&mut raw, stream).await);
}

#[tokio::test]
async fn px_01_px_02_px_14_identity_and_cookies_are_as_clean_over_http_2() {
    let secure = Secure::open().await;
    let browser = secure.signed_in().await;
    let mut two = secure.two().await;
    let ours = format!("__Host-doorward={}", browser.cookie("__Host-doorward").unwrap());
    // Chromium sends each cookie as a field of its own (RFC 9113 8.2.3).
    let crumbs = [("cookie", "a=1"), ("cookie", ours.as_str()), ("cookie", "b=2"), ("x-auth-user", "admin")];
    let spelled = [("x_auth_user", "admin"), ("forwarded", "for=1.2.3.4"), ("te", "trailers")];
    let answer = two.ask("GET", "/in/x", &[crumbs.as_slice(), &spelled].concat()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = secure.stage.app.last();
    assert_eq!(seen.one("x-auth-user"), Some("alice"), "{}", seen.head);
    assert_eq!(seen.one("cookie"), Some("a=1; b=2"), "{}", seen.head);
    assert_eq!(seen.one("x-forwarded-proto"), Some("https"), "{}", seen.head);
    assert!(seen.all("x_auth_user").is_empty() && seen.all("te").is_empty(), "{}", seen.head);
    assert!(!seen.one("forwarded").unwrap_or_default().contains("1.2.3.4"), "{}", seen.head);
    assert!(seen.line().ends_with(" HTTP/1.1"));
    // Two session cookies are none, in one field or in two.
    let doubled = [("cookie", ours.as_str()), ("cookie", "__Host-doorward=other")];
    assert_eq!(two.ask("GET", "/in/x", &doubled).await.status, 401);
}

#[tokio::test]
async fn ht_08_too_many_fields_and_too_large_a_head_are_told_so() {
    let secure = Secure::open().await;
    let mut two = secure.two().await;
    let names: Vec<String> = (0..100).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    assert_eq!(two.ask("GET", "/pub/x", &many).await.status, 431);
    let large = "y".repeat(17 * 1024);
    let answer = two.ask("GET", "/pub/x", &[("x", large.as_str())]).await;
    assert_eq!(answer.status, 431);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let path = format!("/pub/{}", "y".repeat(8200));
    assert_eq!(two.get(&path).await.status, 414);
    secure.stage.app.assert_silent("limits");
    let enormous = "y".repeat(60 * 1024);
    let request = two.request("GET", "/pub/x", &[("x", &enormous), ("y", &enormous)]);
    let refused = two.try_send(request, None).await.map_or(431, |answer| answer.status);
    assert_eq!(refused, 431);
    secure.stage.app.assert_silent("limits");
}

/// Sends pieces until the server says GOAWAY or hangs up; the code, if one was told.
async fn flood(raw: &mut Raw, most: u32, piece: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut sent = 0;
    while sent < most {
        let block: Vec<u8> = (sent..sent + 50).flat_map(&piece).collect();
        sent += 50;
        if !raw.send(&block).await {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), raw.until(|frame| frame.kind == GOAWAY)).await;
    ended
        .unwrap_or_else(|_| panic!("{sent} went through, and the connection lives"))
        .map(|frame| frame.code())
}

#[tokio::test]
async fn ht_05_rapid_reset_is_bounded() {
    let secure = Secure::open().await;
    let mut raw = secure.raw().await;
    let list: Vec<(String, String)> =
        raw.get("/pub/x").into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let code = flood(&mut raw, 5_000, |n| {
        let stream = 2 * n + 1;
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&list));
        [request, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    })
    .await;
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
    // Each only after its request was taken up: the door's own count.
    let gate = Gate::closed();
    secure.stage.app.always(vec![Step::Wait(gate.clone()), Step::answer("200 OK", "", "late")]);
    let mut raw = secure.raw().await;
    let mut told = None;
    for n in 0..1_000 {
        let stream = 2 * n + 1;
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&list));
        raw.send(&request).await;
        raw.send(&frame(PING, 0, 0, &[0; 8])).await;
        let answer =
            raw.until(|frame| frame.kind == GOAWAY || (frame.kind == PING && frame.flags == 1)).await;
        match answer {
            Some(frame) if frame.kind == GOAWAY => told = Some(frame.code()),
            Some(_) => {
                raw.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
                continue;
            }
            None => {}
        }
        assert!((100..900).contains(&n), "ended after {n}");
        break;
    }
    assert_eq!(told, Some(ENHANCE_YOUR_CALM));
    gate.open();
    assert_eq!(secure.two().await.get("/pub/x").await.status, 200, "others are served meanwhile");
}

#[tokio::test]
async fn ht_05_continuation_data_ping_and_stream_floods_are_bounded() {
    let secure = Secure::open().await;
    let mut raw = secure.raw().await;
    let head = fields(&raw.get("/pub/x"));
    raw.send(&frame(HEADERS, END_STREAM, 1, &head)).await;
    let more = fields(&[("x", "y".repeat(1000))]);
    let code = flood(&mut raw, 20_000, |_| frame(CONTINUATION, 0, 1, &more)).await;
    assert!(matches!(code, None | Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM)), "CONTINUATION: {code:?}");

    let gate = Gate::closed();
    secure.stage.app.always(vec![Step::Wait(gate.clone()), Step::answer("200 OK", "", "late")]);
    let mut raw = secure.raw().await;
    let mut list = raw.get("/pub/x");
    list[0].1 = "POST";
    let head = fields(&list);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    let code = flood(&mut raw, 200_000, |_| frame(DATA, 0, 1, b"")).await;
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "empty DATA: {code:?}");

    let mut raw = secure.raw().await;
    let list = raw.get("/pub/x");
    let block = fields(&list);
    let many: Vec<u8> =
        (0..150).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &block)).collect();
    raw.send(&many).await;
    let refused = raw.until(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!((refused.code(), refused.stream), (7, 201), "the 101st stream is refused: {refused:?}");
    gate.open();
    assert_eq!(secure.two().await.get("/pub/x").await.status, 200);
}

#[tokio::test]
async fn ht_05_a_visitor_with_a_tiny_window_holds_little_and_gets_every_byte() {
    let secure = Secure::open().await;
    secure.stage.app.always(vec![Step::answer("200 OK", "", &"z".repeat(3000))]);
    let (address, file) = (secure.stage.house.address, secure.authority.file());
    // SETTINGS_INITIAL_WINDOW_SIZE of one byte.
    let mut raw = Raw::with_settings(address, &file, &[(4, 1)]).await;
    let request = headers(1, &raw.get("/pub/x"));
    raw.send(&request).await;
    let mut got = 0;
    loop {
        let frame = raw.until(|frame| frame.stream == 1).await.expect("the connection lives");
        if frame.kind == DATA {
            got += frame.payload.len();
            assert!(frame.payload.len() <= if got <= 1 { 1 } else { 1000 }, "{frame:?}");
            raw.send(&crate::house::two::frame(8, 0, 1, &1000_u32.to_be_bytes())).await;
        }
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(got, 3000);
}

#[tokio::test]
async fn ht_12_websockets_over_http_2_are_not_offered() {
    let secure = Secure::open().await;
    let mut raw = secure.raw().await;
    let settings = raw.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await.unwrap();
    let offers = settings.payload.chunks(6).any(|pair| pair[..2] == [0, 8] && pair[2..] != [0, 0, 0, 0]);
    assert!(!offers, "SETTINGS_ENABLE_CONNECT_PROTOCOL: {settings:?}");
}

#[tokio::test]
async fn px_18_bodies_stream_both_ways_and_one_that_breaks_off_is_never_whole() {
    let secure = Secure::open().await;
    let (address, file) = (secure.stage.house.address, secure.authority.file());
    // An upload of unknown length is chunked towards the app, piece by piece.
    let mut two = Two::open(address, &file).await;
    let answer = two.try_send(two.request("POST", "/pub/x", &[]), Some(b"hello")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(String::from_utf8_lossy(&secure.stage.app.last().body), "5\r\nhello\r\n0\r\n\r\n");
    let large = vec![b'x'; 5_000_000];
    let request = two.request("POST", "/big/x", &[("content-length", "5000000")]);
    assert_eq!(two.try_send(request, Some(&large)).await.unwrap().status, 200);
    assert_eq!(secure.stage.app.last().body.len(), large.len());
    let request = two.request("POST", "/small/x", &[]);
    let refused: Result<Answer, _> = two.try_send(request, Some(&large)).await;
    assert_eq!(refused.unwrap().status, 413);
    // What the app has said is there although it goes on.
    let gate = Gate::closed();
    secure.stage.app.always(vec![
        Step::send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata:1\r\n"),
        Step::Wait(gate.clone()),
        Step::Close,
    ]);
    let mut raw = secure.raw().await;
    let request = headers(1, &raw.get("/pub/x"));
    raw.send(&request).await;
    let piece = raw.until(|frame| frame.kind == DATA).await.unwrap();
    assert_eq!(piece.payload, b"data:1");
    gate.open();
    let end = raw.until(|frame| frame.stream == 1).await.unwrap();
    assert_eq!(end.kind, RST_STREAM, "an app that died is no end: {end:?}");
    assert!(is_alive(&mut raw, 3).await || secure.stage.app.connections() > 0);
}

#[tokio::test]
async fn px_17_a_stream_over_http_2_ends_with_its_session_and_a_request_taken_back_ends_at_the_app() {
    let secure = Secure::open().await;
    let browser = secure.signed_in().await;
    let cookie = format!("__Host-doorward={}", browser.cookie("__Host-doorward").unwrap());
    secure.stage.app.always(vec![
        Step::send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata:1\r\n"),
        Step::AwaitClose,
    ]);
    let mut raw = secure.raw().await;
    let mut list = raw.get("/in/x");
    list.push(("cookie", &cookie));
    let request = [headers(1, &list), headers(3, &list)].concat();
    raw.send(&request).await;
    // What is taken back before it began would never come to the app.
    let mut speaking = [false; 2];
    while speaking != [true; 2] {
        let piece = raw.until(|frame| frame.kind == DATA).await.unwrap();
        speaking[usize::from(piece.stream == 3)] = true;
    }
    raw.send(&frame(RST_STREAM, 0, 3, &8_u32.to_be_bytes())).await;
    secure
        .stage
        .app
        .until("the app hears of it", |seen| seen.iter().filter(|seen| seen.is_closed).count() == 1)
        .await;
    secure.stage.suspend_everybody().await;
    let end =
        raw.until(|frame| frame.stream == 1 && frame.kind != DATA || frame.flags & END_STREAM != 0).await;
    assert!(end.is_some());
    secure
        .stage
        .app
        .until("both are over", |seen| seen.iter().filter(|seen| seen.is_closed).count() == 2)
        .await;
}
