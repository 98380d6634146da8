//! Requests through the frontends, and whether one may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_tests::{Answer, Client};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Names that no frontend may ever show begin so.
pub const SECRET: &str = "secret";

/// The namespace of both frontends, with which all of their prompts begin.
pub const OURS: &str = "team-a";

/// What is asked at a frontend.
pub fn asks_at(frontend: usize) -> String {
    format!("{OURS} asks at frontend {frontend}")
}

/// What a model's worker is to a frontend: known, and able to answer, since when and until when.
#[derive(Debug)]
struct Spell {
    frontend: usize,
    worker: usize,
    from: Instant,
    to: Option<Instant>,
}

/// When a frontend lacked what it needs to reach workers: those of one model, or all.
struct Shortage {
    frontend: usize,
    model: Option<&'static str>,
    from: Instant,
    to: Option<Instant>,
}

impl Shortage {
    /// Whether it may be why a request was refused.
    fn covers(&self, failure: &Failure) -> bool {
        self.frontend == failure.frontend
            && self.model.is_none_or(|model| model == failure.model)
            && self.from <= failure.to
            && self.to.is_none_or(|to| to >= failure.from)
    }
}

/// A request that was not answered well.
struct Failure {
    frontend: usize,
    model: &'static str,
    from: Instant,
    to: Instant,
    answer: Answer,
}

/// Everything that the traffic told.
#[derive(Default)]
pub struct Traffic {
    spells: Mutex<Vec<Spell>>,
    /// The instance id of each worker that is up.
    up: Mutex<BTreeMap<usize, String>>,
    /// How often each worker went down.
    downs: Mutex<BTreeMap<usize, usize>>,
    failures: Mutex<Vec<Failure>>,
    shortages: Mutex<Vec<Shortage>>,
    pub requests: Mutex<usize>,
    pub breaches: Mutex<Vec<String>>,
}

impl Traffic {
    /// How often a worker went down so far.
    pub fn downs(&self, worker: usize) -> usize {
        self.downs.lock().unwrap().get(&worker).copied().unwrap_or(0)
    }

    /// A worker runs, under this instance id, unless it went down since.
    pub fn worker_is_up(&self, worker: usize, instance: &str, downs: usize) {
        let mut up = self.up.lock().unwrap();
        if self.downs(worker) == downs {
            up.insert(worker, instance.to_owned());
        }
    }

    /// From now on it may be unable to answer, or unknown.
    pub fn worker_is_down(&self, worker: usize) {
        let mut up = self.up.lock().unwrap();
        *self.downs.lock().unwrap().entry(worker).or_default() += 1;
        up.remove(&worker);
        self.close(|spell| spell.worker == worker);
    }

    /// From now on it may apply what it was told long ago.
    pub fn frontend_is_paused(&self, frontend: usize) {
        self.close(|spell| spell.frontend == frontend);
    }

    /// From now on a frontend lacks what it needs to reach the workers of a model, or of all models,
    /// or has it again: meanwhile it may say that it is overloaded, and nothing else.
    pub fn is_short(&self, frontend: usize, model: Option<&'static str>, short: bool) {
        let now = Instant::now();
        let mut shortages = self.shortages.lock().unwrap();
        if short {
            shortages.push(Shortage { frontend, model, from: now, to: None });
        } else {
            for shortage in shortages.iter_mut().filter(|one| one.frontend == frontend) {
                shortage.to.get_or_insert(now);
            }
        }
    }

    fn close(&self, which: impl Fn(&Spell) -> bool) {
        let now = Instant::now();
        for spell in self.spells.lock().unwrap().iter_mut().filter(|spell| which(spell)) {
            spell.to.get_or_insert(now);
        }
    }

    /// These instances are in the store no more: their workers are not owed to anyone.
    pub fn store_has(&self, instances: &BTreeSet<String>) {
        let up = self.up.lock().unwrap();
        self.close(|spell| up.get(&spell.worker).is_none_or(|id| !instances.contains(id)));
    }

