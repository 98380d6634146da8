//! A worker's control port, and what a worker refuses to start: real processes, no store.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use dynamo_discovery::{EngineState, InstanceStatus, WorkerState};
use process::{Running, WORKER, finish, until};
use serde_json::json;

/// An address that nobody answers, so that what needs a store goes on without it.
const NO_ETCD: [&str; 2] = ["--etcd-endpoints", "http://127.0.0.1:1"];
const KEY: &str = "a-key-that-nobody-could-guess";

/// A worker with a control port.
struct Controlled {
    worker: Running,
    url: String,
    instance: String,
}

impl Controlled {
    fn start(arguments: &[&str]) -> Self {
        let worker = Running::start(WORKER, &[&NO_ETCD[..], arguments].concat(), &[]);
        let url = worker.wait_for_field("the control port listens", "url");
        let instance = worker.wait_for_field("following the engine", "instance");
        Self { worker, url, instance }
    }

    /// The answer to a question: its status, and its body.
    fn ask(&self, method: &str, path: &str, key: Option<&str>) -> (u16, String) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut request =
            http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, None)
    }

    fn status(&self) -> InstanceStatus {
        let (status, body) = self.get(&format!("/instance/{}", self.instance));
        assert_eq!(status, 200, "{body}");
        InstanceStatus::from_json(body.as_bytes()).unwrap()
    }
}

#[test]
fn a_worker_answers_for_its_own_id_alone_and_needs_no_store_for_that() {
    for host in ["127.0.0.1", "::1"] {
        let worker = Controlled::start(&["--echo", "--echo-host", host, "--model", "m"]);
        until("the models are known", || worker.status().state == WorkerState::Serving);
        let status = worker.status();
        assert_eq!((status.engine, &status.models[..]), (EngineState::Healthy, &["m".into()][..]));
        assert!(status.engine_started.is_some());
        for path in ["/instance/1", "/instance/", "/instance", "/"] {
            assert_eq!(worker.get(path), (404, String::new()), "{path}");
        }
        assert_eq!(worker.get("/live").0, 200);
        assert_eq!(worker.get("/ready").0, 503, "nothing is registered");
        until("a failure is counted", || {
            let page = worker.get("/metrics").1;
            page.lines().any(|line| {
                let failures = line.strip_prefix("dynamo_worker_registration_failures_total ");
                failures.is_some_and(|failures| failures != "0")
            })
        });
        assert_eq!(worker.ask("POST", "/drain", Some(KEY)).0, 404, "there is no key");
    }
}

#[test]
fn a_worker_is_drained_by_whoever_has_the_key_and_its_engine_goes_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{KEY}\n")).unwrap();
    let key_file = ["--control-key-file", file.path().to_str().unwrap()];
    let worker = Controlled::start(&[&["--echo", "--model", "m"][..], &key_file].concat());
    until("the models are known", || worker.status().state == WorkerState::Serving);
    assert_eq!(worker.ask("POST", "/drain", Some("a-key-that-is-not-the-right-one")).0, 401);
    assert_eq!(worker.status().state, WorkerState::Serving);

    assert_eq!(worker.ask("POST", "/drain", Some(KEY)).0, 200);
    let status = worker.status();
    assert_eq!((status.state, status.engine), (WorkerState::Draining, EngineState::Healthy));
    assert_eq!(status.models, ["m"], "the engine still has it");
    // The store is away, so nothing is registered in time.
    assert_eq!(worker.ask("POST", "/undrain", Some(KEY)).0, 202);
    assert_eq!(worker.status().state, WorkerState::Serving);
    assert!(!worker.worker.logged().contains(KEY));
}

#[test]
fn the_requests_of_the_engine_are_told() {
    let worker = Controlled::start(&["--echo", "--model", "m", "--echo-delay-ms", "60000"]);
    let engine = worker.worker.wait_for_field("the echo engine listens", "url");
    until("the requests are known", || worker.status().running == Some(0));
    let body =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "a"}]});
    let stream = ureq::post(format!("{engine}/v1/chat/completions")).send_json(body).unwrap();
    until("one runs", || worker.status().running == Some(1));
    assert_eq!(worker.status().waiting, Some(0));
    drop(stream);
    until("none runs", || worker.status().running == Some(0));
}

#[test]
fn a_worker_that_ends_says_so_for_as_long_as_its_engine_goes_on() {
    let worker = Controlled::start(&["--echo", "--model", "m", "--drain-grace", "2"]);
    until("the models are known", || worker.status().state == WorkerState::Serving);
    worker.worker.signal("TERM");
    worker.worker.wait_for("stopping");
    let status = worker.status();
    assert_eq!((status.state, status.engine), (WorkerState::Draining, EngineState::Healthy));
    assert_eq!(worker.worker.end().code, 0);
}

