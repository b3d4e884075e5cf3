//! A real browser: Chromium through chromedriver. One driver per run, a fresh profile per [`Chrome`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::supervised::{Launch, Supervised, folder};
use super::{Started, started};

/// How long an element may take to show up.
const PATIENCE: Duration = Duration::from_secs(15);

static DRIVER: Started<Driver> = Started::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

struct Driver {
    url: String,
    /// Profiles lie in its folder and go with it.
    process: Supervised,
}

/// One browser with one window. Whoever forgets [`Chrome::close`] keeps it open until the run ends.
pub struct Chrome {
    client: Client,
    profile: PathBuf,
}

/// Opens a browser that has never been anywhere.
pub async fn browser() -> Chrome {
    browser_with(&[]).await
}

/// As [`browser`], with more on its command line.
pub async fn browser_with(more: &[String]) -> Chrome {
    let driver = started(&DRIVER, launch).await;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let profile = driver.process.folder().join(format!("profile-{number}"));
    let mut capabilities = Capabilities::new();
    let mut arguments = json!([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        format!("--user-data-dir={}", profile.display()),
    ]);
    arguments.as_array_mut().expect("a list").extend(more.iter().cloned().map(Value::from));
    capabilities.insert("goog:chromeOptions".into(), json!({ "args": arguments }));
    capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities)
        .connect(&driver.url)
        .await
        .expect("Chromium starts");
    Chrome { client, profile }
}

impl Chrome {
    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.expect("the page opens");
    }

    /// Clicks the first element that `css` finds; waits for it. Until a page is drawn for the first time a click hits nothing.
    pub async fn click(&self, css: &str) {
        let over = Instant::now() + PATIENCE;
        while let Err(error) = self.find(css).await.click().await {
            assert!(
                Instant::now() < over,
                "`{css}` on {} cannot be clicked: {error}",
                self.current_url().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Replaces what the field holds.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.expect("the field can be cleared");
        field.send_keys(text).await.expect("the field takes text");
    }

    /// The text as a person sees it.
    pub async fn text(&self, css: &str) -> String {
        self.find(css).await.text().await.expect("the element has text")
    }

    pub async fn wait_for(&self, css: &str) {
        self.find(css).await;
    }

    pub async fn current_url(&self) -> Url {
        self.client.current_url().await.expect("the window has an address")
    }

    pub async fn back(&self) {
        self.client.back().await.expect("there is a page to go back to");
    }

    /// Runs `script` as the body of a function in the page and gives what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("the script runs")
    }

    /// Writes what is visible as PNG.
    pub async fn screenshot(&self, path: &Path) {
        let png = self.client.screenshot().await.expect("the window can be drawn");
        std::fs::write(path, png).expect("the picture can be written");
    }

    /// The size of the page itself, in CSS pixels: a real window is never narrower than 500.
    pub async fn set_size(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What `prefers-color-scheme` says.
    pub async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// The console's lines since the last call, all levels; violations of a Content-Security-Policy are among them.
    pub async fn console_log(&self) -> Vec<String> {
        let entries = self.issue("se/log", json!({ "type": "browser" })).await;
        let entries = entries.expect("the console can be read");
        entries
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                format!("{} {}", text("level"), text("message"))
            })
            .collect()
    }

    /// One command of the Chrome `DevTools` protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.issue("goog/cdp/execute", body).await.expect("Chromium knows the command")
    }

    /// Ends the browser and forgets its profile.
    pub async fn close(self) {
        self.client.close().await.expect("the browser closes");
        // What Chromium still writes while it ends goes with the driver's folder.
        let _ = std::fs::remove_dir_all(&self.profile);
    }

    async fn find(&self, css: &str) -> fantoccini::elements::Element {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        match found {
            Ok(element) => element,
            Err(error) => panic!("no `{css}` on {}: {error}", self.current_url().await),
        }
    }

    async fn issue(&self, path: &'static str, body: Value) -> Result<Value, CmdError> {
        self.client.issue_cmd(Extension { path, body }).await
    }
}

/// A command of chromedriver's own, beyond the `WebDriver` standard.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        let session = session_id.unwrap_or_default();
        base_url.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &Url) -> (reqwest::Method, Option<String>) {
        (reqwest::Method::POST, Some(self.body.to_string()))
    }
}

async fn launch() -> Result<Driver, String> {
    let process = Supervised::start(Launch {
        name: "chromedriver",
        command: vec!["chromedriver".into(), "--port=0".into()],
        folder: folder("chromium"),
        signal: "TERM",
    })?;
    let mark = "started successfully on port ";
    let line = process.line(&[mark, "not found"], 0, Duration::from_secs(30)).await?;
    let port = line.split_once(mark).map(|(_, port)| port.trim().trim_end_matches('.'));
    match port {
        Some(port) => Ok(Driver { url: format!("http://127.0.0.1:{port}"), process }),
        None => Err(process.complaint("did not start")),
    }
}
