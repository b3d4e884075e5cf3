//! What a provider says of itself, believed only where it may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};
use url::{Host, Url};

use super::strict;
use crate::domain::address;
use crate::providers::ProviderError;
use crate::providers::http::Http;

const LIFE_MS: i64 = 60 * 60 * 1000;
/// How long the last good copy serves while refreshes fail.
const STALE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// A provider that just failed is left alone this long, so that a broken one costs each visitor no waiting.
const PAUSE_MS: i64 = 1000;

/// The part of a discovery document that Doorward uses (OpenID Connect Discovery 3, RFC 8414).
#[derive(Debug, Clone)]
pub struct Metadata {
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub jwks_uri: Url,
    pub userinfo_endpoint: Option<Url>,
    pub end_session_endpoint: Option<Url>,
    pub revocation_endpoint: Option<Url>,
    pub pushed_authorization_request_endpoint: Option<Url>,
    pub requires_pushed_requests: bool,
    /// RFC 9207: whether each authorization response carries `iss`.
    pub announces_iss: bool,
    /// What both sides can do; empty when the provider does not say.
    pub id_token_algs: Vec<String>,
}

/// How a document is measured.
#[derive(Debug)]
pub struct Expectation<'c> {
    /// The one issuer that the document must name, byte for byte (Discovery 4.3).
    pub issuer: &'c str,
    /// Back-end calls go here instead of the public host.
    pub internal_base_url: Option<&'c Url>,
}

impl Metadata {
    /// Reads a discovery document.
    ///
    /// # Errors
    /// A sentence for the operator that names what is wrong.
    pub fn read(bytes: &[u8], expected: &Expectation<'_>) -> Result<Self, String> {
        let document = strict::object(bytes)?;
        match document.get("issuer").and_then(Value::as_str) {
            Some(issuer) if issuer == expected.issuer => {}
            Some(other) => {
                return Err(format!(
                    "its issuer is {other:?}, configured is {:?} (a trailing slash counts)",
                    expected.issuer
                ));
            }
            None => return Err("it names no issuer".to_owned()),
        }
        let public = |name: &str| endpoint(&document, name, expected.issuer);
        let internal = |name: &str| {
            public(name).map(|found| {
                found.map(|url| {
                    expected.internal_base_url.map_or_else(|| url.clone(), |base| moved(&url, base))
                })
            })
        };
        let needed = |found: Option<Url>, name: &str| found.ok_or_else(|| format!("{name} is missing"));
        let flag = |name: &str| document.get(name).and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            authorization_endpoint: needed(public("authorization_endpoint")?, "authorization_endpoint")?,
            token_endpoint: needed(internal("token_endpoint")?, "token_endpoint")?,
            jwks_uri: needed(internal("jwks_uri")?, "jwks_uri")?,
            userinfo_endpoint: internal("userinfo_endpoint")?,
            end_session_endpoint: public("end_session_endpoint")?,
            revocation_endpoint: internal("revocation_endpoint")?,
            pushed_authorization_request_endpoint: internal("pushed_authorization_request_endpoint")?,
            requires_pushed_requests: flag("require_pushed_authorization_requests"),
            announces_iss: flag("authorization_response_iss_parameter_supported"),
            id_token_algs: strings(&document, "id_token_signing_alg_values_supported"),
        })
    }
}

fn strings(document: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = document.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// An endpoint is https, or http on loopback for an issuer on loopback; it has no user info and no fragment, and leads inside only when the issuer is inside.
fn endpoint(document: &Map<String, Value>, name: &str, issuer: &str) -> Result<Option<Url>, String> {
    let text = match document.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("{name} is not a string")),
    };
    let url = Url::parse(text).map_err(|_| format!("{name} is not a URL"))?;
    let issuer_host =
        Url::parse(issuer).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let safe_scheme = match url.scheme() {
        "https" => true,
        "http" => address::is_loopback_host(host) && address::is_loopback_host(&issuer_host),
        _ => false,
    };
    if !safe_scheme {
        return Err(format!("{name} is not https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(format!("{name} carries user info or a fragment"));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        _ => None,
    };
    let leads_inside = literal.is_some_and(address::is_private) || address::is_loopback_host(host);
    let issuer_is_inside = address::is_loopback_host(&issuer_host)
        || issuer_host.trim_matches(['[', ']']).parse().is_ok_and(address::is_private);
    let issuer_is_name = issuer_host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err();
    // A name may live inside: then the resolver of providers::http has the last word. A loopback name or literal never may.
    if leads_inside
        && !issuer_is_inside
        && (address::is_loopback_host(host) || !issuer_is_name || literal.is_some())
    {
        return Err(format!("{name} leads to a private address"));
    }
    Ok(Some(url))
}

/// The same path on the host for back-end calls.
fn moved(url: &Url, base: &Url) -> Url {
    let mut moved = base.clone();
    moved.set_path(url.path());
    moved.set_query(url.query());
    moved
}

struct Held {
    metadata: Arc<Metadata>,
    fetched_at_ms: i64,
}

/// The metadata of one provider: fetched when first needed, refreshed hourly in passing, the last good copy kept for a day.
pub struct Discovery {
    held: ArcSwapOption<Held>,
    fetching: tokio::sync::Mutex<()>,
    failed_at_ms: AtomicI64,
}

impl Discovery {
    pub fn new() -> Self {
        Self {
            held: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
            failed_at_ms: AtomicI64::new(i64::MIN / 2),
        }
    }

    /// Current metadata.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] while there is no copy that may still be used; [`ProviderError::Misconfigured`] for a document of another issuer.
    pub async fn current(
        &self,
        http: &Http,
        expected: &Expectation<'_>,
        now_ms: i64,
    ) -> Result<Arc<Metadata>, ProviderError> {
        let held = self.held.load_full();
        if let Some(held) = held.as_ref().filter(|held| now_ms < held.fetched_at_ms + LIFE_MS) {
            return Ok(Arc::clone(&held.metadata));
        }
        let usable = held.filter(|held| now_ms < held.fetched_at_ms + STALE_MAX_MS);
        if now_ms < self.failed_at_ms.load(Ordering::Relaxed) + PAUSE_MS {
            let pausing =
                || ProviderError::Unavailable("its metadata could not be had a moment ago".to_owned());
            return usable.map(|held| Arc::clone(&held.metadata)).ok_or_else(pausing);
        }
        // With a usable copy nobody waits for a refresh that is already under way.
        let turn = match (&usable, self.fetching.try_lock()) {
            (_, Ok(turn)) => turn,
            (Some(held), Err(_)) => return Ok(Arc::clone(&held.metadata)),
            (None, Err(_)) => self.fetching.lock().await,
        };
        if let Some(fresh) = self.held.load_full().filter(|held| now_ms < held.fetched_at_ms + LIFE_MS) {
            return Ok(Arc::clone(&fresh.metadata));
        }
        let fetched = fetch(http, expected).await;
        drop(turn);
        match (fetched, usable) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                self.held
                    .store(Some(Arc::new(Held { metadata: Arc::clone(&metadata), fetched_at_ms: now_ms })));
                Ok(metadata)
            }
            (Err(e), usable) => {
                self.failed_at_ms.store(now_ms, Ordering::Relaxed);
                tracing::warn!(issuer = expected.issuer, error = %e, "provider metadata could not be refreshed");
                usable.map(|held| Arc::clone(&held.metadata)).ok_or(e)
            }
        }
    }
}

