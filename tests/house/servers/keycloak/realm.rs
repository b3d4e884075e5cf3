//! A realm for one suite: people, clients, and what an administrator may do to them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::Keycloak;

const SECRET: &str = "doorward-secret";
const KEY_PROVIDER: &str = "org.keycloak.keys.KeyProvider";

static NEXT: AtomicU32 = AtomicU32::new(1);
/// One signing key for all realms of a run: making it is most of what a new realm costs.
static KEY: OnceLock<String> = OnceLock::new();

/// What differs between realms. `RealmSpec::default()` suits most tests.
#[derive(Clone, Debug)]
pub struct RealmSpec {
    /// The id of the provider in Doorward's configuration: the last segment of the redirect URI.
    pub provider_id: String,
    /// Also make the client [`Realm::PAR_CLIENT`], whose requests must be pushed (RFC 9126).
    pub par_client: bool,
    /// Also make the client [`Realm::KEY_CLIENT`], which signs assertions with a key of this public JWKS.
    pub client_jwks: Option<String>,
    /// The portless URI cannot be used for calls *by* Keycloak: see also [`Realm::set_backchannel_logout`].
    pub backchannel_logout_url: Option<String>,
    /// 300 s when `None`.
    pub access_token_seconds: Option<u32>,
    /// Each refresh token is good once.
    pub rotate_refresh_tokens: bool,
}

impl Default for RealmSpec {
    fn default() -> Self {
        Self {
            provider_id: "keycloak".to_owned(),
            par_client: false,
            client_jwks: None,
            backchannel_logout_url: None,
            access_token_seconds: None,
            rotate_refresh_tokens: true,
        }
    }
}

/// A realm with `alice`, `bob` (role `user`) and `ada` (role `admin`); the password of NAME is `NAME-pass-1`.
///
/// Its clients accept `http://127.0.0.1` and `http://localhost` with **any port** and the exact path
/// `/auth/callback/{provider_id}`, and any address there after logout. The service account of the main client may
/// manage users and read events.
pub struct Realm {
    pub name: String,
    pub issuer: String,
    pub client_id: String,
    pub client_secret: String,
    keycloak: &'static Keycloak,
}

impl Realm {
    /// Same secret as the main client.
    pub const PAR_CLIENT: &str = "doorward-par";
    /// `private_key_jwt`, no secret.
    pub const KEY_CLIENT: &str = "doorward-key";

    pub(super) async fn create(keycloak: &'static Keycloak, spec: &RealmSpec) -> Self {
        let name = format!("suite-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        keycloak.admin(Method::POST, "", Some(&realm_json(&name, spec))).await;
        let issuer = format!("{}/realms/{name}", keycloak.base_url);
        let client_id = "doorward".to_owned();
        Self { name, issuer, client_id, client_secret: SECRET.to_owned(), keycloak }
    }

    /// One call of the Admin REST API, `path` below the realm. Panics unless 2xx.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        self.keycloak.admin(method, &format!("/{}{path}", self.name), body).await
    }

    /// From now on a new key signs. The old ones stay published until [`Realm::drop_old_keys`].
    pub async fn rotate_key(&self) {
        let keys = self.rsa_keys().await;
        let priority = 100 * (keys.len() + 1);
        let mut key = rsa_component(&format!("rsa-{priority}"), &fresh_key(), priority);
        key["providerType"] = KEY_PROVIDER.into();
        self.admin(Method::POST, "/components", Some(&key)).await;
    }

    /// Every key but the one that signs vanishes from the JWKS at once.
    pub async fn drop_old_keys(&self) {
        let mut keys = self.rsa_keys().await;
        keys.sort_by_key(|key| {
            let priority = key["config"]["priority"][0].as_str();
            priority.and_then(|text| text.parse::<u32>().ok())
        });
        let _signing: Option<Value> = keys.pop();
        for key in keys {
            let id = key["id"].as_str().expect("a component has an id");
            self.admin(Method::DELETE, &format!("/components/{id}"), None).await;
        }
    }

