//! What the scripted provider does next. Correct by default; every deviation is one field or one
//! closure that a test sets through `ScriptedOp::script`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::keys::{Alg, SigningKey};
use super::mint::Minted;

type Object = Map<String, Value>;
type OnObject = Arc<dyn Fn(&mut Object) + Send + Sync>;
type OnToken = Arc<dyn Fn(&mut Object, &mut Object) + Send + Sync>;
type OnMinted = Arc<dyn Fn(&Minted) -> String + Send + Sync>;
type OnKeys = Arc<dyn Fn(&mut Vec<Value>) + Send + Sync>;
type OnPairs = Arc<dyn Fn(&mut Vec<(String, String)>) + Send + Sync>;

/// How an endpoint answers instead of doing its work. Status, content type and body are raw.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The work is done and answered as usual; in a queue it lets one request through.
    Normal,
    Status(u16, &'static str, Vec<u8>),
    Raw(u16, Vec<(String, String)>, Vec<u8>),
    /// A 3xx with this `Location`.
    Redirect(u16, String),
    /// Never answers.
    Hang,
    /// 200 with one space a second, for ever: never wrong JSON, never an end.
    Drip,
    /// 200 with spaces as fast as they are taken, for ever.
    Endless,
    /// 200 whose promised length is never reached: the connection ends inside this body.
    Truncated(&'static str, Vec<u8>),
    /// The connection ends without one byte of an answer.
    Close,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::Status(status, "application/json", body.to_string().into_bytes())
    }

    pub fn text(status: u16, content_type: &'static str, body: &str) -> Self {
        Self::Status(status, content_type, body.as_bytes().to_vec())
    }

    /// An OAuth error object (RFC 6749 section 5.2).
    pub fn error(status: u16, error: &str) -> Self {
        Self::json(status, &json!({"error": error}))
    }
}

