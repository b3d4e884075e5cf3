//! Opens both listeners and everything behind them, and closes them again.
//!
//! Owns: binding, the order of the start, reload and shutdown. Never does: answer a request, or decide anything about one.

mod h2;
mod secure;
mod translate;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::dev::{Server as Http, ServerHandle};
use actix_web::http::KeepAlive;
use actix_web::middleware::from_fn;
use actix_web::{App as HttpApp, HttpServer, web};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::secure::{Secure, boxed};
use crate::app::App;
use crate::config::{Config, ProviderKind, Sources};
use crate::dev_idp::DevIdp;
use crate::flows::start::{self, Furniture, Keys, StartFault};
use crate::flows::{activity, audit, certificate, reload};
use crate::jobs;
use crate::store::Store;
use crate::telemetry::LostLines;
use crate::tls::Shown;
use crate::web::operations::{self, MaybeApp, Operations};
use crate::web::waiting::{self, ClosedDoor};
use crate::web::{self as door, Door};

/// How long between two looks for a database that is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const HEAD_TIME: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const BODY_MAX: usize = 64 * 1024;

/// A server whose listeners are bound and which answers nobody yet.
pub struct Server {
    config: Config,
    sources: Option<Sources>,
    public: TcpListener,
    operations: TcpListener,
    store: Store,
    keys: Keys,
    /// What the public listener shows, where it speaks TLS.
    shown: Option<Arc<Shown>>,
    at: Furniture,
    told: Operations,
    dev_idp: Option<DevIdp>,
    workers: usize,
}

impl Server {
    /// Binds both listeners, reads the keys, and opens the database address.
    ///
    /// # Errors
    /// Sentences for the operator.
    pub async fn bind(
        mut config: Config,
        sources: Option<Sources>,
        at: Furniture,
    ) -> Result<Self, StartFault> {
        let public = listen(config.server.listen, "server.listen")?;
        let operations = listen(config.server.operations_listen, "server.operations_listen")?;
        let here = address(&public)?;
        if config.server.listen.port() == 0 {
            config.follow_port(here.port());
        }
        let keys = start::read_keys(&config, &*at.random)?;
        let shown = certificate::open(&config, at.clock.now_ms())?;
        let store = start::open_store(&config).await?;
        let dev_idp = dev_idp(&config, &at)?;
        tracing::info!(public = %here, operations = %address(&operations)?, public_url = %config.server.public_url, "listening");
        Ok(Self {
            config,
            sources,
            public,
            operations,
            store,
            keys,
            shown,
            at,
            told: Operations::default(),
            dev_idp,
            workers: 0,
        })
    }

    /// Serves with this many worker threads instead of one per core.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Shows in the metrics how many log lines were lost.
    #[must_use]
    pub fn watching_log(self, lost: LostLines) -> Self {
        self.told.metrics.watch_log(lost);
        self
    }

