//! A reload (SIGHUP): providers, routes and keys change all at once, or nothing does.

use secrecy::ExposeSecret as _;

use super::start::{self, Furniture, StartFault};
use super::{audit, certificate};
use crate::app::App;
use crate::config::{self, Config, Sources};

/// What a reload did.
#[derive(Debug)]
pub struct Reloaded {
    pub warnings: Vec<String>,
    /// Keys whose new value counts only after a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Reads the sources again and puts the new set-up in force.
///
/// # Errors
/// Every fault found; the old set-up stays in force.
pub async fn run(app: &App, sources: &Sources) -> Result<Reloaded, Vec<String>> {
    let loaded =
        config::load(sources).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let in_force = app.setup();
    let mut next = loaded.config;
    if in_force.config.server.public_url_is_default {
        next.follow_port(in_force.config.server.public_url.port().unwrap_or_default());
    }
    if next.has_dev_provider() && !in_force.config.has_dev_provider() {
        return Err(vec![
            "provider: kind \"dev\" can only be added by a restart, which serves its pages".to_owned(),
        ]);
    }
    let needs_restart = keep_what_cannot_change(&in_force.config, &mut next);
    let at = Furniture { clock: app.clock.clone(), random: app.random.clone() };
    let faults = |fault| match fault {
        StartFault::NotYet(problem) => vec![problem],
        StartFault::Faults(faults) => faults,
    };
    let keys = start::read_keys(&next, &*app.random).map_err(faults)?;
    let setup = start::set_up(&app.store, next, keys, &at, Some(&in_force)).await.map_err(faults)?;
    let pair = certificate::read(&setup.config)?;
    app.refurnish(setup);
    if let Some(pair) = pair {
        certificate::show(app, pair).await;
    }
    audit::milestone(app, "config.reloaded").await;
    Ok(Reloaded { warnings: loaded.warnings, needs_restart })
}

/// Listeners, database and cookies are fixed for the life of the process; their old values stay, and the operator is told.
fn keep_what_cannot_change(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    let (was, is) = (&old.server, &mut new.server);
    if was.listen != is.listen {
        changed.push("server.listen");
    }
    if was.operations_listen != is.operations_listen {
        changed.push("server.operations_listen");
    }
    // Other files count at once; TLS itself is agreed on with the listener.
    if was.tls.is_some() != is.tls.is_some() {
        changed.push("server.tls");
        is.tls.clone_from(&was.tls);
    }
    if was.public_url != is.public_url {
        changed.push("server.public_url");
        is.public_url = was.public_url.clone();
    }
    if was.auth_prefix != is.auth_prefix {
        changed.push("server.auth_prefix");
        is.auth_prefix.clone_from(&was.auth_prefix);
    }
    if old.database.url.expose_secret() != new.database.url.expose_secret() {
        changed.push("database.url");
    }
    if (&old.log.level, old.log.format) != (&new.log.level, new.log.format) {
        changed.push("log");
    }
    if old.limits.login_attempt_ms != new.limits.login_attempt_ms {
        changed.push("limits.login_attempt");
        new.limits.login_attempt_ms = old.limits.login_attempt_ms;
    }
    if old.server.shutdown_ms != new.server.shutdown_ms {
        changed.push("server.shutdown");
    }
    if old.database.pool_size != new.database.pool_size || old.database.migrate != new.database.migrate {
        changed.push("database.pool_size, database.migrate");
    }
    if old.telemetry.otlp_endpoint != new.telemetry.otlp_endpoint
        || old.telemetry.service_name != new.telemetry.service_name
    {
        changed.push("telemetry");
    }
    if old.session.overall_ms != new.session.overall_ms {
        changed.push("session.overall");
        new.session.overall_ms = old.session.overall_ms;
    }
    changed
}