/// A door that requests wait at until the test opens it. Clones are the same door.
#[derive(Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    arrived: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub fn closed() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), arrived: Arc::new(watch::Sender::new(0)) }
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` requests in all have come to the door; fails after ten seconds.
    pub async fn arrived(&self, count: usize) {
        let mut seen = self.arrived.subscribe();
        let enough = seen.wait_for(|now| *now >= count);
        let in_time = tokio::time::timeout(Duration::from_secs(10), enough).await;
        assert!(in_time.is_ok(), "fewer than {count} requests came");
    }

    pub fn count(&self) -> usize {
        *self.arrived.borrow()
    }

    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// Who is in front of the provider's (absent) sign-in page.
#[derive(Clone, Debug)]
pub struct Person {
    pub sub: String,
    /// Claims beside `sub`, in the ID token and in user info.
    pub claims: Object,
}

impl Person {
    /// Someone whose name, e-mail and user name follow from the subject.
    pub fn named(sub: &str) -> Self {
        let claims = json!({
            "name": format!("{sub} Tester"), "given_name": sub, "family_name": "Tester",
            "preferred_username": sub, "email": format!("{sub}@example.test"),
            "email_verified": true, "locale": "en",
        });
        Self { sub: sub.into(), claims: claims.as_object().cloned().unwrap_or_default() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }
}

/// Which client authentication `/token`, `/par`, `/revoke` and `/introspect` insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Any of the three that prove something.
    Proven,
    Basic,
    Post,
    PrivateKeyJwt,
    /// A public client: a secret is not looked at.
    None,
}

/// The script. Public fields are facts; methods of the same name as a thing set its mutator.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent habit of a provider")]
pub struct Script {
    pub person: Person,
    /// The provider's own session id, in ID tokens as `sid`; one per login when `None`.
    pub sid: Option<String>,
    /// Unix seconds for `auth_time`; the moment of the login when `None`.
    pub auth_time: Option<i64>,
    pub client_id: String,
    pub client_secret: String,
    pub client_auth: ClientAuth,
    /// The client's own key for `private_key_jwt`.
    pub client_key: Option<SigningKey>,
    pub require_par: bool,
    /// User name and password that the password grant takes for `person`; `None` = not offered.
    pub password: Option<(String, String)>,
    /// Life of access and ID tokens; `expires_in` says the same.
    pub token_life_s: i64,
    pub refresh_tokens: bool,
    pub rotate_refresh: bool,
    /// Whether a rotated refresh token that comes back ends its whole family (RFC 9700 4.14.2).
    pub reuse_revokes: bool,
    pub id_token_at_refresh: bool,
    pub access_token_audience: Value,
    /// The key that signs now, and those that `/jwks` shows.
    pub key: SigningKey,
    pub published: Vec<SigningKey>,
    /// Answers by path, for every request until removed.
    pub always: HashMap<String, Answer>,
    /// Answers by path, one request each; they go before `always`.
    pub queue: HashMap<String, VecDeque<Answer>>,
    /// Doors by path: before the work is done, and between the work and its answer.
    pub hold_before: HashMap<String, Gate>,
    pub hold_answer: HashMap<String, Gate>,
    pub(super) on_id_token: Option<OnToken>,
    pub(super) on_raw_id_token: Option<OnMinted>,
    pub(super) on_access_token: Option<OnToken>,
    pub(super) on_token_response: Option<OnObject>,
    pub(super) on_userinfo: Option<OnObject>,
    pub(super) on_discovery: Option<OnObject>,
    pub(super) on_jwks: Option<OnKeys>,
    pub(super) on_authorization: Option<OnPairs>,
    slot: usize,
    rotations: usize,
}

impl Script {
    /// An honest provider that signs RS256 with the shared keys of `slot`.
    pub(super) fn honest(slot: usize) -> Self {
        let key = SigningKey::shared(Alg::Rs256, slot);
        Self {
            person: Person::named("alice"),
            sid: None,
            auth_time: None,
            client_id: "doorward".into(),
            client_secret: "s3cret+with%odd&chars:".into(),
            client_auth: ClientAuth::Proven,
            client_key: None,
            require_par: false,
            password: None,
            token_life_s: 300,
            refresh_tokens: true,
            rotate_refresh: true,
            reuse_revokes: true,
            id_token_at_refresh: true,
            access_token_audience: "doorward".into(),
            published: vec![key.clone()],
            key,
            always: HashMap::new(),
            queue: HashMap::new(),
            hold_before: HashMap::new(),
            hold_answer: HashMap::new(),
            on_id_token: None,
            on_raw_id_token: None,
            on_access_token: None,
            on_token_response: None,
            on_userinfo: None,
            on_discovery: None,
            on_jwks: None,
            on_authorization: None,
            slot,
            rotations: 0,
        }
    }

    /// From now on every request to `path` gets this; [`Answer::Normal`] ends it.
    pub fn answer(&mut self, path: &str, answer: Answer) {
        self.always.insert(path.into(), answer);
    }

    /// The next request to `path` that has nothing queued before it gets this, once.
    pub fn next(&mut self, path: &str, answer: Answer) {
        self.queue.entry(path.into()).or_default().push_back(answer);
    }

    /// Changes header and claims of every ID token before it is signed.
    pub fn id_token(&mut self, change: impl Fn(&mut Object, &mut Object) + Send + Sync + 'static) {
        self.on_id_token = Some(Arc::new(change));
    }

    /// Changes the claims alone.
    pub fn claims(&mut self, change: impl Fn(&mut Object) + Send + Sync + 'static) {
        self.id_token(move |_, claims| change(claims));
    }

    /// The last word over the compact ID token.
    pub fn raw_id_token(&mut self, replace: impl Fn(&Minted) -> String + Send + Sync + 'static) {
        self.on_raw_id_token = Some(Arc::new(replace));
    }

    /// Changes header and claims of every access token before it is signed.
    pub fn access_token(&mut self, change: impl Fn(&mut Object, &mut Object) + Send + Sync + 'static) {
        self.on_access_token = Some(Arc::new(change));
    }

    /// Changes the JSON object of every successful token answer.
    pub fn token_response(&mut self, change: impl Fn(&mut Object) + Send + Sync + 'static) {
        self.on_token_response = Some(Arc::new(change));
    }

    pub fn userinfo(&mut self, change: impl Fn(&mut Object) + Send + Sync + 'static) {
        self.on_userinfo = Some(Arc::new(change));
    }

    pub fn discovery(&mut self, change: impl Fn(&mut Object) + Send + Sync + 'static) {
        self.on_discovery = Some(Arc::new(change));
    }

    /// Changes the list of keys that `/jwks` shows.
    pub fn jwks(&mut self, change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) {
        self.on_jwks = Some(Arc::new(change));
    }

    /// Changes the callback's parameters: drop, double, replace. The redirect URI itself stays.
    pub fn authorization_response(
        &mut self,
        change: impl Fn(&mut Vec<(String, String)>) + Send + Sync + 'static,
    ) {
        self.on_authorization = Some(Arc::new(change));
    }

    /// Every login ends in this error instead of a code (RFC 6749 section 4.1.2.1).
    pub fn deny(&mut self, error: &'static str) {
        self.authorization_response(move |pairs| {
            pairs.retain(|(name, _)| name != "code");
            pairs.push(("error".into(), error.into()));
        });
    }

    /// A new key signs from now on; the old ones stay published behind it.
    pub fn rotate_key(&mut self) {
        let alg = self.key.alg().unwrap_or(Alg::Rs256);
        self.rotations += 1;
        self.key = self.own_key(alg);
        self.published.retain(|old| old.kid() != self.key.kid());
        self.published.insert(0, self.key.clone());
    }

    /// `/jwks` shows the signing key alone.
    pub fn forget_old_keys(&mut self) {
        self.published = vec![self.key.clone()];
    }

    /// Signs with, and publishes, a key of another algorithm.
    pub fn sign_with(&mut self, alg: Alg) {
        self.key = self.own_key(alg);
        self.forget_old_keys();
    }

    /// The fourth rotation comes back to the first key, so that a process makes few pairs.
    fn own_key(&self, alg: Alg) -> SigningKey {
        SigningKey::shared(alg, self.slot + 1000 * (self.rotations % 4))
    }
}
