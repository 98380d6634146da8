//! Who is at the address of a live entry: what the control port of its worker says decides whether
//! prompts go there.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::keyed::{self, A, B};
use common::{Answer, Door, SOON, chat, post, read_request, soon};
use dynamo_discovery::{Instance, InstanceId, Key, Kinds, ModelEntry};
use dynamo_http::{FrontendConfig, ServeOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

const CHAT: &str = "/v1/chat/completions";
const HEALTHY: &str = r#"{"state":"serving","engine":"healthy"}"#;
const SILENT: &str = r#"{"state":"serving","engine":"silent","silent_seconds":60}"#;

/// How a double answers requests that begin so; the first that fits counts. No text: never.
type Habits = Vec<(&'static str, Option<String>)>;

/// A server with habits. When it has died, nobody listens at its address, and all of its connections
/// are closed.
struct Double {
    address: SocketAddr,
    habits: Arc<Mutex<Habits>>,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Double {
    async fn start(habits: Habits) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), habits).await
    }

    async fn at(address: SocketAddr, habits: Habits) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let habits = Arc::new(Mutex::new(habits));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (habits, seen, connections) = (habits.clone(), seen.clone(), connections.clone());
            async move {
                let mut open = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    open.spawn(answer_all(stream, habits.clone(), seen.clone()));
                }
            }
        });
        Self { address, habits, seen, connections, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn behaves(&self, habits: Habits) {
        *self.habits.lock().unwrap() = habits;
    }

    /// How many requests it got that begin so.
    fn count(&self, begin: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|one| one.starts_with(begin)).count()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn prompts(&self) -> usize {
        self.count("POST ")
    }

    async fn until(&self, begin: &str, count: usize) {
        until(begin, async || self.count(begin) >= count).await;
    }

    /// Its worker was asked about it so often more, and the answers to all but the last one count.
    async fn until_asked_again(&self, times: usize) {
        self.until("GET /instance/", self.count("GET /instance/") + times).await;
    }

    async fn dies(self) -> SocketAddr {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }
}

async fn answer_all(
    mut stream: TcpStream,
    habits: Arc<Mutex<Habits>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let answer = {
            let habits = habits.lock().unwrap();
            let habit = habits.iter().find(|(begin, _)| request.starts_with(begin));
            habit.map_or_else(|| Some(with_body("404 None", "")), |(_, answer)| answer.clone())
        };
        seen.lock().unwrap().push(request);
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    }
}

fn with_body(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// An engine whose answers to prompts are this text.
fn engine(text: &str) -> Habits {
    let ok = |body: &str| Some(with_body("200 OK", body));
    vec![("POST ", ok(text)), ("GET /health", ok("")), ("GET /v1/models", ok("{}"))]
}

/// A control port that says this of instance 7, and 404 of all others.
fn control(status: &'static str) -> Habits {
    vec![("GET /instance/7 ", Some(with_body("200 OK", status)))]
}

/// A control port of another worker.
fn stranger() -> Habits {
    Vec::new()
}

/// A server that takes connections and answers nothing.
fn mute() -> Habits {
    vec![("", None)]
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < SOON, "{what}: not in time");
        sleep(Duration::from_millis(10)).await;
    }
}

/// An instance 7 at an engine, with a control port.
fn instance(namespace: &str, engine: &str, control: &str) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new("m", endpoint, Kinds::parse("Chat").kinds).unwrap();
    let entry = entry.with_url(engine.parse().unwrap()).with_control(control.parse().unwrap());
    let key = Key::from(format!("models/{namespace}/backend/generate/7/{engine}"));
    Arc::new(Instance::new(key, Some(InstanceId(7)), entry))
}

