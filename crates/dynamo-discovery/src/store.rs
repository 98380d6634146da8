//! The storage contract: all that a frontend and a worker may ask of a store.
//!
//! A store is an ordered map with one revision counter, as etcd is. [`WatchStore`] is what a
//! frontend can do, [`LeaseStore`] what a worker can do; neither can do more.
//!
//! The contract sentence by sentence is `conformance::Sentence` (feature `test-util`), and the suite
//! beside it tells whether a store keeps each of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

/// A point in a store's history: every change gets a higher one than all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key. Stores allow any bytes; it displays escaped, so it is fit for a log. A clone is cheap.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("\"{self}\"")]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl<T: AsRef<[u8]>> From<T> for Key {
    fn from(bytes: T) -> Self {
        Self(bytes.as_ref().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// The keys from `start` up to, and without, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Key,
    end: Key,
}

impl KeyRange {
    /// The keys in `[start, end)`.
    pub fn new(start: impl Into<Key>, end: impl Into<Key>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// The keys that begin with `prefix`.
    ///
    /// ```
    /// use dynamo_discovery::KeyRange;
    ///
    /// let range = KeyRange::prefix("models/");
    /// assert!(range.contains(&"models/a".into()));
    /// assert!(!range.contains(&"models-other/a".into()));
    /// ```
    pub fn prefix(prefix: &str) -> Self {
        // UTF-8 has no byte 0xff, so some last byte can always be raised; the empty prefix
        // begins every key, and no key of ours lies past a 0xff.
        let mut end = prefix.as_bytes().to_vec();
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(u8::MAX),
        }
        Self::new(prefix, end)
    }

    /// The first key.
    pub fn start(&self) -> &Key {
        &self.start
    }

    /// The end, not part of the range.
    pub fn end(&self) -> &Key {
        &self.end
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &Key) -> bool {
        (&self.start..&self.end).contains(&key)
    }
}

/// When a key was last written, and under which lease.
///
/// This tells one history from another: a store that was wiped and refilled can have the same key
/// at the same revision, but not under the same lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The revision.
    pub revision: Revision,
    /// The lease, if it was under one.
    pub lease: Option<LeaseId>,
}

/// A key with its value and what last wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, as stored.
    pub value: Bytes,
    /// When the key was last written.
    pub mod_revision: Revision,
    /// The lease that it is under, if any.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// When it was written, and under which lease.
    pub fn stamp(&self) -> Stamp {
        Stamp { revision: self.mod_revision, lease: self.lease }
    }
}

/// All entries of a range at one revision.
///
/// It shows every change that was answered before it was asked for, through whichever handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision at which the entries were read.
    pub revision: Revision,
    /// The entries, ordered by key.
    pub entries: Vec<Entry>,
}

/// All entries of a range at one revision, as they come.
#[derive(derive_more::Debug)]
#[debug("Listing({revision})")]
pub struct Listing {
    /// The store's revision at which the entries are read.
    pub revision: Revision,
    /// The entries, ordered by key, some at a time. An error ends it, and so does the last page.
    pub pages: BoxStream<'static, Result<Page, StoreError>>,
}

/// Some of the entries of a [`Listing`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, ordered by key.
    pub entries: Vec<Entry>,
    /// Whether another page follows.
    pub more: bool,
}

impl Listing {
    /// Waits for the last page.
    ///
    /// # Errors
    ///
    /// What ended the pages before the last one.
    pub async fn collect(self) -> Result<Snapshot, StoreError> {
        let Self { revision, mut pages } = self;
        let mut entries = Vec::new();
        while let Some(page) = pages.try_next().await? {
            entries.extend(page.entries);
            if !page.more {
                return Ok(Snapshot { revision, entries });
            }
        }
        Err(StoreError::Unavailable("the list ended early".into()))
    }
}

/// One page.
impl From<Snapshot> for Listing {
    fn from(Snapshot { revision, entries }: Snapshot) -> Self {
        Self { revision, pages: stream::iter([Ok(Page { entries, more: false })]).boxed() }
    }
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was created or written.
    Put(Entry),
    /// The key was deleted, or its lease ended. Stores do not say which.
    Delete(Key),
}

