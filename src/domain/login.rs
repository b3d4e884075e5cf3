//! A login on its way: what was asked, what the browser carries meanwhile, and what comes back.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Random, ReturnTo, clock};

/// How the provider shall treat the person (OpenID Connect Core 3.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    Login,
    SelectAccount,
    Consent,
    Create,
    None,
}

impl Prompt {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "login" => Self::Login,
            "select_account" => Self::SelectAccount,
            "consent" => Self::Consent,
            "create" => Self::Create,
            "none" => Self::None,
            _ => return None,
        })
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::SelectAccount => "select_account",
            Self::Consent => "consent",
            Self::Create => "create",
            Self::None => "none",
        }
    }
}

/// What a visitor asked of `/auth/login`, already parsed.
#[derive(Debug, Clone, Default)]
pub struct LoginRequest {
    pub provider: Option<String>,
    pub return_to: Option<ReturnTo>,
    pub login_hint: Option<String>,
    pub prompt: Option<Prompt>,
    /// Seconds.
    pub max_age: Option<u64>,
    pub acr_values: Vec<String>,
    pub organization: Option<String>,
    pub signup: bool,
    pub issuer: Option<String>,
    /// Handle of the session that the browser has while it begins.
    pub previous: Option<String>,
    /// The provider itself asked for this second start; a third would be a loop.
    pub again: bool,
}

impl LoginRequest {
    /// Whether a signed-in person wants more than to be signed in.
    #[must_use]
    pub fn wants_a_new_login(&self) -> bool {
        self.prompt.is_some() || self.max_age.is_some() || !self.acr_values.is_empty() || self.signup
    }
}

/// One started login. It travels sealed in a cookie of its own, so that starting a login writes nothing to the database.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginAttempt {
    pub provider: String,
    pub issuer: String,
    pub client_id: String,
    pub redirect_uri: String,
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    pub return_to: ReturnTo,
    pub created_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr_values: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl std::fmt::Debug for LoginAttempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // State, nonce and verifier are secrets of the browser that holds the cookie.
        f.debug_struct("LoginAttempt").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// Where an attempt's provider sends the browser back to, and who it is there.
#[derive(Debug, Clone)]
pub struct Destination {
    pub provider: String,
    pub issuer: String,
    pub client_id: String,
    pub redirect_uri: String,
}

impl LoginAttempt {
    /// A new attempt with fresh `state`, `nonce` and PKCE verifier.
    pub fn begin(to: Destination, request: &LoginRequest, now_ms: i64, random: &dyn Random) -> Self {
        Self {
            provider: to.provider,
            issuer: to.issuer,
            client_id: to.client_id,
            redirect_uri: to.redirect_uri,
            state: clock::token_256(random),
            nonce: clock::token_256(random),
            verifier: clock::token_256(random),
            return_to: request.return_to.clone().unwrap_or_default(),
            created_at_ms: now_ms,
            prompt: request.prompt,
            max_age: request.max_age,
            acr_values: request.acr_values.clone(),
            previous: request.previous.clone(),
            again: request.again,
        }
    }

    /// The eight characters that tell this attempt's cookie from its neighbours', found again from the callback's `state`.
    #[must_use]
    pub fn tag(state: &str) -> String {
        use std::fmt::Write as _;
        Sha256::digest(state.as_bytes()).iter().take(4).fold(String::new(), |mut tag, byte| {
            // Writing to a String cannot fail.
            let _ = write!(tag, "{byte:02x}");
            tag
        })
    }

    /// What is recorded as used, so that the database never holds a live `state`.
    #[must_use]
    pub fn state_hash(&self) -> Vec<u8> {
        Sha256::digest(self.state.as_bytes()).to_vec()
    }

    /// Neither from the future nor older than the limit.
    #[must_use]
    pub fn is_fresh(&self, now_ms: i64, life_ms: i64) -> bool {
        const SKEW_MS: i64 = 60_000;
        self.created_at_ms <= now_ms.saturating_add(SKEW_MS)
            && now_ms < self.created_at_ms.saturating_add(life_ms)
    }
}

