//! Asking a server whether it answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::frontend::FrontendConfig;
use crate::proxy::connect::Connector;
use crate::proxy::probe::{Probe, probe};
use crate::upstream::Upstream;
use crate::worker_key::WorkerKey;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who asks.
#[cfg_attr(test, mockall::automock)]
pub(crate) trait Ask: Send + Sync + 'static {
    /// Asks one server; within a second it has answered or not.
    fn ask(&self, server: &Arc<Upstream>) -> BoxFuture<'static, Probe>;
}

/// Asks as the proxy does, on a connection of its own.
pub(crate) struct Prober {
    connector: Connector,
    worker_key: WorkerKey,
}

impl Prober {
    pub(crate) fn new(config: &FrontendConfig) -> Self {
        Self { connector: Connector::new(config), worker_key: config.worker_key.clone() }
    }
}

impl Ask for Prober {
    fn ask(&self, server: &Arc<Upstream>) -> BoxFuture<'static, Probe> {
        let (connector, key) = (self.connector.clone(), self.worker_key.header());
        let url = server.url.clone();
        async move { probe(&connector, &url, key, PATIENCE).await }.boxed()
    }
}
