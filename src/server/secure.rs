//! The public listener where it speaks TLS: one app for each worker, reached by HTTP/1.1 or HTTP/2 as the handshake agreed.
//!
//! actix-web's own TLS listener stops to accept on a worker while 256 handshakes hang, and has no limits of HTTP/2; so the layers below
//! it are put together here.

use std::convert::Infallible;
use std::future::ready;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::{HttpService, Request, Response};
use actix_server::{GracefulShutdownSignal, Server as Http, ServerBuilder};
use actix_service::boxed::{self, BoxService, BoxServiceFactory};
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt as _, fn_factory, fn_service,
    map_config,
};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::http::KeepAlive;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::h2::{self, Line};
use super::{HEAD_TIME, KEEP_ALIVE};
use crate::domain::Clock;
use crate::error::Error;
use crate::tls::{Front, Shown};
use crate::web::problem::Problem;

/// What answers requests; made once for each worker.
pub type AppFactory = BoxServiceFactory<(), Request, Response<BoxBody>, actix_web::Error, ()>;
/// What answers requests, on one worker.
pub type App = BoxService<Request, Response<BoxBody>, actix_web::Error>;

/// Takes the many types out of an app.
pub fn boxed<I, S, B>(app: I) -> AppFactory
where
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    B: MessageBody + 'static,
{
    let app = map_config(app.into_factory(), |()| AppConfig::default());
    boxed::factory(app.map(|answer: ServiceResponse<B>| Response::from(answer).map_into_boxed_body()))
}

/// How a listener is served.
#[derive(Clone)]
pub struct Secure {
    front: Front,
    clock: Arc<dyn Clock>,
    /// Whether connections are kept for further requests.
    keeps: bool,
}

impl Secure {
    /// `origin` is what the visitor should have asked for instead of plain HTTP.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(shown: Arc<Shown>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        Ok(Self { front: Front::new(shown, to_plain())?, clock, keeps: true })
    }

    /// A client that keeps its connection must meet another door with its next request.
    #[must_use]
    pub fn without_keeping(mut self) -> Self {
        self.keeps = false;
        self
    }

    /// Serves a listener that is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(
        self,
        builder: ServerBuilder,
        listener: TcpListener,
        app: impl Fn() -> AppFactory + Send + Clone + 'static,
    ) -> std::io::Result<Http> {
        let stopping = builder.graceful_shutdown_signal();
        let serve = move || {
            let (secure, app, stopping) = (self.clone(), app.clone(), stopping.clone());
            fn_factory(move || {
                let (secure, app, stopping) = (secure.clone(), app(), stopping.clone());
                async move {
                    let app = Rc::new(app.new_service(()).await?);
                    secure.on_worker(app, stopping).await
                }
            })
        };
        Ok(builder.listen("public", listener, serve)?.run())
    }

    /// One worker's way from a fresh connection to its end.
    async fn on_worker(
        self,
        app: Rc<App>,
        stopping: GracefulShutdownSignal,
    ) -> Result<BoxService<TcpStream, (), Infallible>, ()> {
        let (one_app, told) = (Rc::clone(&app), stopping.clone());
        let keep_alive = if self.keeps { KeepAlive::Timeout(KEEP_ALIVE) } else { KeepAlive::Disabled };
        let one = HttpService::build()
            .keep_alive(keep_alive)
            .client_request_timeout(HEAD_TIME)
            // Else a client that leaves while a provider thinks is not noticed.
            .h1_allow_half_closed(false)
            .graceful_shutdown_signal(move || {
                let told = told.clone();
                async move { told.notified().await }
            })
            .h1::<_, BoxBody>(fn_factory(move || ready(Ok::<_, ()>(Rc::clone(&one_app)))))
            .new_service(())
            .await?;
        let one = Rc::new(one);
        let line = Rc::new(Line { app, stopping, clock: Arc::clone(&self.clock), keeps: self.keeps });
        Ok(boxed::service(fn_service(move |tcp: TcpStream| {
            let (front, one, line) = (self.front.clone(), Rc::clone(&one), Rc::clone(&line));
            async move {
                let peer = tcp.peer_addr().ok();
                let Some(stream) = front.meet(tcp).await else { return Ok(()) };
                if is_two(&stream) {
                    h2::serve(stream, peer, line).await;
                } else if let Err(error) = one.call((stream, peer)).await {
                    tracing::debug!(%error, "a connection broke off");
                }
                Ok(())
            }
        })))
    }
}

fn is_two(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// The whole answer to somebody who forgot the `s`; no more can be said, since nothing of the request was read.
fn to_plain() -> Vec<u8> {
    let detail = "This port speaks HTTPS alone. Ask for the same address with https:// in front.";
    let body = Problem::of(&Error::InvalidRequest(detail)).json("tls");
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
