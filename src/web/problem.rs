//! The one table from [`Error`] to what the world sees: status, code, title and words (RFC 9457). Nothing leaves in another shape.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::domain::{Denial, FieldFault};
use crate::error::Error;

/// An error as it leaves the house. The request id joins in the outer layer, where pages are made of it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub title: &'static str,
    pub detail: &'static str,
    /// Which fields are at fault, where fields are.
    pub errors: Vec<FieldFault>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
    /// What `WWW-Authenticate: Bearer` says besides its name (RFC 6750 3).
    pub challenge: Option<String>,
}

const fn of(status: u16, code: &'static str, title: &'static str, detail: &'static str) -> Problem {
    let retry_after_s = if status == 503 { Some(5) } else { None };
    Problem { status, code, title, detail, errors: Vec::new(), retry_after_s, challenge: None }
}

const INVALID_TOKEN: &str = "error=\"invalid_token\"";

impl Problem {
    /// With more to say to who brought a bearer token.
    #[must_use]
    pub fn challenged(mut self, challenge: String) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The public contract.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one table, to be read as a table")]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidRequest(detail) => {
                of(400, "invalid_request", "This request cannot be understood", detail)
            }
            Error::LoginExpired => of(
                400,
                "login_expired",
                "This sign-in is over",
                "The sign-in was already used, took too long, or was begun in another browser. Nothing is lost: sign in again.",
            ),
            Error::LoginFailed(_) => of(
                400,
                "login_failed",
                "Signing in did not work",
                "The answer of the sign-in service could not be accepted. Sign in again; if it keeps happening, give the request id to whoever runs this site.",
            ),
            Error::NotSignedIn => of(401, "not_signed_in", "You are not signed in", "Sign in to see this."),
            Error::InvalidToken(_) => of(
                401,
                "not_signed_in",
                "This token is not accepted",
                "It is malformed, expired or meant for something else. Get a new access token and try again.",
            )
            .challenged(INVALID_TOKEN.to_owned()),
            Error::TokenRevoked => of(
                401,
                "session_ended",
                "This token is over",
                "The session that it belongs to has ended, or its user may not be here. Sign in again.",
            )
            .challenged(INVALID_TOKEN.to_owned()),
            Error::InvalidCredentials => of(
                401,
                "invalid_credentials",
                "That did not match",
                "The name and the password do not belong together. Check both and try again.",
            ),
            Error::SessionEnded => of(
                401,
                "session_ended",
                "This session is over",
                "It ended, or never was, or the token is not the one that belongs to it. Sign in again.",
            ),
            Error::RefreshTokenReused => of(
                401,
                "refresh_token_reused",
                "This refresh token was used before",
                "It was replaced some time ago, so somebody else may hold a copy. The session was ended to be safe; sign in again.",
            ),
            Error::InvalidFields(faults) => Self {
                errors: faults.clone(),
                ..of(
                    422,
                    "invalid_fields",
                    "Some fields need another look",
                    "Nothing was saved. Each fault is named beside its field.",
                )
            },
            Error::PasswordPolicy(faults) => Self {
                errors: faults.clone(),
                ..of(
                    422,
                    "password_policy",
                    "This password cannot be used",
                    "The sign-in service asks for another kind of password. Nothing was saved.",
                )
            },
            Error::Taken => of(
                409,
                "taken",
                "That name or address is taken",
                "There is an account with this user name or e-mail address already. Sign in with it, or choose another.",
            ),
            Error::TooMany { retry_after_s } => Self {
                retry_after_s: Some(*retry_after_s),
                ..of(429, "too_many", "That was too often", "Wait a little and try again; nothing is lost.")
            },
            Error::Overloaded(_) => of(
                503,
                "overloaded",
                "This door is crowded",
                "More is going on than can be served well. Try again in a few seconds.",
            ),
            Error::NotAllowed => of(
                403,
                "not_allowed",
                "This is not open to you",
                "You are signed in, and your account may not see this. Ask whoever runs this site if you need it.",
            ),
            Error::Csrf => of(
                403,
                "csrf",
                "This request came from elsewhere",
                "Requests that change something must come from this site itself. Go back to it and try again there.",
            ),
            Error::Denied(Denial::AccountDisabled) => of(
                403,
                "account_disabled",
                "This account is disabled",
                "Your organisation's sign-in service has switched this account off. Ask its administrators.",
            ),
            Error::Denied(Denial::AccountSuspended) => of(
                403,
                "account_suspended",
                "This account is suspended here",
                "Whoever runs this site has suspended the account. Ask them.",
            ),
            Error::Denied(Denial::NoAppAccess) => of(
                403,
                "no_app_access",
                "This account has no access here",
                "You signed in well, and this application is not open to your account. Ask whoever runs it.",
            ),
            Error::Denied(Denial::AccountActionRequired) => of(
                403,
                "account_action_required",
                "Your account needs something from you first",
                "The sign-in service asks for a step that only its own pages can show. Sign in with the browser once.",
            ),
            Error::Denied(Denial::EmailVerificationRequired) => of(
                403,
                "email_verification_required",
                "Confirm your e-mail address first",
                "The sign-in service has sent you a message; follow the link in it and sign in again.",
            ),
            Error::Denied(Denial::MfaRequired) => of(
                403,
                "mfa_required",
                "A second step is needed",
                "This account asks for a second factor, which only the sign-in service's own pages can take. Sign in with the browser.",
            ),
            Error::Denied(Denial::OrganizationSelectionRequired) => of(
                403,
                "organization_selection_required",
                "Choose an organisation first",
                "Your account belongs to several organisations. Sign in with the browser and choose one.",
            ),
            Error::LoginCancelled => of(
                403,
                "login_cancelled",
                "The sign-in was cancelled",
                "You turned back at the sign-in service, and nothing has happened. Sign in whenever you like.",
            ),
            Error::NotFound => of(
                404,
                "not_found",
                "There is nothing here",
                "The address may be mistyped, or what was here is gone.",
            ),
            Error::NotOffered => {
                of(404, "not_offered", "This is not offered here", "This door does not offer that way in.")
            }
            Error::NoRoute => {
                of(404, "no_route", "There is nothing here", "No page of this site has that address.")
            }
            Error::MethodNotAllowed => of(
                405,
                "method_not_allowed",
                "That cannot be done here",
                "This address exists and does not take that kind of request.",
            ),
            Error::IdentityConflict => of(
                409,
                "identity_conflict",
                "This account cannot be told from another",
                "Another account already has the id that yours would get. Give the request id to whoever runs this site.",
            ),
            Error::TooLarge => {
                of(413, "too_large", "That is too much", "What was sent is larger than this address takes.")
            }
            Error::TooSlow => of(
                408,
                "invalid_request",
                "The request did not arrive in time",
                "The connection may be slow. Try again.",
            ),
            Error::AddressTooLong => {
                of(414, "too_large", "That address is too long", "Shorten the address and try again.")
            }
            Error::HeadTooLarge => of(
                431,
                "too_large",
                "The request head is too large",
                "Your browser sent more headers or cookies than fit. Clearing this site's cookies usually mends it.",
            ),
            Error::WrongHost => of(
                421,
                "wrong_host",
                "This is another site's door",
                "The request names a host that this door does not stand for.",
            ),
            Error::Internal(_) => of(
                500,
                "internal",
                "Something went wrong here",
                "It is not your fault. Try again; if it keeps happening, give the request id to whoever runs this site.",
            ),
            Error::ProviderRefused(_) => of(
                502,
                "provider_error",
                "The sign-in service gave no usable answer",
                "Whoever runs this site has to look at it. Give them the request id.",
            ),
            Error::UpstreamDown(_) => of(
                502,
                "upstream_error",
                "The application does not answer",
                "You are at the right door, and the application behind it cannot be reached.",
            ),
            Error::UpstreamSlow => of(
                504,
                "upstream_timeout",
                "The application takes too long",
                "You are at the right door, and the application behind it did not answer in time. Try again.",
            ),
            Error::ProviderDown(_) => of(
                503,
                "provider_unavailable",
                "The sign-in service does not answer",
                "It is down or slow at the moment. Who is signed in stays signed in; try again shortly.",
            ),
            Error::DatabaseDown(_) | Error::Interrupted(_) => of(
                503,
                "database_unavailable",
                "This door is closed for a moment",
                "Its memory does not answer, and nobody is let in on a guess. Try again shortly.",
            ),
        }
    }

    /// A problem for a status that a library chose.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            404 => Self::of(&Error::NotFound),
            405 | 501 => Self::of(&Error::MethodNotAllowed),
            413 => Self::of(&Error::TooLarge),
            414 => Self::of(&Error::AddressTooLong),
            431 => Self::of(&Error::HeadTooLarge),
            503 => Self::of(&Error::DatabaseDown(String::new())),
            400..=499 => Self::of(&Error::InvalidRequest("The request is malformed.")),
            _ => Self::of(&Error::Internal(String::new())),
        }
    }

    /// The body for programs.
    #[must_use]
    pub fn json(&self, request_id: &str) -> String {
        json!({
            "type": format!("urn:doorward:problem:{}", self.code),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": request_id,
            "code": self.code,
            "errors": self.errors.iter().map(|fault| json!({ "field": fault.field, "code": fault.code, "detail": fault.detail })).collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// Headers that belong to the problem itself.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let challenge = match &self.challenge {
            Some(challenge) => HeaderValue::from_str(&format!("Bearer {challenge}")).ok(),
            None => (self.status == 401).then(|| HeaderValue::from_static("Bearer")),
        };
        let bearer = challenge.map(|challenge| (WWW_AUTHENTICATE, challenge));
        let later = self.retry_after_s.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)));
        bearer.into_iter().chain(later)
    }

    /// A bare answer that carries the problem to the outer layer.
    #[must_use]
    pub fn response(self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        for header in self.headers() {
            response.insert_header(header);
        }
        let mut response = response.insert_header((CONTENT_TYPE, "application/problem+json")).finish();
        response.extensions_mut().insert(self);
        response
    }
}

/// An [`Error`] on its way out of a handler.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Refused(#[from] pub Error);

impl Refused {
    /// What the visitor is spared, the operator needs: the one place where an error is logged.
    pub fn log(&self) {
        match &self.0 {
            Error::Internal(_) => tracing::error!(error = %self.0, "request failed"),
            Error::DatabaseDown(_)
            | Error::Interrupted(_)
            | Error::ProviderDown(_)
            | Error::ProviderRefused(_)
            | Error::UpstreamDown(_)
            | Error::UpstreamSlow => {
                tracing::warn!(error = %self.0, "request failed");
            }
            _ => tracing::debug!(error = %self.0, "request refused"),
        }
    }

    /// As it leaves the house; the operator hears of it now.
    #[must_use]
    pub fn problem(&self) -> Problem {
        self.log();
        Problem::of(&self.0)
    }
}

impl ResponseError for Refused {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(Problem::of(&self.0).status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.problem().response()
    }
}
