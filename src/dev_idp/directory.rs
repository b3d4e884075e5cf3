//! `/directory/users`: whom a client registers, in memory; a small stand-in for what real issuers call their admin or management API.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::DevIdp;
use super::keys::random_text;
use super::params::{Params, client_id};
use super::people::Newcomer;
use super::switch::Endpoint;

/// This issuer's password policy; there has to be one to try what happens then.
const PASSWORD_MIN: usize = 8;
const TEXT_MAX: usize = 255;

/// POST: 201 with the id, 409 `taken`, 400 with the word for what is wrong.
pub(super) async fn create(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::CreateUser, |_| {
        if !is_client(&request) {
            return unauthorized();
        }
        // A page of another site can post a form, but no JSON without being asked first.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let newcomer = match serde_json::from_slice::<Newcomer>(&body) {
            Ok(newcomer) if kind == Some("application/json") => newcomer,
            _ => return HttpResponse::BadRequest().json(json!({ "error": "invalid_request" })),
        };
        if let Some(error) = fault(&newcomer) {
            return HttpResponse::BadRequest().json(json!({ "error": error }));
        }
        let Ok(subject) = random_text() else { return HttpResponse::InternalServerError().finish() };
        match idp.memory().register(newcomer, subject) {
            Some(person) => HttpResponse::Created().json(json!({ "id": person.subject })),
            None => HttpResponse::Conflict().json(json!({ "error": "taken" })),
        }
    })
    .await
}

/// GET `?mark=`: 200 with the id of who carries the mark, else 404.
pub(super) async fn find(idp: web::Data<DevIdp>, request: HttpRequest) -> HttpResponse {
    idp.answer(Endpoint::FindUser, |_| {
        if !is_client(&request) {
            return unauthorized();
        }
        let params = Params::parse(request.query_string().as_bytes()).unwrap_or_default();
        let Some(mark) = params.find("mark") else { return HttpResponse::NotFound().finish() };
        match idp.memory().people().find(|person| person.mark.as_deref() == Some(mark)) {
            Some(person) => HttpResponse::Ok().json(json!({ "id": person.subject })),
            None => HttpResponse::NotFound().json(json!({ "error": "not_found" })),
        }
    })
    .await
}

/// DELETE: 204, or 404 when there is nobody. The named people stay.
pub(super) async fn remove(
    idp: web::Data<DevIdp>,
    request: HttpRequest,
    subject: web::Path<String>,
) -> HttpResponse {
    idp.answer(Endpoint::DeleteUser, |_| {
        if !is_client(&request) {
            return unauthorized();
        }
        if idp.memory().remove_person(&subject) {
            HttpResponse::NoContent().finish()
        } else {
            HttpResponse::NotFound().json(json!({ "error": "not_found" }))
        }
    })
    .await
}

/// As everywhere at this issuer any client is accepted, but it has to name itself in a header that scripts of other sites cannot send.
fn is_client(request: &HttpRequest) -> bool {
    request.headers().contains_key(header::AUTHORIZATION) && client_id(request, &Params::default()).is_some()
}

fn unauthorized() -> HttpResponse {
    HttpResponse::Unauthorized()
        .insert_header((header::WWW_AUTHENTICATE, "Basic realm=\"directory\""))
        .json(json!({ "error": "invalid_client" }))
}

fn fault(newcomer: &Newcomer) -> Option<&'static str> {
    let texts = [
        Some(&newcomer.username),
        Some(&newcomer.email),
        newcomer.given_name.as_ref(),
        newcomer.family_name.as_ref(),
    ];
    if texts.into_iter().flatten().any(|text| text.chars().count() > TEXT_MAX) {
        return Some("invalid_request");
    }
    if newcomer.username.chars().count() < 3 {
        return Some("invalid_username");
    }
    let short = newcomer.password.chars().count() < PASSWORD_MIN;
    (short || newcomer.password == newcomer.username).then_some("password_policy")
}
