//! `POST /auth/refresh`, for API clients: no cookie is read or set.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::problem::Refused;
use super::{Door, visitor, wire};
use crate::flows::{limits, refresh};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    refresh_token: String,
    session_id: String,
}

pub async fn renew(
    request: HttpRequest,
    door: web::Data<Door>,
    body: web::Bytes,
) -> Result<HttpResponse, Refused> {
    limits::admit(&door.app, limits::Door::Refresh, &visitor(&request)).await?;
    let asked: Asked = wire::read_json(&request, &body)?;
    let tokens =
        refresh::for_client(&door.app, &asked.session_id, &asked.refresh_token.into(), &visitor(&request))
            .await?;
    Ok(HttpResponse::Ok().json(json!({ "tokens": wire::tokens(&tokens, door.app.now_ms()) })))
}
