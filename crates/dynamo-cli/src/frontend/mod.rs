//! `dynamo-frontend`: discovers the models of a scope and serves them.

mod settings;
mod static_workers;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use dynamo_discovery::{EtcdStore, ModelWatcher, WatchScope, WatcherConfig};
use dynamo_http::{Feed, Frontend, Source, Switchboard, serve};
use dynamo_namespace::NamespaceScope;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::settings::scope::{self, ScopeSettings};
use crate::settings::table;
use crate::{logging, program, runtime};

use settings::{FrontendFlags, FrontendSettings};

#[cfg(test)]
pub(crate) type Flags = FrontendFlags;

/// Runs `dynamo-frontend`.
pub fn main() -> ExitCode {
    program::run(&table::FRONTEND, run)
}

fn run(flags: FrontendFlags, environment: &Environment) -> Result<ExitCode, Failure> {
    logging::start(environment)?;
    let settings = flags.resolve(environment)?;
    runtime::block_on(start(settings))
}

async fn start(settings: FrontendSettings) -> Result<ExitCode, Failure> {
    let FrontendSettings { scope, host, port, etcd, workers, config, options } = settings;
    let ScopeSettings { scope, watch } = scope;

    let discovery = match (&etcd, &scope) {
        (None, _) => "static",
        (Some(_), NamespaceScope::All) => "global",
        (Some(_), _) => "scoped",
    };
    info!(
        endpoint_id = %scope::frontend_endpoint(&scope),
        discovery,
        namespace = %scope::home(&scope),
        %scope,
        "starting"
    );
    let mut sources = Vec::new();
    if let Some(etcd) = &etcd {
        let store = EtcdStore::new(etcd.clone()).map_err(|error| Failure::Usage(error.into()))?;
        let watcher = WatcherConfig::new(Arc::new(store))
            .with_target_namespace(scope.clone())
            .with_watch_scope(watch);
        let watcher = ModelWatcher::new(watcher).map_err(|error| Failure::Usage(error.into()))?;
        if watch == WatchScope::Key {
            warn!(
                "watching the scope's own keys only: flat entries, such as Dynamo's up to 0.5.1, are invisible"
            );
        }
        sources.push(Source::new("etcd", watcher.into_stream()));
    }

    let listener = TcpListener::bind((host.as_str(), port))
        .await
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .with_context(|| {
            format!("cannot listen on {host}:{port}, which {} sets", table::HTTP_PORT.name())
        });
    let (address, listener) = listener.map_err(Failure::Running)?;

    if etcd.is_none() || !workers.is_empty() {
        if workers.is_empty() {
            warn!("no worker can register in the memory of this process: --worker-url names some");
        }
        sources.push(Source::new("static", static_workers::discover(workers, scope.clone())));
    }
    let (switchboard, writer) = Switchboard::new([scope.clone()]);
    let feed = Feed::new(writer, sources);
    let frontend = Frontend::new(switchboard, scope, feed.status(), &config);
    let feed = tokio::spawn(feed.run());
    info!(%address, "listening");

    let mut stop =
        StopSignals::new().context("cannot listen for signals").map_err(Failure::Running)?;
    let mut stop_at_once =
        StopSignals::new().context("cannot listen for signals").map_err(Failure::Running)?;
    let drain = frontend.clone();
    let served = serve(listener, frontend.router(), options, async move {
        stop.next().await;
        drain.drain();
    });
    tokio::select! {
        in_time = served => {
            if in_time {
                info!("stopped");
            } else {
                warn!("stopped: requests that had not ended in time were cut");
            }
            Ok(ExitCode::SUCCESS)
        }
        () = async { stop_at_once.next().await; stop_at_once.next().await; } => {
            warn!("stopped at once: requests in flight were cut");
            Ok(ExitCode::SUCCESS)
        }
        ended = feed => {
            let why = ended.err().map(|error| error.to_string()).unwrap_or_default();
            Err(Failure::Running(anyhow!("discovery ended, which it never should {why}")))
        }
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
