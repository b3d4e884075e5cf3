//! The rules of addresses: what is loopback, what an origin is, what an issuer may look like.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::{Host, Url};

/// What is wrong with an address and what to try.
pub type Refusal = (&'static str, &'static str);

/// Whether the URL's host is this very machine and nothing else.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The text of an address in quotes, for a fault; what may hold a password is not repeated.
pub(super) fn shown(text: &str) -> String {
    if text.contains('@') { "the address".to_owned() } else { format!("\"{text}\"") }
}

/// An http or https URL with a host and without user information.
pub(super) fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

fn is_plain_and_public(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// The one origin people see: no path, query or user information, https everywhere but
/// loopback (security.md CK-10).
///
/// # Errors
/// What is wrong with it, and what to try.
pub fn public_url(text: &str) -> Result<Url, Refusal> {
    const ADVICE: &str = "write an origin such as \"https://app.example\"";
    let url = web_url(text).ok_or(("is not a web address without user information", ADVICE))?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(("has a path, query or fragment", ADVICE));
    }
    if is_plain_and_public(&url) {
        return Err((
            "is http on a public address, where sign-in cookies could be read on the way",
            "write https:// and terminate TLS in front; http is for loopback alone",
        ));
    }
    Ok(url)
}

/// An issuer identifier (OpenID Connect Discovery 1.0 section 3): https everywhere but
/// loopback, without query and fragment. Its text is kept, for it is compared byte for byte.
///
/// # Errors
/// What is wrong with it, and what to try.
pub fn issuer(text: &str) -> Result<(), Refusal> {
    const ADVICE: &str = "copy the text of \"issuer\" in the provider's discovery document";
    let url = web_url(text).ok_or(("is not a web address without user information", ADVICE))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(("has a query or a fragment", ADVICE));
    }
    if is_plain_and_public(&url) {
        return Err(("is http on a public address", "use the https issuer"));
    }
    Ok(())
}

/// An address that calls with secrets go to: https everywhere but loopback.
pub(super) fn is_safe_target(url: &Url) -> bool {
    !is_plain_and_public(url)
}

/// An origin as browsers write it (RFC 6454 section 6.2). On failure the origin that was
/// probably meant, if there is one.
pub(super) fn origin(text: &str) -> Result<String, Option<String>> {
    let Some(url) = web_url(text) else {
        return Err(None);
    };
    let exact = url.origin().ascii_serialization();
    if exact == text { Ok(exact) } else { Err(Some(exact)) }
}

/// A network, or one address as a network of its own.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

pub(super) fn is_local(listen: SocketAddr) -> bool {
    listen.ip().is_loopback()
}
