//! Chapter 5: what our cookies look like, on every route.

use doorward::config::{self, Sources};

use super::{keep_time, signed_in};
use crate::house::browser::{Browser, Page, SetCookie};
use crate::house::home::TestHouse;
use crate::house::op::ScriptedOp;

/// The route table's own paths, and some that it does not have.
const PATHS: [&str; 17] = [
    "/auth/login",
    "/auth/login?provider=op&return_to=/protected",
    "/auth/login?prompt=none",
    "/auth/callback/op",
    "/auth/callback/op?code=x&state=y",
    "/auth/callback/nobody?code=x&state=y",
    "/auth/logout",
    "/auth/signed-out",
    "/auth/me",
    "/auth/sessions",
    "/auth/sessions/unknown",
    "/auth/account",
    "/auth/static/doorward.css",
    "/auth/nothing",
    "/",
    "/protected",
    "/nothing",
];

/// A house at https://app.example, with the proxy that ends TLS left out.
async fn https_house(op: &ScriptedOp) -> TestHouse {
    TestHouse::with_op(op).set("SERVER__PUBLIC_URL", "\"https://app.example\"").open().await
}

fn visitor(house: &TestHouse) -> Browser {
    if house.url.starts_with("https") {
        Browser::behind_tls(&house.url, house.address)
    } else {
        house.browser()
    }
}

async fn sign_in(house: &TestHouse) -> (Browser, Vec<Page>) {
    let browser = visitor(house);
    let mut pages = vec![browser.navigate("/auth/login?return_to=/protected").await];
    while pages.last().unwrap().is_redirect() {
        let next = pages.last().unwrap().location().unwrap();
        pages.push(browser.navigate(next.as_str()).await);
    }
    assert_eq!(pages.last().unwrap().status, 200, "{}", pages.last().unwrap().text());
    (browser, pages)
}

/// Every answer that any route gives: to strangers, to guests, with dead, planted and doubled cookies, by every method.
async fn every_answer(house: &TestHouse) -> Vec<Page> {
    let name = if house.url.starts_with("https") { "__Host-doorward" } else { "doorward" };
    let (guest, mut pages) = sign_in(house).await;
    let cookie = guest.cookie(name).unwrap();
    let doubled = format!("{name}={cookie}; {name}=planted");
    let dead = format!("{name}=planted; {name}-login-0123abcd=planted");
    for path in PATHS {
        for cookies in ["", &dead, &doubled, &format!("{name}={cookie}")] {
            let sender = visitor(house).with_header("cookie", cookies);
            pages.push(sender.navigate(path).await);
            pages.push(sender.get_json(path).await);
            if !path.contains("logout") {
                pages.push(sender.post_form(path, &[]).await);
            }
        }
    }
    pages.push(guest.sign_in("/auth/login?prompt=login").await);
    pages.push(guest.delete("/auth/sessions").await);
    pages.push(guest.post_form("/auth/logout", &[]).await);
    let (guest, more) = sign_in(house).await;
    pages.extend(more);
    pages.push(guest.delete("/auth/sessions?all=true").await);
    pages
}

/// Our own cookies of these answers, with the line they came in. The provider's answers are not ours.
fn ours(house: &TestHouse, pages: &[Page]) -> Vec<(String, SetCookie)> {
    let mut found = Vec::new();
    for page in pages.iter().filter(|page| page.url.as_str().starts_with(&house.url)) {
        for line in page.headers.get_all("set-cookie") {
            let line = line.to_str().expect("a cookie is plain ASCII");
            let cookie = SetCookie::parse(line).unwrap_or_else(|| panic!("{} {line}", page.url));
            found.push((format!("{} {line}", page.url.path()), cookie));
        }
    }
    assert!(found.len() > 20, "the walk met cookies");
    found
}

