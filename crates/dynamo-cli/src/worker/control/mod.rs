//! The control port: what a worker says of itself and of its engine, and where it is told to drain.
//!
//! Frontends ask it whether the worker of an entry is still at that address. It answers from what
//! the worker's other parts found out before, so no answer waits for the engine or the store.

mod address;
mod metrics;
mod routes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use dynamo_discovery::{ControlUrl, InstanceId, InstanceStatus, WorkerState, WorkerUrl};
use dynamo_http::{KeyHash, ServeOptions, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::follow::EngineReport;
use super::register::{Offering, RegistrationReport};
use crate::failure::Failure;

/// What the user said about the control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlConfig {
    /// Address to listen on; none for the host of the advertised URL.
    pub(crate) host: Option<String>,
    /// Port to listen on; 0 for a free one.
    pub(crate) port: u16,
    /// Where frontends reach it; none for the address that it listens on.
    pub(crate) advertise_url: Option<ControlUrl>,
    /// The key of those who may drain; without it nobody may.
    pub(crate) key: Option<KeyHash>,
}

/// A control port that listens.
#[derive(Debug)]
pub(crate) struct Control {
    listener: TcpListener,
    /// Where frontends reach it.
    pub(crate) url: ControlUrl,
    key: Option<KeyHash>,
}

/// Everything that the control port tells, as it is now. A clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) instance: InstanceId,
    pub(crate) engine: watch::Receiver<EngineReport>,
    pub(crate) registration: watch::Receiver<RegistrationReport>,
    pub(crate) offering: watch::Sender<Offering>,
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
        Ok(listening.map(|(listener, url)| Self { listener, url, key: config.key }))
    }

    /// Serves for as long as it is polled: an end in order is to be seen as well.
    pub(crate) async fn serve(self, facts: Facts) {
        info!(url = %self.url, drains = self.key.is_some(), "the control port listens");
        // Nobody sends it more than a path and a key.
        let options = ServeOptions::default()
            .with_max_header_bytes(8 * 1024)
            .with_header_timeout(Duration::from_secs(5))
            .with_write_stall_timeout(Duration::from_secs(10))
            .with_max_streams(16);
        serve(self.listener, routes::router(facts, self.key), options, std::future::pending())
            .await;
    }
}

impl Facts {
    /// What the worker does.
    fn state(&self) -> WorkerState {
        match *self.offering.borrow() {
            Offering::Open if self.engine.borrow().models.is_empty() => WorkerState::Starting,
            Offering::Open => WorkerState::Serving,
            Offering::Drained | Offering::Stopping => WorkerState::Draining,
        }
    }

    /// Whether the worker offers models that frontends can know of. An outage of the store changes
    /// nothing.
    fn is_ready(&self) -> bool {
        self.state() == WorkerState::Serving && self.registration.borrow().models > 0
    }

    fn status(&self) -> InstanceStatus {
        let state = self.state();
        let engine = self.engine.borrow();
        let mut status = InstanceStatus::new(state, engine.health.state());
        status.silent_seconds = engine.health.silent_for(Instant::now()).as_secs();
        status.models.clone_from(&engine.models);
        status.adapters.clone_from(&engine.adapters);
        status.running = engine.load.map(|load| load.running);
        status.waiting = engine.load.map(|load| load.waiting);
        status.engine_started = engine.started;
        status
    }
}
