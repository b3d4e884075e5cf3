//! The provider's endpoints, done honestly, with the script's mutators at their seams.

use std::collections::VecDeque;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};

use super::client_auth::authenticate;
use super::keys::SigningKey;
use super::mint::random_text;
use super::script::{ClientAuth, Script};
use super::{Code, Grant, Pairs, Recorded, Shared, answer, decode, first, token};

/// One request with the script as it stood when it arrived.
pub(super) struct Call<'a> {
    pub shared: &'a Shared,
    pub script: &'a Script,
    pub request: &'a Recorded,
}

/// Why an endpoint does not do its work.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    /// An error object of RFC 6749 section 5.2.
    OAuth(u16, &'static str),
    /// Text for a person: the redirect URI is not to be trusted.
    Page(&'static str),
    /// RFC 6750 section 3.1.
    InvalidToken,
}

pub(super) type Outcome = Result<HttpResponse, Refusal>;

pub(super) async fn dispatch(request: HttpRequest, body: Bytes, shared: Data<Shared>) -> HttpResponse {
    let request = record(&request, &body, &shared);
    let path = request.path.clone();
    let held = shared.script.lock().unwrap().hold_before.get(&path).cloned();
    if let Some(gate) = held {
        gate.pass().await;
    }
    let (script, scripted) = {
        let mut script = shared.script.lock().unwrap();
        let queued = script.queue.get_mut(&path).and_then(VecDeque::pop_front);
        let scripted = queued.or_else(|| script.always.get(&path).cloned());
        (script.clone(), scripted)
    };
    let instead = match scripted {
        Some(scripted) => answer::scripted(scripted).await,
        None => None,
    };
    let response = instead.unwrap_or_else(|| {
        let call = Call { shared: &shared, script: &script, request: &request };
        call.answer().unwrap_or_else(Refusal::into_response)
    });
    if let Some(gate) = script.hold_answer.get(&path) {
        gate.pass().await;
    }
    response
}

fn record(request: &HttpRequest, body: &Bytes, shared: &Shared) -> Recorded {
    let headers = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let recorded = Recorded {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers.collect(),
        body: body.to_vec(),
        at: shared.now_ms(),
    };
    shared.requests.lock().unwrap().push(recorded.clone());
    recorded
}

impl Call<'_> {
    fn answer(&self) -> Outcome {
        match (self.request.method.as_str(), self.request.path.as_str()) {
            ("GET", "/.well-known/openid-configuration") => Ok(self.discovery()),
            ("GET", "/jwks") => Ok(self.jwks()),
            ("GET", "/authorize") => self.authorize(&self.request.query_pairs()),
            ("POST", "/authorize") => self.authorize(&self.request.form_pairs()),
            ("POST", "/token") => token::token(self),
            ("GET" | "POST", "/userinfo") => self.userinfo(),
            ("GET", "/end-session") => Ok(end_session(&self.request.query_pairs())),
            ("POST", "/end-session") => Ok(end_session(&self.request.form_pairs())),
            ("POST", "/revoke") => self.revoke(),
            ("POST", "/introspect") => self.introspect(),
            ("POST", "/par") => self.push_authorization(),
            _ => Ok(HttpResponse::NotFound().body("no such endpoint")),
        }
    }

    /// Discovery 1.0 section 3, with the members of RFC 8414, 9126 and 9207.
    fn discovery(&self) -> HttpResponse {
        let issuer = &self.shared.issuer;
        let algs: Vec<_> = self.script.published.iter().map(SigningKey::alg_name).collect();
        let mut document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "end_session_endpoint": format!("{issuer}/end-session"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "introspection_endpoint": format!("{issuer}/introspect"),
            "pushed_authorization_request_endpoint": format!("{issuer}/par"),
            "require_pushed_authorization_requests": self.script.require_par,
            "authorization_response_iss_parameter_supported": true,
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "grant_types_supported": ["authorization_code", "refresh_token", "password"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algs,
            "token_endpoint_auth_methods_supported":
                ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
            "token_endpoint_auth_signing_alg_values_supported":
                ["RS256", "PS256", "ES256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "auth_time", "acr", "sid",
                "name", "email", "email_verified", "preferred_username"],
            "prompt_values_supported": ["none", "login", "select_account", "consent", "create"],
            "backchannel_logout_supported": true,
            "backchannel_logout_session_supported": true,
            "frontchannel_logout_supported": true,
            "frontchannel_logout_session_supported": true,
        });
        if let (Some(change), Some(map)) = (&self.script.on_discovery, document.as_object_mut()) {
            change(map);
        }
        HttpResponse::Ok().json(document)
    }

    fn jwks(&self) -> HttpResponse {
        let mut keys: Vec<Value> = self.script.published.iter().map(SigningKey::jwk).collect();
        if let Some(change) = &self.script.on_jwks {
            change(&mut keys);
        }
        HttpResponse::Ok().json(json!({ "keys": keys }))
    }

    /// Core section 3.1.2. Nobody is asked anything: the script's person is signed in already.
    fn authorize(&self, sent: &Pairs) -> Outcome {
        let parameters = self.resolve_request_uri(sent)?;
        let get = |name: &str| first(&parameters, name).unwrap_or_default();
        if get("client_id") != self.script.client_id {
            return Err(Refusal::Page("unknown client_id"));
        }
        let redirect_uri = get("redirect_uri");
        if redirect_uri.is_empty() {
            return Err(Refusal::Page("redirect_uri is missing"));
        }
        let fault = if get("response_type") != "code" {
            Some(("unsupported_response_type", "only code"))
        } else if !get("scope").split(' ').any(|scope| scope == "openid") {
            Some(("invalid_scope", "openid is missing"))
        } else if get("code_challenge_method") != "S256" || get("code_challenge").len() != 43 {
            Some(("invalid_request", "PKCE with S256 is required"))
        } else {
            None
        };
        let mut answer: Pairs = match fault {
            Some((error, why)) => {
                vec![("error".into(), error.into()), ("error_description".into(), why.into())]
            }
            None => vec![("code".into(), self.issue_code(&parameters, &redirect_uri))],
        };
        if let Some(state) = first(&parameters, "state") {
            answer.push(("state".into(), state));
        }
        answer.push(("iss".into(), self.shared.issuer.clone()));
        if let Some(change) = &self.script.on_authorization {
            change(&mut answer);
        }
        if get("response_mode") == "form_post" {
            return Ok(form_post(&redirect_uri, &answer));
        }
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&answer).finish();
        let joint = if redirect_uri.contains('?') { '&' } else { '?' };
        Ok(see_other(&format!("{redirect_uri}{joint}{query}")))
    }

    /// RFC 9126 section 4: a pushed request is used once, by the client that pushed it.
    fn resolve_request_uri(&self, sent: &Pairs) -> Result<Pairs, Refusal> {
        let Some(uri) = first(sent, "request_uri") else {
            return if self.script.require_par {
                Err(Refusal::Page("a pushed authorization request is required"))
            } else {
                Ok(sent.clone())
            };
        };
        let pushed = self.shared.book.lock().unwrap().pushed.remove(&uri);
        let pushed = pushed.ok_or(Refusal::Page("unknown or used request_uri"))?;
        if first(sent, "client_id") == first(&pushed, "client_id") {
            Ok(pushed)
        } else {
            Err(Refusal::Page("request_uri of another client"))
        }
    }

    fn issue_code(&self, parameters: &Pairs, redirect_uri: &str) -> String {
        let now = self.shared.now_ms();
        let acr =
            first(parameters, "acr_values").and_then(|values| values.split(' ').next().map(str::to_owned));
        let grant = Grant {
            person: self.script.person.clone(),
            scope: first(parameters, "scope").unwrap_or_default(),
            sid: self.script.sid.clone().unwrap_or_else(random_text),
            auth_time: self.script.auth_time.unwrap_or(now.div_euclid(1000)),
            acr,
            revoked: false,
        };
        let mut book = self.shared.book.lock().unwrap();
        book.grants.push(grant);
        let code = Code {
            grant: book.grants.len() - 1,
            redirect_uri: redirect_uri.into(),
            challenge: first(parameters, "code_challenge").unwrap_or_default(),
            nonce: first(parameters, "nonce"),
            expires_ms: now + 60_000,
            used: false,
        };
        let text = random_text();
        book.codes.insert(text.clone(), code);
        text
    }

    /// Core section 5.3; the token in the Authorization header alone (RFC 6750 section 2.1).
    fn userinfo(&self) -> Outcome {
        let bearer = self.request.header("authorization").unwrap_or_default();
        let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
        let person = self.live_grant(token).map(|grant| grant.person);
        let Some(granted) = person else {
            return Err(Refusal::InvalidToken);
        };
        let mut claims = self.claims_of(&granted);
        if let Some(change) = &self.script.on_userinfo {
            change(&mut claims);
        }
        Ok(HttpResponse::Ok().json(claims))
    }

    /// Claims as they are now: the script's person may have changed since the login.
    pub(super) fn claims_of(&self, granted: &super::Person) -> Map<String, Value> {
        let today = &self.script.person;
        let person = if today.sub == granted.sub { today } else { granted };
        let mut claims = person.claims.clone();
        claims.insert("sub".into(), person.sub.clone().into());
        claims
    }

    fn live_grant(&self, access_token: &str) -> Option<Grant> {
        let book = self.shared.book.lock().unwrap();
        let access = book.access.get(access_token)?;
        let grant = book.grants.get(access.grant)?;
        let live = !grant.revoked && access.expires_s > self.shared.now_s();
        live.then(|| grant.clone())
    }

    /// RFC 7009: an unknown token is fine; a known one ends its whole family.
    fn revoke(&self) -> Outcome {
        authenticate(self)?;
        let token = self.request.form("token").unwrap_or_default();
        let mut book = self.shared.book.lock().unwrap();
        let of_refresh = book.refresh.get(&token).map(|known| known.grant);
        let of_access = book.access.get(&token).map(|known| known.grant);
        if let Some(grant) = of_refresh.or(of_access) {
            book.grants[grant].revoked = true;
        }
        Ok(HttpResponse::Ok().finish())
    }

    /// RFC 7662.
    fn introspect(&self) -> Outcome {
        authenticate(self)?;
        let token = self.request.form("token").unwrap_or_default();
        let answer = self.live_grant(&token).map_or_else(
            || json!({"active": false}),
            |grant| {
                json!({"active": true, "iss": self.shared.issuer, "sub": grant.person.sub,
                    "client_id": self.script.client_id, "scope": grant.scope, "sid": grant.sid,
                    "aud": self.script.access_token_audience, "token_type": "Bearer"})
            },
        );
        Ok(HttpResponse::Ok().json(answer))
    }

    /// RFC 9126 section 2.
    fn push_authorization(&self) -> Outcome {
        authenticate(self)?;
        let parameters = decode(&self.request.body);
        if first(&parameters, "request_uri").is_some() {
            return Err(Refusal::OAuth(400, "invalid_request"));
        }
        let public = self.script.client_auth == ClientAuth::None;
        let named = first(&parameters, "client_id");
        if named.as_deref() != Some(&self.script.client_id) && (public || named.is_some()) {
            return Err(Refusal::OAuth(400, "invalid_request"));
        }
        let uri = format!("urn:ietf:params:oauth:request_uri:{}", random_text());
        let mut book = self.shared.book.lock().unwrap();
        book.pushed.insert(uri.clone(), parameters);
        let answer = json!({"request_uri": uri, "expires_in": 60});
        Ok(HttpResponse::Created().insert_header(("Cache-Control", "no-store")).json(answer))
    }
}

