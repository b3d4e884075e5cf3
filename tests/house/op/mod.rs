//! The scripted hostile OpenID provider: a real issuer on loopback that is honest until a test
//! says otherwise. It owns its port, its keys and a record of every request; it knows nothing of
//! Doorward. Its server runs on a thread of its own, so it outlives any one test runtime.

mod answer;
mod client_auth;
mod endpoints;
pub mod keys;
pub mod mint;
mod script;
mod silent;
mod token;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

pub use keys::{Alg, SigningKey};
pub use mint::{Minted, PublicForm};
pub use script::{Answer, ClientAuth, Gate, Person, Script};
pub use silent::SilentListener;

/// Unix milliseconds, owned by the test.
pub type NowMs = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Name-value pairs of a query or a form, in their order, decoded.
pub type Pairs = Vec<(String, String)>;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    /// Raw, without the question mark.
    pub query: String,
    /// Names in lower case; a repeated header is repeated here.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Unix milliseconds by the provider's clock.
    pub at: i64,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn query_pairs(&self) -> Pairs {
        decode(self.query.as_bytes())
    }

    pub fn form_pairs(&self) -> Pairs {
        decode(&self.body)
    }

    /// The first form field of this name.
    pub fn form(&self, name: &str) -> Option<String> {
        first(&self.form_pairs(), name)
    }

    /// The first query parameter of this name.
    pub fn query(&self, name: &str) -> Option<String> {
        first(&self.query_pairs(), name)
    }
}

fn decode(bytes: &[u8]) -> Pairs {
    url::form_urlencoded::parse(bytes).into_owned().collect()
}

fn first(pairs: &Pairs, name: &str) -> Option<String> {
    let found = pairs.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone())
}

/// What somebody signed in to: the family that all its tokens share.
#[derive(Clone)]
struct Grant {
    person: Person,
    scope: String,
    sid: String,
    auth_time: i64,
    acr: Option<String>,
    revoked: bool,
}

struct Code {
    grant: usize,
    redirect_uri: String,
    challenge: String,
    nonce: Option<String>,
    expires_ms: i64,
    used: bool,
}

struct Refresh {
    grant: usize,
    used: bool,
}

struct Access {
    grant: usize,
    expires_s: i64,
}

/// The provider's memory.
#[derive(Default)]
struct Book {
    grants: Vec<Grant>,
    codes: HashMap<String, Code>,
    pushed: HashMap<String, Pairs>,
    refresh: HashMap<String, Refresh>,
    access: HashMap<String, Access>,
    assertions: HashSet<String>,
}

struct Shared {
    issuer: String,
    script: Mutex<Script>,
    requests: Mutex<Vec<Recorded>>,
    now: Mutex<NowMs>,
    book: Mutex<Book>,
}

impl Shared {
    fn now_ms(&self) -> i64 {
        let now = self.now.lock().unwrap().clone();
        now()
    }

    fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }
}

/// A share of the key pairs. Two providers that live at the same time never have the same one, so
/// that a token of one is not good at the other by luck; the next test uses the pairs again.
struct Slot(usize);

static TAKEN: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

impl Slot {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap();
        let mut free = 0..=taken.len();
        let free = free.find(|slot| !taken.contains(slot)).unwrap_or_default();
        taken.insert(free);
        Self(free)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        TAKEN.lock().unwrap().remove(&self.0);
    }
}

/// A running provider. Stops when dropped.
pub struct ScriptedOp {
    _slot: Slot,
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Mutex<Option<ServerHandle>>,
    /// While stopped, a bound socket that does not listen keeps the port ours and refuses callers.
    parked: Mutex<Option<TcpSocket>>,
}

