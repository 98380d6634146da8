//! `dynamo-frontend`: discovers the models of a scope and serves them.

mod access_log;
mod admin;
mod apart;
mod api_keys;
mod budget;
mod cors;
mod isolation;
mod keys;
mod models;
mod reload;
mod resolver;
mod section;
mod settings;
mod state_file;
mod static_workers;
mod traces;
mod usage;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use dynamo_discovery::{CatalogOrigin, EtcdStore, ModelWatcher, WatchScope, WatcherConfig};
use dynamo_http::{
    ApiKeys, Connections, Feed, Frontend, ProgramMetrics, ProgramProblems, Source, Switchboard,
    Threads, serve,
};
use dynamo_namespace::NamespaceScope;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::certificates::Certificates;
use crate::failure::Failure;
use crate::logging::Logging;
use crate::program::{self, Main};
use crate::settings::given::Given;
use crate::settings::scope::{self, ScopeSettings};
use crate::settings::table::{FRONTEND, HASH_KEY, KEYS_SECTION, Keys, Listening, MODELS_SECTION};
use crate::{descriptors, hash_key, key_file, process_metrics, runtime};

use access_log::{AccessLogFile, Reopening};
use apart::apart;
use reload::{Held, Reloading, Reloads};
use settings::{FrontendSettings, KeySource};
use state_file::StateFile;
use static_workers::StaticWorkers;
use traces::TraceExport;
use usage::Sharing;

/// What became of the changes of the configuration file.
static RELOADS: Reloads = Reloads::new();

/// Runs `dynamo-frontend`.
pub fn main() -> ExitCode {
    program::run(&MAIN)
}

/// The program, as it is run.
pub(crate) const MAIN: Main =
    Main { program: &FRONTEND, run, check, subcommands: &[(&HASH_KEY, hash_key::run)] };

/// Reads all that a frontend was given.
fn check(given: &Given) -> Result<(), Failure> {
    let settings = settings::read(given)?;
    if let Some(KeySource::Section(keyring)) = &settings.api_keys {
        settings.client_keys().of_section(keyring)?;
    }
    Ok(())
}

/// The JSON schema of a section of the configuration file.
pub(crate) fn section_schema(section: &str) -> Option<serde_json::Value> {
    match section {
        KEYS_SECTION => Some(api_keys::schema()),
        MODELS_SECTION => Some(models::schema()),
        _ => None,
    }
}

fn run(given: &Given) -> Result<ExitCode, Failure> {
    process_metrics::started();
    let logging = program::start(given)?;
    let mut settings = settings::read(given)?;
    descriptors::raise_limit();
    let most = settings.options.max_connections().or_else(descriptors::most_connections);
    settings.options = settings.options.with_max_connections(most);
    settings.config = budget::with_body_memory(settings.config, settings.body_memory);
    budget::told(&settings.config);
    let access_log = settings.access_log.take().map(AccessLogFile::start).transpose()?;
    if let Some(file) = &access_log {
        settings.config = settings.config.with_access_log(Some(file.log()));
        settings.options = settings.options.with_client_addresses(true);
    }
    let traces = settings.traces.take().map(TraceExport::start).transpose()?;
    if let Some(traces) = &traces {
        settings.config = settings.config.with_traces(Some(traces.traces()));
        settings.options = settings.options.with_client_addresses(true);
    }
    // `Cores` has the threads for clients. Discovery gets two threads of its own: one reads a long
    // list while the other stages its entries.
    let serving = start(settings, given.clone(), &logging, (access_log.as_ref(), traces.as_ref()));
    let ended = runtime::block_on(NonZeroUsize::new(2), serving);
    // The last requests have ended with their threads.
    drop((access_log, traces));
    ended
}

