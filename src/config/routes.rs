//! `[[upstream]]` and `[[route]]`: where requests go and who may send them.

use std::path::PathBuf;

use super::{
    address,
    reader::Reader,
    units::{DAY_MS, HOUR_MS, SECOND_MS},
};

/// One `[[upstream]]`: the app behind the door.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `[a-z0-9-]{1,32}`; the `aud` of identity assertions.
    pub id: String,
    /// Origins without a path, or `builtin:demo` alone.
    pub urls: Vec<String>,
    /// The one authority whose certificates an https address may show; `None` = the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Asked every few seconds at each address, which is passed over while it answers with an error; `None` = only real requests tell.
    pub health_path: Option<String>,
}

/// One `[[route]]`: a path pattern and its policy.
#[derive(Clone, Debug)]
pub struct Route {
    /// `/exact`, `/prefix/**` or `/*/one-segment`.
    pub path: String,
    /// Upper-case methods; `None` = all.
    pub methods: Option<Vec<String>>,
    /// Who may pass.
    pub access: Access,
    /// Any of these roles; empty = no condition. Likewise groups and tenants.
    pub roles: Vec<String>,
    /// Any of these groups.
    pub groups: Vec<String>,
    /// Any of these tenants.
    pub tenants: Vec<String>,
    /// The authentication context that a lower session has to step up to.
    pub acr: Option<String>,
    /// The greatest age of the login in milliseconds.
    pub max_age_ms: Option<i64>,
    /// The id of an upstream; `None` = the route serves forward-auth alone.
    pub upstream: Option<String>,
    /// What is attached besides the identity headers.
    pub attach: Vec<Attach>,
    /// How long the upstream may take to the response head, in milliseconds.
    pub timeout_ms: i64,
    /// The largest request body in bytes.
    pub body_limit_bytes: u64,
}

/// Who may pass a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Everybody with a live session who meets the route's conditions.
    SignedIn,
}

/// What a proxied request carries besides the identity headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// `Authorization: Bearer` with the provider's access token.
    AccessToken,
    /// `X-Auth-Assertion`, signed by us.
    Assertion,
}

pub(super) const ACCESS: [(&str, Access); 2] = [("signed_in", Access::SignedIn), ("public", Access::Public)];
pub(super) const ATTACH: [(&str, Attach); 2] =
    [("access_token", Attach::AccessToken), ("assertion", Attach::Assertion)];
pub(super) const DEMO: &str = "builtin:demo";

/// The form of ids that stand in paths: `[a-z0-9-]{1,32}`.
pub(super) fn is_id(id: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&id.len()) && id.bytes().all(is_letter)
}

/// Reads the `id` of one entry of a list and compares it with those before it.
pub(super) fn unique_id(section: &mut Reader<'_>, taken: &mut Vec<String>) -> String {
    const ADVICE: &str = "use 1 to 32 lower-case letters, digits and hyphens";
    let id = section.required_string("id", ADVICE);
    if !id.is_empty() && !is_id(&id) {
        section.fault("id", &format!("\"{id}\" is not an id"), ADVICE);
    }
    if taken.contains(&id) && !id.is_empty() {
        let advice = "give each one an id of its own";
        section.fault("id", &format!("\"{id}\" stands twice"), advice);
    }
    taken.push(id.clone());
    id
}

pub(super) fn upstreams(sections: Vec<Reader<'_>>) -> Vec<Upstream> {
    let mut taken = Vec::new();
    sections.into_iter().map(|section| upstream(section, &mut taken)).collect()
}

fn upstream(mut section: Reader<'_>, taken: &mut Vec<String>) -> Upstream {
    let id = unique_id(&mut section, taken);
    let urls = section.strings("urls", &[]);
    if urls.is_empty() {
        let advice = "write at least one, such as [\"http://127.0.0.1:3000\"]";
        section.fault("urls", "names no address", advice);
    }
    if urls.len() > 1 && urls.iter().any(|url| url == DEMO) {
        let advice = "let it be the only address";
        section.fault("urls", &format!("\"{DEMO}\" stands beside others"), advice);
    }
    let is_origin = |text: &str| {
        address::web_url(text)
            .is_some_and(|url| url.path() == "/" && url.query().is_none() && url.fragment().is_none())
    };
    for url in urls.iter().filter(|url| *url != DEMO && !is_origin(url)) {
        let advice = "write an origin without a path, such as \"http://127.0.0.1:3000\"";
        section.fault("urls", &format!("{} is not an upstream address", address::shown(url)), advice);
    }
    let tls_ca_file = section.path("tls_ca_file");
    if let Some(path) = tls_ca_file.as_ref().filter(|path| !path.is_file()) {
        let problem = format!("{} cannot be read", path.display());
        section.fault("tls_ca_file", &problem, "name a PEM file of the authority");
    }
    let health_path = section.filled_string("health_path");
    let is_path =
        |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if let Some(path) = health_path.as_ref().filter(|path| !is_path(path)) {
        let problem = format!("\"{path}\" is not a path");
        section.fault("health_path", &problem, "write a path such as \"/healthz\"");
    }
    section.finish();
    Upstream { id, urls, tls_ca_file, health_path }
}