/// Where to resume a watch, and what proves that it is the same history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last revision that was delivered; the watch begins after it.
    pub revision: Revision,
    /// A key that was live at [`revision`](Self::revision), with what had written it.
    ///
    /// A store that was wiped and refilled can have passed our revision; it does not have this.
    pub anchor: Option<(Key, Stamp)>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Everything that one or more whole revisions changed in the range, in order.
    Batch {
        /// The revision of the last change, so that another watch can begin after the batch. It is
        /// higher than that of every batch before.
        revision: Revision,
        /// The changes, at least one; each key's in the order in which they happened. A store that
        /// has none to deliver says [`Alive`](Self::Alive): how far it has come in revisions that
        /// change nothing in the range is no business of a watch.
        changes: Vec<Change>,
    },
    /// Nothing changed, but the store is there. At least every 5 seconds.
    Alive,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The history after the cursor is gone: list again.
    #[error("the store has compacted the requested revision")]
    Compacted,
    /// The store holds another history than the one the cursor is from: list again.
    #[error("the store was replaced: its history is not the one we know")]
    Replaced,
    /// The lease has ended: grant another and put again.
    #[error("the lease is gone")]
    LeaseGone,
    /// The store refused us: wrong credentials, or no permission for the range.
    #[error("the store denied access")]
    Denied(#[source] Cause),
    /// The store takes no puts and grants no leases, since its space is used up. It is there: lists,
    /// watches, renewals and deletions go on.
    #[error("the store has no space left")]
    Full(#[source] Cause),
    /// The store could not be reached or did not answer.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
}

/// What the backend said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// All that a frontend does with a store.
#[async_trait]
pub trait WatchStore: Send + Sync + 'static {
    /// Lists a range at one revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`]. A backend that reads in pages starts
    /// again by itself when the store compacts between two of them.
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError>;

    /// Lists a range at one revision, and hands on what is there while the rest is on its way.
    ///
    /// A backend that reads in pages gains by having its own; without one, all of
    /// [`list`](Self::list) is one page.
    ///
    /// # Errors
    ///
    /// As of [`list`](Self::list), and [`StoreError::Compacted`] when the store compacts between two
    /// pages: what came so far is then of no use, so beginning again is left to the caller. All of
    /// them may also come from the pages.
    async fn list_pages(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        Ok(self.list(range).await?.into())
    }

    /// Watches a range from the revision after the cursor's on.
    ///
    /// A resume is proven: the store has reached the cursor's revision, and the anchor had at that
    /// revision the [`Stamp`] that the cursor remembers.
    ///
    /// The stream delivers whole revisions, in order, each once, by whichever handle they were made.
    /// It ends when the store cannot be reached any more or its history is gone, with or without an
    /// error, and always after an error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] and [`StoreError::Replaced`] say that only a new list helps, and
    /// [`StoreError::Denied`] and [`StoreError::Unavailable`] mean what they mean elsewhere. All of
    /// them may also come from the stream.
    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError>;
}

#[cfg(any(test, feature = "mock"))]
mockall::mock! {
    /// A [`WatchStore`] with expectations. What it lists is one page.
    pub WatchStore {}

    #[async_trait]
    impl WatchStore for WatchStore {
        async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError>;

        async fn watch(
            &self,
            range: &KeyRange,
            after: &Cursor,
        ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError>;
    }
}

/// A lease's name in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease as the store granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without being renewed. A store may grant more than was asked for.
    pub ttl: Duration,
}

/// One of several writes under one lease ([`LeaseStore::write`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeasedWrite {
    /// As [`LeaseStore::put`].
    Put(Key, Bytes),
    /// As [`LeaseStore::put_if_leased`].
    PutIfLeased(Key, Bytes),
    /// As [`LeaseStore::delete_if_leased`].
    DeleteIfLeased(Key),
}

