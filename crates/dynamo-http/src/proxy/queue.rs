//! The line in which requests wait while all servers of their model have as many as they may.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::select_all;
use http::StatusCode;
use prometheus::IntGauge;
use tokio::time::{Instant, timeout_at};

use super::load::Slot;
use crate::error::ApiError;
use crate::upstream::Upstream;
use crate::view::{Lasting, Model};

/// How often a request that waits looks whether there are other servers by now.
pub(crate) const RECONSIDER: Duration = Duration::from_secs(1);

/// How long a line may be, and how long a request stays in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// How many requests may wait for one model.
    pub(crate) depth: usize,
    pub(crate) timeout: Duration,
}

/// A request's place in the line of its model. Left when it is dropped.
pub(crate) struct Queued {
    lasting: Arc<Lasting>,
    gauge: IntGauge,
    until: Instant,
}

impl Queued {
    /// Joins the line.
    ///
    /// # Errors
    ///
    /// 429 when it is too long.
    pub(crate) fn join(
        model: &Model,
        gauge: &IntGauge,
        limits: QueueLimits,
    ) -> Result<Self, ApiError> {
        let join = |waiting: usize| (waiting < limits.depth).then_some(waiting + 1);
        model.lasting().waiting.fetch_update(Relaxed, Relaxed, join).map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "All workers of the model are busy and too many requests wait; try again shortly.",
            )
            .with_code("queue_full")
        })?;
        gauge.inc();
        Ok(Self {
            lasting: model.lasting().clone(),
            gauge: gauge.clone(),
            until: Instant::now() + limits.timeout,
        })
    }

    /// Waits for a place at any of these servers, but no longer than until the next look at what
    /// servers there are, which finds none where there is nothing new.
    ///
    /// # Errors
    ///
    /// 503 when the request has waited for too long.
    pub(crate) async fn wait(
        &self,
        upstreams: Vec<Arc<Upstream>>,
        limit: NonZeroUsize,
        mut changed: impl FnMut() -> bool,
    ) -> Result<Option<Slot>, ApiError> {
        if upstreams.is_empty() {
            return Ok(None);
        }
        let place = |upstream| Box::pin(Slot::wait(upstream, limit));
        // Kept while nothing changes: who leaves a line goes to its end.
        let mut any = select_all(upstreams.into_iter().map(place));
        loop {
            let look = self.until.min(Instant::now() + RECONSIDER);
            match timeout_at(look, &mut any).await {
                Ok((slot, ..)) => return Ok(Some(slot)),
                Err(_) if Instant::now() >= self.until => {
                    return Err(ApiError::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "All workers of the model were busy for too long; try again shortly.",
                    )
                    .with_code("queue_timeout"));
                }
                Err(_) if changed() => return Ok(None),
                Err(_) => {}
            }
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.lasting.waiting.fetch_sub(1, Relaxed);
        self.gauge.dec();
    }
}
