//! A request that may pass, on its way through: what is attached, the app's answer as the visitor gets it, and its early end with the session.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{BodySize, BoxBody, MessageBody as _};
use actix_web::dev::Payload;
use actix_web::http::header::{self, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use actix_web::http::{ConnectionType, StatusCode, Version};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use bytestring::ByteString;
use secrecy::{ExposeSecret, SecretString};

use super::behind::Answer;
use super::outer::{self, Arrival, Whose};
use super::problem::Refused;
use super::{Door, curfew};
use crate::domain::{Fact, Principal};
use crate::error::Error;
use crate::flows::bearer::Bearer;
use crate::flows::{assertion, refresh};
use crate::proxy::canonical::CanonicalRequest;
use crate::proxy::forward::{self, Announced, Body, Curfew, Reply};
use crate::proxy::headers::{IDENTITY_MAX, Onward};
use crate::proxy::identity;
use crate::proxy::routes::Route;
use crate::proxy::upgrade::{self, Place, Tunnel, Wish};
use crate::proxy::upstream::{Fault, Fields, Framing, Pool, Upload, Upstream};
use crate::telemetry;

/// A request that was let through, and where it goes.
pub struct Way<'a> {
    pub request: &'a HttpRequest,
    pub door: &'a web::Data<Door>,
    pub route: &'a Route,
    pub upstream: &'a Upstream,
    pub canonical: &'a CanonicalRequest<'a>,
    pub who: Option<&'a Principal>,
    /// Where they came by a token of their own.
    pub bearer: Option<&'a Bearer>,
}

/// Forwards the request and hands on the answer.
///
/// # Errors
/// What keeps it from the app, or the app from answering.
pub async fn pass(way: &Way<'_>, payload: &mut Payload, wish: &Wish) -> Answer {
    let attached = Attached::of(way.door, way.route, way.who, way.bearer, Asker::ThisDoor).await?;
    let traceparent = telemetry::current_traceparent();
    let (client, request_id) = arrival(way.request);
    let onward = Onward {
        canonical: way.canonical,
        headers: way.request.headers(),
        origin: &way.door.public_origin,
        client: client.as_deref(),
        request_id: &request_id,
        traceparent: traceparent.as_deref(),
        who: attached.who,
        access_token: attached.access_token.as_ref().map(ExposeSecret::expose_secret),
        assertion: attached.assertion.as_deref(),
        is_websocket: *wish != Wish::Http,
    };
    match wish {
        Wish::WebSocket { accept } => Box::pin(open_socket(way, &onward, payload.take(), accept)).await,
        Wish::Http | Wish::Malformed => {
            let upload = upload(way, payload).await?;
            let reply = send(way, &onward, upload).await?;
            Ok(respond(way, reply))
        }
    }
}

/// The client's address, and the request's name.
fn arrival(request: &HttpRequest) -> (Option<String>, ByteString) {
    let extensions = request.extensions();
    let Some(Arrival { client, request_id, .. }) = extensions.get() else { return (None, ByteString::new()) };
    (client.as_ref().map(super::address::spelled), request_id.clone())
}

/// Who passes on what is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    ThisDoor,
    /// By forward-auth. A browser behind a proxy that does not close that place could ask as well (security.md RT-08).
    OtherProxy,
}

const X_AUTH_ASSERTION: HeaderName = HeaderName::from_static("x-auth-assertion");

/// What our word about the guest is made of.
#[derive(Default)]
pub struct Attached<'a> {
    who: Option<&'a Principal>,
    access_token: Option<SecretString>,
    assertion: Option<Arc<str>>,
}

