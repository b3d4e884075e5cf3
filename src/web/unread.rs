//! What is left of a request's body when its answer is over. The server below reads the rest of a chunked body, however long, once nobody holds it any
//! more; as long as it is held, the server closes the connection instead (security.md HT-04).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::TRANSFER_ENCODING;
use bytes::Bytes;
use futures_util::Stream;

use super::outer;

/// The body of a request, held until its answer is over.
pub struct Unread {
    _held: Shared,
}

#[derive(Clone)]
struct Shared(Rc<RefCell<Payload>>);

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// The payload to work with, of which the request keeps a share where it is chunked.
pub fn shared(request: &HttpRequest, payload: Payload) -> Payload {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return payload;
    }
    let shared = Shared(Rc::new(RefCell::new(payload)));
    outer::hold(request, Unread { _held: shared.clone() });
    Payload::Stream { payload: Box::pin(shared) }
}

/// An answer's body that holds the request's.
pub struct Held {
    pub body: BoxBody,
    pub _unread: Unread,
}

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}
