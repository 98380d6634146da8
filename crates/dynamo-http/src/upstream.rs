//! One worker's server, shared by all models that it serves.

use std::fmt;
#[cfg(feature = "proxy")]
use std::sync::{OnceLock, atomic::AtomicBool};

use dynamo_discovery::WorkerUrl;

#[cfg(feature = "proxy")]
use crate::proxy::{load::Load, pool::Pool, rotation::Rotation};

/// A server that instances point at. There is one for each URL, however many entries name it.
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
