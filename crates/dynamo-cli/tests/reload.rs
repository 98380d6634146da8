//! Static workers and limits of the configuration file that change under load, in the real program.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use process::{FRONTEND, Running, free_port, until};
use serde_json::{Value, json};

/// An engine that answers each request, at once or when it is let.
struct Engine {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The bodies that came.
    bodies: Mutex<Vec<String>>,
    holds: Mutex<bool>,
    let_go: Condvar,
}

impl Engine {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Shared>::default();
        let engine = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, engine) = (stream.unwrap(), engine.clone());
                thread::spawn(move || answer(&stream, &engine));
            }
        });
        Self { url, shared }
    }

    fn asked(&self) -> usize {
        self.shared.bodies.lock().unwrap().len()
    }

    fn last(&self) -> String {
        self.shared.bodies.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Requests are not answered from now on, or are.
    fn hold(&self, holds: bool) {
        *self.shared.holds.lock().unwrap() = holds;
        self.shared.let_go.notify_all();
    }
}

fn answer(stream: &TcpStream, engine: &Shared) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    // The peer may have gone.
    let _ = reader.read_exact(&mut body);
    if head.starts_with("POST ") {
        engine.bodies.lock().unwrap().push(String::from_utf8(body).unwrap());
        let holds = engine.holds.lock().unwrap();
        drop(engine.let_go.wait_while(holds, |holds| *holds).unwrap());
    }
    let _ = write!(
        &*stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
    );
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

/// A frontend, and the file that it follows.
struct Front {
    program: Running,
    address: String,
    path: PathBuf,
    _folder: tempfile::TempDir,
    written: usize,
}

impl Front {
    fn start(settings: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frontend.yaml");
        fs::write(&path, settings.to_string()).unwrap();
        let arguments = ["--http-host", "127.0.0.1", "--http-port", "0", "--namespace", "team-a"];
        let arguments = [&arguments[..], &["--config", path.to_str().unwrap()]].concat();
        let program = Running::start(FRONTEND, &arguments, &[]);
        let address = program.wait_for_field(" listening ", "address");
        Self { program, address, path, _folder: folder, written: 0 }
    }

    /// Writes the file, and waits until it is taken up, or refused.
    fn write(&mut self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
        self.program.signal("HUP");
        self.written += 1;
        until("the file was read", || {
            let logged = self.program.logged();
            let times = |text: &str| logged.matches(text).count();
            times("file was taken up") + times("file cannot be used") >= self.written
        });
    }

    fn take_up(&mut self, settings: &Value) {
        self.write(&settings.to_string());
    }

    /// The status and the body of an answer.
    fn ask(&self, body: &Value) -> (u16, String) {
        ask(&self.address, body)
    }

    /// Begins a request.
    fn begin(&self) -> JoinHandle<(u16, String)> {
        let address = self.address.clone();
        thread::spawn(move || ask(&address, &chat()))
    }

    fn metric(&self, name: &str) -> Option<String> {
        let page = agent().get(format!("http://{}/metrics", self.address)).call().unwrap();
        let page = page.into_body().read_to_string().unwrap();
        page.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    }

    fn until_queued(&self, count: usize) {
        let count = count.to_string();
        until("as many wait", || {
            self.metric("dynamo_frontend_queued_requests ").as_ref() == Some(&count)
        });
    }
}

fn ask(address: &str, body: &Value) -> (u16, String) {
    let url = format!("http://{address}/v1/chat/completions");
    let request = agent().post(url).header("content-type", "application/json");
    let answer = request.send(body.to_string()).unwrap();
    (answer.status().as_u16(), answer.into_body().read_to_string().unwrap())
}

fn chat() -> Value {
    json!({ "model": "m", "messages": [] })
}

fn worker(engine: &Engine, more: &str) -> String {
    format!("m={};kinds=chat{more}", engine.url)
}

