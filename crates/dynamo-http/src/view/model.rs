//! A model: the facts that its instances in one scope have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use dynamo_discovery::{Instance, Kind, Kinds, WorkerUrl};
use dynamo_namespace::Namespace;

/// A model: the facts that its instances in one scope have in common.
#[derive(Debug)]
pub struct Model {
    lineage: Arc<Lineage>,
    generation: u64,
    kinds: Kinds,
    context_length: Option<u64>,
    instances: Box<[Arc<Instance>]>,
    /// The facts about the instances of each namespace. They are made when somebody first asks, since
    /// only aliases that name a namespace do.
    parts: OnceLock<BTreeMap<Namespace, Part>>,
}

/// The facts that the instances of a model in one namespace have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// The kinds that any of the instances serves; none if there is no instance.
    pub(crate) kinds: Kinds,
    /// The smallest context length among the instances, in tokens.
    pub(crate) context_length: Option<u64>,
}

/// The facts that stay the same while a model's instances come and go.
///
/// All versions of one model in one view share it, and no other model does.
#[derive(Debug)]
pub(crate) struct Lineage {
    name: Arc<str>,
    created: u64,
}

impl Model {
    /// A model of these instances, which all open a route.
    ///
    /// It continues the lineage of `before`, the version that it replaces.
    pub(crate) fn new(
        name: Arc<str>,
        instances: Vec<Arc<Instance>>,
        before: Option<&Self>,
        now: u64,
    ) -> Self {
        let entries = || instances.iter().map(|instance| instance.entry());
        let lineage = before.map(|before| before.lineage.clone()).unwrap_or_else(|| {
            let created = entries().filter_map(|entry| entry.created()).min().unwrap_or(now);
            Arc::new(Lineage { name, created })
        });
        Self {
            lineage,
            generation: before.map_or(0, |before| before.generation + 1),
            kinds: instances.iter().fold(Kinds::NONE, |kinds, one| kinds | one.kinds()),
            context_length: entries().filter_map(|entry| entry.context_length()).min(),
            instances: instances.into(),
            parts: OnceLock::new(),
        }
    }

    /// The facts about the instances of a namespace; without a namespace, those about all instances.
    pub(crate) fn part(&self, namespace: Option<&Namespace>) -> Part {
        let Some(namespace) = namespace else {
            return Part { kinds: self.kinds, context_length: self.context_length };
        };
        let parts = self.parts.get_or_init(|| {
            let mut parts = BTreeMap::<Namespace, Part>::new();
            for instance in &self.instances {
                let part = parts.entry(instance.endpoint().namespace().clone()).or_default();
                part.kinds |= instance.kinds();
                let length = instance.entry().context_length();
                part.context_length = part.context_length.into_iter().chain(length).min();
            }
            parts
        });
        parts.get(namespace).copied().unwrap_or_default()
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.lineage.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.lineage.name
    }

    /// The facts that all versions of this model share.
    pub(crate) fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// The number of this version among those of its lineage.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The time of creation in unix seconds: the earliest one that an instance has registered, else
    /// the time at which the model was first seen. It stays the same for as long as the model is
    /// there.
    pub fn created(&self) -> u64 {
        self.lineage.created
    }

    /// The kinds that any of its instances serves.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The smallest context length among its instances, in tokens.
    pub fn context_length(&self) -> Option<u64> {
        self.context_length
    }

    /// Its instances, by key.
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// Whether its instances differ in their kinds or in their context lengths.
    ///
    /// No instance hides another instance: a request goes to an instance of its kind, and the list
    /// shows the smallest length.
    pub fn disagrees(&self) -> bool {
        let facts =
            |instance: &Arc<Instance>| (instance.kinds(), instance.entry().context_length());
        self.instances.windows(2).any(|pair| facts(&pair[0]) != facts(&pair[1]))
    }

    /// The base URLs of the servers that serve the model for a kind, each URL once, in the order of
    /// the instances' keys. A proxy of your own chooses whose turn it is.
    pub fn urls(&self, kind: Kind) -> impl Iterator<Item = &WorkerUrl> {
        let mut known = BTreeSet::new();
        self.instances
            .iter()
            .filter(move |instance| instance.kinds().contains(kind))
            .filter_map(|instance| instance.url())
            .filter(move |url| known.insert(url.as_str()))
    }
}
