//! The model and the worker of an answer, for middleware.

use std::fmt;
use std::sync::Arc;

use dynamo_discovery::WorkerUrl;

use crate::fleet::Upstream;

/// The model and the worker of an answer. Every response that a worker has sent carries this as an
/// extension, for middleware around a [`FrontendService`](crate::FrontendService). Clients never see it.
#[derive(Clone)]
pub struct Served {
    pub(super) model: Arc<str>,
    pub(super) worker: Arc<Upstream>,
}

impl Served {
    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The base URL of the worker.
    pub fn worker(&self) -> &WorkerUrl {
        &self.worker.url
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("model", &self.model).field("worker", &self.worker).finish()
    }
}
