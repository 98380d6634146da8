//! Writes a frontend's own counts, and that it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::counting::WindowCounts;
use super::group::UsageGroup;
use super::part::{self, Counts, Division};
use crate::counter_store::CounterStore;
use crate::store::{Key, KeyRange, LeaseId, Revision, StoreError};

/// How long after a window's end its counts stay.
const KEPT: Duration = Duration::from_secs(48 * 60 * 60);
/// The shortest term of a window's lease, for counts that come when it has nearly ended.
const SHORTEST: Duration = Duration::from_secs(60);
/// How often one key is tried in a row, where somebody else has changed it.
const ATTEMPTS: usize = 3;

/// What a frontend has written.
pub(super) struct Writer {
    store: Arc<dyn CounterStore>,
    group: UsageGroup,
    frontend: String,
    /// The term of the lease under which the frontend is present.
    term: Duration,
    presence: Option<LeaseId>,
    present: Written,
    windows: BTreeMap<String, Window>,
}

/// A window that was written.
#[derive(Default)]
struct Window {
    lease: Option<LeaseId>,
    division: Division,
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    counts: Counts,
    written: Written,
}

/// When a key was last written.
#[derive(Clone, Copy, Default)]
struct Written {
    /// None where the key is not there.
    at: Option<Revision>,
    /// Whether nobody knows: a put was not answered, or somebody else has changed the key.
    is_doubtful: bool,
}

impl Writer {
    pub(super) fn new(
        store: Arc<dyn CounterStore>,
        group: UsageGroup,
        frontend: String,
        term: Duration,
    ) -> Self {
        Self {
            store,
            group,
            frontend,
            term,
            presence: None,
            present: Written::default(),
            windows: BTreeMap::new(),
        }
    }

    /// Everything may be lost, and is written again.
    pub(super) fn doubt(&mut self) {
        self.present.is_doubtful = true;
        for part in self.windows.values_mut().flat_map(|window| &mut window.parts) {
            part.counts.clear();
            part.written.is_doubtful = true;
        }
    }

    /// Writes what has changed.
    ///
    /// # Errors
    ///
    /// Why not all was written. The rest is written by the next call.
    pub(super) async fn write(&mut self, counted: Vec<WindowCounts>) -> Result<(), StoreError> {
        // Counts first: they are worth more than the presence.
        let counts = self.write_counts(&counted).await;
        self.windows.retain(|window, _| counted.iter().any(|counts| counts.window == *window));
        let presence = self.be_present().await;
        counts.and(presence)
    }

    /// Ends the presence.
    pub(super) async fn leave(&mut self) {
        if let Some(lease) = self.presence.take() {
            // It ends by itself where nobody answers.
            let _ = self.store.revoke(lease).await;
        }
    }

    async fn write_counts(&mut self, counted: &[WindowCounts]) -> Result<(), StoreError> {
        for WindowCounts { window, ends, counts } in counted {
            // Counts that the store has forgotten would come back each time that their lease ends.
            if counts.is_empty() || since_1970() >= ends.saturating_add(KEPT) {
                continue;
            }
            let state = self.windows.entry(window.clone()).or_default();
            let parts = state.division.divide(counts);
            state.parts.resize_with(parts.len(), Part::default);
            for (number, counts) in parts.into_iter().enumerate() {
                let key = self.group.counts(window, &self.frontend, number);
                let part = &mut state.parts[number];
                if part.counts == counts {
                    continue;
                }
                let value = part::encode(&counts);
                let lease = &mut state.lease;
                let term = || term_until(ends.saturating_add(KEPT));
                put(&*self.store, &key, &value, lease, term, &mut part.written).await?;
                part.counts = counts;
            }
        }
        Ok(())
    }

    async fn be_present(&mut self) -> Result<(), StoreError> {
        if let Some(lease) = self.presence {
            let lives = self.store.renew(lease).await?.is_some();
            if lives && !self.present.is_doubtful {
                return Ok(());
            }
            if !lives {
                self.presence = None;
                self.present.is_doubtful = true;
            }
        }
        let key = self.group.presence(&self.frontend);
        let (value, term) = (Bytes::from_static(b"{}"), self.term);
        let lease = &mut self.presence;
        put(&*self.store, &key, &value, lease, || term, &mut self.present).await
    }
}

/// The time until a moment since 1970.
fn term_until(ends: Duration) -> Duration {
    ends.saturating_sub(since_1970()).max(SHORTEST)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Puts a key of our own under a lease, which is granted where there is none.
async fn put(
    store: &dyn CounterStore,
    key: &Key,
    value: &Bytes,
    lease: &mut Option<LeaseId>,
    term: impl Fn() -> Duration,
    written: &mut Written,
) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS {
        let granted = match *lease {
            Some(lease) => lease,
            None => *lease.insert(store.grant(term()).await?.id),
        };
        if written.is_doubtful {
            written.at = revision_of(store, key).await?;
            written.is_doubtful = false;
        }
        // Whatever becomes of the call, until it is answered nobody knows.
        let before = std::mem::replace(&mut written.is_doubtful, true);
        debug_assert!(!before, "it was just looked at");
        match store.put_if_unchanged(key, value.clone(), granted, written.at).await {
            Ok(Some(revision)) => {
                *written = Written { at: Some(revision), is_doubtful: false };
                return Ok(());
            }
            Ok(None) => {}
            Err(StoreError::LeaseGone) => *lease = None,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable("somebody else writes our key".into()))
}

async fn revision_of(store: &dyn CounterStore, key: &Key) -> Result<Option<Revision>, StoreError> {
    let behind = [key.as_bytes(), &[0]].concat();
    let found = store.list(&KeyRange::new(key.clone(), behind)).await?;
    Ok(found.entries.first().map(|entry| entry.mod_revision))
}
