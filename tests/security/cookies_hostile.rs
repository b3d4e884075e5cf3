//! Chapter 5: what others put into the Cookie header.

use super::{assert_rejected, is_signed_in, me, sets_session, signed_in, signed_in_as};
use crate::house::browser::raw;
use crate::house::home::TestHouse;
use crate::house::op::{Person, ScriptedOp};

#[tokio::test]
async fn ck_05_two_cookies_of_our_name_are_no_session_in_either_order() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let owner = signed_in(&house).await;
    let good = owner.cookie("doorward").unwrap();
    let twin = signed_in(&house).await.cookie("doorward").unwrap();
    for cookies in [
        format!("doorward={good}; doorward=planted"),
        format!("doorward=planted; doorward={good}"),
        format!("doorward={good}; doorward={good}"),
        format!("doorward={good}; doorward={twin}"),
        format!("doorward={good}; x=1; doorward="),
        format!("doorward=; doorward={good}"),
        format!("doorward={good};doorward={twin}"),
        format!("doorward ={good}; doorward={twin}"),
    ] {
        let sender = house.browser().with_header("cookie", &cookies);
        for (path, status) in [("/auth/me", 401), ("/auth/sessions", 401), ("/protected", 401)] {
            let page = sender.get_json(path).await;
            assert_eq!(page.status, status, "{path} {cookies}: {}", page.text());
            assert!(!sets_session(&page), "{path} {cookies}");
            assert_eq!(house.refusals("cookie_doubled").await, 1, "{path} {cookies}");
            house.database.execute("DELETE FROM audit_log WHERE outcome = 'refused'").await;
        }
        assert_eq!(sender.post_form("/auth/logout", &[]).await.status, 303, "{cookies}");
        house.database.execute("DELETE FROM audit_log WHERE outcome = 'refused'").await;
        assert!(is_signed_in(&owner).await, "nobody was signed out by it: {cookies}");
    }
}

#[tokio::test]
async fn ck_05_two_cookie_headers_are_one() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let good = signed_in(&house).await.cookie("doorward").unwrap();
    for (one, two) in [(good.as_str(), "planted"), ("planted", good.as_str())] {
        let host = house.url.trim_start_matches("http://");
        let request = format!(
            "GET /auth/me HTTP/1.1\r\nHost: {host}\r\nCookie: doorward={one}\r\nCookie: doorward={two}\r\nConnection: close\r\n\r\n"
        );
        assert!(raw(house.address, request.as_bytes()).starts_with(b"HTTP/1.1 401"));
    }
    assert_eq!(house.refusals("cookie_doubled").await, 2);
}

#[tokio::test]
async fn ck_05_a_login_with_a_planted_twin_makes_one_clean_session() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let start = browser.navigate("/auth/login").await;
    let attempt = browser.cookies().into_iter().find(|c| c.name.contains("login")).unwrap();
    let callback = browser.navigate(start.location().unwrap().as_str()).await.location().unwrap();
    // Two attempts under one name: the first that opens is this browser's; a planted one in front only costs the login.
    for (cookies, works) in [
        (format!("{0}=planted; {0}={1}", attempt.name, attempt.value), false),
        (format!("{}={}; doorward=a; doorward=b", attempt.name, attempt.value), true),
    ] {
        let page = house.browser().with_header("cookie", &cookies).navigate(callback.as_str()).await;
        if works {
            assert!(page.status == 303 && sets_session(&page), "{}", page.text());
        } else {
            assert_rejected(&house, &page, "login_expired").await;
        }
    }
    assert_eq!(house.live_sessions().await, 1);
}

#[tokio::test]
async fn ck_05_a_twin_that_only_other_parsers_see_is_not_seen() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let owner = signed_in_as(&house, &op, Person::named("owner")).await.cookie("doorward").unwrap();
    let thief = signed_in_as(&house, &op, Person::named("thief")).await.cookie("doorward").unwrap();
    for planted in ["%64oorward", "%64%6f%6f%72%77%61%72%64", "doorwar%64", "\"doorward\"", "Doorward"] {
        for cookies in
            [format!("{planted}={thief}; doorward={owner}"), format!("doorward={owner}; {planted}={thief}")]
        {
            let sender = house.browser().with_header("cookie", &cookies);
            assert_eq!(me(&sender).await["id"], "owner", "{cookies}");
            assert!(sender.navigate("/protected").await.text().contains("owner"), "{cookies}");
        }
        let alone = house.browser().with_header("cookie", &format!("{planted}={thief}"));
        assert_eq!(alone.get_json("/auth/me").await.status, 401, "{planted}");
    }
}

