//! What a source remembers of an earlier run, until it says itself what there is: pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dynamo_discovery::{Gone, Instance, Key, ModelUpdate};
use tokio::time::Instant;

use super::pace::{ASKED_AT_ONCE, again};
use super::witness::Witness;
use crate::fleet::{Finding, Identity};

/// The instances that one source remembers. Each serves once its witness has proven it.
pub(super) struct Remembered {
    /// Those that serve.
    serving: BTreeMap<Key, Arc<Instance>>,
    /// The witnesses that have not proven anything.
    silent: HashMap<Witness, Waiting>,
    /// When to ask which witness; witnesses that are asked now are not in it.
    due: BTreeSet<(Instant, Witness)>,
    /// How many of them were never asked to the end.
    untried: usize,
    /// What the source has told so far, which is not yet all that there is.
    told: Vec<ModelUpdate>,
}

/// The instances that serve once their witness has proven them.
struct Waiting {
    instances: Vec<Arc<Instance>>,
    tried: bool,
}

impl Remembered {
    /// The instances of these that a witness can prove.
    pub(super) fn new(instances: Vec<Arc<Instance>>, now: Instant, unproven: bool) -> Self {
        let mut silent: HashMap<Witness, Waiting> = HashMap::new();
        let mut workers: HashMap<_, BTreeSet<_>> = HashMap::new();
        for one in &instances {
            workers.entry(one.url().cloned()).or_default().insert(one.id());
        }
        for instance in instances {
            let Some(witness) = Witness::of(&instance, unproven) else { continue };
            let is_ambiguous = || workers[&instance.url().cloned()].len() > 1;
            if witness.is_weak() && is_ambiguous() {
                continue;
            }
            let waiting = silent.entry(witness);
            let waiting =
                waiting.or_insert_with(|| Waiting { instances: Vec::new(), tried: false });
            waiting.instances.push(instance);
        }
        let due = silent.keys().map(|witness| (now, witness.clone())).collect();
        Self { serving: BTreeMap::new(), due, untried: silent.len(), silent, told: Vec::new() }
    }

    /// Whether no witness is waited for.
    pub(super) fn is_settled(&self) -> bool {
        self.silent.is_empty()
    }

    /// Whether every witness was asked once and something serves.
    pub(super) fn is_ready(&self) -> bool {
        self.untried == 0 && !self.serving.is_empty()
    }

    /// How many instances serve.
    pub(super) fn serving(&self) -> usize {
        self.serving.len()
    }

    /// The witnesses that are to be asked now, those first that have waited longest, and no more
    /// than may be asked at one time. They count as asked.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Witness> {
        let asked = self.silent.len() - self.due.len();
        let mut ask = Vec::new();
        while asked + ask.len() < ASKED_AT_ONCE
            && self.due.first().is_some_and(|(at, _)| *at <= now)
        {
            ask.extend(self.due.pop_first().map(|(_, witness)| witness));
        }
        ask
    }

    /// Takes in what a witness answered, and says what serves from now on.
    pub(super) fn answered(
        &mut self,
        witness: &Witness,
        finding: Finding,
        now: Instant,
    ) -> Vec<ModelUpdate> {
        let Some(waiting) = self.silent.get_mut(witness) else { return Vec::new() };
        if !std::mem::replace(&mut waiting.tried, true) {
            self.untried -= 1;
        }
        if !Identity::is_proven_by(finding) {
            // It may be starting: it is asked for as long as nobody knows better.
            self.due.insert((now + again(), witness.clone()));
            return Vec::new();
        }
        let instances = self.silent.remove(witness).map(|one| one.instances).unwrap_or_default();
        for one in &instances {
            self.serving.insert(one.key().clone(), one.clone());
        }
        instances.into_iter().map(ModelUpdate::Added).collect()
    }

    /// Takes in what the source says of what there is.
    pub(super) fn note(&mut self, updates: &[ModelUpdate]) {
        self.told.extend_from_slice(updates);
    }

    /// The source has said what there is: what it said, as the switchboard must learn it, which
    /// knows what served so far.
    pub(super) fn replaced(self) -> Vec<ModelUpdate> {
        let Self { mut serving, mut told, .. } = self;
        for update in &mut told {
            if let ModelUpdate::Added(new) = update
                && let Some(old) = serving.remove(new.key())
            {
                *update = ModelUpdate::Changed { old, new: new.clone() };
            }
        }
        // After what is new, so that no route closes in between.
        told.extend(serving.into_values().map(|old| ModelUpdate::Removed(old, Gone::Vanished)));
        told
    }
}
