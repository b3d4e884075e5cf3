//! The certificate of our own listener: judged at the start and at every reload, and followed when its files change by themselves.

use std::sync::Arc;

use super::audit;
use super::start::StartFault;
use crate::app::App;
use crate::config::{Config, Server};
use crate::error::Result;
use crate::tls::{self, Pair, Shown};

/// What the listener shows from the start; `None` where something in front ends TLS.
///
/// # Errors
/// A sentence for each file that cannot be used.
pub fn open(config: &Config, now_ms: i64) -> std::result::Result<Option<Arc<Shown>>, StartFault> {
    let Some(files) = &config.server.tls else { return Ok(None) };
    let shown = Shown::default();
    let _ = shown.is_news(tls::print(files));
    let pair = tls::read(files).map_err(StartFault::Faults)?;
    warn(&pair, &config.server, now_ms);
    shown.show(pair);
    Ok(Some(Arc::new(shown)))
}

/// The pair that another configuration names, read before anything changes.
///
/// # Errors
/// As [`open`].
pub fn read(config: &Config) -> std::result::Result<Option<Pair>, Vec<String>> {
    config.server.tls.as_ref().map(tls::read).transpose()
}

/// Shows a pair from now on.
pub async fn show(app: &App, pair: Pair) {
    let Some(shown) = &app.certificate else { return };
    warn(&pair, &app.setup().config.server, app.now_ms());
    let until = pair.last_day();
    if shown.show(pair) {
        tracing::info!(until, "another certificate is shown from now on");
        audit::milestone(app, "certificate.changed").await;
    }
}

/// Looks whether the files have changed, and shows the new pair if it is sound; else the old one stays.
///
/// # Errors
/// None: what is wrong with a new pair is told in the log, once.
pub async fn follow(app: &App) -> Result<()> {
    let setup = app.setup();
    let (Some(files), Some(shown)) = (&setup.config.server.tls, &app.certificate) else { return Ok(()) };
    if let Some(pair) = shown.pair() {
        app.metrics.certificate_ends(pair.ends_at_ms);
    }
    if !shown.is_news(tls::print(files)) {
        return Ok(());
    }
    match tls::read(files) {
        Ok(pair) => show(app, pair).await,
        Err(faults) => {
            for fault in faults {
                tracing::error!("{fault}");
            }
            tracing::error!("the certificate files cannot be used; the old certificate stays in force");
        }
    }
    Ok(())
}

fn warn(pair: &Pair, server: &Server, now_ms: i64) {
    for warning in pair.warnings(now_ms, server.public_url.host_str().unwrap_or_default()) {
        tracing::warn!("{warning}");
    }
}
