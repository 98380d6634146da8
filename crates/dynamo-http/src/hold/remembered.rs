//! What a source remembers of an earlier run, until it says itself what there is: pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dynamo_discovery::{Gone, Instance, Key, ModelUpdate, WorkerUrl};
use tokio::time::Instant;

use super::pace::{ASKED_AT_ONCE, again};
use crate::fleet::{Finding, Fleet, Upstream};

/// The instances that one source remembers. Each serves once its server has answered a probe.
pub(crate) struct Remembered {
    /// Those that serve.
    serving: BTreeMap<Key, Arc<Instance>>,
    /// The servers that have not answered.
    silent: HashMap<WorkerUrl, Server>,
    /// When to ask which of them; those that are asked now are not in it.
    due: BTreeSet<(Instant, WorkerUrl)>,
    /// How many of them were never asked to the end.
    untried: usize,
    /// What the source has told so far, which is not yet all that there is.
    told: Vec<ModelUpdate>,
}

/// A server that has not answered, with what serves once it does.
struct Server {
    upstream: Arc<Upstream>,
    instances: Vec<Arc<Instance>>,
    tried: bool,
}

impl Remembered {
    /// Those without a server that could be asked are left out.
    pub(crate) fn new(instances: Vec<Arc<Instance>>, now: Instant, fleet: &Fleet) -> Self {
        let mut silent: HashMap<WorkerUrl, Server> = HashMap::new();
        for instance in instances {
            let Some(url) = instance.entry().url().cloned() else { continue };
            let server = silent.entry(url).or_insert_with_key(|url| Server {
                upstream: fleet.server(url),
                instances: Vec::new(),
                tried: false,
            });
            server.instances.push(instance);
        }
        let due = silent.keys().map(|url| (now, url.clone())).collect();
        Self { serving: BTreeMap::new(), due, untried: silent.len(), silent, told: Vec::new() }
    }

    /// Whether no server is waited for.
    pub(crate) fn is_settled(&self) -> bool {
        self.silent.is_empty()
    }

    /// Whether every server was asked once and something serves.
    pub(crate) fn is_ready(&self) -> bool {
        self.untried == 0 && !self.serving.is_empty()
    }

    /// How many instances serve.
    pub(crate) fn serving(&self) -> usize {
        self.serving.len()
    }

    /// The servers that are to be asked now, those first that have waited longest, and no more than
    /// may be asked at one time. They count as asked.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Arc<Upstream>> {
        let asked = self.silent.len() - self.due.len();
        let mut ask = Vec::new();
        while asked + ask.len() < ASKED_AT_ONCE
            && let Some((_, url)) = self.due.first().filter(|(at, _)| *at <= now)
        {
            ask.extend(self.silent.get(url).map(|server| server.upstream.clone()));
            self.due.pop_first();
        }
        ask
    }

    /// Takes in what a server answered, and says what serves from now on.
    pub(crate) fn answered(
        &mut self,
        url: &WorkerUrl,
        finding: Finding,
        now: Instant,
    ) -> Vec<ModelUpdate> {
        let Some(server) = self.silent.get_mut(url) else { return Vec::new() };
        if !std::mem::replace(&mut server.tried, true) {
            self.untried -= 1;
        }
        if finding != Finding::Answers {
            // It may be starting: it is asked for as long as nobody knows better.
            self.due.insert((now + again(), url.clone()));
            return Vec::new();
        }
        let instances = self.silent.remove(url).map(|server| server.instances).unwrap_or_default();
        for one in &instances {
            self.serving.insert(one.key().clone(), one.clone());
        }
        instances.into_iter().map(ModelUpdate::Added).collect()
    }

    /// Takes in what the source says of what there is.
    pub(crate) fn note(&mut self, updates: &[ModelUpdate]) {
        self.told.extend_from_slice(updates);
    }

    /// The source has said what there is: what it said, as the switchboard must learn it, which
    /// knows what served so far.
    pub(crate) fn replaced(self) -> Vec<ModelUpdate> {
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
