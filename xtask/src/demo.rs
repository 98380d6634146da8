//! `cargo xtask demo`: two teams on one store, shown with real requests.

use std::{
    io::BufRead,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    etcd,
    http::{self, Answer},
    poll,
    process::{self, Service, shown},
    signals::{Interrupted, check_interrupt},
    workspace,
};

/// The deadline for a route that opens or closes. It takes milliseconds, but for busy machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time between two tokens of the echo engines, so that a viewer sees the stream flow.
const ECHO_DELAY_MS: &str = "40";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: etcd::Source,
    /// End after the story, instead of staying up until Ctrl-C
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let etcd = match etcd::provision(&args.etcd) {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => return in_one_process(args.once, &error),
        Ok(etcd) => etcd,
    };
    println!("Building …");
    process::run(&mut workspace::cargo(["build", "-p", "dynamo-cli", "--bins"]))?;

    println!("\netcd: {} ({})", etcd.endpoints, etcd.origin);
    println!("logs: {}", workspace::target()?.join("demo").display());
    let mut stage = Stage::new(&etcd.endpoints)?;
    stage.play()?;
    if args.once {
        return Ok(());
    }
    stage.stay()
}

/// The demo without an etcd: all layers in one process, over the memory store.
fn in_one_process(once: bool, reason: &anyhow::Error) -> Result<()> {
    println!("no etcd: {reason:#}\nSo all layers in one process, over the memory store:");
    let mut command = workspace::cargo(["run", "-p", "dynamo-cli", "--example", "embedded", "--"]);
    if once {
        command.arg("--once");
    }
    println!("$ {}", shown(&command));
    match process::run(&mut command) {
        // Ctrl-C is the normal end.
        Err(error) if !once && error.is::<Interrupted>() => Ok(()),
        outcome => outcome,
    }
}

/// The frontends of both teams, and the values that the steps of the demo share.
struct Stage {
    endpoints: String,
    a: Frontend,
    b: Frontend,
    workers: Vec<Service>,
}

struct Frontend {
    service: Service,
    base: String,
}

impl Stage {
    fn new(endpoints: &str) -> Result<Self> {
        let [a, b] = http::free_ports()?;
        title("A frontend for each team. There is no worker yet");
        let mut stage = Self {
            endpoints: endpoints.into(),
            a: Frontend::start("team-a", a, endpoints)?,
            b: Frontend::start("team-b", b, endpoints)?,
            workers: Vec::new(),
        };
        stage.a.wait_until_ready()?;
        stage.b.wait_until_ready()?;
        Ok(stage)
    }

    fn play(&mut self) -> Result<()> {
        let hello_a = chat("demo-a", "Hello from team-a, one token at a time", false);
        title("The route of team-a is closed: it opens with the first model");
        self.a.ask(&hello_a)?.expect(503, "endpoint_disabled")?;

        title("A worker of team-b arrives: team-b's route opens, team-a's stays closed");
        let hello_b = chat("demo-b", "Hello from team-b", false);
        let worker_b = self.worker("team-b", "demo-b")?;
        self.workers.push(worker_b);
        self.b.wait_for("demo-b", 200)?;
        self.b.ask(&hello_b)?.expect(200, "Hello from team-b")?;
        self.a.ask(&hello_a)?.expect(503, "endpoint_disabled")?;

        title("A worker of team-a arrives: its route opens");
        let worker_a = self.worker("team-a", "demo-a")?;
        self.a.wait_for("demo-a", 200)?;
        let models = self.a.models()?;
        models.expect(200, "demo-a")?;
        ensure!(!models.body.contains("demo-b"), "team-a sees a model of team-b");
        self.a.ask(&hello_a)?.expect(200, "Hello from team-a")?;

        title("The same as a stream, printed as it arrives");
        self.a.ask_streamed(&chat("demo-a", "Hello from team-a, one token at a time", true))?;

        self.show_caches()?;

        title("To team-a, the model of team-b does not exist");
        self.a.ask(&hello_b)?.expect(404, "model_not_found")?;

        title("The worker of team-a stops (SIGTERM): its route closes");
        println!("$ kill {}", worker_a.id());
        worker_a.ask_to_end();
        self.a.wait_for("demo-a", 503)?;
        self.a.ask(&hello_a)?.expect(503, "endpoint_disabled")?;
        let status = worker_a.end_within(PATIENCE)?;
        ensure!(status.success(), "the worker of team-a: {status}");
        println!("  the worker ended: {status}");
        Ok(())
    }

