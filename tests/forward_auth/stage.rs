//! A proxy in front, a house that it asks, and an app that it sends on to.

use std::net::SocketAddr;

use crate::house::home::{TestHouse, op_provider};
use crate::house::op::ScriptedOp;
use crate::house::servers::fronts::{Front, Kind, Places};
use crate::house::upstream::{FakeUpstream, Wire};

pub struct Stage {
    pub kind: Kind,
    _op: ScriptedOp,
    pub app: FakeUpstream,
    pub house: TestHouse,
    pub at: Places,
    _front: Front,
}

/// Routes without an upstream: Doorward only judges.
pub fn routes() -> String {
    let route = |path: &str, more: &str| format!("\n[[route]]\npath = \"{path}\"\n{more}\n");
    [
        route("/pub/**", "access = \"public\""),
        route("/in/**", ""),
        route("/admins/**", "roles = [\"admin\"]"),
        route("/get/**", "access = \"public\"\nmethods = [\"GET\"]"),
        route("/token/**", "attach = [\"access_token\"]"),
        route("/strong/**", "acr = \"gold\"\nmax_age = \"15m\""),
        "\n[[upstream]]\nid = \"named\"\nurls = [\"http://127.0.0.1:9\"]\n".to_owned(),
        route("/assert/**", "upstream = \"named\"\nattach = [\"assertion\"]"),
    ]
    .concat()
}

impl Stage {
    pub async fn open(kind: Kind) -> Self {
        let (op, app) = (ScriptedOp::start().await, FakeUpstream::start().await);
        let front = SocketAddr::from(([127, 0, 0, 1], Front::port()));
        let house = TestHouse::with(&format!("{}{}", op_provider("op", &op), routes()))
            .set("SERVER__PUBLIC_URL", &format!("http://localhost:{}", front.port()))
            .set("SERVER__TRUSTED_PROXIES", r#"["127.0.0.1"]"#)
            .open()
            .await;
        let at = Places { front, door: house.address, app: app.address };
        let running = Front::start(kind, at).await;
        Self { kind, _op: op, app, house, at, _front: running }
    }

    pub fn host(&self) -> &str {
        self.house.url.trim_start_matches("http://")
    }

    /// A visitor's connection to the proxy.
    pub async fn wire(&self) -> Wire {
        Wire::open(self.at.front).await
    }

    /// A request's head, with its Host and whatever else; `headers` may bring an empty line and a body.
    pub fn head(&self, line: &str, headers: &str) -> String {
        let (fields, body) = headers.split_once("\r\n\r\n").map_or((headers.trim_end(), ""), |parts| parts);
        let end = if fields.is_empty() { "" } else { "\r\n" };
        format!("{line} HTTP/1.1\r\nhost: {}\r\n{fields}{end}\r\n{body}", self.host())
    }

    /// One request on a connection of its own, and all that came back.
    pub async fn ask(&self, line: &str, headers: &str) -> String {
        let mut wire = self.wire().await;
        wire.send(self.head(line, &format!("connection: close\r\n{headers}"))).await;
        String::from_utf8_lossy(&wire.rest().await).into_owned()
    }
}

/// The same story behind each proxy that can be run.
pub async fn each<F: Future<Output = ()>>(story: impl Fn(Stage) -> F) {
    for kind in [Kind::Nginx, Kind::Caddy] {
        story(Stage::open(kind).await).await;
    }
}