impl<'a> Attached<'a> {
    /// Everything that a route attaches for who came.
    ///
    /// # Errors
    /// What cannot be attached, and more than an app's server takes.
    pub async fn of(
        door: &Door,
        route: &Route,
        who: Option<&'a Principal>,
        bearer: Option<&Bearer>,
        asker: Asker,
    ) -> Result<Self, Refused> {
        use crate::config::Attach;
        let Some(who) = who else { return Ok(Self::default()) };
        let size = identity::size(who);
        // A list that was cut would mean something else (security.md PX-16).
        if size > IDENTITY_MAX {
            tracing::warn!(size, "the identity headers are too large");
            return Err(Refused(Error::NotAllowed));
        }
        let mut attached = Self { who: Some(who), ..Self::default() };
        for attach in &route.attach {
            match attach {
                // A route that leads to an app through this door gives its token to nobody else who asks.
                Attach::AccessToken if asker == Asker::OtherProxy && route.upstream.is_some() => {}
                // Who brought a token has it passed on, and no other.
                Attach::AccessToken if bearer.is_some() => {
                    attached.access_token = bearer.map(|bearer| bearer.token().clone());
                }
                Attach::AccessToken => {
                    let session_id = who.plain(Fact::Session);
                    attached.access_token =
                        match Box::pin(refresh::access_token(&door.app, &session_id)).await {
                            // Whoever may come without a session may come without its token.
                            Err(_) if route.policy.public => None,
                            token => Some(token?),
                        };
                }
                Attach::Assertion => {
                    // Without a name of the app there is nobody whom the assertion could be for.
                    let upstream = route.upstream.as_deref().ok_or(Error::NoRoute)?;
                    attached.assertion = Some(Box::pin(assertion::write(&door.app, who, upstream)).await?);
                }
            }
        }
        Ok(attached)
    }

    /// The same as fields of a head.
    pub fn fields(self) -> impl Iterator<Item = (HeaderName, ByteString)> {
        let token = self.access_token.map(|token| format!("Bearer {}", token.expose_secret()));
        let token = token.map(|token| (header::AUTHORIZATION, token.into()));
        let assertion = self.assertion.map(|assertion| (X_AUTH_ASSERTION, assertion.to_string().into()));
        self.who.into_iter().flat_map(identity::shared).chain(token).chain(assertion)
    }
}

/// The request's body, unless there is none.
async fn upload(way: &Way<'_>, payload: &mut Payload) -> Result<Option<Box<Upload>>, Refused> {
    let headers = way.request.headers();
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    if announced.is_none() && way.request.version() == Version::HTTP_2 {
        return Box::pin(Upload::of_stream(payload.take(), way.route.body_limit)).await.map_err(refused);
    }
    if !is_chunked && announced.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let announced = announced.filter(|_| !is_chunked);
    Upload::new(payload.take(), announced, way.route.body_limit).map(Some).map_err(refused)
}

async fn send(way: &Way<'_>, onward: &Onward<'_>, upload: Option<Box<Upload>>) -> Result<Reply, Refused> {
    let pool = way.request.app_data::<Rc<Pool>>().cloned().unwrap_or_default();
    // Two small boxes come from the allocator's own shelf; one large one costs as much as a look at the session.
    Box::pin(forward::forward(&pool, way.upstream, onward, upload, way.route.timeout)).await.map_err(refused)
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
    let mut response = from_app(way, answer.status, answer.fields, body);
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

fn from_app(way: &Way<'_>, status: StatusCode, fields: Fields, body: BoxBody) -> HttpResponse {
    let mut response = HttpResponse::with_body(status, body);
    let headers = response.headers_mut();
    let is_personal = way.who.is_some();
    let mut says_who_keeps_it = false;
    for (name, value) in fields {
        says_who_keeps_it |= name == header::CACHE_CONTROL || name == header::EXPIRES;
        // Only a listed origin may read what was made for a session; it is allowed afterwards.
        let opens =
            name == header::ACCESS_CONTROL_ALLOW_ORIGIN || name == header::ACCESS_CONTROL_ALLOW_CREDENTIALS;
        if !(is_personal && opens) {
            headers.append(name, value);
        }
    }
    // An answer for one person is not a shared cache's to keep, unless the app says so itself (security.md PX-20).
    if is_personal && !says_who_keeps_it {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    outer::mark(way.request, Whose::Apps);
    response
}

/// Ends what stays open when the session does, or a token that has none; and nobody's when the house closes.
fn curfew(way: &Way<'_>) -> Curfew {
    match (way.bearer.filter(|bearer| !bearer.is_tied), way.who) {
        (Some(bearer), _) => curfew::of_token(&way.door.app, bearer),
        (None, Some(who)) => curfew::of(&way.door.app, who),
        (None, None) => curfew::of_nobody(&way.door.app),
    }
}

async fn open_socket(way: &Way<'_>, onward: &Onward<'_>, payload: Payload, accept: &str) -> Answer {
    let limit = way.door.app.setup().config.limits.websockets;
    // Strangers who open all they can leave room for people.
    let max = if way.who.is_some() { limit } else { limit.div_ceil(2) };
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
    let mut response = from_app(way, answer.status, answer.fields, BoxBody::new(tunnel));
    response.headers_mut().remove(header::CACHE_CONTROL);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.head_mut().set_connection_type(ConnectionType::Upgrade);
    Ok(response)
}
