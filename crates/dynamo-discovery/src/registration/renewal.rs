//! The renewal of one lease, until it is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::error_chain::ErrorChain;
use crate::store::{Lease, LeaseStore};

/// Renews a lease until it is lost, then sets `lost`.
pub(super) async fn renew(
    store: Arc<dyn LeaseStore>,
    lease: Lease,
    granted: Instant,
    lost: watch::Sender<bool>,
) {
    let reason = until_lost(&*store, lease, granted).await;
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
