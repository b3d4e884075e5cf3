//! A request that may pass, on its way through: what is attached, the app's answer as the visitor gets it, and its early end with the session.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{BodySize, BoxBody, MessageBody as _};
use actix_web::dev::Payload;
use actix_web::http::header::{self, CONTENT_LENGTH, HeaderMap, HeaderValue, UPGRADE};
use actix_web::http::{ConnectionType, StatusCode, Version};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::{ExposeSecret, SecretString};

use super::behind::Answer;
use super::problem::Refused;
use super::{Door, curfew};
use crate::error::Error;
use crate::flows::session::Guest;
use crate::flows::{assertion, refresh};
use crate::proxy::canonical::CanonicalRequest;
use crate::proxy::forward::{self, Announced, Body, Curfew, Reply};
use crate::proxy::headers::{IDENTITY_MAX, Onward};
use crate::proxy::identity;
use crate::proxy::routes::Route;
use crate::proxy::upgrade::{self, Place, Tunnel, Wish};
use crate::proxy::upstream::{Fault, Framing, Pool, Upload, Upstream};
use crate::telemetry;

/// A request that was let through, and where it goes.
pub struct Way<'a> {
    pub request: &'a HttpRequest,
    pub door: &'a web::Data<Door>,
    pub route: &'a Route,
    pub upstream: &'a Upstream,
    pub canonical: &'a CanonicalRequest<'a>,
    pub guest: Option<&'a Guest>,
}

/// Marks an answer as the app's: its headers are its own business.
pub struct FromApp;

/// Forwards the request and hands on the answer.
///
/// # Errors
/// What keeps it from the app, or the app from answering.
pub async fn pass(way: &Way<'_>, payload: Payload, wish: Wish) -> Answer {
    let attached = Attached::of(way).await?;
    let traceparent = telemetry::current_traceparent();
    let visitor = super::visitor(way.request);
    let onward = Onward {
        canonical: way.canonical,
        headers: way.request.headers(),
        scheme: way.door.scheme(),
        authority: &way.door.authority,
        client: visitor.address.as_deref(),
        request_id: &visitor.request_id,
        traceparent: traceparent.as_deref(),
        identity: &attached.identity,
        access_token: attached.access_token.as_ref().map(ExposeSecret::expose_secret),
        assertion: attached.assertion.as_deref(),
        is_websocket: wish != Wish::Http,
    };
    match wish {
        Wish::WebSocket { accept } => open_socket(way, &onward, payload, &accept).await,
        Wish::Http | Wish::Malformed => {
            let upload = upload(way, payload).await?;
            let reply = send(way, &onward, upload).await?;
            Ok(respond(way, reply))
        }
    }
}