#[tokio::test]
async fn ck_06_a_good_key_under_another_signature_is_nobody_however_often_the_right_one_came() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let good = signed_in(&house).await.cookie("doorward").unwrap();
    let twin = signed_in(&house).await.cookie("doorward").unwrap();
    let (signature, key) = good.split_at(good.len() - 43);
    let (twins, _) = twin.split_at(twin.len() - 43);
    let ask = async |cookie: String| {
        let sender = house.browser().with_header("cookie", &format!("doorward={cookie}"));
        sender.get_json("/protected").await.status
    };
    let flipped = format!("{}{}", if signature.starts_with('A') { "B" } else { "A" }, &signature[1..]);
    for _ in 0..2 {
        assert_eq!(ask(good.clone()).await, 200);
        for other in [twins, &flipped, "", "%3D", &signature[1..], &format!("A{signature}")] {
            assert_eq!(ask(format!("{other}{key}")).await, 401, "{other}");
        }
    }
    // The same in another spelling is the same, and opens the way to nothing else.
    let spelled = format!("%{:02X}{}", key.as_bytes()[0], &key[1..]);
    for other in
        [good.replace("%3D", "="), format!("{signature}{spelled}"), format!("{}{good}", " ".repeat(500))]
    {
        assert_eq!(ask(other).await, 200);
    }
    // With what follows, this spells one byte instead of two, or stays what it is: one too many.
    assert_eq!(ask(format!("{signature}%{key}")).await, 401);
    assert_eq!(ask(good).await, 200);
}

#[tokio::test]
async fn ck_06_a_neighbours_odd_cookie_signs_nobody_out() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let good = signed_in(&house).await.cookie("doorward").unwrap();
    let host = house.url.trim_start_matches("http://").to_owned();
    for odd in [
        b"nameless".as_slice(),
        b"=",
        b"%ff=1",
        b"a=%zz%ff",
        b"\xff\xfe=\x80",
        b"n=\xc3\xa9",
        b"",
        b"\"",
        b"a=\"x",
        b",",
        b"\x0b=1",
    ] {
        for path in ["/auth/me", "/protected"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nCookie: ");
            let cookies = [odd, b"; doorward=", good.as_bytes(), b"; ", odd, b"\r\n\r\n"].concat();
            let answer = raw(house.address, &[head.as_bytes(), &cookies].concat());
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let first = answer.lines().next().unwrap_or_default();
            let is_control = odd.first() == Some(&0x0b);
            assert!(
                first.contains("200") || (is_control && first.contains("400")),
                "{path} {}: {first}",
                odd.escape_ascii()
            );
            assert!(!answer.to_lowercase().contains("set-cookie"), "{path} {}", odd.escape_ascii());
        }
    }
}

#[tokio::test]
async fn ck_06_any_cookie_header_is_read_without_harm() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let host = house.url.trim_start_matches("http://").to_owned();
    let many = "a=b; ".repeat(1_000).into_bytes();
    let ours = "doorward-login-0123abcd=x; ".repeat(200).into_bytes();
    let long = [b"doorward=".as_slice(), &[b'A'; 8_000]].concat();
    let odd: Vec<&[u8]> = vec![
        b"",
        b" ",
        b";",
        b";;;;;;",
        b"=",
        b"====;=;=",
        b",,,",
        b"\"",
        b"doorward=\"",
        b"doorward=\"a\\\"; b=\"",
        b"doorward",
        b"doorward=",
        b" \t ; doorward = x ; ",
        b"doorward=%",
        b"doorward=%zz%00%ff",
        b"doorward=\xff\xfe",
        b"\xc3\x28=\x80; doorward=\xe2\x28\xa1",
        b"__Host-doorward=x; $Version=1; $Path=/",
        b"doorward-login-=x; doorward-login-0123=y; doorward-login-\xff=z",
        b"doorward=x\x0b\x1f",
        &many,
        &ours,
        &long,
    ];
    for cookie in odd {
        for path in ["/auth/me", "/auth/login", "/auth/callback/op?code=a&state=b", "/protected"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nCookie: ");
            let request = [head.as_bytes(), cookie, b"\r\n\r\n"].concat();
            let answer = raw(house.address, &request);
            let status = answer.get(9..12).map(|digits| String::from_utf8_lossy(digits).into_owned());
            let shown = String::from_utf8_lossy(&cookie[..cookie.len().min(60)]).into_owned();
            let status: u16 = status
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("{path} {shown:?}: no answer"));
            assert!(matches!(status, 200 | 303 | 400 | 401), "{path} {shown:?}: {status}");
            assert!(!String::from_utf8_lossy(&answer).contains("doorward=A"), "{shown:?}");
        }
    }
    assert!(is_signed_in(&browser).await);
    signed_in(&house).await;
}

#[tokio::test]
async fn ck_06_a_cookie_bomb_gets_a_page_that_says_how_to_get_out() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    for n in 0..6 {
        browser.set_cookie(&format!("bomb{n}"), &"x".repeat(3_000));
    }
    for path in ["/auth/me", "/protected", "/auth/login", "/"] {
        let page = browser.navigate(path).await;
        assert_eq!(page.status, 431, "{path}");
        let text = page.text();
        assert!(
            page.header("content-type").unwrap().starts_with("text/html") && text.contains("cookies"),
            "{text}"
        );
    }
    let program = browser.get_json("/auth/me").await;
    assert_eq!((program.status, program.json()["code"].as_str()), (431, Some("too_large")));
    for n in 0..6 {
        browser.forget(&format!("bomb{n}"));
    }
    assert!(is_signed_in(&browser).await, "nothing was lost");
}
