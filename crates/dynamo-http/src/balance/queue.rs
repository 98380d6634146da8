//! The queue of requests that wait while every server of their model has as many requests as it may.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::select_all;
use http::StatusCode;
use prometheus::IntGauge;
use tokio::time::{Instant, sleep_until};

use crate::error::ApiError;
use crate::fleet::{Lasting, Place, Targets, Upstream};

/// The limits of each model's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// How many requests may wait for one model.
    pub(crate) depth: usize,
    pub(crate) timeout: Duration,
}

/// A request's place in the queue of its model. Dropping it leaves the queue.
pub(crate) struct Queued {
    lasting: Arc<Lasting>,
    gauge: IntGauge,
    until: Instant,
}

impl Queued {
    /// Joins the queue.
    ///
    /// # Errors
    ///
    /// 429 when as many requests wait as may.
    pub(crate) fn join(
        targets: &Targets,
        gauge: &IntGauge,
        limits: QueueLimits,
    ) -> Result<Self, ApiError> {
        let join = |waiting: usize| (waiting < limits.depth).then_some(waiting + 1);
        targets.lasting().waiting.fetch_update(Relaxed, Relaxed, join).map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "All workers of the model are busy and too many requests wait; try again shortly.",
            )
            .with_code("queue_full")
        })?;
        gauge.inc();
        Ok(Self {
            lasting: targets.lasting().clone(),
            gauge: gauge.clone(),
            until: Instant::now() + limits.timeout,
        })
    }

    /// Waits for a place at one of these servers. Returns `None` when `changed` is done first: the
    /// model may have other servers then, or may be gone.
    ///
    /// # Errors
    ///
    /// 503 when the request has waited for too long.
    pub(crate) async fn wait(
        &self,
        upstreams: Vec<Arc<Upstream>>,
        limit: NonZeroUsize,
        changed: impl Future<Output = ()>,
    ) -> Result<Option<Place>, ApiError> {
        if upstreams.is_empty() {
            return Ok(None);
        }
        let place = |upstream| Box::pin(Place::wait(upstream, limit));
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
        self.gauge.dec();
    }
}
