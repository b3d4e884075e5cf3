//! What the operator wrote, turned into what the program may rely on.
//!
//! Owns the sources (built-in set-up, file, environment, secret files), the typed reading of
//! every key with its default and limits, and the checks between keys. Two steps: a written
//! tree in which each value knows its place, then checked structs. Every fault is found in
//! one run and says key, origin, problem and advice. Never talks to a network or a database,
//! never derives keys, knows no other room, and never lets a secret into a message.

mod address;
mod environment;
mod fault;
mod keys;
mod masked;
mod provider;
mod provider_checks;
mod provider_reader;
mod reader;
mod routes;
mod sections;
mod server;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::{env, io, path::PathBuf};

use url::Url;

pub use self::{
    address::{is_loopback, issuer as check_issuer, public_url as check_public_url},
    fault::Fault,
    keys::{KeyMaterial, KeySource, Keys},
    provider::{
        Admin, AssertionAudience, Bearer, Claims, ClientAuth, Provider, ProviderKind, RequireIss,
        ResponseMode, WebhookIn, When,
    },
    routes::{Access, Attach, Route, Upstream},
    sections::{
        Cache, Cors, Database, Limits, Log, LogFormat, Registration, Session, Sync, Telemetry, WebhookOut,
    },
    server::{Server, Tls},
    units::{DURATION_ADVICE, Rate, duration_ms},
};
use self::{
    fault::{Place, Report},
    reader::Reader,
    tree::Table,
};

/// The set-up that runs without any file: the repository's own `config.toml`.
pub const BUILT_IN: &str = include_str!("../../config.toml");

/// The file that counts when none is named.
const BESIDE: &str = "config.toml";

/// A configuration is text that people write; more than this is a mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// Where a configuration comes from. Later sources win: file, then environment.
#[derive(Clone)]
pub struct Sources {
    /// `--config FILE`. Without it: `config.toml` in `folder`, else the built-in set-up.
    pub file: Option<PathBuf>,
    /// The working folder; relative paths of the built-in set-up start here.
    pub folder: PathBuf,
    /// Names and values; only `DOORWARD__…` is looked at.
    pub environment: Vec<(String, String)>,
}

impl Sources {
    /// The working folder and the environment of this process. A `config.toml` that lies there now is meant from now on: should it
    /// be gone at a reload, that is a fault, and no wish for the built-in set-up.
    ///
    /// # Errors
    /// When the working folder is gone or unreadable.
    pub fn of_process(file: Option<PathBuf>) -> io::Result<Self> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = env::vars_os().filter_map(text).collect();
        let folder = env::current_dir()?;
        let beside = || is_there(&folder.join(BESIDE)).then(|| PathBuf::from(BESIDE));
        Ok(Self { file: file.or_else(beside), folder, environment })
    }
}

/// A configuration without a fault.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the program may rely on.
    pub config: Config,
    /// Risky settings, one line each (security.md SC-04).
    pub warnings: Vec<String>,
    /// The file's path, or `built-in config.toml`.
    pub origin: String,
}

/// The checked configuration. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[database]`
    pub database: Database,
    /// `[keys]`
    pub keys: Keys,
    /// `[session]`
    pub session: Session,
    /// `[cache]`
    pub cache: Cache,
    /// `[cors]`
    pub cors: Cors,
    /// `[limits]`
    pub limits: Limits,
    /// `[registration]`
    pub registration: Registration,
    /// `[log]`
    pub log: Log,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[[provider]]`, at least one.
    pub providers: Vec<Provider>,
    /// `[[upstream]]`
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[sync]`
    pub sync: Sync,
    /// `[[webhook_out]]`
    pub webhooks_out: Vec<WebhookOut>,
}

impl Config {
    /// Whether the embedded development provider is configured.
    #[must_use]
    pub fn has_dev_provider(&self) -> bool {
        self.providers.iter().any(|provider| provider.kind == ProviderKind::Dev)
    }

    /// Where nobody wrote `public_url`, lets it follow the port that the listener really got
    /// (port 0 picks one), and with it the issuer of the development provider.
    pub fn follow_port(&mut self, port: u16) {
        if !self.server.public_url_is_default {
            return;
        }
        if let Some(public_url) = server::default_public_url(port, self.server.tls.is_some()) {
            self.move_to(public_url);
        }
    }

    fn move_to(&mut self, public_url: Url) {
        let moves =
            |provider: &&mut Provider| provider.kind == ProviderKind::Dev && provider.issuer_is_default;
        for provider in self.providers.iter_mut().filter(moves) {
            provider.issuer = provider_reader::dev_issuer(&public_url);
        }
        self.server.public_url = public_url;
    }
}

