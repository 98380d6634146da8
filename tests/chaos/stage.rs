//! Who takes part, and what must hold for them in the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{Credentials, EtcdConfig, EtcdStore};
use dynamo_tests::{Answers, Client, Cluster, Network, Program, Prompt, ScriptedEngine, free_port};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::lodging::{LEASE, Strangers};
use crate::named::Named;
use crate::operator::USER;
use crate::record::{Ours, Truth};
use crate::script::{churn, entries, instance_at, instances_in};
use crate::traffic::{OURS, SECRET, Traffic};

/// The models of each worker.
pub const WORKERS: [&[&str]; 8] = [
    &["steady", "both"],
    &["both"],
    &["both", "alone"],
    &["steady"],
    &["lodger"],
    &["patient"],
    &["patient"],
    &["named", "both"],
];

/// How many of the workers, from the first on, have an engine in their own process.
pub const ECHOES: usize = 4;

/// The worker whose address others take over.
pub const LODGER: usize = 4;

/// The workers whose engines have long prefills.
const PATIENT: [usize; 2] = [5, 6];

/// The model of those.
pub const PATIENT_MODEL: &str = "patient";

/// The worker whose engine frontends reach by a name.
pub const NAMED: usize = 7;

/// The model that it alone has.
pub const NAMED_MODEL: &str = "named";

/// One that sees all keys, and one that asks for its own.
pub const FRONTENDS: usize = 2;

/// Those of the frontends, of the workers, and of who records.
pub const NETWORKS: usize = FRONTENDS + 2;

/// What a worker says when its engine has a URL.
const LISTENS: &str = "the echo engine listens";

/// The models that are asked for all the time.
const MODELS: &[&str] = &["steady", "both", "alone", "lodger", NAMED_MODEL];

/// What all programs are told of the etcd's users, which may be there or not.
pub const AS_USER: [(&str, &str); 2] = [("ETCD_AUTH_USERNAME", USER), ("ETCD_AUTH_PASSWORD", USER)];

/// What frontends are told besides: they log that a control port has answered.
const TELLS: (&str, &str) = ("DYN_LOG", "info,dynamo_http::fleet::attention=debug");

/// How long recovery may go without any progress, when everything is healed: leases end, workers
/// register again.
const SETTLED: Duration = Duration::from_secs(60);

/// A worker that runs.
pub struct Worker {
    pub program: Program,
    /// The URL of its engine, which its entries name.
    pub url: String,
    /// The engine, if it is no part of the worker.
    pub engine: Option<ScriptedEngine>,
    /// The port that frontends ask whether it is there, if it was chosen.
    pub control: u16,
}

pub struct Stage {
    pub cluster: Cluster,
    /// For each that has one, a way to each member.
    pub networks: Vec<[Network; 3]>,
    pub frontends: Vec<(Program, Client)>,
    pub workers: Vec<Option<Worker>>,
    pub strangers: Strangers,
    /// Where a name leads to; none where this machine lets nobody be a server of names.
    pub named: Option<Named>,
    /// What writes for the scripts, and lists at the end, undisturbed.
    pub store: Arc<EtcdStore>,
    pub traffic: Arc<Traffic>,
    pub truth: Truth,
    ours: Ours,
    /// Ends what else is written.
    churn: Option<AbortHandle>,
    _neighbour: Program,
    pub tasks: JoinSet<()>,
    /// Prompts with a long prefill that are not answered yet.
    pub prefills: JoinSet<()>,
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
        let named = Named::set().await;
        let resolves = named.as_ref().map(|named| named.resolv_conf().to_str().unwrap().to_owned());
        let variables = [&AS_USER[..], &[TELLS]].concat();
        let mut frontends = Vec::new();
        for (network, scope) in networks.iter().zip(["value", "key"]) {
            let mut arguments = vec!["--namespace", OURS, "--watch-scope", scope];
            arguments.extend(resolves.iter().flat_map(|path| ["--resolv-conf", path]));
            frontends.push(Program::frontend(&endpoints(network), &arguments, &variables).await);
        }
        let neighbour = ["--namespace", "team-b", "--model", SECRET];
        let neighbour = Program::worker(&endpoints(&networks[FRONTENDS]), &neighbour, &AS_USER);
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
            strangers: Strangers::default(),
            named,
            store,
            traffic,
            truth,
            ours,
            churn: None,
            _neighbour: neighbour,
            tasks,
            prefills: JoinSet::new(),
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

