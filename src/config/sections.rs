//! The small sections: database, session, cache, cors, limits, registration, log, telemetry,
//! sync and outgoing webhooks.

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{
    address,
    reader::Reader,
    units::{self, DAY_MS, HOUR_MS, MINUTE_MS, Rate, SECOND_MS},
};

/// The `[database]` section.
#[derive(Clone, Debug)]
pub struct Database {
    /// `sqlite:…` or `postgres://…`; it may hold a password.
    pub url: SecretString,
    /// Whether `serve` applies migrations itself.
    pub migrate: bool,
    /// The most connections held at once.
    pub pool_size: u32,
}

pub(super) fn database(mut section: Reader<'_>) -> Database {
    let url = section.secret("url");
    let known =
        |url: &str| ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if url.as_ref().is_some_and(|url| !known(url.expose_secret())) {
        let key = if section.has("url") { "url" } else { "url_file" };
        let advice = "write sqlite:<file> or postgres://<user>@<host>/<name>";
        section.fault(key, "names no database that doorward knows", advice);
    }
    let database = Database {
        url: url.unwrap_or_else(|| "sqlite:doorward.db".into()),
        migrate: section.bool("migrate", true),
        pool_size: narrow(section.integer("pool_size", 10, (1, 1_000))),
    };
    section.finish();
    database
}

/// The `[session]` section. Durations are milliseconds.
#[derive(Clone, Debug)]
pub struct Session {
    /// A session unused for this long ends.
    pub idle_ms: i64,
    /// A session ends this long after its login, whatever happens.
    pub overall_ms: i64,
    /// Refresh is due this long before a token expires; `None` = min(60 s, half its life).
    pub refresh_margin_ms: Option<i64>,
    /// Names that `/auth/me` may show under `claims`.
    pub expose_claims: Vec<String>,
    /// Whether asking `/auth/me` counts as activity; false where background tabs poll it (security.md SE-14).
    pub me_keeps_alive: bool,
}

pub(super) fn session(mut section: Reader<'_>) -> Session {
    let longest = 30 * DAY_MS;
    let session = Session {
        idle_ms: section.duration_ms("idle", HOUR_MS, (SECOND_MS, longest)),
        overall_ms: section.duration_ms("overall", 24 * HOUR_MS, (SECOND_MS, longest)),
        refresh_margin_ms: section.optional_duration_ms("refresh_margin", (0, DAY_MS)),
        expose_claims: section.strings("expose_claims", &[]),
        me_keeps_alive: section.bool("me_keeps_alive", true),
    };
    if session.idle_ms > session.overall_ms {
        let problem = format!(
            "{} is longer than session.overall, {}",
            units::duration_text(session.idle_ms),
            units::duration_text(session.overall_ms)
        );
        section.fault("idle", &problem, "shorten idle or lengthen overall");
    }
    section.finish();
    session
}

/// The `[cache]` section.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The memory that cached sessions may take, in bytes.
    pub size_bytes: u64,
}

pub(super) fn cache(mut section: Reader<'_>) -> Cache {
    let size_bytes = section.size_bytes("size", 128 << 20, (1 << 20, 64 << 30));
    section.finish();
    Cache { size_bytes }
}

/// The `[cors]` section.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Exact origins, as browsers write them.
    pub origins: Vec<String>,
}

pub(super) fn cors(mut section: Reader<'_>) -> Cors {
    let mut origins = Vec::new();
    for text in section.strings("origins", &[]) {
        match address::origin(&text) {
            Ok(origin) => {
                if Url::parse(&origin).is_ok_and(|url| !address::is_safe_target(&url)) {
                    section.report.warn(format!("cors.origins {origin}: plain http is trusted"));
                }
                origins.push(origin);
            }
            Err(meant) => {
                let advice = meant.map_or_else(
                    || "write origins such as \"https://app.example\"; no \"*\", no \"null\"".into(),
                    |meant| format!("write \"{meant}\""),
                );
                section.fault(
                    "origins",
                    &format!("{} is not an exact origin", address::shown(&text)),
                    &advice,
                );
            }
        }
    }
    section.finish();
    Cors { origins }
}

