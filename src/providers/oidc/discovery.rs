//! What a provider says of itself, believed only where it may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};
use url::{Host, Url};

use super::strict;
use crate::domain::address;
use crate::providers::ProviderError;
use crate::providers::http::Http;
use crate::telemetry;

const LIFE_MS: i64 = 60 * 60 * 1000;
/// How long the last good copy serves while refreshes fail.
const STALE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// A provider that just failed is left alone this long, so that a broken one costs each visitor no waiting.
const PAUSE_MS: i64 = 1000;
/// The same while an old copy serves: then nobody is waiting for a better answer.
const STALE_PAUSE_MS: i64 = 60 * 1000;
/// How long somebody who could go on with the old copy waits for a new one.
const PATIENCE: Duration = Duration::from_secs(1);

/// The part of a discovery document that Doorward uses (OpenID Connect Discovery 3, RFC 8414).
#[derive(Debug, Clone)]
pub struct Metadata {
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub jwks_uri: Url,
    pub userinfo_endpoint: Option<Url>,
    pub end_session_endpoint: Option<Url>,
    /// The same place, for calls from us instead of browsers.
    pub end_session_back_end: Option<Url>,
    pub revocation_endpoint: Option<Url>,
    pub introspection_endpoint: Option<Url>,
    pub pushed_authorization_request_endpoint: Option<Url>,
    pub requires_pushed_requests: bool,
    /// RFC 9207: whether each authorization response carries `iss`.
    pub announces_iss: bool,
    /// What both sides can do; empty when the provider does not say.
    pub id_token_algs: Vec<String>,
    /// The origins of where browsers are sent, spelled once: every page of ours names them.
    pub browser_origins: Vec<String>,
}

/// How a document is measured.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'c> {
    /// Where the document lies: the configured issuer (Discovery 4).
    pub place: &'c str,
    /// The one issuer that the document must name, byte for byte (Discovery 4.3): the configured one, or the template of several tenants.
    pub issuer: &'c str,
    /// Back-end calls go here instead of the public host.
    pub internal_base_url: Option<&'c Url>,
    /// Calls that carry a secret go to the issuer's own origin alone. Some big providers spread their endpoints over several.
    pub own_origin: bool,
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
        // With a base of our own for such calls they go there, whatever the document says.
        let bound = expected.own_origin && expected.internal_base_url.is_none();
        let home = Url::parse(expected.issuer).ok().filter(|_| bound).map(|url| url.origin());
        let internal = |name: &str| match (public(name)?, expected.internal_base_url) {
            (Some(url), _) if home.as_ref().is_some_and(|home| url.origin() != *home) => {
                Err(format!("{name} leads away from the issuer's own origin"))
            }
            (Some(url), Some(base)) => Ok(Some(moved(&url, base))),
            (found, _) => Ok(found),
        };
        let authorization_endpoint = public("authorization_endpoint")?;
        let end_session_endpoint = public("end_session_endpoint")?;
        let of_browsers = [&authorization_endpoint, &end_session_endpoint].into_iter().flatten();
        let browser_origins = of_browsers.map(|url| url.origin().ascii_serialization()).collect();
        let needed = |found: Option<Url>, name: &str| found.ok_or_else(|| format!("{name} is missing"));
        let flag = |name: &str| document.get(name).and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            authorization_endpoint: needed(authorization_endpoint, "authorization_endpoint")?,
            token_endpoint: needed(internal("token_endpoint")?, "token_endpoint")?,
            jwks_uri: needed(internal("jwks_uri")?, "jwks_uri")?,
            userinfo_endpoint: internal("userinfo_endpoint")?,
            end_session_endpoint,
            end_session_back_end: internal("end_session_endpoint")?,
            revocation_endpoint: internal("revocation_endpoint")?,
            introspection_endpoint: internal("introspection_endpoint")?,
            pushed_authorization_request_endpoint: internal("pushed_authorization_request_endpoint")?,
            requires_pushed_requests: flag("require_pushed_authorization_requests"),
            announces_iss: flag("authorization_response_iss_parameter_supported"),
            id_token_algs: strings(&document, "id_token_signing_alg_values_supported"),
            browser_origins,
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

/// The last good copy, and when a fetch failed since.
struct LastGood {
    held: ArcSwapOption<Held>,
    failed_at_ms: AtomicI64,
}

/// The metadata of one provider: fetched when first needed, refreshed hourly in passing, the last good copy kept for a day.
pub struct Discovery {
    last_good: Arc<LastGood>,
    fetching: tokio::sync::Mutex<()>,
}

impl Discovery {
    pub fn new() -> Self {
        let last_good = LastGood { held: ArcSwapOption::empty(), failed_at_ms: AtomicI64::new(i64::MIN / 2) };
        Self { last_good: Arc::new(last_good), fetching: tokio::sync::Mutex::new(()) }
    }

    /// What is at hand, without asking anybody.
    pub fn at_hand(&self) -> Option<Arc<Metadata>> {
        self.last_good.held.load_full().map(|held| Arc::clone(&held.metadata))
    }

