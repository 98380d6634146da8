//! An engine, as its supervisor sees it: is it healthy, and which models does it serve?

mod client;
mod load;
mod models;
mod probe;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::WorkerUrl;
use dynamo_http::{Networks, Resolve, WorkerKey, WorkerTls};

pub(crate) use client::{Client, somebody_listens};
pub(crate) use load::Load;
pub(crate) use models::ListedModel;
pub(crate) use probe::Probe;

/// What one asks an engine. Tests script it.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Whether it is healthy.
    fn probe(&self) -> impl Future<Output = Probe> + Send;

    /// The models that it lists.
    ///
    /// # Errors
    ///
    /// In one line, why they could not be read.
    fn models(&self) -> impl Future<Output = Result<Vec<ListedModel>, String>> + Send;

    /// How many requests it has, or nothing where it does not say so in time.
    fn load(&self) -> impl Future<Output = Option<Load>> + Send {
        async { None }
    }
}

/// A probe that takes longer counts as silence. Some engines generate a token to answer one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// No probe waits for figures.
const LOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// An engine under load answers late.
const MODELS_TIMEOUT: Duration = Duration::from_secs(10);

/// An engine behind a URL.
#[derive(Clone, Debug)]
pub(crate) struct HttpEngine {
    client: Client,
}

impl HttpEngine {
    pub(crate) fn new(url: WorkerUrl, key: WorkerKey, tls: WorkerTls) -> Self {
        Self { client: Client::new(url, key, tls) }
    }
}

impl HttpEngine {
    /// The same engine, asked only at addresses in these networks, which this resolver finds.
    pub(crate) fn within(self, networks: Networks, resolver: Arc<dyn Resolve>) -> Self {
        Self { client: self.client.within(networks, resolver) }
    }
}

impl Engine for HttpEngine {
    async fn probe(&self) -> Probe {
        probe::probe(&self.client, PROBE_TIMEOUT).await
    }

    async fn models(&self) -> Result<Vec<ListedModel>, String> {
        models::read(&self.client, MODELS_TIMEOUT).await
    }

    async fn load(&self) -> Option<Load> {
        load::read(&self.client, LOAD_TIMEOUT).await
    }
}
