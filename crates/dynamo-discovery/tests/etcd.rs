//! The etcd backend on a real etcd: the conformance suite, and what only etcd does.
//!
//! `cargo xtask itest` finds or starts an etcd and runs this.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, not in their helpers")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::conformance::{Backend, Compacts, Counts, Outage};
use dynamo_discovery::{
    Change, CounterStore, Cursor, EtcdConfig, EtcdStore, Key, KeyRange, LeaseStore, Revision,
    StoreError, WatchItem, WatchStore,
};
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tokio::time::{Instant, sleep, timeout};

dynamo_discovery::conformance_tests!(
    #[tokio::test]
    Etcd::shared().await
);

dynamo_discovery::conformance_tests!(
    races,
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    Etcd::shared().await
);

dynamo_discovery::conformance_tests!(
    counters,
    #[tokio::test]
    Etcd::shared().await
);

dynamo_discovery::conformance_tests!(
    counter_races,
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    Etcd::shared().await
);

dynamo_discovery::conformance_tests!(
    compaction,
    #[tokio::test]
    Etcd::alone().await
);

dynamo_discovery::conformance_tests!(
    outage,
    #[tokio::test]
    CutOff::new().await
);

/// A compaction reaches every key, so a test that compacts runs alone.
static ETCD: RwLock<()> = RwLock::const_new(());

const ENDPOINTS: &str = "DYN_TEST_ETCD_ENDPOINTS";

fn endpoints() -> Vec<String> {
    let endpoints = std::env::var(ENDPOINTS).unwrap_or_else(|_| {
        panic!("{ENDPOINTS} is not set: run `cargo xtask itest`, which starts an etcd and sets it")
    });
    endpoints.split(',').map(str::to_owned).collect()
}

fn store_at(endpoints: Vec<String>) -> EtcdStore {
    EtcdStore::new(EtcdConfig::new(endpoints)).unwrap()
}

/// A store that gives a call as much time as the suite does: a slow disk is none of the backend's
/// faults.
fn patient_store() -> EtcdStore {
    EtcdStore::new(EtcdConfig::new(endpoints()).with_call_timeout(DEADLINE)).unwrap()
}

enum Guard {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// How long a test waits for one event.
const DEADLINE: Duration = Duration::from_secs(15);

struct Etcd {
    store: EtcdStore,
    root: String,
    _guard: Guard,
}

impl Etcd {
    async fn shared() -> Self {
        Self::new(Guard::Shared(ETCD.read().await))
    }

    async fn alone() -> Self {
        Self::new(Guard::Alone(ETCD.write().await))
    }

    fn new(guard: Guard) -> Self {
        let root = format!("conformance-{:016x}/", fastrand::u64(..));
        Self { store: patient_store(), root, _guard: guard }
    }

    fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.root)
    }

    fn key(&self, name: &str) -> Key {
        format!("{}{name}", self.root).into()
    }

    async fn cursor(&self) -> Cursor {
        let nothing = KeyRange::prefix(&format!("{}nothing", self.root));
        let revision = self.store.list(&nothing).await.unwrap().revision;
        Cursor { revision, anchor: None }
    }

    /// A client that can do what the traits cannot.
    async fn client(&self) -> Client {
        Client::connect(endpoints(), None).await.unwrap()
    }
}

impl Backend for Etcd {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        Arc::new(patient_store())
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        Arc::new(patient_store())
    }

    fn root(&self) -> &str {
        &self.root
    }
}

impl Counts for Etcd {
    fn counter_store(&self) -> Arc<dyn CounterStore> {
        Arc::new(patient_store())
    }
}

