//! Who takes part, and what is done to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{EtcdConfig, EtcdStore, MODEL_ROOT_PATH};
use dynamo_tests::{Client, Cluster, Network, Program};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::plan::{Fault, Hand, KEYS};
use crate::record::{Ours, Truth};
use crate::script::{churn, entries, instance_of, instances_in, value, write};
use crate::traffic::{SECRET, Traffic};

/// The models of each worker.
pub const WORKERS: [&[&str]; 4] = [&["steady", "both"], &["both"], &["both", "alone"], &["steady"]];

/// One that sees all keys, and one that asks for its own.
pub const FRONTENDS: usize = 2;

/// Those of the frontends, of the workers, and of who records.
pub const NETWORKS: usize = FRONTENDS + 2;

/// What a worker says when its engine has a URL.
const LISTENS: &str = "the echo engine listens";

const MODELS: &[&str] = &["steady", "both", "alone"];

/// How long recovery may go without any progress, when everything is healed: leases end, workers
/// register again.
const SETTLED: Duration = Duration::from_secs(60);

pub struct Stage {
    cluster: Cluster,
    /// For each that has one, a way to each member.
    networks: Vec<[Network; 3]>,
    frontends: Vec<(Program, Client)>,
    workers: Vec<Option<Program>>,
    /// What writes for the scripts, and lists at the end, undisturbed.
    store: Arc<EtcdStore>,
    traffic: Arc<Traffic>,
    truth: Truth,
    ours: Ours,
    /// Ends what else is written.
    churn: Option<AbortHandle>,
    _neighbour: Program,
    tasks: JoinSet<()>,
}

impl Stage {
    /// Starts everyone, and returns when all is well.
    pub async fn set() -> Self {
        let cluster = Cluster::start().await;
        let direct: Vec<String> = (0..3).map(|node| cluster[node].endpoint().to_owned()).collect();
        let mut networks = Vec::new();
        for _ in 0..NETWORKS {
            let [a, b, c] = &direct[..] else { unreachable!("a cluster has three members") };
            networks.push([Network::to(a).await, Network::to(b).await, Network::to(c).await]);
        }
        let mut frontends = Vec::new();
        for (network, scope) in networks.iter().zip(["value", "key"]) {
            let arguments = ["--namespace", "team-a", "--watch-scope", scope];
            frontends.push(Program::frontend(&endpoints(network), &arguments, &[]).await);
        }
        let neighbour = ["--namespace", "team-b", "--model", SECRET];
        let neighbour = Program::worker(&endpoints(&networks[FRONTENDS]), &neighbour, &[]);
        let store = store_at(&direct.join(","));
        let (truth, ours, traffic) = (Truth::default(), Ours::default(), Arc::<Traffic>::default());

        let mut tasks = JoinSet::new();
        tasks.spawn(truth.clone().record(direct));
        let recorder = store_at(&endpoints(&networks[FRONTENDS + 1]));
        tasks.spawn(ours.clone().record(recorder, truth.clone()));
        let mut stage = Self {
            cluster,
            networks,
            frontends,
            workers: WORKERS.iter().map(|_| None).collect(),
            store,
            traffic,
            truth,
            ours,
            churn: None,
            _neighbour: neighbour,
            tasks,
        };
        for worker in 0..WORKERS.len() {
            stage.start_worker(worker).await;
        }
        stage.everyone_knows_the_same().await.expect("all is well at the beginning");
        stage.go();
        stage
    }

