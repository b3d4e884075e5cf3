//! An authorization request, from raw parameters to one that may be answered.

use url::Url;

use super::address::loopback_url;
use super::params::{Params, client_id_fits};

/// What the form carries on; how to ask (`prompt`, `max_age`) has then served its purpose.
const CARRIED: [&str; 10] = [
    "client_id",
    "redirect_uri",
    "response_type",
    "response_mode",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "acr_values",
];

/// Where an answer may go: known before anything else of the request is trusted.
#[derive(Debug, Clone)]
pub(super) struct WayBack {
    pub(super) client_id: String,
    pub(super) redirect: Url,
    pub(super) state: Option<String>,
    pub(super) form_post: bool,
}

#[derive(Debug)]
pub(super) struct AuthorizationRequest {
    pub(super) back: WayBack,
    /// As the client spelled it, for the comparison at the token endpoint.
    pub(super) redirect_uri: String,
    pub(super) scope: String,
    pub(super) nonce: Option<String>,
    pub(super) challenge: String,
    pub(super) acr: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) login_hint: Option<String>,
    pub(super) prompt: Prompt,
    /// Seconds.
    pub(super) max_age: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prompt {
    /// No page may be shown.
    Never,
    /// A page must be shown, whoever is signed in.
    Always,
    /// A page only where nobody is signed in.
    IfNeeded,
}

/// Why a request is not answered with a code.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nobody may be sent anywhere; the sentence is shown here.
    Here(&'static str),
    /// The client hears of it: error code and description.
    Back(Box<WayBack>, &'static str, &'static str),
}

impl WayBack {
    fn parse(params: &Params) -> Result<Self, &'static str> {
        let client_id = params.find("client_id").filter(|id| client_id_fits(id));
        let client_id = client_id.ok_or("The parameter client_id is missing or odd.")?;
        let redirect = params.find("redirect_uri").and_then(loopback_url).ok_or(
            "The parameter redirect_uri must be an http or https URL of a loopback host, such as \
             http://localhost:8080/auth/callback/dev. The development IdP sends nobody elsewhere.",
        )?;
        Ok(Self {
            client_id: client_id.to_owned(),
            redirect,
            state: params.owned("state"),
            form_post: params.find("response_mode") == Some("form_post"),
        })
    }
}

impl AuthorizationRequest {
    /// RFC 6749, section 4.1.1, with S256 required (RFC 9700, section 2.1.1).
    pub(super) fn parse(params: &Params) -> Result<Self, Refusal> {
        let back = WayBack::parse(params).map_err(Refusal::Here)?;
        match Self::fault(params) {
            Some((error, description)) => Err(Refusal::Back(Box::new(back), error, description)),
            None => Ok(Self {
                back,
                redirect_uri: params.owned("redirect_uri").unwrap_or_default(),
                scope: params.owned("scope").unwrap_or_default(),
                nonce: params.owned("nonce"),
                challenge: params.owned("code_challenge").unwrap_or_default(),
                // The first one is the one the client likes best.
                acr: params
                    .find("acr_values")
                    .and_then(|values| values.split_ascii_whitespace().next())
                    .map(str::to_owned),
                resource: params.owned("resource"),
                login_hint: params.owned("login_hint"),
                prompt: prompt(params).unwrap_or(Prompt::IfNeeded),
                max_age: params.find("max_age").and_then(|seconds| seconds.parse().ok()),
            }),
        }
    }

    fn fault(params: &Params) -> Option<(&'static str, &'static str)> {
        let challenge = params.find("code_challenge").unwrap_or_default();
        let seconds = params.find("max_age").map(str::parse::<i64>);
        if params.find("request").is_some() {
            Some(("request_not_supported", "request objects are not supported"))
        } else if params.find("response_type") != Some("code") {
            Some(("unsupported_response_type", "response_type must be code"))
        } else if !matches!(params.find("response_mode"), None | Some("query" | "form_post")) {
            Some(("invalid_request", "response_mode must be query or form_post"))
        } else if params.find("code_challenge_method") != Some("S256")
            || challenge.len() != 43
            || !challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            Some(("invalid_request", "PKCE with code_challenge_method=S256 is required"))
        } else if prompt(params).is_none() {
            Some(("invalid_request", "prompt=none stands alone"))
        } else if seconds.is_some_and(|seconds| !seconds.is_ok_and(|seconds| seconds >= 0)) {
            Some(("invalid_request", "max_age must be a number of seconds"))
        } else {
            None
        }
    }

    /// The hidden fields of the sign-in form.
    pub(super) fn fields(params: &Params) -> Vec<(&'static str, &str)> {
        let names = CARRIED.into_iter().chain(["resource"]);
        names.filter_map(|name| Some((name, params.find(name)?))).collect()
    }
}

/// OpenID Connect Core 1.0, section 3.1.2.1, and Initiating User Registration 1.0 (`create`).
/// There is no consent to ask for, so `consent` alone asks nothing. `None` when `none` has company.
fn prompt(params: &Params) -> Option<Prompt> {
    let words = || params.find("prompt").unwrap_or_default().split_ascii_whitespace();
    if words().any(|word| word == "none") {
        return (words().count() == 1).then_some(Prompt::Never);
    }
    let asks = words().any(|word| matches!(word, "login" | "select_account" | "create"));
    let signs_up = params.find("screen") == Some("signup");
    Some(if asks || signs_up { Prompt::Always } else { Prompt::IfNeeded })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "response_type=code&client_id=app&redirect_uri=http://localhost:1/cb\
        &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";

    fn parse(more: &str) -> Result<AuthorizationRequest, Refusal> {
        AuthorizationRequest::parse(&Params::parse(format!("{GOOD}{more}").as_bytes()).unwrap())
    }

    fn error_of(text: &str) -> &'static str {
        match AuthorizationRequest::parse(&Params::parse(text.as_bytes()).unwrap()) {
            Err(Refusal::Back(_, error, _)) => error,
            other => panic!("{text} should be refused on the way back, not {other:?}"),
        }
    }

    #[test]
    fn prompt_says_whether_a_page_may_must_or_must_not_be_shown() {
        assert_eq!(parse("").unwrap().prompt, Prompt::IfNeeded);
        assert_eq!(parse("&prompt=consent").unwrap().prompt, Prompt::IfNeeded);
        assert_eq!(parse("&prompt=none").unwrap().prompt, Prompt::Never);
        for more in ["&prompt=login", "&prompt=consent%20select_account", "&screen=signup"] {
            assert_eq!(parse(more).unwrap().prompt, Prompt::Always, "{more}");
        }
        assert!(parse("&prompt=none%20login").is_err());
    }

    #[test]
    fn faults_of_a_request_go_back_to_the_client_only_when_the_way_back_is_good() {
        assert_eq!(error_of(&GOOD.replace("S256", "plain")), "invalid_request");
        assert_eq!(error_of(&GOOD.replace("=code&", "=token&")), "unsupported_response_type");
        assert_eq!(error_of(&format!("{GOOD}&max_age=-1")), "invalid_request");
        let hostile = GOOD.replace("localhost:1", "evil.test").replace("S256", "plain");
        let hostile = AuthorizationRequest::parse(&Params::parse(hostile.as_bytes()).unwrap());
        assert!(matches!(hostile, Err(Refusal::Here(_))));
    }

    #[test]
    fn the_preferred_acr_is_kept() {
        assert_eq!(parse("&acr_values=2%201").unwrap().acr.as_deref(), Some("2"));
    }
}
