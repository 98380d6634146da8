//! One worker's server, and the set of those that are in use.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use dynamo_discovery::WorkerUrl;

use super::load::Load;
use super::pool::Pool;
use super::rotation::Rotation;
use super::terms::Terms;
use super::window::Recent;

/// A server. There is one for each URL, however many entries name it. Namespaces with terms of their
/// own have servers of their own: no connection that was made under the terms of one namespace
/// carries the request of another.
pub(crate) struct Upstream {
    pub(crate) url: WorkerUrl,
    pub(crate) terms: Arc<Terms>,
    /// Made for the first request: most of many servers may have none.
    pool: OnceLock<Box<Pool>>,
    pub(crate) load: Load,
    pub(crate) rotation: Rotation,
    /// Whether the upkeep looks after it, as it does for those that are used.
    pub(super) attended: AtomicBool,
}

impl Upstream {
    pub(crate) fn new(url: WorkerUrl, terms: Arc<Terms>) -> Self {
        Self {
            terms,
            pool: OnceLock::new(),
            load: Load::default(),
            rotation: Rotation::new(),
            attended: AtomicBool::new(false),
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

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Every server that someone uses under the same terms, by URL. It holds weak references: a server
/// stays for as long as a model's targets, a request or the keeper of held instances points at it.
pub(super) struct Servers {
    terms: Arc<Terms>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    servers: HashMap<WorkerUrl, Weak<Upstream>>,
    /// How many there were when the dead were last swept out.
    swept: usize,
}

impl Servers {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms: Arc::new(terms), known: Mutex::default() }
    }

    /// The terms of all of them.
    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// The servers in use.
    pub(super) fn all(&self) -> Vec<Arc<Upstream>> {
        self.lock().servers.values().filter_map(Weak::upgrade).collect()
    }

    /// The server at a URL.
    pub(super) fn at(&self, url: &WorkerUrl) -> Arc<Upstream> {
        let mut known = self.lock();
        if let Some(upstream) = known.servers.get(url).and_then(Weak::upgrade) {
            return upstream;
        }
        // Each time that as many came as there were.
        if known.servers.len() >= (known.swept * 2).max(64) {
            known.servers.retain(|_, upstream| upstream.strong_count() > 0);
            known.swept = known.servers.len();
        }
        let upstream = Arc::new(Upstream::new(url.clone(), self.terms.clone()));
        known.servers.insert(url.clone(), Arc::downgrade(&upstream));
        upstream
    }

    /// The server at a URL, if it is in use.
    pub(super) fn find(&self, url: &WorkerUrl) -> Option<Arc<Upstream>> {
        self.lock().servers.get(url).and_then(Weak::upgrade)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change to it is one call, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
