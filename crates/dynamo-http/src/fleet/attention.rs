//! What requests tell the upkeep: which servers they use, and what they saw of them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use prometheus::IntCounter;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::claims::Claimed;
use super::identity::{Finding, Identity};
use super::standing::{Change, Out};
use super::upstream::Upstream;
use crate::meter::Metrics;

/// How many probes run at once.
const PROBES: usize = 256;
/// Why an instance gets no request although its server is in rotation: its control port denies it.
pub(super) const GONE: &str = "gone";

/// The state that requests share with the upkeep.
pub(crate) struct Attention {
    /// How long a server without requests is left alone between probes; none: no probes at all.
    pub(super) probe_idle: Option<Duration>,
    joining: SegQueue<Weak<Upstream>>,
    pub(super) probes: Arc<Semaphore>,
    ejections: [IntCounter; Out::ALL.len()],
    denials: IntCounter,
}

impl Attention {
    pub(super) fn new(probe_idle: Option<Duration>, metrics: &Metrics) -> Self {
        Self {
            probe_idle,
            joining: SegQueue::new(),
            probes: Arc::new(Semaphore::new(PROBES)),
            ejections: Out::ALL.map(|reason| metrics.ejections(reason.name())),
            denials: metrics.ejections(GONE),
        }
    }

    /// The servers that are to be looked after since this was last asked.
    pub(super) fn joining(&self) -> impl Iterator<Item = Weak<Upstream>> {
        std::iter::from_fn(|| self.joining.pop())
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
            // A full server says so often, so there is no log line.
            Some(Change::Ejected(Out::Full)) => self.count(Out::Full),
            Some(Change::Ejected(reason)) => {
                warn!(url = %upstream.url, %reason, "a worker is out of rotation");
                self.count(reason);
            }
            Some(Change::Restored) => info!(url = %upstream.url, "a worker is back in rotation"),
        }
    }

    fn count(&self, reason: Out) {
        self.ejections[reason as usize].inc();
    }

    /// Tells what the answer of a control port changed.
    pub(super) fn note_finding(&self, claimed: &Claimed, before: Identity, finding: Finding) {
        let (url, control) = (&claimed.claim.url, &claimed.claim.control);
        match (before, claimed.identity()) {
            (before, now) if before.is_denied() == now.is_denied() => {
                if before == Identity::Unheard && now != Identity::Unheard {
                    debug!(%url, %control, "a worker's control port knows its entries");
                }
            }
            (_, Identity::Denied) => {
                self.denials.inc();
                if finding == Finding::Withdrawn {
                    info!(%url, %control, "a worker withdraws: its entries get no requests");
                } else {
                    warn!(%url, %control, "a worker's control port does not know its entries any more: they get no requests");
                }
            }
            _ => info!(%url, %control, "a worker's control port knows its entries again"),
        }
    }
}
