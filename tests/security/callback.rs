//! The callback: what it reads, what it refuses, and what it leaves behind.

use std::time::Duration;

use serde_json::json;

use super::assert_rejected;
use super::stage::{Stage, attempts, with_params};
use crate::house::browser::raw;

/// A callback visited with changed parameters; the token endpoint must not hear of it.
async fn visited(stage: &Stage, changes: &[(&str, Option<&str>)], reason: &str) {
    eprintln!("case: {changes:?} must be refused as {reason}");
    stage.house.clock.advance(Duration::from_secs(1));
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
    let page = browser.click(&stage.op.issuer(), &with_params(&callback, changes)).await;
    assert_rejected(&stage.house, &page, reason).await;
    assert_eq!(stage.op.count("/token"), 0, "{changes:?} reached the token endpoint");
    assert_eq!(browser.navigate("/protected").await.status, 303, "{changes:?}");
}

/// The same with a raw query put behind the provider's own.
async fn visited_with(stage: &Stage, more: &str, reason: &str) {
    eprintln!("case: {more} must be refused as {reason}");
    stage.house.clock.advance(Duration::from_secs(1));
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login").await;
    let page = browser.click(&stage.op.issuer(), &format!("{callback}&{more}")).await;
    assert_rejected(&stage.house, &page, reason).await;
    assert_eq!(stage.op.count("/token"), 0, "{more} reached the token endpoint");
}

#[tokio::test]
async fn ar_01_tokens_in_the_browsers_request_are_refused() {
    let stage = Stage::open().await;
    for name in ["id_token", "access_token", "token_type"] {
        visited(&stage, &[(name, Some("eyJhbGciOiJub25lIn0.e30."))], "callback_token_in_front").await;
        visited(&stage, &[(name, Some("x")), ("code", None)], "callback_token_in_front").await;
        visited_with(&stage, &format!("{name}="), "callback_token_in_front").await;
    }
    stage.accepted("an honest callback").await;
}

#[tokio::test]
async fn ar_03_a_state_is_used_once_in_the_browser_that_began_it_and_soon() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login").await;
    // Another browser, and then one with an attempt of its own.
    let other = stage.browser();
    assert_rejected(&stage.house, &other.click(&stage.op.issuer(), &callback).await, "login_expired").await;
    stage.callback_of(&other, "/auth/login").await;
    assert_rejected(&stage.house, &other.click(&stage.op.issuer(), &callback).await, "login_expired").await;
    // The right browser with the right cookie under the wrong name, cut short, or of another attempt.
    let cookie = attempts(&browser).remove(0);
    let foreign = attempts(&other).remove(0);
    for value in [
        &foreign.value[..],
        "",
        "AAAA",
        &cookie.value[..cookie.value.len() - 2],
        &format!("{}A", cookie.value),
    ] {
        let forger = stage.browser();
        forger.set_cookie(&cookie.name, value);
        let page = forger.click(&stage.op.issuer(), &callback).await;
        assert_rejected(&stage.house, &page, "login_expired").await;
    }
    assert_eq!(stage.op.count("/token"), 0);
    // None of that has spent it. Its second use is refused, with its cookie and without a session.
    assert_eq!(browser.click(&stage.op.issuer(), &callback).await.status, 303);
    browser.post_form("/auth/logout", &[]).await;
    browser.set_cookie(&cookie.name, &cookie.value);
    assert_rejected(&stage.house, &browser.click(&stage.op.issuer(), &callback).await, "login_expired").await;
    assert_eq!(stage.op.count("/token"), 1);
}

#[tokio::test]
async fn ar_03_an_attempt_is_over_after_ten_minutes() {
    let stage = Stage::open().await;
    for (seconds, good) in [(590, true), (600, false), (3600, false)] {
        stage.op.clear();
        let browser = stage.browser();
        // A thief of the cookie does not obey its Max-Age.
        let fixed = stage.now()();
        browser.set_now(std::sync::Arc::new(move || fixed));
        let callback = stage.callback_of(&browser, "/auth/login").await;
        stage.house.clock.advance(Duration::from_secs(seconds));
        if good {
            // The provider's code lives a minute by the provider's clock.
            stage.op.set_now(std::sync::Arc::new(move || fixed));
            stage
                .op
                .script(|s| s.claims(move |c| super::stage::set(c, "iat", Some(&json!(fixed / 1000 + 590)))));
            stage.op.script(|s| s.token_life_s = 3600);
        }
        let page = browser.click(&stage.op.issuer(), &callback).await;
        if good {
            assert_eq!(page.status, 303, "after {seconds} s: {}", page.text());
            browser.post_form("/auth/logout", &[]).await;
            stage.op.set_now(stage.now());
            stage.op.script(super::stage::honest);
        } else {
            assert_rejected(&stage.house, &page, "login_expired").await;
            assert_eq!(stage.op.count("/token"), 0, "after {seconds} s");
        }
    }
}