/// The provider's answer as the browser brought it; each value at most once.
#[derive(Clone, Default)]
pub struct Callback {
    pub code: Option<String>,
    pub state: Option<String>,
    /// RFC 9207.
    pub issuer: Option<String>,
    pub error: Option<String>,
}

impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callback").field("error", &self.error).finish_non_exhaustive()
    }
}

/// Why a callback's parameters cannot be read as one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackFault {
    /// A protocol parameter appears twice (RFC 6749 3.1).
    Repeated,
    /// A token came through the browser (RFC 9700 2.1.2).
    TokenInFront,
    /// Neither or both of `code` and `error`, an empty value, or one that is too long or not printable.
    Malformed,
}

impl Callback {
    /// Reads decoded pairs of a callback's query or form.
    ///
    /// # Errors
    /// The first fault found; nothing of a faulty callback is used.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>,
    ) -> Result<Self, CallbackFault> {
        let mut callback = Self::default();
        for (name, value) in pairs {
            let slot = match name.as_ref() {
                "code" => &mut callback.code,
                "state" => &mut callback.state,
                "iss" => &mut callback.issuer,
                "error" => &mut callback.error,
                "access_token" | "id_token" | "token_type" => return Err(CallbackFault::TokenInFront),
                // Providers add their own (session_state, scope, kc_action …); none is ours to read.
                _ => continue,
            };
            if slot.is_some() {
                return Err(CallbackFault::Repeated);
            }
            *slot = Some(value.into_owned());
        }
        callback.check()
    }

    fn check(self) -> Result<Self, CallbackFault> {
        let printable = |value: &Option<String>, limit: usize| {
            value.as_ref().is_none_or(|v| {
                !v.is_empty() && v.len() <= limit && v.bytes().all(|b| (0x20..0x7f).contains(&b))
            })
        };
        let one_answer = self.code.is_some() != self.error.is_some();
        let sound = printable(&self.code, 2048)
            && printable(&self.state, 512)
            && printable(&self.error, 256)
            && printable(&self.issuer, 2048);
        if one_answer && sound && self.state.is_some() { Ok(self) } else { Err(CallbackFault::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Callback, CallbackFault> {
        Callback::parse(url::form_urlencoded::parse(query.as_bytes()))
    }

    #[test]
    fn ar_08_a_repeated_protocol_parameter_is_refused() {
        for query in [
            "code=a&code=b&state=s",
            "code=a&state=s&state=s",
            "code=a&state=s&iss=x&iss=x",
            "error=a&error=a&state=s",
            "code=a&state=s&%63ode=b",
        ] {
            assert_eq!(parse(query).unwrap_err(), CallbackFault::Repeated, "{query}");
        }
    }

    #[test]
    fn ar_10_only_one_whole_answer_is_read() {
        for query in [
            "",
            "state=s",
            "code=a",
            "code=a&error=b&state=s",
            "code=&state=s",
            "code=a&state=",
            "error=&state=s",
            "code=a%00&state=s",
            "code=%0d%0a&state=s",
            "iss=&code=a&state=s",
        ] {
            assert_eq!(parse(query).unwrap_err(), CallbackFault::Malformed, "{query}");
        }
        assert!(parse("code=a&state=s&session_state=x&kc_action=y").is_ok());
    }

    #[test]
    fn ar_01_tokens_through_the_browser_are_refused() {
        assert_eq!(parse("code=a&state=s&id_token=x").unwrap_err(), CallbackFault::TokenInFront);
        assert_eq!(parse("code=a&state=s&access_token=x").unwrap_err(), CallbackFault::TokenInFront);
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_query_makes_the_callback_parser_panic(query in "\\PC{0,300}") {
            let _ = parse(&query);
        }

        #[test]
        fn sc_03_no_bytes_make_the_callback_parser_panic(query in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = Callback::parse(url::form_urlencoded::parse(&query));
        }
    }
}
