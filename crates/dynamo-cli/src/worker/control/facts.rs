//! What a control port tells: what the worker's other parts know at this moment.

use dynamo_discovery::{InstanceId, InstanceStatus, WorkerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::certificates::Certificates;
use crate::worker::register::{Offering, RegistrationReport};
use crate::worker::report::EngineReport;

/// Everything that the control port tells, as it is now. A clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) instance: InstanceId,
    pub(crate) engine: watch::Receiver<EngineReport>,
    pub(crate) registration: watch::Receiver<RegistrationReport>,
    pub(crate) offering: watch::Sender<Offering>,
    pub(crate) certificates: Certificates,
}

impl Facts {
    /// What the worker does.
    pub(super) fn state(&self) -> WorkerState {
        match *self.offering.borrow() {
            Offering::Open if self.engine.borrow().models.is_empty() => WorkerState::Starting,
            Offering::Open => WorkerState::Serving,
            Offering::Drained | Offering::Stopping => WorkerState::Draining,
        }
    }

    /// Whether the worker offers models that frontends can know of. An outage of the store changes
    /// nothing.
    pub(super) fn is_ready(&self) -> bool {
        self.state() == WorkerState::Serving && self.registration.borrow().models > 0
    }

    /// The answer to a question for the worker's own instance.
    pub(super) fn status(&self) -> InstanceStatus {
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
