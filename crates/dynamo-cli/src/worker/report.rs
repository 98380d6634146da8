//! What a worker knows of its engine.

use dynamo_discovery::ModelEntry;
use tokio::time::Instant;

use super::health::Health;
use super::life::Start;
use super::listing::Listing;
use crate::engine::{Load, Probe};

/// What is known of an engine, as the control port shows it.
#[derive(Clone, Debug)]
pub(crate) struct EngineReport {
    pub(crate) health: Health,
    /// The names of all models that should be published, and of those that are adapters.
    pub(crate) models: Vec<String>,
    pub(crate) adapters: Vec<String>,
    /// None where the engine does not tell.
    pub(crate) load: Option<Load>,
    /// When it started, in unix seconds; see [`Start`](super::life::Start).
    pub(crate) started: Option<u64>,
    /// How often it started anew while it was followed.
    pub(crate) restarts: u64,
    /// How many probes showed what, in the order of [`Probe::NAMES`].
    pub(crate) probes: [u64; Probe::NAMES.len()],
}

impl EngineReport {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            health: Health::new(Instant::now()),
            models: Vec::new(),
            adapters: Vec::new(),
            load: None,
            started: start.known(),
            restarts: 0,
            probes: [0; Probe::NAMES.len()],
        }
    }

    pub(super) fn take(&mut self, health: &Health, listing: &Listing, wanted: &[ModelEntry]) {
        self.health = health.clone();
        self.models = wanted.iter().map(|entry| entry.name().to_owned()).collect();
        self.adapters = listing.adapters(&self.models);
    }
}
