//! The control port of a real `dynamo-worker`, over a real etcd, and how the worker judges engines
//! with the habits of real ones.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_discovery::{EngineState, InstanceStatus, ModelEntry, WorkerState};
use dynamo_tests::{
    Answers, Client, Etcd, Load, Program, ScriptedEngine, SharedEtcd, Space, eventually, lists,
    unique,
};
use rustix::process::Signal;
use serde_json::json;

const KEY: &str = "a-key-that-nobody-could-guess";

/// A worker, and its control port.
struct Controlled {
    worker: Program,
    control: Client,
    instance: String,
}

impl Controlled {
    async fn of(worker: Program) -> Self {
        let url = worker.says("the control port listens").await["url"].as_str().unwrap().to_owned();
        let line = worker.says("following the engine").await;
        let instance = line["instance"].as_str().unwrap().to_owned();
        Self { worker, control: Client::new(&url), instance }
    }

    /// A worker of an engine that somebody else runs.
    async fn follow(etcd: &str, namespace: &str, url: &str, arguments: &[&str]) -> Self {
        let of = ["--etcd-endpoints", etcd, "--namespace", namespace, "--url", url];
        Self::of(Program::start("dynamo-worker", &[&of[..], arguments].concat(), &[])).await
    }

    async fn status(&self) -> InstanceStatus {
        let answer = self.control.get(&format!("/instance/{}", self.instance)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        InstanceStatus::from_json(answer.body.as_bytes()).unwrap()
    }

    /// Waits until the status is so.
    async fn until(&self, what: &str, so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        eventually(what, async || so(&self.status().await)).await;
        self.status().await
    }
}

/// A file with the key.
fn key_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEY).unwrap();
    file
}

/// The worker's entries, by key.
async fn entries(space: &Space) -> Vec<(String, ModelEntry)> {
    let entries = space.list().await.entries.into_iter();
    entries
        .map(|entry| (entry.key.to_string(), ModelEntry::from_json(&entry.value).unwrap()))
        .collect()
}

#[tokio::test]
async fn every_entry_names_the_control_port_which_answers_for_the_entrys_id_alone() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let arguments = ["--namespace", "team-a", "--model", "m", "--model", "n"];
    let worker = Controlled::of(Program::worker(etcd.endpoint(), &arguments, &[])).await;
    worker.worker.says("registered").await;
    let neighbour = ["--namespace", "team-b", "--model", "secret"];
    let neighbour = Controlled::of(Program::worker(etcd.endpoint(), &neighbour, &[])).await;
    neighbour.worker.says("registered").await;

    let entries = entries(&space).await;
    assert_eq!(entries.len(), 3);
    for (key, entry) in &entries {
        let asked = Client::new(entry.control().unwrap().as_str());
        let id = key.split('/').nth(4).unwrap();
        let answer = asked.get(&format!("/instance/{id}")).await;
        let status = InstanceStatus::from_json(answer.body.as_bytes()).unwrap();
        assert_eq!((answer.status, status.state), (200, WorkerState::Serving), "{key}");
        assert!(status.models.contains(&entry.name().to_owned()), "{key}");
    }
    // At the right port with another's id: as a frontend asks where the address has a new owner.
    let stranger = format!("/instance/{}", neighbour.instance);
    for path in [stranger.as_str(), "/instance/0", "/instance", "/"] {
        let answer = worker.control.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
    }
    assert_eq!(worker.control.get("/ready").await.status, 200);
    assert_eq!(worker.control.metric("dynamo_worker_registered_models").await, 2.0);
    assert!(!worker.control.get("/metrics").await.body.contains("secret"));
}