    /// Ends all sessions of a user, as the button of the admin console does.
    pub async fn logout_user(&self, name: &str) {
        let id = self.user_id(name).await;
        self.admin(Method::POST, &format!("/users/{id}/logout"), None).await;
    }

    pub async fn disable_user(&self, name: &str) {
        self.change_user(name, &json!({ "enabled": false })).await;
    }

    pub async fn delete_user(&self, name: &str) {
        let id = self.user_id(name).await;
        self.admin(Method::DELETE, &format!("/users/{id}"), None).await;
    }

    /// Changes the members of the user that `fields` names, as `PUT /users/{id}` does.
    pub async fn change_user(&self, name: &str, fields: &Value) {
        let id = self.user_id(name).await;
        self.admin(Method::PUT, &format!("/users/{id}"), Some(fields)).await;
    }

    /// The user's id, which is the `sub` of the tokens.
    pub async fn user_id(&self, name: &str) -> String {
        let path = format!("/users?exact=true&username={name}");
        let found = self.admin(Method::GET, &path, None).await;
        let id = found[0]["id"].as_str();
        id.unwrap_or_else(|| panic!("the realm has no user {name}")).to_owned()
    }

    /// Where Keycloak sends logout tokens of the main client, with the real port.
    pub async fn set_backchannel_logout(&self, url: &str) {
        let found = self.admin(Method::GET, "/clients?clientId=doorward", None).await;
        let id = found[0]["id"].as_str().expect("the realm has the client");
        // A body of `attributes` alone merges; every other member of the client stays.
        let body = json!({ "attributes": { "backchannel.logout.url": url } });
        self.admin(Method::PUT, &format!("/clients/{id}"), Some(&body)).await;
    }

    async fn rsa_keys(&self) -> Vec<Value> {
        let path = format!("/components?type={KEY_PROVIDER}");
        let found = self.admin(Method::GET, &path, None).await;
        let mut keys = found.as_array().cloned().unwrap_or_default();
        keys.retain(|key| key["providerId"] == "rsa");
        keys
    }
}

fn realm_json(name: &str, spec: &RealmSpec) -> Value {
    let mut clients = vec![main_client(spec)];
    if spec.par_client {
        clients.push(par_client(spec));
    }
    if let Some(jwks) = &spec.client_jwks {
        clients.push(key_client(spec, jwks));
    }
    let mut users = vec![json!({
        "username": "service-account-doorward", "enabled": true,
        "serviceAccountClientId": "doorward",
        "clientRoles": { "realm-management": ["manage-users", "view-users", "view-events"] },
    })];
    users.extend(
        [("alice", "user"), ("bob", "user"), ("ada", "admin")].map(|(user, role)| person(name, user, role)),
    );
    json!({
        "realm": name, "enabled": true, "sslRequired": "none",
        // One round: a login costs 20 ms instead of 100.
        "passwordPolicy": "hashAlgorithm(pbkdf2-sha256) and hashIterations(1)",
        "revokeRefreshToken": spec.rotate_refresh_tokens, "refreshTokenMaxReuse": 0,
        "accessTokenLifespan": spec.access_token_seconds.unwrap_or(300),
        "eventsEnabled": true, "eventsListeners": ["jboss-logging"],
        "adminEventsEnabled": true, "adminEventsDetailsEnabled": true,
        "roles": { "realm": [{ "name": "admin" }, { "name": "user" }] },
        "components": {
            KEY_PROVIDER: [
                rsa_component("rsa", KEY.get_or_init(fresh_key), 100),
                generated("hmac-generated", Some("HS512")),
                generated("aes-generated", None),
            ],
            "org.keycloak.userprofile.UserProfileProvider": [{
                "providerId": "declarative-user-profile",
                "config": { "kc.user.profile.config": [user_profile().to_string()] },
            }],
        },
        "clients": clients,
        "users": users,
    })
}

