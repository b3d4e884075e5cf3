//! Providers, upstreams and routes.

use super::*;

/// Lines that take the place of the client secret's, the key at fault and the problem. A line
/// that begins with `+` stands beside the secret.
const PROVIDER_FAULTS: &[(&str, &str, &str)] = &[
    ("", "client_secret_file", "is missing"),
    ("client_auth = 'private_key_jwt'", "private_key_file", "is missing"),
    ("client_auth = 'private_key_jwt'\nprivate_key_file = 'secret'", "private_key_file", "PEM"),
    ("+client_auth = 'none'", "client_auth", "although"),
    ("+client_auth = 'basic'", "client_auth", "not known"),
    ("+id_token_algs = ['none']", "id_token_algs", "proves nothing"),
    ("+id_token_algs = ['ES512']", "id_token_algs", "not an algorithm"),
    ("+id_token_algs = []", "id_token_algs", "is empty"),
    ("+scopes = ['a b']", "scopes", "not a scope"),
    ("+clock_skew = '301s'", "clock_skew", "out of range"),
    ("+extra_auth_params = { State = 'x' }", "extra_auth_params.State", "protocol"),
    ("+resource = ['api']", "resource", "absolute URI"),
    ("+password_form = true", "password_form", "password_login is false"),
    ("+require_iss = 'maybe'", "require_iss", "not known"),
    ("+allowed_tenants = ['t']", "allowed_tenants", "without issuer_template"),
    ("+issuer_template = 'https://x/{tenantid}'", "allowed_tenants", "nobody could sign in"),
    ("+tls_ca_file = 'secret'", "tls_ca_file", "PEM certificate"),
    ("+webhook = { tolerance = '5m' }", "webhook.secret_file", "missing"),
    ("+webhook = { secret = 's', tolerance = '16m' }", "webhook.tolerance", "out of range"),
    ("+admin = { client_id = 'a' }", "admin.client_secret_file", "missing"),
    ("+admin = { base_url = 'http://a.example' }", "admin.base_url", "http on a public"),
    ("+id_prefix = 'a b'", "id_prefix", "user id"),
    ("+former_issuers = ['x']", "former_issuers", "former issuer"),
    ("+client_secrt_file = 'secret'", "client_secrt_file", "not a known key"),
    ("+internal_base_url = 'http://k:1/x'", "internal_base_url", "path"),
];

#[test]
fn providers_are_checked() {
    let client = "client_secret_file = \"secret\"";
    for (lines, key, problem) in PROVIDER_FAULTS {
        let lines = match lines.strip_prefix('+') {
            Some(beside) => format!("{client}\n{beside}"),
            None => (*lines).to_owned(),
        };
        one_fault(faults(client, &lines), &format!("provider.keycloak.{key}"), problem);
    }
}

#[test]
fn both_spellings_of_require_iss_are_taken() {
    let client = "client_secret_file = \"secret\"";
    for (text, expected) in
        [("true", RequireIss::True), ("'false'", RequireIss::False), ("'auto'", RequireIss::Auto)]
    {
        let text = GOOD.replacen(client, &format!("{client}\nrequire_iss = {text}"), 1);
        let config = Folder::new().load_with(&text, &[]).unwrap().config;
        assert_eq!(config.providers[0].require_iss, expected);
    }
}

#[test]
fn lists_of_providers_are_checked() {
    let bearer = "client_secret = \"second-secret-canary\"";
    let jwt = faults(bearer, &format!("{bearer}\nbearer = \"jwt\""));
    one_fault(jwt, "provider.other-one.api_audiences", "is empty");
    let prefix = faults(bearer, &format!("{bearer}\nid_prefix = \"\""));
    one_fault(prefix, "provider.other-one.id_prefix", "too");
    let create = faults(bearer, &format!("{bearer}\nregistration = true"));
    one_fault(create, "provider.other-one.registration", "create users");
    one_fault(faults("\"other-one\"", "\"Other\""), "provider.Other.id", "not an id");
    one_fault(
        faults("\"keycloak\"\nkind = \"keycloak\"", "\"keycloak\"\nkind = \"auth0\""),
        "provider.keycloak.kind",
        "later release",
    );
    one_fault(faults("kind = \"oidc\"", "kind = \"saml\""), "provider.other-one.kind", "not a kind");
    let twice = faults("\"other-one\"", "\"keycloak\"");
    assert_eq!(keys(&twice), ["provider.keycloak.id"]);
    one_fault(
        Folder::new().load_with("[keys]\nring = { k1 = { file = \"k1\" } }", &[]).unwrap_err(),
        "provider",
        "is missing",
    );
}

#[test]
fn routes_are_checked() {
    let paths = ["x", "/a//b", "/a/../b", "/a/**/b", "/a*", "/a?b", "/a%20b", "/auth/x", "/auth"];
    for path in paths {
        let key = format!("route.\"{path}\".path");
        one_fault(faults("path = \"/**\"", &format!("path = \"{path}\"")), &key, path);
    }
    for path in ["/", "/a", "/a/", "/a/**", "/*/b", "/ü", "/author"] {
        assert_eq!(faults("path = \"/**\"", &format!("path = \"{path}\"")), [], "{path}");
    }
    let path = "path = \"/**\"";
    let table = [
        ("methods = []", "methods", "empty"),
        ("methods = [\"get\"]", "methods", "capitals"),
        ("methods = [\"CONNECT\"]", "methods", "never forwarded"),
        ("access = \"admins\"", "access", "not known"),
        ("access = \"public\"\nroles = [\"admin\"]", "roles", "public"),
        ("attach = [\"cookie\"]", "attach", "not known"),
        ("timeout = \"0s\"", "timeout", "out of range"),
        ("body_limit = \"10mb\"", "body_limit", "not understood"),
    ];
    for (line, key, problem) in table {
        let found = faults(path, &format!("{path}\n{line}"));
        one_fault(found, &format!("route.\"/**\".{key}"), problem);
    }
    one_fault(faults("upstream = \"app\"", "attach = [\"assertion\"]"), "route.\"/**\".attach", "for nobody");
    one_fault(faults("upstream = \"app\"", "upstream = \"ap\""), "route.\"/**\".upstream", "no upstream");
    one_fault(faults("http://127.0.0.1:3000", "http://127.0.0.1/x"), "upstream.app.urls", "upstream address");
}

#[test]
fn one_path_may_stand_twice_only_with_other_methods() {
    let second = |methods: &str| format!("[[route]]\npath = \"/x\"\nmethods = {methods}\n");
    let both = |a: &str, b: &str| more(&(second(a) + &second(b)), &[]);
    assert!(both("[\"GET\"]", "[\"POST\"]").is_ok());
    let key = "route.\"/x\".path";
    for (a, b) in [("[\"GET\"]", "[\"GET\"]"), ("[\"GET\"]", "[\"HEAD\"]"), ("[\"HEAD\"]", "[\"GET\"]")] {
        one_fault(both(a, b).unwrap_err(), key, "overlapping");
    }
    one_fault(more("[[route]]\npath = \"/**\"\n", &[]).unwrap_err(), "route.\"/**\".path", "overlapping");
}