/// What our word about the guest is made of.
#[derive(Default)]
struct Attached {
    identity: Vec<(&'static str, String)>,
    access_token: Option<SecretString>,
    assertion: Option<Arc<str>>,
}

impl Attached {
    async fn of(way: &Way<'_>) -> Result<Self, Refused> {
        use crate::config::Attach;
        let Some(guest) = way.guest else { return Ok(Self::default()) };
        let identity = identity::headers(&guest.user);
        let size: usize = identity.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        // A list that was cut would mean something else (security.md PX-16).
        if size > IDENTITY_MAX {
            tracing::warn!(size, "the identity headers are too large");
            return Err(Refused(Error::NotAllowed));
        }
        let mut attached = Self { identity, ..Self::default() };
        for attach in &way.route.attach {
            match attach {
                Attach::AccessToken => {
                    attached.access_token = match refresh::access_token(&way.door.app, &guest.session).await {
                        // Whoever may come without a session may come without its token.
                        Err(_) if way.route.policy.public => None,
                        token => Some(token?),
                    };
                }
                Attach::Assertion => {
                    attached.assertion =
                        Some(assertion::write(&way.door.app, guest, &way.upstream.id).await?);
                }
            }
        }
        Ok(attached)
    }
}

/// The request's body, unless there is none.
async fn upload(way: &Way<'_>, payload: Payload) -> Result<Option<Upload>, Refused> {
    let headers = way.request.headers();
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    if announced.is_none() && way.request.version() == Version::HTTP_2 {
        return Upload::of_stream(payload, way.route.body_limit).await.map_err(refused);
    }
    if !is_chunked && announced.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let announced = announced.filter(|_| !is_chunked);
    Upload::new(payload, announced, way.route.body_limit).map(Some).map_err(refused)
}

async fn send(way: &Way<'_>, onward: &Onward<'_>, upload: Option<Upload>) -> Result<Reply, Refused> {
    let pool = way.request.app_data::<Rc<Pool>>().cloned().unwrap_or_default();
    forward::forward(&pool, way.upstream, onward, upload, way.route.timeout).await.map_err(refused)
}

fn refused(fault: Fault) -> Refused {
    Refused(match fault {
        Fault::Unreachable(problem) => Error::UpstreamDown(problem),
        Fault::Silent | Fault::Broken(_) => Error::UpstreamDown(fault.to_string()),
        Fault::Timeout => Error::UpstreamSlow,
        Fault::TooLarge => Error::TooLarge,
        Fault::TooSlow => Error::TooSlow,
        Fault::NotWhole => Error::InvalidRequest("The request body is not whole."),
    })
}

fn respond(way: &Way<'_>, reply: Reply) -> HttpResponse {
    let Reply { answer, mut download } = reply;
    let curfew = forward::is_event_stream(&answer).then(|| curfew(way));
    let is_head = way.canonical.method() == "HEAD";
    let body = match answer.framing {
        Framing::None if is_head => {
            let size = answer.announced.map_or(BodySize::None, BodySize::Sized);
            Announced(size).boxed()
        }
        Framing::None => Announced(BodySize::None).boxed(),
        Framing::Sized(0) => BoxBody::new(()),
        framing => match download.take_whole() {
            Some(whole) => BoxBody::new(whole),
            None => Body::new(framing, download, curfew).boxed(),
        },
    };
    let mut response = from_app(way, answer.status, answer.headers, body);
    if answer.status == StatusCode::NOT_MODIFIED
        && let Some(length) = answer.announced
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    // Nobody taught HTTP/1.0 about chunks (RFC 9112 6.1).
    if way.request.version() < Version::HTTP_11 {
        response.head_mut().no_chunking(true);
    }
    response
}

fn from_app(way: &Way<'_>, status: StatusCode, headers: HeaderMap, body: BoxBody) -> HttpResponse {
    let mut response = HttpResponse::with_body(status, body);
    *response.headers_mut() = headers;
    // An answer for one person is not a shared cache's to keep, unless the app says so itself (security.md PX-20).
    if way.guest.is_some() {
        let headers = response.headers_mut();
        if !headers.contains_key(header::CACHE_CONTROL) && !headers.contains_key(header::EXPIRES) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        // Only a listed origin may read what was made for a session; it is allowed afterwards.
        headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
    response.extensions_mut().insert(FromApp);
    response
}

/// Ends what stays open when the guest's session does, and nobody's when the house closes.
fn curfew(way: &Way<'_>) -> Curfew {
    match way.guest {
        Some(guest) => curfew::of(&way.door.app, guest),
        None => curfew::of_nobody(&way.door.app),
    }
}

async fn open_socket(way: &Way<'_>, onward: &Onward<'_>, payload: Payload, accept: &str) -> Answer {
    let limit = way.door.app.setup().config.limits.websockets;
    // Strangers who open all they can leave room for people.
    let max = if way.guest.is_some() { limit } else { limit.div_ceil(2) };
    let place: Place = way.door.sockets.take(max).ok_or(Error::Overloaded("WebSockets"))?;
    let Reply { answer, download } = send(way, onward, None).await?;
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        // The app did not want to; what it says instead is an ordinary answer.
        return Ok(respond(way, Reply { answer, download }));
    }
    if !upgrade::is_agreed(&answer, accept) {
        return Err(Refused(Error::UpstreamDown("its 101 does not answer the handshake".to_owned())));
    }
    let connection = download.into_connection().ok_or(Error::UpstreamDown("it is gone".to_owned()))?;
    let tunnel = Tunnel::new(connection, payload, curfew(way), place);
    let mut response = from_app(way, answer.status, answer.headers, BoxBody::new(tunnel));
    response.headers_mut().remove(header::CACHE_CONTROL);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.head_mut().set_connection_type(ConnectionType::Upgrade);
    Ok(response)
}