async fn start(
    mut settings: FrontendSettings,
    given: Given,
    logging: &Logging,
    (access_log, traces): (Option<&AccessLogFile>, Option<&TraceExport>),
) -> Result<ExitCode, Failure> {
    let (filter, log) = (logging.filter(), logging.metrics());
    let problems = ProgramProblems::default();
    settings.config = settings.config.with_program_problems(problems.clone());
    let access_log_counts = access_log.map(AccessLogFile::counts).unwrap_or_default();
    let trace_counts = traces.map(TraceExport::counts).unwrap_or_default();
    // The handlers come first, so that an early signal does not end the process.
    let signals =
        || StopSignals::new().context("cannot listen for signals").map_err(Failure::Running);
    let (mut stop, mut stop_at_once) = (signals()?, signals()?);

    heed_hang_up(access_log.map(AccessLogFile::reopening))
        .context("cannot listen for signals")
        .map_err(Failure::Running)?;

    let scope = settings.scope.scope.clone();
    log_start(&settings, &scope);
    let mut key_file = None;
    let client_keys = match settings.api_keys.take() {
        Some(KeySource::File(path)) => {
            let (file, list) = settings.client_keys().of_file(path).await?;
            key_file = Some(file);
            Some(list)
        }
        Some(KeySource::Section(keyring)) => Some(settings.client_keys().of_section(&keyring)?),
        None => None,
    };
    for (path, key) in std::mem::take(&mut settings.worker_keys) {
        let take_up = move |text: &str| key.set(text);
        tokio::spawn(
            key_file::follow(path, Keys::worker_api_key_file, problems.clone(), take_up).await?,
        );
    }
    let resolv_conf = settings.resolv_conf.take();
    if let Some(resolver) =
        resolver::start(resolv_conf, settings.is_resolv_conf_given, problems.clone()).await?
    {
        settings.config = settings.config.with_resolver(resolver);
    }
    // The threads come before the workers, whose connections are kept by thread.
    let threads = Threads::start(settings.threads).context("cannot start threads");
    let threads = Some(threads.map_err(Failure::Running)?);
    let (sources, workers) = sources(&mut settings, given.file.is_some()).await?;
    let (address, listener) =
        listen(&settings.host, settings.port, &given.source(Listening::http_port)).await?;
    let admin = match settings.admin.take() {
        Some(admin) => {
            let (address, listener) =
                listen(&admin.host, admin.port, &given.source(Listening::admin_port)).await?;
            Some((address, listener, admin.access(address.ip(), problems.clone()).await?))
        }
        None => None,
    };

    let (switchboard, writer) = Switchboard::new([scope.clone()]);
    let feed = Feed::new(writer, sources);
    let api_keys = ApiKeys::new(feed.scopes());
    if client_keys.is_some() {
        settings.config = settings.config.with_api_keys(Some(api_keys.clone()));
    }
    let aliases = settings.config.aliases().clone();
    let (sharing, shared) = match (settings.usage_group.take(), &settings.etcd) {
        (Some(group), Some(etcd)) => {
            let (sharing, status) =
                Sharing::start(etcd, group, api_keys.clone(), settings.counted_frontends.take())?;
            (Some(sharing), Some(status))
        }
        _ => (None, None),
    };
    let certificates = Certificates::watch(settings.certificates(), problems.clone());
    settings.config = settings
        .config
        .with_connections(Some(settings.options.connections().clone()))
        .with_program_metrics(Some(ProgramMetrics::new(move || {
            let shared = shared.as_deref().map(usage::text).unwrap_or_default();
            process_metrics::text()
                + &log.text()
                + &access_log_counts.text()
                + &trace_counts.text()
                + &RELOADS.text()
                + &certificates.text("dynamo_frontend")
                + &shared
        })));
    let frontend = Frontend::new(&switchboard, &scope, feed.status(), &settings.config);
    let feed = feed.with_hold(settings.hold.clone(), frontend.fleet());
    let feed = tokio::spawn(feed.run());
    let keys_of_section = client_keys.is_some() && key_file.is_none();
    if let Some(list) = client_keys {
        api_keys.replace(&list).await.context("discovery ended").map_err(Failure::Running)?;
        keys::told(&list);
    }
    if let Some(file) = &given.file {
        let keys = keys_of_section.then(|| (settings.client_keys(), api_keys.clone()));
        let held = Held {
            filter,
            keys,
            aliases,
            has_store: settings.etcd.is_some(),
            scope: scope.clone(),
            workers,
            frontend: frontend.clone(),
        };
        let reloading =
            Reloading::new(file.path.clone(), given.clone(), held, &RELOADS, problems.clone());
        let reloading = reloading.context("cannot listen for SIGHUP").map_err(Failure::Running)?;
        tokio::spawn(reloading.run());
    }
    if let Some(file) = key_file {
        tokio::spawn(file.follow(api_keys, problems));
    }
    let service = match admin {
        Some((address, listener, access)) => {
            info!(%address, "the admin port listens");
            // The admin port runs beside the threads that serve clients: a long list of metrics
            // would delay them.
            let router = frontend.admin_router(access);
            // The admin port answers probes and scrapers although clients hold all connections.
            let options = settings.options.clone();
            let options = options
                .with_max_connections(None)
                .with_max_connections_per_ip(None)
                .with_connections(Connections::default())
                .with_tls(settings.admin_tls.take());
            // The admin port serves until the process ends, so that operators see the drain.
            tokio::spawn(serve(listener, router, options, std::future::pending()));
            frontend.client_service()
        }
        None => {
            if settings.config.api_keys().is_some() {
                info!("/health and /metrics are served nowhere: they need --admin-port");
            }
            frontend.service()
        }
    };
    settings.options = settings.options.with_threads(threads);
    info!(
        %address,
        tls = settings.options.tls().is_some(),
        threads = %settings.threads,
        max_connections = settings.options.max_connections().map(NonZeroUsize::get),
        "listening"
    );

    let drain = frontend.clone();
    let shutdown = async move {
        stop.next().await;
        drain.drain();
    };
    let served: BoxFuture<'_, bool> = if settings.cors_origins.is_empty() {
        serve(listener, service, settings.options, shutdown).boxed()
    } else {
        let service = cors::layered(service, settings.cors_origins);
        serve(listener, service, settings.options, shutdown).boxed()
    };
    let ended = tokio::select! {
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
    };
    if let Some(sharing) = sharing {
        sharing.end().await;
    }
    ended
}