/// Whether a name is the session's or an attempt's, after its prefix.
fn is_known(name: &str) -> bool {
    let tag = name.strip_prefix("doorward-login-");
    name == "doorward"
        || tag == Some("recent")
        || tag.is_some_and(|tag| tag.len() == 8 && tag.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[tokio::test]
async fn ck_01_over_https_every_cookie_of_every_route_is_bound_to_the_host() {
    let op = ScriptedOp::start().await;
    let house = https_house(&op).await;
    for (line, cookie) in ours(&house, &every_answer(&house).await) {
        let bare = cookie.name.strip_prefix("__Host-").unwrap_or_else(|| panic!("{line}"));
        assert!(is_known(bare), "{line}");
        assert!(cookie.has("Secure") && cookie.has("HttpOnly") && !cookie.has("Domain"), "{line}");
        assert_eq!(cookie.attribute("Path"), Some("/"), "{line}");
        let once =
            |name: &str| cookie.attributes.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count() == 1;
        assert!(["path", "secure", "httponly", "samesite"].into_iter().all(once), "{line}");
    }
}

#[tokio::test]
async fn ck_01_on_plain_loopback_cookies_have_plain_names_and_all_else_that_can_be_had() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for (line, cookie) in ours(&house, &every_answer(&house).await) {
        assert!(is_known(&cookie.name), "{line}");
        assert!(cookie.has("HttpOnly") && !cookie.has("Domain") && !cookie.has("Secure"), "{line}");
        assert_eq!(cookie.attribute("Path"), Some("/"), "{line}");
    }
}

#[tokio::test]
async fn ck_02_same_site_is_said_on_every_cookie_and_is_lax() {
    let op = ScriptedOp::start().await;
    for house in [https_house(&op).await, TestHouse::with_op(&op).open().await] {
        for (line, cookie) in ours(&house, &every_answer(&house).await) {
            assert_eq!(cookie.attribute("SameSite"), Some("Lax"), "{line}");
        }
    }
}

#[tokio::test]
async fn ck_02_only_the_attempt_of_a_form_post_login_crosses_sites_and_then_only_securely() {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("SERVER__PUBLIC_URL", "\"https://app.example\"");
    let house = plan.set("PROVIDER__OP__RESPONSE_MODE", "\"form_post\"").open().await;
    let browser = visitor(&house);
    let start = browser.navigate("/auth/login").await;
    let set = start.set_cookies();
    assert_eq!(set.len(), 1);
    assert!(set[0].name.starts_with("__Host-doorward-login-"));
    assert_eq!(set[0].attribute("SameSite"), Some("None"));
    assert!(set[0].has("Secure") && set[0].has("HttpOnly"));
    let form = browser.navigate(start.location().unwrap().as_str()).await;
    let end = browser.submit(&form, form.forms().first().unwrap(), &[]).await;
    assert_eq!(end.status, 303, "{}", end.text());
    let session = end.set_cookies().into_iter().find(|cookie| cookie.name == "__Host-doorward").unwrap();
    assert_eq!(session.attribute("SameSite"), Some("Lax"));
}

#[tokio::test]
async fn ck_03_cookies_stay_small_with_the_longest_configuration_and_request() {
    let op = ScriptedOp::start().await;
    let plan = TestHouse::with_op(&op).set("SERVER__PUBLIC_URL", "\"https://app.example\"");
    let house = plan.set("PROVIDER__OP__CLIENT_ID", &format!("\"{}\"", "c".repeat(100))).open().await;
    let acr: String =
        url::form_urlencoded::byte_serialize("urn:example:acr:gold ".repeat(24).as_bytes()).collect();
    let hint = "h".repeat(512);
    for filling in ["a", "\"", "'", "%20", "{", "\u{e9}", "\u{1f600}", "&quot;"] {
        // The longest that is taken as a return address.
        let text = format!("/{}", filling.repeat(1_023 / filling.len()));
        let return_to: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let path = format!(
            "/auth/login?return_to={return_to}&max_age=3600&prompt=select_account&acr_values={acr}&login_hint={hint}"
        );
        let browser = visitor(&house);
        let page = browser.navigate(&path).await;
        assert_eq!(page.status, 303, "{filling}: {}", page.text());
        let cookie = &page.set_cookies()[0];
        assert!(cookie.value.len() < 2_048, "{filling}: {} bytes", cookie.value.len());
        assert!(cookie.name.len() + cookie.value.len() <= 4_096, "{filling}");
    }
    // Without such company the longest return address fits and is kept.
    op.script(|s| s.client_id = "c".repeat(100));
    let browser = visitor(&house);
    let longest = format!("/protected?{}", "a".repeat(1_000));
    let end = browser.sign_in(&format!("/auth/login?return_to={longest}")).await;
    assert_eq!((end.status, end.url.as_str()), (200, format!("https://app.example{longest}").as_str()));
    // One that does not fit is spared, and the login works.
    let odd: String = url::form_urlencoded::byte_serialize("\"".repeat(900).as_bytes()).collect();
    let end =
        visitor(&house).sign_in(&format!("/auth/login?return_to=/protected?{odd}&acr_values={acr}")).await;
    assert_eq!((end.status, end.url.path()), (200, "/"), "{}", end.text());
    let quotes = "%22".repeat(512);
    let page = visitor(&house).navigate(&format!("/auth/login?acr_values={quotes}&return_to=/{odd}")).await;
    assert!(matches!(page.status, 303 | 400), "{}", page.text());
    let session = browser.cookie("__Host-doorward").unwrap();
    assert!(session.len() < 128, "{} bytes", session.len());
}

#[tokio::test]
async fn ck_04_no_cookie_is_ever_split_and_chunks_are_nothing_to_us() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    assert_eq!(
        browser.cookies().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["doorward-login-recent", "doorward"]
    );
    let whole = browser.cookie("doorward").unwrap();
    let (a, b) = whole.split_at(whole.len() / 2);
    for cookies in [
        format!("doorward_0={a}; doorward_1={b}; doorward_chunks=2"),
        format!("doorward_1={b}; doorward_0={a}"),
        format!("doorward.0={a}; doorward.1={b}"),
        format!("doorward_chunks=1000000000; doorward_0={whole}"),
        format!("doorward={a}; doorward_1={b}; doorward_chunks=-1"),
    ] {
        let page = house.browser().with_header("cookie", &cookies).get_json("/auth/me").await;
        assert_eq!(page.status, 401, "{cookies}");
    }
}

