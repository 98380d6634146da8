//! A request's place at a server.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::upstream::Upstream;

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
        upstream.load.begin();
        Self { upstream, _place: place }
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.upstream.load.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_it_is_dropped() {
        let upstream = Arc::new(Upstream::new("http://h".parse().unwrap(), Arc::default()));
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
