//! Which fields pass the door, and which we set: the head of a request as it goes to the app, and what of an answer stays behind.
//!
//! A client's word about who it is, where it comes from or how the connection is used never passes, in whatever spelling; ours is written last and
//! cannot be taken away by a `Connection` field (security.md PX-01 to PX-05).

use actix_web::http::header::{CONNECTION, COOKIE, HeaderMap};
use bytes::{BufMut as _, BytesMut};
use percent_encoding::percent_decode;

use super::canonical::CanonicalRequest;
use super::identity;
use crate::domain::Principal;

/// All identity headers together; an app's server may refuse longer heads (product: 403).
pub const IDENTITY_MAX: usize = 8 * 1024;

/// What of a request goes on, besides its body.
pub struct Onward<'a> {
    pub canonical: &'a CanonicalRequest<'a>,
    /// As the client sent them.
    pub headers: &'a HeaderMap,
    pub origin: &'a PublicOrigin,
    /// The client's address, where it is known.
    pub client: Option<&'a str>,
    pub request_id: &'a str,
    /// Of our own span; the client's goes on where there is none.
    pub traceparent: Option<&'a str>,
    /// Whose identity headers it carries.
    pub who: Option<&'a Principal>,
    pub access_token: Option<&'a str>,
    pub assertion: Option<&'a str>,
    pub is_websocket: bool,
}

/// The public origin, as every app behind this door sees it; spelled once.
#[derive(Debug, Clone)]
pub struct PublicOrigin {
    /// From behind the path to the end of `Host`.
    host: String,
    /// What follows the client's address in `Forwarded`.
    forwarded: String,
    /// To the start of the request's name.
    x_forwarded: String,
}

impl PublicOrigin {
    #[must_use]
    pub fn new(scheme: &str, authority: &str) -> Self {
        Self {
            host: format!(" HTTP/1.1\r\nhost: {authority}\r\n"),
            forwarded: format!(";host=\"{authority}\";proto={scheme}\r\n"),
            x_forwarded: format!(
                "x-forwarded-proto: {scheme}\r\nx-forwarded-host: {authority}\r\nx-request-id: "
            ),
        }
    }
}

impl Onward<'_> {
    /// Writes the head without its framing and its last empty line.
    pub fn write(&self, out: &mut BytesMut) {
        let canonical = self.canonical;
        out.reserve(1024);
        put(out, &[canonical.method(), " ", canonical.forwarded_path()]);
        if let Some(query) = canonical.query() {
            put(out, &["?", query]);
        }
        put(out, &[&self.origin.host]);
        self.write_passed_on(out);
        self.write_own(out);
    }

    fn write_passed_on(&self, out: &mut BytesMut) {
        let nominated = nominated(self.headers);
        for (name, value) in self.headers {
            let lower = name.as_str();
            let stays = is_ours_to_say(lower)
                || !is_plain(lower)
                || (lower == "traceparent" && self.traceparent.is_some())
                || nominated.iter().any(|word| word.eq_ignore_ascii_case(lower));
            if stays {
                continue;
            }
            if name == COOKIE {
                write_cookies(value.as_bytes(), out);
            } else {
                write_field(lower, value.as_bytes(), out);
            }
        }
    }

    fn write_own(&self, out: &mut BytesMut) {
        let origin = self.origin;
        if let Some(client) = self.client {
            put(out, &["x-forwarded-for: ", client, "\r\nx-real-ip: ", client, "\r\nforwarded: for="]);
            if client.contains(':') {
                put(out, &["\"[", client, "]\""]);
            } else {
                put(out, &[client]);
            }
            put(out, &[&origin.forwarded]);
        }
        put(out, &[&origin.x_forwarded, self.request_id, "\r\n"]);
        if let Some(traceparent) = self.traceparent {
            put(out, &["traceparent: ", traceparent, "\r\n"]);
        }
        for (name, value) in self.who.into_iter().flat_map(identity::headers) {
            put(out, &[name.start, value, "\r\n"]);
        }
        if let Some(token) = self.access_token {
            put(out, &["authorization: Bearer ", token, "\r\n"]);
        }
        if let Some(assertion) = self.assertion {
            put(out, &["x-auth-assertion: ", assertion, "\r\n"]);
        }
        if self.is_websocket {
            put(out, &["connection: upgrade\r\nupgrade: websocket\r\n"]);
        }
    }
}

fn put(out: &mut BytesMut, texts: &[&str]) {
    for text in texts {
        out.put_slice(text.as_bytes());
    }
}

