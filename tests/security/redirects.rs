//! Chapter 7: where a browser may be sent after a login, a logout or an error.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::crypto::seal::Place;
use doorward::domain::ReturnTo;
use futures_util::{StreamExt as _, stream};
use url::Url;

use super::signed_in;
use crate::house::browser::{Browser, Page};
use crate::house::corpus;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::ScriptedOp;

fn query(name: &str, value: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}

fn start_at(name: &str, address: &str) -> String {
    format!("/auth/login?{}", query(name, address))
}

/// Addresses too long for a request line are refused before anybody reads them.
fn fits(address: &str) -> bool {
    query("return_to", address).len() < 8000
}

fn refused_addresses() -> Vec<String> {
    corpus::hostile_return_addresses().into_iter().chain(corpus::own_routes()).collect()
}

/// Where a whole login with this start ends: the callback's own `Location`, unresolved and resolved.
async fn lands_at(house: &TestHouse, start: &str) -> (String, Url) {
    let browser = house.browser();
    let begun = browser.navigate(start).await;
    assert_eq!(begun.status, 303, "{start}: {}", begun.text());
    let callback = browser.follow(begun, 1).await;
    let done = browser.navigate(callback.location().unwrap().as_str()).await;
    assert_eq!(done.status, 303, "{start}: {}", done.text());
    (done.header("location").unwrap().to_owned(), done.location().unwrap())
}

#[tokio::test]
async fn rd_01_no_address_of_the_corpus_leads_away_and_every_friendly_one_arrives() {
    let house = TestHouse::open().await;
    let rules = house.app().setup().return_rules.clone();
    let accepted: Vec<_> = refused_addresses()
        .into_iter()
        .filter(|address| ReturnTo::parse(address, &rules).is_some())
        .collect();
    assert!(accepted.is_empty(), "{accepted:#?}");
    for address in corpus::friendly_return_addresses() {
        let kept = ReturnTo::parse(&address, &rules);
        assert_eq!(kept.as_ref().map(ReturnTo::as_str), Some(address.as_str()));
        assert_eq!(
            rules.public_url.join(&address).unwrap().origin(),
            rules.public_url.origin(),
            "{address:?}"
        );
    }
}

#[tokio::test]
async fn rd_02_a_whole_login_with_any_hostile_address_ends_on_the_front_page() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let starts =
        refused_addresses().into_iter().filter(|address| fits(address)).enumerate().map(|(n, address)| {
            // Both names of the parameter, in turns.
            (start_at(if n % 5 == 0 { "target_link_uri" } else { "return_to" }, &address), address)
        });
    stream::iter(starts)
        .for_each_concurrent(8, |(start, address)| {
            let house = &house;
            async move {
                let (location, _) = lands_at(house, &start).await;
                assert_eq!(location, "/", "{address:?} through {start}");
            }
        })
        .await;
}

#[tokio::test]
async fn rd_02_a_whole_login_with_a_friendly_address_arrives_there() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for (n, address) in corpus::friendly_return_addresses().into_iter().enumerate() {
        let name = if n % 2 == 0 { "return_to" } else { "target_link_uri" };
        let (_, landed) = lands_at(&house, &start_at(name, &address)).await;
        assert_eq!(landed, Url::parse(&house.url).unwrap().join(&address).unwrap(), "{address:?}");
    }
}

#[tokio::test]
async fn rd_02_an_address_of_ten_kilobytes_is_414_and_starts_nothing() {
    let house = TestHouse::open().await;
    for address in corpus::hostile_return_addresses().into_iter().filter(|address| !fits(address)) {
        let page = house.browser().navigate(&start_at("return_to", &address)).await;
        assert_eq!(page.status, 414, "{}", &address[..20]);
        assert!(page.set_cookies().is_empty());
    }
}

/// A signed-in visitor is sent on at once, by the same rule.
#[tokio::test]
async fn rd_04_whoever_is_signed_in_already_is_sent_nowhere_else_either() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    for address in refused_addresses().into_iter().filter(|address| fits(address)) {
        let page = browser.navigate(&start_at("return_to", &address)).await;
        assert_eq!((page.status, page.header("location")), (303, Some("/")), "{address:?}");
    }
    for address in corpus::friendly_return_addresses() {
        let page = browser.navigate(&start_at("return_to", &address)).await;
        assert_eq!(page.location(), Some(browser.url(&address)), "{address:?}");
    }
}

