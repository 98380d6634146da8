//! The memory store keeps the contract, and what only it can do.

use super::*;
use crate::conformance::{Backend, Compacts, Counts, Denial, Fills, Outage};
use crate::store::Change;

struct Memory(MemoryStore);

impl Memory {
    fn new() -> Self {
        Self(MemoryStore::new())
    }
}

impl Backend for Memory {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        Arc::new(self.0.clone())
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.0.clone())
    }

    fn root(&self) -> &str {
        "conformance/"
    }

    fn several_pages(&self) -> usize {
        // A list is one page, however long.
        100
    }
}

impl Counts for Memory {
    fn counter_store(&self) -> Arc<dyn CounterStore> {
        Arc::new(self.0.clone())
    }
}

#[async_trait]
impl Compacts for Memory {
    async fn compact(&self) {
        self.0.compact();
    }
}

#[async_trait]
impl Outage for Memory {
    async fn set_reachable(&self, reachable: bool) {
        self.0.set_available(reachable);
        self.0.disconnect();
    }
}

#[async_trait]
impl Denial for Memory {
    async fn set_allowed(&self, allowed: bool) {
        self.0.set_allowed(allowed);
    }
}

#[async_trait]
impl Fills for Memory {
    async fn set_full(&self, full: bool) {
        self.0.set_full(full);
    }
}

crate::conformance_tests!(
    #[tokio::test(start_paused = true)]
    Memory::new()
);

crate::conformance_tests!(
    races,
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    Memory::new()
);

crate::conformance_tests!(
    counters,
    #[tokio::test(start_paused = true)]
    Memory::new()
);

crate::conformance_tests!(
    counter_races,
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    Memory::new()
);

crate::conformance_tests!(
    compaction,
    #[tokio::test(start_paused = true)]
    Memory::new()
);

crate::conformance_tests!(
    outage,
    #[tokio::test(start_paused = true)]
    Memory::new()
);

crate::conformance_tests!(
    denial,
    #[tokio::test(start_paused = true)]
    Memory::new()
);

crate::conformance_tests!(
    space,
    #[tokio::test(start_paused = true)]
    Memory::new()
);

async fn watch_from_now(store: &MemoryStore) -> BoxStream<'static, Result<WatchItem, StoreError>> {
    let after = Cursor { revision: store.revision(), anchor: None };
    store.watch(&KeyRange::prefix("a/"), &after).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_is_noticed_when_its_time_is_over_and_not_earlier() {
    let store = MemoryStore::new();
    let ttl = Duration::from_secs(10);
    let lease = store.grant(ttl).await.unwrap();
    store.put(&"a/1".into(), Bytes::new(), lease.id).await.unwrap();
    let mut items = watch_from_now(&store).await;
    let granted = Instant::now();
    loop {
        match items.next().await.unwrap().unwrap() {
            WatchItem::Alive => assert!(granted.elapsed() < ttl),
            WatchItem::Batch { revision, changes } => {
                assert_eq!(granted.elapsed(), ttl);
                assert_eq!((revision, changes), (Revision(3), vec![Change::Delete("a/1".into())]));
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_watch_that_falls_behind_the_history_says_compacted() {
    let store = MemoryStore::with_history(10);
    let mut items = watch_from_now(&store).await;
    for _ in 0..10 {
        store.put_unleased("b/other", "");
    }
    store.put_unleased("a/1", "");
    assert!(matches!(items.next().await, Some(Err(StoreError::Compacted))));
}

#[tokio::test]
async fn the_last_revision_is_kept_however_large_it_is() {
    let store = MemoryStore::with_history(2);
    let lease = store.grant(Duration::from_secs(10)).await.unwrap().id;
    for name in ["a/1", "a/2", "a/3"] {
        store.put(&name.into(), Bytes::new(), lease).await.unwrap();
    }
    let mut items = watch_from_now(&store).await;
    store.revoke(lease).await.unwrap();
    let Some(Ok(WatchItem::Batch { changes, .. })) = items.next().await else { panic!() };
    assert_eq!(changes.len(), 3);
}

#[tokio::test]
async fn a_disconnection_ends_every_open_watch_and_no_later_one() {
    let store = MemoryStore::new();
    let mut items = watch_from_now(&store).await;
    store.put_unleased("a/1", "");
    store.disconnect();
    assert!(matches!(items.next().await, Some(Err(StoreError::Unavailable(_)))));
    assert!(items.next().await.is_none());
    let mut items = watch_from_now(&store).await;
    store.put_unleased("a/2", "");
    assert!(matches!(items.next().await, Some(Ok(WatchItem::Batch { .. }))));
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_store_refuses_calls_and_lets_leases_end() {
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap().id;
    store.put(&"a/1".into(), Bytes::new(), lease).await.unwrap();
    store.set_available(false);
    let range = KeyRange::prefix("a/");
    assert!(matches!(store.list(&range).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.renew(lease).await, Err(StoreError::Unavailable(_))));
    tokio::time::advance(Duration::from_secs(10)).await;
    store.set_available(true);
    assert_eq!(store.list(&range).await.unwrap().entries, []);
}

#[tokio::test]
async fn a_replaced_store_begins_again_without_the_old_leases() {
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap().id;
    store.put(&"a/1".into(), Bytes::new(), lease).await.unwrap();
    let mut items = watch_from_now(&store).await;
    store.replace();
    assert_eq!(store.revision(), Revision(1));
    assert!(matches!(items.next().await, Some(Err(StoreError::Unavailable(_)))));
    assert_eq!(store.renew(lease).await.unwrap(), None);
    assert_ne!(store.grant(Duration::from_secs(10)).await.unwrap().id, lease);
}

#[tokio::test]
async fn a_dropped_watch_is_closed() {
    let store = MemoryStore::new();
    let items = watch_from_now(&store).await;
    assert_eq!(store.open_watches(), 1);
    drop(items);
    assert_eq!(store.open_watches(), 0);
}

#[tokio::test]
async fn a_key_without_a_lease_lives_until_it_is_deleted() {
    let store = MemoryStore::new();
    assert_eq!(store.put_unleased("a/1", "x"), Revision(2));
    assert!(store.delete("a/1"));
    assert!(!store.delete("a/1"));
    assert_eq!(store.revision(), Revision(3));
}
