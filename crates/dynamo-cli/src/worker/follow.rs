//! Follows an engine: what should be published now, from its health and its list of models.

use std::time::Duration;

use dynamo_discovery::ModelEntry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::health::{Health, Turn};
use super::offer::Offer;
use crate::engine::Engine;

/// How often an engine is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two probes of an engine that is not in service.
    pub(crate) waiting: Duration,
    /// Between two probes of one that is.
    pub(crate) probe: Duration,
    /// Between two looks at its models.
    pub(crate) models: Duration,
    /// How long it may be silent.
    pub(crate) silence: Duration,
}

impl Pace {
    pub(crate) fn new(silence: Duration) -> Self {
        Self {
            waiting: Duration::from_millis(500),
            probe: Duration::from_secs(2),
            models: Duration::from_secs(10),
            silence,
        }
    }
}

/// Keeps `wanted` at what should be published, for as long as it is polled: nothing while the
/// engine is out of service.
pub(crate) async fn follow(
    engine: impl Engine,
    offer: Offer,
    pace: Pace,
    wanted: watch::Sender<Vec<ModelEntry>>,
) {
    let mut health = Health::Out;
    let mut models = Models::Unread;
    let (mut waiting, mut listing) = (Said::default(), Said::default());
    loop {
        let began = Instant::now();
        let probe = engine.probe().await;
        match health.observe(&probe, Instant::now(), pace.silence) {
            Some(Turn::In) => {
                info!("the engine is healthy");
                waiting = Said::default();
            }
            Some(Turn::Out(why)) => {
                warn!(why, "the engine is out of service");
                models = Models::Unread;
                wanted.send_replace(Vec::new());
            }
            None => {}
        }
        let next = match health {
            Health::Out => {
                waiting.once(&probe.to_string(), |why| info!(why, "waiting for the engine"));
                pace.waiting
            }
            Health::In { .. } => {
                if models.due(began) {
                    models =
                        read_models(&engine, &offer, pace, models, &wanted, &mut listing).await;
                }
                pace.probe
            }
        };
        sleep_until(began + next).await;
    }
}

/// What is known of an engine's models.
#[derive(Clone, Copy, Debug)]
enum Models {
    Unread,
    Known { next: Instant },
}

impl Models {
    fn due(self, now: Instant) -> bool {
        match self {
            Self::Unread => true,
            Self::Known { next } => now >= next,
        }
    }
}

async fn read_models(
    engine: &impl Engine,
    offer: &Offer,
    pace: Pace,
    known: Models,
    wanted: &watch::Sender<Vec<ModelEntry>>,
    said: &mut Said,
) -> Models {
    let next = Models::Known { next: Instant::now() + pace.models };
    let entries = match (engine.models().await, known) {
        (Ok(listed), _) => {
            let entries = offer.entries(&listed);
            if entries.is_empty() {
                said.once("no models", |_| {
                    warn!("the engine lists no models; name them with --model");
                });
            } else {
                *said = Said::default();
            }
            entries
        }
        // What was read last stands.
        (Err(why), Models::Known { .. }) => {
            said.once(&why, |why| warn!(why, "cannot read the engine's models again"));
            return next;
        }
        (Err(why), Models::Unread) => match offer.entries_unlisted() {
            Some(entries) => entries,
            None => {
                said.once(&why, |why| {
                    warn!(why, "cannot read the engine's models; they can be named with --model");
                });
                return Models::Unread;
            }
        },
    };
    wanted.send_if_modified(|wanted| {
        let changed = *wanted != entries;
        *wanted = entries;
        changed
    });
    next
}

/// What was said last, so that it is not said every second.
#[derive(Default)]
struct Said(Option<String>);

impl Said {
    fn once(&mut self, what: &str, say: impl FnOnce(&str)) {
        if self.0.as_deref() != Some(what) {
            say(what);
            self.0 = Some(what.to_owned());
        }
    }
}
