//! What is done for the servers in use beside requests: probes, and closing idle connections.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use dynamo_discovery::WorkerUrl;
use prometheus::IntCounter;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Fleet;
use super::probe::{Finding, probe};
use super::rotation::{Change, Out, PROBE_TIMEOUT};
use super::upstream::Upstream;
use super::window::MARK_INTERVAL;
use crate::meter::Metrics;

/// How long an idle connection to a worker is kept. Most engines close theirs after 5 s.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How often servers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks are between two looks at idle connections and at models that have changed.
const SWEEP: u32 = 10;
/// A server that has been in rotation and without requests for so long is left alone.
const UNUSED: Duration = Duration::from_secs(300);
/// How many probes run at once.
const PROBES: usize = 64;

/// The state that requests share with the upkeep.
pub(super) struct Upkeep {
    /// How long a server without requests is left alone between probes; none: no probes at all.
    probe_idle: Option<Duration>,
    joining: SegQueue<Weak<Upstream>>,
    probes: Arc<Semaphore>,
    ejections: [IntCounter; Out::ALL.len()],
}

/// A server that is looked after.
struct Attended {
    upstream: Weak<Upstream>,
    used: Instant,
    /// When its counters were last marked.
    marked: Instant,
}

impl Upkeep {
    pub(super) fn new(probe_idle: Option<Duration>, metrics: &Metrics) -> Self {
        Self {
            probe_idle,
            joining: SegQueue::new(),
            probes: Arc::new(Semaphore::new(PROBES)),
            ejections: Out::ALL.map(|reason| metrics.ejections(reason.name())),
        }
    }
}

impl Fleet {
    /// Looks after a server from now on: a request is about to be sent to it.
    pub(crate) fn attend(&self, upstream: &Arc<Upstream>) {
        if !upstream.attended.load(Relaxed) && !upstream.attended.swap(true, Relaxed) {
            self.0.upkeep.joining.push(Arc::downgrade(upstream));
        }
    }

    /// Tells what a report changed.
    pub(crate) fn note(&self, upstream: &Upstream, change: Option<Change>) {
        match change {
            None => {}
            // A busy server says so often, and for how long.
            Some(Change::Ejected(Out::Full)) => {
                self.0.upkeep.ejections[Out::Full.index()].inc();
            }
            Some(Change::Ejected(reason)) => {
                warn!(url = %upstream.url, %reason, "a worker is out of rotation");
                self.0.upkeep.ejections[reason.index()].inc();
            }
            Some(Change::Restored) => info!(url = %upstream.url, "a worker is back in rotation"),
        }
    }

    /// Asks a server whether it answers.
    pub(crate) async fn probe(&self, url: &WorkerUrl, patience: Duration) -> Finding {
        probe(self.connector(), url, self.worker_key().header(), patience).await
    }

    fn begin_probe(&self, upstream: Arc<Upstream>) {
        let Ok(permit) = self.0.upkeep.probes.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            let finding = this.probe(&upstream.url, PROBE_TIMEOUT).await;
            this.note(&upstream, upstream.rotation.probed(finding, Instant::now()));
            drop(permit);
        });
    }

    /// Looks at a server; returns whether to go on looking after it.
    fn look(&self, attended: &mut Attended, now: Instant, sweep: bool) -> bool {
        let Some(upstream) = attended.upstream.upgrade() else { return false };
        if upstream.load.was_used() {
            attended.used = now;
        }
        if sweep {
            upstream.pool().sweep(MAX_IDLE);
        }
        if now - attended.marked >= MARK_INTERVAL {
            upstream.rotation.window().mark(upstream.load.begun());
            attended.marked = now;
        }
        if upstream.rotation.out().is_none() && now - attended.used > UNUSED {
            upstream.attended.store(false, Relaxed);
            return false;
        }
        let waiting = upstream.load.in_flight() > 0;
        if upstream.rotation.probe_is_due(now, waiting, self.0.upkeep.probe_idle) {
            self.begin_probe(upstream);
        }
        true
    }

    /// Does what is to be done, for as long as `owner` lives.
    pub(crate) async fn attend_while(self, owner: Weak<impl Sized>) {
        let mut all: Vec<Attended> = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            let now = ticks.tick().await;
            if owner.strong_count() == 0 {
                break;
            }
            let sweep = tick % SWEEP == 0;
            if sweep {
                self.renew_all();
            }
            let joining = std::iter::from_fn(|| self.0.upkeep.joining.pop());
            all.extend(joining.map(|upstream| Attended { upstream, used: now, marked: now }));
            all.retain_mut(|attended| self.look(attended, now, sweep));
        }
    }
}