#[tokio::test]
async fn a_drained_worker_stays_drained_over_a_lost_lease_while_its_engine_goes_on() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let (_frontend, client) =
        Program::frontend(etcd.endpoint(), &["--namespace", "team-a"], &[]).await;
    let file = key_file();
    let key_file = file.path().to_str().unwrap();
    let arguments = [
        "--namespace",
        "team-a",
        "--model",
        "m",
        "--lease-ttl",
        "3",
        "--control-key-file",
        key_file,
    ];
    let worker = Controlled::of(Program::worker(etcd.endpoint(), &arguments, &[])).await;
    lists(&client, &["m"]).await;
    assert_eq!(worker.control.post("/drain", &json!({})).await.status, 401);
    assert_eq!(client.models().await, ["m"]);

    let keyed = worker.control.with_key(KEY);
    let answer = keyed.post("/drain", &json!({})).await;
    assert_eq!(answer.json(), json!({ "state": "draining", "registered": 0 }));
    assert_eq!(entries(&space).await, []);
    lists(&client, &[]).await;
    assert_eq!(client.metric("dynamo_frontend_held_instances").await, 0.0, "it was withdrawn");
    assert_eq!(keyed.get("/ready").await.status, 503);
    let engine =
        worker.worker.says("following the engine").await["url"].as_str().unwrap().to_owned();
    assert_eq!(Client::new(&engine).chat("m").await.status, 200);

    for lease in etcd.leases().await {
        etcd.revoke(&lease).await;
    }
    eventually("the lease is lost", async || {
        keyed.metric("dynamo_worker_leases_lost_total").await == 1.0
    })
    .await;
    worker.worker.says("publishing again").await;
    assert_eq!(worker.status().await.state, WorkerState::Draining);
    assert_eq!(entries(&space).await, []);

    let answer = keyed.post("/undrain", &json!({})).await;
    assert_eq!(answer.json(), json!({ "state": "serving", "registered": 1 }));
    lists(&client, &["m"]).await;
    assert_eq!(keyed.get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_command_is_refused_where_a_foreign_engine_listens_and_nothing_is_registered() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let foreign = ScriptedEngine::start(&["foreign"]).await;
    let arguments = [
        "--etcd-endpoints",
        etcd.endpoint(),
        "--namespace",
        "team-a",
        "--url",
        &foreign.url(),
        "--",
        "/bin/sleep",
        "1000",
    ];
    let mut worker = Program::start("dynamo-worker", &arguments, &[]);
    assert_eq!(worker.ended().await.0, Some(1));
    let told =
        worker.log().into_iter().any(|line| line.contains("a foreign engine already listens"));
    assert!(told, "{:?}", worker.log());
    assert_eq!(entries(&space).await, []);
}

#[tokio::test]
async fn an_engine_whose_health_blocks_behind_a_generation_is_alive_and_stays() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("control");
    let engine = ScriptedEngine::start(&["m"]).await;
    let worker = Controlled::follow(etcd.endpoints(), &namespace, &engine.url(), &[]).await;
    worker.worker.says("registered").await;

    engine.health(Answers::WhenIdle);
    engine.generates_for(Duration::from_secs(600));
    let url = engine.url();
    let generation = tokio::spawn(async move { Client::new(&url).stream("m").await });
    eventually("it is busy", async || {
        worker.control.get("/metrics").await.body.contains("probes_total{result=\"busy\"} 3")
    })
    .await;
    let status = worker.status().await;
    assert_eq!((status.state, status.engine), (WorkerState::Serving, EngineState::Healthy));
    assert_eq!(worker.worker.logged("the engine is out of service").len(), 0);
    generation.abort();
}

#[tokio::test]
async fn a_silent_engine_stays_registered_and_says_so_until_its_silence_ends_that() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("control");
    let arguments = ["--namespace", &namespace];
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
    let engine = ScriptedEngine::start(&["m"]).await;
    let silence = ["--silence-timeout", "30"];
    let worker = Controlled::follow(etcd.endpoints(), &namespace, &engine.url(), &silence).await;
    lists(&client, &["m"]).await;

    engine.health(Answers::Never);
    engine.list(Answers::Never);
    let status = worker.until("it is silent", |status| status.engine == EngineState::Silent).await;
    assert_eq!(status.state, WorkerState::Serving);
    assert!(status.silent_seconds >= 5, "{status:?}");
    assert_eq!(client.models().await, ["m"]);
    // The silence time-out ends the registration, and nothing but that.
    lists(&client, &[]).await;
    let status = worker.status().await;
    assert_eq!((status.state, status.engine), (WorkerState::Starting, EngineState::Silent));
    engine.health(Answers::With(200));
    engine.list(Answers::With(200));
    lists(&client, &["m"]).await;
    let again = worker.until("it serves", |status| status.state == WorkerState::Serving).await;
    assert_eq!((again.engine, again.engine_started), (EngineState::Healthy, status.engine_started));
}

