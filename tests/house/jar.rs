//! A cookie jar as RFC 6265bis section 5 describes it: one jar for all ports of a host, prefixes,
//! expiry, path and secure rules. `SameSite` is not judged: a jar has no tabs. Strict where
//! browsers differ: a Secure cookie over plain http is refused, on loopback too.

use std::net::IpAddr;

use time::{Date, Month, Time};
use url::Url;

/// Longest life a cookie may ask for (section 5.5): 400 days.
const LONGEST_MS: i64 = 400 * 24 * 3600 * 1000;

/// One `Set-Cookie` line, split but not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCookie {
    pub name: String,
    pub value: String,
    /// Name as written and value (empty when it has none), in order.
    pub attributes: Vec<(String, String)>,
}

impl SetCookie {
    /// Section 5.6; `None` for control characters, an empty pair, or more than 4096 bytes.
    pub fn parse(line: &str) -> Option<Self> {
        if line.chars().any(|c| c != '\t' && c.is_ascii_control()) {
            return None;
        }
        let mut parts = line.split(';');
        let pair = parts.next()?;
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        if (name.is_empty() && value.is_empty()) || name.len() + value.len() > 4096 {
            return None;
        }
        let attributes = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.trim().to_owned(), value.trim().to_owned())
        });
        Some(Self { name, value, attributes: attributes.filter(|(_, v)| v.len() <= 1024).collect() })
    }

    /// The last attribute of this name, in any case: that one counts.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut known = self.attributes.iter().rev();
        known.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// Unix milliseconds after which it is gone; `None` for the browser's session.
    fn expires_ms(&self, now_ms: i64) -> Option<i64> {
        let max_age = self.attribute("max-age").and_then(|text| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            good.then(|| if text.starts_with('-') { 0 } else { text.parse().unwrap_or(i64::MAX) })
        });
        let at = match max_age {
            Some(seconds) if seconds <= 0 => i64::MIN,
            Some(seconds) => now_ms.saturating_add(seconds.saturating_mul(1000)),
            None => cookie_date(self.attribute("expires")?)?,
        };
        Some(at.min(now_ms + LONGEST_MS))
    }
}

/// A cookie that the jar keeps.
#[derive(Clone, Debug)]
pub struct Cookie {
    pub name: String,
    pub value: String,
    pub host: String,
    pub host_only: bool,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    /// Unix milliseconds; `None` for the browser's session.
    pub expires_ms: Option<i64>,
    created: u64,
}

#[derive(Default)]
pub struct Jar {
    cookies: Vec<Cookie>,
    count: u64,
}

impl Jar {
    /// Section 5.7: keeps, replaces, deletes or ignores.
    pub fn store(&mut self, set: &SetCookie, url: &Url, now_ms: i64) {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let (domain, host_only) = match set.attribute("domain") {
            Some(domain) if !domain.trim_start_matches('.').is_empty() => {
                let domain = domain.trim_start_matches('.').to_ascii_lowercase();
                (domain.clone(), domain == host && is_single(&host))
            }
            _ => (host.clone(), true),
        };
        let path = match set.attribute("path") {
            Some(path) if path.starts_with('/') => path.to_owned(),
            _ => default_path(url),
        };
        let secure = set.has("secure");
        let cookie = Cookie {
            name: set.name.clone(),
            value: set.value.clone(),
            host: domain,
            host_only,
            path,
            secure,
            http_only: set.has("httponly"),
            expires_ms: set.expires_ms(now_ms),
            created: self.count,
        };
        let foreign = !host_only && !domain_matches(&host, &cookie.host);
        let plain = url.scheme() != "https";
        if foreign || (secure && plain) || !prefix_holds(set, &cookie) {
            return;
        }
        if plain && !secure && self.shadows_secure(&cookie) {
            return;
        }
        self.put(cookie, now_ms);
    }

    fn put(&mut self, mut cookie: Cookie, now_ms: i64) {
        self.count += 1;
        let same = |old: &Cookie| {
            old.name == cookie.name
                && old.host == cookie.host
                && old.host_only == cookie.host_only
                && old.path == cookie.path
        };
        if let Some(at) = self.cookies.iter().position(same) {
            cookie.created = self.cookies.remove(at).created;
        }
        if cookie.expires_ms.is_none_or(|at| at > now_ms) {
            self.cookies.push(cookie);
        }
    }

