//! One worker's server, and the set of those that are in use.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dynamo_discovery::WorkerUrl;

use super::claims::{Claim, Claimed, Lanes};
use super::known::Known;
use super::load::Load;
use super::pool::Pool;
use super::rotation::Rotation;
use super::terms::Terms;
use super::window::Recent;
use crate::meter::WorkerSeries;
use crate::placement::Server;

/// A server. There is one for each URL, however many entries name it. Namespaces with terms of their
/// own have servers of their own: no connection that was made under the terms of one namespace
/// carries the request of another.
#[derive(derive_more::Debug)]
#[debug("{url:?}")]
pub(crate) struct Upstream {
    pub(crate) url: WorkerUrl,
    pub(crate) terms: Arc<Terms>,
    /// Made for the first request: most of many servers may have none.
    pool: OnceLock<Box<Pool>>,
    pub(crate) load: Load,
    pub(crate) rotation: Rotation,
    /// The claims of the entries that name it, as far as they can be asked about.
    pub(super) claims: Known<Claim, Claimed>,
    /// What placement knows of it: the prefill that it owes.
    pub(crate) placed: Arc<Server>,
    /// Whether the upkeep looks after it, as it does for those that are used.
    pub(super) attended: AtomicBool,
    /// Made for the first request.
    pub(super) series: OnceLock<Arc<WorkerSeries>>,
}

impl Upstream {
    pub(crate) fn new(url: WorkerUrl, terms: Arc<Terms>) -> Self {
        Self {
            terms,
            pool: OnceLock::new(),
            load: Load::default(),
            rotation: Rotation::new(),
            claims: Known::default(),
            placed: Arc::new(Server::new(url.as_str(), Instant::now())),
            attended: AtomicBool::new(false),
            series: OnceLock::new(),
            url,
        }
    }

    /// How often it failed lately.
    pub(crate) fn recent(&self) -> Recent {
        self.rotation.window().recent(self.load.begun())
    }

    /// Its idle connections.
    pub(crate) fn pool(&self) -> &Pool {
        self.pool.get_or_init(|| Box::new(Pool::new(&self.url, self.terms.clone())))
    }
}

/// Every server that someone uses under the same terms, and every control port that is asked. A server
/// stays for as long as a model's targets, a request or the keeper of held instances points at it.
pub(super) struct Servers {
    terms: Arc<Terms>,
    servers: Known<WorkerUrl, Upstream>,
    lanes: Lanes,
}

impl Servers {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms: Arc::new(terms), servers: Known::default(), lanes: Lanes::default() }
    }

    /// The terms of all of them.
    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// The servers in use.
    pub(super) fn all(&self) -> Vec<Arc<Upstream>> {
        self.servers.values()
    }

    /// The server at a URL.
    pub(super) fn at(&self, url: &WorkerUrl) -> Arc<Upstream> {
        self.servers.at(url, || Upstream::new(url.clone(), self.terms.clone()))
    }

    /// The server at a URL, if it is in use.
    pub(super) fn find(&self, url: &WorkerUrl) -> Option<Arc<Upstream>> {
        self.servers.find(url)
    }

    /// What is known of a claim on a server.
    pub(super) fn claimed(&self, upstream: &Upstream, claim: &Claim) -> Arc<Claimed> {
        upstream.claims.at(claim, || Claimed::new(claim.clone(), self.lanes.of(claim)))
    }
}
