//! The recipes of `deploy/`: a real nginx and a real Caddy ask Doorward, and send on to an app that is a spy. Traefik's and Envoy's are read only.

mod bodies;
mod hostile;
mod recipes;
pub mod stage;

use self::stage::{Stage, each};
use crate::proxy::stage::{body, cookie_line, status};
use crate::security::signed_in;

/// A person follows a link, signs in, and comes back to where they wanted to go, with every part of the address.
async fn a_login(stage: &Stage) {
    let browser = stage.house.browser();
    let page = browser.sign_in("/in/x?a=1&b=%2F&c=d%20e").await;
    assert_eq!((page.status, page.text().as_str()), (200, "hello"), "{} {}", page.url, page.text());
    assert_eq!(page.url.as_str(), format!("{}/in/x?a=1&b=%2F&c=d%20e", stage.house.url));
    assert!(page.header("x-auth-user").is_none(), "what the app reads is not the visitor's");
    let seen = stage.app.last();
    assert_eq!(stage.app.seen().len(), 1, "the app was called once the person was known");
    assert_eq!(seen.target(), "/in/x?a=1&b=%2F&c=d%20e");
    assert_eq!((seen.one("x-auth-user"), seen.one("x-auth-subject")), (Some("alice"), Some("alice")));
    assert_eq!(seen.one("x-auth-provider"), Some("op"));
    assert_eq!(
        (seen.one("x-auth-email"), seen.one("x-auth-name")),
        (Some("alice@example.test"), Some("alice%20Tester"))
    );
    assert_eq!((seen.one("host"), seen.one("x-forwarded-host")), (Some(stage.host()), Some(stage.host())));
    assert_eq!(
        (seen.one("x-forwarded-for"), seen.one("x-forwarded-proto")),
        (Some("127.0.0.1"), Some("http"))
    );
    assert_eq!(seen.one("x-real-ip"), Some("127.0.0.1"));
    let key = browser.cookie("doorward").expect("signed in");
    assert!(!seen.head.contains(&key), "the session's key is not the app's: {}", seen.head);
    let account = browser.navigate("/auth/account").await;
    assert_eq!(account.status, 200, "our own pages go by");
}

#[tokio::test]
async fn px_21_a_person_signs_in_through_nginx_and_through_caddy_and_comes_back() {
    each(|stage| async move { a_login(&stage).await }).await;
}

#[tokio::test]
async fn px_21_nobody_passes_and_each_kind_of_visitor_is_told_in_its_own_way() {
    each(|stage| async move {
        let case = stage.kind;
        let person = stage
            .ask("GET /in/x?y=z&prompt=login", "accept: text/html\r\nsec-fetch-mode: navigate\r\n")
            .await;
        assert_eq!(status(&person), 303, "{case:?} {person}");
        let to = format!(
            "location: {}/auth/login?return_to=%2fin%2fx%3fy%3dz%26prompt%3dlogin\r\n",
            stage.house.url
        );
        assert!(person.to_lowercase().contains(&to.to_lowercase()), "{case:?} {person}");
        for (line, headers) in [
            ("GET /in/x", ""),
            ("GET /in/x", "accept: text/html\r\nsec-fetch-mode: cors\r\n"),
            ("GET /in/x", "accept: text/html\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: iframe\r\n"),
            ("POST /in/x", "accept: text/html\r\nsec-fetch-mode: navigate\r\ncontent-length: 3\r\n\r\nabc"),
            ("GET /in/x", "cookie: doorward=planted\r\n"),
        ] {
            let answer = stage.ask(line, headers).await;
            assert_eq!(status(&answer), 401, "{case:?} {line} {headers}: {answer}");
            assert!(answer.contains("not_signed_in"), "{case:?} {answer}");
            assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{case:?} {answer}");
            assert!(!answer.to_lowercase().contains("set-cookie"), "{case:?} {answer}");
        }
        for (line, code) in [
            ("GET /nowhere", "no_route"),
            ("POST /get/x", "method_not_allowed"),
            ("GET /pub/a;b", "invalid_request"),
        ] {
            let answer = stage.ask(line, "content-length: 0\r\n").await;
            assert_eq!(status(&answer), 403, "{case:?} {line}: {answer}");
            assert!(
                answer.to_lowercase().contains(&format!("x-doorward-code: {code}\r\n")),
                "{case:?} {line}: {answer}"
            );
        }
        stage.app.assert_silent("nobody");
        let open = stage.ask("GET /pub/x", "").await;
        assert_eq!((status(&open), body(&open)), (200, "hello"), "{case:?}");
        let user = stage.app.last().one("x-auth-user").unwrap_or_default().to_owned();
        assert_eq!(user, "", "{case:?}: nobody has no name");
    })
    .await;
}

#[tokio::test]
async fn px_21_a_session_that_ended_elsewhere_opens_nothing_with_the_next_request() {
    each(|stage| async move {
        // The whole stage must stay, with the proxy that is never named below.
        let stage = &stage;
        let (here, elsewhere) = (signed_in(&stage.house).await, signed_in(&stage.house).await);
        assert_eq!(here.get("/in/x").await.status, 200, "{:?}", stage.kind);
        assert_eq!(here.get("/admins/x").await.status, 403, "{:?}", stage.kind);
        assert_eq!(elsewhere.delete("/auth/sessions?all=true").await.status, 204, "{:?}", stage.kind);
        stage.app.forget();
        assert_eq!(here.get("/in/x").await.status, 401, "{:?}", stage.kind);
        assert_eq!(elsewhere.get("/in/x").await.status, 401, "{:?}", stage.kind);
        stage.app.assert_silent("ended elsewhere");
    })
    .await;
}

#[tokio::test]
async fn px_11_px_21_a_database_that_is_down_lets_nobody_in() {
    each(|stage| async move {
        let cookie = cookie_line(&signed_in(&stage.house).await);
        stage.app.forget();
        stage.house.rewrite("ALTER TABLE sessions RENAME TO hidden").await;
        let answer = stage.ask("GET /in/x", &cookie).await;
        assert_eq!(status(&answer), 403, "{:?} {answer}", stage.kind);
        stage.app.assert_silent("no table");
        assert_eq!(status(&stage.ask("GET /pub/x", &cookie).await), 200, "{:?}", stage.kind);
    })
    .await;
}
