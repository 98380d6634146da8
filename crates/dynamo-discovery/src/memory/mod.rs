//! A store in the memory of one process: for tests, examples, and what runs in a single process.

mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch::Sender;
use tokio::time::Instant;

use self::state::State;
use self::watch::Watch;
use crate::counter_store::CounterStore;
use crate::store::{
    Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, LeasedWrite, Revision, Snapshot,
    StoreError, WatchItem, WatchStore,
};

/// A store in memory that keeps the contract of [`WatchStore`] and [`LeaseStore`] to the letter.
///
/// A clone is another handle to the same store. Leases run on tokio's clock, so paused time ends
/// them too; nothing runs in the background.
///
/// Its history is bounded. A watch reads it at its own pace, so one that is not polled while more
/// changes happen than the history holds ends with [`StoreError::Compacted`].
///
/// What goes wrong with a real store can be provoked: [`compact`](Self::compact),
/// [`disconnect`](Self::disconnect), [`set_available`](Self::set_available),
/// [`set_allowed`](Self::set_allowed), [`set_full`](Self::set_full) and [`replace`](Self::replace).
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
#[derive(Clone, derive_more::Debug)]
#[debug("MemoryStore({:?})", self.revision())]
pub struct MemoryStore(Arc<Shared>);

impl MemoryStore {
    /// How many changes the history holds by default.
    pub const DEFAULT_HISTORY: usize = 1024;

    /// An empty store at revision 1, as etcd begins.
    pub fn new() -> Self {
        Self::with_history(Self::DEFAULT_HISTORY)
    }

    /// An empty store whose history holds this many changes, and the last revision in any case.
    pub fn with_history(changes: usize) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::new(changes)), changed: Sender::new(()) }))
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
    pub fn revision(&self) -> Revision {
        self.0.read(|state| state.revision)
    }

    /// How many watches are open.
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

    /// Whether calls are allowed. While they are not, they fail with [`StoreError::Denied`]; all else
    /// is as with [`set_available`](Self::set_available).
    pub fn set_allowed(&self, allowed: bool) {
        self.0.write(|state| state.allowed = allowed);
    }

    /// Whether the space is used up. While it is, grants and calls that put fail with
    /// [`StoreError::Full`], and all else works.
    pub fn set_full(&self, full: bool) {
        self.0.write(|state| state.full = full);
    }

    /// Replaces the store by a new one without entries or leases, whose revisions begin again.
    ///
    /// Every open watch ends with [`StoreError::Unavailable`].
    pub fn replace(&self) {
        self.0.write(State::replace);
    }

    /// What a call over the network does: it may fail.
    fn call<T>(
        &self,
        call: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.0.write(|state| {
            if !state.available {
                return Err(StoreError::Unavailable(
                    "the memory store was made unavailable".into(),
                ));
            }
            if !state.allowed {
                return Err(StoreError::Denied("the memory store was made to deny access".into()));
            }
            call(state)
        })
    }

    /// A call that needs space.
    fn call_for_space<T>(
        &self,
        call: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.call(|state| {
            if state.full {
                return Err(StoreError::Full("the memory store was made to be full".into()));
            }
            call(state)
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl WatchStore for MemoryStore {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        self.call(|state| {
            let entries = state.entries.values();
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
        self.call_for_space(|state| Ok(Lease { id: state.grant(ttl, Instant::now()), ttl }))
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.call(|state| Ok(state.renew(lease, Instant::now())))
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
        let write = |state: &mut State| {
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
        };
        let only_deletes =
            writes.iter().all(|write| matches!(write, LeasedWrite::DeleteIfLeased(_)));
        if only_deletes { self.call(write) } else { self.call_for_space(write) }
    }

    async fn strays(
        &self,
        keys: &[Key],
        lease: LeaseId,
    ) -> Result<Vec<(Key, Option<Entry>)>, StoreError> {
        self.call(|state| {
            let strays = keys.iter().filter(|key| !state.is_leased(key, lease));
            let found = |key| state.entries.get(key).cloned();
            Ok(strays.map(|key| (key.clone(), found(key))).collect())
        })
    }

    async fn put_if_unleased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        self.call_for_space(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            let free = state.entries.get(key).is_none_or(|entry| entry.lease.is_none());
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

#[async_trait]
impl CounterStore for MemoryStore {
    async fn put_if_unchanged(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>, StoreError> {
        self.call_for_space(|state| {
            if state.entries.get(key).map(|entry| entry.mod_revision) != written {
                return Ok(None);
            }
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            state.put(key.clone(), value, Some(lease));
            Ok(Some(state.revision))
        })
    }
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the watches after every write.
    changed: Sender<()>,
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
