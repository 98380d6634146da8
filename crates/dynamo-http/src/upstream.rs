//! One worker's server, shared by all models that it serves.

use std::fmt;

use dynamo_discovery::WorkerUrl;

#[cfg(feature = "proxy")]
use crate::proxy::pool::Pool;

/// A server that instances point at. There is one for each URL, however many entries name it.
pub(crate) struct Upstream {
    pub(crate) url: WorkerUrl,
    #[cfg(feature = "proxy")]
    pub(crate) pool: Pool,
}

impl Upstream {
    pub(crate) fn new(url: WorkerUrl) -> Self {
        Self {
            #[cfg(feature = "proxy")]
            pool: Pool::new(&url),
            url,
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}
