//! A store of one's own, and how the conformance suite tells whether it keeps the contract.
//!
//! The store is as plain as a store can be: one map, one counter, and a history that is never cut.
//! `MemoryStore` is for real use.
//!
//! ```sh
//! cargo run -p dynamo-discovery --features test-util --example own_store
//! cargo test -p dynamo-discovery --features test-util --example own_store
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::conformance::{Backend, CASES};
use dynamo_discovery::{
    Change, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, Revision, Snapshot, Stamp,
    StoreError, WatchItem, WatchStore,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A handle. A clone is another handle to the same store.
#[derive(Clone, Default)]
struct OwnStore(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the watches after each write.
    written: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<Key, Entry>,
    leases: BTreeMap<LeaseId, Term>,
    last_lease: i64,
    /// What each revision changed.
    history: Vec<(Revision, Vec<Change>)>,
}

struct Term {
    ttl: Duration,
    ends: Instant,
}

impl State {
    fn write(&mut self, changes: impl FnOnce(Revision) -> Vec<Change>) {
        let revision = Revision(self.revision.0 + 1);
        let changes = changes(revision);
        // The end of a lease without keys changes nothing.
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            match change {
                Change::Put(entry) => self.entries.insert(entry.key.clone(), entry.clone()),
                Change::Delete(key) => self.entries.remove(key),
            };
        }
        self.revision = revision;
        self.history.push((revision, changes));
    }

    fn put(&mut self, key: &Key, value: Bytes, lease: LeaseId) {
        let key = key.clone();
        self.write(|mod_revision| {
            vec![Change::Put(Entry { key, value, mod_revision, lease: Some(lease) })]
        });
    }

    fn is_leased(&self, key: &Key, lease: LeaseId) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.lease == Some(lease))
    }

    /// Deletes all keys of a lease in one revision.
    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self.entries.values().filter(|entry| entry.lease == Some(lease));
        let deletions = keys.map(|entry| Change::Delete(entry.key.clone())).collect();
        self.write(|_| deletions);
    }

    /// What had last put a key, as of a revision.
    fn stamp(&self, key: &Key, at: Revision) -> Option<Stamp> {
        let past = self.history.iter().rev().filter(|(revision, _)| *revision <= at);
        let last = past.flat_map(|(_, changes)| changes).find_map(|change| match change {
            Change::Put(entry) if entry.key == *key => Some(Some(entry.stamp())),
            Change::Delete(deleted) if deleted == key => Some(None),
            _ => None,
        });
        last.flatten()
    }

    /// What a range has seen after a revision, in one batch.
    fn batch(&self, range: &KeyRange, after: Revision) -> Option<WatchItem> {
        let mut last = after;
        let mut batch = Vec::new();
        let begin = self.history.partition_point(|(revision, _)| *revision <= after);
        for (revision, changes) in &self.history[begin..] {
            for change in changes {
                let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
                if range.contains(key) {
                    last = *revision;
                    batch.push(change.clone());
                }
            }
        }
        (!batch.is_empty()).then_some(WatchItem::Batch { revision: last, changes: batch })
    }
}

impl OwnStore {
    /// The state as of now. A lease ends when somebody looks.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let over = state.leases.iter().filter(|(_, term)| term.ends <= now);
        for lease in over.map(|(lease, _)| *lease).collect::<Vec<_>>() {
            state.end(lease);
            self.0.written.send_replace(());
        }
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.0.written.send_replace(());
        result
    }

    /// The next item of a watch that has delivered everything up to a revision.
    async fn next(&self, range: &KeyRange, after: Revision) -> WatchItem {
        let mut written = self.0.written.subscribe();
        let alive_at = Instant::now() + Duration::from_secs(4);
        loop {
            // Look, and then wait: what is written in between wakes the watch.
            written.mark_unchanged();
            let lease_ends = {
                let state = self.state();
                if let Some(batch) = state.batch(range, after) {
                    return batch;
                }
                state.leases.values().map(|term| term.ends).min()
            };
            let until = lease_ends.map_or(alive_at, |ends| ends.min(alive_at));
            tokio::select! {
                _ = written.changed() => {}
                () = sleep_until(until) => {
                    if Instant::now() >= alive_at {
                        return WatchItem::Alive;
                    }
                }
            }
        }
    }
}

#[async_trait]
impl WatchStore for OwnStore {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        let state = self.state();
        let entries = state.entries.values().filter(|entry| range.contains(&entry.key));
        Ok(Snapshot { revision: state.revision, entries: entries.cloned().collect() })
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        {
            let state = self.state();
            let is_ours = match &after.anchor {
                Some((key, stamp)) => state.stamp(key, after.revision) == Some(*stamp),
                None => true,
            };
            if after.revision > state.revision || !is_ours {
                return Err(StoreError::Replaced);
            }
        }
        let begin = (self.clone(), range.clone(), after.revision);
        let items = stream::unfold(begin, |(store, range, after)| async move {
            let item = store.next(&range, after).await;
            let after = match &item {
                WatchItem::Batch { revision, .. } => *revision,
                WatchItem::Alive => after,
            };
            Some((Ok(item), (store, range, after)))
        });
        Ok(items.boxed())
    }
}

#[async_trait]
impl LeaseStore for OwnStore {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.change(|state| {
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            state.leases.insert(id, Term { ttl, ends: Instant::now() + ttl });
            Ok(Lease { id, ttl })
        })
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.change(|state| {
            Ok(state.leases.get_mut(&lease).map(|term| {
                term.ends = Instant::now() + term.ttl;
                term.ttl
            }))
        })
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            state.put(key, value, lease);
            Ok(())
        })
    }

    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        // Under one lock, so that nothing comes between the comparison and the write.
        self.change(|state| {
            let is_leased = state.is_leased(key, lease);
            if is_leased {
                state.put(key, value, lease);
            }
            Ok(is_leased)
        })
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError> {
        self.change(|state| {
            let is_leased = state.is_leased(key, lease);
            if is_leased {
                state.write(|_| vec![Change::Delete(key.clone())]);
            }
            Ok(is_leased)
        })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| state.end(lease));
        Ok(())
    }
}

/// The store under test.
#[derive(Default)]
struct Own(OwnStore);

impl Backend for Own {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        Arc::new(self.0.clone())
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.0.clone())
    }

    fn root(&self) -> &str {
        "own/"
    }

    fn several_pages(&self) -> usize {
        // A list is one page, however long.
        100
    }
}

/// Runs the suite by hand. In a project of one's own the tests below are enough.
#[tokio::main(flavor = "current_thread", start_paused = true)]
#[expect(clippy::print_stdout, reason = "the result")]
async fn main() -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    for case in CASES {
        match case.run(&Own::default()).await {
            Ok(()) => println!("ok  {}", case.name()),
            Err(breach) => {
                println!("--  {}: {breach}", case.name());
                exit = ExitCode::FAILURE;
            }
        }
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    dynamo_discovery::conformance_tests!(
        #[tokio::test(start_paused = true)]
        Own::default()
    );

    dynamo_discovery::conformance_tests!(
        races,
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        Own::default()
    );
}
