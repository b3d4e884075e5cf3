//! The one table of routes: which path leads where, and what it asks of visitors.

use std::time::Duration;

use super::canonical::first_segment;
use crate::config::{self, Access, Attach};
use crate::domain::policy::Policy;

/// Where a path leads.
#[derive(Debug, Clone)]
pub struct Route {
    pub policy: Policy,
    pub upstream: Option<String>,
    pub attach: Vec<Attach>,
    /// How long the app may take to the head of its answer.
    pub timeout: Duration,
    /// The largest request body in bytes.
    pub body_limit: u64,
    segments: Vec<Segment>,
    methods: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: exactly one segment.
    One,
    /// `**`: any rest, also none.
    Rest,
}

/// What the table says of a request.
#[derive(Debug)]
pub enum Found<'t> {
    Route(&'t Route),
    /// The path is known, and not with this method; which ones it takes, as `Allow` lists them (RFC 9110 10.2.1).
    OtherMethod(String),
    Nothing,
}

/// Every route, the most exact first.
#[derive(Debug, Default)]
pub struct Table(Vec<Route>);

impl Table {
    /// A table of checked routes.
    #[must_use]
    pub fn new(routes: &[config::Route]) -> Self {
        let mut table: Vec<Route> = routes.iter().map(read).collect();
        // More literal segments win, then `*` before `**`; the order of the file decides nothing.
        table.sort_by_key(|route| {
            let count = |kind: fn(&Segment) -> bool| route.segments.iter().filter(|s| kind(s)).count();
            let literals = count(|s| matches!(s, Segment::Literal(_)));
            let ones = count(|s| matches!(s, Segment::One));
            (std::cmp::Reverse(literals), count(|s| matches!(s, Segment::Rest)), std::cmp::Reverse(ones))
        });
        Self(table)
    }

    /// Whether any app needs the provider's access token.
    #[must_use]
    pub fn attaches_access_token(&self) -> bool {
        self.0.iter().any(|route| route.attach.contains(&Attach::AccessToken))
    }

    /// Finds the route of a canonical path. The longest matching path decides alone: a method that it does not list is not a shorter path's turn.
    #[must_use]
    pub fn find(&self, path: &str, method: &str) -> Found<'_> {
        let inner = path.strip_prefix('/').unwrap_or(path);
        let Some(best) = self.0.iter().find(|route| fits(&route.segments, Some(inner))) else {
            return Found::Nothing;
        };
        let method = if method == "HEAD" { "GET" } else { method };
        let takes =
            |route: &&Route| route.methods.as_ref().is_none_or(|methods| methods.iter().any(|m| m == method));
        if takes(&best) {
            return Found::Route(best);
        }
        let mut same_path = self.0.iter().filter(|route| route.segments == best.segments);
        match same_path.clone().find(takes) {
            Some(route) => Found::Route(route),
            None => Found::OtherMethod(allow(&mut same_path)),
        }
    }
}

/// The methods of routes with one path, each once; HEAD comes with GET.
fn allow<'r>(routes: &mut impl Iterator<Item = &'r Route>) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for method in routes.filter_map(|route| route.methods.as_ref()).flatten() {
        let with_head: &[&str] = if method == "GET" { &["GET", "HEAD"] } else { &[method.as_str()] };
        for method in with_head {
            if !methods.contains(method) {
                methods.push(method);
            }
        }
    }
    methods.join(", ")
}

fn read(route: &config::Route) -> Route {
    let policy = Policy {
        public: route.access == Access::Public,
        roles: route.roles.clone(),
        groups: route.groups.clone(),
        tenants: route.tenants.clone(),
        acr: route.acr.clone(),
        max_age_ms: route.max_age_ms,
    };
    let segments = route
        .path
        .strip_prefix('/')
        .unwrap_or(&route.path)
        .split('/')
        .map(|segment| match segment {
            "*" => Segment::One,
            "**" => Segment::Rest,
            literal => Segment::Literal(literal.to_owned()),
        })
        .collect();
    Route {
        policy,
        upstream: route.upstream.clone(),
        attach: route.attach.clone(),
        timeout: Duration::from_millis(u64::try_from(route.timeout_ms).unwrap_or_default()),
        body_limit: route.body_limit_bytes,
        segments,
        methods: route.methods.clone(),
    }
}

/// Whether a pattern fits the segments that are left of a path.
fn fits(pattern: &[Segment], path: Option<&str>) -> bool {
    match (pattern.split_first(), path) {
        (None, None) | (Some((Segment::Rest, _)), _) => true,
        (Some((Segment::Literal(literal), pattern)), Some(path)) => match path.strip_prefix(literal.as_str())
        {
            Some("") => fits(pattern, None),
            Some(behind) => behind.strip_prefix('/').is_some_and(|path| fits(pattern, Some(path))),
            None => false,
        },
        (Some((Segment::One, pattern)), Some(path)) => {
            let (first, path) = first_segment(path);
            !first.is_empty() && fits(pattern, path)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(paths: &[(&str, Option<&[&str]>)]) -> Table {
        let routes: Vec<config::Route> = paths
            .iter()
            .map(|(path, methods)| config::Route {
                path: (*path).into(),
                methods: methods.map(|m| m.iter().map(|m| (*m).to_string()).collect()),
                access: Access::SignedIn,
                roles: vec![],
                groups: vec![],
                tenants: vec![],
                acr: None,
                max_age_ms: None,
                upstream: Some((*path).into()),
                attach: vec![],
                timeout_ms: 0,
                body_limit_bytes: 0,
            })
            .collect();
        Table::new(&routes)
    }

    fn found<'t>(table: &'t Table, path: &str, method: &str) -> &'t str {
        match table.find(path, method) {
            Found::Route(route) => route.upstream.as_deref().unwrap(),
            Found::OtherMethod(_) => "405",
            Found::Nothing => "404",
        }
    }

    #[test]
    fn the_longest_path_decides_alone() {
        let table = table(&[
            ("/**", None),
            ("/a/**", None),
            ("/a/*", None),
            ("/a/b", Some(&["GET"])),
            ("/a/b/c", None),
        ]);
        assert_eq!(found(&table, "/", "GET"), "/**");
        assert_eq!(found(&table, "/a", "GET"), "/a/**");
        assert_eq!(found(&table, "/a/x", "GET"), "/a/*");
        assert_eq!(found(&table, "/a/x/y", "GET"), "/a/**");
        assert_eq!(found(&table, "/a/b", "HEAD"), "/a/b");
        assert_eq!(found(&table, "/a/b", "POST"), "405");
        assert_eq!(found(&table, "/A/b", "POST"), "/**");
    }

    #[test]
    fn a_405_says_what_the_path_takes() {
        let table = table(&[("/a", Some(&["GET", "PUT"])), ("/a", Some(&["POST"])), ("/b", Some(&["HEAD"]))]);
        let allowed = |path, method| match table.find(path, method) {
            Found::OtherMethod(allow) => allow,
            other => panic!("{other:?}"),
        };
        assert_eq!(allowed("/a", "DELETE"), "GET, HEAD, PUT, POST");
        assert_eq!(allowed("/b", "POST"), "HEAD");
    }

    #[test]
    fn px_09_a_pattern_is_anchored_and_a_miss_denies() {
        let table = table(&[("/public", None), ("/one/*", None)]);
        for path in ["/publicx", "/public/", "/public/x", "/", "/one", "/one/", "/one/a/b"] {
            assert_eq!(found(&table, path, "GET"), "404", "{path}");
        }
    }
}
