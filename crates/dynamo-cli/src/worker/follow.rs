//! Follows an engine: what should be published now, from its health and its list of models.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use dynamo_discovery::ModelEntry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::health::{Health, Turn};
use super::offer::Offer;
use crate::echo::unix_now;
use crate::engine::{Engine, ListedModel, Load, Probe};

/// How often an engine is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two probes of an engine that is not in service.
    pub(crate) waiting: Duration,
    /// Between two probes of one that is.
    pub(crate) probe: Duration,
    /// Between two looks at its models.
    pub(crate) models: Duration,
    /// Before it is asked again for its load, when it did not tell.
    pub(crate) load_again: Duration,
    /// How long the engine may show no sign of life.
    pub(crate) silence: Duration,
}

impl Pace {
    pub(crate) fn new(silence: Duration) -> Self {
        Self {
            waiting: Duration::from_millis(500),
            probe: Duration::from_secs(2),
            models: Duration::from_secs(10),
            load_again: Duration::from_secs(30),
            silence,
        }
    }
}

/// What is known of an engine, as the control port shows it.
#[derive(Clone, Debug)]
pub(crate) struct EngineReport {
    pub(crate) health: Health,
    /// The names of all models that should be published, and of those that are adapters.
    pub(crate) models: Vec<String>,
    pub(crate) adapters: Vec<String>,
    /// None where the engine does not tell.
    pub(crate) load: Option<Load>,
    /// When it started, in unix seconds; see [`Start`].
    pub(crate) started: Option<u64>,
    /// How often it started anew while it was followed.
    pub(crate) restarts: u64,
    /// How many probes showed what, in the order of [`Probe::NAMES`].
    pub(crate) probes: [u64; Probe::NAMES.len()],
}

/// How a worker knows when its engine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It started the engine itself, at these unix seconds.
    Known(u64),
    /// It takes the first sign of life for the start.
    ///
    /// Either way a sign of life that follows a refused connection, or so many failures that the
    /// engine was taken out of service, is a new start.
    Seen,
}

impl Start {
    fn known(self) -> Option<u64> {
        match self {
            Self::Known(started) => Some(started),
            Self::Seen => None,
        }
    }
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
}

/// Keeps `wanted` equal to the entries that should be published, for as long as the future is
/// polled. While the engine is out of service, `wanted` is empty. `report` is what is known of the
/// engine.
pub(crate) async fn follow(
    engine: impl Engine,
    offer: Offer,
    pace: Pace,
    start: Start,
    wanted: watch::Sender<Vec<ModelEntry>>,
    report: watch::Sender<EngineReport>,
) -> Infallible {
    let mut health = Health::new(Instant::now());
    let mut listing = Listing::default();
    let mut life = Life::new(start);
    let mut waiting = Said::default();
    let mut load_due = Instant::now();
    loop {
        let began = Instant::now();
        let asks_load = health.in_service() && began >= load_due;
        let load = async { if asks_load { engine.load().await } else { None } };
        let (probe, load) = tokio::join!(engine.probe(), load);
        let now = Instant::now();
        if load.is_some() {
            health.hear(now);
        } else if asks_load && probe == Probe::Healthy {
            // An engine without such a page is not asked for it all the time.
            load_due = now + pace.load_again;
        }
        let turn = health.observe(&probe, now, pace.silence);
        life.observe(&probe, turn.as_ref(), unix_now());
        match turn {
            Some(Turn::In) => {
                info!("the engine is healthy");
                waiting = Said::default();
            }
            Some(Turn::Failed(why)) => out_of_service(&why, &mut listing, &wanted),
            Some(Turn::Silenced(span)) => {
                let why = format!("nothing was heard of it for {} s", span.as_secs());
                out_of_service(&why, &mut listing, &wanted);
            }
            None => {}
        }
        let next = if health.in_service() {
            // A silent engine would hold the next probe up.
            if listing.due(now) && !matches!(probe, Probe::Silent(_)) {
                read_models(&engine, &offer, pace, &mut health, &mut listing, &wanted).await;
            }
            pace.probe
        } else {
            waiting.once(&probe.to_string(), |why| info!(why, "waiting for the engine"));
            pace.waiting
        };
        report.send_modify(|report| {
            report.health = health.clone();
            report.models = wanted.borrow().iter().map(|entry| entry.name().to_owned()).collect();
            report.adapters = listing.adapters(&report.models);
            report.load = load.filter(|_| health.in_service());
            (report.started, report.restarts) = (life.started, life.restarts);
            report.probes[probe.index()] += 1;
        });
        sleep_until(began + next).await;
    }
}