#[tokio::test]
async fn ar_06_an_iss_must_be_the_transactions_issuer_byte_for_byte() {
    let stage = Stage::open().await;
    let issuer = stage.op.issuer();
    let near = [
        format!("{issuer}/"),
        issuer.replace("http", "HTTP"),
        issuer.replace("127.0.0.1", "localhost"),
        format!("{issuer} "),
        "https://evil.example".to_owned(),
        "null".to_owned(),
    ];
    for wrong in &near {
        visited(&stage, &[("iss", Some(wrong))], "callback_iss").await;
        // An error is no better founded than a code.
        visited(
            &stage,
            &[("iss", Some(wrong)), ("code", None), ("error", Some("access_denied"))],
            "callback_iss",
        )
        .await;
    }
    visited(&stage, &[("iss", None)], "callback_iss").await;
    visited(&stage, &[("iss", None), ("code", None), ("error", Some("login_required"))], "callback_iss")
        .await;
    visited(&stage, &[("iss", Some(""))], "callback_malformed").await;
    let twice = url::form_urlencoded::byte_serialize(issuer.as_bytes()).collect::<String>();
    visited_with(&stage, &format!("iss={twice}"), "callback_repeated_parameter").await;
    stage.accepted("the issuer itself").await;
}

#[tokio::test]
async fn ar_06_an_iss_is_needed_where_metadata_or_operator_say_so() {
    let without = |s: &mut crate::house::op::Script| {
        s.discovery(|d| {
            d.remove("authorization_response_iss_parameter_supported");
        });
        s.authorization_response(|pairs| pairs.retain(|(name, _)| name != "iss"));
    };
    let stage = Stage::open().await;
    stage.truth("none announced and none given", without).await;
    let strict = Stage::with("require_iss = true").await;
    strict.lie("none given where the operator wants one", "callback_iss", without).await;
    strict.accepted("given").await;
    let lax = Stage::with("require_iss = false").await;
    lax.truth("announced, not given, not asked for", |s| {
        s.authorization_response(|pairs| pairs.retain(|(name, _)| name != "iss"));
    })
    .await;
    lax.lie("given and wrong", "callback_iss", |s| {
        s.authorization_response(|pairs| {
            pairs.retain(|(name, _)| name != "iss");
            pairs.push(("iss".into(), "https://evil.example".into()));
        });
    })
    .await;
}

#[tokio::test]
async fn ar_08_a_repeated_protocol_parameter_is_refused() {
    let stage = Stage::open().await;
    for more in ["code=a", "state=a", "iss=a", "code=", "%63ode=a", "state="] {
        visited_with(&stage, more, "callback_repeated_parameter").await;
    }
    stage
        .lie("error twice", "callback_repeated_parameter", |s| {
            s.authorization_response(|pairs| {
                pairs.retain(|(name, _)| name != "code");
                pairs.extend([
                    ("error".into(), "access_denied".into()),
                    ("error".into(), "access_denied".into()),
                ]);
            });
        })
        .await;
    stage.accepted("each once").await;
}

#[tokio::test]
async fn ar_10_only_one_whole_answer_is_read() {
    let stage = Stage::open().await;
    let long = "c".repeat(2049);
    let cases: [&[(&str, Option<&str>)]; 12] = [
        &[("error", Some("access_denied"))],
        &[("code", None)],
        &[("code", Some(""))],
        &[("code", Some("\0"))],
        &[("code", Some("a\r\nb"))],
        &[("code", Some("é"))],
        &[("code", Some(&long))],
        &[("code", None), ("error", Some(""))],
        &[("state", Some(""))],
        &[("state", None)],
        &[("code", None), ("error", Some("a\nb"))],
        &[("code", None), ("state", None), ("iss", None)],
    ];
    for case in cases {
        visited(&stage, case, "callback_malformed").await;
    }
    visited(&stage, &[("state", Some("unknown"))], "login_expired").await;
    // What a provider adds of its own is none of our business.
    stage
        .truth("parameters of the provider's own", |s| {
            s.authorization_response(|pairs| {
                let own = [
                    ("session_state", "x"),
                    ("scope", "openid"),
                    ("kc_action", "y"),
                    ("redirect_uri", "https://evil.example"),
                    ("return_to", "https://evil.example"),
                ];
                pairs.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
            });
        })
        .await;
}

