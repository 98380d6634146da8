//! A store in the memory of one process: for tests, examples, and what runs in a single process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::store::{
    Change, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, LeasedWrite, Revision,
    Snapshot, Stamp, StoreError, WatchItem, WatchStore,
};

/// How long a watch stays silent: under the 5 seconds of [`WatchItem::Alive`].
const ALIVE_INTERVAL: Duration = Duration::from_secs(4);

/// A store in memory that keeps the contract of [`WatchStore`] and [`LeaseStore`] to the letter.
///
/// A clone is another handle to the same store. Leases run on tokio's clock, so paused time ends
/// them too; nothing runs in the background.
///
/// Its history is bounded. A watch reads it at its own pace, so one that is not polled while more
/// changes happen than the history holds ends with [`StoreError::Compacted`].
///
/// What goes wrong with a real store can be provoked: [`compact`](Self::compact),
/// [`disconnect`](Self::disconnect), [`set_available`](Self::set_available) and
/// [`replace`](Self::replace).
///
/// ```
/// use dynamo_discovery::{KeyRange, MemoryStore, WatchStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// store.put_unleased("models/a", "{}");
///
/// let snapshot = store.list(&KeyRange::prefix("models/")).await?;
/// assert_eq!(snapshot.entries[0].key, "models/a".into());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

impl MemoryStore {
    /// How many changes the history holds by default.
    pub const DEFAULT_HISTORY: usize = 1024;

    /// An empty store at revision 1, as etcd begins.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(Self::DEFAULT_HISTORY)
    }

    /// An empty store whose history holds this many changes, and the last revision in any case.
    #[must_use]
    pub fn with_history(changes: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(changes)),
            changed: watch::Sender::new(()),
        }))
    }

    /// Puts a key that lives until it is deleted, and returns the revision.
    pub fn put_unleased(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Revision {
        self.0.write(|state| {
            state.put(key.into(), value.into(), None);
            state.revision
        })
    }

    /// Deletes a key, whoever put it, and returns whether it was there.
    pub fn delete(&self, key: impl Into<Key>) -> bool {
        let key = key.into();
        self.0.write(|state| {
            let found = state.entries.contains_key(&key);
            state.delete(Vec::from_iter(found.then_some(key)));
            found
        })
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.read(|state| state.revision)
    }

    /// How many watches are open.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.0.read(|state| state.open_watches)
    }

    /// Forgets the history, so that a watch of what has happened till now is
    /// [`StoreError::Compacted`].
    pub fn compact(&self) {
        self.0.write(|state| while state.forget_oldest() {});
    }

    /// Ends every open watch with [`StoreError::Unavailable`].
    pub fn disconnect(&self) {
        self.0.write(|state| state.connection += 1);
    }

    /// Whether calls succeed. While they do not, they fail with [`StoreError::Unavailable`].
    ///
    /// Open watches are left alone ([`disconnect`](Self::disconnect) ends them), leases run on, and
    /// the methods of this type itself, which stand for someone else's writes, work.
    pub fn set_available(&self, available: bool) {
        self.0.write(|state| state.available = available);
    }

    /// Replaces the store by a new one without entries or leases, whose revisions begin again.
    ///
    /// Every open watch ends with [`StoreError::Unavailable`].
    pub fn replace(&self) {
        self.0.write(|state| {
            *state = State {
                connection: state.connection + 1,
                open_watches: state.open_watches,
                available: state.available,
                last_lease: state.last_lease,
                ..State::new(state.history_limit)
            };
        });
    }

    /// What a call over the network does: it may fail.
    fn call<T>(
        &self,
        call: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.0.write(|state| {
            if state.available {
                call(state)
            } else {
                Err(StoreError::Unavailable("the memory store was made unavailable".into()))
            }
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

#[async_trait]
impl WatchStore for MemoryStore {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        self.call(|state| {
            let entries = state.entries.values().map(|stored| &stored.entry);
            Ok(Snapshot {
                revision: state.revision,
                entries: entries.filter(|entry| range.contains(&entry.key)).cloned().collect(),
            })
        })
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        let connection = self.call(|state| {
            state.prove(after)?;
            state.open_watches += 1;
            Ok(state.connection)
        })?;
        let watch = Watch {
            changed: self.0.changed.subscribe(),
            shared: Arc::clone(&self.0),
            range: range.clone(),
            position: after.revision,
            connection,
        };
        let items = stream::try_unfold(watch, |mut watch| async move {
            let item = watch.next().await?;
            Ok(Some((item, watch)))
        });
        Ok(items.boxed())
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.call(|state| {
            state.last_lease.0 += 1;
            let id = state.last_lease;
            state.leases.insert(id, Term { ttl, ends: Instant::now() + ttl });
            Ok(Lease { id, ttl })
        })
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.call(|state| {
            Ok(state.leases.get_mut(&lease).map(|term| {
                term.ends = Instant::now() + term.ttl;
                term.ttl
            }))
        })
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        self.write(&[LeasedWrite::Put(key.clone(), value)], lease).await.map(drop)
    }

    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        let done = self.write(&[LeasedWrite::PutIfLeased(key.clone(), value)], lease).await?;
        Ok(done == [true])
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError> {
        let done = self.write(&[LeasedWrite::DeleteIfLeased(key.clone())], lease).await?;
        Ok(done == [true])
    }

    async fn write(&self, writes: &[LeasedWrite], lease: LeaseId) -> Result<Vec<bool>, StoreError> {
        self.call(|state| {
            let puts = writes.iter().any(|write| matches!(write, LeasedWrite::Put(..)));
            if puts && !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            let mut write = |write: &LeasedWrite| {
                let (LeasedWrite::Put(key, _)
                | LeasedWrite::PutIfLeased(key, _)
                | LeasedWrite::DeleteIfLeased(key)) = write;
                let ours = matches!(write, LeasedWrite::Put(..)) || state.is_leased(key, lease);
                match write {
                    _ if !ours => {}
                    LeasedWrite::Put(_, value) | LeasedWrite::PutIfLeased(_, value) => {
                        state.put(key.clone(), value.clone(), Some(lease));
                    }
                    LeasedWrite::DeleteIfLeased(_) => state.delete(vec![key.clone()]),
                }
                ours
            };
            Ok(writes.iter().map(&mut write).collect())
        })
    }

    async fn strays(
        &self,
        keys: &[Key],
        lease: LeaseId,
    ) -> Result<Vec<(Key, Option<Entry>)>, StoreError> {
        self.call(|state| {
            let strays = keys.iter().filter(|key| !state.is_leased(key, lease));
            let found = |key| state.entries.get(key).map(|stored| stored.entry.clone());
            Ok(strays.map(|key| (key.clone(), found(key))).collect())
        })
    }

    async fn put_if_unleased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        self.call(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            let free = state.entries.get(key).is_none_or(|stored| stored.lease.is_none());
            if free {
                state.put(key.clone(), value, Some(lease));
            }
            Ok(free)
        })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|state| {
            state.end_lease(lease);
            Ok(())
        })
    }
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the watches after every write.
    changed: watch::Sender<()>,
}

