//! One lease's life: publish a worker's models, keep them, withdraw them.

mod config;
mod published;
mod renewal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tracing::debug;

pub use self::config::RegistrationConfig;
use self::published::Published;
use crate::entry::ModelEntry;
use crate::error_chain::ErrorChain;
use crate::store::{LeaseId, StoreError};

/// A worker's models in the store, under one lease, which a task renews.
///
/// A registration ends once: it is [`withdraw`](Self::withdraw)n or [`lost`](Self::lost). After a
/// loss its owner publishes again, with the same [`RegistrationConfig`]. A registration that is dropped
/// renews its lease no more, and its entries end with the lease.
///
/// ```
/// use std::sync::Arc;
/// use dynamo_discovery::{
///     KeyRange, Kind, MemoryStore, ModelEntry, Registration, RegistrationConfig, WatchStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let endpoint = "team-a.backend.generate".parse()?;
/// let entry = ModelEntry::new("my-model", endpoint, Kind::Chat.into())?
///     .with_url("http://192.0.2.5:8001".parse()?);
///
/// let config = RegistrationConfig::new(Arc::new(store.clone()));
/// let registration = Registration::publish(config, vec![entry]).await?;
/// let models = KeyRange::prefix("models/");
/// assert_eq!(store.list(&models).await?.entries.len(), 1);
///
/// registration.withdraw().await?;
/// assert_eq!(store.list(&models).await?.entries.len(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registration {
    config: RegistrationConfig,
    lease: LeaseId,
    /// Locked while it and the store are brought to each other.
    published: Arc<Mutex<Published>>,
    lost: watch::Receiver<bool>,
    _renewal: AbortOnDrop,
}

impl Registration {
    /// Grants a lease, puts every entry under it, and keeps renewing it.
    ///
    /// Of entries with one endpoint and one name, the last counts.
    ///
    /// # Errors
    ///
    /// As the store's. Entries that were put by then end with the lease, which is revoked if the store
    /// still answers; a later publication replaces them.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with its time enabled: a task renews the lease.
    pub async fn publish(
        config: RegistrationConfig,
        entries: Vec<ModelEntry>,
    ) -> Result<Self, StoreError> {
        let lease = config.store.grant(config.ttl).await?;
        // The renewal begins before the first put: many entries, or a slow store, may take longer
        // than the lease lives.
        let (sender, lost) = watch::channel(false);
        let store = Arc::clone(&config.store);
        let published = Arc::<Mutex<Published>>::default();
        let renewed = Arc::clone(&published);
        let renewal = tokio::spawn(renewal::renew(store, lease, Instant::now(), renewed, sender));
        let _renewal = AbortOnDrop(renewal.abort_handle());
        let mut registration = Self { config, lease: lease.id, published, lost, _renewal };
        match registration.update(entries).await {
            Ok(()) => Ok(registration),
            Err(error) => {
                registration.give_up(&error).await;
                Err(error)
            }
        }
    }

    /// Ends the lease of a publication that failed. Otherwise an owner who tries again and again would
    /// leave a lease behind each time. Where the store is away, the lease ends by itself.
    async fn give_up(self, error: &StoreError) {
        if !matches!(error, StoreError::Unavailable(_) | StoreError::LeaseGone)
            && let Err(error) = self.config.store.revoke(self.lease).await
        {
            debug!(lease = %self.lease, error = %ErrorChain(&error), "not revoked");
        }
    }

    /// Makes these the published entries: new and changed ones are put, published ones that are not
    /// among them are withdrawn, and equal ones are left alone.
    ///
    /// # Errors
    ///
    /// As the store's, [`StoreError::LeaseGone`] included. Entries that were put or withdrawn by then
    /// stay so; the next update does the rest. An entry whose put got no answer counts as one that the
    /// store may hold: it is put again if it is still wanted, else withdrawn.
    pub async fn update(&mut self, entries: Vec<ModelEntry>) -> Result<(), StoreError> {
        let wanted = self.config.by_key(entries);
        let mut published = self.published.lock().await;
        let (store, lease) = (&*self.config.store, self.lease);
        let puts = published.puts_for(&wanted);
        store.write(&puts, lease).await?;
        published.have(&puts);
        let left = published.keys_but(&wanted);
        if left.is_empty() {
            return Ok(());
        }
        match store.write(&published.drains_of(&left), lease).await {
            // A store without space takes no marks, but it does delete.
            Ok(_) | Err(StoreError::Full(_)) => {}
            Err(error) => return Err(error),
        }
        store.write(&Published::deletions_of(&left), lease).await?;
        published.forget(&left);
        Ok(())
    }

    /// Resolves when the lease is lost: the store said that it has ended, or did not answer for as long
    /// as the lease lives. It also resolves when the registration is dropped.
    ///
    /// The future does not borrow the registration.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut lost = self.lost.clone();
        async move {
            // An error means that the task that renews the lease has ended.
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    /// Withdraws on purpose: marks every entry as draining, deletes every entry, then ends the lease.
    /// Watchers learn from the mark that the worker did not die.
    ///
    /// An entry that a successor has put under its own lease is left alone. The time is as long as the
    /// store takes; when the future is dropped half-way, the remaining entries end with the lease.
    ///
    /// # Errors
    ///
    /// As the store's. What it did not do before is done with the end of the lease, so only an error of
    /// that one counts.
    pub async fn withdraw(self) -> Result<(), StoreError> {
        self.withdraw_in_steps(None).await
    }

    /// Withdraws as [`withdraw`](Self::withdraw), within a time of which each step gets its share. So a
    /// store that does not answer to the mark is still asked to delete, and to end the lease.
    ///
    /// # Errors
    ///
    /// As [`withdraw`](Self::withdraw); [`StoreError::Unavailable`] when the lease was not ended in time.
    pub async fn withdraw_within(self, time: Duration) -> Result<(), StoreError> {
        self.withdraw_in_steps(Some(Instant::now() + time)).await
    }

    async fn withdraw_in_steps(self, deadline: Option<Instant>) -> Result<(), StoreError> {
        let (store, lease) = (&*self.config.store, self.lease);
        // All marks come before the first deletion: they stop the requests.
        let marked = share(deadline, 3, async {
            // The renewal may hold the lock while it brings keys back.
            let mut published = self.published.lock().await;
            let keys = published.keys();
            store.write(&published.drains_of(&keys), lease).await
        });
        let marked = marked.await;
        let deleted = share(deadline, 2, async {
            let deletions = Published::deletions_of(&self.published.lock().await.keys());
            store.write(&deletions, lease).await
        });
        let deleted = deleted.await;
        for (what, result) in [("not marked as draining", marked), ("not deleted", deleted)] {
            if let Err(error) = result {
                debug!(%lease, error = %ErrorChain(&error), "{what}");
            }
        }
        share(deadline, 1, store.revoke(lease)).await
    }
}

/// Takes one of `shares` equal parts of the time that is left, if the time is bounded.
async fn share<T>(
    deadline: Option<Instant>,
    shares: u32,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let Some(deadline) = deadline else { return step.await };
    let left = deadline.saturating_duration_since(Instant::now());
    let late = |_| Err(StoreError::Unavailable("no answer in the time for a withdrawal".into()));
    timeout(left / shares, step).await.unwrap_or_else(late)
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
