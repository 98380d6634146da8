//! Workers' servers, each shared by all models that it serves.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
#[cfg(feature = "proxy")]
use std::sync::{OnceLock, atomic::AtomicBool};

use dynamo_discovery::WorkerUrl;

#[cfg(feature = "proxy")]
use crate::proxy::{load::Load, pool::Pool, rotation::Rotation};

/// A server that models point at. There is one for each URL, however many entries name it.
pub(crate) struct Upstream {
    pub(crate) url: WorkerUrl,
    /// Made for the first request: most of many servers may have none.
    #[cfg(feature = "proxy")]
    pool: OnceLock<Box<Pool>>,
    #[cfg(feature = "proxy")]
    pub(crate) load: Load,
    #[cfg(feature = "proxy")]
    pub(crate) rotation: Rotation,
    /// Whether the upkeep looks after it, as it does for those that are used.
    #[cfg(feature = "proxy")]
    pub(crate) attended: AtomicBool,
}

impl Upstream {
    pub(crate) fn new(url: WorkerUrl) -> Self {
        Self {
            #[cfg(feature = "proxy")]
            pool: OnceLock::new(),
            #[cfg(feature = "proxy")]
            load: Load::default(),
            #[cfg(feature = "proxy")]
            rotation: Rotation::new(),
            #[cfg(feature = "proxy")]
            attended: AtomicBool::new(false),
            url,
        }
    }

    /// Its idle connections.
    #[cfg(feature = "proxy")]
    pub(crate) fn pool(&self) -> &Pool {
        self.pool.get_or_init(|| Box::new(Pool::new(&self.url)))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Every server that a request has asked for, while a model that knows it is there: so it keeps its
/// connections and its standing. A clone is the same set.
#[derive(Clone, Default)]
pub(crate) struct Upstreams(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    servers: HashMap<WorkerUrl, Weak<Upstream>>,
    /// How many there were when the dead were last swept out.
    swept: usize,
}

impl Upstreams {
    /// The server at a URL.
    pub(crate) fn get(&self, url: &WorkerUrl) -> Arc<Upstream> {
        let mut known = self.lock();
        if let Some(upstream) = known.servers.get(url).and_then(Weak::upgrade) {
            return upstream;
        }
        // Each time that as many came as there were.
        if known.servers.len() >= (known.swept * 2).max(64) {
            known.servers.retain(|_, upstream| upstream.strong_count() > 0);
            known.swept = known.servers.len();
        }
        let upstream = Arc::new(Upstream::new(url.clone()));
        known.servers.insert(url.clone(), Arc::downgrade(&upstream));
        upstream
    }

    /// The server at a URL, if it is in use.
    #[cfg(feature = "proxy")]
    pub(crate) fn find(&self, url: &WorkerUrl) -> Option<Arc<Upstream>> {
        self.lock().servers.get(url).and_then(Weak::upgrade)
    }

    /// Whether any of these servers is in use.
    pub(crate) fn know<'a>(&self, mut urls: impl Iterator<Item = &'a WorkerUrl>) -> bool {
        let servers = &self.lock().servers;
        !servers.is_empty()
            && urls.any(|url| servers.get(url).is_some_and(|server| server.strong_count() > 0))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change to it is one call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}