/// The `[limits]` section. A rate of `None` is switched off.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Login starts per address.
    pub login_start: Option<Rate>,
    /// Callbacks per address.
    pub callback: Option<Rate>,
    /// Refreshes per address.
    pub refresh: Option<Rate>,
    /// Registrations per address.
    pub register: Option<Rate>,
    /// Wrong passwords per address.
    pub password_failures_address: Option<Rate>,
    /// Wrong passwords per identifier; past it the wait doubles up to 15 minutes.
    pub password_failures_identifier: Option<Rate>,
    /// Refused logout tokens per address; valid ones are never limited.
    pub bad_logout_tokens: Option<Rate>,
    /// Bearer tokens per address that a provider was asked about and does not know; good ones are never limited.
    pub bad_bearer_tokens: Option<Rate>,
    /// The oldest session of a user ends when there would be more.
    pub sessions_per_user: u32,
    /// Login attempts that one browser may have open.
    pub login_attempts_per_browser: usize,
    /// The life of a login attempt in milliseconds.
    pub login_attempt_ms: i64,
    /// WebSockets that may be open at once in this process.
    pub websockets: usize,
}

pub(super) fn limits(mut section: Reader<'_>) -> Limits {
    let limits = Limits {
        login_start: section.rate("login_start", "600/1m"),
        callback: section.rate("callback", "600/1m"),
        refresh: section.rate("refresh", "600/1m"),
        register: section.rate("register", "20/1h"),
        password_failures_address: section.rate("password_failures_address", "100/15m"),
        password_failures_identifier: section.rate("password_failures_identifier", "10/15m"),
        bad_logout_tokens: section.rate("bad_logout_tokens", "60/1m"),
        bad_bearer_tokens: section.rate("bad_bearer_tokens", "60/1m"),
        sessions_per_user: narrow(section.integer("sessions_per_user", 100, (1, 100_000))),
        login_attempts_per_browser: usize::try_from(section.integer(
            "login_attempts_per_browser",
            5,
            (1, 10),
        ))
        .unwrap_or(5),
        login_attempt_ms: section.duration_ms(
            "login_attempt",
            10 * MINUTE_MS,
            (10 * SECOND_MS, 60 * MINUTE_MS),
        ),
        websockets: usize::try_from(section.integer("websockets", 10_000, (0, 1_000_000)))
            .unwrap_or_default(),
    };
    for (key, rate) in limits.rates() {
        if rate.is_none() {
            section.report.warn(format!("limits.{key} is off: nothing slows an attacker there"));
        }
    }
    section.finish();
    limits
}

impl Limits {
    /// Every rate with its key.
    pub(super) fn rates(&self) -> [(&'static str, Option<Rate>); 8] {
        [
            ("login_start", self.login_start),
            ("callback", self.callback),
            ("refresh", self.refresh),
            ("register", self.register),
            ("password_failures_address", self.password_failures_address),
            ("password_failures_identifier", self.password_failures_identifier),
            ("bad_logout_tokens", self.bad_logout_tokens),
            ("bad_bearer_tokens", self.bad_bearer_tokens),
        ]
    }
}

/// The `[registration]` section.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Names of attributes that may pass into `app_data.registration`.
    pub attributes: Vec<String>,
    /// Whether an address already taken is answered like a free one.
    pub hide_existing: bool,
}

pub(super) fn registration(mut section: Reader<'_>) -> Registration {
    let attributes = section.strings("attributes", &[]);
    let hide_existing = section.bool("hide_existing", false);
    section.finish();
    Registration { attributes, hide_existing }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// The `[log]` section.
#[derive(Clone, Debug)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A level, or a list of `target=level` separated by commas.
    pub level: String,
}