/// Reads every route. `upstreams` are the known ids, `auth_prefix` is where our own paths lie.
pub(super) fn routes(sections: Vec<Reader<'_>>, upstreams: &[Upstream], auth_prefix: &str) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let route = route(&mut section, upstreams);
        if let Some(problem) = pattern_fault(&route.path, auth_prefix) {
            let problem = format!("\"{}\" {problem}", route.path);
            let advice = "write /exact, /prefix/** or /*/one-segment, decoded, outside our paths";
            section.fault("path", &problem, advice);
        }
        if routes.iter().any(|earlier| overlaps(earlier, &route)) {
            let advice = "give each method of one path to a single route";
            let problem = format!("\"{}\" has overlapping methods with an earlier route", route.path);
            section.fault("path", &problem, advice);
        }
        section.finish();
        routes.push(route);
    }
    routes
}

fn route(section: &mut Reader<'_>, upstreams: &[Upstream]) -> Route {
    let mut route = Route {
        path: section.required_string("path", "write a pattern such as \"/reports/**\""),
        methods: section.has("methods").then(|| methods(section)),
        access: section.choice("access", &ACCESS, Access::SignedIn),
        roles: section.strings("roles", &[]),
        groups: section.strings("groups", &[]),
        tenants: section.strings("tenants", &[]),
        acr: section.filled_string("acr"),
        max_age_ms: section.optional_duration_ms("max_age", (0, 30 * DAY_MS)),
        upstream: section.filled_string("upstream"),
        attach: Vec::new(),
        timeout_ms: section.duration_ms("timeout", 30 * SECOND_MS, (1, HOUR_MS)),
        body_limit_bytes: section.size_bytes("body_limit", 10 << 20, (0, 1 << 40)),
    };
    route.attach = attach(section);
    if let Some(id) = route.upstream.as_ref().filter(|id| upstreams.iter().all(|u| u.id != **id)) {
        let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.id.as_str()).collect();
        let advice = if known.is_empty() {
            format!("add an [[upstream]] with id = \"{id}\"")
        } else {
            format!("name one of {}", known.join(", "))
        };
        section.fault("upstream", &format!("no upstream has the id \"{id}\""), &advice);
    }
    if route.upstream.is_none() && route.attach.contains(&Attach::Assertion) {
        let advice = "name an upstream: its id is the audience of the assertion";
        section.fault("attach", "has an assertion that is for nobody", advice);
    }
    if route.access == Access::Public {
        let conditions = ["roles", "groups", "tenants", "acr", "max_age"];
        for key in conditions.into_iter().filter(|key| section.has(key)) {
            let advice = "remove it, or write access = \"signed_in\"";
            section.fault(key, "is a condition on a route that is public", advice);
        }
    }
    route
}

fn methods(section: &mut Reader<'_>) -> Vec<String> {
    let methods = section.strings("methods", &[]);
    if methods.is_empty() {
        let advice = "remove the key to let all methods pass";
        section.fault("methods", "is empty, so that the route would match nothing", advice);
    }
    for method in &methods {
        let upper = method.to_ascii_uppercase();
        let is_token = method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        if *method != upper && is_token {
            let problem = format!("\"{method}\" is not in capitals, as methods are");
            section.fault("methods", &problem, &format!("write \"{upper}\""));
        } else if !is_token || matches!(upper.as_str(), "CONNECT" | "TRACE") {
            let advice = "write methods such as \"GET\" and \"POST\"";
            section.fault("methods", &format!("\"{method}\" is never forwarded"), advice);
        }
    }
    methods
}

fn attach(section: &mut Reader<'_>) -> Vec<Attach> {
    let mut attached = Vec::new();
    for word in section.strings("attach", &[]) {
        match ATTACH.iter().find(|(name, _)| *name == word) {
            Some((_, attach)) if attached.contains(attach) => {}
            Some((_, attach)) => attached.push(*attach),
            None => {
                let problem = format!("\"{word}\" is not known");
                section.fault("attach", &problem, "known here: access_token, assertion");
            }
        }
    }
    attached
}

/// Same path and a method in common. A route for GET also answers HEAD.
fn overlaps(a: &Route, b: &Route) -> bool {
    let covers = |methods: &[String], method: &String| {
        methods.contains(method) || (method == "HEAD" && methods.iter().any(|m| m == "GET"))
    };
    let common = match (&a.methods, &b.methods) {
        (Some(a), Some(b)) => {
            a.iter().any(|method| covers(b, method)) || b.iter().any(|method| covers(a, method))
        }
        _ => true,
    };
    a.path == b.path && !a.path.is_empty() && common
}

/// What is wrong with a path pattern. Patterns are compared with the canonical path, which is
/// decoded once and holds no dot segments, so that others could never match.
fn pattern_fault(path: &str, auth_prefix: &str) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Some("does not begin with a slash");
    };
    if path.contains(['?', '#', '\\', ';', '%']) || path.chars().any(char::is_control) {
        return Some("has a character that no canonical path has");
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "" if !is_last => return Some("has an empty segment"),
            "." | ".." => return Some("has a dot segment"),
            "**" if !is_last => return Some("has ** before its end"),
            "*" | "**" => {}
            _ if segment.contains('*') => return Some("has a star inside a segment"),
            _ => {}
        }
    }
    let is_under =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (is_under(auth_prefix) || is_under("/.well-known/doorward"))
        .then_some("lies where doorward's own paths are, which no route can reach")
}
