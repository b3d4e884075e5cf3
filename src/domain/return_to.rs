//! The one place that decides where a browser may be sent after a login or logout.

use serde::{Deserialize, Serialize};
use url::{Origin, Url};

/// Long enough for real pages, short enough that the sealed attempt stays a small cookie.
const LENGTH_MAX: usize = 1024;

/// A checked return address: a path of our own origin, or an absolute URL of an exactly listed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo(String);

impl Default for ReturnTo {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

/// What a return address is measured against.
#[derive(Debug, Clone)]
pub struct ReturnRules {
    /// The public origin.
    pub public_url: Url,
    /// Our own routes are no place to return to: a loop would begin there (security.md RD-05).
    pub auth_prefix: String,
    /// Other origins that are allowed exactly.
    pub origins: Vec<Origin>,
}

impl ReturnTo {
    /// `None` unless a browser that resolves the text against our origin (WHATWG URL) ends at an allowed place.
    ///
    /// The text must also be plain: what two parsers could read differently (backslashes, controls, a second slash in any encoding) is refused
    /// even where today's browsers would stay with us.
    pub fn parse(text: &str, rules: &ReturnRules) -> Option<Self> {
        if text.is_empty() || text.len() > LENGTH_MAX || text.chars().any(is_odd) {
            return None;
        }
        if text.starts_with('/') { Self::local(text, rules) } else { Self::absolute(text, rules) }
    }

    fn local(text: &str, rules: &ReturnRules) -> Option<Self> {
        let resolved = rules.public_url.join(text).ok()?;
        let stays = resolved.origin() == rules.public_url.origin() && has_no_user(&resolved);
        let raw_path = text.split(['?', '#']).next().unwrap_or(text);
        let plain = is_plain_path(raw_path)
            && is_plain_path(resolved.path())
            && !is_own_route(resolved.path(), &rules.auth_prefix);
        (stays && plain).then(|| Self(text.to_owned()))
    }

    fn absolute(text: &str, rules: &ReturnRules) -> Option<Self> {
        // Only the plain spelling `scheme://host…`; `https:host` and friends mean different things to different parsers.
        let scheme_end = text.find("://")?;
        let scheme = text.get(..scheme_end)?;
        if scheme != "http" && scheme != "https" {
            return None;
        }
        let resolved = Url::parse(text).ok()?;
        if !has_no_user(&resolved)
            || !is_plain_path(resolved.path())
            || text.get(scheme_end + 3..)?.starts_with('/')
        {
            return None;
        }
        if resolved.origin() == rules.public_url.origin() {
            return Self::local(&resolved[url::Position::BeforePath..], rules);
        }
        rules.origins.contains(&resolved.origin()).then(|| Self(resolved.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_odd(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || c == '\\'
        || super::email::is_invisible(c)
        // Look-alikes of `/`, `\`, `.` and `@` that some layers fold to the ASCII character.
        || matches!(c, '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{2571}' | '\u{2572}' | '\u{29f5}' | '\u{29f8}' | '\u{29f9}' | '\u{3002}' | '\u{fe68}' | '\u{fe52}' | '\u{ff01}'..='\u{ff65}' | '\u{2024}' | '\u{fffd}')
}

fn has_no_user(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

/// No second slash at the start, no backslash and no control, however often they are percent-encoded.
fn is_plain_path(path: &str) -> bool {
    let mut path = path.to_owned();
    for _ in 0..4 {
        if path.starts_with("//")
            || path.contains("/./")
            || path.contains("/../")
            || path.ends_with("/..")
            || path.contains("//")
            || path.chars().any(is_odd_decoded)
        {
            return false;
        }
        let decoded = decode(&path);
        if decoded == path {
            return true;
        }
        path = decoded;
    }
    // Still changing after four rounds: nobody writes such a path by accident.
    false
}

/// A space may come encoded; everything else that is odd may not.
fn is_odd_decoded(c: char) -> bool {
    c != ' ' && is_odd(c)
}

fn is_own_route(path: &str, auth_prefix: &str) -> bool {
    let mut decoded = path.to_owned();
    for _ in 0..4 {
        decoded = decode(&decoded);
    }
    let lower = decoded.to_ascii_lowercase();
    let own = |prefix: &str| {
        lower == prefix || lower.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['/', ';']))
    };
    own(&auth_prefix.to_ascii_lowercase()) || own("/dev-idp") || own("/.well-known/doorward")
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair = (first == b'%').then(|| tail.first_chunk::<2>()).flatten().copied().and_then(hex_pair);
        if let Some(byte) = pair {
            bytes.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_pair(pair: [u8; 2]) -> Option<u8> {
    let text = std::str::from_utf8(&pair).ok()?;
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ReturnRules {
        ReturnRules {
            public_url: Url::parse("https://app.example").unwrap(),
            auth_prefix: "/auth".into(),
            origins: vec![Url::parse("https://spa.example").unwrap().origin()],
        }
    }

    #[test]
    fn local_paths_are_kept_as_they_are() {
        for text in [
            "/",
            "/a",
            "/a?next=https://other.example/",
            "/a#f",
            "/a%20b",
            "/ünï",
            "/a?x=%5C",
            "/authors",
            "/a;b=c",
            "/a?b=//c",
        ] {
            assert_eq!(ReturnTo::parse(text, &rules()).as_ref().map(ReturnTo::as_str), Some(text), "{text}");
        }
    }

    #[test]
    fn only_exactly_listed_origins_are_left_for() {
        assert_eq!(ReturnTo::parse("https://app.example/x?y", &rules()).unwrap().as_str(), "/x?y");
        assert_eq!(
            ReturnTo::parse("https://spa.example/x", &rules()).unwrap().as_str(),
            "https://spa.example/x"
        );
        for text in [
            "https://spa.example:444/",
            "http://spa.example/",
            "https://spa.example.evil/",
            "https://u@spa.example/",
            "https:///spa.example/",
            "HTTPS://spa.example/",
        ] {
            assert_eq!(ReturnTo::parse(text, &rules()), None, "{text}");
        }
    }

    #[test]
    fn rd_05_our_own_routes_are_no_place_to_return_to() {
        for text in [
            "/auth",
            "/auth/login",
            "/AUTH/login",
            "/%61uth/login",
            "/%2561uth/login",
            "/auth;x/login",
            "/x/../auth/login",
            "/dev-idp/authorize",
        ] {
            assert_eq!(ReturnTo::parse(text, &rules()), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rd_01_whatever_is_accepted_resolves_to_an_allowed_origin(text in "[/\\\\:@.%a-z0-9?#\\t\\n 5cCfF2eE-]{0,60}|\\PC{0,60}|(https?:)?[/\\\\]{1,4}\\PC{0,40}") {
            let rules = rules();
            if let Some(accepted) = ReturnTo::parse(&text, &rules) {
                let resolved = rules.public_url.join(accepted.as_str()).unwrap();
                proptest::prop_assert!(resolved.origin() == rules.public_url.origin() || rules.origins.contains(&resolved.origin()));
            }
        }
    }
}
