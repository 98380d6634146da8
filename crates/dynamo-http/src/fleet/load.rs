//! How many requests a worker's server has in flight, and how many it may have.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upstream::Upstream;

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

    /// Whether there was a request since this was last asked, or there is one now.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Relaxed) || self.in_flight() > 0
    }

    fn places(&self, limit: NonZeroUsize) -> &Arc<Semaphore> {
        self.places.get_or_init(|| Arc::new(Semaphore::new(limit.get())))
    }

    /// Whether one more request fits.
    pub(crate) fn has_room(&self, limit: Option<NonZeroUsize>) -> bool {
        limit.is_none_or(|limit| self.places(limit).available_permits() > 0)
    }
}

/// A request's place at a server, until its answer ends.
#[derive(Debug)]
pub(crate) struct Place {
    upstream: Arc<Upstream>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Takes a place if there is one.
    pub(crate) fn take(upstream: &Arc<Upstream>, limit: Option<NonZeroUsize>) -> Option<Self> {
        let place = match limit {
            None => None,
            Some(limit) => Some(upstream.load.places(limit).clone().try_acquire_owned().ok()?),
        };
        Some(Self::new(upstream.clone(), place))
    }

    /// Waits in line for a place.
    pub(crate) async fn wait(upstream: Arc<Upstream>, limit: NonZeroUsize) -> Self {
        // Never closed, so there is always one in the end.
        let place = upstream.load.places(limit).clone().acquire_owned().await.ok();
        Self::new(upstream, place)
    }

    fn new(upstream: Arc<Upstream>, place: Option<OwnedSemaphorePermit>) -> Self {
        upstream.load.requests.fetch_add(BEGUN, Relaxed);
        if !upstream.load.used.load(Relaxed) {
            upstream.load.used.store(true, Relaxed);
        }
        Self { upstream, _place: place }
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.upstream.load.requests.fetch_sub(IN_FLIGHT, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_it_is_dropped() {
        let upstream = Arc::new(Upstream::new("http://h".parse().unwrap()));
        let limit = NonZeroUsize::new(1);
        let place = Place::take(&upstream, limit).unwrap();
        assert_eq!(upstream.load.in_flight(), 1);
        assert!(!upstream.load.has_room(limit) && Place::take(&upstream, limit).is_none());
        let waiting = tokio::spawn(Place::wait(upstream.clone(), limit.unwrap()));
        drop(place);
        let place = waiting.await.unwrap();
        assert_eq!((upstream.load.in_flight(), upstream.load.has_room(limit)), (1, false));
        drop(place);
        assert_eq!((upstream.load.in_flight(), upstream.load.has_room(limit)), (0, true));
        assert!(upstream.load.was_used() && !upstream.load.was_used());
        let many: Vec<_> = (0..9).filter_map(|_| Place::take(&upstream, None)).collect();
        assert_eq!((many.len(), upstream.load.in_flight()), (9, 9));
        drop(many);
        assert_eq!((upstream.load.in_flight(), upstream.load.begun()), (0, 11));
    }
}