fn write_field(name: &str, value: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Fields that a `Connection` field names, besides its known words.
fn nominated(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(CONNECTION).filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(str::trim);
    words
        .filter(|word| !word.eq_ignore_ascii_case("keep-alive") && !word.eq_ignore_ascii_case("close"))
        .collect()
}

/// Names that every server reads alike. CGI, WSGI and PHP fold what is neither letter nor digit into one sign, so that another spelling would become
/// one of our names behind our back (CVE-2025-64484).
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Request fields that are not the client's to set. Names are lower-case, as the server hands them out.
fn is_ours_to_say(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => {
            let Some(rest) = name.strip_prefix("x-") else { return false };
            rest.starts_with("auth-")
                || rest.starts_with("forwarded")
                || rest.starts_with("original-")
                || rest.starts_with("doorward")
                || matches!(
                    rest,
                    "real-ip"
                        | "request-id"
                        | "client-ip"
                        | "cluster-client-ip"
                        | "remote-user"
                        | "rewrite-url"
                        | "http-method"
                        | "http-method-override"
                        | "method-override"
                )
        }
        _ => {
            is_hop_by_hop(name)
                || matches!(
                    name,
                    "host"
                        | "content-length"
                        | "expect"
                        | "authorization"
                        | "forwarded"
                        | "remote-user"
                        | "client-ip"
                        | "true-client-ip"
                        | "cf-connecting-ip"
                        | "fastly-client-ip"
                        // `HTTP_PROXY` of CGI programs (CVE-2016-5385).
                        | "proxy"
                )
        }
    }
}

/// Fields of one connection (RFC 9110 7.6.1), and the old ones that were never listed.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields of an answer that do not reach the visitor.
#[must_use]
pub fn stays_behind(name: &str, value: &[u8]) -> bool {
    match name {
        "set-cookie" => is_own_cookie(value),
        // An app may empty its caches, and not take the session away from everybody it meets (security.md CK-08).
        "clear-site-data" => {
            let takes = |word: &[u8]| matches!(word.trim_ascii(), b"\"cookies\"" | b"\"*\"");
            value.split(|byte| *byte == b',').any(takes)
        }
        // Framed afresh.
        "content-length" => true,
        name => is_hop_by_hop(name),
    }
}

/// Cookies without ours; the others byte for byte.
fn write_cookies(value: &[u8], out: &mut BytesMut) {
    let Some(own) = pieces(value).position(is_own_cookie) else { return write_field("cookie", value, out) };
    let others = pieces(value).enumerate().filter(|(at, piece)| *at < own || !is_own_cookie(piece));
    let mut kept = others.map(|(_, piece)| piece).filter(|piece| !piece.trim_ascii().is_empty());
    let Some(first) = kept.next() else { return };
    out.put_slice(b"cookie: ");
    out.put_slice(first.trim_ascii_start());
    for piece in kept {
        out.put_slice(b";");
        out.put_slice(piece);
    }
    out.put_slice(b"\r\n");
}

/// The pairs of a `Cookie` field: what stands between semicolons.
pub fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let all = rest?;
        let (piece, behind) = match memchr::memchr(b';', all) {
            Some(at) => (all.get(..at)?, all.get(at + 1..)),
            None => (all, None),
        };
        rest = behind;
        Some(piece)
    })
}

/// Whether a pair, or a whole `Set-Cookie` line, names a cookie of ours as any reader would understand it: some decode names, some ignore case.
fn is_own_cookie(pair: &[u8]) -> bool {
    let name = memchr::memchr2(b'=', b';', pair).map_or(pair, |end| pair.get(..end).unwrap_or_default());
    // As we write it ourselves, and so nearly every one that is ours.
    if matches!(name.trim_ascii(), b"doorward" | b"__Host-doorward") {
        return true;
    }
    may_be_own(name)
        && (is_own_name(name.iter().copied()) || (name.contains(&b'%') && is_own_name(percent_decode(name))))
}

/// What is no sign of a name, such as quotes, blanks and controls, is cut off by some readers.
fn is_own_name(name: impl Iterator<Item = u8>) -> bool {
    // One more than the longest start that tells anything.
    let mut start = [0; "__host-doorward-login-".len() + 1];
    let mut length = 0;
    for (room, sign) in start.iter_mut().zip(name.filter(|b| b.is_ascii_graphic() && *b != b'"')) {
        *room = sign;
        length += 1;
    }
    let name = start.get(..length).unwrap_or_default();
    let rest = match name.split_at_checked("__host-".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(b"__host-") => rest,
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(b"__http-") => rest,
        _ => name,
    };
    let is_session = rest.eq_ignore_ascii_case(b"doorward");
    let attempt = rest.get(.."doorward-login-".len());
    is_session || attempt.is_some_and(|start| start.eq_ignore_ascii_case(b"doorward-login-"))
}

