//! The servers that one front door uses, and which of them serve a model.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use dynamo_discovery::{Instance, WorkerUrl};
use dynamo_namespace::Namespace;
use imbl::OrdMap;
use tokio::time::Instant;

use super::attention::{Attention, GONE};
use super::claims::{Claim, Claimed};
use super::connect::Connector;
use super::rotation::Outage;
use super::standing::Out;
use super::targets::{Lasting, Targets};
use super::tenants::Tenants;
use super::terms::Terms;
use super::upstream::Upstream;
use crate::meter::{Metrics, WorkerSeries};
use crate::placement::{Placement, Seed};
use crate::view::{Lineage, LiveView, Model, WeakLiveView};

/// The servers that one front door uses. A clone is the same fleet.
///
/// A [`Frontend`](crate::Frontend) has one. A [`Feed`](crate::Feed) that holds instances asks their
/// servers by way of a front door's fleet.
#[derive(Clone, derive_more::Debug)]
#[debug("Fleet({} models)", _0.models.load().len())]
pub struct Fleet(pub(super) Arc<Shared>);

pub(super) struct Shared {
    connector: Connector,
    metrics: Arc<Metrics>,
    pub(super) tenants: Tenants,
    placement: Placement,
    /// The targets of models that were asked for.
    pub(super) models: ArcSwap<OrdMap<EntryKey, Entry>>,
    /// Held while `models` is replaced.
    renewing: Mutex<()>,
    attention: Attention,
}

/// What an entry is found by: the address of the model's lineage, and a namespace where only its instances
/// count. The weak reference in the entry keeps that address from being used again.
type EntryKey = (usize, Option<Namespace>);

/// The targets of one model in one view.
#[derive(Clone)]
pub(super) struct Entry {
    lineage: Weak<Lineage>,
    live: WeakLiveView,
    targets: Arc<Targets>,
}

impl Fleet {
    /// A fleet of which nothing is known yet. `probe_interval` is how long a server that sends
    /// nothing is left alone between two probes; none: there are no probes.
    pub(crate) fn new(
        connector: Connector,
        tenants: Tenants,
        probe_interval: Option<Duration>,
        metrics: Arc<Metrics>,
        placement: Placement,
    ) -> Self {
        Self(Arc::new(Shared {
            connector,
            tenants,
            attention: Attention::new(probe_interval, &metrics),
            metrics,
            placement,
            models: ArcSwap::default(),
            renewing: Mutex::default(),
        }))
    }

    /// What is known of the servers' caches.
    pub(crate) fn placement(&self) -> &Placement {
        &self.0.placement
    }

    /// How servers are connected to.
    pub(crate) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// The terms under which the workers of a namespace are reached.
    pub(super) fn terms_of(&self, namespace: &Namespace) -> &Arc<Terms> {
        self.0.tenants.servers_of(namespace).terms()
    }

    /// The servers in use.
    pub(crate) fn all_servers(&self) -> impl Iterator<Item = Arc<Upstream>> {
        self.0.tenants.all()
    }

    /// What requests share with the upkeep.
    pub(crate) fn attention(&self) -> &Attention {
        &self.0.attention
    }

    /// The server at a URL that an entry of a namespace names.
    pub(crate) fn server(&self, namespace: &Namespace, url: &WorkerUrl) -> Arc<Upstream> {
        self.0.tenants.servers_of(namespace).at(url)
    }

