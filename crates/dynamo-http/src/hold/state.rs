//! What is held, and why no longer: pure, but for the standing of the servers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dynamo_discovery::{Gone, Instance, Key, ModelUpdate, WorkerUrl};
use tokio::time::Instant;

use super::config::Hold;
use super::pace::{ASKED_AT_ONCE, again};
use super::witness::Witness;
use crate::fleet::{Claimed, Finding, Fleet, Identity, Upstream};

/// The instances that have vanished from their store and serve nevertheless.
pub(super) struct Holding {
    limits: Hold,
    vanished: BTreeMap<Key, Vanished>,
    /// The keys of those that name a URL.
    at: HashMap<WorkerUrl, BTreeSet<Key>>,
    witnesses: HashMap<Witness, Asked>,
}

struct Vanished {
    /// As its worker registered it.
    instance: Arc<Instance>,
    upstream: Arc<Upstream>,
    witness: Witness,
    /// What is known of its claim, which is not forgotten while it is in doubt.
    _claimed: Option<Arc<Claimed>>,
    until: Instant,
    /// Its witness has proven it since it vanished: it is held.
    held: bool,
}

impl Vanished {
    /// Whether a new instance at the same server ends this one: it is its successor, the same model
    /// of the same namespace; or it is another worker's, of any namespace, and a list of models no
    /// longer tells which of the two workers is at the address.
    fn gives_way_to(&self, new: &Instance) -> bool {
        let is_ambiguous = self.witness.is_weak() && new.id() != self.instance.id();
        is_ambiguous || same(&self.instance, new)
    }

    /// The instance as the switchboard has it: without a server while it is in doubt.
    fn shown(&self) -> Arc<Instance> {
        if self.held { self.instance.clone() } else { in_doubt(&self.instance) }
    }
}

/// The instance without its server, so that its model stays known and no request goes there.
pub(super) fn in_doubt(instance: &Instance) -> Arc<Instance> {
    let entry = instance.entry().clone().without_url();
    Arc::new(Instance::new(instance.key().clone(), instance.id(), entry))
}

/// A witness, and the instances that it can prove.
struct Asked {
    keys: Vec<Key>,
    /// When to ask it; none while it is asked.
    ask_at: Option<Instant>,
}

/// What is to be done about it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// What the switchboard must learn.
    pub(crate) updates: Vec<ModelUpdate>,
    /// The instances that are held from now on.
    pub(crate) held: Vec<Arc<Instance>>,
}

impl Holding {
    pub(crate) fn new(limits: Hold) -> Self {
        Self { limits, vanished: BTreeMap::new(), at: HashMap::new(), witnesses: HashMap::new() }
    }

    /// Whether nothing is kept, held or in question.
    pub(crate) fn is_empty(&self) -> bool {
        self.vanished.is_empty()
    }

    /// Whether a server has not answered for the first time yet.
    pub(crate) fn is_in_question(&self) -> bool {
        self.vanished.values().any(|one| !one.held)
    }

    /// Whether the instance of this key has vanished and is kept.
    pub(crate) fn keeps(&self, key: &Key) -> bool {
        self.vanished.contains_key(key)
    }

    /// Takes in what the store said. Returns what of it is certain, and the instances that have
    /// vanished without a reason, each of which is to be [kept](Self::keep) or let go.
    pub(super) fn take_in(
        &mut self,
        updates: &[ModelUpdate],
        unserved: &[Key],
    ) -> (Vec<ModelUpdate>, BTreeMap<Key, Arc<Instance>>) {
        let mut certain = Vec::with_capacity(updates.len());
        // One batch may hold several revisions, so a key may vanish in it and come back.
        let mut vanished = BTreeMap::new();
        for update in updates {
            match update {
                ModelUpdate::Removed(old, Gone::Vanished) => {
                    vanished.insert(old.key().clone(), old.clone());
                }
                ModelUpdate::Added(new) => {
                    let back = vanished.remove(new.key());
                    certain.push(match back.or_else(|| self.forget(new.key())) {
                        Some(old) => ModelUpdate::Changed { old, new: new.clone() },
                        None => update.clone(),
                    });
                    self.succeeded_by(new, &mut certain);
                }
                ModelUpdate::Changed { new, .. } => {
                    certain.push(update.clone());
                    self.succeeded_by(new, &mut certain);
                }
                ModelUpdate::Removed(..) => certain.push(update.clone()),
            }
        }
        for key in unserved {
            let withdrawn = vanished.remove(key).or_else(|| self.forget(key));
            certain.extend(withdrawn.map(|old| ModelUpdate::Removed(old, Gone::Withdrawn)));
        }
        (certain, vanished)
    }

    /// Whether entries without a control port may be kept.
    pub(super) fn takes_unproven(&self) -> bool {
        self.limits.unproven
    }

