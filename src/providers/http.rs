//! The one way out to a provider: limits on time, size and parallel calls, no redirects, no proxies from the environment.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thread_local::ThreadLocal;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use url::Url;

use super::ProviderError;
use super::breaker::{Traffic, Turn};
use crate::domain::{Clock, Random, address};
use crate::telemetry;

const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: less than any common server keeps it (Node: 5 s). A code that is sent just while
/// the provider hangs up is lost, for it must not be sent twice.
const KEPT: Duration = Duration::from_secs(4);
/// More than any honest metadata, key set or token answer; the memory one call can cost.
pub const ANSWER_MAX: usize = 1024 * 1024;
/// How often a call that changes nothing is made again. The token endpoint is asked once (security.md OB-08).
const TRIES: u32 = 2;

/// A provider's answer, read whole and bounded.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    /// `max-age` of `Cache-Control`, seconds.
    pub max_age_s: Option<u64>,
    /// The sender's clock (`Date`), Unix ms.
    pub date_ms: Option<i64>,
    /// `Retry-After` in seconds; a date there is rare and not read.
    pub retry_after_s: Option<u64>,
    /// Where a new thing lies (`Location`); it is never followed.
    pub location: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the answer calls itself JSON (`application/json`, `application/jwk-set+json` …).
    #[must_use]
    pub fn is_json(&self) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    }
}

/// The way to one provider, and the house's time and randomness.
pub struct Line {
    /// Its id, for the log.
    pub provider: String,
    pub traffic: Arc<Traffic>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

/// How a call to a directory proves itself.
#[derive(Clone, Copy)]
pub enum Credentials<'c> {
    Bearer(&'c str),
    Basic(&'c str, &'c str),
}

impl Credentials<'_> {
    fn on(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic(id, secret) => request.basic_auth(form_encoded(id), Some(form_encoded(secret))),
        }
    }
}

/// The client of one provider: its own connections, its own limits.
pub struct Http {
    /// One per thread: a connection is served by the thread that opened it, and to ask it from another costs six hand-overs a call.
    clients: ThreadLocal<reqwest::Client>,
    tls: ClientConfig,
    neighbourhood: Arc<Neighbourhood>,
    line: Line,
}

impl Http {
    /// `issuer_host` decides what is foreign: a provider on a public address cannot send us to a private one (security.md TK-14).
    ///
    /// # Errors
    /// A sentence for the operator when no client can be made of this.
    pub fn new(issuer_host: &str, tls: ClientConfig, line: Line) -> Result<Self, String> {
        let neighbourhood = Arc::new(Neighbourhood::new(issuer_host));
        let http = Self { clients: ThreadLocal::new(), tls, neighbourhood, line };
        http.client().map_err(|error| error.without_url().to_string())?;
        Ok(http)
    }

