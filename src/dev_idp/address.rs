//! Where the development issuer may live and whom it answers: loopback alone, no proxy between.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use url::{Host, Url};

use super::DevIdpError;

/// The policy of every answer that is not a page with a form of its own.
const CLOSED_POLICY: &str = concat!(
    "default-src 'none'; style-src 'self'; form-action 'none'; base-uri 'none'; ",
    "frame-ancestors 'none'",
);

/// The parts of the issuer's URL; `url` is `origin` followed by `path`, byte for byte.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) url: String,
    /// Empty, or starting with `/` and not ending with one.
    pub(super) path: String,
}

impl Issuer {
    /// Refuses everything but an http or https URL of a loopback host in its one normal spelling, because a
    /// client compares issuers byte for byte (OpenID Connect Discovery 1.0, section 4.3).
    pub(super) fn parse(text: &str) -> Result<Self, DevIdpError> {
        let refuse = || DevIdpError::Issuer(text.to_owned());
        let url = loopback_url(text).ok_or_else(refuse)?;
        let path = if url.path() == "/" { "" } else { url.path() };
        let normal = format!("{}{path}", url.origin().ascii_serialization());
        if path.ends_with('/') || normal != text {
            return Err(refuse());
        }
        Ok(Self { url: normal, path: path.to_owned() })
    }
}

/// An http or https URL of a loopback host, any port, that may stand as a redirect URI or an issuer.
/// Backslashes and characters outside visible ASCII are refused, because parsers disagree on them.
pub(super) fn loopback_url(text: &str) -> Option<Url> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none();
    (plain && url.host().is_some_and(|host| host_is_loopback(&host))).then_some(url)
}

fn host_is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name_is_loopback(name),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => *address == Ipv6Addr::LOCALHOST,
    }
}

/// `localhost` and its subdomains, which browsers resolve to the loopback address by themselves
/// (RFC 6761, section 6.3).
fn name_is_loopback(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.strip_suffix(".localhost").is_some_and(|labels| {
            labels.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            })
        })
}

/// Reads a `Host` header (RFC 9110, section 7.2) strictly: the lenient spellings of an IPv4 address
/// that URL parsers accept are nothing a browser sends.
fn authority_is_loopback(authority: &str) -> bool {
    let (loopback, rest) = if let Some(inner) = authority.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return false;
        };
        (address.parse() == Ok(Ipv6Addr::LOCALHOST), rest)
    } else {
        let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        let address = host.parse::<Ipv4Addr>();
        (address.map_or_else(|_| name_is_loopback(host), |address| address.is_loopback()), rest)
    };
    let port_fits = rest.is_empty()
        || rest.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        });
    loopback && port_fits
}

/// Any header by which a proxy tells that it stands in between, in any spelling.
fn tells_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    matches!(
        name.as_str(),
        "forwarded"
            | "via"
            | "x-real-ip"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-rewrite-url"
            | "x-envoy-external-address"
            | "true-client-ip"
            | "cf-connecting-ip"
    ) || name.starts_with("x-forwarded")
        || name.starts_with("x-original-")
}

/// The sentence that says why a request is refused, or `None` when it may pass.
fn refusal(request: &HttpRequest) -> Option<String> {
    if request.peer_addr().is_some_and(|peer| !peer.ip().is_loopback()) {
        return Some("The development IdP answers this machine alone.".to_owned());
    }
    if let Some(name) = request.headers().keys().find(|name| tells_of_a_proxy(name)) {
        return Some(format!(
            "The development IdP signs anybody in without a password, so it is never reached \
             through a proxy: the request carries the header {name}."
        ));
    }
    let hosts = request.headers().get_all(header::HOST).map(|value| value.to_str().unwrap_or(""));
    let target = request.uri().authority().map(actix_web::http::uri::Authority::as_str);
    let mut named = hosts.chain(target).peekable();
    if named.peek().is_none() || !named.all(authority_is_loopback) {
        return Some(
            "The development IdP answers only under a loopback name: localhost, *.localhost, \
             127.0.0.0/8 or [::1]. A foreign Host may be a DNS rebinding attack."
                .to_owned(),
        );
    }
    None
}

/// The middleware in front of everything here: refuses first, and hardens every answer.
pub(super) async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let mut response = match refusal(request.request()) {
        Some(why) => request
            .into_response(HttpResponse::Forbidden().content_type("text/plain; charset=utf-8").body(why)),
        None => next.call(request).await?.map_into_boxed_body(),
    };
    harden(response.headers_mut());
    Ok(response)
}

fn harden(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: with it browsers send `Origin: null` on the form's own POST.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let policy = HeaderValue::from_static(CLOSED_POLICY);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_loopback_only_when_every_browser_takes_it_there() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "app.localhost:3000",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(authority_is_loopback(host), "{host} is loopback");
        }
        for host in [
            "",
            "example.test",
            "localhost.example.test",
            "notlocalhost",
            ".localhost",
            "a..localhost",
            "127.0.0.1.example.test",
            "0x7f.1",
            "0.0.0.0",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::1",
            "[::1]x",
            "localhost:",
            "localhost:+1",
            "localhost:99999",
            "evil@localhost",
            "localhost:80@evil.test",
            "localhost/evil.test",
        ] {
            assert!(!authority_is_loopback(host), "{host} is not loopback");
        }
    }

    #[test]
    fn a_redirect_goes_to_a_plain_loopback_url_and_nowhere_else() {
        for text in
            ["http://localhost:1/cb?x=1", "http://[::1]:2/", "http://127.0.0.1", "https://localhost/cb"]
        {
            assert!(loopback_url(text).is_some(), "{text} may be a redirect URI");
        }
        for text in [
            "ftp://localhost/cb",
            "https://evil.test/cb",
            "http://evil.test/cb",
            "http://localhost@evil.test/",
            "http://user:pw@localhost/",
            "http://localhost\\@evil.test/",
            "http://localhost/cb#fragment",
            "http://localhost.evil.test/",
            "//localhost/cb",
            "/cb",
            "javascript:alert(1)",
            "http://localhost/c b",
            "http://localhost/\r\nSet-Cookie:x=1",
        ] {
            assert!(loopback_url(text).is_none(), "{text} may not be a redirect URI");
        }
    }

    #[test]
    fn an_issuer_has_one_spelling() {
        let issuer = Issuer::parse("http://localhost:8080/dev-idp").unwrap();
        assert_eq!(issuer.path, "/dev-idp");
        assert_eq!(Issuer::parse("http://127.0.0.1:1").unwrap().path, "");
        for text in [
            "http://localhost:8080/",
            "http://localhost:8080/dev-idp/",
            "http://LOCALHOST:8080/dev-idp",
            "http://localhost:80/dev-idp",
            "http://localhost:8080/{x}",
            "http://localhost:8080/dev-idp?x=1",
            "https://localhost:443/dev-idp",
            "http://id.example.test/dev-idp",
        ] {
            assert!(Issuer::parse(text).is_err(), "{text} is no issuer");
        }
    }

    #[test]
    fn proxies_are_known_by_any_spelling_of_their_headers() {
        for name in ["forwarded", "x-forwarded-for", "x_forwarded_host", "x-original-uri", "via"] {
            assert!(tells_of_a_proxy(&HeaderName::from_static(name)), "{name}");
        }
        assert!(!tells_of_a_proxy(&HeaderName::from_static("x-requested-with")));
    }
}
