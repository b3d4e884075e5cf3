//! What fewer providers ask for: pushed requests, clients that sign, and callbacks by form post.

use serde_json::json;

use super::assert_rejected;
use super::stage::{Stage, attempts, honest, param};
use crate::house::browser::{Browser, Page};
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{Alg, Answer, ClientAuth, ScriptedOp, SigningKey, SilentListener, mint};
use crate::house::servers::chromium;

/// A provider table with `private_key_jwt` instead of the secret; the key lies in a file of this folder.
fn signing_client(op: &ScriptedOp, alg: Alg, folder: &std::path::Path) -> String {
    let key = SigningKey::shared(alg, 7);
    let path = folder.join("client.pem");
    std::fs::write(&path, key.private_pem()).unwrap();
    op.script(|s| {
        s.client_auth = ClientAuth::PrivateKeyJwt;
        s.client_key = Some(key);
    });
    let table = op_provider("op", op);
    let table: Vec<_> = table.lines().filter(|line| !line.starts_with("client_secret")).collect();
    format!(
        "{}\nclient_auth = \"private_key_jwt\"\nprivate_key_file = '{}'\nprivate_key_alg = \"{}\"\n",
        table.join("\n"),
        path.display(),
        alg.name()
    )
}

#[tokio::test]
async fn ar_23_a_client_may_prove_itself_by_signing() {
    for alg in Alg::ALL {
        let (op, folder) = (ScriptedOp::start().await, tempfile::tempdir().unwrap());
        let table = signing_client(&op, alg, folder.path());
        let stage = Stage::of(op, TestHouse::with(&table)).await;
        stage.accepted(alg.name()).await;
        // The provider refuses an assertion that it has seen before.
        stage.accepted(&format!("{} again", alg.name())).await;
        let sent = stage.op.requests_to("/token");
        let (header, claims) = mint::peek(&sent[0].form("client_assertion").unwrap()).unwrap();
        assert_eq!(
            (header["alg"].as_str(), claims["aud"].as_str()),
            (Some(alg.name()), Some(stage.op.issuer().as_str()))
        );
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!(life <= 60, "an assertion lives {life} s");
        assert!(
            sent.iter().all(|r| r.form("client_secret").is_none() && r.header("authorization").is_none())
        );
    }
}

#[tokio::test]
async fn ar_23_a_provider_that_requires_pushed_requests_gets_them() {
    for (case, auth) in [
        ("basic", ""),
        ("post", "client_auth = \"client_secret_post\""),
        ("always", "pushed_authorization = \"always\""),
    ] {
        let op = ScriptedOp::start().await;
        op.script(|s| s.require_par = case != "always");
        let stage = Stage::of(
            ScriptedOp::start().await,
            TestHouse::with(&format!("{}{auth}\n", op_provider("op", &op))),
        )
        .await;
        op.set_now(stage.now());
        let stage = Stage { op, house: stage.house };
        pushes(&stage, case).await;
    }
    let (op, folder) = (ScriptedOp::start().await, tempfile::tempdir().unwrap());
    op.script(|s| s.require_par = true);
    let table = signing_client(&op, Alg::Es256, folder.path());
    pushes(&Stage::of(op, TestHouse::with(&table)).await, "private_key_jwt").await;
}

async fn pushes(stage: &Stage, case: &str) {
    let start = stage.browser().navigate("/auth/login?login_hint=ada%40example.test").await;
    let url = start.location().unwrap_or_else(|| panic!("{case}: {}", start.text()));
    let names: Vec<_> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    assert_eq!(names, ["client_id", "request_uri"], "{case}: only the reference goes through the browser");
    assert!(param(&url, "request_uri").starts_with("urn:ietf:params:oauth:request_uri:"));
    let pushed = stage.op.requests_to("/par").pop().unwrap();
    assert_eq!(pushed.form("login_hint").unwrap(), "ada@example.test", "{case}");
    assert!(pushed.form("request_uri").is_none() && pushed.form("code_challenge_method").unwrap() == "S256");
    let twice = pushed.form_pairs().iter().filter(|(name, _)| name == "client_id").count();
    assert!(twice <= 1, "{case}: client_id stands there {twice} times");
    stage.accepted(case).await;
}

