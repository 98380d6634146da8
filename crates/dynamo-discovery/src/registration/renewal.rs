//! The renewal of one lease, until it is lost, and of the keys under it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::published::Published;
use crate::backoff::Backoff;
use crate::error_chain::ErrorChain;
use crate::store::{Lease, LeaseId, LeaseStore, StoreError};

/// Renews a lease until it is lost, then sets `lost`.
pub(super) async fn renew(
    store: Arc<dyn LeaseStore>,
    lease: Lease,
    granted: Instant,
    published: Arc<Mutex<Published>>,
    lost: watch::Sender<bool>,
) {
    let reason = until_lost(&*store, lease, granted, &published).await;
    warn!(lease = %lease.id, reason, "the lease is lost");
    lost.send_replace(true);
}

/// Renews a lease each time a third of its TTL has passed, and returns why it is lost.
///
/// The end of the lease is counted from the last *answer*: a renewal that was sent proves nothing.
async fn until_lost(
    store: &dyn LeaseStore,
    Lease { id, mut ttl }: Lease,
    granted: Instant,
    published: &Mutex<Published>,
) -> &'static str {
    let mut deadline = granted + ttl;
    let mut next = granted + ttl / 3;
    let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        sleep_until(next.min(deadline)).await;
        let sent = Instant::now();
        if sent >= deadline {
            return "the store did not answer in time";
        }
        // A renewal that hangs must leave time for the next.
        let attempt = timeout_at(deadline.min(sent + ttl / 3), store.renew(id)).await;
        let now = Instant::now();
        match attempt {
            Ok(Ok(Some(left))) if !left.is_zero() => {
                ttl = left;
                deadline = now + ttl;
                // The next renewal is due a third of the TTL after this one was sent: a process that
                // slept meanwhile renews again at once.
                next = sent + ttl / 3;
                retry.reset();
                // The next renewal does not wait for it.
                let restored = timeout_at(next, restore(store, id, published)).await;
                if let Ok(Err(error)) = restored {
                    debug!(lease = %id, error = %ErrorChain(&error), "the keys were not checked");
                }
            }
            Ok(Ok(_)) => return "the store has ended it",
            Ok(Err(error)) => {
                debug!(lease = %id, error = %ErrorChain(&error), "not renewed");
                next = now + retry.wait();
            }
            Err(_) => {
                debug!(lease = %id, "the store does not answer");
                next = now + retry.wait();
            }
        }
    }
}

/// Puts the registration's keys under its lease again, where they are not under any more: `etcdctl put`
/// without `--lease` takes a key out of its lease, and the key would outlive the worker for ever.
async fn restore(
    store: &dyn LeaseStore,
    lease: LeaseId,
    published: &Mutex<Published>,
) -> Result<(), StoreError> {
    // Whoever has it locked is changing what there is.
    let Ok(published) = published.try_lock() else { return Ok(()) };
    let keys = published.certain_keys();
    if keys.is_empty() {
        return Ok(());
    }
    let mut restored = Vec::new();
    for (key, found) in store.strays(&keys, lease).await? {
        if let Some(value) = published.again(&key, found.as_ref())
            && store.put_if_unleased(&key, value, lease).await?
        {
            restored.push(key);
        }
    }
    if let Some(first) = restored.first() {
        warn!(
            %lease,
            key = %first,
            keys = restored.len(),
            "somebody has deleted keys of this worker, or put them without its lease: they are put \
             under it again"
        );
    }
    Ok(())
}
