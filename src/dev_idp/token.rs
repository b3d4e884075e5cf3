//! `/token` and `/revoke`: codes, refresh tokens and passwords become tokens, and stop being some.

use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use super::keys::{at_hash, merge, random_text, sha256};
use super::memory::{AccessToken, Grant, RefreshToken};
use super::params::{Params, client_id};
use super::switch::{Endpoint, Twist};
use super::{DevIdp, DevIdpError};

const ACCESS_LIFE_SECONDS: i64 = 300;
const REFRESH_LIFE_SECONDS: i64 = 24 * 60 * 60;

/// An error answer of the token endpoint (RFC 6749, section 5.2).
struct Refused(&'static str, &'static str);

impl From<DevIdpError> for Refused {
    fn from(_: DevIdpError) -> Self {
        Self("server_error", "no random bytes or no signature")
    }
}

const fn invalid_grant(description: &'static str) -> Refused {
    Refused("invalid_grant", description)
}

/// What the tokens are made for.
struct Order {
    grant_id: String,
    grant: Grant,
    /// The access token's scope: the grant's, or less of it.
    scope: String,
    /// Only the first ID token carries the nonce (OpenID Connect Core 1.0, section 12.2).
    nonce: Option<String>,
}

pub(super) async fn token(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::Token, |twist| match idp.grant_tokens(&request, &body, twist) {
        Ok(tokens) => twist.json(StatusCode::OK, tokens),
        Err(Refused(error, description)) => {
            let object = json!({ "error": error, "error_description": description });
            match error {
                "invalid_client" => HttpResponse::Unauthorized()
                    .insert_header((WWW_AUTHENTICATE, "Basic realm=\"dev-idp\""))
                    .json(object),
                "server_error" => HttpResponse::InternalServerError().json(object),
                _ => HttpResponse::BadRequest().json(object),
            }
        }
    })
    .await
}

/// RFC 7009: 200 whatever the token is, and the whole grant ends with a refresh token.
pub(super) async fn revoke(idp: web::Data<DevIdp>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    idp.answer(Endpoint::Revocation, |_| {
        if let Ok(params) = Params::of_form(&request, &body) {
            idp.forget_token(&params, client_id(&request, &params).as_deref());
        }
        HttpResponse::Ok().finish()
    })
    .await
}

impl DevIdp {
    fn grant_tokens(&self, request: &HttpRequest, body: &[u8], twist: &Twist) -> Result<Value, Refused> {
        let invalid = |text| Refused("invalid_request", text);
        let params = Params::of_form(request, body).map_err(invalid)?;
        let client = client_id(request, &params).ok_or(Refused("invalid_client", "which client is this?"))?;
        let order = match params.find("grant_type") {
            Some("authorization_code") => self.spend_code(&client, &params),
            Some("refresh_token") => self.spend_refresh_token(&client, &params),
            Some("password") => self.accept_password(client, &params),
            Some(_) => Err(Refused("unsupported_grant_type", "not offered here")),
            None => Err(invalid("grant_type is missing")),
        }?;
        self.issue(order, twist)
    }

    /// RFC 6749, section 4.1.3: single use, and whoever brings a code twice ends its tokens.
    fn spend_code(&self, client: &str, params: &Params) -> Result<Order, Refused> {
        let code = params.find("code").ok_or(Refused("invalid_request", "code is missing"))?;
        let verifier = params.find("code_verifier").unwrap_or_default();
        let grant_id = random_text()?;
        let now_ms = self.now_ms();
        let mut memory = self.memory();
        let unknown = invalid_grant("the code is unknown or expired");
        let Some(entry) = memory.codes.find_mut(&sha256(code)) else {
            return Err(unknown);
        };
        if entry.grant.client_id != client {
            return Err(invalid_grant("the code belongs to another client"));
        }
        // From here on the code is spent, whatever the outcome: a wrong verifier has one try.
        if let Some(spent_for) = entry.spent_for.replace(grant_id.clone()) {
            memory.grants.take(&spent_for);
            return Err(invalid_grant("the code was used before; its tokens are revoked"));
        }
        if now_ms >= entry.expires_ms {
            return Err(unknown);
        }
        if params.find("redirect_uri") != Some(&entry.redirect_uri) {
            return Err(invalid_grant("redirect_uri is not the one of the request"));
        }
        if !verifier_fits(verifier) || sha256(verifier) != entry.challenge {
            return Err(invalid_grant("code_verifier does not fit the challenge"));
        }
        let grant = entry.grant.clone();
        memory.grants.insert(grant_id.clone(), grant.clone());
        Ok(Order { grant_id, scope: grant.scope.clone(), nonce: grant.nonce.clone(), grant })
    }

