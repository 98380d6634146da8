//! What is held, and why no longer: pure, but for the standing of the servers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{Gone, Instance, Key, ModelUpdate, WorkerUrl};
use tokio::time::Instant;

use super::Hold;
use crate::fleet::{Finding, Fleet, Upstream};

/// How long after an answer a server is asked again, at least; and at most twice that.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many servers are asked at one time.
pub(super) const ASKED_AT_ONCE: usize = 256;

/// The instances that have vanished from their store and serve nevertheless.
pub(crate) struct Holding {
    limits: Hold,
    vanished: BTreeMap<Key, Vanished>,
    servers: HashMap<WorkerUrl, Server>,
}

struct Vanished {
    instance: Arc<Instance>,
    until: Instant,
    /// Its server has answered since it vanished: it is held.
    held: bool,
}

/// A server of such instances.
struct Server {
    upstream: Arc<Upstream>,
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
        Self { limits, vanished: BTreeMap::new(), servers: HashMap::new() }
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

    /// Keeps an instance that has vanished, if there is a reason to; returns whether it does.
    pub(super) fn keep(&mut self, instance: &Arc<Instance>, now: Instant, fleet: &Fleet) -> bool {
        // Those under flat keys go at once: their workers know no other way to withdraw.
        if instance.id().is_none() || instance.kinds().is_empty() {
            return false;
        }
        let Some(url) = instance.entry().url() else { return false };
        let room = if self.limits.longest.is_zero() { 0 } else { self.limits.at_most };
        if self.vanished.len() >= room || self.keeps(instance.key()) {
            return false;
        }
        let server = self.servers.entry(url.clone()).or_insert_with(|| Server {
            upstream: fleet.server(url),
            keys: Vec::new(),
            ask_at: Some(now),
        });
        if server.upstream.rotation.is_lost() {
            if server.keys.is_empty() {
                self.servers.remove(url);
            }
            return false;
        }
        server.keys.push(instance.key().clone());
        let until = now + self.limits.longest;
        let vanished = Vanished { instance: instance.clone(), until, held: false };
        self.vanished.insert(instance.key().clone(), vanished);
        true
    }

    /// Whatever is kept for the same model at the same server gives way to its successor.
    fn succeeded_by(&mut self, new: &Instance, told: &mut Vec<ModelUpdate>) {
        let Some(server) = new.entry().url().and_then(|url| self.servers.get(url)) else { return };
        let predecessors: Vec<Key> = server
            .keys
            .iter()
            .filter(|key| self.vanished.get(*key).is_some_and(|one| same(&one.instance, new)))
            .cloned()
            .collect();
        for key in predecessors {
            told.extend(self.let_go(&key));
        }
    }

    /// Keeps an instance no longer.
    pub(crate) fn let_go(&mut self, key: &Key) -> Option<ModelUpdate> {
        self.forget(key).map(|old| ModelUpdate::Removed(old, Gone::Vanished))
    }

    fn forget(&mut self, key: &Key) -> Option<Arc<Instance>> {
        let Vanished { instance, .. } = self.vanished.remove(key)?;
        if let Some(url) = instance.entry().url()
            && let Some(server) = self.servers.get_mut(url)
        {
            server.keys.retain(|other| other != key);
            if server.keys.is_empty() {
                self.servers.remove(url);
            }
        }
        Some(instance)
    }

    /// Takes in what a server answered.
    pub(crate) fn answered(&mut self, url: &WorkerUrl, finding: Finding, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(server) = self.servers.get_mut(url) else { return outcome };
        if finding == Finding::NotAsked {
            // This machine could not ask, which says nothing about the server.
            server.ask_at = Some(now + again());
            return outcome;
        }
        if server.upstream.rotation.is_there(finding, now) {
            server.ask_at = Some(now + again());
            for key in &server.keys {
                if let Some(one) = self.vanished.get_mut(key)
                    && !std::mem::replace(&mut one.held, true)
                {
                    outcome.held.push(one.instance.clone());
                }
            }
        } else {
            let keys = server.keys.clone();
            outcome.updates.extend(keys.iter().filter_map(|key| self.let_go(key)));
        }
        outcome
    }

    /// Lets go of what was held for long enough, and of what requests found gone.
    pub(crate) fn look(&mut self, now: Instant) -> Outcome {
        let is_over = |one: &Vanished| {
            let server = one.instance.entry().url().and_then(|url| self.servers.get(url));
            one.until <= now || server.is_none_or(|server| server.upstream.rotation.is_lost())
        };
        let over: Vec<Key> = self
            .vanished
            .iter()
            .filter(|(_, one)| is_over(one))
            .map(|(key, _)| key.clone())
            .collect();
        let updates = over.iter().filter_map(|key| self.let_go(key)).collect();
        Outcome { updates, held: Vec::new() }
    }

    /// The servers that are to be asked now, those first that have waited longest. They count as
    /// asked.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Arc<Upstream>> {
        let asked = self.servers.values().filter(|server| server.ask_at.is_none()).count();
        let mut due: Vec<_> = self
            .servers
            .values_mut()
            .filter_map(|server| Some((server.ask_at.filter(|at| *at <= now)?, server)))
            .collect();
        due.sort_unstable_by_key(|(at, _)| *at);
        let mut ask = Vec::new();
        for (_, server) in due {
            // One that has just sent something need not be asked, but for the first time.
            let is_held = |key: &Key| self.vanished.get(key).is_some_and(|one| one.held);
            let is_known = server.keys.iter().all(is_held);
            if is_known && server.upstream.rotation.was_heard(ASK_AGAIN, now) {
                server.ask_at = Some(now + again());
            } else if asked + ask.len() < ASKED_AT_ONCE {
                server.ask_at = None;
                ask.push(server.upstream.clone());
            }
        }
        ask
    }
}

/// Spread, since all frontends ask the same servers.
pub(super) fn again() -> Duration {
    ASK_AGAIN.mul_f64(1.0 + fastrand::f64())
}

/// Whether two instances are one model of one namespace; their server is the same already.
fn same(one: &Instance, other: &Instance) -> bool {
    let namespace = |instance: &Instance| instance.entry().endpoint().namespace().clone();
    one.model() == other.model()
        && one.entry().url() == other.entry().url()
        && namespace(one) == namespace(other)
}
