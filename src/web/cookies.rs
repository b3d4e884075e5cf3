//! Our cookies: their names, their attributes, and a reader that no header can confuse.

use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, Key, SameSite};
use actix_web::http::header::{COOKIE, HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::domain::SessionKey;
use crate::flows::login::SealedAttempt;
use crate::flows::recognise::ReadyMac;
use crate::proxy::headers::pieces;

const SESSION: &str = "doorward";
const SECURE_SESSION: &str = "__Host-doorward";
const ATTEMPT: &str = "doorward-login-";
const TAG_LENGTH: usize = 8;

/// An HMAC-SHA256 in padded base64, which stands before the value that it signs.
const MAC_LENGTH: usize = 44;
/// Both together.
const SIGNED_LENGTH: usize = MAC_LENGTH + SessionKey::LENGTH;

/// What the session cookie is signed with.
#[derive(Clone)]
pub struct SessionMac {
    key: Key,
    /// The same, ready for use at each request.
    ready: ReadyMac,
}

impl SessionMac {
    /// From 64 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let key = Key::from(bytes);
        let ready = ReadyMac::new(key.signing());
        Self { key, ready }
    }

    /// As actix-session takes it.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key.clone()
    }
}

/// How this door names and marks its cookies.
#[derive(Debug, Clone)]
pub struct Cookies {
    secure: bool,
    attempt_life: Duration,
}

impl Cookies {
    /// Over https every name carries `__Host-`; on http loopback browsers would refuse that, so names are plain there.
    #[must_use]
    pub fn new(secure: bool, attempt_life_ms: i64) -> Self {
        Self { secure, attempt_life: Duration::milliseconds(attempt_life_ms) }
    }

    #[must_use]
    pub fn secure(&self) -> bool {
        self.secure
    }

    #[must_use]
    pub fn session_name(&self) -> String {
        self.name().to_owned()
    }

    fn name(&self) -> &'static str {
        if self.secure { SECURE_SESSION } else { SESSION }
    }

    fn prefix(&self) -> &'static str {
        if self.secure { "__Host-" } else { "" }
    }

    fn attempt_name(&self, tag: &str) -> String {
        format!("{}{ATTEMPT}{tag}", self.prefix())
    }

    /// The cookie of a started login. A cross-site POST brings back only `SameSite=None` cookies, so form-post logins need that.
    #[must_use]
    pub fn attempt(&self, attempt: SealedAttempt, cross_site_post: bool) -> Cookie<'static> {
        let mut cookie =
            Cookie::build(self.attempt_name(&attempt.tag), attempt.value).max_age(self.attempt_life).finish();
        self.mark(&mut cookie, cross_site_post);
        cookie
    }

    /// Takes an attempt's cookie away, with the same attributes that it was set with.
    #[must_use]
    pub fn no_attempt(&self, tag: &str) -> Cookie<'static> {
        let mut cookie = Cookie::new(self.attempt_name(tag), "");
        self.mark(&mut cookie, false);
        cookie.make_removal();
        cookie
    }

    #[must_use]
    pub fn no_session(&self) -> Cookie<'static> {
        let mut cookie = Cookie::new(self.session_name(), "");
        self.mark(&mut cookie, false);
        cookie.make_removal();
        cookie
    }

    /// Takes away every cookie that the browser sent, ours and others', as far as a host may name them.
    #[must_use]
    pub fn none_of(&self, headers: &HeaderMap) -> Vec<Cookie<'static>> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let mut names: Vec<&str> = pairs(headers).map(|(name, _)| name).collect();
        names.retain(|name| (1..=128).contains(&name.len()) && name.bytes().all(is_plain));
        names.sort_unstable();
        names.dedup();
        let gone = |name: &str| {
            let mut cookie = Cookie::new(name.to_owned(), "");
            self.mark(&mut cookie, false);
            cookie.make_removal();
            cookie
        };
        names.into_iter().take(64).map(gone).collect()
    }

    fn mark(&self, cookie: &mut Cookie<'static>, cross_site_post: bool) {
        cookie.set_path("/");
        cookie.set_http_only(true);
        // Browsers take SameSite=None only together with Secure, which they allow on loopback http as well.
        cookie.set_secure(self.secure || cross_site_post);
        cookie.set_same_site(if cross_site_post { SameSite::None } else { SameSite::Lax });
    }

    /// Every attempt that the browser holds.
    #[must_use]
    pub fn attempts(&self, headers: &HeaderMap) -> Vec<SealedAttempt> {
        let prefix = self.attempt_name("");
        let found = pairs(headers).filter_map(|(name, value)| {
            let tag = name.strip_prefix(&prefix).filter(|tag| is_tag(tag))?;
            Some(SealedAttempt { tag: tag.to_owned(), value: value.to_owned() })
        });
        // A cookie bomb of ours is not worth opening one by one.
        found.take(32).collect()
    }

    /// How the browser answers for its session.
    #[must_use]
    pub fn session<'h>(&self, headers: &'h HeaderMap) -> SessionCookie<'h> {
        let name = self.name();
        let mut found = headers
            .get_all(COOKIE)
            .flat_map(|field| pieces(field.as_bytes()))
            // Most cookies are others', and need not be read to the end.
            .filter(|piece| piece.trim_ascii_start().starts_with(name.as_bytes()))
            .filter_map(pair)
            .filter(|(own, _)| *own == name)
            .map(|(_, value)| value);
        match (found.next(), found.next()) {
            (None, _) => SessionCookie::Absent,
            (Some(value), None) => SessionCookie::One(value),
            // Two cookies of one name: one was planted from elsewhere, and nobody can say which (RFC 6265bis 8.6).
            (Some(_), Some(_)) => SessionCookie::Doubled,
        }
    }

    /// A `Cookie` header of what the readers above see and nothing else; without the session when that is doubled. Other parsers read
    /// otherwise: actix decodes names, so that a planted `%64oorward=` would count for it and not for us, and one odd pair hides all others.
    #[must_use]
    pub fn own_header(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let session = match self.session(headers) {
            SessionCookie::One(value) => Some((self.session_name(), value)),
            SessionCookie::Absent | SessionCookie::Doubled => None,
        };
        let start = self.attempt_name("");
        let others =
            pairs(headers).filter(|(name, _)| name.starts_with(&start)).map(|(n, v)| (n.to_owned(), v));
        let texts: Vec<String> =
            session.into_iter().chain(others).map(|(name, value)| format!("{name}={value}")).collect();
        HeaderValue::from_str(&texts.join("; ")).ok().filter(|value| !value.is_empty())
    }
}

