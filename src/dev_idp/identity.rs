//! The quiet endpoints: discovery, keys, userinfo and logout.

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::DevIdp;
use super::address::loopback_url;
use super::pages;
use super::params::Params;
use super::switch::Endpoint;

/// OpenID Connect Discovery 1.0, section 3.
pub(super) async fn discovery(idp: web::Data<DevIdp>) -> HttpResponse {
    idp.answer(Endpoint::Discovery, |twist| twist.json(StatusCode::OK, idp.metadata())).await
}

pub(super) async fn jwks(idp: web::Data<DevIdp>) -> HttpResponse {
    idp.answer(Endpoint::Jwks, |twist| twist.json(StatusCode::OK, idp.key_set())).await
}

/// OpenID Connect Core 1.0, section 5.3.
pub(super) async fn userinfo(idp: web::Data<DevIdp>, request: HttpRequest) -> HttpResponse {
    idp.answer(Endpoint::Userinfo, |twist| {
        let now_ms = idp.now_ms();
        let claims = bearer(&request).and_then(|token| {
            let memory = idp.memory();
            let (grant, scope) = memory.grant_of_access_token(token, now_ms)?;
            Some(grant.person.claims(scope))
        });
        match claims {
            Some(claims) => twist.json(StatusCode::OK, Value::Object(claims)),
            None => HttpResponse::Unauthorized()
                .insert_header((WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""))
                .json(json!({ "error": "invalid_token" })),
        }
    })
    .await
}

/// OpenID Connect RP-Initiated Logout 1.0, section 2, by GET or POST.
pub(super) async fn logout(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::Logout, |_| {
        let params = if body.is_empty() {
            Params::parse(request.query_string().as_bytes())
        } else {
            Params::of_form(&request, &body)
        };
        match params {
            Ok(params) => idp.end_session(&request, &params),
            Err(text) => pages::bad_request(idp.path(), text),
        }
    })
    .await
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl DevIdp {
    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.issuer());
        let authentication = ["none", "client_secret_basic", "client_secret_post"];
        json!({
            "issuer": self.issuer(),
            "authorization_endpoint": at("authorize"),
            "token_endpoint": at("token"),
            "jwks_uri": at("jwks.json"),
            "userinfo_endpoint": at("userinfo"),
            "end_session_endpoint": at("logout"),
            "revocation_endpoint": at("revoke"),
            "pushed_authorization_request_endpoint": at("par"),
            "require_pushed_authorization_requests": false,
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "grant_types_supported": ["authorization_code", "refresh_token", "password"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "scopes_supported": ["openid", "email", "profile", "offline_access"],
            "claims_supported": [
                "iss", "sub", "aud", "azp", "exp", "iat", "jti", "auth_time", "nonce", "acr", "amr",
                "sid", "at_hash", "name", "given_name", "family_name", "preferred_username",
                "email", "email_verified", "locale", "roles", "groups", "org_id",
            ],
            "claims_parameter_supported": false,
            "request_parameter_supported": false,
            "request_uri_parameter_supported": false,
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": authentication,
            "revocation_endpoint_auth_methods_supported": authentication,
            "authorization_response_iss_parameter_supported": true,
            "prompt_values_supported": ["none", "login", "consent", "select_account", "create"],
            "ui_locales_supported": ["en"],
            "backchannel_logout_supported": false,
            "backchannel_logout_session_supported": false,
            "frontchannel_logout_supported": false,
        })
    }

    /// Ends the hinted sign-in and this browser's own, at once and without a question: one person
    /// at one machine asked for it. A hint that does not verify is passed over, because after a
    /// restart every client holds ID tokens of a key that is gone, and still wants to sign out.
    fn end_session(&self, request: &HttpRequest, params: &Params) -> HttpResponse {
        let hinted = params.find("id_token_hint").and_then(|hint| self.claims_of(hint));
        let hinted = hinted.as_ref().and_then(|claims| claims.get("sid")).and_then(Value::as_str);
        let own = self.session_of(request).map(|session| session.sid);
        for sid in hinted.into_iter().chain(own.as_deref()) {
            self.memory().end_sid(sid);
        }
        let mut response = match params.find("post_logout_redirect_uri").map(loopback_url) {
            Some(Some(mut back)) => {
                if let Some(state) = params.find("state") {
                    back.query_pairs_mut().append_pair("state", state);
                }
                pages::see_other(&back)
            }
            Some(None) => pages::bad_request(
                self.path(),
                "You are signed out, but post_logout_redirect_uri is no http or https URL of a loopback \
                 host. The development IdP sends nobody elsewhere.",
            ),
            None => pages::notice(
                self.path(),
                StatusCode::OK,
                "You are signed out",
                "Nobody is signed in at the development IdP in this browser any more.",
            ),
        };
        // Only a cookie that cannot be written as a header fails here; this one can.
        let _ = response.add_cookie(&self.removal_cookie());
        response
    }
}