#[tokio::test]
async fn an_engine_that_lists_nothing_for_one_moment_loses_no_route() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("control");
    let arguments = ["--namespace", &namespace];
    let (frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
    let engine = ScriptedEngine::start(&["m", "n"]).await;
    let _worker = Controlled::follow(etcd.endpoints(), &namespace, &engine.url(), &[]).await;
    lists(&client, &["m", "n"]).await;
    engine.lists_once(&[]);
    eventually("the odd list was read", async || engine.listed_once()).await;
    // The next list, soon after, has a new model: it was taken.
    engine.lists(&["m", "n", "o"]);
    lists(&client, &["m", "n", "o"]).await;
    assert!(frontend.logged("route closed").is_empty());
    assert!(frontend.logged("instance removed").is_empty());
}

#[tokio::test]
async fn a_restart_of_the_engine_and_its_requests_are_seen() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("control");
    let mut engine = ScriptedEngine::start(&["m"]).await;
    engine.metrics("sglang:num_running_reqs{tp_rank=\"0\"} 3.0\nsglang:num_queue_reqs 5.0\n");
    let worker = Controlled::follow(etcd.endpoints(), &namespace, &engine.url(), &[]).await;
    let told = worker.until("its requests are told", |status| status.running.is_some()).await;
    assert_eq!((told.running, told.waiting), (Some(3), Some(5)));
    let started = told.engine_started.unwrap();

    engine.stop().await;
    let gone = worker.until("it is gone", |status| status.engine == EngineState::Failing).await;
    assert_eq!((gone.state, gone.running), (WorkerState::Starting, None));
    engine.listen().await;
    let again = worker.until("it is back", |status| status.state == WorkerState::Serving).await;
    assert!(again.engine_started.unwrap() > started, "{again:?}");
    assert_eq!(worker.control.metric("dynamo_worker_engine_restarts_total").await, 1.0);
}

/// What is logged when a control port denies an entry.
const DENIED: &str =
    "a worker's control port does not know its entries any more: they get no requests";

#[tokio::test]
async fn a_stranger_at_the_address_of_a_killed_worker_gets_no_prompt_once_the_worker_is_known_gone()
{
    let etcd = SharedEtcd::find().await;
    let namespace = unique("stranger");
    // Without probes of engines, so that nothing but the control port tells the two engines apart.
    let of = ["--namespace", &namespace, "--worker-probe-interval", "0"];
    let (frontend, client) =
        Program::frontend(etcd.endpoints(), &of, &[("DYN_LOG", "debug")]).await;
    // A lease that outlives the test.
    let arguments = ["--namespace", &namespace, "--model", "m", "--lease-ttl", "600"];
    let mut worker = Program::worker(etcd.endpoints(), &arguments, &[]);
    let engine = worker.says("following the engine").await["url"].as_str().unwrap().to_owned();
    lists(&client, &["m"]).await;
    let load = Load::on(&client, "m", 4);
    load.flows(50).await;
    frontend.says("a worker's control port knows its entries").await;

    worker.signal(Signal::KILL);
    worker.ended().await;
    let address = engine.strip_prefix("http://").unwrap().parse().unwrap();
    let stranger = ScriptedEngine::start_at(address, &["m"]).await;
    frontend.says(DENIED).await;
    // Those that were under way have their answers.
    load.flows(20).await;
    let before = stranger.prompts().len();
    load.flows(100).await;
    let answer = client.chat("m").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_instances"));
    assert_eq!(stranger.prompts().len(), before);
    assert_eq!(client.models().await, ["m"], "its lease lives");
    println!("{before} prompts reached the stranger before that");
}

#[tokio::test]
async fn a_control_port_behind_a_firewall_ends_no_service_and_is_named_once() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("firewall");
    // It takes connections and answers nothing, like a firewall that drops packets.
    let firewall = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", firewall.local_addr().unwrap());
    let of = ["--namespace", &namespace];
    let (frontend, client) = Program::frontend(etcd.endpoints(), &of, &[]).await;
    let arguments = [&of[..], &["--model", "m", "--control-advertise-url", &url]].concat();
    let _worker = Program::worker(etcd.endpoints(), &arguments, &[]);
    lists(&client, &["m"]).await;
    let load = Load::paced(&client, "m", 20);
    let never =
        "a worker's control port has never answered: its entries count as those without one";
    assert_eq!(frontend.says(never).await["control"], url);
    load.flows(60).await;
    assert_eq!(load.failures(), []);
    assert_eq!(frontend.logged(never).len(), 1);
    assert!(frontend.logged(DENIED).is_empty());
}
