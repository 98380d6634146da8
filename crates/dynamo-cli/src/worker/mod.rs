//! `dynamo-worker`: registers an engine for as long as the engine is healthy; on request runs it.
//!
//! Three parts share one value, the entries that should be published now: `follow` derives the
//! value from the engine, `register` brings the store to it, and `lifecycle` starts and ends all
//! parts. `control` tells others what these parts know.

mod control;
mod engine;
mod follow;
mod health;
mod life;
mod lifecycle;
mod listing;
mod offer;
mod process;
mod register;
mod report;
mod settings;
mod signals;

use std::process::ExitCode;
use std::sync::Arc;

use dynamo_discovery::{EtcdStore, RegistrationConfig};
use dynamo_http::ProgramProblems;
use tracing::warn;

use crate::failure::Failure;
use crate::program::{self, Main};
use crate::settings::given::Given;
use crate::settings::table::{Control, Engine, WORKER};
use crate::settings::value::LeaseTtl;
use crate::settings::{identity, store};
use crate::{descriptors, key_file, runtime};

use lifecycle::Worker;
use settings::{EngineSettings, WorkerSettings};

/// Runs `dynamo-worker`.
pub fn main() -> ExitCode {
    program::run(&MAIN)
}

/// The program, as it is run.
pub(crate) const MAIN: Main = Main {
    program: &WORKER,
    run,
    check: |given| settings::read(given).map(drop),
    subcommands: &[],
};

fn run(given: &Given) -> Result<ExitCode, Failure> {
    let _logging = program::start(given)?;
    let settings = settings::read(given)?;
    // A command inherits the limit, and programs that use `select` fail above 1024 descriptors.
    if !matches!(settings.engine, EngineSettings::Command { .. }) {
        descriptors::raise_limit();
    }
    runtime::block_on(None, start(settings))
}

async fn start(settings: WorkerSettings) -> Result<ExitCode, Failure> {
    identity::log(&settings.endpoint);
    if settings.lease_ttl < LeaseTtl::COMFORTABLE {
        warn!(
            seconds = settings.lease_ttl.as_secs(),
            "a short lease: a busy machine, or a new leader of etcd, can end it while the worker lives"
        );
    }
    let is_local = settings.etcd.is_local();
    let store = EtcdStore::new(settings.etcd.config.clone())
        .map_err(|error| Failure::Usage(error.into()))?;
    let registration = RegistrationConfig::new(Arc::new(store))
        .with_network_prefix(settings.etcd.root.clone())
        .with_ttl(settings.lease_ttl);
    // A worker has no status page, so nobody reads them.
    let problems = ProgramProblems::default();
    if let Some(file) = settings.engine_key_file.clone() {
        let key = settings.engine_key.clone();
        let take_up = move |text: &str| key.set(text);
        tokio::spawn(
            key_file::follow(file, Engine::engine_api_key_file, problems.clone(), take_up).await?,
        );
    }
    if let Some((file, key)) = settings.control.as_ref().and_then(|control| control.key.clone()) {
        let take_up = move |text: &str| key.set(text);
        tokio::spawn(
            key_file::follow(file, Control::control_key_file, problems.clone(), take_up).await?,
        );
    }
    let worker = Worker::start(settings).await?;
    if !is_local && store::is_loopback(&worker.offer.url.to_uri()) {
        warn!(
            url = %worker.offer.url,
            "only this machine reaches that address, and the store is on another one: \
             --advertise-url says what frontends reach"
        );
    }
    if let Some(control) = &worker.offer.control
        && !is_local
        && store::is_loopback(&control.as_worker_url().to_uri())
        && !store::is_loopback(&worker.offer.url.to_uri())
    {
        warn!(
            url = %control,
            "only this machine reaches the control port, and the store is on another one: \
             --control-advertise-url says what frontends reach"
        );
    }
    worker.run(registration).await
}
