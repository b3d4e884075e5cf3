//! Who asks: the session of a cookie, or the bearer of an access token (RFC 6750); the one place that tells them apart.
//!
//! A token comes in the `Authorization` header alone: in an address or a body it is never looked for. One that was brought decides alone,
//! whatever cookie came with it. A browser sends none by itself, so that there is nothing for the CSRF rule to protect.

use std::fmt::Write as _;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use secrecy::SecretString;

use super::problem::{Problem, Refused};
use super::{Door, behind, visitor};
use crate::domain::policy::Policy;
use crate::domain::{Principal, SessionKind};
use crate::error::Error;
use crate::flows::activity;
use crate::flows::bearer::{self, Bearer};
use crate::flows::recognise::Known;
use crate::proxy::routes::Route;

/// What the `Authorization` fields of a request bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought<'h> {
    /// No bearer token; other schemes are not ours to read.
    Nothing,
    One(&'h str),
    /// The scheme's name, and no token behind it.
    Malformed,
    /// More than one field: two parsers could choose differently.
    Doubled,
}

/// Reads the header, strictly (RFC 6750 2.1): one field, the scheme in any case, spaces, a `b64token`.
pub fn brought(headers: &HeaderMap) -> Brought<'_> {
    let mut fields = headers.get_all(AUTHORIZATION).map(actix_web::http::header::HeaderValue::as_bytes);
    let Some(first) = fields.next() else { return Brought::Nothing };
    let mut others = fields.peekable();
    if others.peek().is_some() {
        let any = is_bearer(first) || others.any(is_bearer);
        return if any { Brought::Doubled } else { Brought::Nothing };
    }
    if !is_bearer(first) {
        return Brought::Nothing;
    }
    let token = first.get(SCHEME.len()..).and_then(|rest| std::str::from_utf8(rest).ok());
    match token.map(|token| token.trim_matches(' ')) {
        Some(token) if is_b64token(token) => Brought::One(token),
        _ => Brought::Malformed,
    }
}

const SCHEME: &str = "bearer";

/// The scheme's name ends with the field or at a space; after anything else it is another scheme.
fn is_bearer(field: &[u8]) -> bool {
    let named = field.get(..SCHEME.len()).is_some_and(|name| name.eq_ignore_ascii_case(SCHEME.as_bytes()));
    named && field.get(SCHEME.len()).is_none_or(|next| !next.is_ascii_graphic() || *next == b',')
}

fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

/// Who asks.
pub enum Caller {
    Nobody,
    /// By a session's cookie.
    Guest(Arc<Known>),
    /// By an access token, which need not belong to a session.
    Bearer(Box<Bearer>, Box<Principal>),
}

impl Caller {
    #[must_use]
    pub fn who(&self) -> Option<&Principal> {
        match self {
            Self::Nobody => None,
            Self::Guest(known) => Some(&known.principal),
            Self::Bearer(_, principal) => Some(principal),
        }
    }

    #[must_use]
    pub fn bearer(&self) -> Option<&Bearer> {
        if let Self::Bearer(bearer, _) = self { Some(bearer) } else { None }
    }

    /// Whether a browser lends its cookie to the request, which another site may have made it send.
    #[must_use]
    pub fn came_by_cookie(&self) -> bool {
        matches!(self, Self::Guest(_))
    }

    /// Notes that the session is in use. What a program does keeps no browser's session alive.
    pub fn note_activity(&self, door: &Door, now_ms: i64) {
        match self {
            Self::Guest(known) => activity::note_known(&door.app, known, now_ms),
            Self::Bearer(bearer, _) if bearer.guest.session.kind == SessionKind::Api => {
                activity::note(&door.app, &bearer.guest.session);
            }
            Self::Nobody | Self::Bearer(..) => {}
        }
    }
}

/// Identifies the caller of a route; proxy and forward-auth both ask here. On a public route what does not count is simply nobody.
///
/// # Errors
/// What a caller is told whose token does not count, or who cannot be known now.
pub async fn caller(request: &HttpRequest, door: &Door, route: &Route) -> Result<Caller, Box<Problem>> {
    match by_token(request, door).await {
        Ok(Some(bearer)) => {
            let principal = Principal::of(&bearer.guest.user, &bearer.guest.session);
            Ok(Caller::Bearer(bearer, Box::new(principal)))
        }
        Err(_) if route.policy.public => Ok(Caller::Nobody),
        Err(refused) => Err(refused),
        Ok(None) => match behind::known(request, door, route).await {
            Ok(known) => Ok(known.map_or(Caller::Nobody, Caller::Guest)),
            Err(refused) => Err(Box::new(refused.problem())),
        },
    }
}

