//! A frontend with keys, workers and load, as operators have it.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use ureq::Agent;

use crate::{
    http, poll,
    process::{self, Service},
    workspace,
};

/// The deadline of one event.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A name of a model that would be an element, if a page took it for HTML.
pub(super) const HOSTILE: &str = "<b>bold</b>";

/// A certificate that lasts for a hundred years, and whose key nobody has: the workers speak no TLS, and
/// the end of a certificate needs one to have a value.
const AUTHORITY: &str = include_str!("authority.pem");

/// Two teams with workers, and a third one without.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) frontend: Option<Service>,
    pub(super) admin: String,
    /// The workers, and the ports of their control ports.
    pub(super) workers: Vec<(Service, u16)>,
    load: Load,
    pub(super) place: PathBuf,
}

/// Requests, until it is dropped.
#[derive(Debug)]
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has sent its requests.
            let _ = thread.join();
        }
    }
}

impl Stage {
    pub(super) fn start(endpoints: &str) -> Result<Self> {
        let place = workspace::target()?.join("operators");
        fs::create_dir_all(&place)?;
        let [port, admin_port, one, two, three] = http::free_ports()?;
        let teams = ["team-a", "team-b", "team-c"];
        let mut keys = Vec::new();
        let mut list = Vec::new();
        for team in teams {
            let [key, hash] = new_key()?;
            let mut entry = json!({"name": team, "hash": hash, "namespace": team});
            if team == "team-b" {
                // Ten answers of 48 tokens leave less than a tenth.
                entry["output_tokens_per_day"] = 500.into();
            }
            list.push(entry);
            keys.push(key);
        }
        let file = place.join("keys.json");
        fs::write(&file, Value::from(list).to_string())?;
        let mut command = program("dynamo-frontend")?;
        command.args(["--all-namespaces", "--etcd-endpoints", endpoints]);
        command.args(["--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
        command.args(["--admin-port", &admin_port.to_string(), "--drain-grace", "0"]);
        command.args(["--worker-concurrency", "1", "--queue-timeout", "5"]);
        command.args(["--usage-store", "etcd", "--usage-group", "operators"]);
        command.arg("--api-keys").arg(&file);
        let authority = place.join("authority.pem");
        fs::write(&authority, AUTHORITY)?;
        command.arg("--worker-ca").arg(&authority);
        command.arg("--access-log").arg(place.join("access.log"));
        let frontend = Service::start("the frontend", &mut command, &place.join("frontend.log"))?;
        let mut workers = Vec::new();
        for (namespace, model, control) in
            [("team-a", "model-a", one), ("team-a", "model-a", two), ("team-b", HOSTILE, three)]
        {
            let mut command = program("dynamo-worker")?;
            command.args(["--echo", "--echo-delay-ms", "20", "--etcd-endpoints", endpoints]);
            command.args(["--namespace", namespace, "--model", model]);
            command.args(["--control-port", &control.to_string()]);
            let log = place.join(format!("worker-{control}.log"));
            workers.push((Service::start("a worker", &mut command, &log)?, control));
        }
        let admin = format!("http://127.0.0.1:{admin_port}");
        let load = Load::start(port, &keys);
        let mut stage = Self { frontend: Some(frontend), admin, workers, load, place };
        stage.wait_for("three instances serve", |status| {
            status["totals"]["instances"]["serving"] == 3
        })?;
        Ok(stage)
    }

    /// The status, as JSON.
    pub(super) fn status(&mut self) -> Result<Value> {
        if let Some(frontend) = &mut self.frontend {
            frontend.check()?;
        }
        let answer = http::get(&format!("{}/status.json", self.admin))?;
        serde_json::from_str(&answer.body).context("the status is no JSON")
    }

    /// Waits until the status is as it should be.
    pub(super) fn wait_for(
        &mut self,
        event: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        poll::until(event, PATIENCE, || {
            // The frontend may not listen yet.
            let status = self.status().unwrap_or_default();
            Ok(is_so(&status).then_some(status))
        })
    }

    /// Ends the load.
    pub(super) fn end_load(&mut self) {
        self.load = Load { stop: Arc::default(), threads: Vec::new() };
    }
}

impl Load {
    /// Six clients of team-a, so that some wait in line; one of team-b and one of team-c, each with what
    /// fails as well.
    fn start(port: u16, keys: &[String]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let clients = [(0, "model-a"); 6].into_iter().chain([(1, HOSTILE), (2, "model-c")]);
        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
        let threads = clients
            .enumerate()
            .map(|(client, (key, model))| {
                let (stop, url, key) = (stop.clone(), url.clone(), keys[key].clone());
                thread::spawn(move || {
                    let agent = Agent::config_builder()
                        .http_status_as_error(false)
                        .timeout_global(Some(PATIENCE))
                        .build()
                        .new_agent();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let said = format!("client {client} says {n} {}", "word ".repeat(300));
                        let body = json!({
                            "model": if n % 5 == 4 { "unknown" } else { model },
                            // The worker of team-a that dies is in the middle of a stream.
                            "stream": model == "model-a" || n % 3 != 0,
                            "stream_options": {"include_usage": true},
                            "max_tokens": 48,
                            "messages": [{"role": "user", "content": said}],
                        });
                        let request =
                            agent.post(&url).header("authorization", format!("Bearer {key}"));
                        // Whether it was answered is for the metrics to say.
                        if let Ok(mut answer) = request.send_json(&body) {
                            let _ = answer.body_mut().read_to_string();
                        }
                        thread::sleep(Duration::from_millis(30));
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

fn program(name: &str) -> Result<Command> {
    Ok(Command::new(workspace::debug_binaries()?.join(name)))
}

/// A new key, and its hash.
fn new_key() -> Result<[String; 2]> {
    let printed = process::capture(program("dynamo-frontend")?.args(["hash-key", "--generate"]))?;
    let mut lines = printed.lines().map(str::to_owned);
    let mut line = || lines.next().context("hash-key prints two lines");
    Ok([line()?, line()?])
}