#[test]
fn there_is_no_control_port_where_none_is_wanted_or_none_could_be_reached() {
    let none = Running::start(WORKER, &[&NO_ETCD[..], &["--echo", "--no-control"]].concat(), &[]);
    none.wait_for("following the engine");
    none.signal("TERM");
    assert!(!none.end().stderr.contains("control port"));

    // RFC 5737: an address of nobody's machine.
    let elsewhere = ["--echo", "--advertise-url", "http://192.0.2.7:8001"];
    let none = Running::start(WORKER, &[&NO_ETCD[..], &elsewhere].concat(), &[]);
    let warned = none.wait_for("there is no control port");
    assert!(warned.contains("WARN") && warned.contains("--control-advertise-url"), "{warned}");
    none.wait_for("following the engine");

    let forwarded = ["--control-advertise-url", "http://192.0.2.7:9001"];
    let some = Running::start(WORKER, &[&NO_ETCD[..], &elsewhere, &forwarded].concat(), &[]);
    let url = some.wait_for_field("the control port listens", "url");
    assert_eq!(url, "http://192.0.2.7:9001");
}

#[test]
fn a_control_port_that_is_taken_is_one_line_and_exit_1_and_no_engine_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let script = format!("touch {}", started.display());
    let arguments =
        ["--url", "http://127.0.0.1:1", "--control-port", &port, "--", "sh", "-c", &script];
    let ended = finish(WORKER, &arguments, &[("DYN_LOG", "off")]);
    assert_eq!((ended.code, ended.stderr.lines().count()), (1, 1), "{ended:?}");
    for part in ["error: the control port cannot listen", &port, "--control-port", "in use"] {
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
    assert!(!started.exists());
}

#[test]
fn a_command_is_not_started_where_a_foreign_engine_listens() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // It accepts connections, and answers nothing.
        let foreign = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", foreign.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let started = directory.path().join("started");
        let script = format!("touch {}; sleep 1000", started.display());
        let arguments = ["--url", &url, "--", "sh", "-c", &script];
        let ended = finish(WORKER, &[&NO_ETCD[..], &arguments].concat(), &[("DYN_LOG", "off")]);
        assert_eq!((ended.code, ended.stderr.lines().count()), (1, 1), "{ended:?}");
        let told = format!("error: a foreign engine already listens at {url}");
        assert!(ended.stderr.starts_with(&told), "{ended:?}");
        assert!(!started.exists());
    }
}

#[test]
fn a_crowd_at_the_control_port_has_the_places_of_its_own_address_only() {
    let echo = ["--echo", "--echo-host", "127.0.0.1", "--control-host", "::", "--model", "m"];
    let worker = Controlled::start(&echo);
    let port = worker.url.rsplit(':').next().unwrap();
    let ask = |host: &str| {
        let mut stream = TcpStream::connect(format!("{host}:{port}")).unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: w\r\n\r\n").unwrap();
        let mut status = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status).unwrap();
        (stream, String::from_utf8(status.to_vec()).unwrap())
    };
    let mut crowd = Vec::new();
    loop {
        let (stream, status) = ask("127.0.0.1");
        if status.ends_with("503") {
            break;
        }
        crowd.push(stream);
    }
    assert!(crowd.len() >= 64, "{}", crowd.len());
    assert!(ask("[::1]").1.ends_with("200"));
    drop(crowd);
    until("the address has a place again", || ask("127.0.0.1").1.ends_with("200"));
}

#[test]
fn what_is_too_large_for_the_control_port_is_refused_unread() {
    let worker = Controlled::start(&["--echo", "--model", "m"]);
    let address = worker.url.trim_start_matches("http://");
    let long = "x".repeat(9 << 10);
    for (request, status) in [
        (format!("GET /live HTTP/1.1\r\nhost: w\r\nlong: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nhost: w\r\n\r\n"), "431"),
        // Nobody waits for the body.
        ("POST /drain HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000000\r\n\r\n".into(), "404"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(String::from_utf8_lossy(&head), format!("HTTP/1.1 {status}"));
    }
    assert_eq!(worker.get("/live").0, 200);
}

#[test]
fn a_reader_of_the_control_port_that_stands_still_is_cut_off_and_delays_nobody() {
    let worker = Controlled::start(&["--echo", "--model", "m"]);
    let address = worker.url.trim_start_matches("http://");
    let mut stalled = TcpStream::connect(address).unwrap();
    stalled.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let cut = thread::spawn(move || {
        // It asks without an end and reads nothing.
        loop {
            if let Err(error) = stalled.write_all(b"GET /metrics HTTP/1.1\r\nhost: w\r\n\r\n") {
                return error.kind();
            }
        }
    });
    while !cut.is_finished() {
        assert_eq!(worker.get("/live").0, 200);
    }
    let ended = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
    let cut = cut.join().unwrap();
    assert!(ended.contains(&cut), "{cut}");
}