pub(super) fn log(mut section: Reader<'_>) -> Log {
    let formats = [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)];
    let format = section.choice("format", &formats, LogFormat::Pretty);
    let level = section.string("level", "info");
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let is_directive = |text: &str| {
        let (target, level) = text.split_once('=').unwrap_or(("doorward", text));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        !target.is_empty() && target.chars().all(is_name) && levels.contains(&level)
    };
    if !level.split(',').all(is_directive) {
        let advice = format!("write one of {}, or doorward=debug,info", levels.join(", "));
        section.fault("level", &format!("\"{level}\" is not a log level"), &advice);
    }
    section.finish();
    Log { format, level }
}

/// The `[telemetry]` section.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Where traces go by OTLP over HTTP; absent = nowhere.
    pub otlp_endpoint: Option<Url>,
    /// The name under which they appear.
    pub service_name: String,
}

pub(super) fn telemetry(mut section: Reader<'_>) -> Telemetry {
    let otlp_endpoint = section.url("otlp_endpoint");
    let service_name = section.string("service_name", "doorward");
    section.finish();
    Telemetry { otlp_endpoint, service_name }
}

/// The `[sync]` section.
#[derive(Clone, Debug)]
pub struct Sync {
    /// The time between two bulk runs in milliseconds; `None` = off.
    pub every_ms: Option<i64>,
    /// A run that would deactivate a greater part of the users is refused.
    pub brake_percent: u8,
}

pub(super) fn sync(mut section: Reader<'_>) -> Sync {
    let every = |text: &str| match text {
        "off" => Some(None),
        _ => units::duration_ms(text).filter(|every_ms| *every_ms >= MINUTE_MS).map(Some),
    };
    let advice = "write a duration of at least a minute, such as \"24h\", or \"off\"";
    let every_ms = section.parsed("every", every, advice).unwrap_or(Some(24 * HOUR_MS));
    let brake = section.parsed("brake", units::percent, units::PERCENT_ADVICE);
    section.finish();
    Sync { every_ms, brake_percent: brake.unwrap_or(10) }
}

/// One `[[webhook_out]]`.
#[derive(Clone, Debug)]
pub struct WebhookOut {
    /// Its name in logs and in the environment; default: its number.
    pub id: String,
    /// Where events are posted.
    pub url: Url,
    /// What signs them (Standard Webhooks).
    pub secret: SecretString,
    /// Names of events, `*` standing for any last part.
    pub events: Vec<String>,
}

pub(super) fn webhooks_out(sections: Vec<Reader<'_>>) -> Vec<WebhookOut> {
    let read = |(at, section): (usize, Reader<'_>)| webhook_out(section, at + 1);
    sections.into_iter().enumerate().filter_map(read).collect()
}

fn webhook_out(mut section: Reader<'_>, number: usize) -> Option<WebhookOut> {
    let id = section.string("id", &number.to_string());
    if !section.has("url") {
        section.fault("url", "is missing", "write the address that takes the events");
    }
    let url = section.url("url");
    if url.as_ref().is_some_and(|url| !address::is_safe_target(url)) {
        section.fault("url", "is http on a public address", "use https");
    }
    if !section.has_secret("secret") {
        section.fault("secret_file", "is missing", "name a file with the signing secret");
    }
    let secret = section.secret("secret");
    let events = section.strings("events", &["*"]);
    let is_name = |event: &str| {
        let name = event.strip_suffix('*').unwrap_or(event);
        name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte))
    };
    for event in events.iter().filter(|event| !is_name(event)) {
        let problem = format!("\"{event}\" names no event");
        section.fault("events", &problem, "write names such as \"user.created\" or \"user.*\"");
    }
    section.finish();
    Some(WebhookOut { id, url: url?, secret: secret?, events })
}

/// A number that was checked to be between 0 and far below the limit of 32 bits.
fn narrow(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
