//! The stories that only a real browser can tell: what people click and see, what the content policy lets happen, what Back shows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Person, ScriptedOp};
use crate::house::servers::chromium::{self, Chrome};
use crate::house::servers::keycloak::{self, RealmSpec};

/// A violation of the content policy on any page of ours fails the story (security.md WB-06).
pub async fn assert_policy_kept(chrome: &Chrome) {
    let log = chrome.console_log().await;
    let broken: Vec<_> = log
        .iter()
        .filter(|line| line.contains("Content Security Policy") || line.contains("Refused to"))
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// Waits until the window is at this path of the house.
async fn arrives(chrome: &Chrome, house: &TestHouse, path: &str) {
    let over = Instant::now() + Duration::from_secs(15);
    loop {
        let url = chrome.current_url().await;
        if url.as_str().starts_with(&house.url) && url.path() == path {
            return chrome.wait_for("main").await;
        }
        assert!(
            Instant::now() < over,
            "the window is at {url}, not at {path}: {}",
            chrome.text("body").await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn page_has(chrome: &Chrome, text: &str) -> bool {
    chrome.text("body").await.contains(text)
}

/// Signs in at the development issuer by its button.
async fn signs_in_as_alice(chrome: &Chrome, house: &TestHouse) {
    chrome.goto(&house.url).await;
    chrome.click("main a[href^='/auth/login']").await;
    chrome.click("button[value='alice']").await;
    arrives(chrome, house, "/protected").await;
}

async fn presses(chrome: &Chrome, key: &str, code: u32) {
    let text = if key == "Enter" { "\r" } else { "" };
    let mut event =
        json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
    chrome.devtools("Input.dispatchKeyEvent", event.clone()).await;
    event["type"] = "keyUp".into();
    chrome.devtools("Input.dispatchKeyEvent", event).await;
}

/// Tabs until the element has the focus, sees that the focus can be seen, and presses Enter.
async fn reaches_by_keyboard(chrome: &Chrome, css: &str) {
    chrome.wait_for(css).await;
    let reached = format!("return document.activeElement.matches({css:?})");
    for _ in 0..30 {
        presses(chrome, "Tab", 9).await;
        if chrome.run(&reached).await == true {
            let seen = "const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' || s.boxShadow !== 'none'";
            assert_eq!(chrome.run(seen).await, true, "{css}: the focus cannot be seen");
            return presses(chrome, "Enter", 13).await;
        }
    }
    panic!("{css} cannot be reached by Tab on {}", chrome.current_url().await);
}

/// Back from a logout: whatever the browser kept, it shows nothing that was protected (security.md WB-10).
async fn back_shows_nothing_protected(chrome: &Chrome, house: &TestHouse, name: &str) {
    for step in 1..=3 {
        chrome.back().await;
        let url = chrome.current_url().await;
        let shown = chrome.run("return document.body.innerText").await.to_string();
        let of_ours = url.as_str().starts_with(&house.url) && !url.path().starts_with("/dev-idp");
        assert!(!of_ours || !shown.to_lowercase().contains(name), "{step} steps back, at {url}: {shown}");
    }
}

#[tokio::test]
async fn a_person_signs_in_at_keycloak_sees_the_account_signs_out_and_back_shows_nothing() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let provider = format!(
        "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nlabel = \"Company login\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\n",
        realm.issuer, realm.client_id, realm.client_secret
    );
    let house = TestHouse::with(&provider).open().await;
    let chrome = chromium::browser().await;
    chrome.goto(&house.url).await;
    assert!(page_has(&chrome, "Sign in").await);
    chrome.goto(&format!("{}/protected", house.url)).await;
    chrome.fill("#username", "alice").await;
    chrome.fill("#password", "alice-pass-1").await;
    chrome.click("#kc-login").await;
    arrives(&chrome, &house, "/protected").await;
    assert!(page_has(&chrome, "alice").await);
    chrome.goto(&format!("{}/auth/account", house.url)).await;
    assert!(page_has(&chrome, "This device").await && page_has(&chrome, "alice@example.test").await);
    assert_policy_kept(&chrome).await;
    chrome.click("form[action='/auth/logout'] button").await;
    arrives(&chrome, &house, "/auth/signed-out").await;
    assert!(page_has(&chrome, "You are signed out").await);
    assert_eq!(house.live_sessions().await, 0);
    assert_policy_kept(&chrome).await;
    back_shows_nothing_protected(&chrome, &house, "alice").await;
    // Keycloak's own session is over too: it asks for the password again.
    chrome.goto(&format!("{}/auth/login", house.url)).await;
    chrome.wait_for("#password").await;
    chrome.close().await;
}

#[tokio::test]
async fn wb_06_wb_10_the_same_at_the_development_issuer_breaks_no_policy() {
    let house = TestHouse::open().await;
    let chrome = chromium::browser().await;
    signs_in_as_alice(&chrome, &house).await;
    for path in ["/protected", "/auth/account", "/auth/nowhere", "/admin-only", "/auth/logout"] {
        chrome.goto(&format!("{}{path}", house.url)).await;
        chrome.wait_for("main").await;
        assert_policy_kept(&chrome).await;
    }
    chrome.goto(&format!("{}/auth/account", house.url)).await;
    chrome.click("form[action='/auth/logout'] button").await;
    arrives(&chrome, &house, "/auth/signed-out").await;
    assert_policy_kept(&chrome).await;
    back_shows_nothing_protected(&chrome, &house, "alice").await;
    chrome.close().await;
}

#[tokio::test]
async fn one_browser_signs_the_other_out() {
    let house = TestHouse::open().await;
    let (here, there) = (chromium::browser().await, chromium::browser().await);
    signs_in_as_alice(&here, &house).await;
    signs_in_as_alice(&there, &house).await;
    here.goto(&format!("{}/auth/account", house.url)).await;
    here.click("form[action$='/end'] button").await;
    arrives(&here, &house, "/auth/account").await;
    assert_eq!(house.live_sessions().await, 1);
    assert_policy_kept(&here).await;
    there.goto(&format!("{}/auth/account", house.url)).await;
    assert!(page_has(&there, "You are not signed in").await);
    here.goto(&format!("{}/protected", house.url)).await;
    arrives(&here, &house, "/protected").await;
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn a_person_without_a_mouse_signs_in_and_out() {
    let house = TestHouse::open().await;
    let chrome = chromium::browser().await;
    chrome.goto(&house.url).await;
    reaches_by_keyboard(&chrome, "main a[href^='/auth/login']").await;
    reaches_by_keyboard(&chrome, "button[value='alice']").await;
    arrives(&chrome, &house, "/protected").await;
    chrome.goto(&format!("{}/auth/account", house.url)).await;
    reaches_by_keyboard(&chrome, "form[action='/auth/logout'] button").await;
    arrives(&chrome, &house, "/auth/signed-out").await;
    chrome.close().await;
}

/// Both schemes at the width of a phone and of a desk, into `target/screenshots`, and no page wider than its window.
async fn pictures(chrome: &Chrome, name: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    for (width, height) in [(390, 844), (1280, 900)] {
        chrome.set_size(width, height).await;
        let needed = chrome.run("return document.documentElement.scrollHeight").await.as_u64().unwrap();
        chrome.set_size(width, height.max(u32::try_from(needed).unwrap())).await;
        for (dark, scheme) in [(false, "light"), (true, "dark")] {
            chrome.dark(dark).await;
            // Colours change gently, and a picture is taken at once.
            chrome.run("document.getAnimations().forEach(a => a.finish())").await;
            chrome.screenshot(&folder.join(format!("{name}-{width}-{scheme}.png"))).await;
        }
    }
    for width in [320, 390, 720, 800, 1000, 1100, 1280] {
        chrome.set_size(width, 800).await;
        let wide = chrome.run("return document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(wide <= u64::from(width), "{name} is {wide} wide in a window of {width}");
    }
    assert_policy_kept(chrome).await;
}

#[tokio::test]
async fn every_page_is_drawn_at_both_widths_and_in_both_schemes() {
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let tables = format!("{}{}", op_provider("one", &one), op_provider("two", &two))
        .replace("Provider one", "Company login")
        .replace("Provider two", "Partners and suppliers");
    let house = TestHouse::with(&tables).open().await;
    let long = "Maximiliane-Alexandra Freifrau von Donnersmarck-Hohenstein";
    let person = Person::named("maximiliane").with("name", long).with("org_id", "acme");
    let groups = ["finance", "board-of-directors", "a-group-with-quite-a-long-name-in-it"];
    let person = person.with("roles", json!(["user", "admin"])).with("groups", json!(groups));
    one.script(|s| s.person = person.clone());
    let chrome = chromium::browser().await;
    for (name, path) in [
        ("welcome", "/"),
        ("choose", "/auth/login"),
        ("error", "/auth/callback/one?code=a&state=b"),
        ("lost", "/nowhere"),
        ("signed-out", "/auth/signed-out?left_open=one&return_to=/"),
    ] {
        chrome.goto(&format!("{}{path}", house.url)).await;
        chrome.wait_for("main").await;
        pictures(&chrome, name).await;
    }
    let other = house.browser().with_header("user-agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Mobile/15E148 Safari/604.1");
    other.sign_in("/auth/login?provider=one").await;
    chrome.goto(&format!("{}/auth/login?provider=one", house.url)).await;
    for (name, path) in [
        ("welcome-back", "/"),
        ("protected", "/protected"),
        ("admin", "/admin-only"),
        ("account", "/auth/account"),
        ("sign-out", "/auth/logout"),
    ] {
        chrome.goto(&format!("{}{path}", house.url)).await;
        chrome.wait_for("main").await;
        pictures(&chrome, name).await;
    }
    chrome.close().await;
}

#[tokio::test]
async fn the_development_issuers_page_is_drawn_too() {
    let house = TestHouse::open().await;
    let chrome = chromium::browser().await;
    chrome.goto(&format!("{}/auth/login", house.url)).await;
    chrome.wait_for("button[value='alice']").await;
    pictures(&chrome, "dev-sign-in").await;
    chrome.close().await;
}

#[tokio::test]
async fn a_person_without_a_mouse_gets_an_account_and_signs_in_with_it() {
    let more = "[[provider]]\nid = \"partners\"\nkind = \"keycloak\"\nlabel = \"Partners and suppliers\"\nissuer = \"http://127.0.0.1:9/realms/p\"\nclient_id = \"d\"\nclient_secret = \"s3cret-of-the-client\"\nregistration = true\n";
    let dev = "[[provider]]\nid = \"dev\"\nkind = \"dev\"\nlabel = \"Company login\"\nclient_id = \"doorward\"\nclient_auth = \"none\"\nregistration = true\n";
    let house = TestHouse::with(&format!("{dev}{more}")).open().await;
    let chrome = chromium::browser().await;
    chrome.goto(&format!("{}/auth/login?return_to=/protected", house.url)).await;
    reaches_by_keyboard(&chrome, "a[href^='/auth/register']").await;
    arrives(&chrome, &house, "/auth/register").await;
    pictures(&chrome, "register").await;
    for (field, text) in
        [("username", "nina"), ("email", "nina@new.example"), ("firstName", "Nina"), ("password", "short")]
    {
        chrome.fill(&format!("#{field}"), text).await;
    }
    chrome.click("input[value='dev']").await;
    chrome.click("button[type='submit']").await;
    chrome.wait_for("#password-fault").await;
    pictures(&chrome, "register-again").await;
    assert_eq!(chrome.run("return document.activeElement.id").await, "password", "where the fault is");
    assert_eq!(chrome.run("return document.querySelector('#username').value").await, "nina");
    chrome.fill("#password", "long enough for anybody").await;
    reaches_by_keyboard(&chrome, "button[type='submit']").await;
    chrome.click("button[value='nina']").await;
    arrives(&chrome, &house, "/protected").await;
    assert!(page_has(&chrome, "nina").await);
    assert_policy_kept(&chrome).await;
    chrome.close().await;
}
