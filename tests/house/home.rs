//! The house itself: the real server on free ports, a real database, and a clock that the test turns.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use doorward::app::{App, SystemClock, SystemRandom};
use doorward::config::{self, Sources};
use doorward::dev_idp::DevIdp;
use doorward::domain::Clock;
use doorward::flows::activity;
use doorward::flows::start::{Furniture, StartFault};
use doorward::server::Server;
use tokio::sync::{oneshot, watch};

use super::browser::Browser;
use super::databases::Database;
use super::op::ScriptedOp;

/// The machine's time, plus what the test has added; or a moment at which it stands still.
pub struct TestClock {
    ahead_ms: AtomicI64,
    stands_at_ms: AtomicI64,
}

/// No moment that a clock would stand at.
const RUNS: i64 = i64::MIN;

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { ahead_ms: AtomicI64::new(0), stands_at_ms: AtomicI64::new(RUNS) })
    }

    pub fn advance(&self, by: Duration) {
        self.move_by(i64::try_from(by.as_millis()).unwrap());
    }

    pub fn turn_back(&self, by: Duration) {
        self.move_by(-i64::try_from(by.as_millis()).unwrap());
    }

    fn move_by(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
        let _ = self
            .stands_at_ms
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |at| (at != RUNS).then(|| at + ms));
    }

    /// Stops at this moment, for limits that are told to the second.
    pub fn stand_at(&self, unix_ms: i64) {
        self.stands_at_ms.store(unix_ms, Ordering::SeqCst);
    }
}

