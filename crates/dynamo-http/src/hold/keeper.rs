//! Between discovery and the switchboard: keeps what vanished, asks its servers, lets go of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{DiscoveryBatch, Gone, Instance, ModelUpdate};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::ask::Ask;
use super::config::Hold;
use super::remembered::Remembered;
use super::state::{Holding, Outcome};
use super::witness::Witness;
use crate::feed::{DiscoveryStatus, Keep};
use crate::fleet::{Finding, Fleet};
use crate::view::SwitchboardWriter;

/// How often what is kept is looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How often bursts are told at most.
const TELL: Duration = Duration::from_secs(5);

/// Drives [`Holding`] and [`Remembered`] in the feed's task; only the questions to servers have
/// tasks of their own.
pub(super) struct Keeper {
    pub(super) fleet: Fleet,
    holding: Holding,
    /// By source; gone once the source has said what there is.
    remembered: BTreeMap<usize, Remembered>,
    ask: Box<dyn Ask>,
    asked: JoinSet<(Witness, Finding)>,
    answers: Vec<(Witness, Finding)>,
    look_at: Instant,
    /// Counts the instances that were ever held.
    status: DiscoveryStatus,
    /// How many of them no log line has told yet.
    untold: usize,
    told_at: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        hold: Hold,
        fleet: Fleet,
        ask: Box<dyn Ask>,
        status: DiscoveryStatus,
    ) -> Self {
        Self {
            fleet,
            holding: Holding::new(hold),
            remembered: BTreeMap::new(),
            ask,
            asked: JoinSet::new(),
            answers: Vec::new(),
            look_at: Instant::now(),
            status,
            untold: 0,
            told_at: None,
        }
    }
}

impl Keep for Keeper {
    fn remember(&mut self, source: usize, instances: Vec<Arc<Instance>>) {
        if instances.is_empty() {
            return;
        }
        let now = Instant::now();
        let remembered = Remembered::new(instances, now, self.holding.takes_unproven());
        self.remembered.insert(source, remembered);
        self.ask_who_is_due(now);
    }

    fn remembered(&self, source: usize) -> usize {
        self.remembered.get(&source).map_or(0, Remembered::serving)
    }

    fn remembers_enough(&self, source: usize) -> bool {
        self.remembered.get(&source).is_some_and(Remembered::is_ready)
    }

    fn stage(&mut self, source: usize, batch: &DiscoveryBatch, writer: &mut SwitchboardWriter) {
        // Till a source has said what there is, it knows of nothing that could vanish.
        if let Some(remembered) = self.remembered.get_mut(&source) {
            remembered.note(&batch.updates);
            if !batch.more {
                let replaced = self.remembered.remove(&source).map(Remembered::replaced);
                writer.stage(&replaced.unwrap_or_default());
            }
            return;
        }
        let now = Instant::now();
        let (certain, vanished) = self.holding.take_in(&batch.updates, &batch.unserved);
        let staged = writer.stage(&certain);
        if vanished.is_empty() {
            return;
        }
        // A worker that was killed and came back has two keys until the first lease ends: nothing
        // is lost with the first key.
        let is_doubted =
            |one: &Instance| vanished.contains_key(one.key()) || self.holding.keeps(one.key());
        let (superseded, lost): (Vec<_>, Vec<_>) =
            vanished.values().partition(|one| staged.has_another(one, is_doubted));
        let mut updates = Vec::with_capacity(vanished.len());
        let mut doubted = Vec::new();
        for one in lost {
            let is_ambiguous = || staged.names(one, |other| vanished.contains_key(other.key()));
            let is_unclear = one.entry().control().is_none()
                && (!self.holding.takes_unproven() || is_ambiguous());
            let kept = if is_unclear { None } else { self.holding.keep(one, now, &self.fleet) };
            updates.push(match kept {
                Some(in_doubt) => {
                    doubted.push(in_doubt.clone());
                    ModelUpdate::Changed { old: one.clone(), new: in_doubt }
                }
                None => ModelUpdate::Removed(one.clone(), Gone::Vanished),
            });
        }
        let gone = superseded.into_iter().cloned();
        updates.extend(gone.map(|one| ModelUpdate::Removed(one, Gone::Vanished)));
        writer.stage(&updates);
        for in_doubt in doubted {
            writer.stage_held(&in_doubt);
        }
        self.ask_who_is_due(now);
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        async {
            if self.holding.is_empty()
                && self.remembered.values().all(Remembered::is_settled)
                && self.asked.is_empty()
            {
                return pending().await;
            }
            tokio::select! {
                Some(answer) = self.asked.join_next() => self.answers.extend(answer),
                () = sleep_until(self.look_at) => {}
            }
        }
        .boxed()
    }

    fn work(&mut self, writer: &mut SwitchboardWriter) {
        let now = Instant::now();
        while let Some(answer) = self.asked.try_join_next() {
            self.answers.extend(answer);
        }
        for (witness, finding) in std::mem::take(&mut self.answers) {
            for remembered in self.remembered.values_mut() {
                writer.stage(&remembered.answered(&witness, finding, now));
            }
            let outcome = self.holding.answered(&witness, finding, now);
            self.stage_outcome(&outcome, writer);
        }
        let outcome = self.holding.look(now);
        self.stage_outcome(&outcome, writer);
        self.ask_who_is_due(now);
        self.tell(now);
    }
}

impl Keeper {
    fn stage_outcome(&mut self, outcome: &Outcome, writer: &mut SwitchboardWriter) {
        writer.stage(&outcome.updates);
        for instance in &outcome.held {
            writer.stage_held(instance);
        }
        self.untold += outcome.held.len();
        self.status.add_held(outcome.held.len());
    }

    fn ask_who_is_due(&mut self, now: Instant) {
        self.look_at = now + TICK;
        let mut due = self.holding.take_due(now);
        for remembered in self.remembered.values_mut() {
            due.extend(remembered.take_due(now));
        }
        for witness in due {
            let answer = self.ask.ask(&witness);
            self.asked.spawn(async move { (witness, answer.await) });
        }
    }

    /// Once for a burst, and not for each instance.
    fn tell(&mut self, now: Instant) {
        let told_just_now = self.told_at.is_some_and(|at| now < at + TELL);
        if self.untold > 0 && !self.holding.is_in_question() && !told_just_now {
            let instances = std::mem::take(&mut self.untold);
            self.told_at = Some(now);
            warn!(
                instances,
                "vanished from the store, but their workers are there: they are held, and go on serving"
            );
        }
        if self.holding.is_empty() && self.untold == 0 && self.told_at.take().is_some() {
            info!("nothing is held any more");
        }
    }
}
