//! `[server]`: the two listeners, the public origin, whom to believe about clients.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use url::Url;

use super::{
    address,
    reader::Reader,
    units::{MINUTE_MS, SECOND_MS},
};

/// The `[server]` section.
#[derive(Clone, Debug)]
pub struct Server {
    /// The public listener; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The one origin people see: scheme, host and port, with the path `/`.
    pub public_url: Url,
    /// Nobody wrote `public_url`: it follows the port of the listener.
    pub public_url_is_default: bool,
    /// The listener of health, metrics and the API description; port 0 picks a free one.
    pub operations_listen: SocketAddr,
    /// The path under which everything of ours lies, such as `/auth`; never ends in `/`.
    pub auth_prefix: String,
    /// Peers whose forwarding headers count; empty = nobody.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS on the public listener; absent where something in front ends it.
    pub tls: Option<Tls>,
    /// How long running requests may take after a stop was asked for, in milliseconds.
    pub shutdown_ms: u64,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

pub(super) const DEFAULT_LISTEN: SocketAddr = loopback(8080);
const DEFAULT_OPERATIONS: SocketAddr = loopback(9090);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// The origin that people see when nobody said otherwise.
pub(super) fn default_public_url(port: u16, is_tls: bool) -> Option<Url> {
    let scheme = if is_tls { "https" } else { "http" };
    Url::parse(&format!("{scheme}://localhost:{port}")).ok()
}

/// `None` only when not even a default origin could be made of the port, which cannot happen.
pub(super) fn read(mut section: Reader<'_>) -> Option<Server> {
    let listen = socket(&mut section, "listen", DEFAULT_LISTEN);
    let operations_listen = socket(&mut section, "operations_listen", DEFAULT_OPERATIONS);
    if listen == operations_listen && listen.port() != 0 {
        let advice = "give the operations listener a port of its own";
        section.fault("operations_listen", "is the same address as listen", advice);
    }
    let written = section.filled_string("public_url");
    let public_url = written.as_deref().and_then(|text| match address::public_url(text) {
        Ok(url) => Some(url),
        Err((problem, advice)) => {
            section.fault("public_url", &format!("{} {problem}", address::shown(text)), advice);
            None
        }
    });
    let tls = tls(section.table("tls"));
    if tls.is_some() && public_url.as_ref().is_some_and(|url| url.scheme() == "http") {
        let problem = "is plain http although server.tls serves https";
        section.fault("public_url", problem, "write https://, or remove server.tls");
    }
    let server = Server {
        listen,
        public_url: public_url.or_else(|| default_public_url(listen.port(), tls.is_some()))?,
        public_url_is_default: written.is_none(),
        operations_listen,
        auth_prefix: auth_prefix(&mut section),
        trusted_proxies: networks(&mut section, "trusted_proxies"),
        tls,
        shutdown_ms: section.duration_ms("shutdown", 10 * SECOND_MS, (0, 10 * MINUTE_MS)).unsigned_abs(),
    };
    warn(&section, &server);
    section.finish();
    Some(server)
}

fn warn(section: &Reader<'_>, server: &Server) {
    let report = section.report;
    if server.public_url.scheme() == "http" {
        let url = server.public_url.origin().ascii_serialization();
        report.warn(format!("server.public_url {url}: plain http, for development only"));
        if !address::is_local(server.listen) {
            report.warn(format!(
                "server.listen {}: plain http is reachable from other machines",
                server.listen
            ));
        }
    }
    if !address::is_local(server.operations_listen) {
        report.warn(format!(
            "server.operations_listen {}: metrics are readable from other machines",
            server.operations_listen
        ));
    }
    for network in server.trusted_proxies.iter().filter(|network| network.prefix_len() == 0) {
        report.warn(format!("server.trusted_proxies {network}: anybody may claim any client address"));
    }
}

fn socket(section: &mut Reader<'_>, key: &str, default: SocketAddr) -> SocketAddr {
    let parse = |text: &str| {
        // The name is unambiguous on every machine, unlike any other that needs resolving.
        text.strip_prefix("localhost:")
            .map_or_else(|| text.parse().ok(), |port| port.parse().ok().map(loopback))
    };
    let advice = "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
    section.parsed(key, parse, advice).unwrap_or(default)
}

fn auth_prefix(section: &mut Reader<'_>) -> String {
    let prefix = section.string("auth_prefix", "/auth");
    let is_name = |segment: &str| {
        !segment.is_empty()
            && !matches!(segment, "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    let well_formed = prefix.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_name));
    let taken = ["/.well-known", "/dev-idp"]
        .iter()
        .any(|root| prefix == *root || prefix.starts_with(&format!("{root}/")));
    if !well_formed || taken {
        let problem = format!("\"{prefix}\" cannot be the prefix of our own paths");
        let advice = "write a path of letters, digits, - _ . ~ without a slash at its end, \
                      such as \"/auth\", outside /.well-known and /dev-idp";
        section.fault("auth_prefix", &problem, advice);
    }
    prefix
}

/// A list of networks in CIDR notation; a lone address is a network of its own.
pub(super) fn networks(section: &mut Reader<'_>, key: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.strings(key, &[]) {
        match address::network(&text) {
            Some(network) => networks.push(network),
            None => section.fault(
                key,
                &format!("\"{text}\" is not a network"),
                "write an address or a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"",
            ),
        }
    }
    networks
}

fn tls(mut section: Reader<'_>) -> Option<Tls> {
    let certificate_file = section.path("certificate_file");
    let key_file = section.path("key_file");
    let missing = match (&certificate_file, &key_file) {
        (Some(_), None) => Some("key_file"),
        (None, Some(_)) => Some("certificate_file"),
        _ => None,
    };
    if let Some(key) = missing {
        let advice = "name both PEM files, or neither and terminate TLS in front";
        section.fault(key, "is missing beside the other half of the pair", advice);
    }
    section.finish();
    Some(Tls { certificate_file: certificate_file?, key_file: key_file? })
}
