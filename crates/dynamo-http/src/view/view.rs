//! Everything that one scope may see: models, instances, and the kinds that are open.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dynamo_discovery::{ByKey, Instance, Key, Kind, Kinds};
use dynamo_namespace::{Namespace, NamespaceScope};
use imbl::{OrdMap, OrdSet};

use super::departed::Departed;
use super::model::Model;

/// Everything that one scope sees at one moment.
///
/// A view is immutable: a handler that holds a view sees no route open or close under it.
/// Everything in a view belongs to its scope. Lists and pages are made from a view, so they cannot
/// show more.
#[derive(Clone, derive_more::Debug)]
#[debug("View {{ scope: {scope:?}, ready: {ready}, models: {}, open: {:?} }}", models.len(), self.open_kinds())]
pub struct View {
    pub(super) scope: NamespaceScope,
    /// The number of this publication. It orders the views of one scope.
    pub(super) generation: u64,
    pub(super) ready: bool,
    pub(super) models: OrdMap<Arc<str>, Arc<Model>>,
    /// How many models serve each kind.
    pub(super) of_kind: [usize; Kind::ALL.len()],
    pub(super) instances: OrdSet<ByKey>,
    /// When each kind opened or closed last, in unix seconds; at first, when the view was made.
    pub(super) since: [u64; Kind::ALL.len()],
    /// The keys of the instances that serve although the store has lost them, and since when, in unix
    /// seconds.
    pub(super) held: OrdMap<Key, u64>,
    /// The models that were here a short while ago.
    pub(super) departed: Departed,
}

impl View {
    /// A view without models.
    pub(crate) fn empty(scope: NamespaceScope) -> Self {
        Self {
            scope,
            generation: 0,
            ready: false,
            models: OrdMap::new(),
            of_kind: Default::default(),
            instances: OrdSet::new(),
            since: [unix_now(); Kind::ALL.len()],
            held: OrdMap::new(),
            departed: Departed::default(),
        }
    }

    /// The scope whose view this is.
    pub fn scope(&self) -> &NamespaceScope {
        &self.scope
    }

    /// Whether every source has delivered its first list.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether the view has a model of this kind.
    pub fn is_open(&self, kind: Kind) -> bool {
        self.models_of(kind) > 0
    }

    /// The kinds of the models in the view.
    pub fn open_kinds(&self) -> Kinds {
        Kind::ALL.iter().copied().filter(|kind| self.is_open(*kind)).collect()
    }

    /// Since when the kind is as it is, open or closed, in unix seconds. A kind that never opened is
    /// closed since the view was made.
    pub fn since(&self, kind: Kind) -> u64 {
        self.since[index(kind)]
    }

    /// How many models serve a kind.
    pub fn models_of(&self, kind: Kind) -> usize {
        self.of_kind[index(kind)]
    }

    /// The model of this name, if an instance of it opens a route.
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// The models that open a route, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// All instances by key, also those that open no route.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter().map(|one| &one.0)
    }

    /// How many instances there are.
    #[cfg(feature = "proxy")]
    pub(crate) fn size(&self) -> usize {
        self.instances.len()
    }

    /// Whether an instance of a model is in doubt: the store has lost it, and it gets no request
    /// until its worker has proven to be there. With a namespace, only its instances count.
    pub(crate) fn is_in_doubt(&self, model: &Model, namespace: Option<&Namespace>) -> bool {
        let counts =
            |one: &Instance| namespace.is_none_or(|name| one.endpoint().namespace() == name);
        !self.held.is_empty()
            && model
                .instances()
                .iter()
                .any(|one| one.url().is_none() && counts(one) && self.is_held(one))
    }

    /// Whether an instance is held: the store has lost it, but its server answers.
    pub fn is_held(&self, instance: &Instance) -> bool {
        self.held.contains_key(instance.key())
    }

    /// Since when an instance is held, in unix seconds; `None` if it is not.
    pub fn held_since(&self, instance: &Instance) -> Option<u64> {
        self.held.get(instance.key()).copied()
    }
}

/// The time in unix seconds.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The place of a kind in [`View::of_kind`].
pub(super) fn index(kind: Kind) -> usize {
    (kind as u16).trailing_zeros() as usize
}