    /// Lets requests flow, and watches them.
    fn go(&mut self) {
        for (frontend, (_, client)) in self.frontends.iter().enumerate() {
            self.tasks.spawn(self.traffic.clone().look(frontend, client.clone()));
            for _ in 0..2 {
                self.tasks.spawn(self.traffic.clone().ask(frontend, client.clone(), MODELS));
            }
        }
        self.churn = Some(self.tasks.spawn(churn(self.store.clone())));
        let (store, traffic) = (self.store.clone(), self.traffic.clone());
        self.tasks.spawn(async move {
            loop {
                if let Ok(instances) = instances_in(&store).await {
                    traffic.store_has(&instances);
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    async fn start_worker(&mut self, worker: usize) {
        let models = WORKERS[worker].iter().flat_map(|model| ["--model", model]);
        let arguments: Vec<_> = ["--namespace", "team-a"].into_iter().chain(models).collect();
        let program = Program::worker(&endpoints(&self.networks[FRONTENDS]), &arguments, &[]);
        program.says(LISTENS).await;
        self.workers[worker] = Some(program);
        self.expect(worker);
    }

    /// Waits until a worker is registered; whose key it is, its value tells.
    fn expect(&mut self, worker: usize) {
        let Some(program) = &self.workers[worker] else { return };
        let url = program.logged(LISTENS)[0]["url"].clone();
        let (store, traffic) = (self.store.clone(), self.traffic.clone());
        let downs = traffic.downs(worker);
        self.tasks.spawn(async move {
            while traffic.downs(worker) == downs {
                if let Ok(entries) = entries(&store).await
                    && let Some((key, _)) = entries.iter().find(|(_, value)| value["url"] == url)
                {
                    traffic.worker_is_up(worker, instance_of(key).unwrap_or_default(), downs);
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// Does it, and undoes what must be undone.
    pub async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::KillNodes { first, count, time } => {
                let nodes = (first..first + count).map(|node| node % 3);
                nodes.clone().for_each(|node| self.cluster[node].kill());
                sleep(time).await;
                nodes.clone().for_each(|node| self.cluster[node].spawn());
                for node in nodes {
                    assert!(self.cluster[node].answers().await, "a member does not come back");
                }
            }
            Fault::PauseNodes { first, count, time } => {
                let nodes = (first..first + count).map(|node| node % 3);
                nodes.clone().for_each(|node| self.cluster[node].pause());
                sleep(time).await;
                nodes.for_each(|node| self.cluster[node].resume());
            }
            Fault::Compact => self.compact().await,
            Fault::Wipe => self.wipe().await,
            Fault::Network { whose, node, link, time } => {
                for (number, network) in self.networks[whose].iter().enumerate() {
                    if node.is_none_or(|node| node == number) {
                        network.set(link);
                    }
                }
                sleep(time).await;
                self.networks[whose].iter().for_each(Network::heal);
            }
            Fault::KillWorker { worker, time } => {
                self.traffic.worker_is_down(worker);
                self.workers[worker] = None;
                sleep(time).await;
                self.start_worker(worker).await;
            }
            Fault::StopWorker { worker } => {
                self.traffic.worker_is_down(worker);
                if let Some(mut program) = self.workers[worker].take() {
                    program.signal(Signal::TERM);
                    self.tasks.spawn(async move {
                        program.ended().await;
                    });
                }
                self.start_worker(worker).await;
            }
            Fault::PauseWorker { worker, time } => {
                let Some(program) = &self.workers[worker] else { return };
                self.traffic.worker_is_down(worker);
                program.signal(Signal::STOP);
                sleep(time).await;
                program.signal(Signal::CONT);
                self.expect(worker);
            }
            Fault::PauseFrontend { frontend, time } => {
                self.traffic.frontend_is_paused(frontend);
                self.frontends[frontend].0.signal(Signal::STOP);
                sleep(time).await;
                self.traffic.frontend_is_paused(frontend);
                self.frontends[frontend].0.signal(Signal::CONT);
            }
            Fault::Overwrite { key, how } => {
                let at = format!("{MODEL_ROOT_PATH}by-hand-{key}");
                match how {
                    Hand::Puts(created) => {
                        write(&self.store, &at, Some(value("team-a", "by-hand", created))).await;
                    }
                    Hand::Moves => write(&self.store, &at, Some(value("team-b", SECRET, 1))).await,
                    Hand::Spoils => write(&self.store, &at, Some("{\"name\":".to_owned())).await,
                    Hand::Deletes => write(&self.store, &at, None).await,
                }
            }
            Fault::Foreign { key, there } => {
                let namespace = ["team-b", "team-ab", "Team-A", "team-a-deadbeef"][key % 4];
                let model = format!("{SECRET}-{key}");
                let at = format!("{MODEL_ROOT_PATH}{namespace}/backend/generate/{key}/{model}");
                write(&self.store, &at, there.then(|| value(namespace, &model, 1))).await;
            }
            Fault::Bad { key } => {
                let bad = [
                    ("team-a/backend/generate/01/m", "{}"),
                    ("team-a/odd", "{}"),
                    ("team-a/backend/generate/7/m", "{\"name\":\"other\"}"),
                    ("bad-flat", "\u{202e}"),
                    ("team-b/odd", "{}"),
                    ("team-a/backend/generate/9/m", ""),
                ];
                let (key, value) = bad[key % KEYS];
                write(&self.store, &format!("{MODEL_ROOT_PATH}{key}"), Some(value.to_owned()))
                    .await;
            }
        }
    }

    /// Forgets what is recorded already: the record must have no gap.
    async fn compact(&self) {
        let compaction = json!({ "revision": self.truth.last().to_string(), "physical": true });
        for node in 0..3 {
            // It may be compacted up to there already.
            if self.cluster[node].ask("kv/compaction", &compaction).await.is_ok() {
                return;
            }
        }
    }

    async fn wipe(&mut self) {
        for worker in 0..WORKERS.len() {
            self.traffic.worker_is_down(worker);
        }
        let nodes = 0..3;
        nodes.clone().for_each(|node| self.cluster[node].wipe());
        self.truth.begin_another();
        nodes.clone().for_each(|node| self.cluster[node].spawn());
        for node in nodes {
            assert!(self.cluster[node].answers().await, "a member does not come back");
        }
        (0..WORKERS.len()).for_each(|worker| self.expect(worker));
    }

    /// Waits until everyone knows what there is, and that is all of the workers.
    pub async fn settle(&mut self) -> Vec<String> {
        if let Some(churn) = self.churn.take() {
            churn.abort();
        }
        Vec::from_iter(self.everyone_knows_the_same().await.err())
    }

    /// **L**, **G**, **W**.
    async fn everyone_knows_the_same(&self) -> Result<(), String> {
        let (mut seen, mut progress) = (BTreeSet::new(), Instant::now());
        loop {
            let mut why = String::new();
            match entries(&self.store).await {
                Err(error) => why = error.to_string(),
                Ok(entries) => {
                    for (frontend, flat) in [(0, true), (1, false)] {
                        let ours = entries.iter().filter(|(key, value)| {
                            value["endpoint"]["namespace"] == "team-a"
                                && (flat || key.starts_with("models/team-a/"))
                        });
                        let listed: BTreeSet<_> =
                            ours.filter_map(|(_, value)| value["name"].as_str()).collect();
                        let known = self.frontends[frontend].1.models().await;
                        if !known.iter().map(String::as_str).eq(listed.iter().copied()) {
                            why += &format!("frontend {frontend} has {known:?} of {listed:?}; ");
                        }
                        if MODELS.iter().any(|model| !listed.contains(model)) {
                            why += &format!("of the workers are registered {listed:?}; ");
                        }
                    }
                    let registered: BTreeSet<_> =
                        entries.iter().filter_map(|(key, _)| instance_of(key)).collect();
                    let up = self.workers.iter().flatten().count();
                    // The neighbour, and ghosts of the killed, may be there as well.
                    if registered.len() < up + 1 {
                        why += &format!("{} of {up} workers; ", registered.len());
                    }
                }
            }
            if why.is_empty() {
                return Ok(());
            }
            // What was never missing before, or is not missing any more, is progress.
            if seen.insert(why.clone()) {
                progress = Instant::now();
            } else if progress.elapsed() > SETTLED {
                return Err(format!("not settled, and no progress within {SETTLED:?}: {why}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Holds everything that was recorded against what must be.
    pub async fn check(&mut self, breaches: &mut Vec<String>) -> String {
        // Who asks, looks and records does so to the end.
        while let Some(ended) = self.tasks.try_join_next() {
            let panicked = ended.err().filter(JoinError::is_panic);
            breaches.extend(panicked.map(|error| format!("a task of ours failed: {error}")));
        }
        // Before the frontends end.
        self.tasks.shutdown().await;
        let serves = |worker: usize, model: &str| WORKERS[worker].contains(&model);
        let failed = self.traffic.check(serves, breaches);
        let (lists, batches) = self.ours.check(&self.truth, breaches);
        for (program, _) in &self.frontends {
            if let Some(line) = program.log().iter().find(|line| line.contains(SECRET)) {
                breaches.push(format!("a frontend logs of a neighbour: {line}"));
            }
        }
        let mut resyncs = Vec::new();
        for (_, client) in &self.frontends {
            resyncs.push(client.metric("dynamo_frontend_discovery_resyncs_total").await);
        }
        let requests = *self.traffic.requests.lock().unwrap();
        format!(
            "requests: {requests}, of which {failed} failed without a worker\n\
             recorded: {lists} lists, {batches} batches, {} stores\n\
             the frontends listed again {resyncs:?} times",
            self.truth.generation() + 1,
        )
    }
}

fn endpoints(network: &[Network; 3]) -> String {
    network.each_ref().map(Network::endpoint).join(",")
}

fn store_at(endpoints: &str) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::new(EtcdConfig::new(endpoints.split(','))).unwrap())
}