/// All that a worker does with a store.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Grants a lease that lives for `ttl` or longer without being renewed. It ends at most 5 seconds
    /// after the term that was granted, and its keys are deleted then, in one revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews a lease and returns how long it lives now; `None` when it is gone.
    ///
    /// Returns only with the store's answer: that a request was sent proves nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`]; the lease may live on.
    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError>;

    /// Puts a key under a lease; it is deleted when the lease ends. A put of what is there already is
    /// a change, with a revision of its own.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseGone`] when the lease has ended; else as above.
    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError>;

    /// Puts a key again if it is still under this lease, and returns whether it was. The store
    /// compares and writes in one step, and leaves the key under the lease.
    ///
    /// A worker that withdraws late must not write over its successor's entry, nor take it back
    /// under its own lease.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError>;

    /// Deletes a key if it is under this lease, and returns whether it was. The store compares and
    /// deletes in one step.
    ///
    /// The key's *lease* is compared: a creation revision survives an overwrite, so comparing that
    /// would delete the successor's entry.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError>;

    /// Does several writes under one lease, and returns for each whether it was done; a
    /// [`LeasedWrite::Put`] always is. No key comes twice.
    ///
    /// Each write is atomic with its condition. All of them together are not: a store may do them in
    /// parts, one part after the other in the order of the writes, and somebody else may write in
    /// between. Without an implementation of its own, each write is a part.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseGone`] when the lease has ended and there is a [`LeasedWrite::Put`]; else as
    /// of the single writes. Any part of the writes may have been done.
    async fn write(&self, writes: &[LeasedWrite], lease: LeaseId) -> Result<Vec<bool>, StoreError> {
        let mut done = Vec::with_capacity(writes.len());
        for write in writes {
            done.push(match write {
                LeasedWrite::Put(key, value) => {
                    self.put(key, value.clone(), lease).await?;
                    true
                }
                LeasedWrite::PutIfLeased(key, value) => {
                    self.put_if_leased(key, value.clone(), lease).await?
                }
                LeasedWrite::DeleteIfLeased(key) => self.delete_if_leased(key, lease).await?,
            });
        }
        Ok(done)
    }

    /// Finds those of these keys that are not under this lease, each with its entry, if it has one.
    ///
    /// Without an implementation of its own a store finds none: then a worker does not notice that
    /// somebody has deleted its keys, or has put them without a lease.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    async fn strays(
        &self,
        _keys: &[Key],
        _lease: LeaseId,
    ) -> Result<Vec<(Key, Option<Entry>)>, StoreError> {
        Ok(Vec::new())
    }

    /// Puts a key under a lease if it is under none, and returns whether it was put: nobody has the
    /// key, or somebody has put it without a lease.
    ///
    /// It is needed by a store that finds [`strays`](Self::strays). Without an implementation of its
    /// own a store puts nothing.
    ///
    /// # Errors
    ///
    /// As of [`put`](Self::put).
    async fn put_if_unleased(
        &self,
        _key: &Key,
        _value: Bytes,
        _lease: LeaseId,
    ) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Ends a lease and deletes its keys, in one revision and before it answers. A lease that is gone
    /// already is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

#[cfg(any(test, feature = "mock"))]
mockall::mock! {
    /// A [`LeaseStore`] with expectations. Several writes are single ones, and nothing strays.
    pub LeaseStore {}

    #[async_trait]
    impl LeaseStore for LeaseStore {
        async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

        async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError>;

        async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError>;

        async fn put_if_leased(
            &self,
            key: &Key,
            value: Bytes,
            lease: LeaseId,
        ) -> Result<bool, StoreError>;

        async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError>;

        async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_ends_at_its_boundary() {
        let range = KeyRange::prefix("models/");
        assert_eq!(range.end().as_bytes(), b"models0");
        for (key, inside) in
            [("models/", true), ("models/zzz", true), ("models0", false), ("models", false)]
        {
            assert_eq!(range.contains(&key.into()), inside, "{key}");
        }
        assert!(KeyRange::prefix("").contains(&"anything".into()));
    }

    #[test]
    fn a_key_displays_without_control_characters() {
        assert_eq!(Key::from(b"a\x1b[31m\xff\n").to_string(), r"a\x1b[31m\xff\n");
    }
}
