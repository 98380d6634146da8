//! Follows an engine: what should be published now, from its health and its list of models.

use std::convert::Infallible;
use std::time::Duration;

use dynamo_discovery::ModelEntry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::health::{Health, Turn};
use super::life::{Life, Start};
use super::listing::Listing;
use super::offer::Offer;
use super::report::EngineReport;
use crate::echo::unix_now;
use crate::engine::{Engine, Probe};

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
    let (mut waiting, mut said) = (Said::default(), Said::default());
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
        report.send_modify(|report| {
            report.load = load.filter(|_| health.in_service());
            (report.started, report.restarts) = (life.started, life.restarts);
            report.probes[probe.index()] += 1;
            report.take(&health, &listing, &wanted.borrow());
        });
        let next = if health.in_service() {
            // A silent engine would hold the next probe up.
            if listing.due(now) && !matches!(probe, Probe::Silent(_)) {
                read_models(&engine, &offer, pace, &mut health, &mut listing, &mut said, &wanted)
                    .await;
                report.send_modify(|report| report.take(&health, &listing, &wanted.borrow()));
            }
            pace.probe
        } else {
            waiting.once(&probe.to_string(), |why| info!(why, "waiting for the engine"));
            pace.waiting
        };
        sleep_until(began + next).await;
    }
}

fn out_of_service(why: &str, listing: &mut Listing, wanted: &watch::Sender<Vec<ModelEntry>>) {
    warn!(why, "the engine is out of service");
    *listing = Listing::default();
    wanted.send_replace(Vec::new());
}

async fn read_models(
    engine: &impl Engine,
    offer: &Offer,
    pace: Pace,
    health: &mut Health,
    listing: &mut Listing,
    said: &mut Said,
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
                said.once("no models", |_| {
                    warn!("the engine lists no models; name them with --model");
                });
            } else {
                *said = Said::default();
            }
            entries
        }
        // The last list stays in use.
        Err(why) if listing.known.is_some() => {
            listing.next = Some(now + pace.models);
            said.once(&why, |why| warn!(why, "cannot read the engine's models again"));
            return;
        }
        Err(why) => match offer.entries_unlisted() {
            Some(entries) => {
                listing.next = Some(now + pace.models);
                entries
            }
            None => {
                said.once(&why, |why| {
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