    /// Keeps an instance that has vanished, if there is a reason to, and returns it as it is shown
    /// while it is in doubt.
    pub(super) fn keep(
        &mut self,
        instance: &Arc<Instance>,
        now: Instant,
        fleet: &Fleet,
    ) -> Option<Arc<Instance>> {
        let witness = Witness::of(instance, self.limits.unproven)?;
        let url = instance.url()?;
        let upstream = fleet.server(instance.endpoint().namespace(), url);
        let room = if self.limits.longest.is_zero() { 0 } else { self.limits.at_most };
        if instance.kinds().is_empty()
            || self.vanished.len() >= room
            || self.keeps(instance.key())
            || upstream.rotation.is_lost()
        {
            return None;
        }
        let asked = self.witnesses.entry(witness.clone());
        let asked = asked.or_insert_with(|| Asked { keys: Vec::new(), ask_at: Some(now) });
        asked.keys.push(instance.key().clone());
        let until = now + self.limits.longest;
        self.at.entry(url.clone()).or_default().insert(instance.key().clone());
        let instance = instance.clone();
        let _claimed = witness.claim().map(|claim| fleet.claimed(claim));
        let vanished = Vanished { instance, upstream, witness, _claimed, until, held: false };
        let shown = vanished.shown();
        self.vanished.insert(shown.key().clone(), vanished);
        Some(shown)
    }

    /// Lets go of the kept instances that a new one ends.
    fn succeeded_by(&mut self, new: &Instance, told: &mut Vec<ModelUpdate>) {
        let here = new.url().and_then(|url| self.at.get(url));
        let is_over = |key: &&Key| self.vanished.get(key).is_some_and(|one| one.gives_way_to(new));
        let predecessors: Vec<Key> = here.into_iter().flatten().filter(is_over).cloned().collect();
        for key in predecessors {
            told.extend(self.let_go(&key));
        }
    }

    /// Keeps an instance no longer.
    pub(crate) fn let_go(&mut self, key: &Key) -> Option<ModelUpdate> {
        self.forget(key).map(|old| ModelUpdate::Removed(old, Gone::Vanished))
    }

    /// Keeps an instance no longer, and returns it as the switchboard has it.
    fn forget(&mut self, key: &Key) -> Option<Arc<Instance>> {
        let vanished = self.vanished.remove(key)?;
        let url = &vanished.upstream.url;
        if let Some(here) = self.at.get_mut(url) {
            here.remove(key);
            if here.is_empty() {
                self.at.remove(url);
            }
        }
        if let Some(asked) = self.witnesses.get_mut(&vanished.witness) {
            asked.keys.retain(|other| other != key);
            if asked.keys.is_empty() {
                self.witnesses.remove(&vanished.witness);
            }
        }
        Some(vanished.shown())
    }

    /// Takes in what a witness answered.
    pub(super) fn answered(
        &mut self,
        witness: &Witness,
        finding: Finding,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(asked) = self.witnesses.get_mut(witness) else { return outcome };
        if finding == Finding::NotAsked {
            // This machine could not ask, which says nothing about the server.
            asked.ask_at = Some(now + again());
            return outcome;
        }
        if !Identity::is_proven_by(finding) {
            let keys = asked.keys.clone();
            outcome.updates.extend(keys.iter().filter_map(|key| self.let_go(key)));
            return outcome;
        }
        asked.ask_at = Some(now + again());
        for key in &asked.keys {
            if let Some(one) = self.vanished.get_mut(key)
                && !one.held
            {
                let (old, new) = (one.shown(), one.instance.clone());
                one.held = true;
                outcome.held.push(new.clone());
                outcome.updates.push(ModelUpdate::Changed { old, new });
            }
        }
        outcome
    }

    /// Lets go of what was held for long enough, and of what requests found gone.
    pub(super) fn look(&mut self, now: Instant) -> Outcome {
        let is_over = |one: &Vanished| one.until <= now || one.upstream.rotation.is_lost();
        let over: Vec<Key> = self
            .vanished
            .iter()
            .filter(|(_, one)| is_over(one))
            .map(|(key, _)| key.clone())
            .collect();
        let updates = over.iter().filter_map(|key| self.let_go(key)).collect();
        Outcome { updates, held: Vec::new() }
    }

    /// The witnesses that are to be asked now, those first that have waited longest. They count as
    /// asked. Bytes from a server are no reason to leave its witness alone: a stranger sends bytes
    /// as well.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Witness> {
        let asked = self.witnesses.values().filter(|asked| asked.ask_at.is_none()).count();
        let mut due: Vec<_> = self
            .witnesses
            .iter_mut()
            .filter_map(|(witness, asked)| {
                Some((asked.ask_at.filter(|at| *at <= now)?, witness, asked))
            })
            .collect();
        due.sort_unstable_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        due.truncate(ASKED_AT_ONCE.saturating_sub(asked));
        due.into_iter()
            .map(|(_, witness, asked)| {
                asked.ask_at = None;
                witness.clone()
            })
            .collect()
    }
}

/// Whether two instances are one model of one namespace; their server is the same already.
fn same(one: &Instance, other: &Instance) -> bool {
    let namespace = |instance: &Instance| instance.endpoint().namespace().clone();
    one.model() == other.model() && namespace(one) == namespace(other)
}
