//! A request's place at a server.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::upstream::Upstream;
use crate::placement::{Choice, Sent};

/// A request's place at a server, until its answer ends.
#[derive(Debug)]
pub(crate) struct Place {
    upstream: Arc<Upstream>,
    _place: Option<OwnedSemaphorePermit>,
    /// What placement noted, where the mode of choosing servers asks it; boxed, so that a place is small
    /// in the other modes.
    sent: Option<Box<Sent>>,
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
        Self { upstream, _place: place, sent: None }
    }

    /// Keeps what placement noted about the request until the answer ends.
    pub(crate) fn begun(&mut self, sent: Sent) {
        self.sent = Some(Box::new(sent));
    }

    /// Notes that the answer has content.
    pub(crate) fn content_came(&mut self, at: Instant) {
        if let Some(sent) = &mut self.sent {
            sent.first_content(at);
        }
    }

    /// Notes how many tokens the engine counted in the prompt.
    pub(crate) fn usage(&self, prompt_tokens: u64) {
        if let Some(sent) = &self.sent {
            sent.usage(u32::try_from(prompt_tokens).unwrap_or(u32::MAX));
        }
    }

    /// Notes that the answer is an error: it says nothing about the prompts that the server got before.
    pub(crate) fn fails(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.failed(Instant::now());
        }
    }

    /// Why placement chose the server, where it did.
    pub(crate) fn choice(&self) -> Option<&Choice> {
        self.sent.as_ref()?.choice()
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            sent.ended(Instant::now());
        }
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
