//! How a frontend spreads requests over workers.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use dynamo_http::{FrontendConfig, RouterMode};
use http::HeaderName;

use super::table;
use super::value::{Percent, Seconds, Timeout};
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct BalanceFlags {
    #[arg(long)]
    router_mode: Option<RouterMode>,
    #[arg(long)]
    affinity_header: Option<HeaderName>,
    #[arg(long)]
    worker_concurrency: Option<NonZeroUsize>,
    #[arg(long)]
    queue_depth: Option<usize>,
    #[arg(long)]
    queue_timeout: Option<Timeout>,
    #[arg(long)]
    retry_budget: Option<Percent>,
    #[arg(long)]
    panic_threshold: Option<Percent>,
    #[arg(long)]
    worker_probe_interval: Option<Seconds>,
}

impl BalanceFlags {
    /// # Errors
    ///
    /// When the environment has an invalid value.
    pub(crate) fn resolve(
        self,
        environment: &Environment,
        config: &mut FrontendConfig,
    ) -> Result<(), Failure> {
        config.router_mode = table::ROUTER_MODE.resolve(self.router_mode, environment)?;
        config.affinity_header =
            table::AFFINITY_HEADER.resolve(self.affinity_header, environment)?;
        config.worker_concurrency =
            table::WORKER_CONCURRENCY.given(self.worker_concurrency, environment)?;
        config.queue_depth = table::QUEUE_DEPTH.resolve(self.queue_depth, environment)?;
        let Timeout(queue) = table::QUEUE_TIMEOUT.resolve(self.queue_timeout, environment)?;
        config.queue_timeout = queue;
        let Percent(budget) = table::RETRY_BUDGET.resolve(self.retry_budget, environment)?;
        config.retry_budget = budget;
        let Percent(panic) = table::PANIC_THRESHOLD.resolve(self.panic_threshold, environment)?;
        config.panic_threshold = panic;
        let Seconds(probe) =
            table::WORKER_PROBE_INTERVAL.resolve(self.worker_probe_interval, environment)?;
        config.probe_interval = Some(probe).filter(|probe| *probe > Duration::ZERO);
        Ok(())
    }
}
