//! What no gateway of this make can go below: the same server and the same client to the app, and nothing of what Doorward does between them.
//!
//! No session, no route, no limit, no log line, no name of the request, no identity; it is a process of its own, as Doorward is.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use doorward::config;
use doorward::proxy::canonical::CanonicalRequest;
use doorward::proxy::forward::{self, Body, Reply};
use doorward::proxy::headers::{Onward, PublicOrigin};
use doorward::proxy::upstream::{Framing, Pool, Upstreams};

use super::{Outcome, nginx, pin};

/// The first word for which this program is that gateway.
pub const WORD: &str = "--bare";
const PATIENCE: Duration = Duration::from_mins(1);
/// As many as Doorward's answer to another proxy has.
const FIELDS: [&str; 9] = [
    "x-auth-user",
    "x-auth-provider",
    "x-auth-subject",
    "x-auth-name",
    "x-auth-email",
    "x-auth-roles",
    "x-auth-groups",
    "cache-control",
    "x-request-id",
];

pub struct Bare {
    process: Child,
}

impl Bare {
    pub fn start(listen: SocketAddr, app: SocketAddr) -> Outcome<Self> {
        let process = Command::new(std::env::current_exe()?)
            .args([WORD, &listen.to_string(), &app.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        let bare = Self { process };
        nginx::wait_for(listen)?;
        pin(bare.id(), "0")?;
        Ok(bare)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is that gateway, until it is killed.
pub fn be(words: &[String]) -> ExitCode {
    match actix_web::rt::System::new().block_on(serve(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bare gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Way {
    upstreams: Upstreams,
    origin: PublicOrigin,
}

async fn serve(words: &[String]) -> Outcome<()> {
    let [listen, app] = words else { return Err("two addresses are needed".into()) };
    let upstream = config::Upstream {
        id: "app".to_owned(),
        urls: vec![format!("http://{app}")],
        tls_ca_file: None,
        health_path: None,
    };
    let upstreams = Upstreams::open(&[upstream]).map_err(|faults| faults.join("; "))?;
    let way = web::Data::new(Way { upstreams, origin: PublicOrigin::new("http", listen) });
    let service = move || {
        App::new()
            .app_data(way.clone())
            .app_data(Pool::new())
            .service(web::resource("/auth/check").to(fixed))
            .default_service(web::to(pass))
    };
    // As Doorward sets it up.
    let server = HttpServer::new(service)
        .workers(1)
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .client_request_timeout(Duration::from_secs(10))
        .keep_alive(Duration::from_secs(75));
    Ok(server.bind(listen)?.run().await?)
}

async fn fixed() -> HttpResponse {
    let mut response = HttpResponse::new(StatusCode::OK);
    for name in FIELDS {
        let value = HeaderValue::from_static("0123456789abcdef");
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

async fn pass(request: HttpRequest, way: web::Data<Way>) -> Result<HttpResponse, actix_web::Error> {
    let refused = |problem: String| actix_web::error::ErrorBadGateway(problem);
    let canonical = CanonicalRequest::read(request.method().as_str(), request.path());
    let canonical = canonical.map_err(|odd| refused(odd.detail().to_owned()))?;
    let pool = request.app_data::<Rc<Pool>>().cloned().unwrap_or_default();
    let upstream = way.upstreams.find("app").ok_or_else(|| refused("no app".to_owned()))?;
    let onward = Onward {
        canonical: &canonical,
        headers: request.headers(),
        origin: &way.origin,
        client: Some("127.0.0.1"),
        request_id: "0123456789abcdefghijkl",
        traceparent: None,
        who: None,
        access_token: None,
        assertion: None,
        is_websocket: false,
    };
    let reply = Box::pin(forward::forward(&pool, upstream, &onward, None, PATIENCE)).await;
    let Reply { answer, mut download } = reply.map_err(|fault| refused(fault.to_string()))?;
    let body = match (answer.framing, download.take_whole()) {
        (Framing::Sized(0), _) => BoxBody::new(()),
        (_, Some(whole)) => BoxBody::new(whole),
        (framing, None) => Body::new(framing, download, None).boxed(),
    };
    let mut response = HttpResponse::with_body(answer.status, body);
    for (name, value) in answer.fields {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}