/// The bearer of a token, where one was brought and any provider's tokens are taken.
///
/// # Errors
/// What is said of a token that does not count (RFC 6750 3.1).
pub async fn by_token(request: &HttpRequest, door: &Door) -> Result<Option<Box<Bearer>>, Box<Problem>> {
    if !request.headers().contains_key(AUTHORIZATION) || !bearer::is_on(&door.app.setup()) {
        return Ok(None);
    }
    let refused = |error| {
        Box::new(match error {
            Error::NotAllowed => forbidden(),
            error => Refused(error).problem(),
        })
    };
    match brought(request.headers()) {
        Brought::Nothing => Ok(None),
        Brought::One(token) => {
            let token = SecretString::from(token);
            let identified = Box::pin(bearer::identify(&door.app, &token, &visitor(request))).await;
            identified.map(|bearer| Some(Box::new(bearer))).map_err(refused)
        }
        Brought::Malformed => Err(refused(Error::InvalidToken("token_malformed"))),
        Brought::Doubled => {
            let problem = Problem::of(&Error::InvalidRequest("Authorization appears twice."));
            Err(Box::new(problem.challenged("error=\"invalid_request\"".to_owned())))
        }
    }
}

/// 403 for a token that is good and not enough (RFC 6750 3.1).
pub fn forbidden() -> Problem {
    Problem::of(&Error::NotAllowed).challenged("error=\"insufficient_scope\"".to_owned())
}

/// 401 for a token whose sign-in is too weak or too long ago (RFC 9470 3).
pub fn step_up(policy: &Policy) -> Problem {
    let mut challenge = "error=\"insufficient_user_authentication\"".to_owned();
    // A quoted string holds neither of these as it stands; such a class has no name here.
    if let Some(acr) = policy.acr.as_ref().filter(|acr| !acr.contains(['"', '\\'])) {
        // Writing to a String cannot fail.
        let _ = write!(challenge, ", acr_values=\"{acr}\"");
    }
    if let Some(max_age_ms) = policy.max_age_ms {
        let _ = write!(challenge, ", max_age=\"{}\"", max_age_ms.div_euclid(1000));
    }
    Problem::of(&Error::NotSignedIn).challenged(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn of(fields: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(field).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_read_from_one_whole_field_alone() {
        for (field, found) in [
            ("Bearer abc", Brought::One("abc")),
            ("bEARER   a.b-c_d~e+f/g==", Brought::One("a.b-c_d~e+f/g==")),
            ("Bearer", Brought::Malformed),
            ("Bearer ", Brought::Malformed),
            ("Bearer ==", Brought::Malformed),
            ("Bearer a b", Brought::Malformed),
            ("Bearer a,Bearer b", Brought::Malformed),
            ("Bearer, a", Brought::Malformed),
            ("Bearer \"a\"", Brought::Malformed),
            ("Bearer a=b", Brought::Malformed),
            ("Bearer\ta", Brought::Malformed),
            ("Bearer a\u{e9}", Brought::Malformed),
            ("Bearers a", Brought::Nothing),
            ("Bearer=a", Brought::Nothing),
            ("DPoP a", Brought::Nothing),
            ("Basic YTpi", Brought::Nothing),
            ("", Brought::Nothing),
        ] {
            assert_eq!(brought(&of(&[field.as_bytes()])), found, "{field:?}");
        }
        assert_eq!(brought(&of(&[])), Brought::Nothing);
        assert_eq!(brought(&of(&[b"Basic a", b"Basic b"])), Brought::Nothing);
        assert_eq!(brought(&of(&[b"Basic a", b"Bearer b"])), Brought::Doubled);
        assert_eq!(brought(&of(&[b"Bearer b", b"Bearer b"])), Brought::Doubled);
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_field_makes_the_reader_panic_and_only_a_b64token_is_read(
            scheme in "[bB]earer|BEARER|[A-Za-z]{0,8}",
            rest in proptest::collection::vec(0x20_u8..=0xff, 0..40),
        ) {
            let mut field = scheme.into_bytes();
            field.extend(rest.into_iter().filter(|b| *b != 0x7f));
            let headers = of(&[&field]);
            if let Brought::One(token) = brought(&headers) {
                proptest::prop_assert!(field.len() > token.len() + SCHEME.len());
                proptest::prop_assert!(token.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'"'));
                proptest::prop_assert!(field.to_ascii_lowercase().starts_with(b"bearer "));
            }
        }

        #[test]
        fn every_b64token_is_read_as_it_stands(token in "[A-Za-z0-9._~+/-]{1,60}={0,3}", spaces in " {1,4}") {
            let field = format!("Bearer{spaces}{token}");
            let headers = of(&[field.as_bytes()]);
            proptest::prop_assert_eq!(brought(&headers), Brought::One(token.as_str()));
        }
    }
}