#[tokio::test]
async fn ar_23_a_pushed_request_that_fails_sends_nobody_anywhere() {
    let silent = SilentListener::serving("application/json", "{\"request_uri\":\"urn:evil\"}");
    let op = ScriptedOp::start().await;
    let table = format!("{}pushed_authorization = \"always\"\n", op_provider("op", &op));
    let stage = Stage::of(op, TestHouse::with(&table)).await;
    let cases = [
        ("400", Answer::error(400, "invalid_request")),
        ("401", Answer::error(401, "invalid_client")),
        ("429", Answer::text(429, "text/plain", "later")),
        ("500", Answer::text(500, "text/html", "<h1>no")),
        ("HTML", Answer::text(201, "text/html", "<h1>hello")),
        ("no request_uri", Answer::json(201, &json!({"expires_in": 60}))),
        ("an empty request_uri", Answer::json(201, &json!({"request_uri": ""}))),
        ("a list", Answer::json(201, &json!({"request_uri": ["urn:x"]}))),
        ("202", Answer::json(202, &json!({"request_uri": "urn:x"}))),
        ("error with 201", Answer::json(201, &json!({"error": "server_error", "request_uri": "urn:x"}))),
        ("a redirect", Answer::Redirect(307, silent.url("/par"))),
        ("cut short", Answer::Truncated("application/json", b"{\"request_uri\":\"urn:x\"".to_vec())),
        ("closed", Answer::Close),
    ];
    for (case, answer) in cases {
        stage.op.script(|s| s.next("/par", answer));
        let browser = stage.browser();
        let page = browser.navigate("/auth/login").await;
        assert!(page.status >= 400 && page.location().is_none(), "{case}: {}", page.status);
        assert!(browser.cookies().is_empty(), "{case} leaves a cookie");
    }
    silent.assert_silent();
    assert_eq!(stage.op.count("/authorize"), 0);
    stage.accepted("afterwards").await;
}

const PUBLIC: &str = "https://app.example";

/// A house behind TLS whose provider answers by form post.
async fn posting() -> Stage {
    let op = ScriptedOp::start().await;
    let table = format!("{}response_mode = \"form_post\"\n", op_provider("op", &op));
    Stage::of(op, TestHouse::with(&table).set("SERVER__PUBLIC_URL", &format!("\"{PUBLIC}\""))).await
}

/// The provider's page, whose form is about to be posted to us.
async fn form_page(stage: &Stage) -> (Browser, Page) {
    let browser = Browser::behind_tls(PUBLIC, stage.house.address);
    let start = browser.navigate("/auth/login?return_to=/protected").await;
    let cookies = start.set_cookies();
    let attempt = cookies.iter().find(|c| c.name.starts_with("__Host-doorward-login-")).unwrap();
    assert_eq!(attempt.attribute("samesite"), Some("None"), "it must survive a cross-site POST");
    assert!(attempt.has("secure") && attempt.has("httponly"));
    assert_eq!(param(&start.location().unwrap(), "response_mode"), "form_post");
    let page = browser.follow(start, 1).await;
    assert_eq!(page.forms().len(), 1, "{}", page.text());
    (browser, page)
}

#[tokio::test]
async fn ar_19_a_form_post_signs_in_where_it_is_switched_on() {
    let stage = posting().await;
    let (browser, page) = form_page(&stage).await;
    let back = browser.submit(&page, &page.forms()[0], &[]).await;
    assert_eq!((back.status, back.header("location")), (303, Some("/protected")), "{}", back.text());
    assert_eq!(browser.navigate("/protected").await.status, 200);
    assert!(attempts(&browser).is_empty() && browser.cookie("__Host-doorward").is_some());
    // Posted once more it signs nobody in, and the token endpoint hears nothing.
    let again = browser.submit(&page, &page.forms()[0], &[]).await;
    assert_eq!(stage.op.count("/token"), 1);
    assert!(again.status == 303 || again.status == 400, "{}", again.status);
    let stranger = Browser::behind_tls(PUBLIC, stage.house.address);
    let stolen = stranger.submit(&page, &page.forms()[0], &[]).await;
    assert_eq!(stolen.status, 400);
    assert_eq!((stage.op.count("/token"), stage.house.live_sessions().await), (1, 1));
}

