//! npm `oidc-provider`, a certified OpenID provider that is nobody's product: `tests/op-server/server.mjs`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::supervised::{Launch, Supervised, folder};
use super::{Started, checkout, form, http, started};

static SERVER: Started<Server> = Started::const_new();

/// A client to be, at the one shared server.
#[derive(Clone, Debug, Default)]
pub struct OpSpec {
    /// Exact addresses, with their ports.
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    pub backchannel_logout_uri: Option<String>,
    pub authentication: ClientAuthentication,
    /// Refuse authorization requests that were not pushed before (RFC 9126).
    pub require_par: bool,
    /// `/auth` with a `login_hint` answers at once with the code for that person: no page, one round trip.
    pub autologin: bool,
    /// Life of access tokens; 300 s when `None`.
    pub access_token_seconds: Option<u32>,
}

/// RFC 7591 `token_endpoint_auth_method`.
#[derive(Clone, Debug, Default)]
pub enum ClientAuthentication {
    #[default]
    Basic,
    Post,
    /// With the public JWKS, `{"keys": […]}`.
    PrivateKeyJwt(Value),
    /// A public client, PKCE alone.
    None,
}

/// A registered client, and the server it is registered at.
#[derive(Clone, Debug)]
pub struct OidcProvider {
    pub issuer: String,
    pub client_id: String,
    /// Empty for `PrivateKeyJwt` and `None`.
    pub client_secret: String,
}

struct Server {
    issuer: String,
    /// Kept, not read: its end is the server's.
    _process: Supervised,
}

/// Registers a client at the one server of this run, which is started when nobody did so before.
pub async fn server(spec: OpSpec) -> OidcProvider {
    let issuer = &started(&SERVER, launch).await.issuer;
    let answer = http()
        .post(format!("{issuer}/reg"))
        .header("content-type", "application/json")
        .body(spec.metadata().to_string())
        .send()
        .await
        .expect("the provider answers");
    let status = answer.status();
    let body = answer.text().await.expect("the provider answers in full");
    assert_eq!(status, 201, "the provider refused the client: {body}");
    let client: Value = serde_json::from_str(&body).expect("the client is JSON");
    let text = |name: &str| client[name].as_str().unwrap_or_default().to_owned();
    OidcProvider {
        issuer: issuer.clone(),
        client_id: text("client_id"),
        client_secret: text("client_secret"),
    }
}

/// Signs `user` in at `authorize_url` (any name is a person, no password) and gives the callback URL.
pub async fn sign_in(http: &reqwest::Client, authorize_url: &str, user: &str) -> String {
    form::sign_in(http, authorize_url, &[("login", user), ("go", "in")])
        .await
        .unwrap_or_else(|reason| panic!("{reason}"))
}

impl OidcProvider {
    /// Lays `claims` over the usual ones of `user`, for every client of the shared server: use names of your own.
    pub async fn set_claims(&self, user: &str, claims: Map<String, Value>) {
        self.control(Method::PUT, &format!("people/{user}"), Value::Object(claims)).await;
    }

    /// The account is gone: its refresh tokens answer `invalid_grant`.
    pub async fn remove(&self, user: &str) {
        self.control(Method::PUT, &format!("people/{user}"), Value::Null).await;
    }

    /// Sends a back-channel logout token for the latest sign-in of `user` at this client.
    pub async fn send_logout_token(&self, user: &str) {
        let body = json!({ "client_id": self.client_id, "user": user });
        self.control(Method::POST, "logout", body).await;
    }

    async fn control(&self, method: Method, path: &str, body: Value) {
        let answer = http()
            .request(method, format!("{}/control/{path}", self.issuer))
            .body(body.to_string())
            .send()
            .await
            .expect("the provider answers");
        let status = answer.status();
        let said = answer.text().await.unwrap_or_default();
        assert_eq!(status, 204, "control/{path}: {said}");
    }
}

impl OpSpec {
    fn metadata(&self) -> Value {
        let (method, jwks) = match &self.authentication {
            ClientAuthentication::Basic => ("client_secret_basic", None),
            ClientAuthentication::Post => ("client_secret_post", None),
            ClientAuthentication::PrivateKeyJwt(jwks) => ("private_key_jwt", Some(jwks)),
            ClientAuthentication::None => ("none", None),
        };
        let mut metadata = json!({
            "redirect_uris": self.redirect_uris,
            "post_logout_redirect_uris": self.post_logout_redirect_uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": method,
            "require_pushed_authorization_requests": self.require_par,
            "autologin": self.autologin,
        });
        if let Some(jwks) = jwks {
            metadata["jwks"] = jwks.clone();
        }
        if let Some(uri) = &self.backchannel_logout_uri {
            metadata["backchannel_logout_uri"] = uri.as_str().into();
            metadata["backchannel_logout_session_required"] = true.into();
        }
        if let Some(seconds) = self.access_token_seconds {
            metadata["access_token_seconds"] = seconds.into();
        }
        metadata
    }
}

async fn launch() -> Result<Server, String> {
    let process = Supervised::start(Launch {
        name: "oidc-provider",
        command: vec![
            "node".into(),
            checkout("tests/op-server/server.mjs").into(),
            checkout(".cache/node").into(),
        ],
        folder: folder("op"),
        signal: "KILL",
    })?;
    // A script that dies at once prints no such line: `Error` is its last word.
    let line = process.line(&["Listening on: ", "Error"], 0, Duration::from_secs(30)).await?;
    let Some((_, issuer)) = line.split_once("Listening on: ") else {
        return Err(process.complaint("did not start"));
    };
    Ok(Server { issuer: issuer.trim().to_owned(), _process: process })
}
