//! Chapter 14 where no other test keeps it: which events there are, what each of them tells, and that a flood of refusals stays small.

use std::time::Duration;

use super::{signed_in, signed_in_as};
use crate::house::browser::Browser;
use crate::house::databases::{Database, on_each_database};
use crate::house::home::TestHouse;
use crate::house::op::{Answer, Person, ScriptedOp, mint};

/// `event outcome reason` of everything recorded, each once, sorted.
async fn kinds(db: &Database) -> Vec<String> {
    db.texts(
        "SELECT DISTINCT event || ' ' || outcome || ' ' || COALESCE(reason, '') FROM audit_log ORDER BY 1",
    )
    .await
}

on_each_database! {
    async fn lg_04_what_is_done_and_what_is_refused_is_recorded_with_its_reason(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let guest = signed_in(&house).await;
        let twin = signed_in(&house).await;
        guest.delete("/auth/sessions").await;
        drop(twin);
        guest.post_form_from("https://evil.example/", "/auth/logout", &[]).await;
        guest.post_form("/auth/logout", &[]).await;
        op.script(|s| s.next("/token", Answer::error(400, "invalid_grant")));
        house.browser().sign_in("/auth/login").await;
        op.script(|s| s.raw_id_token(|minted| mint::flip_bit(&minted.token, 2, 9)));
        house.browser().sign_in("/auth/login").await;
        op.script(|s| s.raw_id_token(|minted| minted.token.clone()));
        op.script(|s| s.deny("access_denied"));
        house.browser().sign_in("/auth/login").await;
        let program = house.browser().with_header("authorization", "Bearer dw_x");
        program.delete("/auth/admin/api/sessions/x").await;
        let kinds = kinds(&db).await;
        for wanted in [
            "apikey.refused refused api_key_malformed",
            "login success ",
            "login.failed refused code_refused",
            "login.failed refused login_cancelled",
            "logout success ",
            "request.refused refused csrf",
            "server.started success ",
            "session.revoked success ",
            "user.created success ",
        ] {
            assert!(kinds.iter().any(|kind| kind == wanted), "{wanted:?} is not among {kinds:#?}");
        }
        assert!(kinds.iter().any(|kind| kind.contains("signature")), "{kinds:#?}");
    }

    async fn lg_05_each_event_has_its_time_id_request_address_and_session_and_none_a_secret(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        let guest = signed_in_as(&house, &op, Person::named("alice")).await;
        let cookie = guest.cookie("doorward").unwrap();
        let handle = guest.get_json("/auth/me").await.json()["session"]["id"].as_str().unwrap().to_owned();
        op.script(|s| s.deny("access_denied"));
        let refused = house.browser().sign_in("/auth/login").await;
        let number = |sql: &str| {
            let sql = format!("SELECT count(*) FROM audit_log WHERE {sql}");
            let db = &house.database;
            async move { db.number(&sql).await }
        };
        let now_ms = house.app().now_ms();
        let all = number("true").await;
        assert_eq!(number(&format!("at BETWEEN {} AND {now_ms}", now_ms - 60_000)).await, all, "Unix ms, UTC");
        assert_eq!(number("length(id) = 22").await, all);
        assert_eq!(number("event <> 'server.started' AND provider IS NULL").await, 0);
        assert_eq!(number("outcome NOT IN ('success', 'refused', 'failed')").await, 0);
        assert_eq!(number("(outcome = 'success') <> (reason IS NULL)").await, 0, "who refuses says why");
        let login = format!("event = 'login' AND user_id = 'alice' AND session_ref = '{handle}' AND provider = 'op'");
        assert_eq!(number(&login).await, 1);
        let id = refused.header("x-request-id").unwrap();
        assert_eq!(number(&format!("request_id = '{id}' AND reason = 'login_cancelled'")).await, 1);
        let ids = db.texts("SELECT DISTINCT id FROM audit_log").await;
        assert_eq!(i64::try_from(ids.len()).unwrap(), all);
        let told = db.texts("SELECT COALESCE(session_ref, '') || detail || COALESCE(user_id, '') FROM audit_log").await;
        let key = &cookie[cookie.len() - 43..];
        assert!(told.iter().all(|text| !text.contains(key) && !text.contains("eyJ")), "{told:?}");
        // What is refused before a handler sees it knows who asked as well.
        guest.post_form_from("https://evil.example/", "/auth/logout", &[]).await;
        let twice = format!("doorward={cookie}; doorward={cookie}");
        house.browser().with_header("cookie", &twice).get_json("/auth/me").await;
        house.browser().with_header("cookie", &twice).get_json("/protected").await;
        assert_eq!(number("reason IN ('csrf', 'cookie_doubled')").await, 3);
        let nameless = "event <> 'server.started' AND (length(coalesce(request_id, '')) <> 22 OR address IS NULL)";
        assert_eq!(number(nameless).await, 0);
    }

    async fn lg_04_a_flood_of_refusals_leaves_sixty_rows_a_minute_and_then_its_count(db: Database) {
        let house = TestHouse::plan().database(&db).open().await;
        house.clock.stand_at(1_900_000_000_000 - 1_900_000_000_000 % 60_000);
        let stranger = house.browser();
        for _ in 0..100 {
            assert_eq!(stranger.get("/auth/callback/dev?code=x&state=y").await.status, 400);
        }
        let refused = "SELECT count(*) FROM audit_log WHERE event = 'login.failed'";
        assert_eq!(house.database.number(refused).await, 60);
        house.clock.advance(Duration::from_mins(1));
        stranger.get("/auth/callback/dev?code=x&state=y").await;
        let counted = house.database.texts("SELECT detail FROM audit_log WHERE event = 'refusals.counted'").await;
        assert_eq!(counted, ["{\"count\":40}"]);
        assert_eq!(house.database.number(refused).await, 61);
    }
}

#[tokio::test]
async fn lg_03_a_visitor_s_words_stay_one_value_in_one_row() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let hostile = "x\"}\u{9b}31m{\"event\":\"login\",\"outcome\":\"success";
    op.script(|s| {
        s.person = Person::named("mallory").with("name", hostile).with("preferred_username", "a\r\nb");
    });
    let guest = house.browser().with_header("user-agent", "\"}{\"event\":\"login\" \t evil");
    let page = guest.sign_in("/auth/login?return_to=/protected").await;
    assert!(page.status == 200 || page.status == 400, "{}", page.text());
    let rows = house.database.texts("SELECT detail FROM audit_log").await;
    for row in rows {
        let detail: serde_json::Value = serde_json::from_str(&row).unwrap_or_else(|e| panic!("{e}: {row}"));
        assert!(detail.is_object() && !row.contains(['\r', '\n']), "{row}");
    }
    let forged = house.database.number("SELECT count(*) FROM audit_log WHERE user_id <> 'mallory'").await;
    assert_eq!(forged, 0);
    assert_eq!(Browser::new(&house.operations).get("/healthz").await.status, 200);
}
