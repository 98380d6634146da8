//! One run of a case: a range and a lease of its own, and calls with a deadline each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::timeout;

use super::watching::Watching;
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{
    Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, Snapshot, StoreError, WatchStore,
};

/// How long a case waits for one event, or for one answer. No deadline is for a sum of them.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);

/// How much later than the contract says an event may come on a machine with other work.
pub(super) const SLACK: Duration = Duration::from_secs(2);

/// The term of a lease that no case outlives.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// The shortest term that etcd grants.
pub(super) const SHORT: Duration = Duration::from_secs(2);

/// How often a case tries again what the writes of others can spoil.
const ATTEMPTS: usize = 100;

/// One run. A clone is the same run, for another task.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) store: Arc<dyn WatchStore>,
    pub(super) leases: Arc<dyn LeaseStore>,
    /// Another handle for each.
    pub(super) other_store: Arc<dyn WatchStore>,
    pub(super) other_leases: Arc<dyn LeaseStore>,
    pub(super) range: KeyRange,
    /// A lease that keeps what the case puts.
    pub(super) lease: LeaseId,
    keeps_history: bool,
    several_pages: usize,
}

impl Run {
    pub(super) async fn new<B: Backend + ?Sized>(backend: &B) -> Result<Self, Breach> {
        let leases = backend.lease_store();
        let lease = done("a grant", leases.grant(LONG)).await?.id;
        Ok(Self {
            store: backend.watch_store(),
            leases,
            other_store: backend.watch_store(),
            other_leases: backend.lease_store(),
            range: KeyRange::prefix(&format!("{}models/", backend.root())),
            lease,
            keeps_history: backend.keeps_history(),
            several_pages: backend.several_pages(),
        })
    }

    /// The same run on the other handles.
    pub(super) fn on_other_handles(&self) -> Self {
        Self {
            store: self.other_store.clone(),
            leases: self.other_leases.clone(),
            other_store: self.store.clone(),
            other_leases: self.leases.clone(),
            ..self.clone()
        }
    }

    pub(super) fn key(&self, name: &str) -> Key {
        [self.range.start().as_bytes(), name.as_bytes()].concat().into()
    }