/// No name is required and unknown attributes are kept: Keycloak's own profile would refuse password logins of users
/// without names and drop the mark that registration leaves.
fn user_profile() -> Value {
    let field = |name: &str, validations: Value| {
        json!({
            "name": name, "validations": validations,
            "permissions": { "view": ["admin", "user"], "edit": ["admin", "user"] },
        })
    };
    json!({
        "unmanagedAttributePolicy": "ADMIN_EDIT",
        "attributes": [
            field("username", json!({ "length": { "min": 3, "max": 255 } })),
            field("email", json!({ "email": {}, "length": { "max": 255 } })),
            field("firstName", json!({ "length": { "max": 255 } })),
            field("lastName", json!({ "length": { "max": 255 } })),
        ],
    })
}

fn person(realm: &str, user: &str, role: &str) -> Value {
    let first: String = user[..1].to_uppercase() + &user[1..];
    json!({
        "username": user, "email": format!("{user}@example.test"), "emailVerified": true,
        "firstName": first, "lastName": "Archer", "enabled": true,
        // An imported user gets no default role unless it is named.
        "realmRoles": [format!("default-roles-{realm}"), role],
        "credentials": [{ "type": "password", "value": format!("{user}-pass-1"), "temporary": false }],
    })
}

fn client(spec: &RealmSpec, id: &str) -> Value {
    let callback = format!("/auth/callback/{}", spec.provider_id);
    json!({
        "clientId": id, "enabled": true, "protocol": "openid-connect", "publicClient": false,
        "clientAuthenticatorType": "client-secret", "secret": SECRET,
        "standardFlowEnabled": true, "frontchannelLogout": false,
        // A loopback address without a port stands for every port.
        "redirectUris": [format!("http://localhost{callback}"), format!("http://127.0.0.1{callback}")],
        "attributes": {
            "pkce.code.challenge.method": "S256",
            "post.logout.redirect.uris":
                "http://localhost/*##http://127.0.0.1/*##http://localhost:*##http://127.0.0.1:*",
        },
    })
}

fn main_client(spec: &RealmSpec) -> Value {
    let mut client = client(spec, "doorward");
    client["directAccessGrantsEnabled"] = true.into();
    client["serviceAccountsEnabled"] = true.into();
    let attributes = &mut client["attributes"];
    // Without this a logout token names no session.
    attributes["backchannel.logout.session.required"] = "true".into();
    if let Some(url) = &spec.backchannel_logout_url {
        attributes["backchannel.logout.url"] = url.as_str().into();
    }
    client
}

fn par_client(spec: &RealmSpec) -> Value {
    let mut client = client(spec, Realm::PAR_CLIENT);
    client["attributes"]["require.pushed.authorization.requests"] = "true".into();
    client
}

fn key_client(spec: &RealmSpec, jwks: &str) -> Value {
    let mut client = client(spec, Realm::KEY_CLIENT);
    client["clientAuthenticatorType"] = "client-jwt".into();
    client["attributes"]["use.jwks.string"] = "true".into();
    client["attributes"]["jwks.string"] = jwks.into();
    client
}

fn rsa_component(name: &str, key: &str, priority: usize) -> Value {
    json!({
        "name": name, "providerId": "rsa",
        "config": {
            "privateKey": [key], "algorithm": ["RS256"], "priority": [priority.to_string()],
            "enabled": ["true"], "active": ["true"],
        },
    })
}

fn generated(provider: &str, algorithm: Option<&str>) -> Value {
    let mut config = json!({ "priority": ["100"] });
    if let Some(algorithm) = algorithm {
        config["algorithm"] = json!([algorithm]);
    }
    json!({ "name": provider, "providerId": provider, "config": config })
}

/// Base64 of PKCS#8 DER, RSA 2048.
fn fresh_key() -> String {
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key can be made");
    let der: Pkcs8V1Der = pair.as_der().expect("the key can be written");
    STANDARD.encode(der.as_ref())
}
