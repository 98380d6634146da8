//! How many requests a worker's server has in flight, and how many it may have.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

/// What has had no request for so long is not in use, and nobody asks about it.
pub(super) const UNUSED: Duration = Duration::from_secs(300);
/// A request that begins, as it is added to [`Load::requests`].
const BEGUN: u64 = 1 << 32 | IN_FLIGHT;
/// A request in flight.
const IN_FLIGHT: u64 = 1;

/// The requests in flight at one server.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// How many requests began so far in the upper half, which wraps, and how many of them are in
    /// flight in the lower half. One addition counts both.
    requests: AtomicU64,
    /// Whether there was a request since this was last asked.
    used: AtomicBool,
    /// Made when the first request comes under a limit.
    places: OnceLock<Arc<Semaphore>>,
}

impl Load {
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.load(Relaxed) as u32 as usize
    }

    /// How many requests began so far. It wraps.
    pub(crate) fn begun(&self) -> u32 {
        (self.requests.load(Relaxed) >> 32) as u32
    }

    /// One more request is in flight.
    pub(super) fn begin(&self) {
        self.requests.fetch_add(BEGUN, Relaxed);
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// One of the requests in flight has ended.
    pub(super) fn end(&self) {
        self.requests.fetch_sub(IN_FLIGHT, Relaxed);
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