    /// Real addresses of the public and the operations listener.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), StartFault> {
        Ok((address(&self.public)?, address(&self.operations)?))
    }

    /// The one origin that people see.
    #[must_use]
    pub fn public_url(&self) -> &url::Url {
        &self.config.server.public_url
    }

    /// The embedded development issuer, where one is configured; tests script it.
    #[must_use]
    pub fn dev_idp(&self) -> Option<DevIdp> {
        self.dev_idp.clone()
    }

    /// The house once it is furnished; empty while the database is not there.
    #[must_use]
    pub fn app(&self) -> MaybeApp {
        Arc::clone(&self.told.app)
    }

    /// Serves until asked to stop, then finishes what is under way within the configured time.
    ///
    /// # Errors
    /// Sentences for the operator: what keeps the house from opening, at once or after the database came up.
    pub async fn run_until_stopped(self, mut stop: watch::Receiver<bool>) -> Result<(), StartFault> {
        // From now on a SIGHUP is remembered; unheard, it would end a process that still waits for its database.
        let hangup = signal(SignalKind::hangup())
            .map_err(|e| StartFault::Faults(vec![format!("the system takes no signal handlers: {e}")]))?;
        let operations = serve_operations(&self)?;
        let operations_handle = operations.handle();
        tokio::spawn(operations);
        let opened = self.open(&mut stop, hangup).await;
        operations_handle.stop(false).await;
        opened
    }

    async fn open(self, stop: &mut watch::Receiver<bool>, mut hangup: Signal) -> Result<(), StartFault> {
        if !self.wait_for_database(stop).await? {
            return Ok(());
        }
        let shutdown = Duration::from_millis(self.config.server.shutdown_ms);
        let secure = self.secure()?;
        let app = start::furnish(self.store, self.config, self.keys, self.at).await?;
        let app = app.with_metrics(self.told.metrics.clone()).with_certificate(self.shown);
        let app = Arc::new(app);
        let mac = start::cookie_key(&app).await?;
        let dev_idp = self.dev_idp;
        let doors = Door::new(Arc::clone(&app), &mac, dev_idp.is_some());
        let server = serve_public(&self.public, secure, (doors, dev_idp), self.workers)?;
        let handle = server.handle();
        self.told.app.store(Some(Arc::clone(&app)));
        audit::milestone(&app, "server.started").await;
        let (close, closing) = watch::channel(false);
        let listening = tokio::spawn(jobs::listen(Arc::clone(&app), closing.clone()));
        let tabs = tokio::spawn(jobs::tell_tabs(Arc::clone(&app), closing.clone()));
        let jobs = tokio::spawn(jobs::run(Arc::clone(&app), closing));
        let mut serving = tokio::spawn(server);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = reloads(&mut hangup, &app, self.sources.as_ref()) => {}
            _ = &mut serving => return Err(StartFault::Faults(vec!["the listener ended by itself".to_owned()])),
        }
        self.told.stopping.store(true, Ordering::Relaxed);
        tracing::info!("stopping: finishing what is under way");
        // Ours was only the original of what the server listens with: kept, it would take callers whom nobody answers.
        drop(self.public);
        app.live.close();
        let _ = tokio::time::timeout(shutdown, handle.stop(true)).await;
        audit::milestone(&app, "server.stopped").await;
        let _ = close.send(true);
        let _ = tokio::join!(jobs, listening, tabs);
        if let Err(error) = activity::write(&app).await {
            tracing::warn!(%error, "the last activity of some sessions could not be noted");
        }
        // A connection that is still out must not keep the process from ending.
        let _ = tokio::time::timeout(shutdown, app.store.close()).await;
        Ok(())
    }

    fn secure(&self) -> Result<Option<Secure>, StartFault> {
        let secure = |shown: &Arc<Shown>| Secure::new(Arc::clone(shown), Arc::clone(&self.at.clock));
        self.shown.as_ref().map(secure).transpose().map_err(|problem| StartFault::Faults(vec![problem]))
    }

    /// Prepares the schema. While the database is away, the closed door answers; `false` when asked to stop meanwhile.
    async fn wait_for_database(&self, stop: &mut watch::Receiver<bool>) -> Result<bool, StartFault> {
        let mut closed: Option<ServerHandle> = None;
        let ready = loop {
            match start::prepare(&self.store).await {
                Ok(()) => break Ok(true),
                Err(StartFault::NotYet(problem)) => {
                    if closed.is_none() {
                        tracing::warn!(
                            problem,
                            "the database is not there yet; the door stays closed until it is"
                        );
                        let server = serve_closed(&self.public, self.secure()?, &self.config)?;
                        closed = Some(server.handle());
                        tokio::spawn(server);
                    }
                }
                Err(fault) => break Err(fault),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                _ = stop.wait_for(|stop| *stop) => break Ok(false),
            }
        };
        if let Some(closed) = closed {
            closed.stop(true).await;
        }
        ready
    }
}

fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, StartFault> {
    TcpListener::bind(address).map_err(|e| {
        StartFault::Faults(vec![format!(
            "{key}: cannot listen on {address}: {e}; is another process there? try another port"
        )])
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartFault> {
    listener.local_addr().map_err(|e| StartFault::Faults(vec![format!("the listener has no address: {e}")]))
}

fn again(listener: &TcpListener) -> Result<TcpListener, StartFault> {
    listener.try_clone().map_err(|e| StartFault::Faults(vec![format!("the listener cannot be shared: {e}")]))
}

fn dev_idp(config: &Config, at: &Furniture) -> Result<Option<DevIdp>, StartFault> {
    let Some(provider) = config.providers.iter().find(|p| p.kind == ProviderKind::Dev) else {
        return Ok(None);
    };
    let clock = Arc::clone(&at.clock);
    let issuer = DevIdp::new(&provider.issuer, Arc::new(move || clock.now_ms()));
    issuer.map(Some).map_err(|e| StartFault::Faults(vec![format!("provider.{}: {e}", provider.id)]))
}

fn started(server: std::io::Result<Http>) -> Result<Http, StartFault> {
    server.map_err(|e| StartFault::Faults(vec![format!("the listener cannot be used: {e}")]))
}

fn serve_operations(server: &Server) -> Result<Http, StartFault> {
    let told = server.told.clone();
    let listener = again(&server.operations)?;
    let http = HttpServer::new(move || HttpApp::new().configure(|cfg| operations::routes(cfg, &told)));
    started(http.workers(1).disable_signals().listen(listener).map(HttpServer::run))
}

fn serve_closed(public: &TcpListener, secure: Option<Secure>, config: &Config) -> Result<Http, StartFault> {
    let host = config.server.public_url.host_str().unwrap_or_default();
    let closed = ClosedDoor::new(&config.server.auth_prefix, host);
    let app = move || HttpApp::new().configure(|cfg| waiting::routes(cfg, &closed));
    // A client that keeps its connection must meet the open door with its next request.
    let http = if let Some(secure) = secure {
        let builder = Http::build().workers(1).disable_signals().shutdown_timeout(1);
        secure.without_keeping().listen(builder, again(public)?, move || boxed(app()))
    } else {
        let http = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(1);
        http.keep_alive(KeepAlive::Disabled).listen(again(public)?).map(HttpServer::run)
    };
    started(http)
}

fn serve_public(
    public: &TcpListener,
    secure: Option<Secure>,
    (doors, dev_idp): (Door, Option<DevIdp>),
    workers: usize,
) -> Result<Http, StartFault> {
    let app = move || {
        HttpApp::new()
            .wrap(from_fn(door::layer))
            .app_data(web::PayloadConfig::new(BODY_MAX))
            .app_data(web::FormConfig::default().limit(BODY_MAX))
            .configure(|cfg| door::routes(cfg, &doors, dev_idp.as_ref()))
    };
    if let Some(secure) = secure {
        let builder = Http::build().disable_signals();
        let builder = if workers == 0 { builder } else { builder.workers(workers) };
        return started(secure.listen(builder, again(public)?, move || boxed(app())));
    }
    let http = HttpServer::new(app)
        .disable_signals()
        // Else a client that leaves while a provider thinks is not noticed.
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .client_request_timeout(HEAD_TIME)
        .keep_alive(KEEP_ALIVE);
    let http = if workers == 0 { http } else { http.workers(workers) };
    started(http.listen(again(public)?).map(HttpServer::run))
}

/// Reloads on each SIGHUP; never ends by itself.
async fn reloads(hangup: &mut Signal, app: &App, sources: Option<&Sources>) {
    let Some(sources) = sources else {
        return std::future::pending().await;
    };
    while hangup.recv().await.is_some() {
        tell(reload::run(app, sources).await);
    }
}

fn tell(reloaded: Result<reload::Reloaded, Vec<String>>) {
    match reloaded {
        Ok(reloaded) => {
            for warning in &reloaded.warnings {
                tracing::warn!("{warning}");
            }
            for key in &reloaded.needs_restart {
                tracing::warn!(key, "changed, and counts only after a restart");
            }
            tracing::info!("reloaded");
        }
        Err(faults) => {
            for fault in &faults {
                tracing::error!("{fault}");
            }
            tracing::error!(faults = faults.len(), "not reloaded; the old configuration stays in force");
        }
    }
}