async fn door(config: &FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    let mut door = Door::with("a", config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for one in instances {
        door.add(one);
    }
    door
}

async fn ask(door: &Door) -> Answer {
    door.post(CHAT, &chat("m")).await
}

/// Why instances get no requests, as the health page says.
async fn out(door: &Door) -> Vec<String> {
    let health = door.get("/health").await.json();
    let reasons = health["instances"].as_array().unwrap().iter();
    reasons.filter_map(|one| Some(one["out_of_rotation"].as_str()?.to_owned())).collect()
}

async fn until_out(door: &Door, reasons: &[&str]) {
    until("the instances that are out", async || out(door).await == reasons).await;
}

/// A worker's engine and its control port, at a door that has asked the control port.
async fn in_service(config: &FrontendConfig) -> (Double, Double, Door) {
    let (own, worker) = (Double::start(engine("own")).await, Double::start(control(HEALTHY)).await);
    let door = door(config, &[instance("a", &own.url(), &worker.url())]).await;
    assert_eq!(ask(&door).await.body(), "own");
    worker.until_asked_again(2).await;
    (own, worker, door)
}

#[tokio::test]
async fn a_stranger_at_a_dead_workers_address_gets_nothing_once_the_control_port_denies_the_entry()
{
    // Probes of engines are one thing, questions to control ports another.
    for config in [FrontendConfig::new(), FrontendConfig::new().with_probe_interval(None)] {
        let (own, worker, door) = in_service(&config).await;
        let door = Arc::new(door);
        let stop = Arc::new(tokio::sync::Notify::new());
        let mut load = JoinSet::new();
        for _ in 0..4 {
            let (door, stopped) = (door.clone(), stop.clone());
            load.spawn(async move {
                let stopped = stopped.notified();
                tokio::pin!(stopped);
                stopped.as_mut().enable();
                while futures_util::future::poll_immediate(&mut stopped).await.is_none() {
                    ask(&door).await;
                }
            });
        }
        own.until("POST ", own.prompts() + 20).await;

        // The worker is killed with its engine; another engine gets the address at once.
        let control = worker.dies().await;
        let stranger = Double::at(own.dies().await, engine("stranger")).await;
        until_out(&door, &["gone"]).await;
        let metrics = door.get("/metrics").await.raw;
        assert!(metrics.contains(r#"worker_ejections_total{reason="gone"} 1"#), "{metrics}");
        assert!(metrics.contains(r#"instances_out_of_rotation{reason="gone"} 1"#), "{metrics}");
        stop.notify_waiters();
        while load.join_next().await.is_some() {}
        let before = stranger.prompts();
        for _ in 0..20 {
            let answer = ask(&door).await;
            assert_eq!((answer.status(), &*answer.code()), (503, "no_instances"));
        }
        assert_eq!(stranger.prompts(), before, "not even as a last resort");

        // Another worker at the control port's address changes nothing.
        let other = Double::at(control, self::stranger()).await;
        other.until_asked_again(3).await;
        assert_eq!(ask(&door).await.status(), 503);
        assert_eq!(stranger.prompts(), before);
        other.behaves(self::control(HEALTHY));
        until_out(&door, &[]).await;
        assert_eq!(ask(&door).await.status(), 200);
    }
}

#[tokio::test]
async fn a_first_prompt_on_a_new_connection_waits_for_the_worker_whose_last_answer_is_old() {
    // Without probes, the only one who connects to the engine's address is the prompt.
    let config = FrontendConfig::new().with_probe_interval(None);
    loop {
        let (own, worker, door) = in_service(&config).await;
        // The next question has no answer yet, so the last answer is two seconds old.
        worker.behaves(mute());
        worker.until_asked_again(1).await;
        let asked = Instant::now();
        let stranger = Double::at(own.dies().await, engine("stranger")).await;
        let waiting = door.begin(post(CHAT, &chat("m"))).await;
        until("the connection", async || stranger.connections() > 0).await;
        // The prompt waits beside its connection until the worker's port is closed.
        worker.dies().await;
        let was_in_time = asked.elapsed() < Duration::from_millis(700);
        let answer = soon(Answer::read(waiting)).await;
        // A question may take a second. On a machine that was slower the test has shown nothing.
        if was_in_time {
            assert_eq!((answer.status(), &*answer.code()), (503, "no_instances"));
            assert_eq!(stranger.prompts(), 0);
            return;
        }
    }
}

#[tokio::test]
async fn a_prompt_on_a_warm_connection_waits_for_no_control_port_and_asks_none() {
    let config = FrontendConfig::new().with_probe_interval(None);
    for _ in 0..20 {
        let (own, worker, door) = in_service(&config).await;
        worker.behaves(mute());
        assert_eq!(ask(&door).await.body(), "own");
        worker.until_asked_again(1).await;
        // This question stays without an answer for a second, and the next one follows later.
        let asked = Instant::now();
        let (connections, questions) = (own.connections(), worker.count("GET /instance/"));
        for _ in 0..10 {
            assert_eq!(ask(&door).await.body(), "own");
        }
        let questions_since = worker.count("GET /instance/") - questions;
        let was_in_time = asked.elapsed() < Duration::from_millis(700);
        // On a machine that was slower, and has closed the idle connection, the test has shown nothing.
        if was_in_time && own.connections() == connections {
            assert_eq!(questions_since, 0);
            return;
        }
    }
    panic!("prompts wait for the answer of a control port");
}

#[tokio::test]
async fn a_worker_that_withdraws_gets_no_request_before_the_store_says_so() {
    let (own, worker, door) = in_service(&FrontendConfig::new()).await;
    worker.behaves(control(r#"{"state":"draining","engine":"healthy"}"#));
    until_out(&door, &["gone"]).await;
    let before = own.prompts();
    assert_eq!(ask(&door).await.status(), 503);
    assert_eq!(own.prompts(), before);
    worker.behaves(control(HEALTHY));
    until_out(&door, &[]).await;
    assert_eq!(ask(&door).await.body(), "own");
}

#[tokio::test]
async fn no_answer_about_one_namespaces_entry_changes_another_namespaces_targets() {
    let shared = Double::start(engine("shared")).await;
    let workers = [Double::start(control(HEALTHY)).await, Double::start(control(HEALTHY)).await];
    let instances = [("a", &workers[0]), ("b", &workers[1])]
        .map(|(name, worker)| instance(name, &shared.url(), &worker.url()));
    let door = keyed::Door::open(keyed::both(), &instances).await;
    for key in [A, B] {
        assert_eq!(door.chat("m", key).await.status(), 200);
    }
    for worker in &workers {
        worker.until_asked_again(2).await;
    }
    workers[1].behaves(stranger());
    until("the entry of b is denied", async || {
        door.metrics().await.contains(r#"instances_out_of_rotation{reason="gone"} 1"#)
    })
    .await;
    let before = shared.prompts();
    assert_eq!(door.chat("m", B).await.status(), 503);
    assert_eq!(shared.prompts(), before);
    for n in 1..=20 {
        assert_eq!(door.chat("m", A).await.body(), "shared");
        assert_eq!(shared.prompts(), before + n);
    }
    workers[0].behaves(stranger());
    until("the entry of a is denied", async || door.chat("m", A).await.status() == 503).await;
    workers[1].behaves(control(HEALTHY));
    until("the entry of b is back", async || door.chat("m", B).await.status() == 200).await;
    assert_eq!(door.chat("m", A).await.status(), 503);
}

#[tokio::test]
async fn an_engine_that_its_worker_says_has_started_anew_is_expected_to_have_nothing_cached() {
    const STARTED: [&str; 2] = [
        r#"{"state":"serving","engine":"healthy","engine_started":1790000000}"#,
        r#"{"state":"serving","engine":"healthy","engine_started":1790000060}"#,
    ];
    let (own, worker) =
        (Double::start(engine("own")).await, Double::start(control(STARTED[0])).await);
    let config = FrontendConfig::new().with_probe_interval(None);
    let door = door(&config, &[instance("a", &own.url(), &worker.url())]).await;
    let prompt = chat("m").replace(
        "[]",
        &format!(r#"[{{"role":"user","content":"{}"}}]"#, "Hello again. ".repeat(400)),
    );
    assert!(prompt.len() > 4096);
    // The tokens that the engine was expected to have cached for one more request.
    let expected = async || {
        let sum = async || {
            let metrics = door.get("/metrics").await.raw;
            let name = "dynamo_frontend_expected_cached_tokens_sum{";
            let line = metrics.lines().find(|line| line.starts_with(name));
            line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        };
        let before = sum().await;
        assert_eq!(door.post(CHAT, &prompt).await.body(), "own");
        sum().await - before
    };
    assert_eq!(expected().await, 0.0);
    // The door has taken in when the engine started, and thinks the same of its cache.
    let again = worker.count("GET /instance/") + 3;
    while worker.count("GET /instance/") < again {
        assert!(expected().await > 500.0);
        sleep(Duration::from_millis(10)).await;
    }
    worker.behaves(control(STARTED[1]));
    until("it is known to have started anew", async || expected().await == 0.0).await;
    assert!(expected().await > 500.0, "it has the prompt now");
}

#[tokio::test]
async fn a_control_port_that_never_answered_for_an_entry_takes_nothing_out_of_service() {
    let nobody = Double::start(mute()).await.dies().await;
    let (mute, stranger) = (Double::start(mute()).await, Double::start(stranger()).await);
    for control in [&mute.url(), &stranger.url(), &format!("http://{nobody}")] {
        let own = Double::start(engine("own")).await;
        let door = door(&FrontendConfig::new(), &[instance("a", &own.url(), control)]).await;
        assert_eq!(ask(&door).await.body(), "own");
        // Until it was asked more often than it takes to lapse.
        for one in [&mute, &stranger] {
            if one.url() == *control {
                one.until_asked_again(4).await;
            }
        }
        assert_eq!(ask(&door).await.body(), "own");
        assert_eq!(out(&door).await, [""; 0]);
    }
}

#[tokio::test]
async fn an_entry_whose_control_port_falls_silent_is_served_as_one_without() {
    let (_own, worker, door) = in_service(&FrontendConfig::new()).await;
    worker.behaves(mute());
    for _ in 0..3 {
        worker.until_asked_again(1).await;
        assert_eq!(ask(&door).await.body(), "own");
    }
    worker.until_asked_again(2).await;
    assert_eq!((ask(&door).await.body(), out(&door).await), ("own", vec![]));
    // It has answered once, so a no is a no.
    worker.behaves(stranger());
    until_out(&door, &["gone"]).await;
    assert_eq!(ask(&door).await.status(), 503);
}

#[tokio::test]
async fn the_control_port_does_not_clear_a_failed_connect_to_the_engine() {
    let (own, worker, door) = in_service(&FrontendConfig::new()).await;
    let address = own.dies().await;
    assert_eq!(ask(&door).await.status(), 502);
    worker.until_asked_again(3).await;
    assert_eq!(out(&door).await, ["unreachable"]);
    let _again = Double::at(address, engine("again")).await;
    until_out(&door, &[]).await;
    assert_eq!(ask(&door).await.body(), "again");
}

#[tokio::test]
async fn a_request_is_not_sent_again_while_the_worker_of_its_silent_engine_answers() {
    let busy = Double::start(mute()).await;
    let worker = Double::start(control(SILENT)).await;
    let mut door = door(&FrontendConfig::new(), &[instance("a", &busy.url(), &worker.url())]).await;
    let waiting = door.begin(post(CHAT, &chat("m"))).await;
    busy.until("POST ", 1).await;
    let idle = Double::start(engine("idle")).await;
    door.add(&instance("a", &idle.url(), &worker.url()));
    until_out(&door, &["unresponsive"]).await;
    // New requests go to the other one, for as long as it takes to give the first one up.
    let asked = worker.count("GET /instance/");
    while worker.count("GET /instance/") < asked + 6 {
        assert_eq!(ask(&door).await.body(), "idle");
    }
    assert_eq!(busy.prompts(), 1);
    let metrics = door.get("/metrics").await.raw;
    assert!(!metrics.contains(r#"outcome="sent",reason="unresponsive"} 1"#), "{metrics}");
    drop(waiting);
}

#[tokio::test]
async fn an_engine_whose_health_blocks_is_alive_while_it_lists_its_models() {
    let list = Some(with_body("200 OK", r#"{"data":[]}"#));
    let busy = Double::start(vec![("GET /v1/models", list), ("", None)]).await;
    let nobody = Double::start(mute()).await.dies().await;
    let control = format!("http://{nobody}");
    let mut door = door(&FrontendConfig::new(), &[instance("a", &busy.url(), &control)]).await;
    let _waiting = door.begin(post(CHAT, &chat("m"))).await;
    busy.until("POST ", 1).await;
    let idle = Double::start(engine("idle")).await;
    door.add(&instance("a", &idle.url(), &control));
    // For longer than a silent engine would get.
    busy.until("GET /v1/models", 8).await;
    assert_eq!(out(&door).await, [""; 0]);
    assert_eq!(idle.prompts(), 0);
}
