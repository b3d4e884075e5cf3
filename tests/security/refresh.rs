//! Chapter 8: what a provider may answer to a refresh, and what that does to a session.

use std::time::Duration;

use doorward::error::Error;
use doorward::flows::refresh;
use doorward::store::sessions;
use serde_json::{Map, Value, json};

use super::{events, is_signed_in, keep_time, sets_session, signed_in};
use crate::house::browser::{Browser, Page};
use crate::house::databases::on_each_database;
use crate::house::home::TestHouse;
use crate::house::op::{Answer, Gate, ScriptedOp};
use crate::refresh::{generation, held, only_session, plain};

/// Longer than the honest provider's access tokens live.
const OVER: Duration = Duration::from_secs(301);

async fn stage() -> (ScriptedOp, TestHouse, Browser) {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    keep_time(&op, &house);
    let browser = signed_in(&house).await;
    op.clear();
    (op, house, browser)
}

fn door(browser: &Browser, house: &TestHouse) -> Browser {
    let twin = Browser::new(&house.url);
    twin.set_cookie("doorward", &browser.cookie("doorward").unwrap());
    twin
}

fn statuses(pages: &[Page]) -> Vec<u16> {
    pages.iter().map(|page| page.status).collect()
}

async fn reasons(house: &TestHouse) -> Vec<String> {
    house.database.texts("SELECT reason FROM audit_log WHERE event = 'session.ended'").await
}

async fn session_row(house: &TestHouse) -> doorward::domain::Session {
    let id = only_session(house).await;
    sessions::find(&mut house.app().store.reader().await.unwrap(), &id).await.unwrap().unwrap()
}

on_each_database! {
    async fn rt_01_parallel_requests_on_two_replicas_at_expiry_make_one_refresh(db: Database) {
        let op = ScriptedOp::start().await;
        let one = TestHouse::with_op(&op).database(&db).open().await;
        let two = TestHouse::with_op(&op).database(&db).clock(&one.clock).folder(&one.folder).open().await;
        keep_time(&op, &one);
        let here = signed_in(&one).await;
        let there = door(&here, &two);
        for round in 2..=4 {
            one.clock.advance(OVER);
            op.clear();
            let asked = (0..50).map(|n| if n % 2 == 0 { here.get("/protected") } else { there.get("/protected") });
            let pages = futures_util::future::join_all(asked).await;
            assert_eq!(statuses(&pages), [200; 50], "round {round}");
            assert_eq!((op.count("/token"), generation(&one).await), (1, round));
        }
        assert!(reasons(&one).await.is_empty());
    }

    async fn rt_01_while_the_token_lives_nobody_but_the_winner_waits(db: Database) {
        let op = ScriptedOp::start().await;
        let one = TestHouse::with_op(&op).database(&db).open().await;
        let two = TestHouse::with_op(&op).database(&db).clock(&one.clock).folder(&one.folder).open().await;
        keep_time(&op, &one);
        let here = signed_in(&one).await;
        let there = door(&here, &two);
        let gate = Gate::closed();
        op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
        one.clock.advance(Duration::from_secs(250));
        let winner = tokio::spawn({
            let here = here.clone();
            async move { here.get("/protected").await.status }
        });
        gate.arrived(1).await;
        let others = [here.get("/protected").await, there.get("/protected").await, here.get_json("/auth/me").await];
        assert_eq!(statuses(&others), [200; 3], "they go on with the token that lives");
        assert!(!winner.is_finished());
        gate.open();
        assert_eq!(winner.await.unwrap(), 200);
        assert_eq!((gate.count(), generation(&one).await), (1, 2));
    }

    async fn se_06_a_refresh_under_way_does_not_bring_back_a_session_that_ends_meanwhile(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let browser = signed_in(&house).await;
        let id = only_session(&house).await;
        let first = plain(held(&house, &id).await.refresh.as_ref());
        let gate = Gate::closed();
        op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
        house.clock.advance(OVER);
        let asking = tokio::spawn({
            let browser = door(&browser, &house);
            async move { browser.get("/protected").await }
        });
        gate.arrived(1).await;
        // The logout's own look at the session waits for the refresh as well; the row is ended from elsewhere.
        let now = house.app().now_ms();
        let mut writer = house.app().store.writer().await.unwrap();
        assert!(sessions::end(&mut writer, &id, now).await.unwrap());
        writer.commit().await.unwrap();
        gate.open();
        let page = asking.await.unwrap();
        assert_eq!(page.status, 401);
        assert!(!sets_session(&page));
        assert_eq!(house.live_sessions().await, 0);
        let left = "SELECT count(*) FROM sessions WHERE refresh_token IS NOT NULL OR access_token IS NOT NULL";
        assert_eq!(db.number(left).await, 0);
        // What was handed out in vain is given back.
        let revoked = op.requests_to("/revoke");
        assert_eq!(revoked.len(), 1);
        assert_ne!(revoked[0].form("token").unwrap(), first);
    }

    async fn rt_05_invalid_grant_ends_this_session_once_and_no_other(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let browser = signed_in(&house).await;
        let other = signed_in(&house).await;
        house.clock.advance(OVER);
        op.clear();
        op.script(|s| s.next("/token", Answer::error(400, "invalid_grant")));
        let pages = futures_util::future::join_all((0..20).map(|_| browser.get("/protected"))).await;
        assert_eq!(statuses(&pages), [401; 20]);
        assert_eq!(op.count("/token"), 1, "a refusal is not asked for twice");
        assert_eq!(reasons(&house).await, ["refresh_refused"]);
        assert!(is_signed_in(&other).await);
        assert_eq!(house.live_sessions().await, 1);
        let again = browser.sign_in("/protected").await;
        assert_eq!((again.status, again.url.path()), (200, "/protected"), "signing in again is all it takes");
    }
}