    /// A plain cookie may not cover a secure one ("leave secure cookies alone").
    fn shadows_secure(&self, new: &Cookie) -> bool {
        self.cookies.iter().any(|old| {
            old.secure
                && old.name == new.name
                && (domain_matches(&old.host, &new.host) || domain_matches(&new.host, &old.host))
                && path_matches(&new.path, &old.path)
        })
    }

    /// What would be sent to this URL: longer paths first, then older ones (section 5.8.3).
    pub fn for_url(&self, url: &Url, now_ms: i64) -> Vec<Cookie> {
        let mut found = self.for_host(url, now_ms);
        found.retain(|cookie| path_matches(url.path(), &cookie.path));
        found
    }

    /// As [`Self::for_url`], whatever the path.
    pub fn for_host(&self, url: &Url, now_ms: i64) -> Vec<Cookie> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let fits = |cookie: &&Cookie| {
            let host_fits = cookie.host == host || (!cookie.host_only && domain_matches(&host, &cookie.host));
            host_fits
                && (!cookie.secure || url.scheme() == "https")
                && cookie.expires_ms.is_none_or(|at| at > now_ms)
        };
        let mut found: Vec<_> = self.cookies.iter().filter(fits).cloned().collect();
        found.sort_by_key(|cookie| (std::cmp::Reverse(cookie.path.len()), cookie.created));
        found
    }

    /// The `Cookie` header for this URL.
    pub fn header(&self, url: &Url, now_ms: i64) -> Option<String> {
        let pairs: Vec<_> = self
            .for_url(url, now_ms)
            .iter()
            .map(|cookie| match cookie.name.as_str() {
                "" => cookie.value.clone(),
                name => format!("{name}={}", cookie.value),
            })
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    pub fn clear(&mut self) {
        self.cookies.clear();
    }

    pub fn remove(&mut self, name: &str) {
        self.cookies.retain(|cookie| cookie.name != name);
    }
}

/// `__Host-` and `__Secure-` (section 4.1.3), in any case; hidden in a nameless value too.
fn prefix_holds(set: &SetCookie, cookie: &Cookie) -> bool {
    let name =
        if set.name.is_empty() { set.value.to_ascii_lowercase() } else { set.name.to_ascii_lowercase() };
    let (host, secure) = (name.starts_with("__host-"), name.starts_with("__secure-"));
    if set.name.is_empty() {
        return !host && !secure;
    }
    let bound = !set.has("domain") && set.attribute("path") == Some("/");
    (!host || (cookie.secure && bound)) && (!secure || cookie.secure)
}

/// A host that has no subdomains to share a cookie with: an address or a single label.
fn is_single(host: &str) -> bool {
    is_address(host) || !host.contains('.')
}

fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn domain_matches(host: &str, domain: &str) -> bool {
    let longer = || host.strip_suffix(domain).is_some_and(|head| head.ends_with('.'));
    host == domain || (!is_address(host) && longer())
}

fn path_matches(path: &str, cookie_path: &str) -> bool {
    path.strip_prefix(cookie_path)
        .is_some_and(|rest| rest.is_empty() || cookie_path.ends_with('/') || rest.starts_with('/'))
}

fn default_path(url: &Url) -> String {
    match url.path().rfind('/') {
        None | Some(0) => "/".into(),
        Some(at) => url.path()[..at].into(),
    }
}

