//! The authorization request: what goes out with it, and what no visitor can put into it.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::dev_idp;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::stage::{Stage, param, set};
use crate::house::browser::Browser;
use crate::house::home::{TestHouse, op_provider};
use crate::house::op::{ClientAuth, ScriptedOp, SilentListener};

/// Where `/auth/login…` sends a new visitor.
async fn sent(stage: &Stage, login: &str) -> Url {
    let page = stage.browser().navigate(login).await;
    page.location().unwrap_or_else(|| panic!("{login} answers {}: {}", page.status, page.text()))
}

#[tokio::test]
async fn ar_02_a_thousand_logins_have_a_thousand_challenges_states_and_nonces() {
    let stage = Stage::open().await;
    let browser = stage.browser();
    let (mut challenges, mut states, mut nonces) = (HashSet::new(), HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let page = browser.get("/auth/login").await;
        let url = page.location().unwrap();
        assert_eq!(param(&url, "code_challenge_method"), "S256");
        assert_eq!(param(&url, "response_type"), "code");
        let challenge = param(&url, "code_challenge");
        assert_eq!(URL_SAFE_NO_PAD.decode(&challenge).unwrap().len(), 32);
        for value in [param(&url, "state"), param(&url, "nonce")] {
            assert!(URL_SAFE_NO_PAD.decode(&value).unwrap().len() >= 32, "{value} is under 256 bits");
        }
        assert!(url.query_pairs().all(|(name, _)| name != "code_verifier"), "the verifier stays here");
        challenges.insert(challenge);
        states.insert(param(&url, "state"));
        nonces.insert(param(&url, "nonce"));
    }
    assert_eq!((challenges.len(), states.len(), nonces.len()), (1000, 1000, 1000));
    assert!(browser.cookies().len() <= 5, "a thousand starts leave five cookies");
    assert_eq!(stage.house.database.number("SELECT count(*) FROM used_attempts").await, 0);
}

#[tokio::test]
async fn ar_02_the_verifier_at_the_token_endpoint_is_the_one_that_was_promised() {
    for (case, client_auth, keys) in [
        ("confidential", ClientAuth::Basic, ""),
        ("confidential, in the body", ClientAuth::Post, "client_auth = \"client_secret_post\""),
    ] {
        let stage = Stage::with(keys).await;
        stage.op.script(|s| {
            s.client_auth = client_auth;
            s.discovery(|d| set(d, "code_challenge_methods_supported", None));
        });
        stage.accepted(case).await;
        verifier_fits(&stage, case);
        stage.op.clear();
        stage.op.script(|s| {
            s.discovery(|d| set(d, "code_challenge_methods_supported", Some(&serde_json::json!(["plain"]))));
        });
        stage.house.clock.advance(std::time::Duration::from_hours(2));
        stage.accepted("metadata lists plain alone").await;
        verifier_fits(&stage, "plain");
    }
    let op = ScriptedOp::start().await;
    op.script(|s| s.client_auth = ClientAuth::None);
    let table = op_provider("op", &op);
    let table =
        table.lines().filter(|line| !line.starts_with("client_secret")).collect::<Vec<_>>().join("\n");
    let public = Stage::of(op, TestHouse::with(&format!("{table}\nclient_auth = \"none\"\n"))).await;
    public.accepted("a public client").await;
    verifier_fits(&public, "public");
}

fn verifier_fits(stage: &Stage, case: &str) {
    let asked = stage.op.requests_to("/authorize").pop().unwrap();
    let spent = stage.op.requests_to("/token").pop().unwrap();
    let verifier = spent.form("code_verifier").unwrap();
    assert!((43..=128).contains(&verifier.len()), "{case}");
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    assert_eq!(asked.query("code_challenge").unwrap(), hash, "{case}");
    assert_eq!(asked.query("code_challenge_method").unwrap(), "S256", "{case}");
}

