//! A store that is as bad as the contract lets it be, and a little worse.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, Entry, KeyRange, Listing, Page, Revision, Snapshot, StoreError, WatchItem, WatchStore,
};
use fastrand::Rng;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};

use crate::world::{At, World};

/// The store: its calls wait, fail, hang, and answer with what was true when they were under way.
#[derive(Clone)]
pub struct Scripted(Arc<Mutex<Inner>>);

pub struct Inner {
    pub world: World,
    pub rng: Rng,
    /// What was handed over last.
    pub handed: Option<At>,
    /// Watches that were opened under another number are cut.
    pub connection: u64,
    /// From now on it does nothing but what it should.
    pub calm: bool,
    /// How many lists were asked for.
    pub lists: usize,
}

impl Inner {
    fn chance(&mut self, percent: u8) -> bool {
        !self.calm && self.rng.u8(..100) < percent
    }

    fn unavailable(&mut self) -> StoreError {
        match self.rng.u8(..3) {
            0 => StoreError::Denied("scripted".into()),
            _ => StoreError::Unavailable("scripted".into()),
        }
    }
}

impl Scripted {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            world: World::new(),
            rng: Rng::with_seed(seed),
            handed: None,
            connection: 0,
            calm: false,
            lists: 0,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The way of a call or of its answer: at once, after a while, or lost.
    async fn travel(&self) -> Result<(), StoreError> {
        let mut polls = {
            let mut inner = self.lock();
            if inner.chance(8) {
                return Err(inner.unavailable());
            }
            match inner.rng.u8(..100) {
                _ if inner.calm => 0,
                0..60 => 0,
                60..97 => inner.rng.u32(1..4),
                _ => u32::MAX,
            }
        };
        poll_fn(|cx| {
            if polls == 0 {
                return Poll::Ready(());
            }
            if polls < u32::MAX {
                polls -= 1;
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        Ok(())
    }
}

impl Scripted {
    /// A list on its way: what it says, and of when.
    async fn read(&self, range: &KeyRange) -> Result<(At, Vec<Entry>), StoreError> {
        self.lock().lists += 1;
        self.travel().await?;
        let mut inner = self.lock();
        if inner.chance(3) {
            return Err(StoreError::Compacted);
        }
        let at = inner.world.now();
        Ok((at, inner.world.entries(at, range)))
    }

    /// A page on its way; nothing where the list ends early.
    async fn page(&self, at: At, page: Page) -> Option<Result<Page, StoreError>> {
        if let Err(error) = self.travel().await {
            return Some(Err(error));
        }
        let mut inner = self.lock();
        if inner.chance(4) {
            return inner.rng.bool().then_some(Err(StoreError::Compacted));
        }
        if !page.more {
            inner.handed = Some(at);
        }
        Some(Ok(page))
    }
}

#[async_trait]
impl WatchStore for Scripted {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        let (at, entries) = self.read(range).await?;
        self.travel().await?;
        self.lock().handed = Some(at);
        Ok(Snapshot { revision: Revision(at.revision), entries })
    }

    async fn list_pages(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        let (at, mut entries) = self.read(range).await?;
        let mut pages = VecDeque::new();
        loop {
            let size = self.lock().rng.usize(1..6).min(entries.len());
            let rest = entries.split_off(size);
            pages.push_back(Page { entries, more: !rest.is_empty() });
            if rest.is_empty() {
                break;
            }
            entries = rest;
        }
        let store = self.clone();
        let pages = stream::unfold((store, pages), move |(store, mut pages)| async move {
            let page = store.page(at, pages.pop_front()?).await?;
            Some((page, (store, pages)))
        });
        Ok(Listing { revision: Revision(at.revision), pages: pages.boxed() })
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        self.travel().await?;
        let connection = {
            let inner = self.lock();
            prove(&inner.world, after)?;
            inner.connection
        };
        self.travel().await?;
        Ok(Watch {
            store: self.clone(),
            range: range.clone(),
            position: after.revision.0,
            begun: after.revision.0,
            connection,
            silent: false,
        }
        .boxed())
    }
}

/// The proof that the contract asks for.
fn prove(world: &World, after: &Cursor) -> Result<(), StoreError> {
    let revision = after.revision.0;
    if revision > world.now().revision {
        return Err(StoreError::Replaced);
    }
    if revision < world.compacted() {
        return Err(StoreError::Compacted);
    }
    match &after.anchor {
        Some((key, stamp)) if world.written(key, revision) != Some(*stamp) => {
            Err(StoreError::Replaced)
        }
        _ => Ok(()),
    }
}

struct Watch {
    store: Scripted,
    range: KeyRange,
    /// Everything up to here was delivered.
    position: u64,
    /// Nothing up to here can be delivered again.
    begun: u64,
    connection: u64,
    silent: bool,
}

impl Stream for Watch {
    type Item = Result<WatchItem, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let inner = &mut *this.store.lock();
        if this.silent {
            return Poll::Pending;
        }
        let cut = inner.connection != this.connection;
        if cut || inner.chance(6) {
            // However it ends: with an error, without one, or never.
            return match inner.rng.u8(..3) {
                0 => Poll::Ready(Some(Err(inner.unavailable()))),
                1 => Poll::Ready(None),
                _ => {
                    this.silent = true;
                    Poll::Pending
                }
            };
        }
        if this.position < inner.world.compacted() {
            return Poll::Ready(Some(Err(StoreError::Compacted)));
        }
        match inner.rng.u8(..100) {
            _ if inner.calm => {}
            0..10 => return Poll::Pending,
            10..15 => return Poll::Ready(Some(Ok(WatchItem::Alive))),
            15..17 => return Poll::Ready(Some(Err(StoreError::Replaced))),
            _ => {}
        }
        let again = if inner.chance(10) { inner.rng.u64(0..3) } else { 0 };
        // What was delivered already, once more, alone or before what is new.
        let from = this.position.saturating_sub(again).max(this.begun).max(inner.world.compacted());
        let now = inner.world.now();
        let mut to = now.revision;
        if !inner.calm {
            to = inner.rng.u64(from..=to).max(to.min(from + 1));
        }
        let mut last = None;
        let mut changes = Vec::new();
        for revision in from + 1..=to {
            let before = changes.len();
            changes.extend(inner.world.changes(revision, &this.range));
            if changes.len() > before {
                last = Some(revision);
            }
        }
        let new = to > this.position;
        this.position = this.position.max(to);
        let Some(revision) = last else { return Poll::Pending };
        if new {
            inner.handed = Some(At { revision, ..now });
        }
        Poll::Ready(Some(Ok(WatchItem::Batch { revision: Revision(revision), changes })))
    }
}