/// Section 5.1.1: dates as servers really write them, in unix milliseconds.
fn cookie_date(text: &str) -> Option<i64> {
    const MONTHS: &str = "janfebmaraprmayjunjulaugsepoctnovdec";
    let (mut clock, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')) {
        let parts: Vec<Option<u8>> = token.split(':').map(|part| part.parse().ok()).collect();
        if let (None, [Some(h), Some(m), Some(s)]) = (clock, &*parts) {
            clock = Some(Time::from_hms(*h, *m, *s).ok()?);
        } else if day.is_none() && (1..=2).contains(&token.len()) && token.parse::<u8>().is_ok() {
            day = token.parse::<u8>().ok();
        } else if let (None, Some(head)) = (month, token.get(..3))
            && let Some(at) = MONTHS.find(&head.to_ascii_lowercase())
            && at % 3 == 0
        {
            month = Month::try_from(u8::try_from(at / 3 + 1).ok()?).ok();
        } else if year.is_none() && (2..=4).contains(&token.len()) {
            year = token.parse::<i32>().ok().map(|year| match year {
                0..=69 => year + 2000,
                70..=99 => year + 1900,
                _ => year,
            });
        }
    }
    let date = Date::from_calendar_date(year?, month?, day?).ok()?;
    let at = date.with_time(clock?).assume_utc().unix_timestamp();
    (year? >= 1601).then_some(at * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar_after(url: &str, lines: &[&str]) -> Jar {
        let mut jar = Jar::default();
        for line in lines {
            let set = SetCookie::parse(line).expect("a cookie");
            jar.store(&set, &Url::parse(url).expect("a url"), 1_000);
        }
        jar
    }

    fn sent(jar: &Jar, url: &str, now_ms: i64) -> String {
        let url = Url::parse(url).expect("a url");
        jar.header(&url, now_ms).unwrap_or_default()
    }

    #[test]
    fn ports_share_a_jar_and_hosts_do_not() {
        let jar = jar_after("http://127.0.0.1:8080/", &["a=1; Path=/"]);
        assert_eq!(sent(&jar, "http://127.0.0.1:9999/x", 2_000), "a=1");
        assert_eq!(sent(&jar, "http://localhost:8080/", 2_000), "");
    }

    #[test]
    fn cookies_end_by_age_by_date_and_by_deletion() {
        let lines = ["a=1; Max-Age=10", "b=2; Expires=Thu, 01-Jan-1970 00:00:01 GMT", "c=3"];
        let jar = jar_after("http://localhost/", &lines);
        assert_eq!(sent(&jar, "http://localhost/", 10_999), "a=1; c=3");
        assert_eq!(sent(&jar, "http://localhost/", 11_000), "c=3");
        let jar = jar_after("http://localhost/", &["a=1", "a=; Max-Age=0"]);
        assert_eq!(sent(&jar, "http://localhost/", 1_000), "");
    }

    #[test]
    fn a_date_is_read_in_the_forms_servers_write() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(cookie_date(text), Some(784_111_777_000), "{text}");
        }
        assert_eq!(cookie_date("tomorrow"), None);
    }

    #[test]
    fn the_host_prefix_needs_https_root_path_and_no_domain() {
        let good = "__Host-a=1; Secure; Path=/";
        let https = "https://app.example.test/auth/x";
        assert_eq!(sent(&jar_after(https, &[good]), https, 2_000), "__Host-a=1");
        let http = "http://localhost/";
        assert_eq!(sent(&jar_after(http, &[good]), http, 2_000), "");
        for bad in [
            "__Host-a=1; Path=/",
            "__Host-a=1; Secure",
            "__host-a=1; Secure; Path=/auth",
            "__Host-a=1; Secure; Path=/; Domain=app.example.test",
            "__Secure-a=1; Path=/",
        ] {
            assert_eq!(sent(&jar_after(https, &[bad]), https, 2_000), "", "{bad}");
        }
    }

    #[test]
    fn the_path_decides_by_whole_segments_and_longer_ones_go_first() {
        let lines = ["a=1; Path=/", "b=2; Path=/auth", "c=3"];
        let jar = jar_after("http://localhost/auth/login", &lines);
        assert_eq!(sent(&jar, "http://localhost/auth/x", 2_000), "b=2; c=3; a=1");
        assert_eq!(sent(&jar, "http://localhost/authority", 2_000), "a=1");
    }

    #[test]
    fn a_foreign_domain_is_refused() {
        let jar = jar_after("http://127.0.0.1/", &["a=1; Domain=example.test", "b=2; Domain=1"]);
        assert_eq!(sent(&jar, "http://127.0.0.1/", 2_000), "");
    }
}
