//! Stores that list wrongly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::{
    Entry, Key, KeyRange, LeaseId, LeaseStore as _, Listing, MemoryStore, Page, Revision, Snapshot,
    StoreError, WatchStore as _,
};
use futures_util::stream::{self, StreamExt as _};
use tokio::task::yield_now;

use crate::harness::{Mutation, Result, entry_of, pages};

/// The last entry is missing.
#[derive(Clone)]
pub(crate) struct LastIsMissing;

#[async_trait]
impl Mutation for LastIsMissing {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        snapshot.entries.pop();
        Ok(snapshot)
    }
}

/// The keys after the range are listed as well.
#[derive(Clone)]
pub(crate) struct RangeIsTooLong;

#[async_trait]
impl Mutation for RangeIsTooLong {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let end = [range.end().as_bytes(), b"\xff"].concat();
        store.list(&KeyRange::new(range.start().clone(), end)).await
    }
}

/// The last written entry comes first.
#[derive(Clone)]
pub(crate) struct NewestFirst;

#[async_trait]
impl Mutation for NewestFirst {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        snapshot.entries.sort_by_key(|entry| std::cmp::Reverse(entry.mod_revision));
        Ok(snapshot)
    }
}

/// Each key's entry as it was when it was listed first.
#[derive(Clone, Default)]
struct FirstSeen(Arc<Mutex<HashMap<Key, Entry>>>);

impl FirstSeen {
    fn of(&self, entry: &Entry) -> Entry {
        self.0.lock().unwrap().entry(entry.key.clone()).or_insert_with(|| entry.clone()).clone()
    }
}

/// An entry's value is the one that was listed first.
#[derive(Clone, Default)]
pub(crate) struct FirstValue(FirstSeen);

#[async_trait]
impl Mutation for FirstValue {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        for entry in &mut snapshot.entries {
            entry.value = self.0.of(entry).value;
        }
        Ok(snapshot)
    }

    // What is put over is listed with what was there before.
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        if let Some(entry) = entry_of(store, key).await? {
            self.0.of(&entry);
        }
        store.put(key, value, lease).await
    }
}

/// An entry's revision is the one at which it was listed first, as etcd's `create_revision` is.
#[derive(Clone, Default)]
pub(crate) struct FirstRevision(FirstSeen);

#[async_trait]
impl Mutation for FirstRevision {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        for entry in &mut snapshot.entries {
            entry.mod_revision = self.0.of(entry).mod_revision;
        }
        Ok(snapshot)
    }
}

/// No entry has a lease.
#[derive(Clone)]
pub(crate) struct NoLease;

#[async_trait]
impl Mutation for NoLease {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        for entry in &mut snapshot.entries {
            entry.lease = None;
        }
        Ok(snapshot)
    }
}

/// The list's revision is off.
#[derive(Clone)]
pub(crate) struct RevisionOff(pub(crate) i64);

#[async_trait]
impl Mutation for RevisionOff {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut snapshot = store.list(range).await?;
        snapshot.revision = Revision(snapshot.revision.0.saturating_add_signed(self.0));
        Ok(snapshot)
    }
}

/// The first half is read before the second.
#[derive(Clone)]
pub(crate) struct TwoReads;

#[async_trait]
impl Mutation for TwoReads {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let mut first = store.list(range).await?.entries;
        // As long as the way to a store takes.
        for _ in 0..100 {
            yield_now().await;
        }
        let second = store.list(range).await?;
        first.truncate(first.len() / 2);
        let from = first.last().map(|entry| entry.key.clone());
        let rest = second.entries.into_iter().filter(|entry| Some(&entry.key) > from.as_ref());
        first.extend(rest);
        Ok(Snapshot { revision: second.revision, entries: first })
    }
}

/// Each page is read at the store's latest revision.
#[derive(Clone)]
pub(crate) struct PagesOfTheirOwn;

