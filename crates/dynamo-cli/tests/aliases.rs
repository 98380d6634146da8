//! Names and shares as an operator has them: one configuration file for two teams, in the real program.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use process::{FRONTEND, Running, finish, finish_with, until};
use serde_json::{Value, json};

/// An engine of one model, which tells whom it took a request for.
struct Engine {
    url: String,
    fails: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Engine {
    fn start(model: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (fails, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let state = (fails.clone(), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, (fails, asked)) = (stream.unwrap(), state.clone());
                thread::spawn(move || answer(&stream, model, &fails, &asked));
            }
        });
        Self { url, fails, asked }
    }

    fn worker(&self, model: &str, namespace: &str) -> String {
        format!("{model}={};namespace={namespace}", self.url)
    }
}

fn answer(stream: &std::net::TcpStream, model: &str, fails: &AtomicBool, asked: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    // The peer may have gone.
    let _ = reader.read_exact(&mut body);
    let asks = !body.is_empty();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut status = "200 OK";
    let mut media = "application/json";
    let mut text = "{}".to_owned();
    if asks {
        asked.fetch_add(1, SeqCst);
        if fails.load(SeqCst) {
            status = "500 Internal Server Error";
        }
        let event = json!({ "model": model, "took": body["model"] });
        text = if body["stream"] == true {
            media = "text/event-stream";
            format!("data: {event}\n\ndata: {event}\n\ndata: [DONE]\n\n")
        } else {
            event.to_string()
        };
    }
    let length = text.len();
    let _ = write!(
        &*stream,
        "HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    );
}

struct Answer {
    status: u16,
    model: Option<String>,
    fell_back: bool,
    body: String,
    /// The head, as far as two answers can be compared.
    head: Vec<String>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent()
}

fn read(answer: ureq::http::Response<ureq::Body>) -> Answer {
    let status = answer.status().as_u16();
    let value =
        |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (model, fell_back) = (value("x-dynamo-model"), value("x-dynamo-fallback").is_some());
    let mut head: Vec<_> = answer
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    head.sort();
    let body = answer.into_body().read_to_string().unwrap();
    Answer { status, model, fell_back, body, head }
}

fn get(address: &str, path: &str, key: &str) -> Answer {
    let request = agent().get(format!("http://{address}{path}"));
    read(request.header("authorization", format!("Bearer {key}")).call().unwrap())
}

fn ask(address: &str, key: &str, body: &Value, session: Option<usize>) -> Answer {
    let mut request = agent()
        .post(format!("http://{address}/v1/chat/completions"))
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {key}"));
    if let Some(session) = session {
        request = request.header("x-session-id", format!("s{session}"));
    }
    read(request.send(body.to_string()).unwrap())
}

fn chat(address: &str, key: &str, model: &str) -> Answer {
    ask(address, key, &json!({ "model": model, "messages": [] }), None)
}

const A: &str = "sk-0123456789abcdef0123456789abcdea";
const B: &str = "sk-0123456789abcdef0123456789abcdeb";

/// Writes a file with the keys of two teams and these aliases, and renames it into its place.
fn write(path: &Path, models: &Value) {
    let key = |name: &str, key: &str| {
        let hash = finish_with(FRONTEND, &["hash-key"], key).stdout;
        json!({ "name": name, "hash": hash.trim(), "namespace_prefix": name })
    };
    let file = json!({ "keys": [key("team-a", A), key("team-b", B)], "models": models });
    let new = path.with_extension("new");
    fs::write(&new, file.to_string()).unwrap();
    fs::rename(new, path).unwrap();
}

fn frontend(config: &Path, workers: &[String]) -> (Running, String) {
    let config = config.to_str().unwrap();
    let mut arguments = vec![
        "--http-host",
        "127.0.0.1",
        "--http-port",
        "0",
        "--all-namespaces",
        "--config",
        config,
    ];
    for worker in workers {
        arguments.extend(["--worker-url", worker]);
    }
    let frontend = Running::start(FRONTEND, &arguments, &[]);
    let address = frontend.wait_for_field(" listening ", "address");
    (frontend, address)
}

/// Two generations of one model of `team-a`, and a model of `team-b`.
fn teams() -> ([Engine; 3], Vec<String>) {
    let engines = [Engine::start("qwen"), Engine::start("qwen"), Engine::start("llama")];
    let workers = vec![
        engines[0].worker("qwen", "team-a-0f3c9a1b"),
        engines[1].worker("qwen", "team-a-77ab01cd"),
        engines[2].worker("llama", "team-b"),
    ];
    (engines, workers)
}

fn generations(old: u32, new: u32) -> Value {
    json!([
        { "model": "qwen", "namespace": "team-a-0f3c9a1b", "weight": old },
        { "model": "qwen", "namespace": "team-a-77ab01cd", "weight": new },
    ])
}

#[test]
fn one_file_for_two_teams_gives_each_its_own_and_no_trace_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend.yaml");
    let for_all = json!([{ "model": "qwen", "namespace": "team-a-0f3c9a1b" },
                         { "model": "llama", "namespace": "team-b" }]);
    write(
        &path,
        &json!([
            { "name": "gpt-4o", "targets": for_all },
            { "name": "only-a", "targets": generations(1, 1), "answer_as": "served" },
        ]),
    );
    let (_engines, workers) = teams();
    let (_frontend, address) = frontend(&path, &workers);
    until("both teams are served", || {
        [A, B].iter().all(|key| chat(&address, key, "gpt-4o").status == 200)
    });
    let list = |key| {
        let list = get(&address, "/v1/models", key).json();
        let ids = list["data"].as_array().unwrap().iter();
        ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(A), ["gpt-4o", "only-a", "qwen"]);
    assert_eq!(list(B), ["gpt-4o", "llama"]);
    for (key, model) in [(A, "qwen"), (B, "llama")] {
        let got = chat(&address, key, "gpt-4o");
        assert_eq!(got.model.as_deref(), Some(model));
        assert_eq!(got.json(), json!({ "model": "gpt-4o", "took": model }));
        let stream = json!({ "model": "gpt-4o", "stream": true, "messages": [] });
        let got = ask(&address, key, &stream, None);
        let event = json!({ "model": "gpt-4o", "took": model });
        assert_eq!(got.body, format!("data: {event}\n\ndata: {event}\n\ndata: [DONE]\n\n"));
    }
    let got = chat(&address, A, "only-a");
    assert_eq!(got.json(), json!({ "model": "qwen", "took": "qwen" }), "as it was served");

    let same = |one: &Answer, other: &Answer| {
        let bare = |answer: &Answer, name: &str| {
            (answer.status, answer.head.clone(), answer.body.replace(name, "?"))
        };
        assert_eq!(bare(one, "only-a"), bare(other, "nobody"));
    };
    same(&chat(&address, B, "only-a"), &chat(&address, B, "nobody"));
    let model = |name: &str| get(&address, &format!("/v1/models/{name}"), B);
    same(&model("only-a"), &model("nobody"));
}

