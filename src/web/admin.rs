//! The admin API, for programs with an API key and for people with the role `admin`: whose sessions live, and ending them.

use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::problem::Refused;
use super::session::MaybeGuest;
use super::{Door, views, visitor, wire};
use crate::domain::Session;
use crate::error::Error;
use crate::flows::admin::{self, Administrator};
use crate::flows::api_keys;

type Answer = Result<HttpResponse, Refused>;

/// Who asks. A key decides alone: one that does not count is refused, whatever cookie came with it.
async fn administrator(
    request: &HttpRequest,
    door: &Door,
    guest: MaybeGuest,
) -> Result<Administrator, Refused> {
    let visitor = visitor(request);
    let mut presented = request.headers().get_all(AUTHORIZATION);
    let actor = match (presented.next(), presented.next()) {
        (Some(one), None) => {
            let key = one.to_str().ok().and_then(bearer).unwrap_or_default();
            api_keys::check(&door.app, key, &visitor).await?
        }
        (Some(_), Some(_)) => return Err(Refused(Error::InvalidRequest("Authorization appears twice."))),
        (None, _) => {
            let guest = guest.0.ok_or(Error::NotSignedIn)?;
            admin::person(&door.app, &guest, &visitor).await?
        }
    };
    Ok(Administrator { actor, visitor })
}

/// The scheme's name is case-insensitive (RFC 9110 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_matches(' '))
}

/// `GET /auth/admin/api/users/{id}/sessions`
pub async fn sessions_of_user(
    request: HttpRequest,
    door: web::Data<Door>,
    guest: MaybeGuest,
    id: web::Path<String>,
) -> Answer {
    administrator(&request, &door, guest).await?;
    let idle_ms = door.app.setup().config.session.idle_ms;
    let live = admin::sessions(&door.app, Some(&id)).await?;
    let rows: Vec<Value> = live.iter().map(|(session, _)| shown(session, idle_ms)).collect();
    Ok(HttpResponse::Ok().json(json!({ "sessions": rows })))
}

fn shown(session: &Session, idle_ms: i64) -> Value {
    let mut row = wire::session(session, idle_ms);
    if let Some(members) = row.as_object_mut() {
        let device = views::device(session.user_agent.as_deref().unwrap_or_default());
        members.insert("kind".to_owned(), session.kind.as_str().into());
        members.insert("device".to_owned(), device.into());
        members.insert("ip".to_owned(), session.ip.clone().into());
        members.insert("userAgent".to_owned(), session.user_agent.clone().into());
    }
    row
}

/// `DELETE /auth/admin/api/users/{id}/sessions`
pub async fn end_sessions_of_user(
    request: HttpRequest,
    door: web::Data<Door>,
    guest: MaybeGuest,
    id: web::Path<String>,
) -> Answer {
    let by = administrator(&request, &door, guest).await?;
    let ended = admin::end_sessions_of_user(&door.app, &id, &by).await?;
    Ok(HttpResponse::Ok().json(json!({ "ended": ended })))
}

/// `DELETE /auth/admin/api/sessions/{id}`
pub async fn end_session(
    request: HttpRequest,
    door: web::Data<Door>,
    guest: MaybeGuest,
    id: web::Path<String>,
) -> Answer {
    let by = administrator(&request, &door, guest).await?;
    admin::end_session(&door.app, &id, &by).await?;
    Ok(HttpResponse::NoContent().finish())
}