    pub async fn start_worker(&mut self, worker: usize) {
        let etcd = endpoints(&self.networks[FRONTENDS]);
        let started = if worker < ECHOES {
            let models = WORKERS[worker].iter().flat_map(|model| ["--model", model]);
            let arguments: Vec<_> = ["--namespace", OURS].into_iter().chain(models).collect();
            let program = Program::worker(&etcd, &arguments, &AS_USER);
            let url = program.says(LISTENS).await["url"].as_str().unwrap().to_owned();
            Worker { program, url, engine: None, control: 0 }
        } else if let Some(named) = self.named.as_ref().filter(|_| worker == NAMED) {
            Worker { program: named.follow(&etcd), url: named.url(), engine: None, control: 0 }
        } else {
            let address = ([127, 0, 0, 1], free_port()).into();
            let engine = ScriptedEngine::start_at(address, WORKERS[worker]).await;
            // As of SGLang, behind whatever is computed.
            engine.health(Answers::WhenIdle);
            let (url, control) = (engine.url(), free_port());
            let program = follow(&etcd, OURS, &url, control);
            Worker { program, url, engine: Some(engine), control }
        };
        self.workers[worker] = Some(started);
        self.expect(worker);
    }

    /// Waits until a worker is registered; whose key it is, its value tells.
    pub fn expect(&mut self, worker: usize) {
        let Some(Worker { url, .. }) = &self.workers[worker] else { return };
        let url = url.clone();
        let (store, traffic) = (self.store.clone(), self.traffic.clone());
        let downs = traffic.downs(worker);
        self.tasks.spawn(async move {
            while traffic.downs(worker) == downs {
                if let Some(instance) = instance_at(&store, &url).await {
                    traffic.worker_is_up(worker, &instance, downs);
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// The engines that have long prefills.
    pub fn patient(&self) -> impl Iterator<Item = &ScriptedEngine> {
        let workers = PATIENT.iter().filter_map(|worker| self.workers[*worker].as_ref());
        workers.filter_map(|worker| worker.engine.as_ref())
    }

    /// Waits until everyone knows what there is, and that is all of the workers.
    pub async fn settle(&mut self) -> Vec<String> {
        if let Some(churn) = self.churn.take() {
            churn.abort();
        }
        while self.prefills.join_next().await.is_some() {}
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
                            value["endpoint"]["namespace"] == OURS
                                && (flat || key.starts_with("models/team-a/"))
                        });
                        let listed: BTreeSet<_> =
                            ours.filter_map(|(_, value)| value["name"].as_str()).collect();
                        let known = self.frontends[frontend].1.models().await;
                        if !known.iter().map(String::as_str).eq(listed.iter().copied()) {
                            why += &format!("frontend {frontend} has {known:?} of {listed:?}; ");
                        }
                    }
                    let registered: BTreeSet<_> =
                        entries.iter().filter_map(|(_, value)| value["url"].as_str()).collect();
                    for (number, worker) in self.workers.iter().enumerate() {
                        let url = worker.as_ref().map(|worker| worker.url.as_str());
                        if !url.is_some_and(|url| registered.contains(url)) {
                            why += &format!("worker {number} is not registered; ");
                        }
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
        let astray = self.strangers.check(breaches);
        let prefills = self.check_prefills(breaches);
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
        // A run that tried nothing proves nothing.
        for (what, count) in [("request", requests), ("list", lists), ("batch", batches)] {
            if count == 0 {
                breaches.push(format!("no {what} was seen at all"));
            }
        }
        format!(
            "requests: {requests}, of which {failed} failed without a worker\n\
             prefills: {prefills}; prompts to strangers within the bound: {astray}\n\
             recorded: {lists} lists, {batches} batches, {} stores\n\
             the frontends listed again {resyncs:?} times",
            self.truth.generation() + 1,
        )
    }

    /// No prompt with a long prefill was sent twice. Returns how many there were.
    fn check_prefills(&self, breaches: &mut Vec<String>) -> usize {
        let mut sent: Vec<_> = self.patient().flat_map(ScriptedEngine::seen).collect();
        sent.sort_by(|one, other| (&one.text, one.at).cmp(&(&other.text, other.at)));
        let of_one = sent.chunk_by(|one: &Prompt, other| one.text == other.text);
        of_one.fold(0, |count, sends| {
            if let [first, .., last] = sends {
                let later = last.at - first.at;
                breaches.push(format!(
                    "{:?} was sent {} times, the last time {later:?} after the first",
                    first.text,
                    sends.len()
                ));
            }
            count + 1
        })
    }
}

/// Starts a worker of an engine that is there, with a control port at this port.
pub fn follow(etcd: &str, namespace: &str, url: &str, control: u16) -> Program {
    register(etcd, namespace, url, &["--control-port", &control.to_string()])
}

/// The same with flags for how it is reached.
pub fn register(etcd: &str, namespace: &str, url: &str, reached: &[&str]) -> Program {
    let arguments = [
        ["--etcd-endpoints", etcd],
        ["--namespace", namespace],
        ["--url", url],
        ["--lease-ttl", LEASE],
    ];
    Program::start("dynamo-worker", &[arguments.as_flattened(), reached].concat(), &AS_USER)
}

pub fn endpoints(network: &[Network; 3]) -> String {
    network.each_ref().map(Network::endpoint).join(",")
}

fn store_at(endpoints: &str) -> Arc<EtcdStore> {
    let config = EtcdConfig::new(endpoints.split(','));
    Arc::new(EtcdStore::new(config.with_credentials(Credentials::new(USER, USER))).unwrap())
}
