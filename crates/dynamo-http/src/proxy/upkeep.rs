//! What is done for the servers in use beside requests: probes, and closing idle connections.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::budget::RetryBudget;
use super::connect::Connector;
use super::metrics::Metrics;
use super::probe::probe;
use super::rotation::{Change, PROBE_TIMEOUT};
use crate::upstream::Upstream;
use crate::worker_key::WorkerKey;

/// How long an idle connection to a worker is kept. Most engines close theirs after 5 s.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How often servers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks are between two looks at idle connections.
const SWEEP: u32 = 10;
/// A server that has been in rotation and without requests for so long is left alone.
const UNUSED: Duration = Duration::from_secs(300);
/// How many probes run at once.
const PROBES: usize = 64;

/// What requests and upkeep share.
pub(crate) struct Upkeep {
    pub(crate) connector: Connector,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: RetryBudget,
    /// How long a server without requests is left alone between probes; none: no probes at all.
    pub(crate) probe_idle: Option<Duration>,
    pub(crate) worker_key: WorkerKey,
    joining: SegQueue<Weak<Upstream>>,
    probes: Arc<Semaphore>,
}

/// A server that is looked after.
struct Attended {
    upstream: Weak<Upstream>,
    used: Instant,
}

impl Upkeep {
    pub(crate) fn new(
        connector: Connector,
        metrics: Arc<Metrics>,
        budget: RetryBudget,
        probe_idle: Option<Duration>,
        worker_key: WorkerKey,
    ) -> Self {
        Self {
            connector,
            metrics,
            budget,
            probe_idle,
            worker_key,
            joining: SegQueue::new(),
            probes: Arc::new(Semaphore::new(PROBES)),
        }
    }

    /// Looks after a server from now on: a request is about to be sent to it.
    pub(crate) fn attend(&self, upstream: &Arc<Upstream>) {
        if !upstream.attended.load(Relaxed) && !upstream.attended.swap(true, Relaxed) {
            self.joining.push(Arc::downgrade(upstream));
        }
    }

    /// Tells what a report changed.
    pub(crate) fn note(&self, upstream: &Upstream, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Ejected(reason)) => {
                warn!(url = %upstream.url, %reason, "a worker is out of rotation");
                self.metrics.ejected(reason);
            }
            Some(Change::Restored) => info!(url = %upstream.url, "a worker is back in rotation"),
        }
    }

    fn probe(self: &Arc<Self>, upstream: Arc<Upstream>) {
        let Ok(permit) = self.probes.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            let key = this.worker_key.header();
            let answer = probe(&this.connector, &upstream.url, key, PROBE_TIMEOUT).await;
            this.note(&upstream, upstream.rotation.probed(answer, Instant::now()));
            drop(permit);
        });
    }

    /// Looks at a server; returns whether to go on looking after it.
    fn look(self: &Arc<Self>, attended: &mut Attended, now: Instant, sweep: bool) -> bool {
        let Some(upstream) = attended.upstream.upgrade() else { return false };
        if upstream.load.was_used() {
            attended.used = now;
        }
        if sweep {
            upstream.pool().sweep(MAX_IDLE);
        }
        if upstream.rotation.out().is_none() && now - attended.used > UNUSED {
            upstream.attended.store(false, Relaxed);
            return false;
        }
        let waiting = upstream.load.in_flight() > 0;
        if upstream.rotation.probe_is_due(now, waiting, self.probe_idle) {
            self.probe(upstream);
        }
        true
    }

    /// Does what is to be done, for as long as `owner` lives.
    pub(crate) async fn run(self: Arc<Self>, owner: Weak<impl Sized>) {
        let mut all: Vec<Attended> = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            let now = ticks.tick().await;
            if owner.strong_count() == 0 {
                break;
            }
            let joining = std::iter::from_fn(|| self.joining.pop());
            all.extend(joining.map(|upstream| Attended { upstream, used: now }));
            let sweep = tick % SWEEP == 0;
            if sweep {
                self.budget.age();
            }
            all.retain_mut(|attended| self.look(attended, now, sweep));
        }
        // Another front door on the same switchboard may use them.
        for upstream in all.iter().filter_map(|attended| attended.upstream.upgrade()) {
            upstream.attended.store(false, Relaxed);
        }
    }
}
