//! A house with a scripted app behind it, one route of each kind, and a visitor's raw requests.

use doorward::domain::Status;
use doorward::store;

use crate::house::browser::Browser;
use crate::house::home::{Plan, TestHouse, op_provider};
use crate::house::op::ScriptedOp;
use crate::house::upstream::{FakeUpstream, Wire};
use crate::security::signed_in;

pub struct Stage {
    pub op: ScriptedOp,
    pub app: FakeUpstream,
    pub house: TestHouse,
}

/// Routes to an app at these addresses.
pub fn routes(urls: &str) -> String {
    let route =
        |path: &str, more: &str| format!("\n[[route]]\npath = \"{path}\"\nupstream = \"app\"\n{more}\n");
    let public = "access = \"public\"";
    [
        format!("\n[[upstream]]\nid = \"app\"\nurls = [{urls}]\n"),
        route("/pub/**", public),
        route("/pub/*/star", &format!("{public}\nmethods = [\"GET\"]")),
        route("/in/**", ""),
        route("/admins/**", "roles = [\"admin\"]"),
        route("/impatient/**", &format!("{public}\ntimeout = \"300ms\"")),
        route("/small/**", &format!("{public}\nbody_limit = \"1KiB\"")),
        route("/token/**", "attach = [\"access_token\"]"),
        route("/maybe-token/**", &format!("{public}\nattach = [\"access_token\"]")),
        route("/both/**", "attach = [\"access_token\", \"assertion\"]"),
        route("/assert/**", "attach = [\"assertion\"]"),
        route("/big/**", &format!("{public}\nbody_limit = \"1GiB\"")),
        route("/get/**", &format!("{public}\nmethods = [\"GET\"]")),
    ]
    .concat()
}

impl Stage {
    pub async fn open() -> Self {
        Self::with(|plan| plan).await
    }

    pub async fn with(change: impl FnOnce(Plan) -> Plan) -> Self {
        Self::of("oidc", change).await
    }

    /// With a provider of this kind.
    pub async fn of(kind: &str, change: impl FnOnce(Plan) -> Plan) -> Self {
        let (op, app) = (ScriptedOp::start().await, FakeUpstream::start().await);
        let provider = op_provider("op", &op).replace("kind = \"oidc\"", &format!("kind = \"{kind}\""));
        let text = format!("{provider}{}", routes(&format!("\"{}\"", app.url())));
        let house = change(TestHouse::with(&text)).open().await;
        Self { op, app, house }
    }

    pub fn host(&self) -> &str {
        self.house.url.trim_start_matches("http://")
    }

    pub async fn signed_in(&self) -> Browser {
        signed_in(&self.house).await
    }

    /// A request's head, with its Host and whatever else.
    pub fn head(&self, line: &str, headers: &str) -> String {
        format!("{line} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n", self.host())
    }

    pub async fn wire(&self) -> Wire {
        Wire::open(self.house.address).await
    }

    /// The operator's word against alice.
    pub async fn suspend_everybody(&self) {
        self.set_status(Status::Suspended).await;
    }

    pub async fn forgive_everybody(&self) {
        self.set_status(Status::Active).await;
    }

    async fn set_status(&self, status: Status) {
        let app = self.house.app();
        let mut writer = app.store.writer().await.unwrap();
        store::users::set_status(&mut writer, "alice", status, app.now_ms()).await.unwrap();
        writer.commit().await.unwrap();
    }

    /// One request on a connection of its own, and all that came back.
    pub async fn ask(&self, line: &str, headers: &str) -> String {
        let mut wire = self.wire().await;
        wire.send(self.head(line, &format!("{headers}connection: close\r\n"))).await;
        String::from_utf8_lossy(&wire.rest().await).into_owned()
    }
}

/// The `Cookie` line of a signed-in browser.
pub fn cookie_line(browser: &Browser) -> String {
    format!("cookie: doorward={}\r\n", browser.cookie("doorward").expect("signed in"))
}

pub fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