#[tokio::test]
async fn ar_19_a_callback_in_the_other_manner_is_405() {
    let query = Stage::open().await;
    let browser = query.browser();
    let callback = query.callback_of(&browser, "/auth/login").await;
    let url = url::Url::parse(&callback).unwrap();
    let fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for path in [callback.as_str(), "/auth/callback/op"] {
        let page = browser.post_form_from(&query.op.issuer(), path, &fields).await;
        assert_eq!((page.status, query.house.live_sessions().await), (405, 0), "POST {path}");
    }
    assert_eq!(browser.click(&query.op.issuer(), &callback).await.status, 303, "GET still works");

    let form = posting().await;
    let (browser, page) = form_page(&form).await;
    let fields = &page.forms()[0].fields;
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let page = browser.click(&form.op.issuer(), &format!("{PUBLIC}/auth/callback/op?{query}")).await;
    assert_eq!((page.status, form.house.live_sessions().await, form.op.count("/token")), (405, 0, 0));
}

/// A name, fields added (`+`) or removed (`-`), and the reason of the refusal.
type PostedCase<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn ar_08_and_ar_10_hold_for_a_posted_form_too() {
    let stage = posting().await;
    let long = "c".repeat(2049);
    let cases: [PostedCase; 9] = [
        ("code twice", &[("+code", "a")], "callback_repeated_parameter"),
        ("state twice", &[("+state", "a")], "callback_repeated_parameter"),
        ("iss twice", &[("+iss", "a")], "callback_repeated_parameter"),
        ("code and error", &[("+error", "access_denied")], "callback_malformed"),
        ("no code", &[("-code", "")], "callback_malformed"),
        ("an empty code", &[("-code", ""), ("+code", "")], "callback_malformed"),
        ("a long code", &[("-code", ""), ("+code", &long)], "callback_malformed"),
        ("no state", &[("-state", "")], "callback_malformed"),
        ("a token", &[("+id_token", "x")], "callback_token_in_front"),
    ];
    for (case, changes, reason) in cases {
        eprintln!("case: {case}");
        let (browser, page) = form_page(&stage).await;
        let mut fields = page.forms()[0].fields.clone();
        for (name, value) in changes {
            match name.split_at(1) {
                ("-", name) => fields.retain(|(known, _)| known != name),
                (_, name) => fields.push((name.to_owned(), (*value).to_owned())),
            }
        }
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let page =
            browser.post_form_from(&stage.op.issuer(), &format!("{PUBLIC}/auth/callback/op"), &fields).await;
        assert_rejected(&stage.house, &page, reason).await;
    }
    // What stands in the address of a posted callback does not count.
    let (browser, page) = form_page(&stage).await;
    let posted = page.forms().remove(0).fields;
    let fields: Vec<_> = posted.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let path = format!("{PUBLIC}/auth/callback/op?code=evil&state=evil&error=x");
    assert_eq!(browser.post_form_from(&stage.op.issuer(), &path, &fields).await.status, 303);
    assert_eq!(stage.op.count("/token"), 1);
}

#[tokio::test]
async fn ar_09_a_huge_posted_error_is_refused_and_shown_to_nobody() {
    let stage = posting().await;
    let (browser, page) = form_page(&stage).await;
    let known = page.forms()[0].fields.iter().find(|(name, _)| name == "state").unwrap().1.clone();
    let words = format!("kingfisher<script>{}", "x".repeat(100_000));
    let fields =
        [("state", known.as_str()), ("error", "access_denied"), ("error_description", words.as_str())];
    let answer =
        browser.post_form_from(&stage.op.issuer(), &format!("{PUBLIC}/auth/callback/op"), &fields).await;
    assert_eq!(answer.status, 413);
    assert!(!answer.text().contains("kingfisher") && stage.house.live_sessions().await == 0);
}

#[tokio::test]
async fn ar_19_a_real_browser_carries_the_login_through_a_cross_site_post() {
    let op = ScriptedOp::start().await;
    op.script(honest);
    let table = format!("{}response_mode = \"form_post\"\n", op_provider("op", &op));
    let stage = Stage::of(op, TestHouse::with(&table)).await;
    let chrome = chromium::browser().await;
    // The provider is 127.0.0.1 and the house is localhost: two sites to a browser.
    chrome.goto(&format!("{}/auth/login?return_to=/protected", stage.house.url)).await;
    chrome.wait_for("h1").await;
    let ends = chrome.current_url().await;
    assert_eq!(
        (ends.host_str(), ends.path()),
        (Some("localhost"), "/protected"),
        "{}",
        chrome.text("body").await
    );
    assert_eq!((stage.op.count("/token"), stage.house.live_sessions().await), (1, 1));
    chrome.close().await;
}
