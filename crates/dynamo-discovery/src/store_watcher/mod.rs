//! The state machine above the storage trait: list, watch, resume, list again.

mod anchors;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::anchors::Anchors;
use crate::backoff::{Backoff, jitter};
use crate::store::{
    Change, Cursor, Entry, KeyRange, Listing, Page, Revision, Snapshot, StoreError, WatchItem,
    WatchStore,
};
use crate::timing::Timing;

/// One thing that the store said.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A full list begins. It replaces one that broke, if there was one.
    Listing,
    /// Entries of the list. More entries follow.
    Page(Vec<Entry>),
    /// The last entries of the list, and the revision at which it was read.
    Listed { revision: Revision, entries: Vec<Entry> },
    /// The changes up to this revision.
    Batch { revision: Revision, changes: Vec<Change> },
    /// The watch runs.
    Up,
    /// The watch does not run. This is signalled once, and again when a store that was away denies
    /// access, or the other way round. All known entries stand.
    Down(StoreError),
}

/// A watch of one range that survives its store.
pub(crate) struct StoreWatcher {
    store: Arc<dyn WatchStore>,
    range: KeyRange,
    timing: Timing,
    backoff: Backoff,
    phase: Phase,
    /// The last revision that was signalled.
    revision: Revision,
    anchors: Anchors,
    /// How many entries the last list had.
    listed: usize,
    link: Link,
}

enum Phase {
    List {
        at: Instant,
    },
    Listing {
        listing: Listing,
        deadline: Instant,
        anchors: Anchors,
        /// How many entries the list has had so far.
        count: usize,
    },
    Resume {
        at: Instant,
        /// Whether this follows a list at once. Its revision needs no anchor then.
        listed: bool,
    },
    Watch {
        stream: BoxStream<'static, Result<WatchItem, StoreError>>,
        since: Instant,
        heard: Instant,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Untried,
    Up,
    Down { denied: bool },
}

impl StoreWatcher {
    pub(crate) fn new(store: Arc<dyn WatchStore>, range: KeyRange, timing: Timing) -> Self {
        Self {
            store,
            range,
            backoff: Backoff::new(timing.first_retry, timing.longest_retry),
            phase: Phase::List { at: Instant::now() },
            revision: Revision::default(),
            anchors: Anchors::default(),
            listed: 0,
            link: Link::Untried,
            timing,
        }
    }

    /// The next signal. There always is one. The future may be dropped; no signal is lost by it.
    pub(crate) async fn next(&mut self) -> Signal {
        loop {
            if let Some(signal) = self.step().await {
                return signal;
            }
        }
    }

