//! Follows an engine: derives the entries to publish from the engine's health and list of models.

use std::convert::Infallible;
use std::time::Duration;

use dynamo_discovery::ModelEntry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::health::{Health, Turn};
use super::offer::Offer;
use crate::engine::Engine;

/// The intervals at which an engine is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The interval between two probes of an engine that is out of service.
    pub(crate) waiting: Duration,
    /// The interval between two probes of an engine in service.
    pub(crate) probe: Duration,
    /// The interval between two reads of the engine's list of models.
    pub(crate) models: Duration,
    /// How long the engine may leave probes unanswered.
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

/// Keeps `wanted` equal to the entries that should be published, for as long as the future is
/// polled. While the engine is out of service, `wanted` is empty.
pub(crate) async fn follow(
    engine: impl Engine,
    offer: Offer,
    pace: Pace,
    wanted: watch::Sender<Vec<ModelEntry>>,
) -> Infallible {
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

/// Whether the engine's list of models was read, and when to read it again.
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
        // The last list stays in use.
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

/// The text of the last log line, so that the same line is not logged at each probe.
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::engine::{ListedModel, Probe};
    use crate::settings::static_worker::default_kinds;

    /// An engine whose answers the test sets.
    #[derive(Clone)]
    struct Fake(Arc<Mutex<Answers>>);

    struct Answers {
        probe: Probe,
        models: Result<Vec<ListedModel>, String>,
    }

    impl Fake {
        fn new() -> Self {
            Self(Arc::new(Mutex::new(Answers { probe: Probe::Loading, models: Ok(vec![]) })))
        }

        fn probes(&self, probe: Probe) {
            self.0.lock().unwrap().probe = probe;
        }

        fn lists(&self, names: &[&str]) {
            let listed = |name: &&str| ListedModel { name: (*name).into(), context_length: None };
            self.0.lock().unwrap().models = Ok(names.iter().map(listed).collect());
        }

        fn lists_nothing_readable(&self) {
            self.0.lock().unwrap().models = Err("not a list".into());
        }
    }

    impl Engine for Fake {
        async fn probe(&self) -> Probe {
            self.0.lock().unwrap().probe.clone()
        }

        async fn models(&self) -> Result<Vec<ListedModel>, String> {
            self.0.lock().unwrap().models.clone()
        }
    }

    fn start(named: &[&str]) -> (Fake, watch::Receiver<Vec<ModelEntry>>) {
        let engine = Fake::new();
        let offer = Offer {
            endpoint: "a.backend.generate".parse().unwrap(),
            url: "http://h:1".parse().unwrap(),
            kinds: default_kinds(),
            names: named.iter().map(|name| (*name).to_owned()).collect(),
            context_length: None,
            created: 1,
        };
        let (wanted, receiver) = watch::channel(Vec::new());
        let pace = Pace::new(Duration::from_secs(60));
        tokio::spawn(follow(engine.clone(), offer, pace, wanted));
        (engine, receiver)
    }

    /// Waits until these models are wanted.
    async fn until(wanted: &mut watch::Receiver<Vec<ModelEntry>>, names: &[&str]) {
        let those = |entries: &Vec<ModelEntry>| {
            entries.iter().map(ModelEntry::name).eq(names.iter().copied())
        };
        let waited = timeout(Duration::from_secs(600), wanted.wait_for(those)).await;
        waited.expect("in time").unwrap();
    }

    /// Lets this many seconds pass in small steps, and lets the other tasks run at each step.
    async fn pass(seconds: u64) {
        for _ in 0..seconds * 4 {
            advance(Duration::from_millis(250)).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn models_are_wanted_while_the_engine_is_healthy() {
        let (engine, mut wanted) = start(&[]);
        engine.lists(&["m"]);
        pass(3600).await;
        assert!(wanted.borrow().is_empty(), "an engine may load for as long as it takes");

        engine.probes(Probe::Healthy);
        until(&mut wanted, &["m"]).await;
        engine.probes(Probe::Failed("refused".into()));
        until(&mut wanted, &[]).await;
        engine.probes(Probe::Healthy);
        until(&mut wanted, &["m"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_only_busy_stays() {
        let (engine, mut wanted) = start(&["m"]);
        engine.probes(Probe::Healthy);
        until(&mut wanted, &["m"]).await;
        engine.probes(Probe::Silent("http://192.0.2.1:8001/health".into()));
        pass(50).await;
        assert_eq!(wanted.borrow().len(), 1);
        until(&mut wanted, &[]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn adapters_come_and_go() {
        let (engine, mut wanted) = start(&[]);
        engine.probes(Probe::Healthy);
        engine.lists(&["m"]);
        until(&mut wanted, &["m"]).await;
        engine.lists(&["m", "m-lora"]);
        until(&mut wanted, &["m", "m-lora"]).await;
        engine.lists(&["m-lora"]);
        until(&mut wanted, &["m-lora"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_last_stands_while_the_list_cannot_be_read() {
        let (engine, mut wanted) = start(&[]);
        engine.probes(Probe::Healthy);
        engine.lists_nothing_readable();
        pass(30).await;
        assert!(wanted.borrow().is_empty());
        engine.lists(&["m"]);
        until(&mut wanted, &["m"]).await;
        engine.lists_nothing_readable();
        wanted.mark_unchanged();
        pass(60).await;
        assert!(!wanted.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn named_models_need_no_list() {
        let (engine, mut wanted) = start(&["a", "b"]);
        engine.lists_nothing_readable();
        engine.probes(Probe::Healthy);
        until(&mut wanted, &["a", "b"]).await;
        engine.lists(&["default"]);
        wanted.mark_unchanged();
        pass(60).await;
        assert!(!wanted.has_changed().unwrap(), "the engine's own names are not taken");
    }
}