    /// Current metadata.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] while there is no copy that may still be used; [`ProviderError::Misconfigured`] for a document of another issuer.
    pub async fn current(
        &self,
        http: &Arc<Http>,
        expected: Expectation<'_>,
        now_ms: i64,
    ) -> Result<Arc<Metadata>, ProviderError> {
        let held = self.last_good.held.load_full();
        if let Some(held) = held.as_ref().filter(|held| is_within(now_ms, held.fetched_at_ms, LIFE_MS)) {
            return Ok(Arc::clone(&held.metadata));
        }
        let failed_at_ms = self.last_good.failed_at_ms.load(Ordering::Relaxed);
        let Some(old) = held.filter(|held| is_within(now_ms, held.fetched_at_ms, STALE_MAX_MS)) else {
            if is_within(now_ms, failed_at_ms, PAUSE_MS) {
                return Err(a_moment_ago());
            }
            return self.refresh(http, expected, now_ms).await;
        };
        if is_within(now_ms, failed_at_ms, STALE_PAUSE_MS) {
            return Ok(Arc::clone(&old.metadata));
        }
        if let Ok(fetched) = tokio::time::timeout(PATIENCE, self.refresh(http, expected, now_ms)).await {
            return Ok(fetched.unwrap_or_else(|_| Arc::clone(&old.metadata)));
        }
        self.last_good.failed_at_ms.store(now_ms, Ordering::Relaxed);
        Ok(Arc::clone(&old.metadata))
    }

    /// One fetch, unless somebody else fetched, or failed to, while we waited for our turn.
    async fn refresh(
        &self,
        http: &Arc<Http>,
        expected: Expectation<'_>,
        now_ms: i64,
    ) -> Result<Arc<Metadata>, ProviderError> {
        let failed_before = self.last_good.failed_at_ms.load(Ordering::Relaxed);
        let _turn = self.fetching.lock().await;
        if let Some(fresh) =
            self.last_good.held.load_full().filter(|held| is_within(now_ms, held.fetched_at_ms, LIFE_MS))
        {
            return Ok(Arc::clone(&fresh.metadata));
        }
        if self.last_good.failed_at_ms.load(Ordering::Relaxed) != failed_before {
            return Err(a_moment_ago());
        }
        // A task of its own: who loses patience does not stop the refresh.
        let (last_good, http) = (Arc::clone(&self.last_good), Arc::clone(http));
        let (place, issuer) = (expected.place.to_owned(), expected.issuer.to_owned());
        let (base, own_origin) = (expected.internal_base_url.cloned(), expected.own_origin);
        let task = async move {
            let expected =
                Expectation { place: &place, issuer: &issuer, internal_base_url: base.as_ref(), own_origin };
            let began = Instant::now();
            let fetched = fetch(&http, &expected).await.map(Arc::new);
            match &fetched {
                Ok(metadata) => {
                    let held = Held { metadata: Arc::clone(metadata), fetched_at_ms: now_ms };
                    last_good.held.store(Some(Arc::new(held)));
                }
                Err(error) => {
                    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or_default();
                    last_good.failed_at_ms.store(now_ms + took_ms, Ordering::Relaxed);
                    tracing::warn!(issuer, %error, "provider metadata could not be refreshed");
                }
            }
            fetched
        };
        let fetched = tokio::spawn(telemetry::carried(task)).await;
        fetched
            .unwrap_or_else(|_| Err(ProviderError::Unavailable("its metadata was not waited for".to_owned())))
    }
}

/// Whether a span that began at a moment still lasts. A beginning in the future means that the clock was set back: then nothing lasts.
pub(super) fn is_within(now_ms: i64, began_ms: i64, span_ms: i64) -> bool {
    (began_ms..began_ms.saturating_add(span_ms)).contains(&now_ms)
}

fn a_moment_ago() -> ProviderError {
    ProviderError::Unavailable("its metadata could not be had a moment ago".to_owned())
}

async fn fetch(http: &Http, expected: &Expectation<'_>) -> Result<Metadata, ProviderError> {
    let base = format!(
        "{}/.well-known/openid-configuration",
        expected.place.strip_suffix('/').unwrap_or(expected.place)
    );
    let url =
        Url::parse(&base).map_err(|_| ProviderError::Misconfigured("the issuer is not a URL".to_owned()))?;
    let url = expected.internal_base_url.map_or_else(|| url.clone(), |base| moved(&url, base));
    let answer = http.get(&url, None).await.map_err(ProviderError::into_outage)?;
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
        Metadata::read(
            text.as_bytes(),
            &Expectation { place: issuer, issuer, internal_base_url: None, own_origin: false },
        )
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
        let expected = Expectation {
            place: "https://id.example",
            issuer: "https://id.example",
            internal_base_url: Some(&base),
            own_origin: true,
        };
        let metadata = Metadata::read(document("https://id.example", "").as_bytes(), &expected).unwrap();
        assert_eq!(metadata.token_endpoint.as_str(), "http://keycloak.internal:8080/t");
        assert_eq!(metadata.authorization_endpoint.as_str(), "https://id.example/a");
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_bytes_make_the_metadata_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), url in "\\PC{0,40}") {
            let expected = Expectation { place: "https://id.example", issuer: "https://id.example", internal_base_url: None, own_origin: false };
            let _ = Metadata::read(&bytes, &expected);
            let text = serde_json::json!({"issuer": "https://id.example", "token_endpoint": url, "authorization_endpoint": url, "jwks_uri": url}).to_string();
            let _ = Metadata::read(text.as_bytes(), &expected);
        }
    }
}