/// Where a page's links and forms lead must be ours, whatever was asked of it.
fn assert_leads_nowhere_else(page: &Page, allowed: &[&str], case: &str) {
    let html = page.text();
    for attribute in ["href=\"", "action=\"", "src=\""] {
        for rest in html.split(attribute).skip(1) {
            let target = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
            let target = page.url.join(&target).unwrap_or_else(|e| panic!("{case}: {target} {e}"));
            let origin = target.origin().ascii_serialization();
            let is_ours = target.origin() == page.url.origin() || allowed.contains(&origin.as_str());
            assert!(is_ours, "{case}: {target}");
        }
    }
}

#[tokio::test]
async fn rd_04_logout_obeys_the_same_rules_by_its_page_its_form_and_its_last_page() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    for address in refused_addresses().into_iter().filter(|address| fits(address)) {
        let case = format!("{address:?}");
        let asked = browser.navigate(&format!("/auth/logout?{}", query("return_to", &address))).await;
        assert_eq!(asked.status, 200, "{case}");
        assert!(
            asked.forms().iter().all(|form| !form.fields.iter().any(|(n, _)| n == "return_to")),
            "{case}"
        );
        assert_leads_nowhere_else(&asked, &[], &case);
        let left = browser.post_form("/auth/logout", &[("return_to", &address)]).await;
        assert_eq!((left.status, left.header("location")), (303, Some("/auth/signed-out")), "{case}");
        let by_query = browser.navigate(&format!("/auth/signed-out?{}", query("return_to", &address))).await;
        assert_eq!(by_query.status, 200, "{case}");
        assert!(!by_query.text().contains("Continue"), "{case}");
        assert_leads_nowhere_else(&by_query, &[], &case);
        // Nor does a state that somebody made up.
        let by_state = browser.navigate(&format!("/auth/signed-out?{}", query("state", &address))).await;
        assert_eq!(by_state.status, 200, "{case}");
    }
    for address in corpus::friendly_return_addresses() {
        let left = browser.post_form("/auth/logout", &[("return_to", &address)]).await;
        let last = browser.follow(left, 1).await;
        let links = last.text();
        assert!(links.contains("Continue"), "{address:?}: {links}");
    }
}

/// A state that we ourselves sealed, before the rules changed, say: what it holds is measured again.
#[tokio::test]
async fn rd_03_a_sealed_way_back_is_checked_again_when_it_is_used() {
    let house = TestHouse::open().await;
    let app = house.app();
    let seal = |address: &str, at_ms: i64| {
        let plain = serde_json::json!({ "return_to": address, "at_ms": at_ms }).to_string();
        let place = Place { table: "logout", row: "state", column: "way_back" };
        URL_SAFE_NO_PAD.encode(app.setup().ring.seal(place, plain.as_bytes()))
    };
    let browser = house.browser();
    let now = app.now_ms();
    for address in refused_addresses().into_iter().filter(|address| address.len() < 2000) {
        let page = browser.navigate(&format!("/auth/signed-out?state={}", seal(&address, now))).await;
        assert_eq!(page.status, 200, "{address:?}");
    }
    let good = seal("/protected", now);
    let page = browser.navigate(&format!("/auth/signed-out?state={good}")).await;
    assert_eq!((page.status, page.header("location")), (303, Some("/protected")));
    let old = seal("/protected", now - 6 * 60 * 1000);
    assert_eq!(browser.navigate(&format!("/auth/signed-out?state={old}")).await.status, 200);
    for at in [0, 10, good.len() - 1] {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(bytes).unwrap();
        assert_eq!(browser.navigate(&format!("/auth/signed-out?state={altered}")).await.status, 200, "{at}");
    }
}

#[tokio::test]
async fn rd_03_state_tells_nothing_and_an_altered_one_ends_nowhere() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = house.browser();
    let begun = browser.navigate("/auth/login?return_to=/secret-report").await;
    let request = begun.location().unwrap();
    assert!(!request.as_str().contains("secret-report"), "{request}");
    let everywhere: String = begun.set_cookies().iter().map(|c| c.value.clone()).collect();
    assert!(!everywhere.contains("secret-report"));
    let callback = browser.follow(begun, 1).await.location().unwrap();
    let state = callback.query_pairs().find(|(n, _)| n == "state").unwrap().1.into_owned();
    let flipped = if state.starts_with('A') { 'B' } else { 'A' };
    let altered = callback.as_str().replace(&state, &format!("{flipped}{}", &state[1..]));
    let page = browser.navigate(&altered).await;
    super::assert_rejected(&house, &page, "login_expired").await;
    assert_eq!(op.count("/token"), 0);
    assert_eq!(house.live_sessions().await, 0);
    let page = browser.sign_in("/auth/login?return_to=/protected").await;
    assert_eq!(page.url.path(), "/protected");
}

