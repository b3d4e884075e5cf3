//! What new connections are shown. A change counts from the next handshake on; connections that are open keep what they agreed on.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::certificate::Pair;
use crate::config::Tls;

/// The pair in force, and what its files looked like when they were last judged.
#[derive(Debug, Default)]
pub struct Shown {
    pair: ArcSwapOption<Pair>,
    judged: Mutex<Option<Print>>,
}

/// How two files look from outside: device, inode, length and time of change of each (`None` = not there).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print([Option<[i128; 5]>; 2]);

/// Looks at the files without reading them. What a link points to counts, so that an exchanged link is a change.
#[must_use]
pub fn print(files: &Tls) -> Print {
    let look = |path: &Path| {
        let seen = std::fs::metadata(path).ok()?;
        Some([
            i128::from(seen.dev()),
            i128::from(seen.ino()),
            i128::from(seen.len()),
            i128::from(seen.mtime()),
            i128::from(seen.mtime_nsec()),
        ])
    };
    Print([look(&files.certificate_file), look(&files.key_file)])
}

impl Shown {
    /// Shows this pair from now on; returns whether it differs from the one before.
    pub fn show(&self, pair: Pair) -> bool {
        let before = self.pair.swap(Some(Arc::new(pair)));
        let now = self.pair.load();
        !before.zip(now.as_ref()).is_some_and(|(before, now)| before.is_same(now))
    }

    /// The pair in force.
    #[must_use]
    pub fn pair(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// Whether files that look like this were not judged yet. A bad pair is judged once, not at every look.
    #[must_use]
    pub fn is_news(&self, print: Print) -> bool {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        judged.replace(print.clone()) != Some(print)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pair.load().as_ref().map(|pair| Arc::clone(&pair.key))
    }
}
