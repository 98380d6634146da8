//! The servers of one model, as one reader of its view knows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dynamo_discovery::{Kind, Kinds};

use super::tenants::Tenants;
use super::upstream::Upstream;
use crate::meter::ModelSeries;
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

/// A server of the model, and the kinds that the model's instances serve there.
#[derive(Debug)]
struct Target {
    kinds: Kinds,
    upstream: Arc<Upstream>,
}

impl Lasting {
    pub(super) fn new(series: Arc<ModelSeries>) -> Self {
        Self { next: AtomicUsize::new(0), waiting: AtomicUsize::new(0), series }
    }
}

impl Targets {
    pub(super) fn new(model: &Model, tenants: &Tenants, lasting: Arc<Lasting>) -> Self {
        let mut targets: Vec<Target> = Vec::with_capacity(model.instances().len());
        let mut places = HashMap::with_capacity(model.instances().len());
        for instance in model.instances() {
            let Some(url) = instance.url() else { continue };
            // A worker that was killed and came back has two keys until the first lease ends.
            let servers = tenants.servers_of(instance.endpoint().namespace());
            let place = *places.entry((std::ptr::from_ref(servers), url)).or_insert_with(|| {
                targets.push(Target { kinds: Kinds::NONE, upstream: servers.at(url) });
                targets.len() - 1
            });
            targets[place].kinds |= instance.kinds();
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

    /// The servers of a kind, each once, always in the same order.
    pub(crate) fn upstreams(&self, kind: Kind) -> impl Iterator<Item = &Arc<Upstream>> {
        self.targets
            .iter()
            .filter(move |target| target.kinds.contains(kind))
            .map(|target| &target.upstream)
    }
}
