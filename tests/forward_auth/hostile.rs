//! What a visitor could try against a proxy that only asks: other names, other paths, the proxy's own question.

use percent_encoding::percent_decode_str;

use super::stage::{Stage, each};
use crate::house::corpus::request_paths;
use crate::proxy::stage::{cookie_line, status};
use crate::security::proxy::{WORDS, spellings};
use crate::security::signed_in;

#[tokio::test]
async fn px_01_px_02_px_21_no_word_of_a_client_about_itself_reaches_the_app_behind_a_recipe() {
    each(|stage| async move {
        let cookie = cookie_line(&signed_in(&stage.house).await);
        for (path, cookie) in [("/pub/x", ""), ("/pub/x", cookie.as_str()), ("/in/x", &cookie)] {
            for name in WORDS {
                // The proxy lets our own reader see it, and an unknown caller is nobody.
                let fields: String = spellings(name)
                    .iter()
                    .fold(String::new(), |all, name| format!("{all}{name}: evil-canary\r\n"));
                let case = format!("{:?} {name} on {path}", stage.kind);
                stage.app.forget();
                let answer = stage.ask(&format!("GET {path}"), &format!("{cookie}{fields}")).await;
                // nginx takes some names once at most.
                if name == "Authorization" && status(&answer) == 400 {
                    stage.app.assert_silent(&case);
                    continue;
                }
                assert_eq!(status(&answer), 200, "{case}: {answer}");
                let seen = stage.app.last();
                assert!(!seen.head.contains("evil-canary"), "{case}: {}", seen.head);
                let user = seen.one("x-auth-user").filter(|user| !user.is_empty());
                assert_eq!(user, (!cookie.is_empty()).then_some("alice"), "{case}");
                assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"), "{case}");
            }
        }
        let named = format!(
            "{cookie}connection: x-auth-user, x-auth-email, x-forwarded-for\r\nx-auth-user: evil\r\n"
        );
        let mut wire = stage.wire().await;
        wire.send(stage.head("GET /in/x", &named)).await;
        assert_eq!(status(&wire.head().await), 200, "{:?}", stage.kind);
        assert_eq!(stage.app.last().one("x-auth-user"), Some("alice"), "PX-03 {:?}", stage.kind);
    })
    .await;
}

#[tokio::test]
async fn px_08_px_21_behind_a_recipe_the_app_reads_the_path_that_was_judged() {
    each(|stage| async move {
        let mut passed = 0;
        for raw in request_paths() {
            stage.app.forget();
            let answer = stage.ask(&format!("GET {raw}"), "").await;
            let case = format!("{:?} {raw}", stage.kind);
            let seen = stage.app.seen();
            let Some(seen) = seen.first() else {
                let is_ours = answer.contains("\"keys\":[");
                let is_no = matches!(status(&answer), 301 | 308 | 400 | 401 | 403 | 404 | 405);
                assert!(is_no || is_ours, "{case}: {answer}");
                continue;
            };
            passed += 1;
            let path = seen.target().split(['?', '#']).next().unwrap();
            let path = percent_decode_str(path).decode_utf8().unwrap().into_owned();
            assert!(path == "/pub" || path.starts_with("/pub/"), "{case} went on as {}", seen.target());
            let is_plain = |segment: &str| {
                !matches!(segment, "." | "..") && !segment.contains(['\\', ';', '\0', '\r', '\n'])
            };
            assert!(
                path.split('/').all(is_plain) && !path.contains("//") && !seen.target().contains('#'),
                "{case} went on as {}",
                seen.target()
            );
        }
        assert!(passed >= 25, "{:?}: the good ones pass: {passed}", stage.kind);
    })
    .await;
}

#[tokio::test]
async fn px_09_px_21_behind_a_recipe_rules_look_at_the_path_alone_and_at_the_true_method() {
    each(|stage| async move {
        let overrides = "x-http-method-override: GET\r\nx-original-method: GET\r\nx-original-uri: /pub/x\r\nx-forwarded-method: GET\r\n\
             x-forwarded-uri: /pub/x\r\nx-original-url: /pub/x\r\ncontent-length: 0\r\n";
        for (line, expected) in [
            ("GET /in/x?x=/pub/x", 401),
            ("GET /in/x?/pub/", 401),
            ("GET /in", 401),
            ("GET /publicx", 403),
            ("GET /PUB/x", 403),
            ("POST /get/x", 403),
            ("DELETE /get/x", 403),
        ] {
            let answer = stage.ask(line, overrides).await;
            assert_eq!(status(&answer), expected, "{:?} {line}: {answer}", stage.kind);
            stage.app.assert_silent(line);
        }
        assert_eq!(status(&stage.ask("HEAD /get/x", "").await), 200, "{:?}: HEAD follows GET", stage.kind);
        stage.app.forget();
        let host = format!("GET /pub/x HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\nx-forwarded-host: {}\r\n\r\n", stage.host());
        let mut wire = stage.wire().await;
        wire.send(host).await;
        let answer = String::from_utf8_lossy(&wire.rest().await).into_owned();
        // Caddy answers itself, with nothing, for a site that it does not know.
        assert!(status(&answer) == 403 || answer.to_lowercase().contains("content-length: 0"), "{:?}: {answer}", stage.kind);
        stage.app.assert_silent("another host");
    })
    .await;
}

/// Who may ask for another reads what only the app should get: an access token.
async fn closed(stage: &Stage, cookie: &str) {
    for place in [
        "/auth/check",
        "/auth/check?redirect",
        "/auth/check/",
        "/auth/check/token/x",
        "/auth/%63heck",
        "/auth/%63heck/token/x",
        "/auth//check",
        "//auth/check",
        "/auth/./check",
        "/auth/x/../check",
        "/auth/check/../check/token/x",
        "/auth/check%2ftoken/x",
        "/auth/check;/token/x",
        "/auth/check%3b",
        "/AUTH/check",
        "/auth/Check",
    ] {
        for told in [
            "",
            "x-original-method: GET\r\nx-original-uri: /token/x\r\n",
            &format!(
                "x-forwarded-method: GET\r\nx-forwarded-uri: /token/x\r\nx-forwarded-proto: http\r\nx-forwarded-host: {}\r\n",
                stage.host()
            ),
        ] {
            let answer = stage.ask(&format!("GET {place}"), &format!("{cookie}{told}")).await.to_lowercase();
            let case = format!("{:?} {place} {told}: {answer}", stage.kind);
            assert!(matches!(status(&answer), 400 | 403 | 404), "{case}");
            assert!(!answer.contains("x-auth-") && !answer.contains("authorization"), "{case}");
        }
    }
}

#[tokio::test]
async fn px_07_px_21_the_proxys_question_cannot_be_asked_by_a_visitor() {
    each(|stage| async move {
        let cookie = cookie_line(&signed_in(&stage.house).await);
        closed(&stage, &cookie).await;
    })
    .await;
}