#[tokio::test]
async fn rd_04_the_choice_of_a_provider_leads_only_to_our_own_login_and_keeps_the_rules() {
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let both = format!("{}{}", op_provider("one", &one), op_provider("two", &two));
    let house = TestHouse::with(&both).set("LIMITS__LOGIN_START", "\"off\"").open().await;
    let browser = house.browser();
    for address in refused_addresses().into_iter().filter(|address| fits(address)) {
        let page = browser.navigate(&start_at("return_to", &address)).await;
        assert_eq!(page.status, 200, "{address:?}");
        assert_leads_nowhere_else(&page, &[], &address);
    }
    let chosen = format!("{}&provider=two", start_at("return_to", "//evil.example"));
    assert_eq!(lands_at(&house, &chosen).await.0, "/");
    let chosen = format!("{}&provider=two", start_at("return_to", "/protected?a=b"));
    assert_eq!(lands_at(&house, &chosen).await.0, "/protected?a=b");
}

/// An exactly listed origin may be returned to; its neighbours may not.
#[tokio::test]
async fn rd_01_a_listed_origin_is_matched_exactly() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).set("CORS__ORIGINS", r#"["https://spa.example"]"#).open().await;
    let (_, landed) = lands_at(&house, &start_at("return_to", "https://spa.example/x?y")).await;
    assert_eq!(landed.as_str(), "https://spa.example/x?y");
    for near in [
        "http://spa.example/",
        "https://spa.example:444/",
        "https://spa.example.evil/",
        "https://sub.spa.example/",
        "https://spa.example@evil.example/",
        "https://user@spa.example/",
        "https://spa.example\\@evil.example/",
    ] {
        assert_eq!(lands_at(&house, &start_at("return_to", near)).await.0, "/", "{near}");
    }
}

/// Method, headers, and whether the visitor is sent to sign in.
type Case = (&'static str, Vec<(&'static str, &'static str)>, bool);

#[tokio::test]
async fn rd_06_programs_get_401_in_json_and_only_navigations_are_redirected() {
    let house = TestHouse::open().await;
    let html = "text/html,application/xhtml+xml,*/*;q=0.8";
    let nav = ("sec-fetch-mode", "navigate");
    let cases: Vec<Case> = vec![
        ("GET", vec![("accept", html)], true),
        ("HEAD", vec![("accept", html)], true),
        ("GET", vec![("accept", html), nav, ("sec-fetch-dest", "document")], true),
        ("GET", vec![("accept", "*/*"), nav, ("sec-fetch-dest", "document")], true),
        ("GET", vec![("accept", html), nav, ("sec-fetch-dest", "iframe")], false),
        ("GET", vec![("accept", html), ("sec-fetch-mode", "cors")], false),
        ("GET", vec![("accept", html), ("sec-fetch-mode", "no-cors")], false),
        ("GET", vec![("accept", html), ("sec-fetch-mode", "same-origin")], false),
        ("GET", vec![("accept", html), ("x-requested-with", "XMLHttpRequest")], false),
        ("GET", vec![("accept", "application/json")], false),
        ("GET", vec![("accept", "*/*")], false),
        ("GET", vec![("accept", "image/avif,image/webp,*/*")], false),
        ("GET", vec![], false),
        ("POST", vec![("accept", html), nav], false),
        ("PUT", vec![("accept", html), nav], false),
        ("PATCH", vec![("accept", html), nav], false),
        ("DELETE", vec![("accept", html), nav], false),
        ("POST", vec![("accept", html)], false),
        ("OPTIONS", vec![("accept", html), nav], false),
        ("PROPFIND", vec![("accept", html), nav], false),
    ];
    let client = crate::house::servers::http();
    for (method, headers, redirected) in cases {
        let case = format!("{method} {headers:?}");
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = client.request(method.clone(), format!("{}/protected", house.url));
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        if redirected {
            assert_eq!(answer.status(), 303, "{case}");
            assert_eq!(answer.headers()["location"], "/auth/login?return_to=%2Fprotected", "{case}");
            continue;
        }
        assert_eq!(answer.status(), 401, "{case}");
        assert!(answer.headers().contains_key("www-authenticate"), "{case}");
        assert!(!answer.headers().contains_key("location"), "{case}");
        let is_page = headers.contains(&nav) || (method == "POST" && headers.len() == 1);
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind.starts_with("text/html"), is_page, "{case}: {kind}");
        if !is_page {
            let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body["code"], "not_signed_in", "{case}");
        }
    }
}

async fn status_of(browser: &Browser, path: &str) -> u16 {
    browser.get_json(path).await.status
}

#[tokio::test]
async fn rd_06_our_own_api_never_redirects_a_program() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    for path in ["/auth/me", "/auth/sessions", "/auth/account", "/admin-only", "/protected"] {
        assert_eq!(status_of(&browser, path).await, 401, "{path}");
    }
}
