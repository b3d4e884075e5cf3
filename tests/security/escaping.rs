//! WB-09: whatever strangers, providers and people write comes out as text, in every place where it comes out at all.

use crate::house::browser::{Browser, Page};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Person, ScriptedOp};

/// Each would run, break out or forge a line if it were written down as it is. None holds a control character: those never pass a login.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "\" autofocus onfocus=\"alert(1)",
    "' onmouseover='alert(1)",
    "</title></style></textarea><img src=x onerror=alert(1)>",
    "--><svg/onload=alert(1)>",
    "{{ 1337*1337 }}{% include \"x\" %}${1337*1337}",
    "javascript:alert(1)",
    "&lt;b&gt;&#x3c;i&#x3e;<b>",
    "\"},{\"admin\":true,\"x\":\"",
];

fn hostile_person(evil: &str) -> Person {
    Person::named("mallory")
        .with("name", evil)
        .with("given_name", evil)
        .with("family_name", evil)
        .with("preferred_username", evil)
        .with("nickname", evil)
        .with("locale", evil)
        .with("picture", format!("https://pictures.example/{evil}"))
        .with("org_id", evil)
        .with("roles", serde_json::json!([evil, "admin"]))
        .with("groups", serde_json::json!([evil]))
}

/// No tag but ours, no attribute that runs, and the text itself never as it was.
fn assert_inert(page: &Page, evil: &str, place: &str) {
    let html = page.text();
    let case = format!("{place}: {evil}\n{html}");
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{case}");
    assert!(!evil.contains(['<', '"']) || !html.contains(evil), "{case}");
    let lower = html.to_lowercase();
    for tag in ["<script", "<img src=x", "<svg/", "<iframe", "<b>", "javascript:"] {
        let as_text = tag == "javascript:" && !lower.contains("=\"javascript:");
        assert!(as_text || !lower.contains(tag), "{tag} in {case}");
    }
    for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        // Outside of quotes, a tag of ours holds no event attribute.
        let bare: String = tag.split('"').step_by(2).collect();
        assert!(
            !bare.contains("onfocus") && !bare.contains("onmouseover") && !bare.contains("onerror"),
            "{case}"
        );
    }
    assert!(!html.contains("1787569"), "a template was evaluated in {case}");
    let headers = format!("{:?}", page.headers);
    assert!(!headers.contains("alert(1)"), "{headers}");
}

/// JSON stays JSON: what went in comes out of the parser, and no browser takes it for a page.
fn assert_inert_json(page: &Page, evil: &str, place: &str) {
    let kind = page.header("content-type").unwrap();
    assert!(kind == "application/json" || kind == "application/problem+json", "{place}: {kind}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{place}");
    assert!(page.json().is_object(), "{place} {evil}");
    assert!(page.json().get("admin").is_none(), "{place} {evil}");
}

#[tokio::test]
async fn wb_09_a_providers_strings_are_text_on_every_page_and_in_json() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for (n, evil) in HOSTILE.iter().enumerate() {
        let mut person = hostile_person(evil);
        person.sub = format!("mallory-{n}");
        op.script(|s| s.person = person);
        let browser = house.browser().with_header("user-agent", evil);
        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{evil}: {}", page.text());
        assert_inert(&page, evil, "/protected");
        for path in ["/", "/admin-only", "/auth/account", "/auth/logout", "/auth/nowhere"] {
            assert_inert(&browser.navigate(path).await, evil, path);
        }
        let me = browser.get_json("/auth/me").await;
        assert_inert_json(&me, evil, "/auth/me");
        assert_eq!(me.json()["user"]["displayName"], *evil);
        assert!(
            me.json()["user"]["roles"].as_array().unwrap().contains(&(*evil).into()),
            "{evil}: {}",
            me.text()
        );
        let sessions = browser.get_json("/auth/sessions").await;
        assert_inert_json(&sessions, evil, "/auth/sessions");
        assert_eq!(sessions.json()["sessions"][0]["userAgent"], *evil);
    }
}

/// Values that hold line breaks, NUL or terminal codes never get that far.
#[tokio::test]
async fn wb_09_claims_with_control_characters_are_dropped() {
    let op = ScriptedOp::start().await;
    let house = TestHouse::with_op(&op).open().await;
    for (n, evil) in
        ["a\r\nX-Auth-Roles: admin", "a\u{0}b", "\u{1b}[2Jclear", "a\nb", "a\u{85}b"].iter().enumerate()
    {
        let mut person = hostile_person(evil);
        person.sub = format!("mallory-{n}");
        op.script(|s| s.person = person);
        let browser = house.browser();
        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        assert_eq!(page.status, 200, "{evil:?}: {}", page.text());
        let me = browser.get_json("/auth/me").await.json();
        let text = me.to_string();
        assert!(
            !text.contains("X-Auth-Roles") && !text.contains("\\u0000") && !text.contains("clear"),
            "{me}"
        );
        assert!(!page.text().contains("X-Auth-Roles: admin"), "{evil:?}");
    }
}