/// Reads every source and checks every key.
///
/// # Errors
/// All faults at once, in the order of the file, those of the environment after them.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Fault>> {
    let (report, text) = open(sources)?;
    let mut root = match tree::parse(&text) {
        Ok(root) => root,
        Err(error) => {
            let place = Place::File { line: error.line };
            let problem = format!("column {}: {}", error.column, error.problem);
            report.fault("", &place, &problem, "mend the TOML; nothing else was checked");
            return Err(report.verdict().err().unwrap_or_default());
        }
    };
    environment::overlay(&mut root, &sources.environment, &report);
    let config = check(&root, &report);
    let origin = report.file().to_owned();
    let warnings = report.verdict()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings, origin }),
        // Unreachable: whatever leaves the configuration incomplete has reported a fault.
        None => Err(vec![unreadable(&origin, "is incomplete")]),
    }
}

/// Finds the file that counts and reads it.
fn open(sources: &Sources) -> Result<(Report, String), Vec<Fault>> {
    let beside = sources.folder.join(BESIDE);
    let (path, shown) = match &sources.file {
        Some(file) => (sources.folder.join(file), file.display().to_string()),
        None if is_there(&beside) => (beside, BESIDE.to_owned()),
        None => {
            let report = Report::new("built-in config.toml".into(), sources.folder.clone());
            return Ok((report, BUILT_IN.to_owned()));
        }
    };
    let folder = path.parent().unwrap_or(&sources.folder).to_owned();
    match read_limited(&path) {
        Ok(text) => Ok((Report::new(shown, folder), text)),
        Err(error) => Err(vec![unreadable(&shown, &format!("cannot be read: {error}"))]),
    }
}

/// A link to nowhere or a folder that cannot be entered counts as a file that cannot be read:
/// the built-in development set-up must never stand in for a configuration that was meant.
fn is_there(path: &std::path::Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn read_limited(path: &std::path::Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    let mut file = std::fs::File::open(path)?.take(LARGEST_FILE + 1);
    let read = file.read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > LARGEST_FILE) {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn unreadable(origin: &str, problem: &str) -> Fault {
    Fault {
        key: String::new(),
        origin: origin.to_owned(),
        problem: problem.to_owned(),
        advice: "name a readable file by --config, or run doorward init to make one".to_owned(),
    }
}

/// Reads every section, so that each reports its own faults, before any of them may fail.
fn check(root: &Table, report: &Report) -> Option<Config> {
    let mut reader = Reader::new(report, root);
    let server = server::read(reader.table("server"));
    let providers = provider_reader::read(reader.tables("provider"), server.as_ref());
    let written = root.entries.get("provider").map(|node| &node.value);
    if written.is_none_or(|list| matches!(list, tree::Value::List(list) if list.is_empty())) {
        reader.fault("provider", "is missing", "add a [[provider]]");
    }
    let has_dev = providers.iter().any(|provider| provider.kind == ProviderKind::Dev);
    let upstreams = routes::upstreams(reader.tables("upstream"));
    let prefix = server.as_ref().map_or("/auth", |server| server.auth_prefix.as_str());
    let routes = routes::routes(reader.tables("route"), &upstreams, prefix);
    let keys = keys::read(reader.table("keys"), has_dev);
    let database = sections::database(reader.table("database"));
    let session = sections::session(reader.table("session"));
    let cache = sections::cache(reader.table("cache"));
    let cors = sections::cors(reader.table("cors"));
    let limits = sections::limits(reader.table("limits"));
    let registration = sections::registration(reader.table("registration"));
    let log = sections::log(reader.table("log"));
    let telemetry = sections::telemetry(reader.table("telemetry"));
    let sync = sections::sync(reader.table("sync"));
    let webhooks_out = sections::webhooks_out(reader.tables("webhook_out"));
    reader.finish();
    let server = server?;
    let config = Config {
        server,
        database,
        keys,
        session,
        cache,
        cors,
        limits,
        registration,
        log,
        telemetry,
        providers,
        upstreams,
        routes,
        sync,
        webhooks_out,
    };
    warn_together(&config, report);
    Some(config)
}

/// Risks that show only when sections are seen together.
fn warn_together(config: &Config, report: &Report) {
    let is_demo = |upstream: &&Upstream| upstream.urls.iter().any(|url| url == routes::DEMO);
    if !config.has_dev_provider() {
        for upstream in config.upstreams.iter().filter(is_demo) {
            report.warn(format!("upstream.{} serves the demo app", upstream.id));
        }
    }
    if config.routes.is_empty() {
        report.warn("no route: everything outside our own paths is answered 404".to_owned());
    }
}