    /// This thread's client.
    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        self.clients.get_or_try(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "this is the one place that builds a client, with every limit"
            )]
            let builder = reqwest::Client::builder();
            builder
                .connect_timeout(CONNECT)
                .timeout(WHOLE)
                .pool_idle_timeout(KEPT)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .user_agent(concat!("doorward/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::clone(&self.neighbourhood))
                .tls_backend_preconfigured(self.tls.clone())
                .build()
        })
    }

    fn request(&self, method: Method, url: &Url) -> Result<reqwest::RequestBuilder, ProviderError> {
        let client = self.client().map_err(|error| unavailable(&error))?;
        Ok(client.request(method, url.clone()).header("accept", "application/json"))
    }

    /// A GET, with a bearer token in the header where one is given: never in the address, which is logged (RFC 9700 4.3.2).
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] without a whole answer in time, `Protocol` for one that is too large.
    pub async fn get(&self, url: &Url, bearer: Option<&str>) -> Result<Answer, ProviderError> {
        let mut request = self.request(Method::GET, url)?;
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        self.send(request, TRIES).await
    }

    /// A form POST, with client authentication in the header where `basic` is given.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] without a whole answer in time, `Protocol` for one that is too large.
    pub async fn post(
        &self,
        url: &Url,
        form: &[(Cow<'static, str>, String)],
        basic: Option<(&str, &str)>,
    ) -> Result<Answer, ProviderError> {
        let mut request = self.request(Method::POST, url)?.form(form);
        if let Some((id, secret)) = basic {
            request = request.basic_auth(form_encoded(id), Some(form_encoded(secret)));
        }
        self.send(request, 0).await
    }

    /// A JSON POST to a directory; with the answer comes where the new thing lies (`Location`).
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] without a whole answer in time, `Protocol` for one that is too large.
    pub async fn post_json(
        &self,
        url: &Url,
        credentials: Credentials<'_>,
        body: Vec<u8>,
    ) -> Result<(Answer, Option<String>), ProviderError> {
        let request = self.request(Method::POST, url)?.header("content-type", "application/json");
        let answer = self.send(credentials.on(request).body(body), 0).await?;
        let location = answer.location.clone();
        Ok((answer, location))
    }

    /// A GET with any credentials.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn read(&self, url: &Url, credentials: Credentials<'_>) -> Result<Answer, ProviderError> {
        self.send(credentials.on(self.request(Method::GET, url)?), TRIES).await
    }

    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, url: &Url, credentials: Credentials<'_>) -> Result<Answer, ProviderError> {
        self.send(credentials.on(self.request(Method::DELETE, url)?), 0).await
    }

    /// One call, tried again where `again` allows: only what changes nothing, only when the provider may soon be well, and only within the
    /// time of the whole.
    async fn send(&self, request: reqwest::RequestBuilder, again: u32) -> Result<Answer, ProviderError> {
        let until = Instant::now() + WHOLE;
        let mut jitter = [0_u8];
        self.line.random.fill(&mut jitter);
        let leave = self.line.traffic.leave(self.line.clock.now_ms())?;
        let _place = self.line.traffic.place().await?;
        let mut tried = 0;
        let answered = loop {
            let Some(this_time) = request.try_clone() else {
                return Err(ProviderError::Unavailable("the request cannot be sent".to_owned()));
            };
            // The limit covers the wait for a place too: a caller is never held longer than the slowest call may last.
            let answered = tokio::time::timeout_at(until, exchange(this_time)).await;
            let answered =
                answered.unwrap_or_else(|_| Err(ProviderError::Unavailable("no answer in time".to_owned())));
            let pause = pause_before_next(&answered, tried, jitter[0]);
            match pause.filter(|pause| tried < again && Instant::now() + *pause < until) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break answered,
            }
            tried += 1;
        };
        let turn = leave.settle(is_well(&answered), self.line.clock.now_ms(), jitter[0]);
        match turn {
            Some(Turn::Opened) => {
                tracing::warn!(
                    provider = self.line.provider,
                    "failing repeatedly: calls are refused for a moment"
                );
            }
            Some(Turn::Closed) => tracing::info!(provider = self.line.provider, "well again"),
            None => {}
        }
        answered
    }
}

/// Whether an answer, good or bad, shows that the provider is up.
fn is_well(answered: &Result<Answer, ProviderError>) -> bool {
    match answered {
        Ok(answer) => answer.status < 500,
        Err(ProviderError::Unavailable(_)) => false,
        Err(_) => true,
    }
}

