//! One of two workers is killed or stopped under load: real programs, real signals.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::{Duration, Instant};

use dynamo_tests::{Client, Load, Program, SharedEtcd, eventually, free_port, unique};
use rustix::process::Signal;

/// Requests a second.
const RATE: u64 = 200;

/// Two echo engines, and a front door that knows them from its command line, so that no lease has a
/// say in when it notices.
struct Pair {
    etcd: SharedEtcd,
    ports: [u16; 2],
    workers: Vec<Program>,
    client: Client,
    _frontend: Program,
}

impl Pair {
    async fn start() -> Self {
        let etcd = SharedEtcd::find().await;
        let ports = [free_port(), free_port()];
        let mut workers = Vec::new();
        for port in ports {
            workers.push(worker(etcd.endpoints(), port).await);
        }
        let urls = ports.map(|port| format!("m=http://127.0.0.1:{port}"));
        let listen = ["--http-host", "127.0.0.1", "--http-port", "0"];
        let known = ["--worker-url", &urls[0], "--worker-url", &urls[1]];
        let frontend = Program::start("dynamo-frontend", &[listen, known].concat(), &[]);
        let address = frontend.says("listening").await["address"].as_str().unwrap().to_owned();
        let client = Client::new(&format!("http://{address}"));
        eventually("/ready", async || client.get("/ready").await.status == 200).await;
        Self { etcd, ports, workers, client, _frontend: frontend }
    }

    /// Why instances are out of rotation.
    async fn out(&self) -> Vec<String> {
        let health = self.client.get("/health").await.json();
        let instances = health["instances"].as_array().unwrap().iter();
        instances.filter_map(|one| Some(one["out_of_rotation"].as_str()?.to_owned())).collect()
    }

    /// How long it takes until these are the reasons.
    async fn until_out(&self, reasons: &[&str]) -> Duration {
        let began = Instant::now();
        eventually("who is in rotation", async || self.out().await == reasons).await;
        began.elapsed()
    }
}

async fn worker(etcd: &str, port: u16) -> Program {
    let (namespace, port) = (unique("resilience"), port.to_string());
    let arguments = ["--namespace", &namespace, "--model", "m", "--echo-port", &port];
    Program::registered(etcd, &arguments, &[]).await
}

#[tokio::test]
async fn no_request_fails_when_a_worker_is_killed_and_it_is_used_again_when_it_is_back() {
    let mut pair = Pair::start().await;
    let load = Load::paced(&pair.client, "m", RATE);
    load.flows(100).await;
    drop(pair.workers.remove(0));
    let noticed = pair.until_out(&["unreachable"]).await;
    load.flows(2 * RATE).await;
    assert_eq!(load.failures(), [], "while it was away");

    pair.workers.push(worker(pair.etcd.endpoints(), pair.ports[0]).await);
    let back = pair.until_out(&[]).await;
    load.flows(RATE).await;
    assert_eq!(load.failures(), [], "when it came back");
    println!("killed: noticed in {noticed:?}, back in rotation in {back:?}");
}

#[tokio::test]
async fn requests_at_a_worker_that_is_stopped_are_answered_by_the_other_one() {
    let pair = Pair::start().await;
    // Half of them wait until silence means something, and must fit into the queue of the listener:
    // a worker whose queue is full takes no connection.
    let load = Load::paced(&pair.client, "m", RATE / 20);
    load.flows(20).await;
    pair.workers[0].signal(Signal::STOP);
    let noticed = pair.until_out(&["unresponsive"]).await;
    eventually("no request waits for it", async || {
        let metrics = pair.client.get("/metrics").await.body;
        let series = r#"dynamo_frontend_inflight_requests{endpoint="chat_completions",model="m"} "#;
        let waiting = metrics.lines().find_map(|line| line.strip_prefix(series));
        waiting.is_some_and(|count| count.parse::<u32>().unwrap() < 10)
    })
    .await;
    assert_eq!(load.failures(), [], "while it was stopped");

    pair.workers[0].signal(Signal::CONT);
    let back = pair.until_out(&[]).await;
    load.flows(RATE / 10).await;
    assert_eq!(load.failures(), [], "when it went on");
    println!("stopped: out of rotation in {noticed:?}, back in {back:?}");
}

#[tokio::test]
async fn no_request_fails_while_two_workers_are_restarted_one_after_the_other() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("rolling");
    let of = ["--namespace", &namespace];
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &of, &[]).await;
    let start = || {
        let arguments = [&of[..], &["--model", "m", "--drain-grace", "1"]].concat();
        Program::worker(etcd.endpoints(), &arguments, &[])
    };
    let both = async || {
        eventually("both serve", async || {
            let health = client.get("/health").await.json();
            health["instances"].as_array().unwrap().len() == 2
        })
        .await;
    };
    let mut workers = vec![start(), start()];
    both().await;
    let load = Load::paced(&client, "m", RATE);
    load.flows(RATE).await;
    for _ in 0..2 {
        let mut old = workers.remove(0);
        old.signal(Signal::TERM);
        assert_eq!(old.ended().await.0, Some(0));
        load.flows(RATE / 2).await;
        workers.push(start());
        both().await;
        load.flows(RATE).await;
    }
    assert_eq!(load.failures(), []);
}
