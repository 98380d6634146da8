//! What is done to those who take part, and how it is undone.

use std::time::Duration;

use dynamo_discovery::MODEL_ROOT_PATH;
use dynamo_tests::{Network, Program, ScriptedEngine, soon};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::lodging::{ASKED, Bound, STRANGE};
use crate::operator;
use crate::plan::{Fault, Hand, KEYS};
use crate::script::{value, write};
use crate::stage::{FRONTENDS, LODGER, PATIENT_MODEL, Stage, WORKERS, endpoints, follow};
use crate::traffic::{OURS, SECRET};

/// How many connections say nothing while a frontend has no descriptors.
const SILENT: usize = 100;

/// How many descriptors are left to it at first.
const LEFT: u64 = 10;

impl Stage {
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
                if let Some(mut worker) = self.workers[worker].take() {
                    worker.program.signal(Signal::TERM);
                    self.tasks.spawn(async move {
                        worker.program.ended().await;
                    });
                }
                self.start_worker(worker).await;
            }
            Fault::PauseWorker { worker, time } => {
                let Some(paused) = &self.workers[worker] else { return };
                self.traffic.worker_is_down(worker);
                paused.program.signal(Signal::STOP);
                sleep(time).await;
                paused.program.signal(Signal::CONT);
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
                        write(&self.store, &at, Some(value(OURS, "by-hand", created))).await;
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
            Fault::ReuseAddress { registered } => self.reuse_address(registered).await,
            Fault::NoSpace { node, time } => {
                operator::switch_no_space(self.cluster[node].endpoint(), true).await;
                sleep(time).await;
                operator::switch_no_space(self.cluster[node].endpoint(), false).await;
            }
            Fault::Auth { node, time } => {
                operator::switch_auth(self.cluster[node].endpoint(), true).await;
                sleep(time).await;
                operator::switch_auth(self.cluster[node].endpoint(), false).await;
            }
            Fault::Descriptors { frontend, time } => self.use_up(frontend, time).await,
            Fault::StallLog { whose, time } => {
                let Some(program) = self.program(whose) else { return };
                program.stall_log().await;
                sleep(time).await;
                program.read_log();
            }
            Fault::Prefill { frontend, time } => self.prefill(frontend, time),
            Fault::Name { how, time } => self.rename(how, time).await,
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

    /// A program by its number: first the frontends, then the workers.
    fn program(&self, whose: usize) -> Option<&Program> {
        match self.frontends.get(whose) {
            Some((program, _)) => Some(program),
            None => self.workers[whose - FRONTENDS].as_ref().map(|worker| &worker.program),
        }
    }

    async fn reuse_address(&mut self, registered: bool) {
        let Some(mut lodger) = self.workers[LODGER].take() else { return };
        let Some(mut engine) = lodger.engine.take() else { return };
        // A frontend judges an entry by its control port once that port has answered it, which it asks
        // with its first prompt to the engine.
        for (frontend, _) in &self.frontends {
            soon("a control port has answered a frontend", async {
                while !knows_control_port(frontend, &lodger.url) {
                    sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        self.traffic.worker_is_down(LODGER);
        lodger.program.signal(Signal::KILL);
        lodger.program.ended().await;
        let bound = Bound::after(Instant::now(), ASKED);
        engine.stop().await;
        // It takes the same models for its own, as an engine does that answers for any name.
        let stranger = ScriptedEngine::start_at(engine.address(), WORKERS[LODGER]).await;
        let etcd = endpoints(&self.networks[FRONTENDS]);
        let worker = registered.then(|| follow(&etcd, STRANGE, &lodger.url, lodger.control));
        self.strangers.move_in(stranger, worker, bound);
        self.start_worker(LODGER).await;
    }

    async fn use_up(&self, frontend: usize, time: Duration) {
        let (program, client) = &self.frontends[frontend];
        let open = std::fs::read_dir(format!("/proc/{}/fd", program.id())).unwrap().count();
        let limit = |current| {
            let pid = i32::try_from(program.id()).ok().and_then(Pid::from_raw);
            let limits = Rlimit { current: Some(current), maximum: hard_limit(program.id()) };
            prlimit(pid, Resource::Nofile, limits).unwrap().current.unwrap_or(u64::MAX)
        };
        self.traffic.is_short(frontend, None, true);
        let before = limit(u64::try_from(open).unwrap() + LEFT);
        let address = client.base().trim_start_matches("http://");
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.extend(TcpStream::connect(address).await);
        }
        sleep(time).await;
        drop(silent);
        limit(before);
        self.traffic.is_short(frontend, None, false);
    }

    /// One at a time: the engines' habits are for all of their requests.
    fn prefill(&mut self, frontend: usize, time: Duration) {
        while self.prefills.try_join_next().is_some() {}
        if !self.prefills.is_empty() {
            return;
        }
        self.patient().for_each(|engine| engine.generates_for(time));
        let (client, traffic) = (self.frontends[frontend].1.clone(), self.traffic.clone());
        let text = format!("{OURS} asks at length, {:016x}", fastrand::u64(..));
        self.prefills.spawn(async move {
            traffic.prompt(frontend, &client, PATIENT_MODEL, &text).await;
        });
    }
}

/// Whether the control port of the worker at a URL has answered a frontend.
fn knows_control_port(frontend: &Program, url: &str) -> bool {
    let lines = frontend.logged("a worker's control port knows its entries");
    lines.iter().any(|line| line["url"] == url)
}

/// The hard limit of a process, which stays.
fn hard_limit(pid: u32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(4)?.parse().ok()
}
