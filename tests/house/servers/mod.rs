//! Other people's houses, for real: PostgreSQL, Keycloak, oidc-provider, Chromium, nginx, Caddy.
//!
//! Owns: starting each at most once per test run, on loopback and a free port, in a temporary folder, and
//! stopping it when the test binary ends, however it ends (see `supervise`).
//! Never: skips. A missing server is a failure that prints the command which installs it.

pub mod chromium;
pub mod form;
pub mod fronts;
pub mod keycloak;
pub mod oidc_provider;
pub mod postgres;
mod supervised;

use std::path::{Path, PathBuf};

/// What a failure tells the reader to run.
pub const INSTALL: &str = "run `scripts/test --install`, it installs what the tests need";

/// A client for plain HTTP on loopback: no redirects, no proxies. Make one per test: connections belong to
/// the runtime that opened them, so a shared client would fail in the next test.
#[expect(
    clippy::disallowed_methods,
    reason = "a test looks at the providers from outside, not through Doorward's own client"
)]
pub fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // No trust anchors: reading the system's takes longer than most tests.
        .tls_certs_only([])
        .build()
        .expect("a client without TLS roots can be built")
}

/// A file of this checkout.
fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a server's start gave, kept for the whole run. A start that failed once fails every test at once, with
/// the first reason, instead of being tried again by each.
type Started<T> = tokio::sync::OnceCell<Result<T, String>>;

/// The one server of the run, started by the first who asks.
async fn started<T, F>(cell: &'static Started<T>, start: impl FnOnce() -> F) -> &'static T
where
    F: Future<Output = Result<T, String>>,
{
    match cell.get_or_init(start).await {
        Ok(server) => server,
        Err(reason) => panic!("{reason}"),
    }
}