async fn fetch(http: &Http, expected: &Expectation<'_>) -> Result<Metadata, ProviderError> {
    let base = format!(
        "{}/.well-known/openid-configuration",
        expected.issuer.strip_suffix('/').unwrap_or(expected.issuer)
    );
    let url =
        Url::parse(&base).map_err(|_| ProviderError::Misconfigured("the issuer is not a URL".to_owned()))?;
    let url = expected.internal_base_url.map_or_else(|| url.clone(), |base| moved(&url, base));
    let answer = http.get(&url, None).await?;
    if answer.status != 200 {
        return Err(ProviderError::Unavailable(format!("its metadata answered {}", answer.status)));
    }
    Metadata::read(&answer.body, expected)
        .map_err(|e| ProviderError::Misconfigured(format!("its metadata cannot be used: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(issuer: &str, more: &str) -> String {
        format!(
            r#"{{"issuer":"{issuer}","authorization_endpoint":"{issuer}/a","token_endpoint":"{issuer}/t","jwks_uri":"{issuer}/k"{more}}}"#
        )
    }

    fn read(text: &str, issuer: &str) -> Result<Metadata, String> {
        Metadata::read(text.as_bytes(), &Expectation { issuer, internal_base_url: None })
    }

    #[test]
    fn missing_optional_lists_are_no_fault() {
        let metadata = read(&document("https://id.example", ""), "https://id.example").unwrap();
        assert!(
            metadata.id_token_algs.is_empty()
                && metadata.userinfo_endpoint.is_none()
                && !metadata.announces_iss
        );
    }

    #[test]
    fn tk_13_only_the_configured_issuer_is_believed() {
        for other in
            ["https://id.example/", "https://ID.example", "https://evil.example", "http://id.example"]
        {
            assert!(read(&document(other, ""), "https://id.example").is_err(), "{other}");
        }
        assert!(read(r#"{"issuer":["https://id.example"]}"#, "https://id.example").is_err());
        assert!(read("{}", "https://id.example").is_err());
    }

    #[test]
    fn tk_14_endpoints_are_https_and_lead_nowhere_inside() {
        for bad in [
            "http://id.example/u",
            "file:///etc/passwd",
            "ftp://id.example/u",
            "https://u:p@id.example/",
            "https://id.example/#x",
            "https://127.0.0.1/u",
            "https://[::1]/u",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest",
            "https://localhost/u",
            "https://2130706433/",
            "https://0x7f.1/",
            "javascript:alert(1)",
            "/relative",
            "",
        ] {
            let text = document("https://id.example", &format!(r#","userinfo_endpoint":"{bad}""#));
            assert!(read(&text, "https://id.example").is_err(), "{bad}");
        }
        let text = document("https://id.example", r#","userinfo_endpoint":"https://api.other.example/u""#);
        assert!(read(&text, "https://id.example").is_ok());
        let local = document("http://127.0.0.1:9", r#","userinfo_endpoint":"http://localhost:7/u""#);
        assert!(read(&local, "http://127.0.0.1:9").is_ok());
    }

    #[test]
    fn back_end_calls_move_to_the_internal_host_and_browser_calls_do_not() {
        let base = Url::parse("http://keycloak.internal:8080").unwrap();
        let expected = Expectation { issuer: "https://id.example", internal_base_url: Some(&base) };
        let metadata = Metadata::read(document("https://id.example", "").as_bytes(), &expected).unwrap();
        assert_eq!(metadata.token_endpoint.as_str(), "http://keycloak.internal:8080/t");
        assert_eq!(metadata.authorization_endpoint.as_str(), "https://id.example/a");
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_bytes_make_the_metadata_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), url in "\\PC{0,40}") {
            let expected = Expectation { issuer: "https://id.example", internal_base_url: None };
            let _ = Metadata::read(&bytes, &expected);
            let text = serde_json::json!({"issuer": "https://id.example", "token_endpoint": url, "authorization_endpoint": url, "jwks_uri": url}).to_string();
            let _ = Metadata::read(text.as_bytes(), &expected);
        }
    }
}
