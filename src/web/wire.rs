//! The JSON shapes of users and sessions: an allow-list of fields, camelCase, times in RFC 3339 with milliseconds. And the one reader of JSON.

use actix_web::guard::{Guard, fn_guard};
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpMessage as _, HttpRequest};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::domain::{Session, Tokens, User};
use crate::error::Error;

const MOMENT: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A request whose body calls itself JSON.
pub fn in_json() -> impl Guard {
    fn_guard(|asked| {
        let kind = asked.head().headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}

/// A moment for programs.
pub fn time(ms: i64) -> String {
    at(ms).and_then(|moment| moment.format(MOMENT).ok()).unwrap_or_default()
}

/// A moment for people.
pub fn readable(ms: i64) -> String {
    let format = format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute] UTC");
    at(ms).and_then(|moment| moment.format(format).ok()).unwrap_or_default()
}

fn at(ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

pub fn user(user: &User) -> Value {
    let profile = &user.profile;
    json!({
        "id": user.id,
        "provider": user.provider,
        "email": profile.email.as_ref().map(super::super::domain::email::Email::as_str),
        "emailVerified": profile.email_verified,
        "username": profile.username,
        "firstName": profile.first_name,
        "lastName": profile.last_name,
        "displayName": profile.display_name,
        "pictureUrl": profile.picture_url,
        "usertag": user.usertag,
        "locale": profile.locale,
        "tenantId": profile.tenant_id,
        "roles": user.effective_roles(),
        "groups": user.groups,
    })
}

pub fn session(session: &Session, idle_ms: i64) -> Value {
    json!({
        "id": session.id,
        "provider": session.provider,
        "createdAt": time(session.created_at_ms),
        "lastActiveAt": time(session.last_active_at_ms),
        "idleExpiresAt": time(session.idle_expires_at_ms(idle_ms)),
        "expiresAt": time(session.expires_at_ms),
        "authTime": session.auth_time_ms.map(time),
        "acr": session.acr,
    })
}

/// An API client's own tokens, in the names that providers use (RFC 6749 5.1). Lives are counted from `now_ms`: the provider's own
/// numbers were true when it answered.
pub fn tokens(tokens: &Tokens, now_ms: i64) -> Value {
    let text = |token: &Option<SecretString>| token.as_ref().map(|token| token.expose_secret().to_owned());
    let left = |at_ms: Option<i64>| at_ms.map(|at_ms| at_ms.saturating_sub(now_ms).div_euclid(1000).max(0));
    json!({
        "access_token": text(&tokens.access),
        "refresh_token": text(&tokens.refresh),
        "id_token": text(&tokens.id),
        "token_type": "Bearer",
        "expires_in": left(tokens.access_expires_at_ms),
        "refresh_expires_in": left(tokens.refresh_expires_at_ms),
        "scope": tokens.scope,
    })
}

/// A body that calls itself JSON and is this. A form, which any site can make a browser send, is refused (product rule on CSRF).
pub fn read_json<T: DeserializeOwned>(request: &HttpRequest, body: &[u8]) -> Result<T, Error> {
    if !request.content_type().eq_ignore_ascii_case("application/json") {
        return Err(Error::InvalidRequest("Send JSON, with Content-Type: application/json."));
    }
    serde_json::from_slice(body).map_err(|_| {
        Error::InvalidRequest("The JSON is malformed, or a member is missing or of another type.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lives_of_tokens_are_counted_now() {
        let held = Tokens {
            access: Some("a".into()),
            refresh: Some("r".into()),
            id: None,
            access_expires_at_ms: Some(61_999),
            refresh_expires_at_ms: Some(500),
            scope: Some("openid".to_owned()),
        };
        let shown = json!({
            "access_token": "a", "refresh_token": "r", "id_token": null, "token_type": "Bearer",
            "expires_in": 60, "refresh_expires_in": 0, "scope": "openid",
        });
        assert_eq!(tokens(&held, 1_000), shown);
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_000_000_123), "2026-11-18T11:06:40.123Z");
        assert_eq!(time(i64::MAX), "");
        assert_eq!(readable(0), "1 Jan 1970, 00:00 UTC");
    }
}
