//! The servers of one model, as one reader of its view knows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use dynamo_discovery::{Accepts, Instance, Kind, Kinds, RequestField};
use dynamo_namespace::Namespace;

use super::claims::{Claim, Claimed};
use super::tenants::Tenants;
use super::upstream::{Servers, Upstream};
use crate::meter::{Metrics, ModelSeries, NamespaceSeries};
use crate::placement::{Knowledge, Seed};
use crate::view::Model;

/// What a request needs of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) kind: Kind,
    /// An optional field without which the request must not be sent.
    pub(crate) field: Option<RequestField>,
}

impl From<Kind> for Need {
    fn from(kind: Kind) -> Self {
        Self { kind, field: None }
    }
}

/// The servers of one version of a model.
#[derive(Debug)]
pub(crate) struct Targets {
    name: Arc<str>,
    generation: u64,
    targets: Box<[Target]>,
    lasting: Arc<Lasting>,
}

/// What stays the same while a model's servers come and go.
#[derive(Debug)]
pub(crate) struct Lasting {
    /// Whose turn it is.
    next: AtomicUsize,
    /// How many requests wait for a place at one of the servers.
    pub(crate) waiting: AtomicUsize,
    /// Whether there was a request since this was last asked.
    used: AtomicBool,
    /// Whether it was told that no server accepts a field that requests need.
    told: AtomicBool,
    series: Arc<ModelSeries>,
    /// What the servers of the model have in their caches.
    knowledge: Arc<Knowledge>,
    /// The seed of prompts' paths: the scope and the model.
    seed: Seed,
}

/// A URL that the model's instances name.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) upstream: Arc<Upstream>,
    /// The instances that name it.
    entries: Box<[Named]>,
    origin: Origin,
}

/// An instance that names a server.
#[derive(Debug)]
struct Named {
    kinds: Kinds,
    /// What its control port says of it. None: it has none to be asked.
    claimed: Option<Arc<Claimed>>,
    /// The optional fields that it accepts.
    accepts: Accepts,
}

/// What the entries of a server say beside its kinds. Where several entries name the server, it is of
/// the namespace of the first of them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) namespace: Namespace,
    /// The tokens of the entry's namespace.
    pub(crate) tokens: Arc<NamespaceSeries>,
    /// The optional fields that all of the entries accept.
    pub(crate) accepts: Accepts,
}

impl Named {
    fn new(instance: &Instance, upstream: &Upstream, servers: &Servers) -> Self {
        let claim = Claim::of(instance);
        let claimed = claim.map(|claim| servers.claimed(upstream, &claim));
        Self { kinds: instance.kinds(), claimed, accepts: instance.entry().accepts() }
    }
}

impl Target {
    /// Whether the server is one for a kind: while an instance of the model names it for that, whose
    /// control port does not deny it.
    pub(super) fn serves(&self, kind: Kind) -> bool {
        let is_denied = |claimed: &Arc<Claimed>| claimed.identity().is_denied();
        self.entries
            .iter()
            .any(|one| one.kinds.contains(kind) && !one.claimed.as_ref().is_some_and(is_denied))
    }

    /// Whether the server may get a request of this need.
    fn meets(&self, need: Need) -> bool {
        let accepts = |field| self.origin.accepts.contains(field);
        need.field.is_none_or(accepts) && self.serves(need.kind)
    }

    /// The claims of the instances that name it.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Arc<Claimed>> {
        self.entries.iter().filter_map(|one| one.claimed.as_ref())
    }
}

impl Lasting {
    pub(super) fn new(series: Arc<ModelSeries>, knowledge: Arc<Knowledge>, seed: Seed) -> Self {
        Self {
            next: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            told: AtomicBool::new(false),
            series,
            knowledge,
            seed,
        }
    }

    /// Whether there was a request since this was last asked.
    pub(super) fn take_use(&self) -> bool {
        self.used.load(Relaxed) && self.used.swap(false, Relaxed)
    }
}

impl Targets {
    /// The servers that the instances of a model name; with a namespace, only its instances count.
    pub(super) fn new(
        model: &Model,
        namespace: Option<&Namespace>,
        tenants: &Tenants,
        lasting: Arc<Lasting>,
        metrics: &Metrics,
    ) -> Self {
        let mut named: Vec<(Arc<Upstream>, Origin, Vec<Named>)> =
            Vec::with_capacity(model.instances().len());
        let mut places = HashMap::with_capacity(model.instances().len());
        let counts =
            |one: &&Arc<Instance>| namespace.is_none_or(|name| one.endpoint().namespace() == name);
        for instance in model.instances().iter().filter(counts) {
            let Some(url) = instance.url() else { continue };
            // A worker that was killed and came back has two keys until the first lease ends.
            let namespace = instance.endpoint().namespace();
            let servers = tenants.servers_of(namespace);
            let place = *places.entry((std::ptr::from_ref(servers), url)).or_insert_with(|| {
                let tokens = metrics.namespace(&lasting.series, namespace.as_str());
                let (namespace, accepts) = (namespace.clone(), Accepts::default());
                let origin = Origin { namespace, tokens, accepts };
                named.push((servers.at(url), origin, Vec::new()));
                named.len() - 1
            });
            let (upstream, _, entries) = &mut named[place];
            entries.push(Named::new(instance, upstream, servers));
        }
        let targets = named
            .into_iter()
            .map(|(upstream, origin, entries)| {
                let all = entries.iter().map(|one| one.accepts);
                let accepts = all.reduce(Accepts::intersection).unwrap_or_default();
                let origin = Origin { accepts, ..origin };
                Target { upstream, entries: entries.into(), origin }
            })
            .collect();
        Self { name: model.shared_name().clone(), generation: model.generation(), targets, lasting }
    }

