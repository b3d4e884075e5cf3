//! The metrics: names by the Prometheus conventions (`doorward_`, base units, unit last), labels from closed
//! sets.

mod at_hand;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use self::at_hand::AtHand;
use super::logs::LostLines;
use super::{OTHER, method_class};

/// The media type of [`Metrics::encode`] (`OpenMetrics` 1.0, section "Protocol Negotiation").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Series of one metric; what comes beyond is counted as [`OTHER`], so that a mistake in a caller costs
/// accuracy and not memory.
const SERIES_MAX: usize = 500;
/// The longest word a label takes; a longer one is not a word of ours.
const WORD_MAX: usize = 40;

/// From half a millisecond (a cached look-up) to the usual time limit of a route.
const HTTP_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Ends at the 10 s after which a call to a provider is given up.
const PROVIDER_BUCKETS_S: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// The series of one metric, at most [`SERIES_MAX`].
#[derive(Debug)]
struct Series<const N: usize, M> {
    family: Family<Labels<N>, M, fn() -> M>,
    made: AtomicUsize,
}

impl<const N: usize, M> Series<N, M>
where
    M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    fn with<T>(&self, labels: Labels<N>, act: impl FnOnce(&M) -> T) -> T {
        if let Some(metric) = self.family.get(&labels) {
            return act(&metric);
        }
        // Two threads may count one new series twice; the bound holds all the same.
        let labels = if self.made.load(Ordering::Relaxed) < SERIES_MAX {
            self.made.fetch_add(1, Ordering::Relaxed);
            labels
        } else {
            labels.map(|(name, _)| (name, Cow::Borrowed(OTHER)))
        };
        act(&self.family.get_or_create(&labels))
    }
}

impl<const N: usize> Series<N, Counter> {
    fn count(&self, labels: Labels<N>, n: u64) {
        self.with(labels, |counter| {
            counter.inc_by(n);
        });
    }
}

impl Series<1, Gauge> {
    fn set(&self, labels: Labels<1>, value: i64) {
        self.with(labels, |gauge| {
            gauge.set(value);
        });
    }
}

impl Series<2, Histogram> {
    fn observe(&self, labels: Labels<2>, seconds: f64) {
        // `max` turns the not-a-number of a broken clock into 0: one such value would spoil the sum for ever.
        self.with(labels, |histogram| histogram.observe(seconds.max(0.0)));
    }
}

/// All counters of one process; a clone is the same counters.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    providers: RwLock<BTreeSet<String>>,
    lost_lines: Arc<OnceLock<LostLines>>,
    login_starts: Series<2, Counter>,
    callbacks: Series<2, Counter>,
    logouts: Series<2, Counter>,
    bearers: Series<2, Counter>,
    sessions_ended: Series<1, Counter>,
    password_logins: Series<2, Counter>,
    rate_limited: Series<1, Counter>,
    circuits: Series<1, Gauge>,
    refreshes: Series<2, Counter>,
    registrations: Series<2, Counter>,
    undo_pending: Gauge,
    csrf_refusals: Counter,
    audit_dropped: Counter,
    http_requests: Series<3, Counter>,
    http_seconds: Series<2, Histogram>,
    http_at_hand: AtHand,
    provider_calls: Series<3, Counter>,
    provider_seconds: Series<2, Histogram>,
    decrypt_failures: Series<1, Counter>,
    key_age: Series<1, Gauge>,
    swept: Series<1, Counter>,
    jobs: Series<2, Counter>,
    connections: Series<1, Gauge>,
    repeated: Counter,
    notices_healthy: Gauge,
    notices_lost: Counter,
    event_streams: Gauge,
    certificate_ends: Gauge,
    cache: SessionCache,
}

#[derive(Debug)]
struct SessionCache {
    hits: Counter,
    misses: Counter,
    bypassed: Counter,
    entries: Gauge,
    bytes: Gauge,
}