fn log_start(settings: &FrontendSettings, scope: &NamespaceScope) {
    let discovery = match (&settings.etcd, scope) {
        (None, _) => "static",
        (Some(_), NamespaceScope::All) => "global",
        (Some(_), _) => "scoped",
    };
    info!(
        endpoint_id = %scope::frontend_endpoint(scope),
        discovery,
        namespace = %scope::home(scope),
        %scope,
        "starting"
    );
    // Where keys are needed, each has its own scope.
    if settings.scope.is_all_unsaid && settings.etcd.is_some() && settings.api_keys.is_none() {
        warn!(
            "all namespaces: no namespace is given, so that whoever reaches the port may use the \
             models of all; --namespace narrows it down, and --all-namespaces says that it is meant"
        );
    }
}

/// The sources of models: a store, static workers, or both; and the static workers. Where these `may_change`,
/// they are a source also while there are none.
async fn sources(
    settings: &mut FrontendSettings,
    may_change: bool,
) -> Result<(Vec<Source>, Option<StaticWorkers>), Failure> {
    let ScopeSettings { scope, watch, .. } = &settings.scope;
    let mut sources = Vec::new();
    let state_file = settings.state_file.take();
    if let Some(path) = state_file.as_ref().filter(|_| settings.etcd.is_none()) {
        warn!(path = %path.display(), "without a store there is nothing to keep in the state file");
    }
    if let Some(etcd) = &settings.etcd {
        let store =
            EtcdStore::new(etcd.config.clone()).map_err(|error| Failure::Usage(error.into()))?;
        let watcher = WatcherConfig::new(Arc::new(store))
            .with_network_prefix(etcd.root.clone())
            .with_target_namespace(scope.clone())
            .with_watch_scope(*watch);
        let watcher = ModelWatcher::new(watcher).map_err(|error| Failure::Usage(error.into()))?;
        if *watch == WatchScope::Key {
            warn!(
                "watching the scope's own keys only: flat entries, such as those of Dynamo up to \
                 0.5.1, are invisible"
            );
        }
        sources.push(match state_file {
            Some(path) => {
                let mut endpoints = etcd.endpoints.clone();
                endpoints.sort_unstable();
                let origin = CatalogOrigin::new(endpoints.join(","), scope.clone())
                    .with_network_prefix(etcd.root.clone());
                let (remembered, file) = StateFile::new(path, origin)?.recall().await;
                let events = match file {
                    Some(file) => file.keep(watcher),
                    None => watcher.into_stream(),
                };
                Source::new("etcd", apart(events)).with_remembered(remembered)
            }
            None => Source::new("etcd", apart(watcher.into_stream())),
        });
    }
    let mut workers = None;
    if settings.etcd.is_none() || !settings.workers.is_empty() || may_change {
        if settings.etcd.is_none() && settings.workers.is_empty() {
            warn!("no worker can register in the memory of this process: --worker-url names some");
        }
        let list = settings.workers.clone();
        let (known, events) = StaticWorkers::discover(list, scope.clone(), &settings.config);
        sources.push(Source::new("static", events));
        workers = Some(known);
    }
    Ok((sources, workers))
}

async fn listen(host: &str, port: u16, source: &str) -> Result<(SocketAddr, TcpListener), Failure> {
    TcpListener::bind((host, port))
        .await
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .with_context(|| format!("cannot listen on {host}:{port}, which {source} sets"))
        .map_err(Failure::Running)
}

/// From now on SIGHUP asks for what can change to be read again, and never ends the process. Files of
/// keys hear it themselves.
fn heed_hang_up(access_log: Option<Reopening>) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            info!("SIGHUP: what can change is read again");
            if let Some(file) = &access_log {
                file.ask();
            }
        }
    });
    Ok(())
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
