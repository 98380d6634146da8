//! The queue of requests that wait while every server of their model has as many requests as it may.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::select_all;
use http::StatusCode;
use prometheus::IntGauge;
use tokio::time::{Instant, sleep_until};

use crate::error::ApiError;
use crate::fleet::{ConcurrencyLimit, Lasting, Place, Rank, Targets, Upstream};
use crate::live::Live;
use crate::priority::Priority;

/// The limits of each model's queue.
#[derive(Debug)]
pub(crate) struct QueueLimits {
    /// How many requests may wait for one model.
    pub(crate) depth: Live<usize>,
    /// How long a request may wait. One that waits already keeps its time.
    pub(crate) timeout: Live<Duration>,
}

/// A request's place in the queue of its model. Dropping it leaves the queue.
pub(crate) struct Queued {
    lasting: Arc<Lasting>,
    gauges: Gauges,
    rank: Rank,
    until: Instant,
}

/// The gauges of those who wait: of all, and of the class where requests have classes.
pub(crate) struct Gauges {
    pub(crate) all: IntGauge,
    pub(crate) of_class: Option<IntGauge>,
}

impl Gauges {
    fn each(&self) -> impl Iterator<Item = &IntGauge> {
        self.of_class.iter().chain([&self.all])
    }
}

impl Queued {
    /// Joins the queue.
    ///
    /// # Errors
    ///
    /// 429 when as many requests wait as may.
    pub(crate) fn join(
        targets: &Targets,
        gauges: Gauges,
        class: Priority,
        limits: &QueueLimits,
    ) -> Result<Self, ApiError> {
        let depth = limits.depth.now();
        let join = |waiting: usize| (waiting < depth).then_some(waiting + 1);
        targets.lasting().waiting.fetch_update(Relaxed, Relaxed, join).map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "All workers of the model are busy and too many requests wait; try again shortly.",
            )
            .with_code("queue_full")
        })?;
        gauges.each().for_each(IntGauge::inc);
        let since = Instant::now();
        Ok(Self {
            lasting: targets.lasting().clone(),
            gauges,
            rank: Rank { class, since },
            until: since + limits.timeout.now(),
        })
    }

    /// Waits for a place at one of these servers; the turn comes by the class, and by how long the
    /// request has been in the queue. Returns `None` when `changed` is done first: the
    /// model may have other servers then, or may be gone.
    ///
    /// # Errors
    ///
    /// 503 when the request has waited for too long.
    pub(crate) async fn wait(
        &self,
        upstreams: Vec<Arc<Upstream>>,
        limit: &Arc<ConcurrencyLimit>,
        changed: impl Future<Output = ()>,
    ) -> Result<Option<Place>, ApiError> {
        if upstreams.is_empty() {
            return Ok(None);
        }
        let place = |upstream| Box::pin(Place::wait(upstream, limit, self.rank));
        let any = select_all(upstreams.into_iter().map(place));
        tokio::select! {
            biased;
            (place, ..) = any => Ok(Some(place)),
            () = changed => Ok(None),
            () = sleep_until(self.until) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "All workers of the model were busy for too long; try again shortly.",
            )
            .with_code("queue_timeout")),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.lasting.waiting.fetch_sub(1, Relaxed);
        self.gauges.each().for_each(IntGauge::dec);
    }
}