    /// Two engines serve one model, and the second turn of a chat finds the first one cached.
    fn show_caches(&mut self) -> Result<()> {
        title(
            "Two workers of team-a serve one model: the next turn of a chat goes where the first one is cached",
        );
        let twins = ["twin-1", "twin-2"].map(|name| self.worker_as(name, "team-a", "demo-twins"));
        let twins = twins.into_iter().collect::<Result<Vec<_>>>()?;
        self.a.wait_for_instances("demo-twins", twins.len())?;
        // Engines keep blocks, so a beginning that is worth keeping is longer than a greeting.
        let system = "You answer in one word. ".repeat(60);
        let mut messages = vec![
            json!({ "role": "system", "content": system }),
            json!({ "role": "user", "content": "Which city is the capital of France?" }),
        ];
        let body = |messages: &[Value]| json!({ "model": "demo-twins", "messages": messages });
        let ask = |turn: &str, messages: &[Value]| -> Result<u64> {
            let answer = http::post(&self.a.route(), &body(messages))?;
            answer.expect(200, "usage")?;
            let usage: Value = serde_json::from_str(&answer.body)?;
            let usage = &usage["usage"];
            println!("  {turn}: {usage}");
            Ok(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0))
        };
        ask("first turn", &messages)?;
        messages.push(json!({ "role": "assistant", "content": "Paris" }));
        messages.push(json!({ "role": "user", "content": "And of Italy?" }));
        let cached = ask("second turn", &messages)?;
        ensure!(cached > 0, "the second turn went to the other engine");
        for twin in twins {
            twin.ask_to_end();
            twin.end_within(PATIENCE)?;
        }
        Ok(())
    }

    fn stay(&mut self) -> Result<()> {
        title("All of it is running now");
        let worker_a = self.worker("team-a", "demo-a")?;
        self.workers.push(worker_a);
        let hello = chat("demo-a", "Hello", true);
        self.a.wait_for("demo-a", 200)?;
        println!("  team-a: {}   team-b: {}   etcd: {}", self.a.base, self.b.base, self.endpoints);
        println!("  for instance: {}", curl(&self.a.route(), Some(&hello)));
        println!("  Ctrl-C ends it");
        loop {
            match check_interrupt() {
                // Ctrl-C is the normal end.
                Err(_) => return Ok(()),
                Ok(()) => std::thread::sleep(poll::INTERVAL),
            }
            self.a.service.check()?;
            self.b.service.check()?;
            self.workers.iter_mut().try_for_each(Service::check)?;
        }
    }

    fn worker(&self, namespace: &str, model: &str) -> Result<Service> {
        self.worker_as(namespace, namespace, model)
    }

    fn worker_as(&self, name: &str, namespace: &str, model: &str) -> Result<Service> {
        start(
            &format!("worker-{name}"),
            "dynamo-worker",
            &["--echo", "--echo-delay-ms", ECHO_DELAY_MS, "--namespace", namespace]
                .into_iter()
                .chain(["--model", model, "--etcd-endpoints", &self.endpoints])
                .collect::<Vec<_>>(),
        )
    }
}

impl Frontend {
    fn start(namespace: &str, port: u16, endpoints: &str) -> Result<Self> {
        let port = port.to_string();
        let service = start(
            &format!("frontend-{namespace}"),
            "dynamo-frontend",
            &["--namespace", namespace, "--http-host", "127.0.0.1", "--http-port", &port]
                .into_iter()
                .chain(["--etcd-endpoints", endpoints])
                .collect::<Vec<_>>(),
        )?;
        Ok(Self { service, base: format!("http://127.0.0.1:{port}") })
    }

    fn route(&self) -> String {
        format!("{}/v1/chat/completions", self.base)
    }

    /// Waits until the frontend has read the store once: before that, its 503 has another code.
    fn wait_until_ready(&mut self) -> Result<()> {
        let url = format!("{}/ready", self.base);
        poll::until(&format!("200 from {url}"), PATIENCE, || {
            self.service.check()?;
            Ok(http::get(&url).is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    /// Sends requests until the status is as expected, and prints the time that this took.
    fn wait_for(&mut self, model: &str, status: u16) -> Result<()> {
        let url = self.route();
        let body = chat(model, "Hi", false);
        let started = Instant::now();
        poll::until(&format!("{status} from {url}"), PATIENCE, || {
            self.service.check()?;
            Ok((http::post(&url, &body)?.status == status).then_some(()))
        })?;
        println!("  {status} after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Waits until the frontend knows so many instances of a model.
    fn wait_for_instances(&mut self, model: &str, count: usize) -> Result<()> {
        let url = format!("{}/health", self.base);
        poll::until(&format!("{count} instances of {model} at {url}"), PATIENCE, || {
            self.service.check()?;
            let health: Value = serde_json::from_str(&http::get(&url)?.body)?;
            let instances = health["instances"].as_array().into_iter().flatten();
            let serves = |one: &&Value| one["model"] == model;
            Ok((instances.filter(serves).count() == count).then_some(()))
        })
    }

    fn models(&self) -> Result<Answer> {
        let url = format!("{}/v1/models", self.base);
        println!("$ {}", curl(&url, None));
        http::get(&url).inspect(print)
    }

    fn ask(&self, body: &Value) -> Result<Answer> {
        println!("$ {}", curl(&self.route(), Some(body)));
        http::post(&self.route(), body).inspect(print)
    }

    fn ask_streamed(&self, body: &Value) -> Result<()> {
        println!("$ {}", curl(&self.route(), Some(body)));
        let started = Instant::now();
        let (status, stream) = http::stream(&self.route(), body)?;
        ensure!(status == 200, "the stream answered {status} instead of 200");
        let mut last = String::new();
        for line in stream.lines() {
            check_interrupt()?;
            let line = line?;
            if !line.is_empty() {
                println!("  {:4} ms  {line}", started.elapsed().as_millis());
                last = line;
            }
        }
        ensure!(last == "data: [DONE]", "the stream ended with {last:?}");
        Ok(())
    }
}

impl Answer {
    fn expect(&self, status: u16, text: &str) -> Result<()> {
        if self.status != status || !self.body.contains(text) {
            bail!("expected {status} and {text:?}; it was {}: {}", self.status, self.body);
        }
        Ok(())
    }
}

fn start(name: &str, binary: &str, args: &[&str]) -> Result<Service> {
    let mut command = Command::new(workspace::debug_binaries()?.join(binary));
    command.args(args);
    println!("$ {}", shown(&command));
    let log = workspace::target()?.join("demo").join(format!("{name}.log"));
    Service::start(name, &mut command, &log)
}

fn chat(model: &str, text: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": text }]);
    json!({ "model": model, "stream": stream, "messages": messages })
}

fn curl(url: &str, body: Option<&Value>) -> String {
    let mut command = Command::new("curl");
    command.args(["-sN", url]);
    if let Some(body) = body {
        command.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    shown(&command)
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn print(answer: &Answer) {
    println!("  {} {}", answer.status, answer.body.trim_end());
}
