//! `deploy/compose.yaml`, with images that are made here.

use std::{
    process::{self, Command},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{folder::Dist, image, outcome::Outcome};
use crate::{apt, etcd, http, poll, process::capture, workspace};

/// The deadline of each step; Prometheus scrapes each 5 s.
const PATIENCE: Duration = Duration::from_secs(90);

const PROMETHEUS: &str = "dynamo-prometheus:dist";

pub(crate) fn check(_dist: &Dist) -> Result<Outcome> {
    if !etcd::engine_runs() {
        return Ok(Outcome::LeftOut("no Docker engine answers".into()));
    }
    let Ok(spelling) = etcd::compose_command() else {
        return Ok(Outcome::LeftOut("no docker-compose here".into()));
    };
    if let Some(reason) = image::engine_fails()? {
        return Ok(Outcome::LeftOut(reason));
    }
    etcd::build_image_if_absent()?;
    let prometheus = apt::find_or_fetch("prometheus", "prometheus")?;
    etcd::image_of(prometheus.path(), "bin/prometheus", PROMETHEUS)?;
    let [frontend, prometheus] = http::free_ports()?;
    let project = Project { spelling, ports: [frontend, prometheus], name: name() };
    capture(project.command().args(["up", "--detach"]))?;
    chat(frontend)?;
    let targets = scraped(prometheus)?;
    capture(project.command().args(["down", "--volumes", "--timeout", "45"]))?;
    Ok(Outcome::Done(format!("up, a chat, {targets} scraped with the alerts, down")))
}

fn name() -> String {
    format!("dyn-dist-{}", process::id())
}

/// The frontend answers for the model of its team, and does not know the one of the other team.
fn chat(port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let ask = |model: &str| {
        let messages = json!([{ "role": "user", "content": "Hello, containers" }]);
        http::post(&url, &json!({ "model": model, "messages": messages }))
    };
    let answer = poll::until(&format!("200 from {url}"), PATIENCE, || {
        Ok(ask("echo-a").ok().filter(|answer| answer.status == 200))
    })?;
    ensure!(answer.body.contains("Hello, containers"), "the answer is {}", answer.body);
    let status = ask("echo-b")?.status;
    ensure!(status == 404, "for the model of another team, the frontend says {status}");
    Ok(())
}

/// Waits until Prometheus has scraped the frontend and the worker, and knows the alerts.
fn scraped(port: u16) -> Result<usize> {
    let read = |path: &str| -> Result<Value> {
        let answer = http::get(&format!("http://127.0.0.1:{port}/api/v1/{path}"))?;
        Ok(serde_json::from_str(&answer.body)?)
    };
    let wanted = ["frontend:9090", "worker-a:9091", "worker-b:9091"];
    poll::until(&format!("{wanted:?} are up"), PATIENCE, || {
        let Ok(known) = read("targets") else { return Ok(None) };
        let targets = known["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        let is_up = |address: &&str| {
            let of = |target: &&Value| target["labels"]["instance"] == *address;
            targets.iter().find(of).is_some_and(|target| target["health"] == "up")
        };
        Ok(wanted.iter().all(is_up).then_some(()))
    })?;
    let rules = read("rules")?;
    let groups = rules["data"]["groups"].as_array().map_or(0, Vec::len);
    ensure!(groups > 0, "Prometheus has no alerts: {rules}");
    Ok(wanted.len())
}

/// A compose project. Its drop removes what is left of it.
#[derive(Debug)]
struct Project {
    spelling: &'static [&'static str],
    name: String,
    ports: [u16; 2],
}

impl Project {
    fn command(&self) -> Command {
        let mut command = Command::new(self.spelling[0]);
        command.args(&self.spelling[1..]).args(["--project-name", &self.name, "--file"]);
        command.arg(workspace::root().join("deploy/compose.yaml"));
        command.env("DYN_IMAGE", image::TAG).env("DYN_PROMETHEUS_IMAGE", PROMETHEUS);
        let [frontend, prometheus] = self.ports.map(|port| port.to_string());
        command.env("DYN_FRONTEND_PORT", frontend).env("DYN_PROMETHEUS_PORT", prometheus);
        command
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let mut down = self.command();
        down.args(["down", "--volumes", "--remove-orphans", "--timeout", "1"]);
        // Not by `capture`, since an interrupt must not stop it.
        let ended = down.output();
        if !ended.is_ok_and(|output| output.status.success()) {
            eprintln!("warning: the compose project {} is still there", self.name);
        }
    }
}