/// Each error of the provider, the page that it becomes, and its reason (RFC 6749 4.1.2.1, Core 3.1.2.6).
#[tokio::test]
async fn ar_09_an_error_becomes_words_of_our_own() {
    let stage = Stage::open().await;
    for (error, status, reason) in [
        ("access_denied", 403, "login_cancelled"),
        ("server_error", 502, "provider_error"),
        ("invalid_request", 502, "provider_error"),
        ("unauthorized_client", 502, "provider_error"),
        ("invalid_scope", 502, "provider_error"),
        ("unmet_authentication_requirements", 400, "acr_unmet"),
        ("something_new", 502, "provider_error"),
        ("<script>alert(1)</script>", 502, "provider_error"),
    ] {
        eprintln!("case: {error}");
        stage.op.script(|s| s.deny(error));
        let (_, page) = stage.tries().await;
        assert_eq!(page.status, status, "{error}");
        assert_rejected(&stage.house, &page, reason).await;
        assert!(!page.text().contains("<script>alert"), "{}", page.text());
    }
    assert_eq!(stage.op.count("/token"), 0);
    stage.op.script(super::stage::honest);
    stage.accepted("afterwards").await;
}

#[tokio::test]
async fn ar_09_the_state_is_checked_before_an_error_is_believed() {
    let stage = Stage::open().await;
    let page = stage.browser().navigate("/auth/callback/op?error=access_denied&state=made-up").await;
    assert_rejected(&stage.house, &page, "login_expired").await;
}

#[tokio::test]
async fn ar_09_what_the_provider_says_beside_the_error_is_shown_to_nobody() {
    let stage = Stage::open().await;
    for (case, text) in [
        ("markup", "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>kingfisher"),
        ("line ends", "kingfisher\r\nSet-Cookie: doorward=evil\r\n\r\n<h1>kingfisher"),
        ("right-to-left marks", "\u{202e}kingfisher\u{2066}\u{200f}"),
        ("a phishing text", "kingfisher: your password has leaked, call +1 555 0100"),
        ("controls", "kingfisher\0\u{1b}[31m"),
    ] {
        eprintln!("case: {case}");
        let more = [
            ("error_description", Some(text)),
            ("error_uri", Some("javascript:alert('kingfisher')")),
            ("code", None),
            ("error", Some("access_denied")),
        ];
        let browser = stage.browser();
        let callback = stage.callback_of(&browser, "/auth/login").await;
        let page = browser.click(&stage.op.issuer(), &with_params(&callback, &more)).await;
        assert_rejected(&stage.house, &page, "login_cancelled").await;
        let whole = format!("{:?}{}", page.headers, page.text());
        assert!(!whole.contains("kingfisher"), "{case}: {whole}");
    }
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login").await;
    let address = stage.house.address;
    for length in [7_000, 12_000, 100_000] {
        let text = "x".repeat(length);
        let long = with_params(&callback, &[("error_description", Some(&text)), ("state", Some("x"))]);
        let target = long.strip_prefix(&stage.house.url).unwrap().to_owned();
        let host = stage.house.url.strip_prefix("http://").unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = tokio::task::spawn_blocking(move || raw(address, request.as_bytes())).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let wanted = if length == 7_000 { "HTTP/1.1 400" } else { "HTTP/1.1 4" };
        assert!(answer.starts_with(wanted), "{length}: {answer}");
        assert!(answer.len() < 50_000 && !answer.contains("xxxxxxxx"), "{length}: {answer}");
        assert_eq!(stage.house.live_sessions().await, 0);
    }
    let mut dump = stage.house.database.dump().await;
    dump.retain(u8::is_ascii_graphic);
    assert!(!String::from_utf8_lossy(&dump).contains("kingfisher"), "the database keeps the provider's text");
    stage.accepted("afterwards").await;
}