#[tokio::test]
async fn ar_17_no_redirect_of_ours_repeats_a_post() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    let mut page = browser.navigate("/protected").await;
    let mut posts = 0;
    for _ in 0..12 {
        if page.is_redirect() {
            assert!(matches!(page.status, 302 | 303), "{} redirects with {}", page.url, page.status);
            page = browser.follow(page, 1).await;
        } else if page.url.path().starts_with("/dev-idp/") {
            posts += 1;
            page = browser.submit(&page, page.forms().first().unwrap(), &[("username", "alice")]).await;
        } else {
            break;
        }
    }
    assert_eq!((page.status, page.url.path(), posts), (200, "/protected", 1));
    let out = browser.post_form("/auth/logout", &[]).await;
    assert_eq!(out.status, 303);
    assert_eq!(house.dev_idp().times_asked(dev_idp::Endpoint::Token), 1);
}

#[tokio::test]
async fn ar_20_a_login_begun_elsewhere_goes_to_configured_issuers_and_checked_targets() {
    let silent = SilentListener::serving("application/json", "{}");
    let (a, b) = (ScriptedOp::start().await, ScriptedOp::start().await);
    let house = TestHouse::with(&format!("{}{}", op_provider("a", &a), op_provider("b", &b))).open().await;
    let login = |pairs: &[(&str, &str)]| {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("/auth/login?{query}")
    };
    for unknown in [
        silent.url(""),
        format!("{}/", a.issuer()),
        "https://evil.example".into(),
        a.issuer().to_uppercase(),
        "a".into(),
    ] {
        let browser = house.browser();
        let page = browser.navigate(&login(&[("iss", &unknown), ("target_link_uri", "/protected")])).await;
        assert_eq!((page.status, page.location()), (400, None), "{unknown}");
        assert!(browser.cookies().is_empty(), "{unknown}");
    }
    for op in [&a, &b] {
        let page = house
            .browser()
            .sign_in(&login(&[
                ("iss", &op.issuer()),
                ("login_hint", "ada@example.test"),
                ("target_link_uri", "/protected"),
            ]))
            .await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"));
        assert_eq!(
            op.requests_to("/authorize").pop().unwrap().query("login_hint").unwrap(),
            "ada@example.test"
        );
    }
    for hostile in [
        silent.url("/"),
        "//evil.example/".into(),
        "/\\evil.example".into(),
        "javascript:alert(1)".into(),
        "https://localhost@evil.example/".into(),
        "/auth/logout".into(),
        "\thttps://evil.example".into(),
    ] {
        let page =
            house.browser().sign_in(&login(&[("iss", &a.issuer()), ("target_link_uri", &hostile)])).await;
        assert_eq!((page.url.path(), page.url.host_str()), ("/", Some("localhost")), "{hostile}");
    }
    silent.assert_silent();
}

#[tokio::test]
async fn ar_21_nothing_on_the_sign_in_link_overrides_the_protocol() {
    let stage = Stage::open().await;
    let names = |url: &Url| url.query_pairs().map(|(name, _)| name.into_owned()).collect::<Vec<_>>();
    let plain = sent(&stage, "/auth/login").await;
    let smuggled = "scope=admin&redirect_uri=https://evil.example/&client_id=evil&response_type=token&response_mode=fragment\
        &code_challenge=x&code_challenge_method=plain&state=fixed&nonce=fixed&request=eyJ&request_uri=https://evil.example/\
        &claims={}&resource=https://evil.example/&id_token_hint=x&registration=x&audience=x&ui_locales=x&display=popup&dpop_jkt=x";
    let url = sent(&stage, &format!("/auth/login?{smuggled}")).await;
    assert_eq!(names(&url), names(&plain), "no parameter more, none less, none twice");
    for name in ["scope", "redirect_uri", "client_id", "response_type", "code_challenge_method"] {
        assert_eq!(param(&url, name), param(&plain, name), "{name}");
    }
    assert_eq!(param(&url, "scope"), "openid email profile");
    for name in ["state", "nonce", "code_challenge"] {
        assert_eq!(param(&url, name).len(), 43, "{name} is ours");
    }
    // Values that try to bring parameters of their own stay values.
    let url = sent(
        &stage,
        "/auth/login?login_hint=a%26redirect_uri%3Dhttps%3A%2F%2Fevil.example&acr_values=1%26prompt%3Dnone",
    )
    .await;
    assert_eq!(param(&url, "redirect_uri"), param(&plain, "redirect_uri"));
    assert_eq!(param(&url, "login_hint"), "a&redirect_uri=https://evil.example");
    assert!(!names(&url).contains(&"prompt".to_owned()));
    let refused = [
        "login_hint=a&login_hint=b",
        "prompt=login&prompt=none",
        "provider=op&provider=op",
        "prompt=evil",
        "max_age=x",
        "max_age=-1",
        "login_hint=a%0d%0ab",
    ];
    for bad in refused {
        let page = stage.browser().navigate(&format!("/auth/login?{bad}")).await;
        assert_eq!((page.status, page.location()), (400, None), "{bad}");
    }
}