impl SessionCache {
    fn new(r: &mut Registry) -> Self {
        let distrusted = "Requests whose session was read because nothing remembered could be trusted";
        Self {
            hits: counter(r, "session_cache_hits", "Requests whose session was remembered"),
            misses: counter(r, "session_cache_misses", "Requests whose session was read"),
            bypassed: counter(r, "session_cache_bypassed", distrusted),
            entries: gauge(r, "session_cache_entries", "Sessions that are remembered"),
            bytes: gauge(r, "session_cache_bytes", "Memory of the sessions that are remembered"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("doorward");
        let version = [("version", Cow::Borrowed(env!("CARGO_PKG_VERSION")))];
        registry.register("build", "The running build", Info::new(version));
        let lost_lines = Arc::new(OnceLock::new());
        registry.register_collector(Box::new(LogLines(Arc::clone(&lost_lines))));
        let r = &mut registry;
        let inner = Inner {
            login_starts: counters(r, "login_starts", "Logins begun, by provider and outcome"),
            callbacks: counters(r, "login_callbacks", "Returns from a provider, by provider and outcome"),
            bearers: counters(r, "bearer_tokens", "Bearer tokens judged, by provider and outcome"),
            logouts: counters(r, "logouts", "Logouts, by kind and outcome"),
            sessions_ended: counters(r, "sessions_ended", "Sessions ended, by reason"),
            password_logins: counters(r, "password_logins", "Logins by password, by provider and outcome"),
            rate_limited: counters(r, "rate_limited", "Requests held back by a rate limit, by limit"),
            circuits: gauges(r, "provider_circuit_open", "Whether calls to a provider are refused at once"),
            refreshes: counters(r, "refreshes", "Renewals of a session's tokens, by provider and outcome"),
            registrations: counters(r, "registrations", "Registrations, by provider and outcome"),
            undo_pending: gauge(
                r,
                "registration_undo_pending",
                "Users at a provider that still wait to be taken back",
            ),
            csrf_refusals: counter(
                r,
                "csrf_refusals",
                "Requests refused because another site may have sent them",
            ),
            audit_dropped: counter(r, "audit_rows_dropped", "Audit rows that could not be written"),
            http_requests: counters(
                r,
                "http_requests",
                "Requests answered, by route class, method and status",
            ),
            http_seconds: series(
                r,
                "http_request_duration_seconds",
                "Time to the answer's head",
                http_histogram,
            ),
            http_at_hand: AtHand::default(),
            provider_calls: counters(r, "provider_calls", "Calls to a provider, by operation and outcome"),
            provider_seconds: series(
                r,
                "provider_call_duration_seconds",
                "Time of a call to a provider",
                provider_histogram,
            ),
            decrypt_failures: counters(r, "decrypt_failures", "Sealed values that no key opened, by reason"),
            key_age: gauges(r, "key_age_days", "Age of a sealing key in days"),
            swept: counters(r, "swept_rows", "Rows removed because their time was over, by table"),
            jobs: counters(r, "job_runs", "Runs of a job, by job and outcome"),
            connections: gauges(r, "database_connections", "Open database connections, by state"),
            repeated: counter(
                r,
                "transactions_repeated",
                "Transactions tried again because the database broke off",
            ),
            notices_healthy: gauge(r, "notices_healthy", "Whether notices of other processes come through"),
            notices_lost: counter(r, "notices_lost", "Times that notices of others may have been missed"),
            event_streams: gauge(r, "event_streams", "Open event streams of signed-in people"),
            cache: SessionCache::new(r),
            certificate_ends: gauge(r, "certificate_ends_seconds", "When our certificate ends, unix time"),
            providers: RwLock::default(),
            lost_lines,
            registry,
        };
        Self(Arc::new(inner))
    }

    /// The configured provider ids: from now on no other word is a provider in a label. A path like
    /// `/callback/{provider}` lets strangers choose it, and each new value would be kept for ever. Call it
    /// again after a reload.
    pub fn know_providers<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let ids = ids.into_iter().map(str::to_owned).collect();
        *self.0.providers.write().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    /// Shows the losses of this log as `doorward_log_lines_lost_total`; only the first log counts.
    pub fn watch_log(&self, lost: LostLines) {
        // A second log in one process would be a second `init`, which is refused.
        let _ = self.0.lost_lines.set(lost);
    }

    /// `outcome` is `ok` or `Error::reason`.
    pub fn login_started(&self, provider: &str, outcome: &str) {
        self.0.login_starts.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    /// `outcome` is `ok` or `Error::reason`.
    pub fn callback(&self, provider: &str, outcome: &str) {
        self.0.callbacks.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    /// `outcome` is `ok` or `Error::reason`.
    pub fn bearer(&self, provider: &str, outcome: &str) {
        self.0.bearers.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    /// `kind` is `browser`, `api`, `backchannel`, `frontchannel`, `admin`.
    pub fn logout(&self, kind: &str, outcome: &str) {
        self.0.logouts.count([("kind", word(kind)), ("outcome", word(outcome))], 1);
    }

    pub fn session_ended(&self, reason: &str, n: u64) {
        self.0.sessions_ended.count([("reason", word(reason))], n);
    }

    /// `outcome` is `ok` or `Error::reason`.
    pub fn password_login(&self, provider: &str, outcome: &str) {
        self.0.password_logins.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    /// `limit` is a door (`login_start` …) or a tally of wrong passwords (`password_address` …).
    pub fn rate_limited(&self, limit: &str) {
        self.0.rate_limited.count([("limit", word(limit))], 1);
    }

    pub fn provider_circuit(&self, provider: &str, open: bool) {
        self.0.circuits.set([("provider", self.provider(provider))], i64::from(open));
    }

    /// `outcome` is `ok`, `lost_claim`, or `ProviderError::outcome`.
    pub fn refreshed(&self, provider: &str, outcome: &str) {
        self.0.refreshes.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    /// `outcome` is `ok`, `rolled_back`, `unproven` or `Error::reason`.
    pub fn registration(&self, provider: &str, outcome: &str) {
        self.0.registrations.count([("provider", self.provider(provider)), ("outcome", word(outcome))], 1);
    }

    pub fn registration_undo_pending(&self, n: i64) {
        self.0.undo_pending.set(n);
    }

    pub fn csrf_refused(&self) {
        self.0.csrf_refusals.inc();
    }

    pub fn audit_dropped(&self, n: u64) {
        self.0.audit_dropped.inc_by(n);
    }

    /// One answered request. `seconds` runs to the answer's head: a stream may stay open for hours.
    pub fn http(&self, route_class: &'static str, method: &'static str, status: u16, seconds: f64) {
        let method = method_class(method);
        self.0.http_at_hand.count(&self.0, (route_class, method, status), seconds);
    }

    /// One call to a provider; `operation` is `discovery`, `jwks`, `token`, `userinfo`, `par`, `revoke` …
    pub fn provider_call(&self, provider: &str, operation: &str, outcome: &str, seconds: f64) {
        let provider = ("provider", self.provider(provider));
        let operation = ("operation", word(operation));
        self.0.provider_calls.count([provider.clone(), operation.clone(), ("outcome", word(outcome))], 1);
        self.0.provider_seconds.observe([provider, operation], seconds);
    }

    /// `reason` is a word (`unknown_key`, `damaged`); a sentence, such as an error's text, is counted as [`OTHER`].
    pub fn crypt_decrypt_fail(&self, reason: &str) {
        self.0.decrypt_failures.count([("reason", word(reason))], 1);
    }

    /// `key_id` is an id of the configured ring.
    pub fn key_age_days(&self, key_id: &str, days: i64) {
        self.0.key_age.set([("key", Cow::Owned(key_id.to_owned()))], days);
    }

    /// `what` is the table.
    pub fn swept(&self, what: &str, n: u64) {
        self.0.swept.count([("table", word(what))], n);
    }

    pub fn job(&self, name: &str, outcome: &str) {
        self.0.jobs.count([("job", word(name)), ("outcome", word(outcome))], 1);
    }

    pub fn transaction_repeated(&self) {
        self.0.repeated.inc();
    }

    /// Whether the word of other processes comes through.
    pub fn notices_healthy(&self, healthy: bool) {
        self.0.notices_healthy.set(i64::from(healthy));
    }

    pub fn notices_lost(&self) {
        self.0.notices_lost.inc();
    }

    /// When the certificate that visitors see ends, in unix milliseconds.
    pub fn certificate_ends(&self, at_ms: i64) {
        self.0.certificate_ends.set(at_ms.div_euclid(1000));
    }

    pub fn event_streams(&self, open: usize) {
        self.0.event_streams.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub fn session_cache_hit(&self) {
        self.0.cache.hits.inc();
    }

    pub fn session_cache_missed(&self) {
        self.0.cache.misses.inc();
    }

    pub fn session_cache_bypassed(&self) {
        self.0.cache.bypassed.inc();
    }

    pub fn session_cache(&self, entries: usize, bytes: u64) {
        self.0.cache.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.0.cache.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub fn database_connections(&self, idle: usize, busy: usize) {
        for (state, n) in [("idle", idle), ("busy", busy)] {
            self.0.connections.set([("state", Cow::Borrowed(state))], i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    /// The page that Prometheus reads, in [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Only if the formatting itself fails, which a `String` does not.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.0.registry)?;
        Ok(page)
    }

    fn provider(&self, id: &str) -> Cow<'static, str> {
        let known = self.0.providers.read().unwrap_or_else(PoisonError::into_inner).contains(id);
        if known { Cow::Owned(id.to_owned()) } else { Cow::Borrowed(OTHER) }
    }
}

/// A word as our own code writes words. An email, an address, a token or a sentence does not look like one.
fn word(text: &str) -> Cow<'static, str> {
    let fits = (1..=WORD_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if fits { Cow::Owned(text.to_owned()) } else { Cow::Borrowed(OTHER) }
}

/// The registered codes that occur by themselves, else their class: an upstream can answer any number.
fn status_class(status: u16) -> Cow<'static, str> {
    let registered = matches!(
        status,
        101 | 200..=206 | 300..=304 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511
    );
    match status {
        _ if registered => Cow::Owned(status.to_string()),
        100..=199 => Cow::Borrowed("1xx"),
        200..=299 => Cow::Borrowed("2xx"),
        300..=399 => Cow::Borrowed("3xx"),
        400..=499 => Cow::Borrowed("4xx"),
        500..=599 => Cow::Borrowed("5xx"),
        _ => Cow::Borrowed(OTHER),
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn series<const N: usize, M>(registry: &mut Registry, name: &str, help: &str, new: fn() -> M) -> Series<N, M>
where
    M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    let family = Family::new_with_constructor(new);
    // The conventional suffix is the registry's to write.
    match name.strip_suffix("_seconds") {
        Some(name) => registry.register_with_unit(name, help, Unit::Seconds, family.clone()),
        None => registry.register(name, help, family.clone()),
    }
    Series { family, made: AtomicUsize::new(0) }
}

fn counters<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Series<N, Counter> {
    series(registry, name, help, Counter::default)
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Series<1, Gauge> {
    series(registry, name, help, Gauge::default)
}

fn http_histogram() -> Histogram {
    Histogram::new(HTTP_BUCKETS_S)
}

fn provider_histogram() -> Histogram {
    Histogram::new(PROVIDER_BUCKETS_S)
}

/// Reads the log's losses when the page is asked for: the log is older than the metrics and knows nothing of
/// them.
#[derive(Debug)]
struct LogLines(Arc<OnceLock<LostLines>>);

impl Collector for LogLines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let lost = ConstCounter::new(self.0.get().map_or(0, LostLines::count));
        let help = "Log lines lost because the sink was blocked or broken";
        lost.encode(encoder.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?)
    }
}
