//! The programs under the clients: two front doors, and a worker for each engine.

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    engine::{Engine, KEY, Purpose},
    python::{directory, script},
};
use crate::{
    http, poll,
    process::{Service, shown},
    workspace,
};

/// The deadline for an engine's start. Large engines load their libraries for half a minute, and
/// several at once on busy cores for minutes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The deadline for a worker's end: more than `--drain-grace` and `--stop-timeout` together.
const END: Duration = Duration::from_secs(75);

const NAMESPACE: &str = "compat";

/// The drop ends all programs: first the workers, which end their engines.
#[derive(Debug)]
pub(crate) struct Stage {
    workers: Vec<Worker>,
    door: Door,
    in_turn: Door,
    closed: Door,
}

#[derive(Debug)]
struct Worker {
    models: Vec<String>,
    service: Service,
}

#[derive(Debug)]
struct Door {
    base: String,
    _service: Service,
}

impl Stage {
    /// Starts the programs, and returns when each model is listed.
    pub(crate) fn set(etcd: &str, engines: &[Engine]) -> Result<Self> {
        let [door, in_turn, closed, faulty] = http::free_ports()?;
        let mut stage = Self {
            workers: Vec::new(),
            door: Door::open(NAMESPACE, door, etcd, "cache-aware")?,
            in_turn: Door::open(NAMESPACE, in_turn, etcd, "round-robin")?,
            closed: Door::open("compat-closed", closed, etcd, "cache-aware")?,
        };
        let key_file = directory()?.join("engine-key");
        fs::write(&key_file, KEY)?;
        for engine in engines {
            for (number, &purpose) in Engine::PURPOSES.iter().enumerate() {
                let [port] = http::free_ports()?;
                let kinds = match purpose {
                    Purpose::Chat | Purpose::Twins => "chat,completions",
                    Purpose::Embeddings => "embedding",
                };
                let mut flags: Vec<OsString> =
                    ["--model-type", kinds, "--engine-api-key-file"].map(Into::into).into();
                flags.push(key_file.clone().into());
                flags.extend(["--drain-grace", engine.drain_grace()].map(Into::into));
                let name = format!("{}-{purpose:?}-{number}", engine.name()).to_lowercase();
                let command = engine.command(purpose, port)?;
                let service = worker(&name, etcd, port, &flags, &command)?;
                stage.workers.push(Worker { models: vec![engine.model(purpose)], service });
            }
        }
        let broken = ["busy", "breaks"];
        let flags = broken.map(|model| ["--model", model]).concat();
        let flags: Vec<_> = flags.into_iter().map(Into::into).collect();
        let command = ["python3".into(), script("faulty.py").into(), faulty.to_string().into()];
        let service = worker("faulty", etcd, faulty, &flags, &command)?;
        stage.workers.push(Worker { models: broken.map(Into::into).into(), service });
        stage.wait()?;
        Ok(stage)
    }

    /// The front door to all models.
    pub(crate) fn base(&self) -> &str {
        &self.door.base
    }

    /// The front door to all models where workers take turns.
    pub(crate) fn in_turn(&self) -> &str {
        &self.in_turn.base
    }

    /// The front door to a namespace without models.
    pub(crate) fn closed(&self) -> &str {
        &self.closed.base
    }

    /// The process of the worker that serves a model.
    pub(crate) fn worker_of(&self, model: &str) -> Result<u32> {
        let serves = |worker: &&Worker| worker.models.iter().any(|served| served == model);
        let worker = self.workers.iter().find(serves);
        Ok(worker.with_context(|| format!("no worker serves {model}"))?.service.id())
    }

    /// Waits for the end of a worker that got SIGTERM.
    pub(crate) fn end_of(&mut self, worker: u32) -> Result<ExitStatus> {
        let place = self.workers.iter().position(|one| one.service.id() == worker);
        let worker = self.workers.remove(place.context("the worker has ended")?);
        worker.service.end_within(END)
    }

    fn wait(&mut self) -> Result<()> {
        let models: Vec<_> =
            self.workers.iter().flat_map(|worker| &worker.models).cloned().collect();
        let url = format!("{}/v1/models", self.door.base);
        poll::until(&format!("{} listed at {url}", models.join(", ")), PATIENCE, || {
            self.workers.iter_mut().try_for_each(|worker| worker.service.check())?;
            let Ok(answer) = http::get(&url) else { return Ok(None) };
            let list: Value = serde_json::from_str(&answer.body)?;
            let listed: Vec<_> =
                list["data"].as_array().into_iter().flatten().map(|model| &model["id"]).collect();
            let is_listed = |model: &String| listed.iter().any(|id| *id == model);
            Ok(models.iter().all(is_listed).then_some(()))
        })?;
        // The other front doors have read the store as well: otherwise their 503 has another code.
        for door in [&self.closed, &self.in_turn] {
            let ready = format!("{}/ready", door.base);
            poll::until(&format!("200 from {ready}"), PATIENCE, || {
                Ok(http::get(&ready).is_ok_and(|answer| answer.status == 200).then_some(()))
            })?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Engines run in process groups of their own, so the workers get the time to end them.
        self.workers.iter().for_each(|worker| worker.service.ask_to_end());
        for worker in self.workers.drain(..) {
            if let Err(error) = worker.service.end_within(END) {
                println!("note: {error:#}");
            }
        }
    }
}

impl Door {
    fn open(namespace: &str, port: u16, etcd: &str, mode: &str) -> Result<Self> {
        let mut command = Command::new(workspace::debug_binaries()?.join("dynamo-frontend"));
        let port_text = port.to_string();
        command.args(["--namespace", namespace, "--http-host", "127.0.0.1"]);
        command.args(["--http-port", &port_text, "--etcd-endpoints", etcd, "--router-mode", mode]);
        Ok(Self {
            base: format!("http://127.0.0.1:{port}"),
            _service: start(&format!("frontend-{namespace}-{mode}"), &mut command)?,
        })
    }
}

fn worker(
    name: &str,
    etcd: &str,
    port: u16,
    flags: &[OsString],
    engine: &[OsString],
) -> Result<Service> {
    let mut command = Command::new(workspace::debug_binaries()?.join("dynamo-worker"));
    command.args(["--namespace", NAMESPACE, "--etcd-endpoints", etcd]);
    command.args(["--url", &format!("http://127.0.0.1:{port}")]).args(flags);
    command.arg("--").args(engine);
    start(&format!("worker-{name}"), &mut command)
}

fn start(name: &str, command: &mut Command) -> Result<Service> {
    println!("$ {}", shown(command));
    Service::start(name, command, &logs()?.join(format!("{name}.log")))
}

/// The directory of the programs' logs.
pub(crate) fn logs() -> Result<PathBuf> {
    Ok(directory()?.join("logs"))
}
