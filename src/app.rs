//! The furniture that every flow may use. It does nothing by itself, and there is one of it: no statics anywhere.

mod activity;
mod single_flight;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::config::{self, Config};
use crate::crypto::assertion::Desk;
use crate::crypto::seal::KeyRing;
use crate::domain::rates::Rates;
use crate::domain::return_to::ReturnRules;
use crate::domain::{Clock, Random, Refusals, Tally};
use crate::events::live::Live;
use crate::providers::oidc::Memory;
use crate::providers::{self, Provider};
use crate::proxy::routes::Table;
use crate::proxy::upstream::Upstreams;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::tls::Shown;

pub use activity::Activity;
pub use single_flight::{Done, Lead, SingleFlight};

/// Everything a flow needs, shared by all workers.
pub struct App {
    setup: ArcSwap<Setup>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub metrics: Metrics,
    /// How much each address may still write to the audit log this minute.
    pub refusals: Refusals,
    /// Where identity assertions are written.
    pub assertions: Desk,
    /// How often each network knocked at each door (`flows::limits::Door`).
    pub rates: Rates<3>,
    /// What makes the counts of wrong passwords unreadable; fetched when first needed.
    pub guess_key: OnceCell<Zeroizing<Vec<u8>>>,
    /// When sessions were used, until their rows say so.
    pub activity: Activity,
    /// Sessions whose tokens this process is renewing, by id.
    pub renewals: SingleFlight,
    /// Refused logout tokens by address.
    pub bad_logout_tokens: Tally,
    /// Bearer tokens by address that a provider was asked about for nothing.
    pub bad_bearer_tokens: Tally,
    /// The tabs that listen right now.
    pub live: Live,
    /// What our own listener shows, where it speaks TLS.
    pub certificate: Option<Arc<Shown>>,
}

/// What a reload replaces, all of it at once.
pub struct Setup {
    pub config: Config,
    pub ring: KeyRing,
    pub return_rules: ReturnRules,
    pub routes: Table,
    pub upstreams: Upstreams,
    providers: Vec<Arc<dyn Provider>>,
}

impl Setup {
    /// Opens every provider of a checked configuration; each goes on with what `earlier` had learned of it.
    ///
    /// # Errors
    /// One sentence for each provider that cannot be opened.
    pub fn build(
        config: Config,
        ring: KeyRing,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
        earlier: Option<&Self>,
    ) -> Result<Self, Vec<String>> {
        let mut opened = Vec::new();
        let mut faults = Vec::new();
        for provider in &config.providers {
            let memory = earlier.and_then(|earlier| earlier.memory_of(provider));
            match providers::open(provider, Arc::clone(clock), Arc::clone(random), memory) {
                Ok(provider) => opened.push(provider),
                Err(problem) => faults.push(format!("provider.{}: {problem}", provider.id)),
            }
        }
        let upstreams = match Upstreams::open(&config.upstreams) {
            Ok(upstreams) if faults.is_empty() => upstreams,
            Ok(_) => return Err(faults),
            Err(problems) => {
                faults.extend(problems);
                return Err(faults);
            }
        };
        let return_rules = ReturnRules {
            public_url: config.server.public_url.clone(),
            auth_prefix: config.server.auth_prefix.clone(),
            origins: config
                .cors
                .origins
                .iter()
                .filter_map(|origin| url::Url::parse(origin).ok())
                .map(|url| url.origin())
                .collect(),
        };
        let routes = Table::new(&config.routes);
        Ok(Self { config, ring, return_rules, routes, upstreams, providers: opened })
    }

    #[must_use]
    /// What was learned of the same provider; another issuer or another way to it begins anew.
    fn memory_of(&self, provider: &config::Provider) -> Option<Arc<Memory>> {
        let known = self.provider(&provider.id)?;
        let was = known.config();
        let same = was.issuer == provider.issuer
            && was.issuer_template == provider.issuer_template
            && was.internal_base_url == provider.internal_base_url;
        same.then(|| known.memory())
    }

    #[must_use]
    pub fn provider(&self, id: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.config().id == id)
    }

    /// In the order of the configuration.
    #[must_use]
    pub fn providers(&self) -> &[Arc<dyn Provider>] {
        &self.providers
    }

    /// A path under our own prefix, as an absolute URL of the public origin.
    #[must_use]
    pub fn own_url(&self, path: &str) -> url::Url {
        let mut url = self.config.server.public_url.clone();
        url.set_path(&format!("{}{path}", self.config.server.auth_prefix));
        url
    }

    /// Labels by provider id, for pages.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        self.config.providers.iter().map(|provider| (provider.id.as_str(), provider.label.as_str())).collect()
    }
}

impl App {
    pub fn new(setup: Setup, store: Store, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let metrics = Metrics::new();
        metrics.know_providers(setup.config.providers.iter().map(|p| p.id.as_str()));
        Self {
            setup: ArcSwap::from_pointee(setup),
            store,
            rates: Rates::new(Arc::clone(&clock)),
            clock,
            random,
            metrics,
            refusals: Refusals::default(),
            assertions: Desk::default(),
            guess_key: OnceCell::new(),
            activity: Activity::default(),
            renewals: SingleFlight::default(),
            bad_logout_tokens: Tally::default(),
            bad_bearer_tokens: Tally::default(),
            live: Live::default(),
            certificate: None,
        }
    }

    /// The certificate that the listener shows since before the house was furnished.
    #[must_use]
    pub fn with_certificate(mut self, shown: Option<Arc<Shown>>) -> Self {
        self.certificate = shown;
        self
    }

    /// Counts with these from now on: they are older than the house, and were asked for while it waited for its database.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        metrics.know_providers(self.setup().config.providers.iter().map(|p| p.id.as_str()));
        self.metrics = metrics;
        self
    }

    /// The set-up in force; a flow takes it once, so that a reload never shows it two halves.
    pub fn setup(&self) -> Arc<Setup> {
        self.setup.load_full()
    }

    /// One fact of the set-up in force, for whom that is enough: cheaper than a share of it.
    pub fn of_setup<T>(&self, look: impl FnOnce(&Setup) -> T) -> T {
        look(&self.setup.load())
    }

    /// Puts another set-up in force for everything that begins from now on.
    pub fn refurnish(&self, setup: Setup) {
        self.metrics.know_providers(setup.config.providers.iter().map(|p| p.id.as_str()));
        self.store.remember(setup.config.cache.size_bytes);
        self.setup.store(Arc::new(setup));
        // When tokens are due for renewal may have changed.
        self.store.doubt_all();
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The system's generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        use aws_lc_rs::rand::SecureRandom as _;
        // The library itself aborts when the system has no randomness; nothing sensible could go on without it.
        if aws_lc_rs::rand::SystemRandom::new().fill(bytes).is_err() {
            std::process::abort();
        }
    }
}