fn encoded(name: &str, value: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}

#[tokio::test]
async fn wb_09_what_a_stranger_puts_into_an_address_is_text() {
    let (one, two) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let house =
        TestHouse::with(&format!("{}{}", op_provider("one", &one), op_provider("two", &two))).open().await;
    let browser = house.browser();
    for evil in
        HOSTILE.iter().chain(&["a\r\nset-cookie: doorward=1", "\u{202e}gpj.exe", "%3Cscript%3Ealert(1)"])
    {
        let in_query = [
            "/auth/login?return_to",
            "/auth/login?login_hint",
            "/auth/login?provider",
            "/auth/login?prompt",
            "/auth/login?max_age",
            "/auth/login?acr_values",
            "/auth/login?organization",
            "/auth/login?screen",
            "/auth/login?iss",
            "/auth/login?unknown",
            "/auth/logout?return_to",
            "/auth/signed-out?return_to",
            "/auth/signed-out?left_open",
            "/auth/signed-out?state",
            "/auth/callback/one?code",
            "/auth/callback/one?state",
            "/nowhere?x",
        ];
        for place in in_query {
            let (path, name) = place.split_once('?').unwrap();
            let page = browser.navigate(&format!("{path}?{}", encoded(name, evil))).await;
            assert!(
                page.set_cookies().iter().all(|c| c.name != "doorward" || c.value.is_empty()),
                "{place} {evil}"
            );
            assert_inert(&page, evil, place);
        }
        let error = encoded("error_description", evil);
        let uri = encoded("error_uri", evil);
        let page =
            browser.navigate(&format!("/auth/callback/one?error=access_denied&state=x&{error}&{uri}")).await;
        assert_inert(&page, evil, "error_description");
        let segment =
            url::form_urlencoded::byte_serialize(evil.as_bytes()).collect::<String>().replace('+', "%20");
        for path in [
            format!("/auth/{segment}"),
            format!("/auth/callback/{segment}"),
            format!("/{segment}"),
            format!("/auth/static/{segment}"),
        ] {
            let page = browser.navigate(&path).await;
            assert!((400..500).contains(&page.status), "{path}");
            assert_inert(&page, evil, &path);
            assert_inert_json(&browser.get_json(&path).await, evil, &path);
        }
    }
}

/// The link of a choice keeps what was asked, as a query of ours and nothing more.
#[tokio::test]
async fn wb_09_labels_and_kept_queries_on_the_choose_page_are_text() {
    let op = ScriptedOp::start().await;
    for evil in HOSTILE {
        let label = |id: &str| {
            let table = op_provider(id, &op);
            table.replace(&format!("label = \"Provider {id}\""), &format!("label = {}", toml_text(evil)))
        };
        let second = label("two").replace("client_id = \"doorward\"", "client_id = \"other\"");
        let text = format!("{}{second}", label("one"));
        let house = TestHouse::with(&text).open().await;
        let page = house.browser().navigate(&format!("/auth/login?{}", encoded("login_hint", evil))).await;
        assert_eq!(page.status, 200);
        assert_inert(&page, evil, "choose");
        let links: Vec<_> = page.text().matches("href=\"/auth/login?provider=").map(str::len).collect();
        assert_eq!(links.len(), 2, "{}", page.text());
        let out = house.browser().navigate("/auth/signed-out?left_open=one").await;
        assert_inert(&out, evil, "left_open");
    }
}

fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Headers of strangers that name requests and traces are not repeated.
#[tokio::test]
async fn wb_09_headers_are_not_echoed() {
    let house = TestHouse::open().await;
    let mut browser: Browser = house.browser();
    for name in [
        "x-request-id",
        "traceparent",
        "tracestate",
        "referer",
        "x-forwarded-for",
        "accept-language",
        "x-canary",
    ] {
        browser = browser.with_header(name, "canary<script>alert(1)</script>");
    }
    for path in ["/", "/auth/me", "/auth/logout", "/auth/nowhere", "/protected"] {
        let page = browser.navigate(path).await;
        assert!(
            !page.text().contains("canary") && !format!("{:?}", page.headers).contains("canary"),
            "{path}"
        );
    }
}
