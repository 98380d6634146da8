//! A memory store with one mutation, and what the suite finds out about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::conformance::{
    Backend, CASES, COMPACTION, COUNTER_RACES, COUNTERS, Case, Compacts, Counts, DENIAL, Denial,
    Fills, OUTAGE, Outage, RACES, SPACE, Sentence,
};
use dynamo_discovery::{
    Change, CounterStore, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, LeasedWrite,
    Listing, MemoryStore, Page, Revision, Snapshot, StoreError, WatchItem, WatchStore,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::runtime::{Builder, Runtime};

/// How many entries a page has.
const PAGE: usize = 10;

pub(crate) type Result<T> = std::result::Result<T, StoreError>;
pub(crate) type Strays = Vec<(Key, Option<Entry>)>;
pub(crate) type Items = BoxStream<'static, Result<WatchItem>>;

/// What a store does otherwise than a memory store. Each method does the right thing unless
/// overridden.
#[async_trait]
pub(crate) trait Mutation: Clone + Send + Sync + 'static {
    /// What a new handle of a frontend gets.
    fn frontend(&self) -> Self {
        self.clone()
    }

    /// What a new handle of a worker gets.
    fn worker(&self) -> Self {
        self.clone()
    }

    fn keeps_history(&self) -> bool {
        true
    }

    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        store.list(range).await
    }

    async fn list_pages(&self, store: &MemoryStore, range: &KeyRange) -> Result<Listing> {
        let Snapshot { revision, entries } = self.list(store, range).await?;
        Ok(listing(revision, self.pages(pages(&entries))))
    }

    fn pages(&self, pages: Vec<Page>) -> Vec<Page> {
        pages
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        store.watch(range, after).await
    }

    async fn grant(&self, store: &MemoryStore, ttl: Duration) -> Result<Lease> {
        store.grant(ttl).await
    }

    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        store.renew(lease).await
    }

    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        store.put(key, value, lease).await
    }

    async fn put_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        store.put_if_leased(key, value, lease).await
    }

    async fn delete_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        lease: LeaseId,
    ) -> Result<bool> {
        store.delete_if_leased(key, lease).await
    }

    async fn write(
        &self,
        store: &MemoryStore,
        writes: &[LeasedWrite],
        lease: LeaseId,
    ) -> Result<Vec<bool>> {
        store.write(writes, lease).await
    }

    async fn strays(&self, store: &MemoryStore, keys: &[Key], lease: LeaseId) -> Result<Strays> {
        store.strays(keys, lease).await
    }

    async fn put_if_unleased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        store.put_if_unleased(key, value, lease).await
    }

    async fn put_if_unchanged(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>> {
        store.put_if_unchanged(key, value, lease, written).await
    }

    async fn revoke(&self, store: &MemoryStore, lease: LeaseId) -> Result<()> {
        store.revoke(lease).await
    }

    fn compact(&self, store: &MemoryStore) {
        store.compact();
    }

    fn set_reachable(&self, store: &MemoryStore, reachable: bool) {
        store.set_available(reachable);
        store.disconnect();
    }
}

/// The entries in pages.
pub(crate) fn pages(entries: &[Entry]) -> Vec<Page> {
    let chunks = entries.chunks(PAGE).map(<[Entry]>::to_vec);
    let mut pages: Vec<_> = chunks.map(|entries| Page { entries, more: true }).collect();
    match pages.last_mut() {
        Some(last) => last.more = false,
        None => pages.push(Page::default()),
    }
    pages
}

pub(crate) fn listing(revision: Revision, pages: Vec<Page>) -> Listing {
    Listing { revision, pages: stream::iter(pages.into_iter().map(Ok)).boxed() }
}

/// A watch with other batches.
pub(crate) fn with_batches(
    items: Items,
    mut batches: impl FnMut(Revision, Vec<Change>) -> Vec<WatchItem> + Send + 'static,
) -> Items {
    let items = items.flat_map(move |item| {
        stream::iter(match item {
            Ok(WatchItem::Batch { revision, changes }) => {
                batches(revision, changes).into_iter().map(Ok).collect()
            }
            other => vec![other],
        })
    });
    items.boxed()
}

/// A watch with other changes, and the revision that belongs to them.
pub(crate) fn with_changes(
    items: Items,
    mut mutate: impl FnMut(Revision, Vec<Change>) -> Vec<Change> + Send + 'static,
) -> Items {
    with_batches(items, move |revision, changes| {
        let changes = mutate(revision, changes);
        let revision = match changes.last() {
            Some(Change::Put(entry)) => entry.mod_revision,
            Some(Change::Delete(_)) => revision,
            None => return vec![],
        };
        vec![WatchItem::Batch { revision, changes }]
    })
}

pub(crate) fn key_of(change: &Change) -> &Key {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete(key) => key,
    }
}

/// The range of all keys.
pub(crate) fn everywhere() -> KeyRange {
    KeyRange::prefix("")
}

/// What the store has of a key.
pub(crate) async fn entry_of(store: &MemoryStore, key: &Key) -> Result<Option<Entry>> {
    let mut entries = store.list(&everywhere()).await?.entries.into_iter();
    Ok(entries.find(|entry| entry.key == *key))
}