#[tokio::test]
async fn ar_21_extra_parameters_of_the_operator_cannot_be_protocol_parameters() {
    let op = ScriptedOp::start().await;
    let table = |name: &str| format!("{}extra_auth_params = {{ {name} = \"x\" }}\n", op_provider("op", &op));
    let stage = TestHouse::with(&table("kc_idp_hint")).open().await;
    let url = stage.browser().navigate("/auth/login").await.location().unwrap();
    assert_eq!(param(&url, "kc_idp_hint"), "x");
    for name in [
        "state",
        "nonce",
        "redirect_uri",
        "client_id",
        "scope",
        "response_type",
        "code_challenge",
        "request_uri",
        "request",
    ] {
        let text = table(name);
        let opened = tokio::spawn(async move { TestHouse::with(&text).open().await }).await;
        assert!(opened.is_err(), "a house opened with extra_auth_params.{name}");
    }
}

async fn goes_round(browser: &Browser, login: &str) -> u16 {
    let start = browser.navigate(login).await;
    let end = browser.follow(start, 40).await;
    assert!(!end.is_redirect(), "still going round at {}", end.url);
    end.status
}

#[tokio::test]
async fn ar_22_a_provider_that_wants_the_person_again_and_again_is_asked_twice_at_most() {
    for error in [
        "login_required",
        "interaction_required",
        "consent_required",
        "account_selection_required",
        "temporarily_unavailable",
    ] {
        let stage = Stage::open().await;
        stage.op.script(|s| s.deny(error));
        let browser = stage.browser();
        let status = goes_round(&browser, "/auth/login?return_to=/protected").await;
        assert_eq!((status, stage.op.count("/authorize")), (503, 2), "{error}");
        assert_eq!((stage.op.count("/token"), stage.house.live_sessions().await), (0, 0), "{error}");
        assert_eq!(stage.house.refusals("provider_unavailable").await, 1, "{error}");
        assert!(browser.cookies().is_empty(), "{error} leaves {:?}", browser.cookies());
    }
}

#[tokio::test]
async fn ar_22_silent_logins_happen_only_where_configured_and_never_in_a_loop() {
    let stage = Stage::open().await;
    let page = stage.browser().navigate("/auth/login?prompt=none").await;
    assert_eq!((page.status, page.location()), (400, None), "silent login is off by default");
    assert_eq!(stage.op.count("/authorize"), 0);

    let silent = Stage::with("silent_login = true").await;
    let page = silent.browser().sign_in("/auth/login?prompt=none&return_to=/protected").await;
    assert_eq!((page.status, page.url.path()), (200, "/protected"));
    assert_eq!(silent.op.requests_to("/authorize").pop().unwrap().query("prompt").unwrap(), "none");
    for error in ["login_required", "interaction_required", "consent_required"] {
        silent.op.clear();
        silent.op.script(|s| s.deny(error));
        let status = goes_round(&silent.browser(), "/auth/login?prompt=none&return_to=/protected").await;
        assert_eq!((status, silent.op.count("/authorize")), (401, 1), "{error}");
    }
}
