//! What one scope may see: models, instances, and which routes are open.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dynamo_discovery::{ByKey, Instance, Key, Kind, Kinds, WorkerUrl};
use dynamo_namespace::NamespaceScope;
use imbl::{OrdMap, OrdSet};

use crate::error::ApiError;
#[cfg(feature = "proxy")]
use crate::proxy::rotation::Out;
use crate::upstream::{Upstream, Upstreams};

/// All that a handler may see, at one moment.
///
/// Immutable: a handler that holds a view sees no route flap under it. Everything in it belongs to
/// its scope, and whatever shows models is written against a view, so it cannot show more.
#[derive(Clone)]
pub struct View {
    pub(crate) scope: NamespaceScope,
    pub(crate) ready: bool,
    pub(crate) models: OrdMap<Arc<str>, Arc<Model>>,
    /// How many of them serve each kind.
    pub(crate) of_kind: [usize; Kind::ALL.len()],
    pub(crate) instances: OrdSet<ByKey>,
    /// Those of them that the store has lost, and that serve because their servers answer.
    pub(crate) held: OrdSet<Key>,
}

impl View {
    /// A view in which nothing is.
    pub(crate) fn empty(scope: NamespaceScope) -> Self {
        Self {
            scope,
            ready: false,
            models: OrdMap::new(),
            of_kind: Default::default(),
            instances: OrdSet::new(),
            held: OrdSet::new(),
        }
    }

    /// Whose view it is.
    #[must_use]
    pub fn scope(&self) -> &NamespaceScope {
        &self.scope
    }

    /// Whether every source has told once what there is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether a model of this kind is there.
    #[must_use]
    pub fn is_open(&self, kind: Kind) -> bool {
        self.models_of(kind) > 0
    }

    /// The kinds of which a model is there.
    #[must_use]
    pub fn open_kinds(&self) -> Kinds {
        Kind::ALL.iter().copied().filter(|kind| self.is_open(*kind)).collect()
    }

    /// How many models serve a kind.
    #[must_use]
    pub fn models_of(&self, kind: Kind) -> usize {
        self.of_kind[index(kind)]
    }

    /// The model of this name, if an instance of it opens a route.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// The models that open a route, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// Every instance, by key; also those that open no route.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter().map(|one| &one.0)
    }

    /// Whether an instance is held: the store has lost it, but its server answers.
    #[must_use]
    pub fn is_held(&self, instance: &Instance) -> bool {
        self.held.contains(instance.key())
    }

    /// Why an instance's server is out of rotation, if it is.
    #[cfg(feature = "proxy")]
    pub(crate) fn out_of_rotation(&self, instance: &Instance) -> Option<Out> {
        // Whoever found it out may have come by another model or another view.
        let upstreams = &self.models.get(instance.model())?.upstreams;
        upstreams.find(instance.entry().url()?)?.rotation.out()
    }

    /// Lets a request for a route of this kind in, or says why not.
    ///
    /// # Errors
    ///
    /// 503 when the route is closed, or when it is not known yet whether it is.
    pub fn admit(&self, kind: Kind) -> Result<(), ApiError> {
        if self.is_open(kind) {
            Ok(())
        } else if self.ready {
            Err(ApiError::endpoint_disabled())
        } else {
            Err(ApiError::not_ready())
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("scope", &self.scope)
            .field("ready", &self.ready)
            .field("models", &self.models.len())
            .field("open", &self.open_kinds())
            .finish_non_exhaustive()
    }
}

pub(crate) fn index(kind: Kind) -> usize {
    (kind as u16).trailing_zeros() as usize
}

/// A model: what its instances in scope have in common.
#[derive(Debug)]
pub struct Model {
    name: Arc<str>,
    created: u64,
    kinds: Kinds,
    context_length: Option<u64>,
    instances: Box<[Arc<Instance>]>,
    /// Made for the first request: most of many models may have none.
    targets: OnceLock<Box<[Target]>>,
    upstreams: Upstreams,
    lasting: OnceLock<Arc<Lasting>>,
}