impl Refusal {
    fn into_response(self) -> HttpResponse {
        match self {
            Self::Page(text) => page(400, text),
            Self::InvalidToken => HttpResponse::Unauthorized()
                .insert_header(("WWW-Authenticate", "Bearer error=\"invalid_token\""))
                .finish(),
            Self::OAuth(status, error) => {
                let mut response = HttpResponse::build(status.try_into().unwrap());
                if status == 401 {
                    response.insert_header(("WWW-Authenticate", "Basic realm=\"op\""));
                }
                let why = format!("scripted: {error}");
                response
                    .insert_header(("Cache-Control", "no-store"))
                    .json(json!({"error": error, "error_description": why}))
            }
        }
    }
}

/// RP-Initiated Logout 1.0 section 2.
fn end_session(parameters: &Pairs) -> HttpResponse {
    let Some(uri) = first(parameters, "post_logout_redirect_uri") else {
        return page(200, "signed out");
    };
    let Some(state) = first(parameters, "state") else {
        return see_other(&uri);
    };
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("state", &state).finish();
    let joint = if uri.contains('?') { '&' } else { '?' };
    see_other(&format!("{uri}{joint}{query}"))
}

fn page(status: u16, text: &'static str) -> HttpResponse {
    HttpResponse::build(status.try_into().unwrap()).content_type("text/plain; charset=utf-8").body(text)
}

fn see_other(url: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header(("Location", url))
        .insert_header(("Cache-Control", "no-store"))
        .finish()
}

/// OAuth 2.0 Form Post Response Mode: a page that posts itself, or waits for its button.
fn form_post(action: &str, pairs: &Pairs) -> HttpResponse {
    let escape = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let mut fields = String::new();
    for (name, value) in pairs {
        let (name, value) = (escape(name), escape(value));
        fields.push_str("<input type=\"hidden\" name=\"");
        fields.push_str(&name);
        fields.push_str("\" value=\"");
        fields.push_str(&value);
        fields.push_str("\">");
    }
    let action = escape(action);
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html><title>Back</title><form method=\"post\" action=\"{action}\">{fields}\
             <button>Go on</button></form><script>document.forms[0].submit()</script>"
    ))
}
