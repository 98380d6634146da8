//! Stores that believe or refuse cursors wrongly, and compact wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, KeyRange, MemoryStore, Revision, Snapshot, StoreError, WatchStore as _,
};
use futures_util::stream::{self, StreamExt as _};
use tokio::task::yield_now;

use crate::harness::{Items, Mutation, Result, entry_of};
use crate::watches::watch_from_now;

/// A cursor that is so far ahead is taken for the present.
#[derive(Clone)]
pub(crate) struct Ahead {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[async_trait]
impl Mutation for Ahead {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let ahead = after.revision.0.saturating_sub(store.revision().0);
        if (self.from..=self.to).contains(&ahead) {
            return watch_from_now(store, range).await;
        }
        store.watch(range, after).await
    }
}

/// What of an anchor is not compared.
#[derive(Clone)]
pub(crate) enum Anchor {
    Nothing,
    Lease,
    Revision,
}

#[async_trait]
impl Mutation for Anchor {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let believed = Cursor { anchor: None, ..after.clone() };
        match (store.watch(range, after).await, &after.anchor) {
            (Err(StoreError::Replaced), Some((key, stamp))) => {
                let entry = entry_of(store, key).await?;
                let is_enough = |entry: &dynamo_discovery::Entry| match self {
                    Self::Nothing => true,
                    Self::Lease => entry.mod_revision == stamp.revision,
                    Self::Revision => entry.lease == stamp.lease,
                };
                if matches!(self, Self::Nothing) || entry.is_some_and(|entry| is_enough(&entry)) {
                    store.watch(range, &believed).await
                } else {
                    Err(StoreError::Replaced)
                }
            }
            (result, _) => result,
        }
    }
}

/// An anchor is compared with what is there now.
#[derive(Clone)]
pub(crate) struct AnchorOfNow;

#[async_trait]
impl Mutation for AnchorOfNow {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        if let Some((key, stamp)) = &after.anchor {
            let now = entry_of(store, key).await?.map(|entry| entry.stamp());
            if now != Some(*stamp) {
                return Err(StoreError::Replaced);
            }
        }
        Ok(items)
    }
}

/// What a cursor before the kept history comes to.
#[derive(Clone)]
pub(crate) enum Compacted {
    /// A watch that is silent for ever.
    Hangs,
    /// A watch from now on.
    BeginsNow,
    /// An error that does not ask for a list.
    IsUnavailable,
}

#[async_trait]
impl Mutation for Compacted {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        match (store.watch(range, after).await, self) {
            (Err(StoreError::Compacted), Self::Hangs) => Ok(stream::pending().boxed()),
            (Err(StoreError::Compacted), Self::BeginsNow) => watch_from_now(store, range).await,
            (Err(StoreError::Compacted), Self::IsUnavailable) => {
                Err(StoreError::Unavailable("compacted".into()))
            }
            (result, _) => result,
        }
    }
}

/// What a compaction ends that it should not.
#[derive(Clone)]
pub(crate) struct Compaction {
    pub(crate) ends: Ends,
    last: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ends {
    Lists,
    Watches,
    LaterWatches,
}

impl Compaction {
    pub(crate) fn that(ends: Ends) -> Self {
        Self { ends, last: Arc::default() }
    }

    fn last(&self) -> Revision {
        Revision(self.last.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl Mutation for Compaction {
    fn compact(&self, store: &MemoryStore) {
        self.last.store(store.revision().0, Ordering::Relaxed);
        store.compact();
        if self.ends == Ends::Watches {
            store.disconnect();
        }
    }

    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let before = self.last();
        let snapshot = store.list(range).await?;
        yield_now().await;
        if self.ends == Ends::Lists && self.last() != before {
            return Err(StoreError::Compacted);
        }
        Ok(snapshot)
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        if self.ends == Ends::LaterWatches && after.revision <= self.last() {
            return Err(StoreError::Compacted);
        }
        store.watch(range, after).await
    }
}
