//! An open tab: somebody who listens to `GET /auth/events`.

use std::time::Duration;

use super::browser::Browser;

pub struct Tab {
    stream: reqwest::Response,
    heard: String,
}

impl Tab {
    /// Listens from now on; the first sign of life has come.
    pub async fn open(browser: &Browser) -> Self {
        let stream = browser.open("/auth/events").await;
        assert_eq!(stream.status(), 200);
        let header = |name: &str| stream.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            (header("content-type").as_str(), header("cache-control").as_str()),
            ("text/event-stream", "no-store")
        );
        let mut tab = Self { stream, heard: String::new() };
        while !tab.heard.starts_with(":\n\n") {
            assert!(tab.hear(Duration::from_secs(10)).await, "the stream ended at once");
        }
        tab
    }

    async fn hear(&mut self, within: Duration) -> bool {
        let piece = tokio::time::timeout(within, self.stream.chunk()).await;
        let piece = piece.unwrap_or_else(|_| panic!("nothing for {within:?} after {:?}", self.heard));
        match piece {
            Ok(Some(bytes)) => {
                self.heard.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// The name of the next event; `None` when the stream is over. Fails when neither comes in time.
    pub async fn next(&mut self, within: Duration) -> Option<String> {
        loop {
            while let Some((block, rest)) = self.heard.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.heard = rest;
                if let Some(event) = block.strip_prefix("event: ") {
                    let (name, data) = event.split_once('\n').expect("data");
                    assert_eq!(data, "data: {}");
                    return Some(name.to_owned());
                }
            }
            if !self.hear(within).await {
                return None;
            }
        }
    }

    /// Hears that its session ended, and that the stream is over.
    pub async fn ends(&mut self, within: Duration) {
        assert_eq!(self.next(within).await.as_deref(), Some("session-ended"));
        assert_eq!(self.next(within).await, None, "the stream goes on");
    }

    /// Whether anything at all comes within this time; for those who must hear nothing.
    pub async fn is_quiet(&mut self, within: Duration) -> bool {
        tokio::time::timeout(within, self.next(Duration::from_mins(1))).await.is_err()
    }
}