    /// Rotation: every refresh token is good once; a second use ends the grant (RFC 9700, 4.14.2).
    fn spend_refresh_token(&self, client: &str, params: &Params) -> Result<Order, Refused> {
        let token = params.find("refresh_token");
        let token = token.ok_or(Refused("invalid_request", "refresh_token is missing"))?;
        let now_ms = self.now_ms();
        let mut memory = self.memory();
        let unknown = invalid_grant("the refresh token is unknown, expired or revoked");
        let Some(entry) = memory.refresh_tokens.find(&sha256(token)) else {
            return Err(unknown);
        };
        let (grant_id, spent, expires_ms) = (entry.grant_id.clone(), entry.spent, entry.expires_ms);
        let Some(grant) = memory.grants.find(&grant_id).cloned() else {
            return Err(unknown);
        };
        if grant.client_id != client {
            return Err(invalid_grant("the refresh token belongs to another client"));
        }
        if spent {
            memory.grants.take(&grant_id);
            return Err(invalid_grant("the refresh token was used before; the grant is revoked"));
        }
        if now_ms >= expires_ms {
            return Err(unknown);
        }
        let scope = params.find("scope").unwrap_or(&grant.scope);
        if !scope.split(' ').all(|word| grant.scope.split(' ').any(|granted| granted == word)) {
            return Err(Refused("invalid_scope", "the scope is wider than what was granted"));
        }
        if let Some(entry) = memory.refresh_tokens.find_mut(&sha256(token)) {
            entry.spent = true;
        }
        Ok(Order { grant_id, scope: scope.to_owned(), nonce: None, grant })
    }

    /// RFC 6749, section 4.3. The words for a suspended person are Keycloak's.
    fn accept_password(&self, client: String, params: &Params) -> Result<Order, Refused> {
        let person = params.find("username").and_then(|name| self.memory().find_person(name));
        let wrong = invalid_grant("Invalid user credentials");
        let Some(person) =
            person.filter(|person| params.find("password").is_some_and(|given| person.has_password(given)))
        else {
            return Err(wrong);
        };
        if person.suspended {
            return Err(invalid_grant("Account disabled"));
        }
        let (grant_id, sid) = (random_text()?, random_text()?);
        let scope = params.owned("scope").unwrap_or_default();
        let grant = Grant {
            client_id: client,
            person,
            scope: scope.clone(),
            nonce: None,
            acr: None,
            resource: params.owned("resource"),
            sid,
            auth_time: self.now_ms() / 1000,
        };
        self.memory().grants.insert(grant_id.clone(), grant.clone());
        Ok(Order { grant_id, scope, nonce: None, grant })
    }