#[tokio::test]
async fn ar_11_a_callback_visited_again_spends_nothing_and_leads_on() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
    let kept: Vec<_> = browser.cookies();
    assert_eq!(browser.click(&stage.op.issuer(), &callback).await.header("location"), Some("/protected"));
    // Reload and Back, with the attempt's cookie gone as it should be, and with it still there.
    for again in 0..6 {
        if again % 2 == 1 {
            for c in &kept {
                browser.set_cookie(&c.name, &c.value);
            }
        }
        let page = browser.click(&stage.op.issuer(), &callback).await;
        assert_eq!((page.status, page.header("location")), (303, Some("/")), "visit {again}");
        assert_eq!(browser.follow(page, 5).await.status, 200, "visit {again} ends on the front page");
    }
    assert_eq!(stage.house.live_sessions().await, 1, "the session of the first visit lives on");
    browser.post_form("/auth/logout", &[]).await;
    for again in 0..4 {
        if again % 2 == 1 {
            for c in &kept {
                browser.set_cookie(&c.name, &c.value);
            }
        }
        let page = browser.click(&stage.op.issuer(), &callback).await;
        assert_rejected(&stage.house, &page, "login_expired").await;
        assert!(
            page.text().contains("href=\"/auth/login\""),
            "the page offers to start again: {}",
            page.text()
        );
    }
    assert_eq!(stage.op.count("/token"), 1, "the code was spent once");
    stage.op.clear();
    stage.accepted("the login that the page offers").await;
}

#[tokio::test]
async fn ar_12_success_and_failure_both_take_the_attempts_cookie_away() {
    let stage = Stage::open().await;
    for (case, change) in [
        ("success", None),
        ("an error", Some(("error", "access_denied"))),
        ("two answers", Some(("error", ""))),
        ("another issuer", Some(("iss", "https://evil.example"))),
        ("a bad code", Some(("code", "bad"))),
    ] {
        eprintln!("case: {case}");
        let browser = stage.browser();
        let callback = stage.callback_of(&browser, "/auth/login").await;
        assert_eq!(browser.cookies().len(), 1);
        let mut changes: Vec<(&str, Option<&str>)> =
            change.iter().map(|(name, value)| (*name, Some(*value))).collect();
        if case == "an error" {
            changes.push(("code", None));
        }
        let page = browser.click(&stage.op.issuer(), &with_params(&callback, &changes)).await;
        let left = attempts(&browser);
        assert!(left.is_empty(), "{case} ({}) left {left:?}", page.status);
    }
}

#[tokio::test]
async fn ar_12_cookies_sealed_by_a_lost_key_harm_no_login() {
    let old = Stage::open().await;
    let browser = old.browser();
    for _ in 0..3 {
        browser.navigate("/auth/login").await;
    }
    let callback = old.callback_of(&browser, "/auth/login").await;
    browser.click(&old.op.issuer(), &callback).await;
    assert_eq!(attempts(&browser).len(), 3);
    let stale = browser.cookies();
    // The same host with other keys: what the browser holds opens nothing there.
    let new = Stage::open().await;
    let visitor = new.browser();
    for c in &stale {
        visitor.set_cookie(&c.name, &c.value);
    }
    let page = visitor.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"));
    assert!(attempts(&visitor).is_empty(), "the stale ones are gone: {:?}", visitor.cookies());
    assert_ne!(visitor.cookie("doorward"), browser.cookie("doorward"));
}

#[tokio::test]
async fn ar_16_a_callback_leaves_the_code_in_no_history_and_no_referer() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let callback = stage.callback_of(&browser, "/auth/login?return_to=/protected").await;
    let page = browser.click(&stage.op.issuer(), &callback).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert!(page.header("cache-control").unwrap().contains("no-store"));

    let program = stage.browser().with_header("accept", "application/json");
    let callback = stage.callback_of(&program, "/auth/login").await;
    let answer = program.click(&stage.op.issuer(), &callback).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["user"]["id"].is_string() && answer.json()["session"]["id"].is_string());
    assert!(!answer.text().contains("token"), "{}", answer.text());
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));

    let refused = browser.click(&stage.op.issuer(), &with_params(&callback, &[("state", Some("x"))])).await;
    let refused = if refused.status == 303 {
        stage.browser().click(&stage.op.issuer(), &callback).await
    } else {
        refused
    };
    assert_eq!((refused.status, refused.header("referrer-policy")), (400, Some("no-referrer")));
    assert_eq!(refused.header("location"), None, "errors render in place");
    for foreign in ["src=\"http", "href=\"http", "url(http", "src=\"//", "href=\"//", "@import"] {
        assert!(!refused.text().contains(foreign), "{foreign} in {}", refused.text());
    }
}