    async fn step(&mut self) -> Option<Signal> {
        match &mut self.phase {
            Phase::List { at } => {
                sleep_until(*at).await;
                let deadline = Instant::now() + self.timing.list;
                match timeout_at(deadline, self.store.list_pages(&self.range)).await {
                    Ok(Ok(listing)) => {
                        self.phase = Phase::listing(listing, deadline);
                        Some(Signal::Listing)
                    }
                    Ok(Err(error)) => self.list_later(error),
                    Err(_) => self.list_later(silent("the list took too long")),
                }
            }
            Phase::Listing { listing, deadline, anchors, count } => {
                match timeout_at(*deadline, listing.pages.next()).await {
                    Ok(Some(Ok(Page { entries, more }))) => {
                        *count += entries.len();
                        anchors.take_in(&entries);
                        if more {
                            return Some(Signal::Page(entries));
                        }
                        let revision = listing.revision;
                        self.revision = revision;
                        self.anchors = std::mem::take(anchors);
                        self.listed = *count;
                        self.phase = Phase::Resume { at: Instant::now(), listed: true };
                        Some(Signal::Listed { revision, entries })
                    }
                    Ok(Some(Err(error))) => self.list_later(error),
                    Ok(None) => self.list_later(silent("the list ended early")),
                    Err(_) => self.list_later(silent("the list took too long")),
                }
            }
            Phase::Resume { at, listed: false } if self.anchors.is_empty() => {
                // Without an anchor no resume can be proven.
                self.phase = Phase::List { at: *at };
                None
            }
            Phase::Resume { at, .. } => {
                sleep_until(*at).await;
                let cursor = Cursor { revision: self.revision, anchor: self.anchors.newest() };
                let deadline = Instant::now() + self.timing.silence;
                match timeout_at(deadline, self.store.watch(&self.range, &cursor)).await {
                    Ok(Ok(stream)) => {
                        if cursor.anchor.is_none() {
                            // An empty store has no anchor. Another store, whose revision is higher,
                            // may have replaced it since the list; a second list shows whether.
                            match self.list().await {
                                Ok(again) if again.entries.is_empty() => {
                                    self.revision = again.revision;
                                }
                                Ok(again) => {
                                    self.phase = Phase::listing(again.into(), Instant::now());
                                    return Some(Signal::Listing);
                                }
                                Err(error) => return self.list_later(error),
                            }
                        }
                        let now = Instant::now();
                        self.phase = Phase::Watch { stream, since: now, heard: now };
                        self.up()
                    }
                    Ok(Err(error)) => self.failed(error),
                    Err(_) => self.failed(silent("the watch did not begin")),
                }
            }
            Phase::Watch { stream, since, heard } => {
                let item = match timeout_at(*heard + self.timing.silence, stream.next()).await {
                    Ok(Some(Ok(item))) => item,
                    Ok(Some(Err(error))) => return self.failed(error),
                    Ok(None) => return self.failed(silent("the watch ended")),
                    Err(_) => return self.failed(silent("the watch fell silent")),
                };
                *heard = Instant::now();
                if heard.duration_since(*since) >= self.timing.sustained {
                    self.backoff.reset();
                }
                match item {
                    WatchItem::Alive => None,
                    // A batch that was delivered before must not undo later changes.
                    WatchItem::Batch { revision, .. } if revision <= self.revision => None,
                    WatchItem::Batch { revision, changes } => {
                        self.revision = revision;
                        self.anchors.follow(&changes);
                        Some(Signal::Batch { revision, changes })
                    }
                }
            }
        }
    }

    async fn list(&mut self) -> Result<Snapshot, StoreError> {
        let deadline = Instant::now() + self.timing.list;
        let listed = timeout_at(deadline, self.store.list(&self.range)).await;
        listed.unwrap_or_else(|_| Err(silent("the list took too long")))
    }

    /// Resumes a watch that failed, or lists again where the history is lost.
    fn failed(&mut self, error: StoreError) -> Option<Signal> {
        let now = Instant::now();
        if matches!(error, StoreError::Compacted | StoreError::Replaced) {
            tracing::info!(cause = %error, "listing again");
            self.phase = Phase::List { at: now + jitter(self.relist_spread()) };
            return None;
        }
        let mut wait = self.backoff.wait();
        if matches!(self.phase, Phase::Watch { .. }) {
            // The watches of the whole fleet broke at the same moment.
            wait += jitter(self.timing.reconnect_spread);
        }
        self.phase = Phase::Resume { at: now + wait, listed: false };
        self.down(error)
    }

    fn list_later(&mut self, error: StoreError) -> Option<Signal> {
        self.phase = Phase::List { at: Instant::now() + self.backoff.wait() };
        self.down(error)
    }

    /// The time over which the fleet's lists are spread: the more entries, the longer.
    fn relist_spread(&self) -> Duration {
        let Timing { relist_spread, longest_relist_spread, .. } = self.timing;
        let for_entries = Duration::from_millis(self.listed as u64);
        (relist_spread + for_entries).min(longest_relist_spread.max(relist_spread))
    }

    fn up(&mut self) -> Option<Signal> {
        (std::mem::replace(&mut self.link, Link::Up) != Link::Up).then_some(Signal::Up)
    }

    fn down(&mut self, error: StoreError) -> Option<Signal> {
        let link = Link::Down { denied: matches!(error, StoreError::Denied(_)) };
        (std::mem::replace(&mut self.link, link) != link).then_some(Signal::Down(error))
    }
}

impl Phase {
    fn listing(listing: Listing, deadline: Instant) -> Self {
        Self::Listing { listing, deadline, anchors: Anchors::default(), count: 0 }
    }
}

fn silent(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}
