//! The names of the fields in logs and traces (security.md LG-05). A search in a log store works only if one
//! thing has one name, so every event and span takes its names from here.

/// The id that the visitor's error page shows too.
pub const REQUEST_ID: &str = "request_id";
/// A registered HTTP method or `other`.
pub const METHOD: &str = "method";
/// The route's own name for itself; never the path that was asked for.
pub const PATH_CLASS: &str = "path_class";
/// The HTTP status that was answered.
pub const STATUS: &str = "status";
/// The visitor's IP address, after trusted proxies.
pub const ADDRESS: &str = "address";
/// A configured provider's id.
pub const PROVIDER: &str = "provider";
/// `users.id`: a reference, never an email or a name.
pub const USER: &str = "user";
/// A reference to the session (its public id or a hash), never the cookie's key.
pub const SESSION: &str = "session";
/// `ok` or the word for what else it was.
pub const OUTCOME: &str = "outcome";
/// The machine-readable reason of a refusal (`Error::reason`).
pub const REASON: &str = "reason";
/// The job that wrote the event.
pub const JOB: &str = "job";
/// What went wrong, as text; foreign text is cut and filtered before it gets here.
pub const ERROR: &str = "error";
