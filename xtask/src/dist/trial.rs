//! The programs as they are installed somewhere, tried: versions, a chat over an etcd, and a drain.

use std::{
    io::BufRead,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::folder::{Dist, PROGRAMS};
use crate::{
    etcd::{self, Mode},
    http, poll,
    process::{Group, Service, capture},
    workspace,
};

/// The deadline of each step. Steps take a second, but for busy machines.
const PATIENCE: Duration = Duration::from_secs(60);

const MODEL: &str = "trial";

/// Where the programs are installed.
pub(crate) trait Place {
    /// The name of the place, for logs.
    fn name(&self) -> &'static str;

    /// A program as its user starts it.
    fn command(&self, program: &str) -> Command;

    /// Asks a program to end, and returns without waiting for the end.
    ///
    /// # Errors
    ///
    /// When the program cannot be asked.
    fn stop(&self, _program: &str, service: &Service) -> Result<Option<Group>> {
        service.ask_to_end();
        Ok(None)
    }
}

/// Tries all programs, and tells what was seen.
pub(crate) fn run(dist: &Dist, place: &dyn Place) -> Result<String> {
    for program in PROGRAMS {
        let version = capture(place.command(program).arg("--version"))?;
        let expected = format!("{program} {} (commit {}, ", dist.version, dist.commit);
        ensure!(version.starts_with(&expected), "{program} says {version:?}");
    }
    let etcd = etcd::provision(&etcd::Source::of(Mode::Local))?;
    let [port] = http::free_ports()?.map(|port: u16| port.to_string());
    let store =
        ["--namespace", "team-a", "--etcd-endpoints", &etcd.endpoints, "--drain-grace", "0"];
    let worker = ["--echo", "--model", MODEL, "--echo-delay-ms", "100"];
    let worker = start(place, "dynamo-worker", &[&worker[..], &store].concat())?;
    let frontend = ["--http-host", "127.0.0.1", "--http-port", &port];
    let frontend = start(place, "dynamo-frontend", &[&frontend[..], &store].concat())?;
    let mut services = [worker, frontend];
    let took = chat(&port, &mut services)?;
    let [worker, frontend] = services;
    drain(place, &port, frontend)?;
    end(place, "dynamo-worker", worker)?;
    Ok(format!("versions, a chat after {took:.1} s, a stream that outlives SIGTERM"))
}

fn start(place: &dyn Place, program: &str, arguments: &[&str]) -> Result<Service> {
    let log = workspace::target()?.join("dist/logs").join(place.name()).join(program);
    Service::start(program, place.command(program).args(arguments), &log)
}

/// Asks until there is an answer, and says after how many seconds there was.
fn chat(port: &str, services: &mut [Service]) -> Result<f64> {
    let started = Instant::now();
    let url = url(port);
    let answer = poll::until(&format!("200 from {url}"), PATIENCE, || {
        services.iter_mut().try_for_each(Service::check)?;
        // The frontend may not listen yet.
        let answer = http::post(&url, &body("Hello from a trial", false));
        Ok(answer.ok().filter(|answer| answer.status == 200))
    })?;
    ensure!(answer.body.contains("Hello from a trial"), "the answer is {}", answer.body);
    Ok(started.elapsed().as_secs_f64())
}

/// Stops the frontend in the middle of a stream, of which the client gets all.
fn drain(place: &dyn Place, port: &str, frontend: Service) -> Result<()> {
    let (status, stream) = http::stream(&url(port), &body(&"word ".repeat(20), true))?;
    ensure!(status == 200, "the stream answered {status}");
    let mut lines = stream.lines();
    lines.next().context("the stream is empty")??;
    let stopping = place.stop("dynamo-frontend", &frontend)?;
    let mut last = String::new();
    for line in lines {
        last = Some(line?).filter(|line| !line.is_empty()).unwrap_or(last);
    }
    ensure!(last == "data: [DONE]", "the stream of a stopping frontend ended with {last:?}");
    ended("dynamo-frontend", frontend, stopping)
}

fn end(place: &dyn Place, program: &str, service: Service) -> Result<()> {
    let stopping = place.stop(program, &service)?;
    ended(program, service, stopping)
}

fn ended(program: &str, service: Service, stopping: Option<Group>) -> Result<()> {
    let status = service.end_within(PATIENCE)?;
    ensure!(status.success(), "{program} was stopped, and ended with {status}");
    if let Some(mut stopping) = stopping {
        let status = stopping.wait()?;
        ensure!(status.success(), "the command that stops {program}: {status}");
    }
    Ok(())
}

fn url(port: &str) -> String {
    format!("http://127.0.0.1:{port}/v1/chat/completions")
}

fn body(text: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": text }]);
    json!({ "model": MODEL, "stream": stream, "messages": messages })
}
