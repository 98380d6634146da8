//! A watch of a memory store: it reads the history at its own pace.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::store::{KeyRange, Revision, StoreError, WatchItem};

/// How long a watch stays silent: under the 5 seconds of [`WatchItem::Alive`].
const ALIVE_INTERVAL: Duration = Duration::from_secs(4);

pub(super) struct Watch {
    pub(super) shared: Arc<Shared>,
    pub(super) changed: Receiver<()>,
    pub(super) range: KeyRange,
    /// Everything up to here was delivered or is not in the range.
    pub(super) position: Revision,
    pub(super) connection: u64,
}

impl Watch {
    pub(super) async fn next(&mut self) -> Result<WatchItem, StoreError> {
        let alive_at = Instant::now() + ALIVE_INTERVAL;
        loop {
            self.changed.mark_unchanged();
            let (batch, revision, lease_ends) = self.shared.read(|state| {
                if state.connection != self.connection {
                    return Err(StoreError::Unavailable("the watch was disconnected".into()));
                }
                let lease_ends = state.leases.values().map(|term| term.ends).min();
                let batch = state.batch_after(self.position, &self.range)?;
                Ok((batch, state.revision, lease_ends))
            })?;
            self.position = revision;
            if let Some(batch) = batch {
                return Ok(batch);
            }
            // A lease ends when someone looks, so a watch looks when one is due.
            let wake_at = lease_ends.map_or(alive_at, |ends| ends.min(alive_at));
            tokio::select! {
                _ = self.changed.changed() => {}
                () = sleep_until(wake_at) => {
                    if Instant::now() >= alive_at {
                        return Ok(WatchItem::Alive);
                    }
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open_watches -= 1;
    }
}
