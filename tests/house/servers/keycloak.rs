//! A real Keycloak, one for the run; each suite makes a realm of its own in it.

mod realm;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub use realm::{Realm, RealmSpec};

use super::supervised::{Launch, Supervised, folder};
use super::{INSTALL, Started, checkout, form, http, started};

/// The version that `scripts/test` installs.
const VERSION: &str = "26.5.5";
const START_WITHIN: Duration = Duration::from_mins(2);
/// An admin token lives 60 s.
const TOKEN_GOOD_FOR: Duration = Duration::from_secs(40);

static SERVER: Started<Keycloak> = Started::const_new();

/// The running server.
pub struct Keycloak {
    /// `http://127.0.0.1:PORT`. Always this spelling: the issuer follows the Host header.
    pub base_url: String,
    token: Mutex<Option<(String, Instant)>>,
    /// Kept, not read: its end is the server's.
    _process: Supervised,
}

/// The one Keycloak of this run; whoever asks first waits some five seconds for its start.
pub async fn server() -> &'static Keycloak {
    started(&SERVER, launch).await
}

/// Signs `user` in on Keycloak's page at `authorize_url` and gives the callback URL.
pub async fn sign_in(http: &reqwest::Client, authorize_url: &str, user: &str, password: &str) -> String {
    try_sign_in(http, authorize_url, user, password).await.unwrap_or_else(|reason| panic!("{reason}"))
}

/// The same, for those who may be refused: an error holds the page on which it ended.
pub async fn try_sign_in(
    http: &reqwest::Client,
    authorize_url: &str,
    user: &str,
    password: &str,
) -> Result<String, String> {
    let fields = [("username", user), ("password", password), ("credentialId", "")];
    form::sign_in(http, authorize_url, &fields).await
}

impl Keycloak {
    /// Makes a realm with three people and the clients of `spec`.
    pub async fn realm(&'static self, spec: RealmSpec) -> Realm {
        Realm::create(self, &spec).await
    }

    /// One call of the Admin REST API as the server's admin, `path` below `/admin/realms`. Panics unless 2xx.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}/admin/realms{path}", self.base_url);
        let mut request = http().request(method.clone(), &url).bearer_auth(self.token().await);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.expect("Keycloak answers");
        let status = answer.status();
        let text = answer.text().await.expect("Keycloak answers in full");
        assert!(status.is_success(), "{method} {url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn token(&self) -> String {
        let mut held = self.token.lock().await;
        if let Some((token, since)) = held.as_ref()
            && since.elapsed() < TOKEN_GOOD_FOR
        {
            return token.clone();
        }
        let url = format!("{}/realms/master/protocol/openid-connect/token", self.base_url);
        let answer = http()
            .post(url)
            .form(&[
                ("grant_type", "password"),
                ("client_id", "admin-cli"),
                ("username", "admin"),
                ("password", "admin"),
            ])
            .send()
            .await
            .expect("Keycloak answers");
        let text = answer.text().await.expect("Keycloak answers in full");
        let body: Value = serde_json::from_str(&text).unwrap_or(json!({}));
        let token = body["access_token"].as_str();
        let token = token.unwrap_or_else(|| panic!("no admin token: {text}")).to_owned();
        *held = Some((token.clone(), Instant::now()));
        token
    }
}

async fn launch() -> Result<Keycloak, String> {
    let root = checkout(".cache/keycloak");
    if !root.join(format!("ready-{VERSION}")).exists() {
        return Err(format!("there is no Keycloak {VERSION} in .cache/keycloak. {INSTALL}"));
    }
    let folder = folder("keycloak");
    // Schema, master realm and admin are made already: an empty database would take twice as long.
    std::fs::copy(root.join("template.mv.db"), folder.join("keycloakdb.mv.db"))
        .map_err(|error| format!("the template database: {error}. {INSTALL}"))?;
    let mut archive = std::ffi::OsString::from("-XX:SharedArchiveFile=");
    archive.push(root.join("classes.jsa"));
    let process = Supervised::start(Launch {
        name: "Keycloak",
        command: vec![
            checkout("tests/house/servers/keycloak-start").into(),
            root.join("home").into(),
            folder.clone().into(),
            archive,
            "-Xshare:auto".into(),
        ],
        folder,
        // A proper shutdown takes two seconds, for data that nobody will read.
        signal: "KILL",
    })?;
    let failures = ["Failed to start server", "not found", "Error occurred"];
    let mark = "Listening on: ";
    let marks = [&[mark], failures.as_slice()].concat();
    let line = process.line(&marks, 0, START_WITHIN).await?;
    let Some((_, rest)) = line.split_once(mark) else {
        return Err(process.complaint("did not start"));
    };
    let base_url = rest.split([' ', ',']).next().unwrap_or(rest).trim_end_matches('.').to_owned();
    Ok(Keycloak { base_url, token: Mutex::new(None), _process: process })
}
