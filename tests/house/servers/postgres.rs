//! A PostgreSQL cluster of the run's own, made by the binaries of the Debian package.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::supervised::{Launch, Supervised, folder};
use super::{Started, started};

const START_WITHIN: Duration = Duration::from_mins(1);
const READY: &str = "database system is ready to accept connections";
const PORT_TAKEN: &str = "could not bind";

static CLUSTER: Started<Cluster> = Started::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);
/// Databases whose tests are over. An empty database takes 7 MB on disk, so the next test drops them.
static LEFT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An empty database of the shared cluster; it is dropped some time after this value.
pub struct Database {
    /// `postgres://doorward@127.0.0.1:PORT/NAME`, no password.
    pub url: String,
    name: String,
}

/// A whole PostgreSQL. The shared one never stops; one of [`own_cluster`] does so when told and when dropped.
pub struct Cluster {
    process: Supervised,
    port: u16,
}

/// A new empty database in the shared cluster.
pub async fn fresh_database() -> Database {
    let cluster = started(&CLUSTER, Cluster::launch).await;
    let mut connection = cluster.connect().await;
    let left = std::mem::take(&mut *LEFT.lock().expect("nobody panics while holding it"));
    for name in left {
        run(&mut connection, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    }
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut connection, format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    connection.close().await.expect("the connection closes");
    Database { url: cluster.url(&name), name }
}

/// A private cluster, for tests of outages. It holds one empty database `doorward`.
pub async fn own_cluster() -> Cluster {
    let cluster = Cluster::launch().await.unwrap_or_else(|reason| panic!("{reason}"));
    let mut connection = cluster.connect().await;
    run(&mut connection, "CREATE DATABASE doorward TEMPLATE template0".to_owned()).await;
    connection.close().await.expect("the connection closes");
    cluster
}

impl Cluster {
    /// Where a client finds `database`; it stays the same over [`Cluster::stop`] and [`Cluster::start`].
    pub fn url(&self, database: &str) -> String {
        format!("postgres://doorward@127.0.0.1:{}/{database}", self.port)
    }

    /// Pulls the plug: every connection breaks at once, as in a crash of the server.
    pub async fn stop(&mut self) {
        self.order("stop", "supervise: stopped").await;
    }

    /// Starts again, on the same port and with the data of before.
    pub async fn start(&mut self) {
        self.order("start", READY).await;
    }

    async fn order(&mut self, order: &str, answer: &str) {
        let from = self.process.here();
        self.process.order(order).expect("the shell listens");
        self.process.line(&[answer], from, START_WITHIN).await.unwrap_or_else(|reason| panic!("{reason}"));
    }

    async fn launch() -> Result<Self, String> {
        // PostgreSQL cannot choose a port by itself, and another process may take ours in between.
        for _ in 0..5 {
            if let Some(cluster) = Self::attempt().await? {
                return Ok(cluster);
            }
        }
        Err("PostgreSQL found its port taken five times".to_owned())
    }

    async fn attempt() -> Result<Option<Self>, String> {
        let binaries = binaries()?;
        let owner = Owner::find()?;
        let folder = folder("postgres");
        let data = folder.join("data");
        std::fs::create_dir(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        owner.take(&folder)?;
        owner.take(&data)?;
        initdb(&owner, &binaries, &data)?;
        let port = free_port()?;
        let process = Supervised::start(Launch {
            name: "PostgreSQL",
            command: server_command(&owner, &binaries, &data, port),
            folder,
            // SIGQUIT is the immediate shutdown: nobody will ever recover these data.
            signal: "QUIT",
        })?;
        let line = process.line(&[READY, PORT_TAKEN], 0, START_WITHIN).await?;
        Ok(line.contains(READY).then_some(Self { process, port }))
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url("postgres")).await.expect("the cluster accepts connections")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut left) = LEFT.lock() {
            left.push(std::mem::take(&mut self.name));
        }
    }
}

/// Statements about databases take no parameters; every name in them is made here.
async fn run(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.expect("the statement is understood");
}

/// Whom PostgreSQL runs as: it refuses to be root.
enum Owner {
    Myself,
    Postgres { user: u32, group: u32 },
}

impl Owner {
    fn find() -> Result<Self, String> {
        if id(&["-u"])? != 0 {
            return Ok(Self::Myself);
        }
        Ok(Self::Postgres { user: id(&["-u", "postgres"])?, group: id(&["-g", "postgres"])? })
    }

    fn take(&self, path: &Path) -> Result<(), String> {
        match self {
            Self::Myself => Ok(()),
            Self::Postgres { user, group } => chown(path, Some(*user), Some(*group))
                .map_err(|error| format!("chown {}: {error}", path.display())),
        }
    }

    /// `setpriv` becomes the command, unlike `su` and `runuser`, which stay in front of it and swallow signals.
    fn command(&self, program: PathBuf) -> Vec<OsString> {
        let mut command: Vec<OsString> = Vec::new();
        if let Self::Postgres { user, group } = self {
            command.push("setpriv".into());
            command.push(format!("--reuid={user}").into());
            command.push(format!("--regid={group}").into());
            command.push("--clear-groups".into());
        }
        command.push(program.into_os_string());
        command
    }
}

fn id(arguments: &[&str]) -> Result<u32, String> {
    let output = Command::new("id").args(arguments).output().map_err(|error| format!("id: {error}"))?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| format!("`id {}` found nobody. {}", arguments.join(" "), super::INSTALL))
}

/// The newest `/usr/lib/postgresql/*/bin`.
fn binaries() -> Result<PathBuf, String> {
    let newest = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max();
    newest
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .ok_or_else(|| format!("there is no PostgreSQL. {}", super::INSTALL))
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}

fn initdb(owner: &Owner, binaries: &Path, data: &Path) -> Result<(), String> {
    let command = owner.command(binaries.join("initdb"));
    let (program, arguments) = command.split_first().ok_or("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .arg("--pgdata")
        .arg(data)
        .args(["--username=doorward", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .current_dir(data)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("initdb: {error}. {}", super::INSTALL))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr)))
}

fn server_command(owner: &Owner, binaries: &Path, data: &Path, port: u16) -> Vec<OsString> {
    let mut command = owner.command(binaries.join("postgres"));
    command.push("-D".into());
    command.push(data.into());
    let port = format!("port={port}");
    for setting in [
        port.as_str(),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        // Each test brings a pool of its own, and many run at once.
        "max_connections=400",
        "shared_buffers=64MB",
        // A power cut would lose these data, and nobody would miss them. A killed server still loses nothing that
        // it promised: `synchronous_commit` stays on for the tests of outages.
        "fsync=off",
        "full_page_writes=off",
        "wal_level=minimal",
        "max_wal_senders=0",
    ] {
        command.push("-c".into());
        command.push(setting.into());
    }
    command
}
