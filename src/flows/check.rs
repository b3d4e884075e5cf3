//! Tries what a start needs, one by one, so that an operator sees every fault at once.

use std::sync::Arc;

use super::register::UNMARKED;
use super::start::{self, Furniture, Keys, StartFault};
use crate::config::{Config, ProviderKind};
use crate::providers::{self, Provider};
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
    certificate(&config, at.clock.now_ms(), &mut findings);
    let store = database(&config, &mut findings).await;
    if let (Some(store), Ok(keys)) = (store, keys) {
        match start::fitting_ring(&store, &config, keys, &at).await {
            Ok(ring) => {
                findings.push(Finding::of::<()>("key ring", Ok(()), "opens what the database holds"));
                ages(&store, ring.current_id(), &at, &mut findings).await;
            }
            Err(fault) => findings.push(Finding::of::<()>("key ring", Err(fault.to_string()), "")),
        }
    }
    // Whatever is wrong with our own memory, the other houses are tried all the same.
    providers(&config, &at, &mut findings).await;
    upstreams(&config, &mut findings).await;
    findings
}

/// A certificate that browsers will refuse is a fault here, although the server would start with it.
fn certificate(config: &Config, now_ms: i64, findings: &mut Vec<Finding>) {
    let host = config.server.public_url.host_str().unwrap_or_default();
    let tried = match super::certificate::read(config) {
        Ok(None) => return,
        Ok(Some(pair)) => {
            let warnings = pair.warnings(now_ms, host);
            let fine = format!("fits its key, names {host}, and is good until {}", pair.last_day());
            if warnings.is_empty() { Ok(fine) } else { Err(warnings.join("; ")) }
        }
        Err(faults) => Err(faults.join("; ")),
    };
    let detail = tried.clone().unwrap_or_default();
    findings.push(Finding::of("certificate", tried, detail));
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

async fn ages(store: &Store, current_id: &str, at: &Furniture, findings: &mut Vec<Finding>) {
    let ages = super::rotate::ages(store, at.clock.now_ms()).await.unwrap_or_default();
    for (id, days) in ages {
        if id == current_id && days > KEY_AGE_MAX_DAYS {
            let problem = format!(
                "seals since {days} days; add a new key, make it current, and run `doorward keys rotate`"
            );
            findings.push(Finding::of::<()>(format!("key {id}"), Err(problem), ""));
        }
    }
}

async fn providers(config: &Config, at: &Furniture, findings: &mut Vec<Finding>) {
    for config in &config.providers {
        let what = format!("provider {}", config.id);
        let opened = providers::open(config, Arc::clone(&at.clock), Arc::clone(&at.random), None);
        let tried = match opened {
            // The development issuer lives in the server that this command does not start.
            Ok(_) if config.kind == ProviderKind::Dev => continue,
            Ok(provider) => {
                let probed = provider.probe().await.map_err(|e| e.to_string());
                if probed.is_ok() {
                    findings.push(clock(provider.as_ref()).await);
                    findings.extend(marks(provider.as_ref()).await);
                }
                probed
            }
            Err(problem) => Err(problem),
        };
        findings.push(Finding::of(what, tried, "its metadata and keys can be used"));
    }
}

/// Every token is measured by our clock: one that is off refuses good logins, or takes old tokens.
async fn clock(provider: &dyn Provider) -> Finding {
    let config = provider.config();
    let what = format!("clock beside provider {}", config.id);
    match provider.clock_offset_ms().await {
        Ok(Some(offset_ms)) if offset_ms.abs() > config.clock_skew_ms => {
            let seconds = offset_ms / 1000;
            let problem =
                format!("ours differs from the provider's by {seconds} s; synchronise the clocks (NTP)");
            Finding::of::<()>(what, Err(problem), "")
        }
        Ok(Some(_)) => Finding::of::<()>(what, Ok(()), "the two agree"),
        Ok(None) => Finding::of::<()>(what, Ok(()), "the provider's answers carry no date to compare"),
        Err(error) => Finding::of::<()>(what, Err(error.to_string()), ""),
    }
}

/// Where people register, the provider must keep the marks that make a lost answer decidable.
async fn marks(provider: &dyn Provider) -> Option<Finding> {
    let directory = provider.directory().filter(|_| provider.config().registration)?;
    let kept = match directory.keeps_marks().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(UNMARKED.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let what = format!("registration at provider {}", provider.config().id);
    Some(Finding::of(what, kept, "the directory answers and keeps our marks"))
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