    /// Looks at a frontend again and again: whom it knows, and whether it tells of a neighbour.
    pub async fn look(self: Arc<Self>, frontend: usize, client: Client) {
        loop {
            let began = Instant::now();
            let health = client.get("/health").await;
            for text in [&health, &client.get("/v1/models").await, &client.get("/metrics").await] {
                if text.body.contains(SECRET) || text.body.contains("team-b") {
                    let breach = format!("frontend {frontend} tells of a neighbour: {}", text.body);
                    self.breaches.lock().unwrap().push(breach);
                }
            }
            if client.chat(SECRET).await.status == 200 {
                self.breaches
                    .lock()
                    .unwrap()
                    .push(format!("frontend {frontend} serves a neighbour"));
            }
            self.knows(frontend, &health.json(), began);
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn knows(&self, frontend: usize, health: &Value, asked: Instant) {
        let instances = health["instances"].as_array().cloned().unwrap_or_default();
        let known: BTreeSet<_> =
            instances.iter().filter_map(|instance| instance["instance_id"].as_str()).collect();
        let up = self.up.lock().unwrap();
        let mut spells = self.spells.lock().unwrap();
        for (worker, id) in up.iter() {
            let open = spells.iter().any(|spell| {
                (spell.frontend, spell.worker) == (frontend, *worker) && spell.to.is_none()
            });
            // What came up while we asked is not yet known to be known.
            let closed_since = spells
                .iter()
                .any(|spell| spell.worker == *worker && spell.to.is_some_and(|to| to >= asked));
            if !open && !closed_since && known.contains(id.as_str()) {
                // It may be about to apply an older list.
                let from = Instant::now() + Duration::from_secs(2);
                spells.push(Spell { frontend, worker: *worker, from, to: None });
            }
        }
    }

    /// Asks for models without a pause.
    pub async fn ask(
        self: Arc<Self>,
        frontend: usize,
        client: Client,
        models: &'static [&'static str],
    ) {
        loop {
            for model in models {
                if !self.prompt(frontend, &client, model, &asks_at(frontend)).await {
                    sleep(Duration::from_millis(20)).await;
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Asks once, and returns whether it was answered well.
    pub async fn prompt(
        &self,
        frontend: usize,
        client: &Client,
        model: &'static str,
        text: &str,
    ) -> bool {
        let from = Instant::now();
        let answer = client.prompt(model, text).await;
        *self.requests.lock().unwrap() += 1;
        let well = answer.status == 200;
        if !well {
            let failure = Failure { frontend, model, from, to: Instant::now(), answer };
            self.failures.lock().unwrap().push(failure);
        }
        well
    }

    /// No request failed that had a live worker. Returns how many failed without one.
    ///
    /// `serves` says which workers serve a model. One that was lost to the store soon after is not
    /// counted on: the store may have said so to the frontend before it said so to us.
    pub fn check(&self, serves: impl Fn(usize, &str) -> bool, breaches: &mut Vec<String>) -> usize {
        const SOON: Duration = Duration::from_secs(8);
        breaches.append(&mut self.breaches.lock().unwrap());
        let spells = self.spells.lock().unwrap();
        let failures = self.failures.lock().unwrap();
        let shortages = self.shortages.lock().unwrap();
        for failure in failures.iter() {
            let short = shortages.iter().any(|shortage| shortage.covers(failure));
            if short && failure.answer.status == 503 && failure.answer.code() == "overloaded" {
                continue;
            }
            let owed = spells.iter().find(|spell| {
                spell.frontend == failure.frontend
                    && serves(spell.worker, failure.model)
                    && spell.from <= failure.from
                    && spell.to.is_none_or(|to| to > failure.to + SOON)
            });
            if let Some(spell) = owed {
                let Failure { frontend, model, from, to, answer } = failure;
                breaches.push(format!(
                    "frontend {frontend} failed a request for {model}, {:?} ago, after {:?}, though \
                     worker {} was there: {answer:?}",
                    from.elapsed(),
                    *to - *from,
                    spell.worker,
                ));
            }
        }
        failures.len()
    }
}