#[async_trait]
impl Mutation for PagesOfTheirOwn {
    async fn list_pages(&self, store: &MemoryStore, range: &KeyRange) -> Result<Listing> {
        let revision = store.list(range).await?.revision;
        let begin = Some((store.clone(), range.clone()));
        let pages = stream::try_unfold(begin, |state| async move {
            let Some((store, rest)) = state else { return Ok(None) };
            let entries = store.list(&rest).await?.entries;
            let page = pages(&entries).swap_remove(0);
            yield_now().await;
            let next = page.entries.last().filter(|_| page.more).map(|last| {
                let start = [last.key.as_bytes(), b"\0"].concat();
                (store, KeyRange::new(start, rest.end().clone()))
            });
            Ok(Some((page, next)))
        });
        Ok(Listing { revision, pages: pages.boxed() })
    }
}

/// Every second frontend reads what its list before should have shown.
#[derive(Clone, Default)]
pub(crate) struct LaggingReplica {
    frontends: Arc<AtomicUsize>,
    lags: bool,
    last: Arc<Mutex<Option<Snapshot>>>,
}

#[async_trait]
impl Mutation for LaggingReplica {
    fn frontend(&self) -> Self {
        let number = self.frontends.fetch_add(1, Ordering::Relaxed);
        Self { lags: number % 2 == 1, last: Arc::default(), ..self.clone() }
    }

    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let snapshot = store.list(range).await?;
        let before = self.last.lock().unwrap().replace(snapshot.clone());
        Ok(before.filter(|_| self.lags).unwrap_or(snapshot))
    }
}

/// What is wrong with pages.
#[derive(Clone)]
pub(crate) enum Pages {
    /// A page begins with the last entry of the page before.
    Overlap,
    /// A page lacks its first entry.
    Miss,
    /// No page says that it is the last.
    NoneIsLast,
    /// The first page says that it is the last.
    FirstIsLast,
    /// An empty page comes after the last.
    OneMore,
}

impl Mutation for Pages {
    fn pages(&self, mut pages: Vec<Page>) -> Vec<Page> {
        match self {
            Self::Overlap => {
                for number in 1..pages.len() {
                    let last = pages[number - 1].entries.last().cloned();
                    pages[number].entries.splice(0..0, last);
                }
            }
            Self::Miss => {
                for page in pages.iter_mut().skip(1) {
                    page.entries.remove(0);
                }
            }
            Self::NoneIsLast => pages.iter_mut().for_each(|page| page.more = true),
            Self::FirstIsLast => pages[0].more = false,
            Self::OneMore => pages.push(Page::default()),
        }
        pages
    }
}

/// Values are text.
#[derive(Clone)]
pub(crate) struct ValuesAreText;

#[async_trait]
impl Mutation for ValuesAreText {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        let value = String::from_utf8_lossy(&value).into_owned();
        store.put(key, value.into(), lease).await
    }
}

/// Keys are text without blanks around it.
#[derive(Clone)]
pub(crate) struct KeysAreTrimmed;

#[async_trait]
impl Mutation for KeysAreTrimmed {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        store.put(&key.as_bytes().trim_ascii().into(), value, lease).await
    }
}

/// A put of the value that is there writes nothing.
#[derive(Clone)]
pub(crate) struct EqualPutsAreSkipped;

#[async_trait]
impl Mutation for EqualPutsAreSkipped {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        match entry_of(store, key).await? {
            Some(entry) if entry.value == value && entry.lease == Some(lease) => Ok(()),
            _ => store.put(key, value, lease).await,
        }
    }
}

/// A long list is refused.
#[derive(Clone)]
pub(crate) struct LongListsFail;

#[async_trait]
impl Mutation for LongListsFail {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        let snapshot = store.list(range).await?;
        if snapshot.entries.len() > 30 {
            return Err(StoreError::Unavailable("message larger than max".into()));
        }
        Ok(snapshot)
    }
}
