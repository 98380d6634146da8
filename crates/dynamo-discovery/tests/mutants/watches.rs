//! Stores that watch wrongly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dynamo_discovery::{
    Change, Cursor, Entry, KeyRange, MemoryStore, Revision, StoreError, WatchItem, WatchStore as _,
};
use futures_util::stream::{self, StreamExt as _};

use crate::harness::{Items, Mutation, Result, key_of, with_batches, with_changes};

/// A watch begins now, whatever its cursor says.
#[derive(Clone)]
pub(crate) struct BeginsNow;

#[async_trait]
impl Mutation for BeginsNow {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        drop(store.watch(range, after).await?);
        watch_from_now(store, range).await
    }
}

pub(crate) async fn watch_from_now(store: &MemoryStore, range: &KeyRange) -> Result<Items> {
    store.watch(range, &Cursor { revision: store.revision(), anchor: None }).await
}

/// A watch begins with its cursor's revision, and not after it.
#[derive(Clone)]
pub(crate) struct BeginsAtCursor;

#[async_trait]
impl Mutation for BeginsAtCursor {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        let before = Revision(after.revision.0 - 1);
        let before = store.watch(range, &Cursor { revision: before, anchor: None }).await;
        Ok(before.unwrap_or(items))
    }
}

/// A handle goes on where its last watch stopped, whatever the cursor says.
#[derive(Clone, Default)]
pub(crate) struct GoesOnWhereItWas(Arc<Mutex<Option<Revision>>>);

#[async_trait]
impl Mutation for GoesOnWhereItWas {
    fn frontend(&self) -> Self {
        Self::default()
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        let reached = *self.0.lock().unwrap();
        let reached = reached.filter(|reached| *reached > after.revision);
        let items = match reached {
            Some(revision) => store.watch(range, &Cursor { revision, anchor: None }).await?,
            None => items,
        };
        let last = self.0.clone();
        Ok(with_changes(items, move |revision, changes| {
            *last.lock().unwrap() = Some(revision);
            changes
        }))
    }
}

/// Every second frontend's watches are quiet for ever.
#[derive(Clone, Default)]
pub(crate) struct OtherHandleIsDeaf {
    frontends: Arc<AtomicUsize>,
    is_deaf: bool,
}

#[async_trait]
impl Mutation for OtherHandleIsDeaf {
    fn frontend(&self) -> Self {
        let number = self.frontends.fetch_add(1, Ordering::Relaxed);
        Self { is_deaf: number % 2 == 1, ..self.clone() }
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let is_deaf = self.is_deaf;
        let items = store.watch(range, after).await?;
        Ok(with_changes(items, move |_, changes| if is_deaf { vec![] } else { changes }))
    }
}

/// The range that a watch looks at is longer for some changes.
#[derive(Clone)]
pub(crate) enum Leaks {
    Puts,
    Deletes,
}

#[async_trait]
impl Mutation for Leaks {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let leaks = self.clone();
        let end = [range.end().as_bytes(), b"\xff"].concat();
        let longer = KeyRange::new(range.start().clone(), end);
        let range = range.clone();
        let items = store.watch(&longer, after).await?;
        Ok(with_changes(items, move |_, mut changes| {
            changes.retain(|change| {
                let leaks = matches!(
                    (&leaks, change),
                    (Leaks::Puts, Change::Put(_)) | (Leaks::Deletes, Change::Delete(_))
                );
                leaks || range.contains(key_of(change))
            });
            changes
        }))
    }
}

/// What is wrong with the changes of a batch.
#[derive(Clone)]
pub(crate) enum Changes {
    /// Of each key only the last one.
    Coalesced,
    /// The newest first.
    Reversed,
    /// The first one again at the end.
    Repeated,
    /// A deletion is a put of nothing.
    DeletionsAsPuts,
    /// No deletions.
    NoDeletions,
    /// No put names its lease.
    PutsWithoutLease,
}

#[async_trait]
impl Mutation for Changes {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let mutation = self.clone();
        let items = store.watch(range, after).await?;
        Ok(with_changes(items, move |revision, changes| mutation.of(revision, changes)))
    }
}

impl Changes {
    fn of(&self, revision: Revision, mut changes: Vec<Change>) -> Vec<Change> {
        match self {
            Self::Coalesced => {
                let last: HashMap<_, _> =
                    changes.iter().enumerate().map(|(at, change)| (key_of(change), at)).collect();
                let is_last = |&(at, change): &(usize, &Change)| last[key_of(change)] == at;
                changes
                    .iter()
                    .enumerate()
                    .filter(is_last)
                    .map(|(_, change)| change.clone())
                    .collect()
            }
            Self::Reversed => {
                changes.reverse();
                changes
            }
            Self::Repeated => {
                changes.push(changes[0].clone());
                changes
            }
            Self::DeletionsAsPuts => {
                let put = |change| match change {
                    Change::Delete(key) => Change::Put(Entry {
                        key,
                        value: "".into(),
                        mod_revision: revision,
                        lease: None,
                    }),
                    put => put,
                };
                changes.into_iter().map(put).collect()
            }
            Self::NoDeletions => {
                changes.retain(|change| matches!(change, Change::Put(_)));
                changes
            }
            Self::PutsWithoutLease => {
                for change in &mut changes {
                    if let Change::Put(entry) = change {
                        entry.lease = None;
                    }
                }
                changes
            }
        }
    }
}