impl Shared {
    fn write<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        let result = write(&mut self.lock().0);
        self.changed.send_replace(());
        result
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let (state, expired) = self.lock();
        let result = read(&state);
        drop(state);
        if expired {
            self.changed.send_replace(());
        }
        result
    }

    /// The state as of now, and whether a lease ended since someone looked.
    fn lock(&self) -> (MutexGuard<'_, State>, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = state.expire(Instant::now());
        (state, expired)
    }
}

struct State {
    revision: Revision,
    entries: BTreeMap<Key, Stored>,
    leases: BTreeMap<LeaseId, Term>,
    last_lease: LeaseId,
    /// What each revision after `compacted` changed.
    history: VecDeque<(Revision, Vec<Change>)>,
    /// How many changes the history holds, and may hold.
    history_len: usize,
    history_limit: usize,
    compacted: Revision,
    /// The keys that were live at `compacted`, each with what had written it.
    compacted_keys: BTreeMap<Key, Stamp>,
    available: bool,
    /// A watch that was opened under another number ends.
    connection: u64,
    open_watches: usize,
}

struct Stored {
    entry: Entry,
    lease: Option<LeaseId>,
}

struct Term {
    ttl: Duration,
    ends: Instant,
}

impl State {
    fn new(history_limit: usize) -> Self {
        Self {
            revision: Revision(1),
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: LeaseId(0),
            history: VecDeque::new(),
            history_len: 0,
            history_limit,
            compacted: Revision(1),
            compacted_keys: BTreeMap::new(),
            available: true,
            connection: 0,
            open_watches: 0,
        }
    }

    fn put(&mut self, key: Key, value: Bytes, lease: Option<LeaseId>) {
        let entry = Entry { key, value, mod_revision: Revision(self.revision.0 + 1), lease };
        self.entries.insert(entry.key.clone(), Stored { entry: entry.clone(), lease });
        self.record(vec![Change::Put(entry)]);
    }

    /// Deletes live keys in one revision.
    fn delete(&mut self, keys: Vec<Key>) {
        for key in &keys {
            self.entries.remove(key);
        }
        if !keys.is_empty() {
            self.record(keys.into_iter().map(Change::Delete).collect());
        }
    }

    fn record(&mut self, changes: Vec<Change>) {
        self.revision.0 += 1;
        self.history_len += changes.len();
        self.history.push_back((self.revision, changes));
        while self.history_len > self.history_limit && self.history.len() > 1 {
            self.forget_oldest();
        }
    }

