//! Whether a request that changes something really comes from this site (product rule: `Sec-Fetch-Site`, else `Origin`, else `X-CSRF`).

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, ORIGIN};
use url::Url;

/// What a request without any proof may still be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It carries our cookie: without `Sec-Fetch-Site` and `Origin` it needs `X-CSRF: 1`.
    Cookie,
    /// It carries no cookie of ours: there is nothing to abuse, but a browser's own word against it counts.
    None,
}

/// Methods that change nothing.
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Judges an unsafe request. A header that is there decides; a later one never overrides it.
pub fn is_ours(headers: &HeaderMap, public_url: &Url, listed: &[String], proof: Proof) -> bool {
    let one = |name: &str| {
        let mut all = headers.get_all(name);
        // A doubled or unreadable header is no proof.
        all.next().map(|first| if all.next().is_some() { "" } else { first.to_str().unwrap_or("") })
    };
    let origin = one(ORIGIN.as_str());
    let is_listed = |origin: &str| listed.iter().any(|own| own == origin);
    match (one("sec-fetch-site"), origin) {
        (Some("same-origin" | "none"), _) => true,
        (Some(_), origin) => origin.is_some_and(is_listed),
        (None, Some(origin)) => origin == public_url.origin().ascii_serialization() || is_listed(origin),
        (None, None) => proof == Proof::None || one("x-csrf") == Some("1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn ours(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        is_ours(
            &headers,
            &Url::parse("https://app.example").unwrap(),
            &["https://spa.example".into()],
            Proof::Cookie,
        )
    }

    #[test]
    fn wb_01_the_first_header_that_is_there_decides() {
        let site = "sec-fetch-site";
        for (pairs, passes) in [
            (vec![(site, "same-origin")], true),
            (vec![(site, "none")], true),
            (vec![(site, "same-origin"), ("origin", "https://evil.example")], true),
            (vec![(site, "same-site")], false),
            (vec![(site, "cross-site")], false),
            (vec![(site, "cross-site"), ("x-csrf", "1")], false),
            (vec![(site, "cross-site"), ("origin", "https://app.example")], false),
            (vec![(site, "cross-site"), ("origin", "https://spa.example")], true),
            (vec![(site, "")], false),
            (vec![(site, "same-origin"), (site, "same-origin")], false),
            (vec![("origin", "https://app.example")], true),
            (vec![("origin", "https://spa.example")], true),
            (vec![("origin", "null")], false),
            (vec![("origin", "null"), ("x-csrf", "1")], false),
            (vec![("origin", "https://app.example.evil")], false),
            (vec![("origin", "http://app.example")], false),
            (vec![("x-csrf", "1")], true),
            (vec![("x-csrf", "0")], false),
            (vec![], false),
        ] {
            assert_eq!(ours(&pairs), passes, "{pairs:?}");
        }
    }
}
