//! The switch for tests: what the next answer of an endpoint is, and how often it was asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::DevIdp;
use super::keys::merge;

/// The endpoints whose answers can be switched. `SignIn` is the form's POST to `Authorize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Discovery,
    Jwks,
    Authorize,
    SignIn,
    Token,
    Userinfo,
    PushedAuthorization,
    Revocation,
    Logout,
    /// The directory: a person is created, looked for, removed.
    CreateUser,
    FindUser,
    DeleteUser,
}

/// What an endpoint answers once instead of, or on top of, its usual answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These bytes; the request itself is not looked at.
    Response { status: u16, content_type: String, body: Vec<u8> },
    /// An OAuth error (RFC 6749). `Authorize` and `SignIn` send it to the redirect URI, all others
    /// answer 400 with the JSON object; the request has no other effect.
    Error { error: String, description: String },
    /// The usual JSON object with these members laid over it; `null` takes one away.
    Members(Map<String, Value>),
    /// `Token` alone: the usual answer, with these members laid over the ID token's header and
    /// claims before it is signed; `null` takes one away.
    IdToken { header: Map<String, Value>, claims: Map<String, Value> },
    /// The request takes effect at once, its answer leaves later.
    Late(Duration),
    /// The request takes effect at once, its answer leaves when the test notifies.
    Held(Arc<Notify>),
    /// The request takes effect, but the connection breaks inside the answer's body.
    Lost,
}

#[derive(Default)]
pub(super) struct Switch {
    next: HashMap<Endpoint, VecDeque<Answer>>,
    asked: HashMap<Endpoint, u64>,
}

impl Switch {
    pub(super) fn queue(&mut self, endpoint: Endpoint, answer: Answer) {
        self.next.entry(endpoint).or_default().push_back(answer);
    }

    pub(super) fn asked(&self, endpoint: Endpoint) -> u64 {
        self.asked.get(&endpoint).copied().unwrap_or_default()
    }

    fn take(&mut self, endpoint: Endpoint) -> Option<Answer> {
        *self.asked.entry(endpoint).or_default() += 1;
        self.next.get_mut(&endpoint)?.pop_front()
    }
}

/// The part of an [`Answer`] that the endpoint itself has to apply.
#[derive(Default)]
pub(super) struct Twist {
    /// Error and description.
    pub(super) error: Option<(String, String)>,
    pub(super) id_token_header: Map<String, Value>,
    pub(super) id_token_claims: Map<String, Value>,
    members: Map<String, Value>,
}

impl Twist {
    /// The JSON object with the switched members.
    pub(super) fn json(&self, status: StatusCode, mut object: Value) -> HttpResponse {
        if let Value::Object(object) = &mut object {
            merge(object, &self.members);
        }
        HttpResponse::build(status).json(object)
    }
}

impl DevIdp {
    /// Runs an endpoint under its switch.
    pub(super) async fn answer(
        &self,
        endpoint: Endpoint,
        usual: impl FnOnce(&Twist) -> HttpResponse,
    ) -> HttpResponse {
        let mut twist = Twist::default();
        let next = self.switch().take(endpoint);
        match next {
            None => {}
            Some(Answer::Response { status, content_type, body }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
                return HttpResponse::build(status).content_type(content_type).body(body);
            }
            Some(Answer::Error { error, description }) => {
                if !matches!(endpoint, Endpoint::Authorize | Endpoint::SignIn) {
                    let object = json!({ "error": error, "error_description": description });
                    return HttpResponse::BadRequest().json(object);
                }
                twist.error = Some((error, description));
            }
            Some(Answer::Members(members)) => twist.members = members,
            Some(Answer::IdToken { header, claims }) => {
                twist.id_token_header = header;
                twist.id_token_claims = claims;
            }
            Some(Answer::Late(delay)) => {
                let response = usual(&twist);
                tokio::time::sleep(delay).await;
                return response;
            }
            Some(Answer::Held(release)) => {
                let response = usual(&twist);
                release.notified().await;
                return response;
            }
            Some(Answer::Lost) => {
                let head = usual(&twist).drop_body();
                let broken = stream::once(async { Err(std::io::Error::other("switched off")) });
                return head.set_body(SizedStream::new(1, broken)).map_into_boxed_body();
            }
        }
        usual(&twist)
    }
}
