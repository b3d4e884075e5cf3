use super::*;

fn sent(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_stranger_is_welcomed_and_shown_the_door() {
    let answer = page("/", &[], "/auth");
    assert_eq!(answer.status, 200);
    assert!(answer.html.contains(r#"href="/auth/login?return_to=/protected""#));
    assert!(answer.html.contains("Sign in"));
    assert!(!answer.html.contains("Sign out"));
    assert!(answer.html.contains(r#"href="/auth/static/doorward.css""#));
}

#[test]
fn a_guest_is_greeted_by_name_and_can_leave() {
    let headers = sent(&[("x-auth-user", "alice"), ("x-auth-name", "Zo%C3%AB%20%25")]);
    let answer = page("/?from=login", &headers, "/door");
    assert!(answer.html.contains("<bdi>Zoë %</bdi>"));
    assert!(answer.html.contains(r#"href="/door/account""#));
    assert!(answer.html.contains(r#"method="post" action="/door/logout""#));
    assert!(!answer.html.contains("/door/login"));
}

#[test]
fn a_guest_without_a_name_is_greeted_by_mail_or_id() {
    let by_mail = sent(&[("X-Auth-User", "u1"), ("X-Auth-Email", "a%2Cb@example.com")]);
    assert!(page("/", &by_mail, "/auth").html.contains("a,b@example.com"));
    assert!(page("/", &sent(&[("X-Auth-User", "u1")]), "/auth").html.contains("<bdi>u1</bdi>"));
}

#[test]
fn the_protected_page_shows_what_arrived_decoded_and_as_sent() {
    let headers = sent(&[
        ("X-Auth-User", "alice"),
        ("X-Auth-Roles", "user,lead%2C%20north"),
        ("Cookie", "theme=dark"),
        ("Authorization", "Bearer secret"),
    ]);
    let html = page("/protected", &headers, "/auth").html;
    assert!(html.contains("<code>X-Auth-Roles</code>"));
    assert!(html.contains("<bdi>user</bdi>") && html.contains("<bdi>lead, north</bdi>"));
    assert!(html.contains("sent as <code>user,lead%2C%20north</code>"));
    assert!(!html.contains("X-Auth-Tenant"), "absent is no header");
    assert!(!html.contains("secret") && !html.contains("theme=dark"));
}

#[test]
fn the_admin_page_is_there_and_other_paths_are_not() {
    assert_eq!(page("/admin-only", &sent(&[("X-Auth-User", "ada")]), "/auth").status, 200);
    for path in ["/admin-only/", "/nowhere", "//", ""] {
        assert_eq!(page(path, &[], "/auth").status, 404, "{path:?}");
    }
}

#[test]
fn wb_09_neither_path_nor_header_becomes_markup() {
    for evil in ["<script>x</script>", "%3Cscript%3Ex%3C/script%3E", "\" onclick=\"x", "'><b style=x>"] {
        let names = ["X-Auth-User", "X-Auth-Name", "X-Auth-Email", "X-Auth-Roles", "X-Auth-Tenant"];
        let headers = sent(&names.map(|name| (name, evil)));
        for path in ["/", "/protected", "/admin-only", evil] {
            let html = page(path, &headers, "/auth").html;
            for sign in ["<script", "\" onclick", "<b style", "'>"] {
                assert!(!html.contains(sign), "{path}: {sign} from {evil}");
            }
        }
    }
}

#[test]
fn bytes_that_are_no_text_do_no_harm() {
    let headers = sent(&[("X-Auth-User", "%FF%00%zz"), ("X-Auth-Roles", ",,")]);
    assert_eq!(page("/protected", &headers, "/auth").status, 200);
}