#[test]
fn ten_percent_go_to_a_new_generation_and_back_without_a_lost_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend.yaml");
    let shares = |old: u32, new: u32| {
        let targets = generations(old, new);
        json!([{ "name": "gpt-4o", "targets": targets }])
    };
    write(&path, &shares(100, 0));
    let ([old, new, _other], workers) = teams();
    let (frontend, address) = frontend(&path, &workers);
    until("the alias is served", || chat(&address, A, "gpt-4o").status == 200);
    let body = json!({ "model": "gpt-4o", "messages": [] });

    let stop = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..4)
        .map(|_| {
            let (stop, address, body) = (stop.clone(), address.clone(), body.clone());
            thread::spawn(move || {
                let mut count = 0;
                while !stop.load(SeqCst) {
                    assert_eq!(ask(&address, A, &body, None).status, 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let taken_up = |times: usize| {
        until("the file is taken up", || {
            frontend.logged().matches("names of models taken up").count() == times
        });
    };
    let count = || [old.asked.load(SeqCst), new.asked.load(SeqCst)];
    write(&path, &shares(90, 10));
    taken_up(1);
    let before = count();
    until("a thousand requests have come", || count()[0] - before[0] > 900);
    let after = count();
    let share =
        (after[1] - before[1]) as f64 / (after[0] + after[1] - before[0] - before[1]) as f64;
    assert!((0.06..0.14).contains(&share), "{share}");

    write(&path, &shares(100, 0));
    taken_up(2);
    // Requests that were under way may still arrive: four at most.
    let before = count();
    until("more requests have come", || count()[0] - before[0] > 200);
    assert!(count()[1] - before[1] <= 4, "{:?}", count());
    stop.store(true, SeqCst);
    let all: usize = traffic.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(all > 1000, "{all}");
}

#[test]
fn sessions_stay_where_they_are_and_only_those_move_that_must() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend.yaml");
    let shares = |old: u32, new: u32| json!([{ "name": "x", "targets": generations(old, new) }]);
    write(&path, &shares(80, 20));
    let ([old, new, _other], workers) = teams();
    let (frontend, address) = frontend(&path, &workers);
    until("the alias is served", || chat(&address, A, "x").status == 200);
    let body = json!({ "model": "x", "messages": [] });
    let places = || {
        let place = |session| {
            let before = new.asked.load(SeqCst);
            assert_eq!(ask(&address, A, &body, Some(session)).status, 200);
            new.asked.load(SeqCst) > before
        };
        (0..100).map(|session| (session, place(session))).collect::<BTreeMap<_, _>>()
    };
    let first = places();
    let count = |places: &BTreeMap<usize, bool>| places.values().filter(|one| **one).count();
    assert!((8..35).contains(&count(&first)), "{}", count(&first));
    assert_eq!(places(), first, "each session stays");
    write(&path, &shares(50, 50));
    frontend.wait_for("names of models taken up");
    let second = places();
    assert!(count(&second) > count(&first));
    assert!(first.iter().all(|(session, is_new)| !is_new || second[session]), "nobody went back");
    assert!(old.asked.load(SeqCst) > 0);
}

#[test]
fn a_fallback_answers_while_the_target_fails_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend.yaml");
    let fallback = json!([{ "model": "qwen", "namespace": "team-a-77ab01cd" }]);
    let target = json!([{ "model": "qwen", "namespace": "team-a-0f3c9a1b" }]);
    let models =
        |on: &str| json!([{ "name": "x", "targets": target, "fallback": fallback, "on": [on] }]);
    write(&path, &models("429"));
    let ([old, new, _other], workers) = teams();
    let (frontend, address) = frontend(&path, &workers);
    until("the alias is served", || chat(&address, A, "x").status == 200);
    old.fails.store(true, SeqCst);
    let got = chat(&address, A, "x");
    assert_eq!((got.status, got.fell_back), (200, true));
    frontend.wait_for("asking a fallback");
    new.fails.store(true, SeqCst);
    let got = chat(&address, A, "x");
    assert_eq!((got.status, got.fell_back), (500, false), "the first answer is passed on");
    old.fails.store(false, SeqCst);
    assert_eq!(chat(&address, A, "x").status, 200);

    write(&path, &models("503"));
    let line = frontend.wait_for("the configuration file cannot be used");
    assert!(line.contains("models[0] (x).on: expected 429 or context_length"), "{line}");
    assert_eq!(chat(&address, A, "x").status, 200);
    let check = finish(FRONTEND, &["config", "check", path.to_str().unwrap()], &[]);
    assert_eq!(check.code, 2);
    assert!(check.stderr.contains(":1: models[0] (x).on: expected 429"), "{}", check.stderr);
}

#[test]
fn an_alias_wins_over_a_model_of_its_name_and_the_log_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend.yaml");
    write(&path, &json!([{ "name": "llama", "targets": generations(1, 1) }]));
    let ([_old, _new, other], mut workers) = teams();
    workers.push(other.worker("llama", "team-a"));
    let (frontend, address) = frontend(&path, &workers);
    until("both are served", || {
        chat(&address, A, "llama").model.is_some() && chat(&address, B, "llama").status == 200
    });
    for _ in 0..5 {
        assert_eq!(chat(&address, A, "llama").model.as_deref(), Some("qwen"));
        let theirs = chat(&address, B, "llama");
        assert_eq!((theirs.status, theirs.model), (200, None), "there the alias has no target");
    }
    let told = || frontend.logged().matches("an alias hides the model of its name").count();
    until("it is told", || told() > 0);
    assert_eq!(told(), 1);
}