/// The session key in a signed cookie value, read as actix-session writes it, without its middleware: this happens at each request.
#[must_use]
pub fn verify(value: &str, mac: &SessionMac) -> Option<SessionKey> {
    let mut plain = [0; SIGNED_LENGTH];
    let mut decoded = percent_decode_str(value.trim());
    for (room, byte) in plain.iter_mut().zip(&mut decoded) {
        *room = byte;
    }
    // What is shorter ends in zeros, which no key holds.
    if decoded.next().is_some() {
        return None;
    }
    let (tag, key) = plain.split_at_checked(MAC_LENGTH)?;
    let mut bytes = [0; 33];
    let length = STANDARD.decode_slice(tag, &mut bytes).ok()?;
    if !mac.ready.is_of(bytes.get(..length)?, key) {
        return None;
    }
    SessionKey::parse(std::str::from_utf8(key).ok()?)
}

/// What a request says of its session.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionCookie<'h> {
    Absent,
    One(&'h str),
    Doubled,
}

fn is_tag(text: &str) -> bool {
    text.len() == TAG_LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Name and value of each cookie. Whatever is no pair of ASCII is skipped by itself: a neighbour's odd cookie hides none of ours.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.get_all(COOKIE).flat_map(|value| pieces(value.as_bytes())).filter_map(pair)
}

fn pair(piece: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(piece).ok().filter(|text| text.is_ascii())?;
    let (name, value) = text.trim_ascii().split_once('=')?;
    Some((name.trim_ascii_end(), value))
}