/// A handle to a mutated store.
struct Mutant<M> {
    store: MemoryStore,
    mutation: M,
}

#[async_trait]
impl<M: Mutation> WatchStore for Mutant<M> {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot> {
        self.mutation.list(&self.store, range).await
    }

    async fn list_pages(&self, range: &KeyRange) -> Result<Listing> {
        self.mutation.list_pages(&self.store, range).await
    }

    async fn watch(&self, range: &KeyRange, after: &Cursor) -> Result<Items> {
        self.mutation.watch(&self.store, range, after).await
    }
}

#[async_trait]
impl<M: Mutation> LeaseStore for Mutant<M> {
    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.mutation.grant(&self.store, ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>> {
        self.mutation.renew(&self.store, lease).await
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<()> {
        self.mutation.put(&self.store, key, value, lease).await
    }

    async fn put_if_leased(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<bool> {
        self.mutation.put_if_leased(&self.store, key, value, lease).await
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool> {
        self.mutation.delete_if_leased(&self.store, key, lease).await
    }

    async fn write(&self, writes: &[LeasedWrite], lease: LeaseId) -> Result<Vec<bool>> {
        self.mutation.write(&self.store, writes, lease).await
    }

    async fn strays(&self, keys: &[Key], lease: LeaseId) -> Result<Strays> {
        self.mutation.strays(&self.store, keys, lease).await
    }

    async fn put_if_unleased(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<bool> {
        self.mutation.put_if_unleased(&self.store, key, value, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.mutation.revoke(&self.store, lease).await
    }
}

#[async_trait]
impl<M: Mutation> CounterStore for Mutant<M> {
    async fn put_if_unchanged(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>> {
        self.mutation.put_if_unchanged(&self.store, key, value, lease, written).await
    }
}

impl<M: Mutation> Counts for Mutant<M> {
    fn counter_store(&self) -> Arc<dyn CounterStore> {
        Arc::new(Self { store: self.store.clone(), mutation: self.mutation.frontend() })
    }
}

impl<M: Mutation> Backend for Mutant<M> {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        Arc::new(Self { store: self.store.clone(), mutation: self.mutation.frontend() })
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        Arc::new(Self { store: self.store.clone(), mutation: self.mutation.worker() })
    }

    fn root(&self) -> &str {
        "mutants/"
    }

    fn keeps_history(&self) -> bool {
        self.mutation.keeps_history()
    }

    fn several_pages(&self) -> usize {
        5 * PAGE + 3
    }
}

#[async_trait]
impl<M: Mutation> Compacts for Mutant<M> {
    async fn compact(&self) {
        self.mutation.compact(&self.store);
    }
}

#[async_trait]
impl<M: Mutation> Outage for Mutant<M> {
    async fn set_reachable(&self, reachable: bool) {
        self.mutation.set_reachable(&self.store, reachable);
    }
}

#[async_trait]
impl<M: Mutation> Denial for Mutant<M> {
    async fn set_allowed(&self, allowed: bool) {
        self.store.set_allowed(allowed);
    }
}

#[async_trait]
impl<M: Mutation> Fills for Mutant<M> {
    async fn set_full(&self, full: bool) {
        self.store.set_full(full);
    }
}

/// The sentences that a store breaks, each with what was found.
pub(crate) type Broken = BTreeMap<Sentence, String>;

/// Runs the suite but for the races, in paused time.
pub(crate) fn on_one_thread<M: Mutation>(new: impl Fn() -> M) -> Broken {
    let runtime = || {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let mut broken = Broken::new();
    let backend = || Mutant { store: MemoryStore::new(), mutation: new() };
    run(CASES, runtime, |run| run(&backend()), &mut broken);
    run(COUNTERS, runtime, |run| run(&backend()), &mut broken);
    run(COMPACTION, runtime, |run| run(&backend()), &mut broken);
    run(OUTAGE, runtime, |run| run(&backend()), &mut broken);
    run(DENIAL, runtime, |run| run(&backend()), &mut broken);
    run(SPACE, runtime, |run| run(&backend()), &mut broken);
    broken
}

/// Runs the races.
pub(crate) fn on_several_threads<M: Mutation>(new: impl Fn() -> M) -> Broken {
    let runtime = || Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let mut broken = Broken::new();
    let backend = || Mutant { store: MemoryStore::new(), mutation: new() };
    run(RACES, runtime, |run| run(&backend()), &mut broken);
    run(COUNTER_RACES, runtime, |run| run(&backend()), &mut broken);
    broken
}

/// Runs each case on a runtime and a store of its own.
fn run<B: ?Sized>(
    cases: &[Case<B>],
    runtime: impl Fn() -> Runtime,
    with_backend: impl Fn(&mut dyn FnMut(&B)),
    broken: &mut Broken,
) {
    for case in cases {
        with_backend(&mut |backend| {
            if let Err(breach) = runtime().block_on(case.run(backend)) {
                let how = format!("{}: {}", case.name(), breach.how());
                broken.entry(breach.sentence()).or_insert(how);
            }
        });
    }
}
