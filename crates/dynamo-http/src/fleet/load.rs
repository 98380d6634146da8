//! How many requests a worker's server has in flight, and how many it may have.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

/// The requests in flight at one server.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    /// Whether there was a request since this was last asked.
    used: AtomicBool,
    /// Made when the first request comes under a limit.
    places: OnceLock<Arc<Semaphore>>,
}

impl Load {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// One more request is in flight.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// One of the requests in flight has ended.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Whether there was a request since this was last asked, or there is one now.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Relaxed) || self.in_flight() > 0
    }

    pub(super) fn places(&self, limit: NonZeroUsize) -> &Arc<Semaphore> {
        self.places.get_or_init(|| Arc::new(Semaphore::new(limit.get())))
    }

    /// Whether one more request fits.
    pub(crate) fn has_room(&self, limit: Option<NonZeroUsize>) -> bool {
        limit.is_none_or(|limit| self.places(limit).available_permits() > 0)
    }
}
