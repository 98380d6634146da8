//! What is done for the servers in use beside requests: probes, questions to control ports, and
//! closing idle connections.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use super::claims::Claimed;
use super::fleet::Fleet;
use super::load::UNUSED;
use super::probe::probe;
use super::standing::Event;
use super::upstream::Upstream;
use super::window::MARK_INTERVAL;

/// How long an idle connection to a worker is kept. Most engines close theirs after 5 s.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How often servers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks are between two looks at idle connections and at models that have changed.
const SWEEP: u32 = 10;

/// A server that is looked after.
struct Attended {
    upstream: Weak<Upstream>,
    used: Instant,
    /// When its counters were last marked.
    marked: Instant,
}

/// A probe that is under way. Dropping it allows the next one.
struct Probing(Arc<Upstream>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.rotation.end_probe();
    }
}

impl Fleet {
    fn begin_probe(&self, upstream: Arc<Upstream>) {
        let Ok(permit) = self.attention().probes.clone().try_acquire_owned() else { return };
        let this = self.clone();
        let began = upstream.rotation.begin_probe();
        let probing = Probing(upstream);
        tokio::spawn(async move {
            let upstream = &probing.0;
            if let Some(event) = probe(this.connector(), &upstream.url, &upstream.terms).await {
                if event == Event::Refused {
                    // Nobody listens, so the engine will begin anew.
                    upstream.placed.forget();
                }
                this.attention().note(upstream, upstream.rotation.probed(event, began));
            }
            drop(permit);
        });
    }

    /// Asks a control port about a claim if that is due.
    fn look_at_claim(&self, claimed: &Arc<Claimed>, now: Instant) {
        if claimed.is_news_that_it_is_unheard(now) {
            let control = &claimed.claim.control;
            warn!(%control, "a worker's control port has never answered: its entries count as those without one");
        }
        if let Some((asking, permit)) = claimed.begin_if_due(now) {
            self.ask_beside(asking, permit);
        }
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
        self.attention().note(&upstream, upstream.rotation.take_return());
        let claims = upstream.claims.values();
        let is_out = upstream.rotation.out().is_some()
            || claims.iter().any(|claimed| claimed.identity().is_denied());
        if !is_out && now - attended.used > UNUSED {
            upstream.attended.store(false, Relaxed);
            return false;
        }
        claims.iter().for_each(|claimed| self.look_at_claim(claimed, now));
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