    fn issue(&self, order: Order, twist: &Twist) -> Result<Value, Refused> {
        let now_ms = self.now_ms();
        let access_token = self.access_token(&order)?;
        let refresh_token = random_text()?;
        let mut tokens = Map::new();
        if order.grant.scope.split(' ').any(|word| word == "openid") {
            let id_token = self.id_token(&order, &access_token, twist)?;
            tokens.insert("id_token".to_owned(), json!(id_token));
        }
        let usual = json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": ACCESS_LIFE_SECONDS,
            "refresh_token": refresh_token,
            "refresh_expires_in": REFRESH_LIFE_SECONDS,
            "scope": order.scope,
        });
        if let Value::Object(usual) = &usual {
            merge(&mut tokens, usual);
        }
        let access = AccessToken {
            grant_id: order.grant_id.clone(),
            scope: order.scope,
            expires_ms: now_ms + ACCESS_LIFE_SECONDS * 1000,
        };
        let refresh = RefreshToken {
            grant_id: order.grant_id,
            expires_ms: now_ms + REFRESH_LIFE_SECONDS * 1000,
            spent: false,
        };
        let mut memory = self.memory();
        memory.access_tokens.insert(sha256(&access_token), access);
        memory.refresh_tokens.insert(sha256(&refresh_token), refresh);
        Ok(Value::Object(tokens))
    }

    /// RFC 9068. Where the client names no resource it is its own: `aud` is then the client id,
    /// which `typ` keeps apart from an ID token.
    fn access_token(&self, order: &Order) -> Result<String, DevIdpError> {
        let (now, grant) = (self.now_ms() / 1000, &order.grant);
        let claims = json!({
            "iss": self.issuer(),
            "sub": grant.person.name,
            "aud": grant.resource.as_ref().unwrap_or(&grant.client_id),
            "client_id": grant.client_id,
            "iat": now,
            "exp": now + ACCESS_LIFE_SECONDS,
            "jti": random_text()?,
            "scope": order.scope,
            "sid": grant.sid,
            "auth_time": grant.auth_time,
            "roles": [grant.person.role],
        });
        self.sign("at+jwt", claims)
    }

    /// OpenID Connect Core 1.0, section 2.
    fn id_token(&self, order: &Order, access_token: &str, twist: &Twist) -> Result<String, DevIdpError> {
        let (now, grant) = (self.now_ms() / 1000, &order.grant);
        let mut claims = grant.person.claims(&order.scope);
        let protocol = json!({
            "iss": self.issuer(),
            "aud": grant.client_id,
            "azp": grant.client_id,
            "iat": now,
            "exp": now + ACCESS_LIFE_SECONDS,
            "jti": random_text()?,
            "auth_time": grant.auth_time,
            "amr": ["pwd"],
            "sid": grant.sid,
            "at_hash": at_hash(access_token),
            "acr": grant.acr,
            "nonce": order.nonce,
        });
        if let Value::Object(protocol) = &protocol {
            // An acr or nonce that nobody asked for is null here, and so stays away.
            merge(&mut claims, protocol);
        }
        merge(&mut claims, &twist.id_token_claims);
        self.key().sign(&twist.id_token_header, &claims)
    }

    fn forget_token(&self, params: &Params, client: Option<&str>) {
        let Some(hash) = params.find("token").map(sha256) else {
            return;
        };
        let mut memory = self.memory();
        let of_refresh = memory.refresh_tokens.find(&hash).map(|entry| entry.grant_id.clone());
        let of_access = memory.access_tokens.find(&hash).map(|entry| entry.grant_id.clone());
        let Some(grant_id) = of_refresh.as_ref().or(of_access.as_ref()) else {
            return;
        };
        let owner = memory.grants.find(grant_id).map(|grant| grant.client_id.as_str());
        if owner.is_none() || owner != client {
            return;
        }
        memory.access_tokens.take(&hash);
        if let Some(grant_id) = of_refresh {
            memory.grants.take(&grant_id);
        }
    }
}

/// RFC 7636, section 4.1.
fn verifier_fits(verifier: &str) -> bool {
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_has_the_length_and_letters_of_the_rfc() {
        assert!(verifier_fits(&"a".repeat(43)) && verifier_fits(&"~".repeat(128)));
        assert!(!verifier_fits(&"a".repeat(42)) && !verifier_fits(&"a".repeat(129)));
        assert!(!verifier_fits(&" ".repeat(43)));
    }
}
