//! Tries what a start needs, one by one, so that an operator sees every fault at once.

use super::start::{self, Furniture, Keys, StartFault};
use crate::app::Setup;
use crate::config::{Config, ProviderKind};
use crate::store::Store;

/// A key should be replaced long before its random nonces could meet (NIST SP 800-38D 8.3).
pub const KEY_AGE_MAX_DAYS: i64 = 90;

/// One thing that was tried.
#[derive(Debug)]
pub struct Finding {
    pub what: String,
    pub fine: bool,
    pub detail: String,
}

impl Finding {
    fn of<T>(what: impl Into<String>, tried: Result<T, String>, detail: impl Into<String>) -> Self {
        let what = what.into();
        match tried {
            Ok(_) => Self { what, fine: true, detail: detail.into() },
            Err(problem) => Self { what, fine: false, detail: problem },
        }
    }
}

/// Keys, database, providers and upstreams; nothing is changed but a schema that may be migrated.
pub async fn run(config: Config, keys: Result<Keys, StartFault>, at: Furniture) -> Vec<Finding> {
    let mut findings = Vec::new();
    let keys = keys.map_err(|fault| fault.to_string());
    findings.push(Finding::of(
        "keys",
        keys.as_ref().map_err(Clone::clone),
        "every key file is there and strong",
    ));
    let store = database(&config, &mut findings).await;
    let setup = match (store, keys) {
        (Some(store), Ok(keys)) => match start::set_up(&store, config.clone(), keys, &at).await {
            Ok(setup) => {
                findings.push(Finding::of::<()>("key ring", Ok(()), "opens what the database holds"));
                ages(&store, &setup, &at, &mut findings).await;
                Some(setup)
            }
            Err(fault) => {
                findings.push(Finding::of::<()>("key ring and providers", Err(fault.to_string()), ""));
                None
            }
        },
        _ => None,
    };
    if let Some(setup) = setup {
        providers(&setup, &mut findings).await;
    }
    upstreams(&config, &mut findings).await;
    findings
}

async fn database(config: &Config, findings: &mut Vec<Finding>) -> Option<Store> {
    let opened = async {
        let store = start::open_store(config).await?;
        start::prepare(&store).await?;
        Ok::<_, StartFault>(store)
    };
    match opened.await {
        Ok(store) => {
            findings.push(Finding::of::<()>("database", Ok(()), "answers, and its schema is current"));
            Some(store)
        }
        Err(fault) => {
            findings.push(Finding::of::<()>("database", Err(fault.to_string()), ""));
            None
        }
    }
}

async fn ages(store: &Store, setup: &Setup, at: &Furniture, findings: &mut Vec<Finding>) {
    let ages = super::rotate::ages(store, at.clock.now_ms()).await.unwrap_or_default();
    for (id, days) in ages {
        let current = id == setup.ring.current_id();
        if current && days > KEY_AGE_MAX_DAYS {
            let problem = format!(
                "seals since {days} days; add a new key, make it current, and run `doorward keys rotate`"
            );
            findings.push(Finding::of::<()>(format!("key {id}"), Err(problem), ""));
        }
    }
}

async fn providers(setup: &Setup, findings: &mut Vec<Finding>) {
    for provider in setup.providers() {
        let config = provider.config();
        // The development issuer lives in the server that this command does not start.
        if config.kind == ProviderKind::Dev {
            continue;
        }
        let tried = provider.probe().await.map_err(|e| e.to_string());
        findings.push(Finding::of(
            format!("provider {}", config.id),
            tried,
            "its metadata and keys can be used",
        ));
    }
}

async fn upstreams(config: &Config, findings: &mut Vec<Finding>) {
    for upstream in &config.upstreams {
        for url in &upstream.urls {
            let tried = reach(url).await;
            findings.push(Finding::of(
                format!("upstream {}", upstream.id),
                tried,
                format!("{url} takes connections"),
            ));
        }
    }
}

async fn reach(url: &str) -> Result<(), String> {
    if url.starts_with("builtin:") {
        return Ok(());
    }
    let parsed = url::Url::parse(url).map_err(|e| format!("{url}: {e}"))?;
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = parsed.port_or_known_default().unwrap_or_default();
    let connect = tokio::net::TcpStream::connect((host, port));
    match tokio::time::timeout(std::time::Duration::from_secs(3), connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(format!("{url} cannot be reached: {e}")),
        Err(_) => Err(format!("{url} does not answer")),
    }
}
