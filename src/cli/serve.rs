//! `doorward serve` and `doorward migrate`.

use std::process::ExitCode;

use tokio::sync::watch;

use super::{Common, FAULTS, furniture};
use crate::config::{Config, LogFormat};
use crate::flows::start;
use crate::server::Server;
use crate::telemetry::{self, Format, Guard, Otlp};

/// Serves until a signal asks to stop.
pub fn run(common: &Common) -> ExitCode {
    let loaded = match common.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let logs = match logs(&loaded.config) {
        Ok(guard) => guard,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(FAULTS);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(config = loaded.origin, version = env!("CARGO_PKG_VERSION"), "starting");
    let Ok(sources) = common.sources() else { return ExitCode::from(FAULTS) };
    let for_people = common.json || loaded.config.log.format == LogFormat::Pretty;
    let system = actix_web::rt::System::new();
    let served = system.block_on(async {
        let server =
            Server::bind(loaded.config, Some(sources), furniture()).await?.watching_log(logs.lost_lines());
        let (stopping, stop) = watch::channel(false);
        tokio::spawn(async move {
            stop_signals().await;
            let _ = stopping.send(true);
            // A dropped sender would look like a second wish.
            std::future::pending::<()>().await;
        });
        server.run_until_stopped(stop).await
    });
    match served {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            // Whoever collects JSON lines must be able to read the last ones too.
            if for_people {
                common.print_start_fault(&fault);
            } else {
                tracing::error!(error = %fault, "cannot start");
            }
            ExitCode::from(FAULTS)
        }
    }
}

/// Returns when SIGTERM or SIGINT asks to stop.
async fn stop_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn logs(config: &Config) -> Result<Guard, String> {
    let format = match config.log.format {
        LogFormat::Pretty => Format::Pretty,
        LogFormat::Json => Format::Json,
    };
    let otlp = config.telemetry.otlp_endpoint.as_ref().map(|endpoint| Otlp {
        endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
        service_name: config.telemetry.service_name.clone(),
    });
    telemetry::init(format, &config.log.level, otlp.as_ref())
}

/// Applies migrations and exits.
#[must_use]
pub fn migrate(common: &Common) -> ExitCode {
    let mut config = match common.load() {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    config.database.migrate = true;
    let migrated = actix_web::rt::System::new().block_on(async {
        let store = start::open_store(&config).await?;
        start::prepare(&store).await
    });
    match migrated {
        Ok(()) => {
            if common.json {
                say!("{}", serde_json::json!({ "migrated": true }));
            } else {
                say!("the schema is up to date");
            }
            ExitCode::SUCCESS
        }
        Err(fault) => {
            common.print_start_fault(&fault);
            ExitCode::from(FAULTS)
        }
    }
}
