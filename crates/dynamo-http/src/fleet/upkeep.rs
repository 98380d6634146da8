//! What is done for the servers in use beside requests: probes, and closing idle connections.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dynamo_discovery::{ControlUrl, InstanceId, WorkerUrl};
use dynamo_namespace::Namespace;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::fleet::Fleet;
use super::probe::{Finding, ask_control, ask_for_model, probe};
use super::rotation::PROBE_TIMEOUT;
use super::upstream::Upstream;
use super::window::MARK_INTERVAL;

/// How long an idle connection to a worker is kept. Most engines close theirs after 5 s.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How often servers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks are between two looks at idle connections and at models that have changed.
const SWEEP: u32 = 10;
/// A server that has been in rotation and without requests for so long is left alone.
const UNUSED: Duration = Duration::from_secs(300);
/// A server that is looked after.
struct Attended {
    upstream: Weak<Upstream>,
    used: Instant,
    /// When its counters were last marked.
    marked: Instant,
}

impl Fleet {
    /// Asks a server whether it answers.
    pub(crate) async fn probe(&self, upstream: &Upstream, patience: Duration) -> Finding {
        probe(self.connector(), &upstream.url, &upstream.terms, patience).await
    }

    /// Asks the control port of a namespace's worker whether it knows an instance, and offers it.
    pub(crate) async fn ask_control(
        &self,
        namespace: &Namespace,
        control: &ControlUrl,
        id: InstanceId,
        patience: Duration,
    ) -> Finding {
        ask_control(self.connector(), control, id, self.terms_of(namespace), patience).await
    }

    /// Asks a server of a namespace whether it lists a model.
    pub(crate) async fn ask_for_model(
        &self,
        namespace: &Namespace,
        url: &WorkerUrl,
        model: &str,
        patience: Duration,
    ) -> Finding {
        ask_for_model(self.connector(), url, model, self.terms_of(namespace), patience).await
    }

    fn begin_probe(&self, upstream: Arc<Upstream>) {
        let Ok(permit) = self.attention().probes.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            let finding = this.probe(&upstream, PROBE_TIMEOUT).await;
            this.attention().note(&upstream, upstream.rotation.probed(finding, Instant::now()));
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
        if upstream.rotation.probe_is_due(now, waiting, self.attention().probe_idle) {
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
            let joining = self.attention().joining();
            all.extend(joining.map(|upstream| Attended { upstream, used: now, marked: now }));
            all.retain_mut(|attended| self.look(attended, now, sweep));
        }
    }
}
