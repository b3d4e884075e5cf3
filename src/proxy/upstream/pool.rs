//! The connections that a worker keeps for its next requests. Each worker has its own: nothing is locked, nothing crosses threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::origin::Origin;

/// Per address and worker; more than that are closed after use. Enough for the requests that one core can have under way.
const KEPT_MAX: usize = 256;
/// Below the keep-alive of common servers (75 s nginx, 60 s Go and Java defaults); those that close earlier are noticed when asked.
const KEPT_FOR: Duration = Duration::from_secs(50);
/// What cannot be sent a second time takes only a connection that was used a moment ago: Node closes after 5 s.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// Connections that wait for work.
#[derive(Debug, Default)]
pub struct Pool {
    shelves: RefCell<Vec<Shelf>>,
}

#[derive(Debug)]
struct Shelf {
    origin: Arc<Origin>,
    /// The one used last is at the end.
    kept: Vec<(Box<Connection>, Instant)>,
}

impl Pool {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// A kept connection that is still open; `may_repeat` when the request could be sent again, should the app close it this very moment.
    #[must_use]
    pub fn take(&self, origin: &Arc<Origin>, may_repeat: bool, now: Instant) -> Option<Box<Connection>> {
        let mut all = self.shelves.borrow_mut();
        let place = all.iter_mut().find(|place| Arc::ptr_eq(&place.origin, origin))?;
        let life = if may_repeat { KEPT_FOR } else { FRESH_FOR };
        while let Some((mut connection, since)) = place.kept.pop() {
            if now.saturating_duration_since(since) > life {
                // All others lie here for even longer.
                let is_good = |since: &Instant| now.saturating_duration_since(*since) <= KEPT_FOR;
                place.kept.retain(|(_, since)| is_good(since));
                if is_good(&since) {
                    place.kept.push((connection, since));
                }
                return None;
            }
            if connection.is_quiet() {
                connection.is_kept = true;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange came to its end on both sides.
    pub fn give_back(&self, origin: &Arc<Origin>, connection: Box<Connection>) {
        let mut all = self.shelves.borrow_mut();
        let now = Instant::now();
        if let Some(shelf) = all.iter_mut().find(|shelf| Arc::ptr_eq(&shelf.origin, origin)) {
            if shelf.kept.len() < KEPT_MAX {
                shelf.kept.push((connection, now));
            }
            return;
        }
        // After a reload nobody else holds the old addresses.
        all.retain(|shelf| Arc::strong_count(&shelf.origin) > 1);
        all.push(Shelf { origin: Arc::clone(origin), kept: vec![(connection, now)] });
    }

    /// How many connections wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shelves.borrow().iter().map(|shelf| shelf.kept.len()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
