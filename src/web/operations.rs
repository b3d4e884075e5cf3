//! The operations listener: health, readiness, metrics, and the description of the API. Not for the public.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::app::App;
use crate::telemetry::{CONTENT_TYPE, Metrics};

/// A probe that hangs is a probe that failed; orchestrators wait a second or so.
const PROBE: Duration = Duration::from_secs(2);

/// The description of the public API.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The house, once it is furnished; before that the process is alive and not ready.
pub type MaybeApp = Arc<arc_swap::ArcSwapOption<App>>;

/// What the operations listener tells of.
#[derive(Clone, Default)]
pub struct Operations {
    pub app: MaybeApp,
    /// Set as soon as a stop is asked for: whoever spreads the load must send nobody any more, while the last visitors are served.
    pub stopping: Arc<AtomicBool>,
    /// Older than the house.
    pub metrics: Metrics,
}

pub fn routes(cfg: &mut web::ServiceConfig, operations: &Operations) {
    cfg.app_data(web::Data::new(operations.clone()))
        .route("/healthz", web::get().to(health))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(metrics))
        .route("/openapi.json", web::get().to(openapi));
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

/// Ready when the database answers and at least one provider has answered since the start. A provider that goes down later does not take
/// the node out: who is signed in works on.
async fn ready(house: web::Data<Operations>) -> HttpResponse {
    if house.stopping.load(Ordering::Relaxed) {
        return HttpResponse::ServiceUnavailable().json(json!({ "status": "stopping" }));
    }
    let Some(app) = house.app.load_full() else {
        return HttpResponse::ServiceUnavailable()
            .json(json!({ "status": "not_ready", "database": "unavailable", "providers": {} }));
    };
    let database = tokio::time::timeout(PROBE, app.store.ping()).await.is_ok_and(|pinged| pinged.is_ok());
    let setup = app.setup();
    let mut providers = serde_json::Map::new();
    for provider in setup.providers() {
        let well = tokio::time::timeout(PROBE, provider.probe()).await.is_ok_and(|probed| probed.is_ok());
        providers.insert(provider.config().id.clone(), if well { "ok" } else { "unavailable" }.into());
    }
    let ready = database && providers.values().any(|state| state == "ok");
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "database": if database { "ok" } else { "unavailable" },
        "providers": providers,
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// Answers while the database is away too: that is when somebody looks.
async fn metrics(house: web::Data<Operations>) -> HttpResponse {
    if let Some(app) = house.app.load_full() {
        let (idle, busy) = app.store.connections();
        house.metrics.database_connections(idle, busy);
        house.metrics.notices_healthy(app.store.is_channel_healthy());
        house.metrics.event_streams(app.live.count());
        let (entries, bytes) = app.store.known();
        house.metrics.session_cache(entries, bytes);
        for provider in app.setup().providers() {
            house.metrics.provider_circuit(&provider.config().id, provider.is_cut_off());
        }
    }
    match house.metrics.encode() {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}
