//! Puts a scripted [`Answer`] on the wire.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::stream;

use super::script::Answer;

/// `None` means: do the work and answer as usual.
pub(super) async fn scripted(answer: Answer) -> Option<HttpResponse> {
    Some(match answer {
        Answer::Normal => return None,
        Answer::Status(code, content_type, body) => status(code).content_type(content_type).body(body),
        Answer::Raw(code, headers, body) => {
            let mut response = status(code);
            for (name, value) in headers {
                response.append_header((name, value));
            }
            response.body(body)
        }
        Answer::Redirect(code, url) => status(code).append_header(("Location", url)).finish(),
        Answer::Hang => std::future::pending().await,
        Answer::Drip => json_stream().streaming(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
        })),
        Answer::Endless => {
            let spaces = Bytes::from(vec![b' '; 64 * 1024]);
            json_stream().streaming(stream::repeat_with(move || Ok::<_, Infallible>(spaces.clone())))
        }
        Answer::Truncated(content_type, body) => truncated(content_type, body),
        // A body that fails at once: the server drops the connection before it flushes the head.
        Answer::Close => HttpResponse::Ok()
            .body(SizedStream::new(100, stream::iter([Err::<Bytes, _>(std::io::Error::other("closed"))]))),
    })
}

fn status(code: u16) -> HttpResponseBuilder {
    HttpResponse::build(StatusCode::from_u16(code).unwrap())
}

fn json_stream() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type("application/json");
    response
}

fn truncated(content_type: &'static str, body: Vec<u8>) -> HttpResponse {
    let promised = u64::try_from(body.len()).unwrap() + 100;
    let broken = stream::unfold(Some(body), |left| async {
        match left {
            Some(body) if !body.is_empty() => Some((Ok(Bytes::from(body)), Some(Vec::new()))),
            // The pause lets what was promised leave the buffer, so that the cut is inside it.
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Err(std::io::Error::other("cut")), None))
            }
            None => None,
        }
    });
    HttpResponse::Ok().content_type(content_type).body(SizedStream::new(promised, Box::pin(broken)))
}