/// How long to wait before the same call may be made again; `None` where another would tell nothing new.
fn pause_before_next(answered: &Result<Answer, ProviderError>, tried: u32, jitter: u8) -> Option<Duration> {
    let own_ms = (100_u64 << tried.min(4)) + u64::from(jitter);
    match answered {
        Err(ProviderError::Unavailable(_)) => Some(Duration::from_millis(own_ms)),
        Ok(answer) => match (answer.status, answer.retry_after_s) {
            (429 | 502 | 503 | 504, Some(seconds)) => {
                Some(Duration::from_secs(seconds).max(Duration::from_millis(own_ms)))
            }
            (502 | 504, None) => Some(Duration::from_millis(own_ms)),
            _ => None,
        },
        Err(_) => None,
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<Answer, ProviderError> {
    // One trace leads from the browser's request through the provider (W3C Trace Context).
    let request = match telemetry::current_traceparent() {
        Some(parent) => request.header("traceparent", parent),
        None => request,
    };
    let mut response = request.send().await.map_err(|e| unavailable(&e))?;
    let mut answer = Answer {
        status: response.status().as_u16(),
        content_type: header(&response, "content-type").unwrap_or_default(),
        max_age_s: header(&response, "cache-control").as_deref().and_then(max_age),
        date_ms: header(&response, "date").as_deref().and_then(date_ms),
        location: header(&response, "location"),
        retry_after_s: header(&response, "retry-after").and_then(|text| text.trim().parse().ok()),
        body: Vec::new(),
    };
    while let Some(piece) = response.chunk().await.map_err(|e| unavailable(&e))? {
        if answer.body.len() + piece.len() > ANSWER_MAX {
            return Err(ProviderError::protocol("answer_too_large", format!("over {ANSWER_MAX} bytes")));
        }
        answer.body.extend_from_slice(&piece);
    }
    Ok(answer)
}

/// Client id and secret are form-encoded before they become Basic credentials (RFC 6749 2.3.1).
fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn header(response: &reqwest::Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// IMF-fixdate (RFC 9110 5.6.7), the only form that senders may still make.
fn date_ms(text: &str) -> Option<i64> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let moment = time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    moment.unix_timestamp().checked_mul(1000)
}

fn max_age(cache_control: &str) -> Option<u64> {
    cache_control.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse().ok())
}

fn unavailable(error: &reqwest::Error) -> ProviderError {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the connection broke"
    };
    // The whole error may quote the address with a query; its root cause says enough.
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    ProviderError::Unavailable(format!("{what} ({cause})"))
}

/// A resolver that knows whether the issuer lives on the public internet, and then lets nothing of its metadata lead inside.
#[derive(Debug, Clone)]
struct Neighbourhood {
    issuer_host: Arc<str>,
    issuer_is_public: Arc<AtomicBool>,
}

impl Neighbourhood {
    fn new(issuer_host: &str) -> Self {
        let literal = issuer_host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        Self {
            issuer_host: Arc::from(issuer_host.to_ascii_lowercase()),
            issuer_is_public: Arc::new(AtomicBool::new(literal.is_some_and(|ip| !address::is_private(ip)))),
        }
    }

    fn admit(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        if host.eq_ignore_ascii_case(&self.issuer_host) {
            let public = found.iter().any(|a| !address::is_private(a.ip()));
            self.issuer_is_public.store(public, Ordering::Relaxed);
            return Ok(found);
        }
        if !self.issuer_is_public.load(Ordering::Relaxed) {
            return Ok(found);
        }
        let public: Vec<_> = found.into_iter().filter(|a| !address::is_private(a.ip())).collect();
        if public.is_empty() {
            Err(format!("{host} is a private address, and the issuer's is public"))
        } else {
            Ok(public)
        }
    }
}

impl Resolve for Neighbourhood {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            // The very addresses that were checked are the ones connected to, so a resolver that changes its mind gains nothing.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let addresses: Addrs = Box::new(this.admit(&host, found)?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Vec<SocketAddr> {
        vec![SocketAddr::new(text.parse().unwrap(), 0)]
    }

    #[test]
    fn tk_14_a_public_issuer_cannot_lead_to_a_private_address() {
        let names = Neighbourhood::new("id.example");
        assert!(names.admit("id.example", at("203.0.113.7")).is_ok());
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "100.64.0.1",
            "0.0.0.0",
        ] {
            assert!(names.admit("keys.example", at(inside)).is_err(), "{inside}");
        }
        assert!(names.admit("keys.example", at("198.51.100.9")).is_ok());
    }

    #[test]
    fn an_issuer_inside_may_have_neighbours_inside() {
        let names = Neighbourhood::new("id.internal");
        assert!(names.admit("id.internal", at("10.0.0.5")).is_ok());
        assert!(names.admit("keys.internal", at("10.0.0.6")).is_ok());
    }

    #[test]
    fn cache_lifetimes_are_read_from_cache_control() {
        assert_eq!(max_age("public, max-age=600"), Some(600));
        assert_eq!(max_age("no-store"), None);
    }
}