fn out_of_service(why: &str, listing: &mut Listing, wanted: &watch::Sender<Vec<ModelEntry>>) {
    warn!(why, "the engine is out of service");
    *listing = Listing::default();
    wanted.send_replace(Vec::new());
}

/// When the engine started, as its probes show it.
#[derive(Debug)]
struct Life {
    started: Option<u64>,
    restarts: u64,
    was_seen: bool,
    /// Whether the next sign of life is that of another process.
    is_gone: bool,
}

impl Life {
    fn new(start: Start) -> Self {
        Self { started: start.known(), restarts: 0, was_seen: false, is_gone: false }
    }

    fn observe(&mut self, probe: &Probe, turn: Option<&Turn>, unix_now: u64) {
        if matches!(probe, Probe::Refused(_)) || matches!(turn, Some(Turn::Failed(_))) {
            self.is_gone = self.was_seen;
        } else if probe.shows_life() {
            self.was_seen = true;
            let again = std::mem::take(&mut self.is_gone);
            self.restarts += u64::from(again);
            self.started = match self.started {
                // Two starts within one second are two.
                Some(before) if again => Some(unix_now.max(before + 1)),
                Some(before) => Some(before),
                None => Some(unix_now),
            };
        }
    }
}

/// What is known of an engine's models.
#[derive(Debug, Default)]
struct Listing {
    /// As listed last, with those that are missing for the first time; none before the first list.
    known: Option<Vec<ListedModel>>,
    /// Which of the known were missing in the last list.
    missing: HashSet<String>,
    next: Option<Instant>,
    said: Said,
}

impl Listing {
    fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Takes in a list. A model that it lacks for the first time stays until a second list lacks it
    /// as well: engines list nothing for a moment while they exchange a model. Models keep their
    /// order, so that equal lists are equal.
    fn take(&mut self, listed: &[ListedModel]) {
        let mut fresh: HashMap<_, _> =
            listed.iter().map(|model| (model.name.as_str(), model)).collect();
        let (mut known, mut missing) = (Vec::new(), HashSet::new());
        for old in self.known.take().unwrap_or_default() {
            if let Some(model) = fresh.remove(old.name.as_str()) {
                known.push(model.clone());
            } else if !self.missing.contains(&old.name) {
                missing.insert(old.name.clone());
                known.push(old);
            }
        }
        known
            .extend(listed.iter().filter(|model| fresh.contains_key(model.name.as_str())).cloned());
        (self.known, self.missing) = (Some(known), missing);
    }

    /// Those of the published models that are adapters.
    fn adapters(&self, published: &[String]) -> Vec<String> {
        let known = self.known.iter().flatten().filter(|model| model.is_adapter);
        known.map(|model| model.name.clone()).filter(|name| published.contains(name)).collect()
    }
}

async fn read_models(
    engine: &impl Engine,
    offer: &Offer,
    pace: Pace,
    health: &mut Health,
    listing: &mut Listing,
    wanted: &watch::Sender<Vec<ModelEntry>>,
) {
    let listed = engine.models().await;
    let now = Instant::now();
    let entries = match listed {
        Ok(listed) => {
            health.hear(now);
            listing.take(&listed);
            let entries = offer.entries(listing.known.as_deref().unwrap_or_default());
            // A second look soon, where one is needed.
            let is_doubtful = entries.is_empty() || !listing.missing.is_empty();
            listing.next = Some(now + if is_doubtful { pace.probe } else { pace.models });
            if entries.is_empty() {
                listing.said.once("no models", |_| {
                    warn!("the engine lists no models; name them with --model");
                });
            } else {
                listing.said = Said::default();
            }
            entries
        }
        // The last list stays in use.
        Err(why) if listing.known.is_some() => {
            listing.next = Some(now + pace.models);
            listing.said.once(&why, |why| warn!(why, "cannot read the engine's models again"));
            return;
        }
        Err(why) => match offer.entries_unlisted() {
            Some(entries) => {
                listing.next = Some(now + pace.models);
                entries
            }
            None => {
                listing.said.once(&why, |why| {
                    warn!(why, "cannot read the engine's models; they can be named with --model");
                });
                return;
            }
        },
    };
    wanted.send_if_modified(|wanted| {
        let changed = *wanted != entries;
        *wanted = entries;
        changed
    });
}

/// The text of the last log line, so that the same line is not logged at each probe.
#[derive(Debug, Default)]
struct Said(Option<String>);

impl Said {
    fn once(&mut self, what: &str, say: impl FnOnce(&str)) {
        if self.0.as_deref() != Some(what) {
            say(what);
            self.0 = Some(what.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
