//! Request parameters as OAuth wants them: each at most once, empty ones as absent.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::http::header;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded;

/// Room for an ID token as a hint; nothing else comes near.
const LONGEST_VALUE: usize = 4096;
const MOST_PARAMETERS: usize = 64;

/// The parameters of a query or a form body.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Fails with a sentence. Only `resource` may repeat (RFC 8707, section 2); its first value
    /// counts. Everything else at most once (RFC 6749, section 3.1).
    pub(super) fn parse(encoded: &[u8]) -> Result<Self, &'static str> {
        let mut params = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(encoded) {
            if value.len() > LONGEST_VALUE || params.len() >= MOST_PARAMETERS {
                return Err("a parameter is too long, or there are too many of them");
            }
            if params.contains_key(name.as_ref()) {
                if name == "resource" {
                    continue;
                }
                return Err("a parameter is given more than once");
            }
            params.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self(params))
    }

    /// Like [`Self::parse`], of a body that says it is a form.
    pub(super) fn of_form(request: &HttpRequest, body: &[u8]) -> Result<Self, &'static str> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err("the body must be application/x-www-form-urlencoded");
        }
        Self::parse(body)
    }

    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.find(name).map(str::to_owned)
    }
}

/// Which client calls the token, revocation or PAR endpoint. Every client id is accepted and no
/// secret is checked: there are no registered clients, whoever reaches this issuer sits at the same
/// machine, and a secret that must be configured twice would only cost a newcomer the first minute.
/// What does hold is that a code or token stays with the client id that got it.
pub(super) fn client_id(request: &HttpRequest, params: &Params) -> Option<String> {
    let posted = params.find("client_id");
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return posted.filter(|id| client_id_fits(id)).map(str::to_owned);
    };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (encoded, _) = decoded.split_once(':')?;
    // Id and secret are form-encoded before base64 (RFC 6749, section 2.3.1).
    let (id, _) = form_urlencoded::parse(encoded.as_bytes()).next()?;
    let agrees = posted.is_none_or(|posted| posted == id);
    (agrees && client_id_fits(&id)).then(|| id.into_owned())
}

pub(super) fn client_id_fits(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_repeated_parameter_is_refused_and_an_empty_one_is_absent() {
        assert!(Params::parse(b"state=1&state=2").is_err());
        let params = Params::parse(b"resource=a&resource=b&state=").unwrap();
        assert_eq!(params.find("resource"), Some("a"));
        assert_eq!(params.find("state"), None);
    }

    #[test]
    fn the_client_is_read_from_basic_or_from_the_body_and_both_must_agree() {
        let header = format!("Basic {}", STANDARD.encode("my%3Aapp:secret"));
        let basic = TestRequest::default().insert_header((header::AUTHORIZATION, header)).to_http_request();
        let plain = TestRequest::default().to_http_request();
        let params = |text: &str| Params::parse(text.as_bytes()).unwrap();
        assert_eq!(client_id(&basic, &params("")).as_deref(), Some("my:app"));
        assert_eq!(client_id(&basic, &params("client_id=other")), None);
        assert_eq!(client_id(&plain, &params("client_id=app")).as_deref(), Some("app"));
        assert_eq!(client_id(&plain, &params("")), None);
    }
}
