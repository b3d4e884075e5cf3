//! The request in the one spelling that everything is decided by: method and path, read once at the edge.
//!
//! Proxy and forward-auth judge this object and no other text. What two parsers could read differently is not made canonical but refused
//! (security.md PX-08). The path that goes on is made of the one that was judged: whoever decodes it once sees what the routes saw.

use std::borrow::Cow;
use std::fmt::Write as _;

/// No registered method is longer (RFC 9110 16.1.1 lists them).
const METHOD_MAX: usize = 24;

/// Method and path of a request; made by [`CanonicalRequest::read`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest<'r> {
    method: &'r str,
    path: Cow<'r, str>,
    forwarded: Cow<'r, str>,
    query: Option<&'r str>,
}

/// Why a request has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// Methods are case-sensitive, and all that exist are upper-case.
    Method,
    Path,
}

impl Odd {
    /// For the visitor.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Method => "The method is not one that HTTP knows.",
            Self::Path => "The path can be read in more than one way.",
        }
    }
}

impl<'r> CanonicalRequest<'r> {
    /// Reads a method and an origin-form target (`/path?query`, RFC 9112 3.2.1).
    ///
    /// # Errors
    /// What could be read in more than one way.
    pub fn read(method: &'r str, target: &'r str) -> Result<Self, Odd> {
        let is_method = (1..=METHOD_MAX).contains(&method.len())
            && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if !is_method {
            return Err(Odd::Method);
        }
        let (raw, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let (path, forwarded) = spell(raw).ok_or(Odd::Path)?;
        let query_is_plain =
            query.is_none_or(|query| query.bytes().all(|b| b.is_ascii_graphic() && b != b'#'));
        if !query_is_plain {
            return Err(Odd::Path);
        }
        Ok(Self { method, path, forwarded, query })
    }

    #[must_use]
    pub fn method(&self) -> &'r str {
        self.method
    }

    /// Decoded once; what routes are matched by.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path as it goes on, in its one encoding; decoding it once gives [`Self::path`].
    #[must_use]
    pub fn forwarded_path(&self) -> &str {
        &self.forwarded
    }

    /// The query byte for byte, without its `?`. No route looks at it.
    #[must_use]
    pub fn query(&self) -> Option<&'r str> {
        self.query
    }
}

/// The path decoded once and the path as it goes on; `None` for what is not canonical: dot segments, empty segments, encoded slashes,
/// backslashes, `;`, controls, broken escapes, what is no UTF-8.
fn spell(raw: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    if raw.bytes().all(is_plain) {
        return has_sound_segments(raw).then_some((Cow::Borrowed(raw), Cow::Borrowed(raw)));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut forwarded = String::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = if first == b'%' { escape(tail)? } else { (first, tail) };
        if first == b'%' && matches!(byte, b'/' | b'\\' | b'%' | b';') || matches!(byte, b'\\' | b';') {
            return None;
        }
        decoded.push(byte);
        // Only what means the same either way is decoded for the app (RFC 3986 6.2.2.2).
        let stays_plain = if first == b'%' { is_unreserved(byte) } else { is_plain(byte) };
        if stays_plain {
            forwarded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(forwarded, "%{byte:02X}");
        }
        rest = after;
    }
    let decoded = String::from_utf8(decoded).ok()?;
    let sound = has_sound_segments(&decoded) && !decoded.chars().any(char::is_control);
    sound.then_some((Cow::Owned(decoded), Cow::Owned(forwarded)))
}

/// The byte behind a `%`, and what follows.
fn escape(tail: &[u8]) -> Option<(u8, &[u8])> {
    let (pair, after) = tail.split_at_checked(2)?;
    let digits = std::str::from_utf8(pair).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some((u8::from_str_radix(digits, 16).ok()?, after))
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path by itself (RFC 3986 3.3), but for `;`, which some servers cut off.
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'='
        )
}

fn has_sound_segments(path: &str) -> bool {
    let mut rest = path.strip_prefix('/');
    if rest.is_none() {
        return false;
    }
    while let Some(all) = rest {
        let (segment, behind) = first_segment(all);
        if matches!(segment, "." | "..") || (segment.is_empty() && behind.is_some()) {
            return false;
        }
        rest = behind;
    }
    true
}

/// What stands before the first slash, and what behind it.
pub(super) fn first_segment(path: &str) -> (&str, Option<&str>) {
    let at = memchr::memchr(b'/', path.as_bytes());
    at.and_then(|at| Some((path.get(..at)?, Some(path.get(at + 1..)?)))).unwrap_or((path, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Option<(String, String)> {
        let request = CanonicalRequest::read("GET", target).ok()?;
        Some((request.path().to_owned(), request.forwarded_path().to_owned()))
    }

    #[test]
    fn px_08_only_one_reading_of_a_path_is_let_in() {
        for raw in [
            "",
            "a",
            "//",
            "/a//b",
            "/./a",
            "/a/..",
            "/%2e%2e/a",
            "/a/%2E",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/%00",
            "/%zz",
            "/%",
            "/%2",
            "/%252e",
            "/\u{7f}",
            "/%ff",
            "/a%3bb",
            "/a%3Bb",
            "/%c0%af",
            "/a%0d%0ab",
            "/..",
            "/.",
            "/a/.",
            "*",
            "http://a/b",
            "?",
            "/a\u{85}",
        ] {
            assert_eq!(read(raw), None, "{raw}");
        }
    }

    #[test]
    fn px_08_what_goes_on_decodes_to_what_was_judged() {
        for (raw, path, forwarded) in [
            ("/", "/", "/"),
            ("/a/", "/a/", "/a/"),
            ("/%61%7e", "/a~", "/a~"),
            ("/a%20b/%c3%bc", "/a b/ü", "/a%20b/%C3%BC"),
            ("/a%2bb", "/a+b", "/a%2Bb"),
            ("/a+b", "/a+b", "/a+b"),
            ("/c%23?x=%2F..", "/c#", "/c%23"),
            ("/\"<>^`{|}", "/\"<>^`{|}", "/%22%3C%3E%5E%60%7B%7C%7D"),
        ] {
            assert_eq!(read(raw), Some((path.to_owned(), forwarded.to_owned())), "{raw}");
        }
        assert_eq!(CanonicalRequest::read("GET", "/a?b=%2F..;/?c").unwrap().query(), Some("b=%2F..;/?c"));
    }

    #[test]
    fn methods_are_upper_case_tokens() {
        for method in ["GET", "M-SEARCH", "PATCH"] {
            assert!(CanonicalRequest::read(method, "/").is_ok());
        }
        for method in ["", "get", "Get", "G_T", "GET ", "GÉT", "AAAAAAAAAAAAAAAAAAAAAAAAA", "G\tT", "G3T"] {
            assert_eq!(CanonicalRequest::read(method, "/"), Err(Odd::Method), "{method}");
        }
    }

    proptest::proptest! {
        #[test]
        fn px_08_the_forwarded_path_is_its_own_canonical_form(raw in "/[ -~]{0,40}") {
            if let Ok(request) = CanonicalRequest::read("GET", &raw) {
                let again = CanonicalRequest::read("GET", request.forwarded_path()).unwrap();
                proptest::prop_assert_eq!(again.path(), request.path());
                proptest::prop_assert_eq!(again.forwarded_path(), request.forwarded_path());
            }
        }
    }
}