/// A cheap first look, because every cookie of every request comes by: our names have at least eight signs, among them a `w` unless it is encoded.
fn may_be_own(name: &[u8]) -> bool {
    name.len() >= "doorward".len() && memchr::memchr3(b'%', b'w', b'W', name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::tests::principal;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn written(headers: &[(&str, &[u8])], change: impl Fn(&mut Onward<'_>)) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let canonical = CanonicalRequest::read("GET", "/a?b").unwrap();
        let who = principal();
        let origin = PublicOrigin::new("https", "app.example");
        let mut onward = Onward {
            canonical: &canonical,
            headers: &map,
            origin: &origin,
            client: None,
            request_id: "id",
            traceparent: None,
            who: Some(&who),
            access_token: None,
            assertion: None,
            is_websocket: false,
        };
        change(&mut onward);
        let mut out = BytesMut::new();
        onward.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    const PLAIN: &str = "GET /a?b HTTP/1.1\r\nhost: app.example\r\nx-forwarded-proto: https\r\nx-forwarded-host: app.example\r\nx-request-id: id\r\nX-Auth-User: u\r\nX-Auth-Provider: p\r\nX-Auth-Subject: sub\r\nX-Auth-Name: tag\r\n";

    #[test]
    fn ck_08_an_app_may_clear_its_caches_and_nobody_elses_cookies() {
        for (value, stays) in [
            ("\"cache\", \"storage\"", false),
            ("\"cookies\"", true),
            ("\"cache\",\"cookies\"", true),
            (" \"*\" ", true),
            ("\"executionContexts\"", false),
        ] {
            assert_eq!(stays_behind("clear-site-data", value.as_bytes()), stays, "{value}");
        }
    }

    #[test]
    fn px_01_px_02_a_clients_word_about_itself_never_passes_in_any_spelling() {
        for name in [
            "X-Auth-User",
            "x-auth-anything",
            "X_Auth_User",
            "x-auth_user",
            "x_auth-user",
            "X.Auth.User",
            "X-Auth-Assertion",
            "Authorization",
            "X-Forwarded-For",
            "x-forwarded-user",
            "X_FORWARDED_USER",
            "Forwarded",
            "X-Real-IP",
            "X-Original-URI",
            "X-Rewrite-Url",
            "X-HTTP-Method-Override",
            "X-Method-Override",
            "Proxy",
            "X-Request-Id",
            "True-Client-Ip",
            "Remote-User",
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Authorization",
            "Proxy-Connection",
            "HTTP2-Settings",
            "Expect",
            "X-Doorward-Code",
            "some_name",
            "a!b",
        ] {
            assert_eq!(written(&[(name, b"evil")], |_| {}), PLAIN, "{name}");
        }
        assert_eq!(
            written(&[("accept", b"*/*")], |_| {}),
            PLAIN.replace("host: app.example\r\nx-f", "host: app.example\r\naccept: */*\r\nx-f")
        );
    }

    #[test]
    fn px_03_what_connection_names_is_removed_and_never_ours() {
        let headers: &[(&str, &[u8])] =
            &[("connection", b"keep-alive, x-mine, X-Auth-User, x-request-id"), ("x-mine", b"1")];
        assert_eq!(written(headers, |_| {}), PLAIN);
    }

    #[test]
    fn px_14_our_cookies_stay_here_and_the_others_are_untouched() {
        let cookie = |value: &[u8]| {
            let text = written(&[("cookie", value)], |_| {});
            text.lines().find_map(|line| line.strip_prefix("cookie: ")).map(str::to_owned)
        };
        assert_eq!(cookie(b"a=1;b=\"x y\" ;  c=d=e").as_deref(), Some("a=1;b=\"x y\" ;  c=d=e"));
        assert_eq!(cookie(b"a=1; doorward=k; b=2").as_deref(), Some("a=1; b=2"));
        assert_eq!(cookie(b"__Host-doorward=k; a=1").as_deref(), Some("a=1"));
        for own in [
            &b"doorward=k"[..],
            b" DOORWARD =k",
            b"__host-Doorward=k",
            b"%64oorward=k",
            b"\"doorward\"=k",
            b"doorward",
            b"__Host-doorward-login-abcdefgh=v",
            b"doorward-login-=v",
            b"doorward=a; doorward=b",
        ] {
            assert_eq!(cookie(own), None, "{}", String::from_utf8_lossy(own));
        }
        assert_eq!(cookie(b"xdoorward=1; doorwardx=2").as_deref(), Some("xdoorward=1; doorwardx=2"));
    }

    #[test]
    fn where_a_request_came_from_is_told_anew() {
        let text = written(&[("x-forwarded-for", b"6.6.6.6")], |onward| onward.client = Some("::1"));
        assert!(text.contains("x-forwarded-for: ::1\r\nx-real-ip: ::1\r\nforwarded: for=\"[::1]\";host=\"app.example\";proto=https\r\n"), "{text}");
        assert!(!text.contains("6.6.6.6"));
    }
}