on_each_database! {
    async fn rt_02_a_database_that_is_away_when_the_tokens_come_costs_nobody_their_session(db: Database) {
        let op = ScriptedOp::start().await;
        let house = TestHouse::with_op(&op).database(&db).open().await;
        keep_time(&op, &house);
        let browser = signed_in(&house).await;
        let gate = Gate::closed();
        op.script(|s| drop(s.hold_answer.insert("/token".into(), gate.clone())));
        house.clock.advance(OVER);
        let asking = tokio::spawn({
            let browser = browser.clone();
            async move { browser.get("/protected").await.status }
        });
        gate.arrived(1).await;
        db.execute("ALTER TABLE sessions RENAME TO away").await;
        gate.open();
        let calls = async {
            // Long enough for a try or two to fail.
            tokio::time::sleep(Duration::from_millis(800)).await;
            db.execute("ALTER TABLE away RENAME TO sessions").await;
        };
        let (status, ()) = tokio::join!(asking, calls);
        assert_eq!(status.unwrap(), 200);
        assert_eq!(generation(&house).await, 2);
        house.clock.advance(OVER);
        assert_eq!(browser.get("/protected").await.status, 200, "the new refresh token is the good one");
        assert_eq!(generation(&house).await, 3);
    }
}

type Change = fn(&mut Map<String, Value>);

#[tokio::test]
async fn rt_03_a_refresh_token_or_id_token_that_is_not_sent_again_stays() {
    let (op, house, browser) = stage().await;
    let id = only_session(&house).await;
    let mut before = held(&house, &id).await;
    op.script(|s| {
        s.rotate_refresh = false;
        s.id_token_at_refresh = false;
    });
    for round in 2..=3 {
        house.clock.advance(OVER);
        assert_eq!(browser.get("/protected").await.status, 200);
        let after = held(&house, &id).await;
        assert_eq!(generation(&house).await, round);
        assert_eq!(plain(before.refresh.as_ref()), plain(after.refresh.as_ref()));
        assert_eq!(plain(before.id.as_ref()), plain(after.id.as_ref()));
        assert_ne!(plain(before.access.as_ref()), plain(after.access.as_ref()));
        before = after;
    }
    op.script(|s| {
        s.rotate_refresh = true;
        s.id_token_at_refresh = true;
        s.token_response(|body| drop(body.remove("scope")));
    });
    house.clock.advance(OVER);
    assert_eq!(browser.get("/protected").await.status, 200);
    let after = held(&house, &id).await;
    assert_ne!(plain(before.refresh.as_ref()), plain(after.refresh.as_ref()));
    assert_ne!(plain(before.id.as_ref()), plain(after.id.as_ref()));
    assert_eq!(before.scope, after.scope, "absent means as before");
    assert!(
        browser.post_form("/auth/logout", &[]).await.location().unwrap().as_str().contains("id_token_hint=")
    );
}

