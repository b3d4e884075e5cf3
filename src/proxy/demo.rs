//! The small app behind the door of the built-in set-up (`urls = ["builtin:demo"]`).
//!
//! It stands for anybody's app: it sees a path and the headers an upstream would receive, and
//! nothing else of Doorward. It trusts the identity headers because only the door can set them, and
//! decides nothing by them: who may see which page is the route table's business.

use askama::Template;
use percent_encoding::percent_decode_str;

/// An answer of the demo app; `html` is a whole document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoPage {
    pub status: u16,
    pub html: String,
}

/// What every page of the demo knows.
struct Demo<'a> {
    path: &'a str,
    auth_prefix: &'a str,
    guest: Option<Guest>,
}

struct Guest {
    name: String,
    roles: Vec<String>,
}

/// One identity header as the table shows it.
struct Received {
    name: String,
    values: Vec<String>,
    /// The bytes on the wire, where decoding changed them.
    sent_as: Option<String>,
}

#[derive(Template)]
#[template(path = "demo_welcome.html")]
struct Welcome<'a> {
    demo: Demo<'a>,
}

#[derive(Template)]
#[template(path = "demo_protected.html")]
struct Protected<'a> {
    demo: Demo<'a>,
    headers: Vec<Received>,
}

#[derive(Template)]
#[template(path = "demo_admin.html")]
struct Admin<'a> {
    demo: Demo<'a>,
}

#[derive(Template)]
#[template(path = "demo_lost.html")]
struct Lost<'a> {
    demo: Demo<'a>,
}

/// Answers one GET. `path` may carry a query, which is ignored; `headers` are those of the proxied
/// request; `auth_prefix` is where the door's own pages live, such as `/auth`.
#[must_use]
pub fn page(path: &str, headers: &[(String, String)], auth_prefix: &str) -> DemoPage {
    let path = path.split('?').next().unwrap_or_default();
    let demo = Demo { path, auth_prefix, guest: guest(headers) };
    let (status, html) = match path {
        "/" => (200, Welcome { demo }.render()),
        "/protected" => (200, Protected { demo, headers: received(headers) }.render()),
        "/admin-only" => (200, Admin { demo }.render()),
        _ => (404, Lost { demo }.render()),
    };
    match html {
        Ok(html) => DemoPage { status, html },
        Err(_) => DemoPage { status: 500, html: "The demo page could not be written.".to_owned() },
    }
}

fn guest(headers: &[(String, String)]) -> Option<Guest> {
    let user = value(headers, "X-Auth-User")?;
    let name = value(headers, "X-Auth-Name").or_else(|| value(headers, "X-Auth-Email"));
    let roles = value(headers, "X-Auth-Roles").map(list).unwrap_or_default();
    Some(Guest { name: decoded(name.unwrap_or(user)), roles })
}

fn value<'a>(headers: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
    Some(value)
}

fn received(headers: &[(String, String)]) -> Vec<Received> {
    const IDENTITY: [&str; 8] = [
        "X-Auth-User",
        "X-Auth-Provider",
        "X-Auth-Subject",
        "X-Auth-Email",
        "X-Auth-Name",
        "X-Auth-Roles",
        "X-Auth-Groups",
        "X-Auth-Tenant",
    ];
    let shown = |name: &'static str| {
        let sent = value(headers, name)?;
        let values = match name {
            "X-Auth-Roles" | "X-Auth-Groups" => list(sent),
            _ => vec![decoded(sent)],
        };
        let sent_as = sent.contains('%').then(|| sent.to_owned());
        Some(Received { name: name.to_owned(), values, sent_as })
    };
    IDENTITY.into_iter().filter_map(shown).collect()
}

/// A list is split before it is decoded: a comma inside an item travels as `%2C`.
fn list(sent: &str) -> Vec<String> {
    sent.split(',').filter(|item| !item.is_empty()).map(decoded).collect()
}

fn decoded(sent: &str) -> String {
    percent_decode_str(sent).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests;
