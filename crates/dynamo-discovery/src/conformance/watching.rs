//! A watch under test: what holds for every item of every watch is checked here.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::time::sleep;

use super::run::within;
use super::{Breach, Outcome, Sentence};
use crate::store::{Change, Entry, Key, KeyRange, Revision, StoreError, WatchItem};

/// An open watch.
pub(super) struct Watching {
    pub(super) items: BoxStream<'static, Result<WatchItem, StoreError>>,
    range: KeyRange,
    /// The cursor's revision, and then that of the last batch.
    reached: Revision,
    /// Whether a batch has come.
    has_begun: bool,
    /// All puts so far.
    puts: HashSet<(Key, Revision)>,
    /// The keys whose last change is a deletion.
    deleted: HashSet<Key>,
    /// Changes of a batch that the case has not yet asked for.
    rest: VecDeque<Change>,
}

impl Watching {
    pub(super) fn new(
        items: BoxStream<'static, Result<WatchItem, StoreError>>,
        range: &KeyRange,
        after: Revision,
    ) -> Self {
        Self {
            items,
            range: range.clone(),
            reached: after,
            has_begun: false,
            puts: HashSet::new(),
            deleted: HashSet::new(),
            rest: VecDeque::new(),
        }
    }

    /// The next change.
    pub(super) async fn change(&mut self) -> Result<Change, Breach> {
        loop {
            if let Some(change) = self.rest.pop_front() {
                return Ok(change);
            }
            let (_, changes) = self.batch().await?;
            self.rest.extend(changes);
        }
    }

    /// The next change, which is a put.
    pub(super) async fn put(&mut self) -> Result<Entry, Breach> {
        match self.change().await? {
            Change::Put(entry) => Ok(entry),
            Change::Delete(key) => {
                let how = format!("a deletion of {key} was delivered, which was only put");
                Err(Sentence::WatchTellsChanges.broken(how))
            }
        }
    }

    /// Expects that the next change is this put.
    pub(super) async fn delivers(&mut self, entry: &Entry) -> Outcome {
        self.delivers_change(&Change::Put(entry.clone())).await
    }

    /// Expects that the next change is the deletion of this key.
    pub(super) async fn delivers_deletion(&mut self, key: &Key) -> Outcome {
        self.delivers_change(&Change::Delete(key.clone())).await
    }

    async fn delivers_change(&mut self, expected: &Change) -> Outcome {
        let found = self.change().await?;
        let is_later =
            revision_of(&found) > revision_of(expected) && revision_of(expected).is_some();
        let sentence = if key_of(&found) == key_of(expected) && !is_later {
            Sentence::WatchTellsChanges
        } else {
            Sentence::WatchIsComplete
        };
        sentence.same(&found, expected)
    }

    /// The next batch.
    pub(super) async fn batch(&mut self) -> Result<(Revision, Vec<Change>), Breach> {
        within(Sentence::WatchIsComplete, "a change", async {
            loop {
                if let Some(batch) = self.next_item().await? {
                    return Ok(batch);
                }
                // A watch that is always ready must not hold up the deadline.
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await?
    }

    /// The next batch, or `None` for [`WatchItem::Alive`].
    pub(super) async fn next_item(&mut self) -> Result<Option<(Revision, Vec<Change>)>, Breach> {
        match self.items.next().await {
            Some(Ok(WatchItem::Batch { revision, changes })) => {
                self.check(revision, &changes)?;
                Ok(Some((revision, changes)))
            }
            Some(Ok(WatchItem::Alive)) => Ok(None),
            other => Err(Sentence::WatchLasts.broken(format!("the watch ended with {other:?}"))),
        }
    }

    /// The next changes, or the watch's end with its error, if it has one.
    pub(super) async fn batch_or_end(
        &mut self,
        sentence: Sentence,
    ) -> Result<Result<Vec<Change>, Option<StoreError>>, Breach> {
        let mut quiet = 0;
        loop {
            match within(sentence, "a change or the end of the watch", self.items.next()).await? {
                Some(Ok(WatchItem::Batch { revision, changes })) => {
                    self.check(revision, &changes)?;
                    return Ok(Ok(changes));
                }
                Some(Ok(WatchItem::Alive)) => {
                    quiet += 1;
                    sentence.holds(quiet < 5, || "the watch says `Alive` and goes on".into())?;
                }
                Some(Err(error)) => {
                    let after = self.items.next();
                    let after = within(Sentence::ErrorEndsWatch, "the end", after).await?;
                    Sentence::ErrorEndsWatch.holds(after.is_none(), || {
                        format!("after {error:?} the watch went on with {after:?}")
                    })?;
                    return Ok(Err(Some(error)));
                }
                None => return Ok(Err(None)),
            }
        }
    }

    /// Checks a batch by itself, and beside those before it.
    fn check(&mut self, revision: Revision, changes: &[Change]) -> Outcome {
        let last = changes.last();
        let last = last.ok_or_else(|| {
            Sentence::BatchHasChanges.broken(format!("the batch of revision {revision} has none"))
        })?;
        for key in changes.iter().map(key_of) {
            Sentence::WatchStaysInRange
                .holds(self.range.contains(key), || format!("{key} is not in {:?}", self.range))?;
        }
        for change in changes {
            let is_new = match change {
                Change::Put(entry) => {
                    self.deleted.remove(&entry.key);
                    self.puts.insert((entry.key.clone(), entry.mod_revision))
                }
                Change::Delete(key) => self.deleted.insert(key.clone()),
            };
            Sentence::WatchDeliversOnce.holds(is_new, || format!("delivered again: {change:?}"))?;
        }
        let revisions = || changes.iter().filter_map(revision_of);
        Sentence::WatchIsOrdered
            .holds(revisions().is_sorted(), || format!("a batch has the order {changes:?}"))?;
        let (first, newest) = (revisions().min(), revisions().max());
        let is_exact = match revision_of(last) {
            Some(put) => put == revision,
            None => newest <= Some(revision),
        };
        Sentence::BatchTellsItsRevision.holds(is_exact, || {
            format!("revision {revision} is that of a batch which ends with {last:?}")
        })?;
        let first = first.unwrap_or(revision);
        if first <= self.reached {
            let sentence = if !self.has_begun {
                Sentence::WatchBeginsAfterCursor
            } else if first == self.reached {
                Sentence::RevisionIsWhole
            } else {
                Sentence::WatchIsOrdered
            };
            let how = format!("revision {first} came after revision {}", self.reached);
            return Err(sentence.broken(how));
        }
        self.reached = revision;
        self.has_begun = true;
        Ok(())
    }
}

pub(super) fn key_of(change: &Change) -> &Key {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete(key) => key,
    }
}

/// A deletion does not tell its revision.
fn revision_of(change: &Change) -> Option<Revision> {
    match change {
        Change::Put(entry) => Some(entry.mod_revision),
        Change::Delete(_) => None,
    }
}