#[tokio::test]
async fn ck_07_no_cookie_outlives_its_session_or_attempt() {
    let op = ScriptedOp::start().await;
    let plan =
        TestHouse::with_op(&op).set("SESSION__OVERALL", "\"30d\"").set("LIMITS__LOGIN_ATTEMPT", "\"60m\"");
    let house = plan.open().await;
    for (line, cookie) in ours(&house, &every_answer(&house).await) {
        let age: i64 = cookie.attribute("Max-Age").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        let longest = match (cookie.value.is_empty(), cookie.name.contains("login")) {
            (true, _) => 0,
            (false, true) if cookie.name.ends_with("-recent") => 30,
            (false, true) => 3_600,
            (false, false) => 30 * 24 * 3_600,
        };
        assert_eq!(age, longest, "{line}");
    }
}

#[tokio::test]
async fn ck_07_the_cookie_of_a_session_that_follows_its_token_ends_with_the_token() {
    let op = ScriptedOp::start().await;
    op.script(|s| {
        s.refresh_tokens = false;
        s.token_life_s = 300;
    });
    let house = TestHouse::with_op(&op).set("PROVIDER__OP__SESSION_FOLLOWS_TOKEN", "true").open().await;
    keep_time(&op, &house);
    let (browser, pages) = sign_in(&house).await;
    let set: Vec<_> = pages.iter().flat_map(Page::set_cookies).filter(|c| c.name == "doorward").collect();
    assert_eq!(set.len(), 1);
    let age: i64 = set[0].attribute("Max-Age").unwrap().parse().unwrap();
    assert!((290..=300).contains(&age), "{age}");
    assert!(
        set[0].has("HttpOnly")
            && set[0].attribute("SameSite") == Some("Lax")
            && set[0].attribute("Path") == Some("/")
    );
    assert_eq!(browser.get_json("/auth/me").await.status, 200, "the cookie is still a good one");
}

#[tokio::test]
async fn ck_07_a_cookie_is_taken_away_with_the_attributes_it_was_set_with() {
    let op = ScriptedOp::start().await;
    for house in [https_house(&op).await, TestHouse::with_op(&op).open().await] {
        let mut shapes = std::collections::BTreeMap::new();
        for (line, cookie) in ours(&house, &every_answer(&house).await) {
            let mut shape: Vec<String> = cookie
                .attributes
                .iter()
                .filter(|(name, _)| !matches!(name.to_ascii_lowercase().as_str(), "max-age" | "expires"))
                .map(|(name, value)| format!("{name}={value}").to_ascii_lowercase())
                .collect();
            shape.sort();
            let kind = cookie.name.contains("login");
            assert_eq!(shapes.entry(kind).or_insert_with(|| shape.clone()), &shape, "{line}");
        }
        assert_eq!(shapes.len(), 2, "both kinds were met");
        let (browser, _) = sign_in(&house).await;
        browser.post_form("/auth/logout", &[]).await;
        assert!(browser.cookies().is_empty(), "a browser's jar is empty afterwards: {:?}", browser.cookies());
    }
}

#[tokio::test]
async fn ck_08_the_app_sees_no_cookie_of_ours() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    let browser = signed_in(&house).await;
    let cookie = browser.cookie("doorward").unwrap();
    for path in ["/", "/protected"] {
        let page = browser.navigate(path).await;
        let key = &cookie[cookie.len() - 43..];
        assert!(page.status == 200 && !page.text().contains(key), "{path}");
        assert!(page.set_cookies().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn ck_09_no_cookie_is_partitioned_while_embedding_is_not_offered() {
    let op = ScriptedOp::start().await;
    let house = https_house(&op).await;
    for (line, cookie) in ours(&house, &every_answer(&house).await) {
        assert!(!cookie.has("Partitioned"), "{line}");
    }
}

#[tokio::test]
async fn ck_10_plain_http_is_for_loopback_alone_and_is_said_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let load = |url: &str| {
        let environment = vec![("DOORWARD__SERVER__PUBLIC_URL".to_owned(), format!("\"{url}\""))];
        config::load(&Sources { file: None, folder: folder.path().to_owned(), environment })
    };
    for public in [
        "http://app.example",
        "http://192.0.2.7:8080",
        "http://10.0.0.1",
        "http://localhost.example:8080",
        "http://0.0.0.0:8080",
    ] {
        let faults = load(public).expect_err(public);
        assert!(faults.iter().any(|fault| fault.key.contains("public_url")), "{public}: {faults:?}");
    }
    for local in ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"] {
        let loaded = load(local).unwrap_or_else(|faults| panic!("{local}: {faults:?}"));
        assert!(
            loaded.warnings.iter().any(|line| line.contains("plain http")),
            "{local}: {:?}",
            loaded.warnings
        );
    }
}
