//! The database goes, freezes, comes back: refused in under three seconds, never let in, well again by
//! itself (RE-02, DS-03).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorward::store::{Store, StoreError, StoreOptions, used_attempts};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{NOW, write};
use crate::house::databases::Database;
use crate::house::servers::postgres;

const LIMIT: Duration = Duration::from_secs(3);

/// Refused in time, and as something that may recover.
async fn refused<T>(work: impl Future<Output = Result<T, StoreError>>) {
    let asked = Instant::now();
    let error =
        tokio::time::timeout(LIMIT, work).await.expect("an answer in under 3 s").err().expect("a refusal");
    assert!(error.is_unavailable(), "{error:?} after {:?}", asked.elapsed());
}

/// Well again within the time; each try is one statement.
async fn recovers(store: &Store) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < until, "still {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The wire between us and the database, which can be cut and frozen.
struct Wire {
    url: String,
    frozen: Arc<AtomicBool>,
    cut: Arc<Notify>,
    opened: Arc<AtomicU32>,
}

impl Wire {
    async fn to(db: &Database) -> Self {
        let server = url::Url::parse(&db.url).unwrap();
        let target = format!("{}:{}", server.host_str().unwrap(), server.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = server.clone();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let wire =
            Self { url: url.into(), frozen: Arc::default(), cut: Arc::default(), opened: Arc::default() };
        let (frozen, cut, opened) = (wire.frozen.clone(), wire.cut.clone(), wire.opened.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                let far = TcpStream::connect(&target).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let (frozen, cut) = (frozen.clone(), cut.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(near_in, far_out, &frozen) => (),
                        () = carry(far_in, near_out, &frozen) => (),
                        () = cut.notified() => (),
                    }
                });
            }
        });
        wire
    }

    fn options(&self, pool_size: u32) -> StoreOptions {
        StoreOptions { url: self.url.clone().into(), pool_size, migrate: true }
    }
}

async fn carry(
    from: tokio::net::tcp::OwnedReadHalf,
    to: tokio::net::tcp::OwnedWriteHalf,
    frozen: &AtomicBool,
) {
    let mut bytes = [0; 4096];
    loop {
        if from.readable().await.is_err() {
            return;
        }
        if frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        match from.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(len) => {
                let mut rest = &bytes[..len];
                while !rest.is_empty() {
                    if to.writable().await.is_err() {
                        return;
                    }
                    match to.try_write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
                        Err(_) => return,
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            Err(_) => return,
        }
    }
}

#[tokio::test]
async fn re_03_a_server_that_is_down_is_no_reason_not_to_open_and_comes_back_by_itself() {
    let mut cluster = postgres::own_cluster().await;
    let url = cluster.url("doorward");
    cluster.stop().await;
    let store = Store::open(&StoreOptions { url: url.into(), pool_size: 3, migrate: true }).await.unwrap();
    refused(store.prepare()).await;
    refused(store.writer()).await;
    cluster.start().await;
    recovers(&store).await;
    store.prepare().await.unwrap();
    assert!(write(&store, async |w| used_attempts::take(w, b"one", NOW).await).await);
    cluster.stop().await;
    refused(store.ping()).await;
    cluster.start().await;
    recovers(&store).await;
    assert!(!write(&store, async |w| used_attempts::take(w, b"one", NOW).await).await);
}

#[tokio::test]
async fn re_02_a_frozen_server_is_noticed_in_time_and_its_connections_do_not_block_the_pool() {
    let db = Database::postgres().await;
    let wire = Wire::to(&db).await;
    let store = Store::open(&wire.options(2)).await.unwrap();
    store.prepare().await.unwrap();
    store.ping().await.unwrap();
    let mut w = store.writer().await.unwrap();
    wire.frozen.store(true, Ordering::Relaxed);
    refused(used_attempts::take(&mut w, b"one", NOW)).await;
    drop(w);
    refused(store.ping()).await;
    refused(store.writer()).await;
    refused(store.prepare()).await;
    wire.frozen.store(false, Ordering::Relaxed);
    recovers(&store).await;
    assert!(write(&store, async |w| used_attempts::take(w, b"one", NOW).await).await);
}

#[tokio::test]
async fn connections_that_died_while_resting_cost_nobody_a_request() {
    let db = Database::postgres().await;
    let wire = Wire::to(&db).await;
    let store = Store::open(&wire.options(4)).await.unwrap();
    store.prepare().await.unwrap();
    let all = [store.reader().await, store.reader().await, store.reader().await, store.reader().await];
    drop(all);
    let before = wire.opened.load(Ordering::Relaxed);
    // After this rest the pool no longer trusts an idle connection unasked.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    wire.cut.notify_waiters();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..4 {
        store.ping().await.unwrap();
        write(&store, async |w| used_attempts::take(w, b"one", NOW).await).await;
    }
    assert!(wire.opened.load(Ordering::Relaxed) > before);
}

#[tokio::test]
async fn ds_03_an_exhausted_pool_refuses_in_time() {
    let db = Database::postgres().await;
    db.open().await;
    let store = Store::open(&StoreOptions { pool_size: 1, ..db.options() }).await.unwrap();
    let held = store.reader().await.unwrap();
    refused(store.reader()).await;
    refused(store.writer()).await;
    drop(held);
    recovers(&store).await;
}

#[tokio::test]
async fn ds_03_a_second_sqlite_writer_waits_and_is_refused_in_time_while_readers_go_on() {
    let db = Database::sqlite();
    let (here, there) = (db.open().await, db.open().await);
    let mut held = here.writer().await.unwrap();
    used_attempts::take(&mut held, b"one", NOW).await.unwrap();
    // Another process meets the lock with its first statement.
    let elsewhere = async {
        let mut w = there.writer().await?;
        used_attempts::take(&mut w, b"two", NOW).await
    };
    tokio::join!(refused(here.writer()), refused(elsewhere));
    there.ping().await.unwrap();
    held.commit().await.unwrap();
    assert!(!write(&there, async |w| used_attempts::take(w, b"one", NOW).await).await);
}