/// What a model keeps while its instances come and go.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    /// Whose turn it is.
    next: AtomicUsize,
    /// How many requests wait for a place at one of its servers.
    #[cfg(feature = "proxy")]
    pub(crate) waiting: AtomicUsize,
    #[cfg(feature = "proxy")]
    pub(crate) meter: crate::proxy::metrics::ModelMeter,
}

/// A server of the model, and what it serves.
#[derive(Debug)]
struct Target {
    kinds: Kinds,
    upstream: Arc<Upstream>,
}

impl Model {
    /// A model of these instances, which all open a route.
    ///
    /// What stays the same while instances come and go is taken over from `before`.
    pub(crate) fn new(
        name: Arc<str>,
        instances: Vec<Arc<Instance>>,
        before: Option<&Self>,
        now: u64,
        upstreams: Upstreams,
    ) -> Self {
        let entries = || instances.iter().map(|instance| instance.entry());
        let created = || entries().filter_map(|entry| entry.created()).min().unwrap_or(now);
        let in_use = upstreams.know(entries().filter_map(|entry| entry.url()));
        let model = Self {
            created: before.map_or_else(created, |before| before.created),
            kinds: instances.iter().fold(Kinds::NONE, |kinds, i| kinds.union(i.kinds())),
            context_length: entries().filter_map(|entry| entry.context_length()).min(),
            instances: instances.into(),
            targets: OnceLock::new(),
            upstreams,
            lasting: before.map_or_else(OnceLock::new, |before| before.lasting().clone().into()),
            name,
        };
        // What is known of a server that is in use is not to be forgotten with the view before.
        if in_use {
            model.targets();
        }
        model
    }

    fn targets(&self) -> &[Target] {
        self.targets.get_or_init(|| {
            let mut targets: Vec<Target> = Vec::with_capacity(self.instances.len());
            let mut places = HashMap::with_capacity(self.instances.len());
            for instance in &self.instances {
                let Some(url) = instance.entry().url() else { continue };
                // A worker that was killed and came back has two keys until the first lease ends.
                let place = *places.entry(url).or_insert_with(|| {
                    targets.push(Target { kinds: Kinds::NONE, upstream: self.upstreams.get(url) });
                    targets.len() - 1
                });
                targets[place].kinds = targets[place].kinds.union(instance.kinds());
            }
            targets.into()
        })
    }

    pub(crate) fn lasting(&self) -> &Arc<Lasting> {
        self.lasting.get_or_init(Arc::default)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// When it was created, in unix seconds: as registered, else when it was first seen. It stays
    /// the same for as long as the model is there.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.created
    }

    /// The kinds that any of its instances serves.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The smallest context length among its instances, in tokens.
    #[must_use]
    pub fn context_length(&self) -> Option<u64> {
        self.context_length
    }

    /// Its instances, by key.
    #[must_use]
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// Whether its instances disagree on what they serve or on the context length.
    ///
    /// None hides another: a request goes to those of its kind, and the list shows the smallest
    /// length.
    #[must_use]
    pub fn disagrees(&self) -> bool {
        let facts =
            |instance: &Arc<Instance>| (instance.kinds(), instance.entry().context_length());
        self.instances.windows(2).any(|pair| facts(&pair[0]) != facts(&pair[1]))
    }

    /// Where the model is served for a kind, each server once, beginning with the one whose turn it
    /// is: for those who bring their own proxy.
    pub fn urls(&self, kind: Kind) -> impl Iterator<Item = &WorkerUrl> {
        let targets = self.targets();
        let turn = self.turn().checked_rem(targets.len()).unwrap_or_default();
        let (before, from) = targets.split_at(turn);
        from.iter()
            .chain(before)
            .filter(move |target| target.kinds.contains(kind))
            .map(|target| &target.upstream.url)
    }

    /// A number that is higher each time.
    pub(crate) fn turn(&self) -> usize {
        self.lasting().next.fetch_add(1, Ordering::Relaxed)
    }

    /// The servers of a kind, each once, always in the same order.
    #[cfg(feature = "proxy")]
    pub(crate) fn upstreams(&self, kind: Kind) -> impl Iterator<Item = &Arc<Upstream>> {
        self.targets()
            .iter()
            .filter(move |target| target.kinds.contains(kind))
            .map(|target| &target.upstream)
    }
}
