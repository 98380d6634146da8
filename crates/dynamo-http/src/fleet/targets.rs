//! The servers of one model, as one reader of its view knows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dynamo_discovery::{Accepts, Kind, Kinds};

use super::upstream::{Servers, Upstream};
use crate::meter::{Metrics, ModelSeries, NamespaceSeries};
use crate::view::Model;

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
    series: Arc<ModelSeries>,
}

/// A server of the model, and what the model's instances there say of it.
#[derive(Debug)]
struct Target {
    kinds: Kinds,
    upstream: Arc<Upstream>,
    origin: Origin,
}

/// What the entries of a server say beside its kinds. Where several entries name the server, it is of
/// the namespace of the first of them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The tokens of the entry's namespace.
    pub(crate) tokens: Arc<NamespaceSeries>,
    /// The optional fields that all of the entries accept.
    pub(crate) accepts: Accepts,
}

impl Lasting {
    pub(super) fn new(series: Arc<ModelSeries>) -> Self {
        Self { next: AtomicUsize::new(0), waiting: AtomicUsize::new(0), series }
    }
}

impl Targets {
    pub(super) fn new(
        model: &Model,
        servers: &Servers,
        lasting: Arc<Lasting>,
        metrics: &Metrics,
    ) -> Self {
        let mut targets: Vec<Target> = Vec::with_capacity(model.instances().len());
        let mut places = HashMap::with_capacity(model.instances().len());
        for instance in model.instances() {
            let Some(url) = instance.url() else { continue };
            // A worker that was killed and came back has two keys until the first lease ends.
            let accepts = instance.entry().accepts();
            let place = *places.entry(url).or_insert_with(|| {
                let namespace = instance.endpoint().namespace().as_str();
                let tokens = metrics.namespace(&lasting.series, namespace);
                let origin = Origin { tokens, accepts };
                targets.push(Target { kinds: Kinds::NONE, upstream: servers.at(url), origin });
                targets.len() - 1
            });
            let target = &mut targets[place];
            target.kinds |= instance.kinds();
            target.origin.accepts = target.origin.accepts.intersection(accepts);
        }
        Self {
            name: model.shared_name().clone(),
            generation: model.generation(),
            targets: targets.into(),
            lasting,
        }
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

    /// A number that is higher each time.
    pub(crate) fn turn(&self) -> usize {
        self.lasting.next.fetch_add(1, Ordering::Relaxed)
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
        let target = self.targets.iter().find(|one| Arc::ptr_eq(&one.upstream, upstream))?;
        Some(&target.origin)
    }

    /// The servers of a kind, each once, always in the same order.
    pub(crate) fn upstreams(&self, kind: Kind) -> impl Iterator<Item = &Arc<Upstream>> {
        self.targets
            .iter()
            .filter(move |target| target.kinds.contains(kind))
            .map(|target| &target.upstream)
    }
}
