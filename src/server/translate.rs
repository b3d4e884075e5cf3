//! Between the types of the HTTP/2 library and those of the app: the one reading of a request, and an answer without what belongs to HTTP/1.1.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_http::body::BodySize;
use actix_http::error::PayloadError;
use actix_http::{Method, Payload, Request, ResponseHead, StatusCode, Version};
use actix_web::http::Uri;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures_util::Stream;
use h2::RecvStream;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// As many as the HTTP/1.1 parser takes.
const FIELDS_MAX: usize = 96;
/// RFC 9110 5.6.7.
const DATE: &[BorrowedFormatItem<'static>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// A request that does not reach the app, with its bare answer.
#[derive(Debug)]
pub struct Refused(pub StatusCode);

/// The request as the app reads it, and whether its sender waits for a word before the body.
///
/// # Errors
/// What could be read in more than one way.
pub fn request(
    asked: http::Request<RecvStream>,
    peer: Option<SocketAddr>,
) -> Result<(Request, bool), Refused> {
    let (parts, body) = asked.into_parts();
    let bad = Refused(StatusCode::BAD_REQUEST);
    let Ok(method) = Method::from_bytes(parts.method.as_str().as_bytes()) else { return Err(bad) };
    let Some(uri) = target(&parts.uri) else { return Err(bad) };
    let headers = fields(&parts.headers, parts.uri.authority().map(http::uri::Authority::as_str))?;
    let expects = headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue") && !body.is_end_stream());
    let payload =
        if body.is_end_stream() { Payload::None } else { Payload::Stream { payload: Incoming::new(body) } };
    let mut request = Request::with_payload(payload);
    let head = request.head_mut();
    head.method = method;
    head.uri = uri;
    head.version = Version::HTTP_2;
    head.headers = headers;
    head.peer_addr = peer;
    Ok((request, expects))
}

/// Scheme, authority and path each by themselves: put together as text, `*` would be read as a part of the host.
fn target(uri: &http::Uri) -> Option<Uri> {
    let mut built = Uri::builder();
    if let Some(scheme) = uri.scheme_str() {
        built = built.scheme(scheme);
    }
    if let Some(authority) = uri.authority() {
        built = built.authority(authority.as_str());
    }
    if let Some(path) = uri.path_and_query() {
        built = built.path_and_query(path.as_str());
    }
    built.build().ok()
}

/// The fields as HTTP/1.1 would have them: a `Host`, one `Cookie` (RFC 9113 8.2.3: its crumbs come as fields of their own), one length.
fn fields(from: &http::HeaderMap, authority: Option<&str>) -> Result<HeaderMap, Refused> {
    let bad = || Refused(StatusCode::BAD_REQUEST);
    let mut fields = HeaderMap::with_capacity(from.len() + 1);
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in from {
        if name == http::header::COOKIE {
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value.as_bytes());
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
        fields.append(name, value);
    }
    if !cookies.is_empty() {
        fields.insert(header::COOKIE, HeaderValue::from_bytes(&cookies).map_err(|_| bad())?);
    }
    if let (false, Some(authority)) = (fields.contains_key(header::HOST), authority) {
        fields.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| bad())?);
    }
    if fields.get_all(header::CONTENT_LENGTH).count() > 1 {
        return Err(bad());
    }
    if fields.len() > FIELDS_MAX {
        return Err(Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    Ok(fields)
}

/// A request's body. What was read makes room for more.
struct Incoming(RecvStream);

impl Incoming {
    #[expect(clippy::new_ret_no_self, reason = "payloads are boxed")]
    fn new(body: RecvStream) -> Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> {
        Box::pin(Self(body))
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let broken = |error: h2::Error| PayloadError::Incomplete(Some(std::io::Error::other(error)));
        Poll::Ready(match ready!(self.0.poll_data(cx)) {
            Some(Ok(piece)) => {
                let room = self.0.flow_control().release_capacity(piece.len());
                Some(room.map(|()| piece).map_err(broken))
            }
            Some(Err(error)) => Some(Err(broken(error))),
            None => None,
        })
    }
}

/// The head of an answer, dated. Fields of one connection do not exist in HTTP/2 (RFC 9113 8.2.2).
#[must_use]
pub fn answer(head: &ResponseHead, size: BodySize, now_ms: i64) -> http::Response<()> {
    let mut answer = http::Response::new(());
    *answer.version_mut() = http::Version::HTTP_2;
    *answer.status_mut() =
        http::StatusCode::from_u16(head.status.as_u16()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let fields = answer.headers_mut();
    for (name, value) in head.headers() {
        let of_connection = matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        );
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        if let (false, Ok(name), Ok(value)) =
            (of_connection, name, http::HeaderValue::from_bytes(value.as_bytes()))
        {
            fields.append(name, value);
        }
    }
    match size {
        BodySize::Sized(length) => {
            fields.insert(http::header::CONTENT_LENGTH, length.into());
        }
        BodySize::Stream => {
            fields.remove(http::header::CONTENT_LENGTH);
        }
        BodySize::None => {}
    }
    if let (false, Some(date)) = (fields.contains_key(http::header::DATE), date(now_ms)) {
        fields.insert(http::header::DATE, date);
    }
    answer
}

fn date(now_ms: i64) -> Option<http::HeaderValue> {
    let now = OffsetDateTime::from_unix_timestamp(now_ms.div_euclid(1000)).ok()?;
    http::HeaderValue::try_from(now.format(DATE).ok()?).ok()
}
