//! Which model and which worker an answer comes from.

use std::fmt;
use std::sync::Arc;

use dynamo_discovery::WorkerUrl;

use crate::fleet::Upstream;

/// Where an answer comes from, for middleware around a [`FrontendService`](crate::FrontendService):
/// an extension of every response that a worker has sent. Clients never see it.
#[derive(Clone)]
pub struct Served {
    pub(super) model: Arc<str>,
    pub(super) worker: Arc<Upstream>,
}

impl Served {
    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The base URL of the worker.
    #[must_use]
    pub fn worker(&self) -> &WorkerUrl {
        &self.worker.url
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("model", &self.model).field("worker", &self.worker).finish()
    }
}