    /// Compacts one revision, if there is one to forget.
    fn forget_oldest(&mut self) -> bool {
        let Some((revision, changes)) = self.history.pop_front() else { return false };
        self.history_len -= changes.len();
        for change in changes {
            match change {
                Change::Put(entry) => {
                    let stamp = entry.stamp();
                    self.compacted_keys.insert(entry.key, stamp)
                }
                Change::Delete(key) => self.compacted_keys.remove(&key),
            };
        }
        self.compacted = revision;
        true
    }

    fn is_leased(&self, key: &Key, lease: LeaseId) -> bool {
        self.entries.get(key).is_some_and(|stored| stored.lease == Some(lease))
    }

    fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self.entries.iter().filter(|(_, stored)| stored.lease == Some(lease));
        self.delete(keys.map(|(key, _)| key.clone()).collect());
    }

    /// Ends the leases whose time is over, in the order in which they ended.
    fn expire(&mut self, now: Instant) -> bool {
        let over = self.leases.iter().filter(|(_, term)| term.ends <= now);
        let mut over: Vec<_> = over.map(|(id, term)| (term.ends, *id)).collect();
        over.sort_unstable();
        for (_, lease) in &over {
            self.end_lease(*lease);
        }
        !over.is_empty()
    }

    /// Whether a watch may begin after this cursor.
    fn prove(&self, after: &Cursor) -> Result<(), StoreError> {
        if after.revision > self.revision {
            return Err(StoreError::Replaced);
        }
        if after.revision < self.compacted {
            return Err(StoreError::Compacted);
        }
        match &after.anchor {
            Some((key, written)) if self.written(key, after.revision) != Some(*written) => {
                Err(StoreError::Replaced)
            }
            _ => Ok(()),
        }
    }

    /// What had last written the key, as of a revision that is not compacted; `None`
    /// when the key was not there.
    fn written(&self, key: &Key, at: Revision) -> Option<Stamp> {
        let changes = self.history.iter().rev().filter(|(revision, _)| *revision <= at);
        let last = changes.flat_map(|(_, changes)| changes).find_map(|change| match change {
            Change::Put(entry) if entry.key == *key => Some(Some(entry.stamp())),
            Change::Delete(deleted) if deleted == key => Some(None),
            _ => None,
        });
        last.unwrap_or_else(|| self.compacted_keys.get(key).copied())
    }

    /// What a range has seen after a revision.
    fn batch_after(
        &self,
        position: Revision,
        range: &KeyRange,
    ) -> Result<Option<WatchItem>, StoreError> {
        if position < self.compacted {
            return Err(StoreError::Compacted);
        }
        let begin = self.history.partition_point(|(revision, _)| *revision <= position);
        let mut last = None;
        let mut in_range = Vec::new();
        for (revision, changes) in self.history.range(begin..) {
            for change in changes {
                let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
                if range.contains(key) {
                    last = Some(*revision);
                    in_range.push(change.clone());
                }
            }
        }
        Ok(last.map(|revision| WatchItem::Batch { revision, changes: in_range }))
    }
}

struct Watch {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    range: KeyRange,
    /// Everything up to here was delivered or is not in the range.
    position: Revision,
    connection: u64,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        let alive_at = Instant::now() + ALIVE_INTERVAL;
        loop {
            self.changed.mark_unchanged();
            let (batch, revision, lease_ends) = self.shared.read(|state| {
                if state.connection != self.connection {
                    return Err(StoreError::Unavailable("the watch was disconnected".into()));
                }
                let lease_ends = state.leases.values().map(|term| term.ends).min();
                let batch = state.batch_after(self.position, &self.range)?;
                Ok((batch, state.revision, lease_ends))
            })?;
            self.position = revision;
            if let Some(batch) = batch {
                return Ok(batch);
            }
            // A lease ends when someone looks, so a watch looks when one is due.
            let wake_at = lease_ends.map_or(alive_at, |ends| ends.min(alive_at));
            tokio::select! {
                _ = self.changed.changed() => {}
                () = sleep_until(wake_at) => {
                    if Instant::now() >= alive_at {
                        return Ok(WatchItem::Alive);
                    }
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open_watches -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Backend, Compacts};

    struct Memory(MemoryStore);

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
    }

    #[async_trait]
    impl Compacts for Memory {
        async fn compact(&self) {
            self.0.compact();
        }
    }

    crate::conformance_tests!(
        #[tokio::test(start_paused = true)]
        Memory(MemoryStore::with_history(100_000))
    );

    crate::conformance_tests!(
        compaction,
        #[tokio::test(start_paused = true)]
        Memory(MemoryStore::new())
    );

    async fn watch_from_now(
        store: &MemoryStore,
    ) -> BoxStream<'static, Result<WatchItem, StoreError>> {
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
                    assert_eq!(
                        (revision, changes),
                        (Revision(3), vec![Change::Delete("a/1".into())])
                    );
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
}