thread_local! {
    static BROKEN: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, whoever asks a clock of these on this thread panics: a fault in the midst of our own code.
pub struct BrokenClock;

impl BrokenClock {
    pub fn here() -> Self {
        BROKEN.set(true);
        Self
    }
}

impl Drop for BrokenClock {
    fn drop(&mut self) {
        BROKEN.set(false);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        assert!(!BROKEN.get(), "canary in a panic");
        match self.stands_at_ms.load(Ordering::SeqCst) {
            RUNS => SystemClock.now_ms() + self.ahead_ms.load(Ordering::SeqCst),
            at => at,
        }
    }
}

/// What a house is made of before it opens.
pub struct Plan {
    text: Option<String>,
    environment: Vec<(String, String)>,
    clock: Arc<TestClock>,
    folder: Option<PathBuf>,
}

impl Plan {
    /// One more environment override, in the operator's spelling: `SESSION__IDLE`, `"\"10m\""`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.environment.push((format!("DOORWARD__{key}"), value.to_owned()));
        self
    }

    pub fn database(self, database: &Database) -> Self {
        let url = database.url.clone();
        self.set("DATABASE__URL", &url)
    }

    /// Another replica shares clock, folder (and so the keys) with this house.
    pub fn clock(mut self, clock: &Arc<TestClock>) -> Self {
        self.clock = Arc::clone(clock);
        self
    }

    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    pub async fn open(self) -> TestHouse {
        self.try_open().await.unwrap()
    }

    /// Opens the house; the test goes on when both listeners are bound and the door is open.
    pub async fn try_open(self) -> Result<TestHouse, StartFault> {
        let own = tempfile::tempdir().unwrap();
        let folder = self.folder.clone().unwrap_or_else(|| own.path().to_owned());
        let file = self.text.as_ref().map(|text| {
            let path = own.path().join("config.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut environment = vec![
            ("DOORWARD__SERVER__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("DOORWARD__SERVER__OPERATIONS_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            (
                "DOORWARD__DATABASE__URL".to_owned(),
                format!("sqlite:{}", folder.join("doorward.db").display()),
            ),
            ("DOORWARD__KEYS__RING__K1__FILE".to_owned(), folder.join("k1").display().to_string()),
        ];
        for (name, value) in self.environment {
            environment.retain(|(known, _)| *known != name);
            environment.push((name, value));
        }
        if !folder.join("k1").exists() {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).unwrap();
            std::fs::write(folder.join("k1"), key).unwrap();
        }
        let database =
            environment.iter().find(|(name, _)| name == "DOORWARD__DATABASE__URL").unwrap().1.clone();
        let sources = Sources { file, folder: folder.clone(), environment };
        let loaded = config::load(&sources).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let at =
            Furniture { clock: Arc::clone(&self.clock) as Arc<dyn Clock>, random: Arc::new(SystemRandom) };
        let (tell, told) = oneshot::channel();
        let (stop, stopping) = watch::channel(false);
        let thread = std::thread::spawn(move || serve(loaded.config, sources, at, tell, stopping));
        let bound = told.await.unwrap()?;
        let house = TestHouse {
            url: bound.url,
            address: bound.address,
            database: Database::at(&database),
            operations: bound.operations,
            clock: self.clock,
            folder,
            dev_idp: bound.dev_idp,
            app: bound.app,
            stop,
            thread: Some(thread),
            _own: own,
        };
        house.wait_until_open().await;
        Ok(house)
    }
}

struct Bound {
    url: String,
    address: SocketAddr,
    operations: String,
    dev_idp: Option<DevIdp>,
    app: doorward::web::operations::MaybeApp,
}

fn serve(
    config: config::Config,
    sources: Sources,
    at: Furniture,
    tell: oneshot::Sender<Result<Bound, StartFault>>,
    stop: watch::Receiver<bool>,
) {
    actix_web::rt::System::new().block_on(async {
        let server = match Server::bind(config, Some(sources), at).await {
            Ok(server) => server.workers(2),
            Err(fault) => {
                let _ = tell.send(Err(fault));
                return;
            }
        };
        let (address, operations) = server.addresses().unwrap();
        let url = server.public_url().origin().ascii_serialization();
        let bound = Bound {
            url,
            address,
            operations: format!("http://{operations}"),
            dev_idp: server.dev_idp(),
            app: server.app(),
        };
        let _ = tell.send(Ok(bound));
        if let Err(fault) = server.run_until_stopped(stop).await {
            eprintln!("the house closed by itself: {fault}");
        }
    });
}

/// An open house; it closes when dropped.
pub struct TestHouse {
    /// The public origin as browsers name it, `http://localhost:PORT` unless the plan says otherwise.
    pub url: String,
    pub operations: String,
    /// Where the public listener really is.
    pub address: SocketAddr,
    /// The same database, for what no request would do.
    pub database: Database,
    pub clock: Arc<TestClock>,
    /// Holds the key file, and the SQLite database unless the plan names another.
    pub folder: PathBuf,
    dev_idp: Option<DevIdp>,
    app: doorward::web::operations::MaybeApp,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _own: tempfile::TempDir,
}

impl TestHouse {
    /// The built-in set-up: SQLite, the development issuer, the demo app.
    pub async fn open() -> Self {
        Self::plan().open().await
    }

    pub fn plan() -> Plan {
        Plan { text: None, environment: Vec::new(), clock: TestClock::new(), folder: None }
    }

    /// A house with these `[[provider]]` tables (and whatever else the text holds) instead of the built-in ones; the demo app stays.
    pub fn with(providers: &str) -> Plan {
        Plan { text: Some(format!("{providers}\n{DEMO_ROUTES}")), ..Self::plan() }
    }

    /// A house whose one provider is the scripted one, as id `op`.
    pub fn with_op(op: &ScriptedOp) -> Plan {
        Self::with(&op_provider("op", op))
    }

    pub fn app(&self) -> Arc<App> {
        self.app.load_full().expect("the house is open")
    }

    pub fn dev_idp(&self) -> &DevIdp {
        self.dev_idp.as_ref().expect("this house has the development issuer")
    }

    /// Writes what no flow would write to rows that the house remembers; it looks at them again.
    pub async fn rewrite(&self, sql: &str) {
        self.database.execute(sql).await;
        self.app().store.doubt_all();
    }

    /// Lets the rows say when their sessions were last used, which they say a moment later by themselves.
    pub async fn settle(&self) {
        activity::write(&self.app()).await.expect("the activity is written");
    }

    /// A number that the house tells its operator.
    pub async fn metric(&self, name: &str) -> u64 {
        let page = Browser::new(&self.operations).get("/metrics").await.text();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("doorward_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// How many audit events of this reason there are.
    pub async fn refusals(&self, reason: &str) -> i64 {
        self.database
            .number(&format!(
                "SELECT count(*) FROM audit_log WHERE outcome = 'refused' AND reason = '{reason}'"
            ))
            .await
    }

    pub async fn live_sessions(&self) -> i64 {
        self.database.number("SELECT count(*) FROM sessions WHERE revoked_at IS NULL").await
    }

    /// A person with an empty cookie jar in front of this house.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.url)
    }

    async fn wait_until_open(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while self.app.load().is_none() {
            assert!(std::time::Instant::now() < deadline, "the house did not open in 20 s");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Closes the house as SIGTERM would.
    pub fn close(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for TestHouse {
    fn drop(&mut self) {
        self.close();
    }
}

/// A `[[provider]]` table of kind oidc for a scripted provider.
pub fn op_provider(id: &str, op: &ScriptedOp) -> String {
    let issuer = op.issuer();
    format!(
        "[[provider]]\nid = \"{id}\"\nkind = \"oidc\"\nlabel = \"Provider {id}\"\nissuer = \"{issuer}\"\nclient_id = \"doorward\"\nclient_secret = 's3cret+with%odd&chars:'\n"
    )
}

/// The routes of the built-in set-up.
pub const DEMO_ROUTES: &str = r#"
[[upstream]]
id = "demo"
urls = ["builtin:demo"]

[[route]]
path = "/"
access = "public"
upstream = "demo"

[[route]]
path = "/protected"
access = "signed_in"
upstream = "demo"

[[route]]
path = "/admin-only"
access = "signed_in"
roles = ["admin"]
upstream = "demo"
"#;

/// A port that was free a moment ago, for providers that must know the house's address before it opens.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
