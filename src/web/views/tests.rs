use super::*;

/// Each would run, break out or mislead if it were written down as it is.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\" onmouseover=\"alert(1)",
    "' style='x' autofocus onfocus='alert(1)",
    "</title></main><img src=x onerror=alert(1)>",
    "\u{202e}gpj.exe\u{200f}&amp;{{ 7*7 }}",
];

fn chrome(evil: &str) -> Chrome {
    Chrome {
        auth_prefix: "/auth".to_owned(),
        host: evil.to_owned(),
        asset_version: asset_version(),
        signed_in_as: Some(evil.to_owned()),
    }
}

fn account(evil: &str) -> Account {
    let text = || evil.to_owned();
    let moment = || Moment { iso: text(), text: text() };
    let row = |current| SessionRow {
        id: text(),
        current,
        device: text(),
        ip: text(),
        created: moment(),
        last_active: moment(),
        expires: moment(),
        provider_label: text(),
    };
    Account {
        chrome: chrome(evil),
        user: Profile {
            display_name: text(),
            initials: text(),
            email: Some(text()),
            username: Some(text()),
            provider_label: text(),
            roles: vec![text(), text()],
            groups: vec![text()],
            tenant: Some(text()),
        },
        sessions: vec![row(true), row(false)],
        others: true,
        notice: Some(text()),
    }
}

fn problem(status: u16, evil: &str) -> ProblemPage {
    let text = || evil.to_owned();
    ProblemPage {
        chrome: chrome(evil),
        status,
        title: text(),
        detail: text(),
        code: text(),
        request_id: text(),
        faults: vec![FieldFault { field: text(), detail: text() }],
        action: Some(Action { label: text(), href: text() }),
    }
}

/// Every page with one hostile value in every field it has.
fn pages(evil: &str) -> Vec<(&'static str, String)> {
    let text = || evil.to_owned();
    let choice = Choice { label: text(), href: text(), detail: Some(text()), initial: text() };
    let offer = |chosen| Place { id: text(), label: text(), chosen };
    let form = PasswordForm {
        providers: vec![offer(true), offer(false)],
        username: text(),
        return_to: Some(text()),
        said: vec![text()],
    };
    let choose = ChooseProvider {
        chrome: chrome(evil),
        providers: vec![choice],
        notice: Some(text()),
        form: Some(form),
        register_href: Some(text()),
    };
    let signed_out = SignedOut {
        chrome: chrome(evil),
        left_open: Some(text()),
        sign_in_href: text(),
        continue_href: Some(text()),
    };
    let sign_out = SignOut { chrome: chrome(evil), return_to: Some(text()) };
    vec![
        ("choose", choose.render().unwrap()),
        ("signed out", signed_out.render().unwrap()),
        ("sign out", sign_out.render().unwrap()),
        ("problem", problem(403, evil).render().unwrap()),
        ("account", account(evil).render().unwrap()),
    ]
}

/// The tags of a document as (name, attribute names), read the way a browser does: quotes decide
/// where a value ends.
fn tags(html: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let mut names = Vec::new();
        let mut word = String::new();
        let mut quote = None;
        let mut length = 0;
        for letter in rest.chars() {
            length += letter.len_utf8();
            match (quote, letter) {
                (Some(open), _) if open == letter => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(letter),
                (None, '>') => break,
                (None, ' ' | '\n' | '=' | '/') => names.push(std::mem::take(&mut word)),
                (None, _) => word.push(letter),
            }
        }
        names.push(word);
        names.retain(|name| !name.is_empty());
        if !names.is_empty() {
            let tag = names.remove(0);
            found.push((tag, names));
        }
        rest = &rest[length..];
    }
    found
}