impl ScriptedOp {
    /// Listens on a free loopback port; the issuer is `http://127.0.0.1:PORT`.
    pub async fn start() -> Self {
        let slot = Slot::take();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            issuer: format!("http://{address}"),
            script: Mutex::new(Script::honest(slot.0)),
            requests: Mutex::default(),
            now: Mutex::new(Arc::new(system_now_ms)),
            book: Mutex::default(),
        });
        let server = serve(shared.clone(), listener).await;
        Self { _slot: slot, shared, address, server: Mutex::new(Some(server)), parked: Mutex::default() }
    }

    pub fn issuer(&self) -> String {
        self.shared.issuer.clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.issuer)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads or changes the script; it holds from the next request on.
    pub fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.shared.script.lock().unwrap())
    }

    /// The provider's clock in unix milliseconds; the system's until set.
    pub fn set_now(&self, now: NowMs) {
        *self.shared.now.lock().unwrap() = now;
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn requests_to(&self, path: &str) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.path == path);
        requests
    }

    pub fn count(&self, path: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|known| known.path == path).count()
    }

    /// Forgets the recorded requests; codes and tokens stay.
    pub fn clear(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    pub fn end_session_requests(&self) -> Vec<Recorded> {
        self.requests_to("/end-session")
    }

    /// Somebody signed in before the test began: the refresh token that they hold.
    pub fn granted(&self, person: Person, auth_time_s: i64) -> String {
        let sid = format!("sid-of-{}", person.sub);
        let grant = Grant {
            person,
            scope: "openid".to_owned(),
            sid,
            auth_time: auth_time_s,
            acr: None,
            revoked: false,
        };
        let mut book = self.shared.book.lock().unwrap();
        book.grants.push(grant);
        let at = book.grants.len() - 1;
        token::new_refresh(&mut book, at)
    }

    /// Everything granted so far is over: refresh is `invalid_grant`, user info 401.
    pub fn revoke_all_grants(&self) {
        let mut book = self.shared.book.lock().unwrap();
        book.grants.iter_mut().for_each(|grant| grant.revoked = true);
    }

    /// `sid`s of the logins so far, in their order.
    pub fn sids(&self) -> Vec<String> {
        let book = self.shared.book.lock().unwrap();
        book.grants.iter().map(|grant| grant.sid.clone()).collect()
    }

    /// A correct logout token (Back-Channel Logout 1.0 section 2.4) after a last change of its
    /// claims.
    pub fn logout_token(
        &self,
        sub: Option<&str>,
        sid: Option<&str>,
        change: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> String {
        let script = self.shared.script.lock().unwrap().clone();
        let now = self.shared.now_s();
        let mut claims = json!({
            "iss": self.shared.issuer, "aud": script.client_id, "iat": now, "exp": now + 120,
            "jti": mint::random_text(),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        let map = claims.as_object_mut().unwrap();
        for (name, value) in [("sub", sub), ("sid", sid)] {
            if let Some(value) = value {
                map.insert(name.into(), value.into());
            }
        }
        change(map);
        mint::mint_claims("logout+jwt", &claims, &script.key)
    }

    /// Closes the port and every connection; callers are refused until [`Self::start_again`].
    pub async fn stop(&self) {
        let Some(server) = self.server.lock().unwrap().take() else {
            return;
        };
        server.stop(false).await;
        // The server does not wait for its workers. Every connection holds on to what is shared,
        // so once nobody else does, the last of them is closed.
        let over = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&self.shared) > 1 {
            assert!(Instant::now() < over, "a connection outlived the server");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        *self.parked.lock().unwrap() = Some(socket);
    }

    /// Serves again on the same port, with script, keys and memory as they were.
    pub async fn start_again(&self) {
        let Some(socket) = self.parked.lock().unwrap().take() else {
            return;
        };
        let listener = socket.listen(1024).unwrap().into_std().unwrap();
        let server = serve(self.shared.clone(), listener).await;
        *self.server.lock().unwrap() = Some(server);
    }
}

impl Drop for ScriptedOp {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            // The command is on its way once the future exists; nobody needs to wait for its end.
            drop(server.stop(false));
        }
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) -> ServerHandle {
    let (started, handle) = oneshot::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let shared = web::Data::from(shared);
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(web::PayloadConfig::new(64 * 1024 * 1024))
                    .app_data(shared.clone())
                    .default_service(web::to(endpoints::dispatch))
            })
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener)
            .unwrap()
            .run();
            let _ = started.send(server.handle());
            let _ = server.await;
        });
    });
    handle.await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "only until a test sets the provider's clock")]
fn system_now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}