    /// A key beside the range.
    pub(super) fn outside(&self, suffix: &str) -> Key {
        let start = self.range.start().as_str().unwrap_or_default();
        format!("{}{suffix}", start.trim_end_matches('/')).into()
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<Lease, Breach> {
        done("a grant", self.leases.grant(ttl)).await
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Outcome {
        done("a revoke", self.leases.revoke(lease)).await
    }

    pub(super) async fn put(&self, name: &str, value: &str) -> Outcome {
        self.put_under(name, value, self.lease).await
    }

    pub(super) async fn put_under(&self, name: &str, value: &str, lease: LeaseId) -> Outcome {
        let value = Bytes::copy_from_slice(value.as_bytes());
        done("a put", self.leases.put(&self.key(name), value, lease)).await
    }

    /// A put that the store may refuse.
    pub(super) async fn try_put(
        &self,
        name: &str,
        lease: LeaseId,
    ) -> Result<Result<(), StoreError>, Breach> {
        answer("a put", self.leases.put(&self.key(name), Bytes::new(), lease)).await
    }

    pub(super) async fn put_outside(&self, suffix: &str) -> Outcome {
        let key = self.outside(suffix);
        done("a put", self.leases.put(&key, Bytes::new(), self.lease)).await
    }

    /// Deletes a key of the run's own lease.
    pub(super) async fn delete(&self, name: &str) -> Outcome {
        let deleted = self.delete_under(name, self.lease).await?;
        Sentence::ConditionalDeleteObeys
            .holds(deleted, || format!("{name:?} is under the lease and was not deleted"))
    }

    pub(super) async fn delete_under(&self, name: &str, lease: LeaseId) -> Result<bool, Breach> {
        done("a delete", self.leases.delete_if_leased(&self.key(name), lease)).await
    }

    pub(super) async fn put_if_leased(
        &self,
        name: &str,
        value: &'static str,
        lease: LeaseId,
    ) -> Result<bool, Breach> {
        let key = self.key(name);
        done("a conditional put", self.leases.put_if_leased(&key, Bytes::from(value), lease)).await
    }

    /// The names of more entries than the backend reads at once.
    pub(super) fn pages(&self) -> impl Iterator<Item = String> {
        (0..self.several_pages).map(|number| format!("page {number:05}"))
    }

    pub(super) async fn put_pages(&self) -> Outcome {
        let puts = stream::iter(self.pages()).map(async |name| self.put(&name, "").await);
        let mut puts = puts.buffer_unordered(64);
        while let Some(put) = puts.next().await {
            put?;
        }
        Ok(())
    }

    pub(super) async fn list(&self) -> Result<Snapshot, Breach> {
        done("a list", self.store.list(&self.range)).await
    }

    /// What a list has of a key.
    pub(super) async fn found(&self, name: &str) -> Result<Option<Entry>, Breach> {
        let key = self.key(name);
        Ok(self.list().await?.entries.into_iter().find(|entry| entry.key == key))
    }

    /// The entry of a key that was put.
    pub(super) async fn entry(&self, name: &str) -> Result<Entry, Breach> {
        let missing =
            || Sentence::ListIsComplete.broken(format!("{name:?} was put and is missing"));
        self.found(name).await?.ok_or_else(missing)
    }

    pub(super) async fn cursor(&self) -> Result<Cursor, Breach> {
        Ok(cursor_of(&self.list().await?))
    }

    /// A watch after a list, and the list.
    pub(super) async fn list_and_watch(&self) -> Result<(Snapshot, Watching), Breach> {
        for _ in 0..ATTEMPTS {
            let snapshot = self.list().await?;
            // Without a history, a write elsewhere in between is too much already.
            if let Some(watching) = self.resume(&cursor_of(&snapshot)).await? {
                return Ok((snapshot, watching));
            }
        }
        let how = format!("{ATTEMPTS} watches in a row were refused, each right after a list");
        Err(Sentence::WatchIsComplete.broken(how))
    }

    pub(super) async fn watch_from_now(&self) -> Result<Watching, Breach> {
        Ok(self.list_and_watch().await?.1)
    }

    /// A watch after this cursor; `None` if it is too old for a store without a history.
    pub(super) async fn resume(&self, after: &Cursor) -> Result<Option<Watching>, Breach> {
        let watch = self.store.watch(&self.range, after);
        match answer("a watch", watch).await? {
            Ok(items) => Ok(Some(Watching::new(items, &self.range, after.revision))),
            Err(error) if self.may_refuse(&error) => Ok(None),
            Err(error @ StoreError::Replaced) if after.anchor.is_some() => {
                let how = format!("the cursor {after:?} is of this store: {error:?}");
                Err(Sentence::AnchorIsOfItsTime.broken(how))
            }
            Err(error) => {
                let how = format!("no watch after {after:?}: {error:?}");
                Err(Sentence::WatchIsComplete.broken(how))
            }
        }
    }

    /// Whether a cursor that is not the present may be refused with this.
    fn may_refuse(&self, error: &StoreError) -> bool {
        !self.keeps_history && matches!(error, StoreError::Compacted | StoreError::Replaced)
    }

    /// Expects that a watch after this cursor is refused as `Replaced`, at the call or by its first
    /// item.
    pub(super) async fn is_replaced(&self, sentence: Sentence, after: &Cursor) -> Outcome {
        let error = self.refusal(sentence, after).await?;
        sentence.holds(matches!(error, StoreError::Replaced) || self.may_refuse(&error), || {
            format!("the watch after {after:?} was refused as {error:?}")
        })
    }

    /// Why there is no watch after this cursor.
    pub(super) async fn refusal(
        &self,
        sentence: Sentence,
        after: &Cursor,
    ) -> Result<StoreError, Breach> {
        let watch = self.store.watch(&self.range, after);
        let mut items = match within(sentence, "a refusal", watch).await? {
            Err(error) => return Ok(error),
            Ok(items) => items,
        };
        match within(sentence, "a refusal", items.next()).await? {
            Some(Err(error)) => Ok(error),
            other => {
                Err(sentence.broken(format!("the watch after {after:?} began with {other:?}")))
            }
        }
    }
}

pub(super) fn cursor_of(snapshot: &Snapshot) -> Cursor {
    let newest = snapshot.entries.iter().max_by_key(|entry| entry.mod_revision);
    let anchor = newest.map(|entry| (entry.key.clone(), entry.stamp()));
    Cursor { revision: snapshot.revision, anchor }
}

/// The keys in their order, whatever that of the entries is.
pub(super) fn keys(entries: &[Entry]) -> Vec<&Key> {
    let mut keys: Vec<_> = entries.iter().map(|entry| &entry.key).collect();
    keys.sort_unstable();
    keys
}

/// The answer of a call to a store that can be reached.
pub(super) async fn answer<T>(
    what: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<Result<T, StoreError>, Breach> {
    within(Sentence::StoreAnswers, what, call).await
}

/// What a call brings that must not fail.
pub(super) async fn done<T>(
    what: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Breach> {
    let failed = |error| Sentence::StoreAnswers.broken(format!("{what} failed: {error:?}"));
    answer(what, call).await?.map_err(failed)
}

/// An event that the sentence promises.
pub(super) async fn within<T>(
    sentence: Sentence,
    what: &str,
    event: impl Future<Output = T>,
) -> Result<T, Breach> {
    let event = timeout(DEADLINE, event).await;
    event.map_err(|_| sentence.broken(format!("{what} did not come in {} s", DEADLINE.as_secs())))
}