#[cfg(test)]
mod tests {
    use actix_web::cookie::CookieJar;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(COOKIE, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn plain() -> Cookies {
        Cookies::new(false, 600_000)
    }

    #[test]
    fn ck_05_two_cookies_of_our_name_are_no_session() {
        assert_eq!(plain().session(&headers(&[b"doorward=a; doorward=b"])), SessionCookie::Doubled);
        assert_eq!(plain().session(&headers(&[b"doorward=a", b"x=1; doorward=a"])), SessionCookie::Doubled);
        assert_eq!(
            plain().session(&headers(&[b"xdoorward=a; doorward=b; doorwardx=c"])),
            SessionCookie::One("b")
        );
        assert_eq!(plain().session(&headers(&[b"Doorward=a"])), SessionCookie::Absent);
        assert_eq!(plain().session(&headers(&[b"doorward =a; doorward=b"])), SessionCookie::Doubled);
    }

    #[test]
    fn ck_05_what_goes_on_is_what_our_reader_saw() {
        let own = |header: &[u8]| {
            let value = plain().own_header(&headers(&[header]));
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(own(b"%64oorward=planted; doorward=a; x=1").as_deref(), Some("doorward=a"));
        assert_eq!(own(b"odd; \xff=\xfe; doorward =a").as_deref(), Some("doorward=a"));
        assert_eq!(
            own(b"doorward=a; doorward=b; doorward-login-0123abcd=c").as_deref(),
            Some("doorward-login-0123abcd=c")
        );
        assert_eq!(own(b"x=1"), None);
    }

    #[test]
    fn ck_06_odd_headers_are_read_without_a_panic() {
        for odd in [
            &b""[..],
            b";;;",
            b"=",
            b"====;",
            b"\"",
            b"doorward",
            b"doorward=\"a",
            b" ; doorward=",
            b"\xff\xfe=\x80",
        ] {
            let _ = plain().session(&headers(&[odd]));
            let _ = plain().attempts(&headers(&[odd]));
        }
        let many = "a=b; ".repeat(1000);
        assert_eq!(plain().session(&headers(&[many.as_bytes()])), SessionCookie::Absent);
    }

    /// As actix-session reads a signed cookie.
    fn by_the_middleware(value: &str, mac: &SessionMac) -> Option<SessionKey> {
        let cookie = Cookie::parse_encoded(format!("doorward={value}")).ok()?;
        let mut jar = CookieJar::new();
        jar.add_original(cookie.into_owned());
        SessionKey::parse(jar.signed(&mac.key).get("doorward")?.value())
    }

    fn signed(key: &str, mac: &SessionMac) -> String {
        let mut jar = CookieJar::new();
        jar.signed_mut(&mac.key).add(Cookie::new("doorward", key.to_owned()));
        let line = jar.get("doorward").unwrap().encoded().to_string();
        line.strip_prefix("doorward=").unwrap().to_owned()
    }

    proptest::proptest! {
        #[test]
        fn ck_06_the_lean_reader_and_the_middleware_agree_about_every_cookie(
            bytes in proptest::array::uniform32(proptest::prelude::any::<u8>()),
            at in 0_usize..120,
            planted in "[ -~]{0,3}",
        ) {
            let mac = SessionMac::new(&bytes.repeat(2));
            let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            let value = signed(&key, &mac);
            assert_eq!(verify(&value, &mac).map(|key| key.expose().to_owned()), Some(key));
            let mut other = value.clone();
            let at = at.min(value.len());
            other.replace_range(at..(at + planted.len()).min(value.len()), &planted);
            // A semicolon ends a cookie, and our reader is never given one.
            if !other.contains(';') {
                let (ours, theirs) = (verify(&other, &mac), by_the_middleware(&other, &mac));
                assert!(ours.is_none() || ours == theirs, "{other:?}");
                assert_eq!(ours.is_some(), theirs.is_some(), "{other:?}");
            }
            assert!(verify(&value, &SessionMac::new(&[1; 64])).is_none());
        }
    }

    #[test]
    fn ck_01_over_https_every_cookie_is_bound_to_the_host() {
        let cookies = Cookies::new(true, 600_000);
        let attempt = cookies.attempt(SealedAttempt { tag: "0123abcd".into(), value: "v".into() }, false);
        assert_eq!(
            attempt.to_string(),
            "__Host-doorward-login-0123abcd=v; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=600"
        );
        assert!(
            cookies
                .no_session()
                .to_string()
                .starts_with("__Host-doorward=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0")
        );
    }

    proptest::proptest! {
        #[test]
        fn ck_06_no_header_makes_the_cookie_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut map = HeaderMap::new();
                map.append(COOKIE, value);
                if let SessionCookie::One(value) = plain().session(&map) {
                    let _ = verify(value, &SessionMac::new(&[1; 64]));
                }
                let _ = plain().attempts(&map);
            }
        }
    }
}