#[test]
fn workers_come_change_and_go_under_load_without_a_lost_request_and_a_broken_file_changes_nothing()
{
    let [first, second, third] = [(); 3].map(|()| Engine::start());
    let settings = |workers: &[String]| json!({ "priority": "keys", "worker_url": workers, "queue_depth": 99 });
    let mut front = Front::start(&settings(&[worker(&first, "")]));
    until("the model is served", || front.ask(&chat()).0 == 200);

    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let traffic: Vec<_> = (0..4)
        .map(|_| {
            let (stop, address, served) = (stop.clone(), front.address.clone(), served.clone());
            thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let answer = ask(&address, &chat());
                    assert_eq!(answer.0, 200, "{answer:?}");
                    served.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let more = |served: &AtomicUsize| {
        let before = served.load(SeqCst);
        until("requests go on", || served.load(SeqCst) > before + 50);
    };
    more(&served);

    front.take_up(&settings(&[worker(&first, ""), worker(&second, "")]));
    until("the second one gets requests", || second.asked() > 20);
    assert!(!first.last().contains("priority"), "{}", first.last());

    front.take_up(&settings(&[worker(&second, ""), worker(&first, ";accepts=priority")]));
    until("the first one is told priorities", || first.last().contains(r#""priority":0"#));
    more(&served);
    assert!(!second.last().contains("priority"), "{}", second.last());

    front.write("worker_url: [\"m=nowhere\"]\n");
    front.write("queue_depth: [\n");
    front.program.wait_for("the configuration file cannot be used; the last good one stands");
    let (one, other) = (first.asked(), second.asked());
    until("both go on", || first.asked() > one + 20 && second.asked() > other + 20);

    // All at once: both go, and another one comes.
    front.take_up(&settings(&[worker(&third, "")]));
    until("the third one gets requests", || third.asked() > 0);
    // Those that were under way may still arrive.
    more(&served);
    let gone = [&first, &second].map(Engine::asked);
    more(&served);
    assert_eq!([&first, &second].map(Engine::asked), gone);
    stop.store(true, SeqCst);
    traffic.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn a_worker_that_stays_keeps_its_requests_and_its_standing_and_one_that_goes_ends_what_it_has() {
    let sound = Engine::start();
    // Nobody listens there.
    let nowhere = free_port();
    let gone = |more: &str| format!("m=http://127.0.0.1:{nowhere};kinds=chat{more}");
    let settings = |workers: &[String]| json!({ "worker_url": workers, "worker_concurrency": 1 });
    let mut front = Front::start(&settings(&[gone(""), worker(&sound, "")]));
    let out = |front: &Front| front.program.logged().matches("a worker is out of rotation").count();
    until("one is out of rotation", || front.ask(&chat()).0 == 200 && out(&front) == 1);
    sound.hold(true);
    let before = sound.asked();
    let runs = front.begin();
    until("it runs", || sound.asked() > before);
    let waits = front.begin();
    front.until_queued(1);
    front.take_up(&settings(&[worker(&sound, ";accepts=priority"), gone(";accepts=priority")]));
    front.until_queued(1);
    assert_eq!(sound.asked(), before + 1, "its place is taken");
    sound.hold(false);
    assert_eq!((runs.join().unwrap().0, waits.join().unwrap().0), (200, 200));
    for _ in 0..20 {
        assert_eq!(front.ask(&chat()).0, 200);
    }
    assert_eq!(out(&front), 1, "it has been out all the time");

    sound.hold(true);
    let before = sound.asked();
    let runs = front.begin();
    until("it runs", || sound.asked() > before);
    let other = Engine::start();
    front.take_up(&settings(&[worker(&other, "")]));
    until("the other one serves", || front.ask(&chat()).0 == 200 && other.asked() > 0);
    sound.hold(false);
    assert_eq!(runs.join().unwrap().0, 200, "it ends where it was");
}

#[test]
fn no_worker_is_taken_up_while_the_terms_for_it_wait_for_a_restart() {
    let [first, second] = [(); 2].map(|()| Engine::start());
    let mut front = Front::start(&json!({ "worker_url": [worker(&first, "")] }));
    until("the model is served", || front.ask(&chat()).0 == 200);
    let networks = json!(["127.0.0.0/8"]);
    let workers = [worker(&second, "")];
    front.take_up(&json!({ "worker_url": workers, "worker_network": networks }));
    let told = front.program.wait_for("but for settings that need a restart");
    assert!(told.contains("worker_url") && told.contains("worker_network"), "{told}");
    assert_eq!((front.ask(&chat()).0, second.asked()), (200, 0));
    front.take_up(&json!({ "worker_url": workers }));
    until("the other one serves", || front.ask(&chat()).0 == 200 && second.asked() > 0);
}

#[test]
fn limits_hold_from_the_change_on_and_what_cannot_change_is_named() {
    let engine = Engine::start();
    let settings = |more: Value| {
        let mut all = json!({ "worker_url": [worker(&engine, "")], "worker_concurrency": 1 });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let mut front = Front::start(&settings(json!({})));
    until("the model is served", || front.ask(&chat()).0 == 200);
    engine.hold(true);
    let before = engine.asked();
    let run = |count| until("so many run", || engine.asked() == before + count);
    let mut running = vec![front.begin()];
    run(1);
    running.extend([(); 3].map(|()| front.begin()));
    front.until_queued(3);

    front.take_up(&settings(json!({ "worker_concurrency": 2 })));
    run(2);
    front.until_queued(2);
    front.take_up(&settings(json!({ "worker_concurrency": 1, "queue_depth": 2 })));
    let refused = front.ask(&chat());
    assert!(refused.0 == 429 && refused.1.contains("queue_full"), "{refused:?}");
    front.take_up(&settings(json!({ "queue_timeout": 1, "http_body_limit_mb": 1 })));
    let refused = front.ask(&chat());
    assert!(refused.0 == 503 && refused.1.contains("queue_timeout"), "{refused:?}");
    let large = json!({ "model": "m", "messages": ["x".repeat(1 << 20)] });
    assert_eq!(front.ask(&large).0, 413);
    assert_eq!(engine.asked(), before + 2, "nobody was let in");
    assert!(!front.program.logged().contains("need a restart"));

    front.take_up(&settings(json!({ "worker_concurrency": 9, "connect_timeout": 3 })));
    run(4);
    let told = front.program.wait_for("but for settings that need a restart");
    assert!(told.contains("settings=\"connect_timeout\""), "{told}");
    engine.hold(false);
    for answer in running {
        assert_eq!(answer.join().unwrap().0, 200, "nobody was cut");
    }
    assert_eq!(front.ask(&large).0, 200, "the limit is the default again");
}