#[test]
fn wb_09_no_value_becomes_markup_on_any_page() {
    let calm: Vec<_> = pages("calm").into_iter().map(|(_, html)| tags(&html)).collect();
    for evil in HOSTILE {
        for ((page, html), calm) in pages(evil).into_iter().zip(&calm) {
            assert!(!html.contains(evil), "{page} repeats {evil:?} as it is");
            assert_eq!(&tags(&html), calm, "{page} got other markup from {evil:?}");
        }
    }
}

#[test]
fn no_page_carries_script_or_inline_style() {
    for evil in HOSTILE {
        for (page, html) in pages(evil) {
            for (tag, attributes) in tags(&html) {
                assert_ne!(tag.to_lowercase(), "script", "{page}");
                assert_ne!(tag.to_lowercase(), "style", "{page}");
                for name in attributes {
                    assert!(name != "style" && !name.starts_with("on"), "{page}: <{tag} {name}>");
                }
            }
        }
    }
}

#[test]
fn what_a_stranger_wrote_cannot_turn_the_sentence_around_it() {
    let html = problem(400, "\u{202e}abc").render().unwrap();
    assert!(html.contains("<bdi>\u{202e}abc</bdi>"), "the detail stands in its own direction");
}

#[test]
fn a_link_leads_to_a_path_here_or_a_web_address_and_nowhere_else() {
    for good in ["/", "/auth/login?return_to=/a", "https://id.example/x", "http://localhost:1/"] {
        assert_eq!(link(good), good);
    }
    for bad in [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,x",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "",
        "evil",
    ] {
        assert_eq!(link(bad), "/", "{bad:?}");
    }
}

#[test]
fn the_sign_out_page_posts_where_it_should_go_on_to() {
    let page = SignOut { chrome: chrome("app.example"), return_to: Some("/a?b=1&c=2".to_owned()) };
    let html = page.render().unwrap();
    assert!(html.contains(r#"method="post" action="/auth/logout""#));
    assert!(html.contains(r#"name="return_to" value="/a?b=1&#38;c=2""#));
    assert!(html.contains(r#"href="/a?b=1&#38;c=2""#), "staying leads back as well");
}

#[test]
fn the_account_page_ends_this_session_by_logout_and_others_by_their_id() {
    let mut page = account("x");
    page.sessions[1].id = "a/b?c".to_owned();
    let html = page.render().unwrap();
    assert!(html.contains(r#"action="/auth/account/sessions/a%2Fb%3Fc/end""#));
    assert!(html.contains(r#"action="/auth/account/sessions/end-others""#));
    assert!(html.contains(r#"action="/auth/account/sessions/end-all""#));
    assert_eq!(html.matches(r#"action="/auth/logout""#).count(), 2);
    page.others = false;
    assert!(!page.render().unwrap().contains("end-others"), "nothing to end, nothing to press");
}

#[test]
fn a_problem_shows_its_reference_and_blames_nobody() {
    for status in [400, 401, 403, 404, 405, 409, 421, 422, 429, 500, 502, 503, 504] {
        let mut page = problem(status, "words");
        page.request_id = "01J9ZK3T".to_owned();
        let html = page.render().unwrap().to_lowercase();
        assert!(html.contains("<code>01j9zk3t</code>"));
        for word in ["your fault", "illegal", "invalid", "you failed", "must not"] {
            assert!(!html.contains(word), "{status}: {word}");
        }
    }
}

#[test]
fn names_become_initials_and_user_agents_become_words() {
    let names = [("Ada Lovelace", "AL"), ("alice", "A"), ("  ", "?"), ("Jean-Luc van Dam", "JD")];
    for (name, letters) in names {
        assert_eq!(initials(name), letters);
    }
    let agents = [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        ("curl/8.5.0", "Unknown device"),
    ];
    for (agent, words) in agents {
        assert_eq!(device(agent), words);
    }
}

#[test]
fn the_asset_version_is_sixteen_hex_digits() {
    let version = asset_version();
    assert!(version.len() == 16 && version.bytes().all(|byte| byte.is_ascii_hexdigit()));
}