    /// The series of a server.
    pub(crate) fn series<'a>(&self, upstream: &'a Upstream) -> &'a Arc<WorkerSeries> {
        upstream.series.get_or_init(|| self.0.metrics.worker(upstream.url.as_str()))
    }

    /// Whether a server has series, since it had a request.
    pub(crate) fn has_series(&self, upstream: &Upstream) -> bool {
        upstream.series.get().is_some()
    }

    /// The label and the requests in flight of each server that has series.
    pub(crate) fn inflight(&self) -> Vec<(Arc<WorkerSeries>, usize)> {
        let used = |upstream: Arc<Upstream>| {
            Some((upstream.series.get()?.clone(), upstream.load.in_flight()))
        };
        self.all_servers().filter_map(used).collect()
    }

    /// What is known of a claim on a server. It is kept for as long as somebody refers to it.
    pub(crate) fn claimed(&self, claim: &Claim) -> Arc<Claimed> {
        let servers = self.0.tenants.servers_of(&claim.namespace);
        servers.claimed(&servers.at(&claim.url), claim)
    }

    /// The server of an instance, if it is in use.
    pub(crate) fn server_of(&self, instance: &Instance) -> Option<Arc<Upstream>> {
        let servers = self.0.tenants.servers_of(instance.endpoint().namespace());
        servers.find(instance.url()?)
    }

    /// Why an instance gets no request, if it gets none.
    pub(crate) fn out_of_rotation(&self, instance: &Instance) -> Option<Outage> {
        outage(&*self.server_of(instance)?, instance)
    }

    /// The servers of a model that a view shows; with a namespace, those that its instances name.
    pub(crate) fn targets(
        &self,
        live: &LiveView,
        model: &Model,
        namespace: Option<&Namespace>,
    ) -> Arc<Targets> {
        let key = key_of(model, namespace);
        match self.0.models.load().get(&key) {
            // A request that looked a moment earlier takes what one that looked later has found.
            Some(entry) if entry.targets.generation() >= model.generation() => {
                entry.targets.clone()
            }
            _ => self.renew(live, model, key),
        }
    }

    fn renew(&self, live: &LiveView, model: &Model, key: EntryKey) -> Arc<Targets> {
        let _renewing = self.0.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let models = self.0.models.load();
        let known = models.get(&key);
        if let Some(entry) = known.filter(|one| one.targets.generation() >= model.generation()) {
            return entry.targets.clone();
        }
        let namespace = key.1.as_ref();
        let lasting = match known {
            Some(entry) => entry.targets.lasting().clone(),
            None => {
                let scope = live.scope().to_string();
                let seed = Seed::of([scope.as_bytes(), model.name().as_bytes()]);
                let seed = namespace.map_or(seed, |name| seed.and(name.as_str().as_bytes()));
                let series = self.0.metrics.model(model.name());
                Arc::new(Lasting::new(series, self.0.placement.knowledge(), seed))
            }
        };
        let targets = Targets::new(model, namespace, &self.0.tenants, lasting, &self.0.metrics);
        let targets = Arc::new(targets);
        if let Some(before) = known {
            before.targets.forget_all_but(&targets);
        }
        let entry = Entry {
            lineage: Arc::downgrade(model.lineage()),
            live: live.downgrade(),
            targets: targets.clone(),
        };
        self.0.models.store(Arc::new(models.update(key, entry)));
        targets
    }

    /// Renews the targets whose model has changed since a request last asked for them, and drops
    /// those whose model is gone: else a server that has left would be kept, and probed, for ever.
    /// Notes the use of those that had requests, and which of their engines have started anew.
    pub(super) fn renew_all(&self) {
        let mut gone = Vec::new();
        let now = Instant::now();
        for (key, entry) in &**self.0.models.load() {
            let namespace = key.1.as_ref();
            let found = entry.live.upgrade().and_then(|live| {
                let model = live.load().model(entry.targets.name())?.clone();
                let is_same = std::ptr::eq(Arc::as_ptr(model.lineage()), entry.lineage.as_ptr());
                let is_there = is_same && !model.part(namespace).kinds.is_empty();
                is_there.then_some((live, model))
            });
            match found {
                Some((live, model)) => {
                    let targets = self.targets(&live, &model, namespace);
                    if targets.lasting().take_use() {
                        targets.claims().for_each(|claimed| claimed.note_use(now));
                        targets.note_starts();
                    }
                }
                None => gone.push(key.clone()),
            }
        }
        if !gone.is_empty() {
            let _renewing = self.0.renewing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut models = OrdMap::clone(&self.0.models.load());
            for key in gone {
                models.remove(&key);
            }
            self.0.models.store(Arc::new(models));
        }
    }
}

/// Why an instance of a server gets no request, if it gets none.
pub(crate) fn outage(upstream: &Upstream, instance: &Instance) -> Option<Outage> {
    let claimed = Claim::of(instance).and_then(|claim| upstream.claims.find(&claim));
    match claimed.and_then(|claimed| claimed.denied_for()) {
        Some(lasts) => Some(Outage { reason: GONE, lasts }),
        None => upstream.rotation.outage(),
    }
}

/// Every reason why an instance may get no request.
pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
    Out::ALL.into_iter().map(Out::name).chain([GONE])
}

fn key_of(model: &Model, namespace: Option<&Namespace>) -> EntryKey {
    (Arc::as_ptr(model.lineage()).addr(), namespace.cloned())
}
