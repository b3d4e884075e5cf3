//! What a provider says of a session's end: by a call of its own, or by a frame on its page. Neither brings or gets a cookie.

use std::time::Duration;

use actix_web::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::problem::Refused;
use super::{Door, visitor};
use crate::error::Error;
use crate::flows::provider_logout;

type Answer = Result<HttpResponse, Refused>;

/// As for every body of ours; a logout token is a kilobyte.
const BODY_MAX: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(30);
const FRAMED: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors ";

/// `POST /auth/backchannel-logout/{provider}` (Back-Channel Logout 2.5): 200 when done or nothing was to be done.
pub async fn logout(
    request: HttpRequest,
    door: web::Data<Door>,
    provider: web::Path<String>,
    body: web::Payload,
) -> Answer {
    let is_form = request.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form {
        return Err(Refused(Error::InvalidRequest("A logout token comes in a form.")));
    }
    let body = match tokio::time::timeout(BODY_TIME, body.to_bytes_limited(BODY_MAX)).await {
        Err(_) => return Err(Refused(Error::TooSlow)),
        Ok(Err(_)) => return Err(Refused(Error::TooLarge)),
        Ok(Ok(body)) => body.map_err(|_| Error::InvalidRequest("The body could not be read."))?,
    };
    let mut tokens = url::form_urlencoded::parse(&body).filter(|(name, _)| name == "logout_token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return Err(Refused(Error::InvalidRequest("The form holds one logout_token.")));
    };
    provider_logout::hear(&door.app, &provider, &token, &visitor(&request)).await?;
    Ok(HttpResponse::Ok().finish())
}

/// `GET /auth/frontchannel-logout/{provider}?iss=…&sid=…` (Front-Channel Logout 2). Without both it would end whatever session the
/// browser has, at anybody's wish; a browser sends no cookie into a foreign frame anyway.
pub async fn frame(request: HttpRequest, door: web::Data<Door>, provider: web::Path<String>) -> Answer {
    let one = |wanted: &str| {
        let mut values = url::form_urlencoded::parse(request.query_string().as_bytes())
            .filter(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned());
        values.next().filter(|value| !value.is_empty() && values.next().is_none())
    };
    let (Some(issuer), Some(sid)) = (one("iss"), one("sid")) else {
        return Err(Refused(Error::InvalidRequest("A logout by frame names iss and sid, once each.")));
    };
    let issuer = provider_logout::frame(&door.app, &provider, &issuer, &sid, &visitor(&request)).await?;
    let origin =
        url::Url::parse(&issuer).map_or_else(|_| "null".to_owned(), |url| url.origin().ascii_serialization());
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, format!("{FRAMED}{origin}")))
        .body("<!doctype html><title>Signed out</title>"))
}

/// Whether a page of ours says with this policy who may frame it.
pub fn is_for_frames(policy: &HeaderValue) -> bool {
    policy.as_bytes().starts_with(FRAMED.as_bytes())
}
