//! The names of a request's own fields in logs and traces (security.md LG-05). A search in a log store works only if one
//! thing has one name.

/// The id that the visitor's error page shows too.
pub const REQUEST_ID: &str = "request_id";
/// A registered HTTP method or `other`.
pub const METHOD: &str = "method";
/// The route's own name for itself; never the path that was asked for.
pub const PATH_CLASS: &str = "path_class";
