//! A wire between the house and a neighbour that a test may cut at any message: it counts what goes through, holds the n-th, and
//! lets it go on or swallows it once the house is dead.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What several wires count together.
pub struct Counter {
    /// Messages until the one that is held; below zero nothing is.
    left: AtomicI64,
    held: Notify,
    /// What becomes of messages at the cut.
    fate: watch::Sender<Fate>,
    /// The next message that holds this is held, whatever its number.
    wanted: Mutex<Option<&'static str>>,
    /// Where the last cut was, for a failure's words.
    last: Mutex<String>,
    /// Connections on which a neighbour owes an answer.
    owed: AtomicI64,
}

/// What a listening connection calls itself when it begins.
const LISTENER: &[u8] = b"doorward-notices";
/// A neighbour goes on with what it was told, although its caller is dead; its answer shows that it is through.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Flowing,
    Held,
    /// What was held arrives, although its sender is dead.
    Delivered,
    /// What was held is lost.
    Swallowed,
}

impl Counter {
    pub fn new() -> Arc<Self> {
        let fate = watch::Sender::new(Fate::Flowing);
        let (left, owed) = (AtomicI64::new(-1), AtomicI64::new(0));
        let (wanted, last) = (Mutex::default(), Mutex::default());
        Arc::new(Self { left, held: Notify::new(), fate, wanted, last, owed })
    }

    /// Holds the `nth` message from now, 0 being the next one.
    pub fn arm(&self, nth: i64) {
        self.fate.send_replace(Fate::Flowing);
        self.left.store(nth, Ordering::SeqCst);
    }

    /// Holds the next message that begins like this.
    pub fn hold_at(&self, start: &'static str) {
        self.arm(-1);
        *self.wanted.lock().unwrap() = Some(start);
    }

    /// Until a message is held.
    pub async fn cut(&self) -> String {
        let held = self.held.notified();
        if *self.fate.borrow() != Fate::Held {
            held.await;
        }
        self.last.lock().unwrap().clone()
    }

    /// Lets the held messages go on their way, or loses them; everything after flows again.
    pub fn release(&self, deliver: bool) {
        self.left.store(-1, Ordering::SeqCst);
        self.fate.send_replace(if deliver { Fate::Delivered } else { Fate::Swallowed });
    }

    /// Until the neighbours have answered all that reached them. Before that nobody can say what a dead caller left behind.
    pub async fn quiet(&self) {
        let deadline = Instant::now() + ANSWER_WITHIN * 2;
        while self.owed.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a neighbour does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether this message may go on.
    async fn passes(&self, what: &str) -> bool {
        // Whatever became of earlier messages, these are new.
        if *self.fate.borrow() != Fate::Held {
            if !counts(what) {
                return true;
            }
            let before =
                self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n >= 0).then_some(n - 1));
            let is_wanted = self.wanted.lock().unwrap().take_if(|start| what.starts_with(*start)).is_some();
            if before != Ok(0) && !is_wanted {
                return true;
            }
            what.clone_into(&mut self.last.lock().unwrap());
            self.fate.send_replace(Fate::Held);
            self.held.notify_waiters();
        }
        let mut fate = self.fate.subscribe();
        let settled = fate.wait_for(|fate| *fate != Fate::Held).await.map(|fate| *fate);
        !matches!(settled, Ok(Fate::Swallowed))
    }
}

/// Calls and answers over HTTP, and what PostgreSQL is told to do (a `Q`uery or a `B`ind): the rest is preparation and thanks.
fn counts(what: &str) -> bool {
    !what.contains("PostgreSQL")
        || what.starts_with("to PostgreSQL: Q")
        || what.starts_with("to PostgreSQL: B")
}

/// Listens on a free port and passes everything on to `to`.
pub async fn lay(name: &'static str, to: SocketAddr, counter: &Arc<Counter>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counter = Arc::clone(counter);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else { return };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (near, far) = (near.into_split(), far.into_split());
                let debt = Arc::new(Debt { counter, is_owed: AtomicBool::new(false) });
                let there = carry(near.0, far.1, format!("to {name}"), Arc::clone(&debt));
                let back = carry(far.0, near.1, format!("from {name}"), debt);
                tokio::join!(there, back);
            });
        }
    });
    address
}

/// Whether an answer is owed on one connection. Both protocols answer each thing they are told before they hear the next.
struct Debt {
    counter: Arc<Counter>,
    is_owed: AtomicBool,
}

impl Debt {
    fn owe(&self) {
        if !self.is_owed.swap(true, Ordering::SeqCst) {
            self.counter.owed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn settle(&self) {
        if self.is_owed.swap(false, Ordering::SeqCst) {
            self.counter.owed.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn settled(&self) {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while self.is_owed.load(Ordering::SeqCst) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    what: String,
    debt: Arc<Debt>,
) {
    let is_call = what.starts_with("to ");
    let (mut what, mut is_first) = (what, true);
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let start = piece.iter().take(length.min(60)).filter(|b| b.is_ascii_graphic() || **b == b' ');
        let start: String = start.map(|b| char::from(*b)).collect();
        // The ear of a replica beats all the time; that is nobody's request.
        if std::mem::take(&mut is_first) && piece[..length].windows(LISTENER.len()).any(|w| w == LISTENER) {
            "to PostgreSQL, a listener".clone_into(&mut what);
        }
        if is_call {
            debt.owe();
        } else {
            debt.settle();
        }
        if !debt.counter.passes(&format!("{what}: {start}")).await {
            debt.settle();
            break;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
    if is_call {
        // Hung up on, a neighbour might go on without ever answering, and nobody would know when it is through.
        debt.settled().await;
    } else {
        debt.settle();
    }
    // A neighbour takes a moment to notice an end; the wire closes at once.
    let _ = tokio::time::timeout(Duration::from_secs(1), to.shutdown()).await;
}