/// What is wrong with batches.
#[derive(Clone)]
pub(crate) enum Batches {
    /// Each comes twice.
    Twice,
    /// Each deletion comes in a batch of its own, also those of one revision.
    Split,
    /// The revision is too high.
    TooHigh,
    /// The revision is too high where the last change is a deletion.
    TooHighForDeletions,
    /// The revision is too low.
    TooLow,
    /// The revision is that of the first change.
    OfTheFirst,
    /// The revision is the store's, which others have raised meanwhile.
    OfTheStore,
}

#[async_trait]
impl Mutation for Batches {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let (mutation, now) = (self.clone(), store.clone());
        let items = store.watch(range, after).await?;
        Ok(with_batches(items, move |revision, changes| mutation.of(revision, changes, &now)))
    }
}

impl Batches {
    fn of(&self, revision: Revision, changes: Vec<Change>, store: &MemoryStore) -> Vec<WatchItem> {
        let revision_of = |change: &Change| match change {
            Change::Put(entry) => entry.mod_revision,
            Change::Delete(_) => revision,
        };
        let ends_with_deletion = matches!(changes.last(), Some(Change::Delete(_)));
        let revision = match self {
            Self::Twice => {
                let batch = WatchItem::Batch { revision, changes };
                return vec![batch.clone(), batch];
            }
            Self::Split if changes.iter().all(|change| matches!(change, Change::Delete(_))) => {
                let batch = |change| WatchItem::Batch { revision, changes: vec![change] };
                return changes.into_iter().map(batch).collect();
            }
            Self::Split => revision,
            Self::TooHigh => Revision(revision.0 + 1),
            Self::TooHighForDeletions => Revision(revision.0 + u64::from(ends_with_deletion)),
            Self::TooLow => Revision(revision.0 - 1),
            Self::OfTheFirst => revision_of(&changes[0]),
            Self::OfTheStore => store.revision(),
        };
        vec![WatchItem::Batch { revision, changes }]
    }
}

/// What is wrong with a quiet watch.
#[derive(Clone)]
pub(crate) enum Quiet {
    /// It says nothing.
    Silent,
    /// It says `Alive` every 8 seconds.
    Slow,
    /// It says in a batch without changes how far the store has come.
    Progress,
    /// It ends.
    Ends,
}

#[async_trait]
impl Mutation for Quiet {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let (mutation, now) = (self.clone(), store.clone());
        let items = store.watch(range, after).await?;
        let mut count = 0;
        let told = items.scan((), move |(), item| {
            let is_quiet = matches!(item, Ok(WatchItem::Alive));
            count += usize::from(is_quiet);
            let item = match &mutation {
                _ if !is_quiet => Some(Some(item)),
                Self::Silent => Some(None),
                Self::Slow if count % 2 == 1 => Some(None),
                Self::Slow => Some(Some(item)),
                Self::Progress => Some(Some(Ok(WatchItem::Batch {
                    revision: now.revision(),
                    changes: Vec::new(),
                }))),
                Self::Ends => None,
            };
            async move { item }
        });
        Ok(told.filter_map(|item| async move { item }).boxed())
    }
}

/// A watch that failed goes on.
#[derive(Clone)]
pub(crate) struct GoesOnAfterError;

#[async_trait]
impl Mutation for GoesOnAfterError {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        Ok(items.chain(stream::repeat_with(|| Ok(WatchItem::Alive))).boxed())
    }
}

/// A watch that has fallen behind goes on with what comes.
#[derive(Clone)]
pub(crate) struct OvertakenSkips;

#[async_trait]
impl Mutation for OvertakenSkips {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        let (store, range) = (store.clone(), range.clone());
        let items = items.flat_map(move |item| match item {
            Err(StoreError::Compacted) => {
                let (store, range) = (store.clone(), range.clone());
                // What is kept is what came after the compaction.
                let kept = async move {
                    let mut revision = store.revision();
                    while let Ok(items) =
                        store.watch(&range, &Cursor { revision, anchor: None }).await
                    {
                        drop(items);
                        revision.0 -= 1;
                    }
                    revision.0 += 1;
                    store.watch(&range, &Cursor { revision, anchor: None }).await
                };
                stream::once(kept).flat_map(|items| items.expect("a watch")).boxed()
            }
            other => stream::iter([other]).boxed(),
        });
        Ok(items.boxed())
    }
}

/// Each watch has a task that outlives it.
#[derive(Clone)]
pub(crate) struct LeavesTasks;

#[async_trait]
impl Mutation for LeavesTasks {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let items = store.watch(range, after).await?;
        tokio::spawn(std::future::pending::<()>());
        Ok(items)
    }
}

/// Whoever drops a watch ends all of them.
#[derive(Clone)]
pub(crate) struct DropEndsAll;

struct Disconnect(MemoryStore);

impl Drop for Disconnect {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

#[async_trait]
impl Mutation for DropEndsAll {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let guard = Disconnect(store.clone());
        let items = store.watch(range, after).await?;
        Ok(items.inspect(move |_| _ = &guard).boxed())
    }
}
