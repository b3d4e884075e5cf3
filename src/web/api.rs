//! What programs ask: who am I, and which sessions do I have.

use actix_session::Session as Cookie;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::bearer;
use super::problem::Refused;
use super::session::SignedIn;
use super::{Door, views, visitor, wire};
use crate::domain::SessionKind;
use crate::error::Error;
use crate::flows::session::{self, Extent};
use crate::flows::{activity, assertion, logout};

type Answer = Result<HttpResponse, Refused>;

/// `GET /auth/me`: an allow-list of facts, never a token. A token without a session of ours has none to show.
pub async fn me(request: HttpRequest, door: web::Data<Door>, by_cookie: Result<SignedIn, Refused>) -> Answer {
    let setup = door.app.setup();
    let bearer = match bearer::by_token(&request, &door).await {
        Err(problem) => return Ok(problem.response()),
        Ok(bearer) => bearer,
    };
    let guest = match &bearer {
        Some(bearer) => bearer.guest.clone(),
        None => by_cookie?.0,
    };
    if bearer.as_ref().is_some_and(|bearer| !bearer.is_tied) {
        return Ok(HttpResponse::Ok().json(json!({
            "user": wire::user(&guest.user), "session": null, "claims": {},
        })));
    }
    // What a program does keeps no browser's session alive.
    if setup.config.session.me_keeps_alive && (bearer.is_none() || guest.session.kind == SessionKind::Api) {
        activity::note(&door.app, &guest.session);
    }
    let claims = session::exposed_claims(&door.app, &guest, &visitor(&request)).await?;
    Ok(HttpResponse::Ok().json(json!({
        "user": wire::user(&guest.user),
        "session": wire::session(&guest.session, setup.config.session.idle_ms),
        "claims": claims,
    })))
}

/// What an API client sends to leave.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientLeaves {
    session_id: String,
    refresh_token: String,
}

/// `POST /auth/logout` in JSON: an API client names its session and proves it by the refresh token; a script of our own pages sends
/// anything else, with the cookie.
pub async fn leave(request: HttpRequest, door: web::Data<Door>, cookie: Cookie, body: web::Bytes) -> Answer {
    let unreadable = || Refused(Error::InvalidRequest("The body is not the JSON that this place takes."));
    let sent: Value =
        if body.is_empty() { json!({}) } else { serde_json::from_slice(&body).map_err(|_| unreadable())? };
    if sent.get("sessionId").is_some() || sent.get("refreshToken").is_some() {
        let client: ClientLeaves = serde_json::from_value(sent).map_err(|_| unreadable())?;
        let ClientLeaves { session_id, refresh_token } = client;
        logout::leave_as_client(&door.app, &session_id, &refresh_token, &visitor(&request)).await?;
        return Ok(HttpResponse::Ok().json(json!({ "message": "Signed out." })));
    }
    super::pages::leave_to(&request, &door, &cookie, None).await
}

/// `GET /auth/sessions`
pub async fn sessions(door: web::Data<Door>, SignedIn(guest): SignedIn) -> Answer {
    activity::note(&door.app, &guest.session);
    let idle_ms = door.app.setup().config.session.idle_ms;
    let rows: Vec<Value> = session::list(&door.app, &guest)
        .await?
        .iter()
        .map(|one| {
            let mut row = wire::session(one, idle_ms);
            if let Some(members) = row.as_object_mut() {
                members.insert("current".to_owned(), (one.id == guest.session.id).into());
                members.insert(
                    "device".to_owned(),
                    views::device(one.user_agent.as_deref().unwrap_or_default()).into(),
                );
                members.insert("ip".to_owned(), one.ip.clone().into());
                members.insert("userAgent".to_owned(), one.user_agent.clone().into());
            }
            row
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "sessions": rows })))
}

/// `DELETE /auth/sessions/{id}`
pub async fn end_one(
    request: HttpRequest,
    door: web::Data<Door>,
    signed_in: SignedIn,
    id: web::Path<String>,
) -> Answer {
    session::end_one(&door.app, &signed_in.0, &id, &visitor(&request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(serde::Deserialize)]
pub struct EndQuery {
    #[serde(default)]
    all: bool,
}

/// `DELETE /auth/sessions`: all others, or with `?all=true` this one too.
pub async fn end_many(
    request: HttpRequest,
    door: web::Data<Door>,
    signed_in: SignedIn,
    query: web::Query<EndQuery>,
    cookie: Cookie,
) -> Answer {
    let extent = if query.all { Extent::All } else { Extent::Others };
    session::end_many(&door.app, &signed_in.0, extent, &visitor(&request)).await?;
    if extent == Extent::All {
        cookie.purge();
    }
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /.well-known/doorward/jwks.json`: the keys of identity assertions. They change rarely and are known a day ahead.
pub async fn jwks(door: web::Data<Door>) -> Answer {
    let keys = assertion::jwks(&door.app).await?;
    Ok(HttpResponse::Ok().insert_header(("cache-control", "public, max-age=3600")).json(keys))
}
