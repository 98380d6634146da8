//! Between discovery and the switchboard: keeps what vanished, asks its servers, lets go of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_discovery::{DiscoveryBatch, Instance, Key, WorkerUrl};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Hold;
use super::ask::Ask;
use super::remembered::Remembered;
use super::state::{Holding, Outcome, same};
use crate::proxy::probe::Probe;
use crate::switchboard::SwitchboardWriter;

/// How often what is kept is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often bursts are told at most.
const TELL: Duration = Duration::from_secs(5);

/// Drives [`Holding`] and [`Remembered`] in the feed's task; only the questions to servers have
/// tasks of their own.
pub(crate) struct Keeper {
    holding: Holding,
    /// By source; gone once the source has said what there is.
    remembered: BTreeMap<usize, Remembered>,
    ask: Box<dyn Ask>,
    asked: JoinSet<(WorkerUrl, Probe)>,
    answers: Vec<(WorkerUrl, Probe)>,
    look_at: Instant,
    /// How many instances were ever held.
    total: Arc<AtomicU64>,
    /// How many of them no log line has told yet.
    untold: usize,
    told_at: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(hold: Hold, ask: Box<dyn Ask>, total: Arc<AtomicU64>) -> Self {
        Self {
            holding: Holding::new(hold),
            remembered: BTreeMap::new(),
            ask,
            asked: JoinSet::new(),
            answers: Vec::new(),
            look_at: Instant::now(),
            total,
            untold: 0,
            told_at: None,
        }
    }

    /// Begins to ask the servers of what a source remembers.
    pub(crate) fn remember(
        &mut self,
        source: usize,
        instances: Vec<Arc<Instance>>,
        writer: &mut SwitchboardWriter,
    ) {
        if instances.is_empty() {
            return;
        }
        let now = Instant::now();
        let remembered = Remembered::new(instances, now, |url| writer.server(url));
        self.remembered.insert(source, remembered);
        self.ask_who_is_due(now);
    }

    /// How many instances of a source serve that are only remembered.
    pub(crate) fn remembered(&self, source: usize) -> usize {
        self.remembered.get(&source).map_or(0, Remembered::serving)
    }

    /// Whether what a source remembers is as good as its first answer.
    pub(crate) fn remembers_enough(&self, source: usize) -> bool {
        self.remembered.get(&source).is_some_and(Remembered::is_ready)
    }

    /// Stages a batch of a source, but for what is kept for now.
    pub(crate) fn stage(
        &mut self,
        source: usize,
        batch: &DiscoveryBatch,
        writer: &mut SwitchboardWriter,
    ) {
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
        let server = |url: &WorkerUrl| writer.server(url);
        let (updates, kept) = self.holding.take_in(&batch.updates, &batch.unserved, now, server);
        writer.stage(&updates);
        if kept.is_empty() {
            return;
        }
        // A worker that was killed and came back has two keys until the first lease ends: nothing
        // is lost with that one.
        let has_successor = |key: &&Key| {
            let Some(one) = self.holding.get(key) else { return false };
            writer
                .instances_of(one.entry().endpoint().namespace(), one.model())
                .any(|other| !self.holding.keeps(other.key()) && same(one, other))
        };
        let superseded: Vec<Key> = kept.iter().filter(has_successor).cloned().collect();
        let updates: Vec<_> =
            superseded.iter().filter_map(|key| self.holding.let_go(key)).collect();
        writer.stage(&updates);
        self.ask_who_is_due(now);
    }

    /// Waits until there is something to do; may be dropped and called again.
    pub(crate) async fn wait(&mut self) {
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

    /// Stages what servers answered, and what is over.
    pub(crate) fn work(&mut self, writer: &mut SwitchboardWriter) {
        let now = Instant::now();
        while let Some(answer) = self.asked.try_join_next() {
            self.answers.extend(answer);
        }
        for (url, probe) in std::mem::take(&mut self.answers) {
            for remembered in self.remembered.values_mut() {
                writer.stage(&remembered.answered(&url, probe, now));
            }
            let outcome = self.holding.answered(&url, probe, now);
            self.stage_outcome(&outcome, writer);
        }
        let outcome = self.holding.look(now);
        self.stage_outcome(&outcome, writer);
        self.ask_who_is_due(now);
        self.tell(now);
    }

    fn stage_outcome(&mut self, outcome: &Outcome, writer: &mut SwitchboardWriter) {
        writer.stage(&outcome.updates);
        for instance in &outcome.held {
            writer.stage_held(instance);
        }
        self.untold += outcome.held.len();
        self.total.fetch_add(outcome.held.len() as u64, Ordering::Relaxed);
    }

    fn ask_who_is_due(&mut self, now: Instant) {
        self.look_at = now + TICK;
        let mut due = self.holding.take_due(now);
        for remembered in self.remembered.values_mut() {
            due.extend(remembered.take_due(now));
        }
        for server in due {
            let answer = self.ask.ask(&server);
            let url = server.url.clone();
            self.asked.spawn(async move { (url, answer.await) });
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
                "vanished from the store, but their servers answer: they are held, and go on serving"
            );
        }
        if self.holding.is_empty() && self.untold == 0 && self.told_at.take().is_some() {
            info!("nothing is held any more");
        }
    }
}
