//! The control port: what a worker says of itself and of its engine, and where it is told to drain.
//!
//! Frontends ask it whether the worker of an entry is still at that address. It answers from what
//! the worker's other parts found out before, so no answer waits for the engine or the store.

mod address;
mod config;
mod facts;
mod metrics;
mod routes;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::time::Duration;

use dynamo_discovery::{ControlUrl, WorkerUrl};
use dynamo_http::{ServeOptions, serve};
use tokio::net::TcpListener;
use tracing::info;

pub(crate) use self::config::{ControlConfig, ControlKey};
pub(crate) use self::facts::Facts;
use crate::failure::Failure;

/// How many connections it takes: a frontend has one for a moment. A crowd at the port must not take
/// the descriptors that the worker needs for its engine and its store.
const MOST_CONNECTIONS: usize = 256;
/// How many of them one address may have.
const MOST_OF_ADDRESS: usize = 64;
/// How long a connection may be idle.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A control port that listens.
#[derive(Debug)]
pub(crate) struct Control {
    listener: TcpListener,
    /// Where frontends reach it.
    pub(crate) url: ControlUrl,
    key: Option<ControlKey>,
}

impl Control {
    /// Listens. There is none where no address of this machine is advertised; a warning says so.
    ///
    /// # Errors
    ///
    /// When it cannot listen, or the address would be no [`ControlUrl`].
    pub(crate) async fn listen(
        config: &ControlConfig,
        advertised: &WorkerUrl,
    ) -> Result<Option<Self>, Failure> {
        let listening = address::listen(config, advertised).await?;
        let key = config.key.as_ref().map(|(_, key)| key.clone());
        Ok(listening.map(|(listener, url)| Self { listener, url, key }))
    }

    /// Serves for as long as it is polled: an end in order is to be seen as well.
    pub(crate) async fn serve(self, facts: Facts) {
        info!(url = %self.url, drains = self.key.is_some(), "the control port listens");
        // Nobody sends it more than a path and a key.
        let options = ServeOptions::default()
            .with_max_header_bytes(8 * 1024)
            .with_header_timeout(Duration::from_secs(5))
            .with_write_stall_timeout(Duration::from_secs(10))
            .with_keep_alive_timeout(KEEP_ALIVE)
            .with_max_connections(NonZeroUsize::new(MOST_CONNECTIONS))
            .with_max_connections_per_ip(NonZeroUsize::new(MOST_OF_ADDRESS))
            .with_max_streams(16);
        serve(self.listener, routes::router(facts, self.key), options, std::future::pending())
            .await;
    }
}