    /// The model's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version of the model whose servers these are.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn lasting(&self) -> &Arc<Lasting> {
        &self.lasting
    }

    /// The model's metrics.
    pub(crate) fn series(&self) -> &Arc<ModelSeries> {
        &self.lasting.series
    }

    /// A request looks for a server of the model.
    pub(crate) fn note_use(&self) {
        if !self.lasting.used.load(Relaxed) {
            self.lasting.used.store(true, Relaxed);
        }
    }

    /// The claims of all instances of the model.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Arc<Claimed>> {
        self.targets.iter().flat_map(Target::claims)
    }

    /// What the servers of the model have in their caches, as this scope knows.
    pub(crate) fn knowledge(&self) -> &Knowledge {
        &self.lasting.knowledge
    }

    /// The seed of prompts' paths.
    pub(crate) fn seed(&self) -> Seed {
        self.lasting.seed
    }

    /// Forgets the caches of servers that serve the model no longer. An engine that comes back has
    /// begun anew.
    pub(super) fn forget_all_but(&self, now: &Self) {
        let stays =
            |one: &Target| now.targets.iter().any(|now| Arc::ptr_eq(&now.upstream, &one.upstream));
        for gone in self.targets.iter().filter(|target| !stays(target)) {
            self.knowledge().forget(&gone.upstream.placed);
        }
    }

    /// Forgets the caches of engines that have started anew, as their workers' control ports say. Where
    /// several workers name one server, the latest start counts.
    pub(super) fn note_starts(&self) {
        for target in &self.targets {
            let starts = target.claims().filter_map(|claimed| claimed.engine_started());
            if let Some(started) = starts.max() {
                self.knowledge().engine_started(&target.upstream.placed, started);
            }
        }
    }

    /// A number that is higher each time.
    pub(crate) fn turn(&self) -> usize {
        self.lasting.next.fetch_add(1, Relaxed)
    }

    /// Whether a server of the model fails at least twice as often as the model's other servers
    /// together. Where all fail alike the requests are at fault, and where there is no other server
    /// nothing tells the two apart.
    pub(crate) fn stands_out(&self, upstream: &Arc<Upstream>) -> bool {
        let others = || {
            let all = self.targets.iter().map(|target| &target.upstream);
            all.filter(|other| !Arc::ptr_eq(other, upstream))
        };
        others().next().is_some()
            && upstream.recent().stands_out(others().map(|other| other.recent()).sum())
    }

    /// What the entries of one of the model's servers say. It is found by a search, as the server is
    /// chosen by one.
    pub(crate) fn origin(&self, upstream: &Arc<Upstream>) -> Option<&Origin> {
        self.target(upstream).map(|target| &target.origin)
    }

    /// The servers of a kind, each once, always in the same order. A server that its workers' control
    /// ports deny is none of them, nor is one that does not accept a needed field.
    pub(crate) fn upstreams(&self, need: impl Into<Need>) -> impl Iterator<Item = &Arc<Upstream>> {
        let need = need.into();
        self.targets.iter().filter(move |target| target.meets(need)).map(|target| &target.upstream)
    }

    /// Whether this is the first call for the model: what is told of it once.
    pub(crate) fn is_to_be_told(&self) -> bool {
        !self.lasting.told.swap(true, Relaxed)
    }

    /// A server among these, whether its workers' control ports deny it or not.
    pub(super) fn target(&self, upstream: &Arc<Upstream>) -> Option<&Target> {
        self.targets.iter().find(|target| Arc::ptr_eq(&target.upstream, upstream))
    }

    /// Whether a server is one for a kind. It may have been denied since it was chosen.
    pub(crate) fn has(&self, upstream: &Arc<Upstream>, need: impl Into<Need>) -> bool {
        self.target(upstream).is_some_and(|target| target.meets(need.into()))
    }

    /// Whether a worker of a server answers. That is a sign of life of the server.
    pub(crate) fn worker_answers(&self, upstream: &Arc<Upstream>) -> bool {
        let claims = self.target(upstream).into_iter().flat_map(Target::claims);
        claims.into_iter().any(|claimed| claimed.identity().is_confirmed())
    }
}