#[async_trait]
impl Compacts for Etcd {
    async fn compact(&self) {
        let revision = self.cursor().await.revision.0.try_into().unwrap();
        self.client().await.compact(revision, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_replay_larger_than_any_message_arrives_in_whole_revisions() {
    const REVISIONS: usize = 24;
    const KEYS: usize = 100;
    let etcd = Etcd::shared().await;
    let cursor = etcd.cursor().await;
    let lease = etcd.store.grant(Duration::from_secs(60)).await.unwrap().id;
    let mut client = etcd.client().await;
    // 1 MB in each revision, 24 in all; gRPC takes 4 by default, and etcd cuts at 2.
    for _ in 0..REVISIONS {
        let puts = (0..KEYS).map(|number| {
            let options = PutOptions::new().with_lease(lease.0);
            TxnOp::put(etcd.key(&number.to_string()).as_bytes(), [b'x'; 10_000], Some(options))
        });
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    let mut items = etcd.store.watch(&etcd.range(), &cursor).await.unwrap();
    let mut puts_of = BTreeMap::<Revision, usize>::new();
    while puts_of.len() < REVISIONS {
        let item = timeout(DEADLINE, items.next()).await.unwrap().unwrap().unwrap();
        let WatchItem::Batch { revision, changes } = item else { continue };
        let before = puts_of.len();
        for change in changes {
            let Change::Put(entry) = change else { panic!("not a put") };
            *puts_of.entry(entry.mod_revision).or_default() += 1;
        }
        assert!(puts_of.len() > before, "a revision came in two batches");
        assert_eq!(puts_of.keys().last(), Some(&revision));
        assert!(puts_of.values().all(|puts| *puts == KEYS), "a revision came in part");
    }
    etcd.store.revoke(lease).await.unwrap();
}

#[tokio::test]
async fn a_list_of_large_values_is_read_in_smaller_pages() {
    const ENTRIES: usize = 70;
    let etcd = Etcd::shared().await;
    let lease = etcd.store.grant(Duration::from_secs(60)).await.unwrap().id;
    let value = Bytes::from(vec![b'x'; 1 << 20]);
    for number in 0..ENTRIES {
        etcd.store.put(&etcd.key(&format!("{number:02}")), value.clone(), lease).await.unwrap();
    }
    let snapshot = etcd.store.list(&etcd.range()).await.unwrap();
    assert_eq!(snapshot.entries.len(), ENTRIES);
    assert!(snapshot.entries.iter().all(|entry| entry.value == value));
    etcd.store.revoke(lease).await.unwrap();
}

#[tokio::test]
async fn a_dropped_watch_is_canceled_at_the_server() {
    let etcd = Etcd::alone().await;
    // The member that is asked for its metrics.
    let store = store_at(vec![endpoints().remove(0)]);
    let cursor = etcd.cursor().await;
    // Watches of earlier tests may still be among these, and end while this test runs. There are fewer
    // of them than this test opens.
    let before = watchers().await;
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(store.watch(&etcd.range(), &cursor).await.unwrap());
    }
    assert!(watchers().await > before, "etcd has the watchers");
    drop(open);
    let canceled = async {
        while watchers().await > before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, canceled).await.expect("etcd still has the watchers");
}

/// How many watches etcd says that it has, in its metrics.
async fn watchers() -> usize {
    let endpoint = endpoints().remove(0);
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut socket = TcpStream::connect(host).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let line =
        answer.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    line.expect("the metric").parse().unwrap()
}

/// A network between us and etcd that can lose everything without a word.
struct Network {
    endpoint: String,
    up: watch::Sender<bool>,
}

impl Network {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let etcd = endpoints().remove(0).trim_start_matches("http://").to_owned();
        let (up, is_up) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut ours, _)) = listener.accept().await {
                let (etcd, mut is_up) = (etcd.clone(), is_up.clone());
                tokio::spawn(async move {
                    // A connection that was cut stays open and dead, as after a power loss.
                    if *is_up.borrow()
                        && let Ok(mut theirs) = TcpStream::connect(etcd).await
                    {
                        tokio::select! {
                            _ = copy_bidirectional(&mut ours, &mut theirs) => return,
                            _ = is_up.wait_for(|up| !up) => {}
                        }
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { endpoint, up }
    }
}

/// An etcd behind a network of its own.
struct CutOff {
    etcd: Etcd,
    network: Network,
}

impl CutOff {
    async fn new() -> Self {
        Self { etcd: Etcd::shared().await, network: Network::new().await }
    }

    fn store(&self) -> EtcdStore {
        store_at(vec![self.network.endpoint.clone()])
    }
}

impl Backend for CutOff {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        Arc::new(self.store())
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.store())
    }

    fn root(&self) -> &str {
        self.etcd.root()
    }
}

#[async_trait]
impl Outage for CutOff {
    async fn set_reachable(&self, reachable: bool) {
        self.network.up.send_replace(reachable);
    }
}

/// How long it takes is told and not asserted: that depends on the machine as well. The numbers are
/// those of the unit tests beside the watch.
#[tokio::test]
async fn a_dead_network_is_noticed_and_forgotten_after_it_heals() {
    let behind = CutOff::new().await;
    let store = behind.store();
    let etcd = &behind.etcd;
    let cursor = etcd.cursor().await;
    let mut items = store.watch(&etcd.range(), &cursor).await.unwrap();

    behind.set_reachable(false).await;
    let cut = Instant::now();
    let error = loop {
        match timeout(DEADLINE, items.next()).await.expect("an end").unwrap() {
            Ok(WatchItem::Alive) => {}
            Ok(batch) => panic!("{batch:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    println!("the watch ended after {:?}", cut.elapsed());
    for _ in 0..2 {
        let asked = Instant::now();
        let error = timeout(DEADLINE, store.list(&etcd.range())).await.expect("an answer");
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        println!("a list failed after {:?}", asked.elapsed());
    }

    behind.set_reachable(true).await;
    let healed = Instant::now();
    let watch_again = async {
        loop {
            match store.watch(&etcd.range(), &cursor).await {
                Ok(items) => break items,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut items = timeout(DEADLINE, watch_again).await.expect("a watch");
    println!("a watch began {:?} after the network was back", healed.elapsed());
    let lease = etcd.store.grant(Duration::from_secs(60)).await.unwrap().id;
    etcd.store.put(&etcd.key("a"), Bytes::new(), lease).await.unwrap();
    let item = timeout(DEADLINE, items.next()).await.expect("the change");
    assert!(matches!(item, Some(Ok(WatchItem::Batch { .. }))), "{item:?}");
}
