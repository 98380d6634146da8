//! Two front doors on one switchboard: each has limits, turns, metrics and findings of its own.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;

use common::keyed::{ask, get, listen};
use common::{Act, Answer, Worker, chat, post, scope, send, soon, whole};
use dynamo_discovery::ModelUpdate;
use dynamo_http::{
    Feed, Frontend, FrontendConfig, RouterMode, Switchboard, SwitchboardWriter,
    update_http_endpoints,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

/// A switchboard that knows these workers, and a front door for each configuration.
async fn open(workers: &[&Worker], configs: [FrontendConfig; 2]) -> ([Door; 2], SwitchboardWriter) {
    let (switchboard, mut writer) = Switchboard::new([scope("a")]);
    writer.stage_ready();
    let added: Vec<_> =
        workers.iter().map(|worker| ModelUpdate::Added(worker.instance("a", "m"))).collect();
    update_http_endpoints(&mut writer, &added);
    let [one, other] = &configs;
    let doors = [Door::open(&switchboard, one).await, Door::open(&switchboard, other).await];
    (doors, writer)
}

/// A front door on a port of its own.
struct Door {
    address: String,
}

impl Door {
    async fn open(switchboard: &Switchboard, config: &FrontendConfig) -> Self {
        // The status of a feed without sources, which says nothing.
        let (_, idle) = Switchboard::new([]);
        let status = Feed::new(idle, []).status();
        let frontend = Frontend::new(switchboard, &scope("a"), status, config);
        Self { address: listen(frontend.router()).await }
    }

    /// Sends a request whose answer is read later.
    async fn begin(&self) -> TcpStream {
        let mut stream = soon(TcpStream::connect(&self.address)).await.unwrap();
        stream.write_all(post(CHAT, &chat("m")).as_bytes()).await.unwrap();
        stream
    }

    async fn chat(&self, body: &str) -> Answer {
        ask(&self.address, post(CHAT, body)).await
    }

    /// The lines of a metric, without its prefix.
    async fn metric(&self, name: &str) -> Vec<String> {
        let metrics = ask(&self.address, get("/metrics", None)).await;
        let line = |line: &str| {
            line.strip_prefix("dynamo_frontend_")?.strip_prefix(name).map(str::to_owned)
        };
        metrics.body().lines().filter_map(line).collect()
    }

    /// Waits until the lines of a metric are these: a request is counted a moment before or after
    /// its client has read the end of the answer.
    async fn until_metric(&self, name: &str, expected: &[&str]) {
        soon(async {
            while self.metric(name).await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Why workers are out of rotation, as the health page says.
    async fn out_of_rotation(&self) -> Vec<String> {
        let health = ask(&self.address, get("/health", None)).await.json();
        let reason = |one: &serde_json::Value| Some(one["out_of_rotation"].as_str()?.to_owned());
        health["instances"].as_array().unwrap().iter().filter_map(reason).collect()
    }
}

#[tokio::test]
async fn a_door_whose_places_are_taken_takes_none_from_another_door() {
    let go_on = Arc::new(Notify::new());
    let slow = vec![Act::Await(go_on.clone()), whole("slow").remove(0)];
    let worker = Worker::start([slow, whole("{}")]).await;
    let narrow =
        FrontendConfig::new().with_worker_concurrency(NonZeroUsize::new(1)).with_queue_depth(0);
    let limited = FrontendConfig::new().with_worker_concurrency(NonZeroUsize::new(2));
    let ([narrow, wide], _writer) = open(&[&worker], [narrow, limited]).await;

    let first = narrow.begin().await;
    worker.until_asked().await;
    let refused = narrow.chat(&chat("m")).await;
    assert_eq!((refused.status(), refused.code().as_str()), (429, "queue_full"));
    for _ in 0..3 {
        assert_eq!(wide.chat(&chat("m")).await.status(), 200);
    }
    let in_flight = "inflight_requests{";
    narrow.until_metric(in_flight, &[r#"endpoint="chat_completions",model="m"} 1"#]).await;
    wide.until_metric(in_flight, &[r#"endpoint="chat_completions",model="m"} 0"#]).await;
    assert_eq!(worker.asked(), 4, "the first request and three of the other door");

    go_on.notify_one();
    assert_eq!(soon(Answer::read(first)).await.body(), "slow");
}

#[tokio::test]
async fn each_door_counts_its_own_requests_only() {
    let worker = Worker::start([whole("{}")]).await;
    let ([one, other], _writer) = open(&[&worker], Default::default()).await;
    for _ in 0..3 {
        assert_eq!(one.chat(&chat("m")).await.status(), 200);
    }
    assert_eq!(other.chat(&chat("m")).await.status(), 200);
    assert_eq!(other.chat(&chat("unknown")).await.status(), 404);
    let served = |count: u32| {
        format!(
            "code=\"200\",endpoint=\"chat_completions\",model=\"m\",request_type=\"unary\",status=\"success\"}} {count}"
        )
    };
    let unknown = "code=\"404\",endpoint=\"chat_completions\",model=\"unknown_model\",request_type=\"unary\",status=\"error\"} 1";
    one.until_metric("requests_total{", &[&served(3)]).await;
    other.until_metric("requests_total{", &[&served(1), unknown]).await;
    // The requests of the other door have not come late.
    one.until_metric("requests_total{", &[&served(3)]).await;
}

#[tokio::test]
async fn each_door_has_turns_of_its_own() {
    let (one, two) = (Worker::start([whole("one")]).await, Worker::start([whole("two")]).await);
    let ([left, right], _writer) = open(&[&one, &two], Default::default()).await;
    // One request at each door in turn: with a common turn each door would have one worker only.
    let (mut at_left, mut at_right) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        at_left.push(left.chat(&chat("m")).await.body().to_owned());
        at_right.push(right.chat(&chat("m")).await.body().to_owned());
    }
    for workers in [at_left, at_right] {
        assert!(workers.windows(2).all(|pair| pair[0] != pair[1]), "{workers:?}");
    }
}

#[tokio::test]
async fn each_door_chooses_workers_by_its_own_mode() {
    let (one, two) = (Worker::start([whole("one")]).await, Worker::start([whole("two")]).await);
    let faithful = FrontendConfig::new().with_router_mode(RouterMode::Affinity);
    let fair = FrontendConfig::new().with_router_mode(RouterMode::RoundRobin);
    let ([faithful, fair], _writer) = open(&[&one, &two], [faithful, fair]).await;
    let body = r#"{"model":"m","prompt_cache_key":"k"}"#;
    let (mut at_faithful, mut at_fair) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        at_faithful.push(faithful.chat(body).await.body().to_owned());
        at_fair.push(fair.chat(body).await.body().to_owned());
    }
    assert!(at_faithful.windows(2).all(|pair| pair[0] == pair[1]), "{at_faithful:?}");
    assert!(at_fair.windows(2).all(|pair| pair[0] != pair[1]), "{at_fair:?}");
}

#[tokio::test]
async fn a_worker_that_one_door_puts_out_of_rotation_stays_in_rotation_at_another_door() {
    let fails = vec![send("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n")];
    let (fails, serves) = (Worker::start([fails]).await, Worker::start([whole("{}")]).await);
    let ([sees, sees_not], _writer) = open(&[&fails, &serves], Default::default()).await;
    soon(async {
        while sees.out_of_rotation().await != ["failing"] {
            sees.chat(&chat("m")).await;
        }
    })
    .await;
    let ejections = "worker_ejections_total{reason=\"failing\"";
    assert_eq!(sees.metric(ejections).await, ["} 1"]);

    assert_eq!(sees_not.out_of_rotation().await, [""; 0]);
    assert_eq!(sees_not.metric(ejections).await, ["} 0"]);
    let before = fails.asked();
    let mut statuses = [sees_not.chat(&chat("m")).await, sees_not.chat(&chat("m")).await]
        .map(|answer| answer.status());
    statuses.sort_unstable();
    assert_eq!((statuses, fails.asked() - before), ([200, 500], 1), "the other door asks it");
}