#[tokio::test]
async fn rt_04_an_id_token_of_another_login_ends_the_session() {
    let changes: [(&str, &str, Change); 8] = [
        ("sub", "id_token_sub", |c| drop(c.insert("sub".into(), "mallory".into()))),
        ("no sub", "id_token_sub", |c| drop(c.remove("sub"))),
        ("iss", "id_token_iss", |c| drop(c.insert("iss".into(), "https://evil.example".into()))),
        ("aud", "id_token_aud", |c| drop(c.insert("aud".into(), "another".into()))),
        ("more aud", "id_token_aud", |c| drop(c.insert("aud".into(), json!(["doorward", "another"])))),
        ("azp", "id_token_azp", |c| drop(c.insert("azp".into(), "another".into()))),
        ("auth_time", "id_token_auth_time", |c| {
            let later = c["auth_time"].as_i64().unwrap() + 1;
            c.insert("auth_time".into(), later.into());
        }),
        ("nonce", "id_token_nonce", |c| drop(c.insert("nonce".into(), "another".into()))),
    ];
    let cases = changes.map(|(case, reason, change)| async move {
        let (op, house, browser) = stage().await;
        let other = signed_in(&house).await;
        op.script(|s| s.claims(change));
        house.clock.advance(OVER);
        assert_eq!(browser.get("/protected").await.status, 401, "{case}");
        assert_eq!(browser.get("/protected").await.status, 401, "{case}");
        assert_eq!(reasons(&house).await, [reason], "{case}");
        assert_eq!(house.live_sessions().await, 1, "{case}");
        op.script(|s| s.claims(|_| {}));
        assert!(is_signed_in(&other).await, "{case}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn rt_04_the_logins_own_nonce_may_come_again_and_a_forged_token_may_not() {
    let (op, house, browser) = stage().await;
    let id = only_session(&house).await;
    let first = plain(held(&house, &id).await.id.as_ref());
    let payload = doorward::providers::oidc::jws::Jws::read(&first).unwrap().claims;
    let nonce = payload["nonce"].clone();
    op.script(|s| s.claims(move |claims| drop(claims.insert("nonce".into(), nonce.clone()))));
    house.clock.advance(OVER);
    assert_eq!(browser.get("/protected").await.status, 200);
    assert_eq!(generation(&house).await, 2);
    op.script(|s| {
        s.raw_id_token(|minted| {
            let mut forged = minted.token.clone();
            forged.truncate(forged.len() - 8);
            forged + "AAAAAAAA"
        });
    });
    house.clock.advance(OVER);
    assert_eq!(browser.get("/protected").await.status, 401);
    assert_eq!(house.live_sessions().await, 0);
}

#[tokio::test]
async fn rt_05_incidents_log_nobody_out_and_are_not_asked_about_again_and_again() {
    let html = Answer::text(200, "text/html", "<html>sorry</html>");
    let cases = [
        ("500", Answer::text(500, "text/html", "oops"), 3),
        ("503 that says invalid_grant", Answer::error(503, "invalid_grant"), 3),
        ("429", Answer::error(429, "slow_down"), 3),
        ("a page", html, 3),
        ("an empty object", Answer::json(200, &json!({})), 3),
        ("another token type", Answer::json(200, &json!({"access_token": "a", "token_type": "mac"})), 3),
        ("a redirect", Answer::Redirect(302, "https://evil.example/".into()), 3),
        ("half an answer", Answer::Truncated("application/json", b"{\"access".to_vec()), 3),
        ("no answer", Answer::Close, 3),
        ("temporarily_unavailable", Answer::error(400, "temporarily_unavailable"), 3),
        ("invalid_client", Answer::error(401, "invalid_client"), 1),
        ("unauthorized_client", Answer::error(400, "unauthorized_client"), 1),
        ("invalid_request", Answer::error(400, "invalid_request"), 1),
        ("access_denied", Answer::error(403, "access_denied"), 1),
        ("an error of its own", Answer::error(400, "INVALID_GRANT"), 1),
    ];
    let stories = cases.map(|(case, answer, calls)| async move {
        let (op, house, browser) = stage().await;
        op.script(|s| s.answer("/token", answer));
        house.clock.advance(Duration::from_secs(250));
        assert_eq!(browser.get("/protected").await.status, 200, "{case}: the token still lives");
        assert_eq!(op.count("/token"), calls, "{case}");
        assert_eq!(browser.get("/protected").await.status, 200, "{case}");
        assert_eq!(op.count("/token"), calls, "{case}: the session pauses");
        house.clock.advance(OVER);
        assert_eq!(browser.get("/protected").await.status, 200, "{case}: a session lives by its own limits");
        let failures = house.database.number("SELECT refresh_failures FROM sessions").await;
        assert_eq!((failures, reasons(&house).await.len()), (2, 0), "{case}");
        op.script(|s| s.answer("/token", Answer::Normal));
        house.clock.advance(Duration::from_secs(2));
        assert_eq!(browser.get("/protected").await.status, 200, "{case}");
        assert_eq!(generation(&house).await, 2, "{case}: it recovers by itself");
        assert_eq!(house.database.number("SELECT refresh_failures FROM sessions").await, 0, "{case}");
    });
    futures_util::future::join_all(stories).await;
}

#[tokio::test]
async fn rt_05_keys_that_cannot_be_had_log_nobody_out_and_their_id_token_is_not_kept() {
    for lagging in [false, true] {
        let (op, house, browser) = stage().await;
        let id = only_session(&house).await;
        let before = held(&house, &id).await;
        op.script(|s| {
            let known = s.published.clone();
            s.rotate_key();
            if lagging {
                s.published = known;
            } else {
                s.answer("/jwks", Answer::text(503, "text/html", "later"));
            }
        });
        house.clock.advance(OVER);
        assert_eq!(browser.get("/protected").await.status, 200, "lagging: {lagging}");
        let after = held(&house, &id).await;
        assert_ne!(plain(before.refresh.as_ref()), plain(after.refresh.as_ref()));
        assert_eq!(plain(before.id.as_ref()), plain(after.id.as_ref()), "the old one was verified");
        assert_eq!(op.count("/token"), 1, "and the spent token is not sent again");
    }
}

#[tokio::test]
async fn rt_05_pauses_grow_to_half_a_minute() {
    let (op, house, browser) = stage().await;
    op.script(|s| s.answer("/token", Answer::error(401, "invalid_client")));
    house.clock.stand_at(house.app().now_ms() + 400_000);
    for (n, pause) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
        op.clear();
        assert_eq!(browser.get("/protected").await.status, 200);
        assert_eq!(op.count("/token"), 1, "try {n}");
        house.clock.advance(Duration::from_millis(pause * 1000 - 1));
        assert_eq!(browser.get("/protected").await.status, 200);
        assert_eq!(op.count("/token"), 1, "pause {n}");
        house.clock.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn rt_05_a_refusal_after_a_lost_answer_is_told_apart() {
    let (op, house, browser) = stage().await;
    op.script(|s| {
        s.next("/token", Answer::Close);
        s.next("/token", Answer::error(400, "invalid_grant"));
    });
    house.clock.advance(OVER);
    assert_eq!(browser.get("/protected").await.status, 401);
    assert_eq!(reasons(&house).await, ["refresh_lost_response"]);
    assert_eq!(op.count("/token"), 2);
}

#[tokio::test]
async fn rt_06_an_access_token_that_is_over_is_never_handed_on() {
    let (op, house, browser) = stage().await;
    let app = house.app();
    let row = session_row(&house).await;
    assert_eq!(
        plain(Some(&refresh::access_token(&app, &row.id).await.unwrap())),
        plain(held(&house, &row.id).await.access.as_ref())
    );
    op.stop().await;
    house.clock.advance(OVER);
    let error = refresh::access_token(&app, &row.id).await.unwrap_err();
    assert!(matches!(error, Error::ProviderDown(_)), "{error}");
    assert_eq!(browser.get("/protected").await.status, 200, "the page itself needs no token");
    op.start_again().await;
    house.clock.advance(Duration::from_secs(2));
    assert_eq!(browser.get("/protected").await.status, 200);
    assert!(refresh::access_token(&app, &row.id).await.is_ok());
    house.rewrite("UPDATE sessions SET refresh_token = NULL").await;
    house.clock.advance(OVER);
    assert!(matches!(refresh::access_token(&app, &row.id).await.unwrap_err(), Error::NotSignedIn));
    assert_eq!(browser.get("/protected").await.status, 200);
}

#[tokio::test]
async fn rt_07_tokens_that_live_a_moment_or_for_ever_do_not_spin() {
    for (life_s, most_in_ten_s) in [(0, 11), (1, 11), (30, 1), (1_000_000_000, 0)] {
        let op = ScriptedOp::start().await;
        op.script(|s| {
            s.token_life_s = life_s;
            s.claims(|claims| {
                let iat = claims["iat"].as_i64().unwrap();
                claims.insert("exp".into(), (iat + 300).into());
            });
        });
        let house = TestHouse::with_op(&op).open().await;
        keep_time(&op, &house);
        let browser = signed_in(&house).await;
        house.clock.stand_at(house.app().now_ms());
        op.clear();
        for _ in 0..20 {
            for _ in 0..3 {
                assert_eq!(browser.get("/protected").await.status, 200);
            }
            house.clock.advance(Duration::from_millis(500));
        }
        assert!(op.count("/token") <= most_in_ten_s, "{life_s}: {}", op.count("/token"));
        assert_eq!(house.live_sessions().await, 1);
    }
}

#[tokio::test]
async fn rt_08_renewed_tokens_are_nowhere_but_sealed_in_the_row() {
    let (_op, house, browser) = stage().await;
    house.clock.advance(OVER);
    let mut seen = Vec::new();
    for path in ["/protected", "/auth/me", "/auth/sessions", "/auth/account"] {
        let page = browser.get_json(path).await;
        assert_eq!(page.status, 200, "{path}");
        seen.push(format!("{:?} {}", page.headers, page.text()));
    }
    assert_eq!(generation(&house).await, 2);
    let tokens = held(&house, &only_session(&house).await).await;
    let dump = house.database.dump().await;
    for token in [&tokens.access, &tokens.refresh, &tokens.id] {
        let token = plain(token.as_ref());
        assert!(!seen.iter().any(|page| page.contains(&token)));
        assert!(!dump.windows(token.len()).any(|window| window == token.as_bytes()));
    }
}

#[tokio::test]
async fn rt_10_fewer_scopes_are_what_the_session_has_from_then_on() {
    let (op, house, browser) = stage().await;
    assert_eq!(session_row(&house).await.scope.as_deref(), Some("openid email profile"));
    op.script(|s| s.token_response(|body| drop(body.insert("scope".into(), "openid".into()))));
    house.clock.advance(OVER);
    assert_eq!(browser.get("/protected").await.status, 200);
    assert_eq!(session_row(&house).await.scope.as_deref(), Some("openid"));
}

#[tokio::test]
async fn a_session_that_must_prove_itself_asks_at_its_next_use() {
    let mark = "UPDATE sessions SET must_prove = TRUE";
    for with_refresh_token in [true, false] {
        let (op, house, browser) = stage().await;
        let endpoint = if with_refresh_token { "/token" } else { "/userinfo" };
        if !with_refresh_token {
            house.rewrite("UPDATE sessions SET refresh_token = NULL").await;
        }
        let case = format!("by {endpoint}");
        house.rewrite(mark).await;
        assert_eq!(browser.get("/protected").await.status, 200, "{case}");
        assert_eq!(op.count(endpoint), 1, "{case}");
        assert_eq!(browser.get("/protected").await.status, 200, "{case}");
        assert_eq!(op.count(endpoint), 1, "{case}: proven once");

        // Nobody is let in on a guess, and nobody is sent away for the provider's trouble.
        house.rewrite(mark).await;
        op.script(|s| s.answer(endpoint, Answer::text(503, "text/html", "later")));
        for page in [browser.get("/protected").await, browser.get_json("/auth/me").await] {
            assert_eq!(page.status, 503, "{case}");
            assert_eq!(page.json()["code"], "provider_unavailable", "{case}");
            assert!(page.set_cookies().is_empty(), "{case}");
        }
        assert_eq!(browser.navigate("/").await.status, 200, "{case}: a public page needs nobody");
        assert_eq!(house.live_sessions().await, 1, "{case}");
        op.script(|s| s.answer(endpoint, Answer::Normal));
        house.clock.advance(Duration::from_secs(2));
        assert_eq!(browser.get("/protected").await.status, 200, "{case}");

        house.rewrite(mark).await;
        op.revoke_all_grants();
        assert_eq!(browser.get("/protected").await.status, 401, "{case}");
        assert_eq!(house.live_sessions().await, 0, "{case}");
        assert_eq!(reasons(&house).await, ["refresh_refused"], "{case}");
    }
}

#[tokio::test]
async fn a_session_that_cannot_prove_itself_now_can_still_be_left() {
    let (op, house, browser) = stage().await;
    house.rewrite("UPDATE sessions SET must_prove = TRUE").await;
    op.script(|s| s.answer("/token", Answer::error(401, "invalid_client")));
    assert_eq!(browser.get_json("/auth/me").await.status, 503);
    let left = browser.post_form("/auth/logout", &[]).await;
    assert_eq!(left.status, 303);
    assert_eq!(house.live_sessions().await, 0);
    assert_eq!(events(&house, "logout").await, 1);
}
