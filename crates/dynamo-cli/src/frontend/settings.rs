//! What a frontend was told.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use dynamo_discovery::UsageGroup;
use dynamo_http::placement::Frontends;
use dynamo_http::{
    ClientAuth, FrontendConfig, Hold, PriorityMode, ServeOptions, ServerTls, WorkerKey,
};
use dynamo_namespace::{Namespace, NamespaceScope};

use super::admin::Admin;
use super::isolation;
use super::keys::ClientKeys;
use super::models;
use super::traces::TraceSettings;
use super::usage;
use crate::certificates::Place;
use crate::failure::Failure;
use crate::settings::file::{ConfigFile, Section};
use crate::settings::given::{Given, Origin, Value};
use crate::settings::origin::WebOrigin;
use crate::settings::scope::{self, ScopeSettings};
use crate::settings::scoped::{Scoped, split};
use crate::settings::static_worker::StaticWorker;
use crate::settings::store::{self, Etcd, Store};
use crate::settings::table::{
    self, Access, Balancing, KEYS_SECTION, Keys, Limits, Listening, Usage, Workers,
};
use crate::settings::value::Mebibytes;
use crate::settings::{authorities, pair, strangers, url};

/// A frontend's settings, checked.
#[derive(Debug)]
pub(crate) struct FrontendSettings {
    pub(crate) scope: ScopeSettings,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// How many threads serve requests.
    pub(crate) threads: NonZeroUsize,
    /// Where the keys are that clients need, if they need any.
    pub(crate) api_keys: Option<KeySource>,
    /// The files of the keys that workers get, each with the key that it holds.
    pub(crate) worker_keys: Vec<(PathBuf, WorkerKey)>,
    /// What finds the addresses of workers; none: the system does.
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Whether it was asked for, and is not only the default.
    pub(crate) is_resolv_conf_given: bool,
    /// The number of frontends that the usage store tells, unless one was given.
    pub(crate) counted_frontends: Option<Frontends>,
    /// The memory for bodies, if it was given.
    pub(crate) body_memory: Option<usize>,
    /// Whose web pages may use the front door.
    pub(crate) cors_origins: Vec<WebOrigin>,
    /// Where operators are listened to, if apart from clients.
    pub(crate) admin: Option<Admin>,
    /// TLS of the admin port, which asks for no certificate.
    pub(crate) admin_tls: Option<ServerTls>,
    /// Whether the main port asks clients for certificates.
    pub(crate) asks_for_certificates: bool,
    /// Where workers register; none for static workers only.
    pub(crate) etcd: Option<Etcd>,
    pub(crate) workers: Vec<StaticWorker>,
    pub(crate) hold: Hold,
    /// The group with which the counts of keys are shared, if they are.
    pub(crate) usage_group: Option<UsageGroup>,
    /// Where what the store said is kept.
    pub(crate) state_file: Option<PathBuf>,
    /// Where the spans of requests go.
    pub(crate) traces: Option<TraceSettings>,
    /// Where each request leaves a line; `-` is stdout.
    pub(crate) access_log: Option<PathBuf>,
    pub(crate) config: FrontendConfig,
    pub(crate) options: ServeOptions,
}

/// Where the keys of clients are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeySource {
    /// A file of their own.
    File(PathBuf),
    /// This section of the configuration file.
    Section(Keyring),
}

/// The keys of a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Keyring {
    /// The file.
    pub(crate) file: PathBuf,
    pub(crate) section: Section,
}

impl FrontendSettings {
    /// How the keys of clients are read.
    pub(super) fn client_keys(&self) -> ClientKeys {
        ClientKeys {
            within: self.scope.scope.clone(),
            asks_for_certificates: self.asks_for_certificates,
            has_priorities: *self.config.priority() != PriorityMode::None,
        }
    }
}

impl KeySource {
    fn of(file: Value<Option<PathBuf>>, given: &Given) -> Result<Option<Self>, Failure> {
        let Some(keyring) = Keyring::of(given) else { return Ok(file.take().map(Self::File)) };
        if file.is_given() {
            return Err(Failure::usage(format!(
                "keys are given by {} and in {}: leave one of the two out",
                file.source(),
                ConfigFile::place(&keyring.file, keyring.section.line)
            )));
        }
        Ok(Some(Self::Section(keyring)))
    }
}

impl Keyring {
    /// The keys of the configuration file, if it has any.
    pub(crate) fn of(given: &Given) -> Option<Self> {
        let file = given.file.as_ref()?;
        let section = file.section(KEYS_SECTION)?;
        Some(Self { file: file.path.clone(), section: section.clone() })
    }
}

/// # Errors
///
/// When something is invalid or does not go together.
pub(crate) fn read(given: &Given) -> Result<FrontendSettings, Failure> {
    strangers::refuse_tls(&given.environment)?;
    let (listening, limits) = (Listening::read(given)?, Limits::read(given)?);
    let (keys, workers) = (Keys::read(given)?, Workers::read(given)?);
    let etcd = match store::read(given)? {
        Store::Memory { by_flag: true } if workers.worker_url.is_empty() => {
            return Err(Failure::usage(format!(
                "{} is memory, which lives in one process, so that no worker can register: name \
                 workers with --worker-url, or use etcd",
                table::Store::discovery_backend.label()
            )));
        }
        Store::Memory { .. } => None,
        Store::Etcd { named: false, .. } if !workers.worker_url.is_empty() => None,
        Store::Etcd { etcd, .. } => Some(*etcd),
    };
    let scope = scope::read(given)?;
    let mut named = workers.worker_url.iter().filter_map(|worker| worker.namespace.as_ref());
    if let Some(stranger) = named.find(|name| !scope.scope.contains(name)) {
        return Err(Failure::usage(format!(
            "--worker-url: the namespace {stranger} is not among those that this frontend \
             discovers ({})",
            scope.scope
        )));
    }
    let balancing = Balancing::read(given)?;
    let is_count_given = balancing.frontends.is_given();
    let mut config = config(balancing, &limits);
    config.aliases().replace(models::read(given)?);
    config = config.with_usage(*Usage::read(given)?.usage);
    config = config.with_isolation(isolation::read(given)?);
    let label = workers.worker_network.setting.label();
    let (shared, own) = split(workers.worker_network.take());
    ensure_discovered(own.keys(), &scope.scope, &label)?;
    config = config.with_worker_networks(shared).with_namespace_networks(own);
    let label = keys.worker_api_key_file.setting.label();
    let worker_keys;
    (config, worker_keys) =
        with_worker_keys(config, keys.worker_api_key_file.take(), &scope.scope, &label)?;
    config = config.with_worker_tls(authorities(workers.worker_ca)?);
    let mut options = options(&listening, &limits);
    let admin_tls = certificate(listening.tls_cert_path, listening.tls_key_path)?;
    let (authorities, auth) = (listening.tls_client_ca_path, listening.tls_client_auth);
    let asks_for_certificates = authorities.is_some();
    options = options.with_tls(for_clients(admin_tls.clone(), authorities, &auth)?);
    let admin = Admin::of(
        listening.admin_host,
        *listening.admin_port,
        listening.admin_key_file,
        &listening.admin_metrics_open,
        listening.admin_allowed_host,
    )?;
    let threads = listening.threads.or_else(|| thread::available_parallelism().ok());
    let api_keys = KeySource::of(keys.api_keys, given)?;
    let usage_group = usage::group(given, &scope, etcd.as_ref(), api_keys.is_some())?;
    Ok(FrontendSettings {
        scope,
        host: listening.http_host.take(),
        port: *listening.http_port,
        threads: threads.unwrap_or(NonZeroUsize::MIN),
        api_keys,
        usage_group,
        worker_keys,
        is_resolv_conf_given: workers.resolv_conf.is_given(),
        counted_frontends: (!is_count_given).then(|| config.frontends().clone()),
        resolv_conf: (!*workers.system_resolver).then(|| workers.resolv_conf.take()),
        body_memory: limits.http_body_memory_mb.map(Mebibytes::bytes),
        asks_for_certificates,
        cors_origins: listening.cors_origin.take(),
        admin_tls,
        admin,
        etcd,
        workers: static_workers(workers.worker_url),
        hold: Hold::new().with_longest(workers.hold.0).with_unproven(*workers.hold_unproven),
        state_file: workers.state_file.take(),
        traces: TraceSettings::read(given)?,
        access_log: Access::read(given)?.access_log.take(),
        config,
        options,
    })
}

impl FrontendSettings {
    /// The certificates that the frontend has loaded. Those of the machine's own authorities are not
    /// among them.
    pub(super) fn certificates(&self) -> Vec<Place> {
        let mut places = Vec::new();
        if let Some(tls) = self.options.tls().clone() {
            let clients = tls.clone();
            places.push(Place::chain("listener", move || tls.chain()));
            places.push(Place::authorities("client_ca", move || clients.client_authorities()));
        }
        let workers = self.config.worker_tls().clone();
        places.push(Place::authorities("worker_ca", move || workers.authorities()));
        if let Some(traces) = &self.traces {
            let collector = traces.tls.clone();
            places.push(Place::authorities("collector_ca", move || collector.authorities()));
        }
        places.extend(self.etcd.iter().flat_map(Etcd::certificates));
        places
    }
}

/// No setting is for a namespace that is not discovered: it would be misspelt, and what it says would
/// not hold where it should.
fn ensure_discovered<'a>(
    mut namespaces: impl Iterator<Item = &'a Namespace>,
    scope: &NamespaceScope,
    label: &str,
) -> Result<(), Failure> {
    match namespaces.find(|name| !scope.contains(name)) {
        None => Ok(()),
        Some(stranger) => Err(Failure::usage(format!(
            "{label}: the namespace {stranger} is not among those that this frontend discovers \
             ({scope})"
        ))),
    }
}

/// Adds the keys of workers, and returns each with the file that will say what it is.
fn with_worker_keys(
    config: FrontendConfig,
    files: Vec<Scoped<PathBuf>>,
    scope: &NamespaceScope,
    label: &str,
) -> Result<(FrontendConfig, Vec<(PathBuf, WorkerKey)>), Failure> {
    let mut keys = Vec::new();
    let mut one = |mut files: Vec<PathBuf>, key: &WorkerKey, whose: &str| {
        let file = files.pop();
        if !files.is_empty() {
            return Err(Failure::usage(format!("{label} is given twice for {whose}")));
        }
        keys.extend(file.map(|file| (file, key.clone())));
        Ok(())
    };
    let (shared, own) = split(files);
    ensure_discovered(own.keys(), scope, label)?;
    one(shared, config.worker_key(), "the workers of all namespaces")?;
    let mut own_keys = std::collections::BTreeMap::new();
    for (namespace, files) in own {
        let key = WorkerKey::default();
        one(files, &key, namespace.as_str())?;
        own_keys.insert(namespace, key);
    }
    Ok((config.with_namespace_keys(own_keys), keys))
}

fn static_workers(given: Value<Vec<StaticWorker>>) -> Vec<StaticWorker> {
    let label = given.setting.label();
    let base = |worker: StaticWorker| StaticWorker { url: url::base(worker.url, &label), ..worker };
    given.take().into_iter().map(base).collect()
}

fn config(balancing: Balancing, limits: &Limits) -> FrontendConfig {
    let probe = balancing.worker_probe_interval.0;
    FrontendConfig::new()
        .with_router_mode(*balancing.router_mode)
        .with_frontends((*balancing.frontends).into())
        .with_affinity_header(balancing.affinity_header.take())
        .with_worker_concurrency(*balancing.worker_concurrency)
        .with_queue_depth(*balancing.queue_depth)
        .with_priority(*balancing.priority)
        .with_queue_timeout(balancing.queue_timeout.0)
        .with_wait_for_model(balancing.wait_for_model.0)
        .with_retry_budget(balancing.retry_budget.0)
        .with_panic_threshold(balancing.panic_threshold.0)
        .with_probe_interval((probe > Duration::ZERO).then_some(probe))
        .with_body_limit(limits.http_body_limit_mb.bytes())
        .with_body_stall_timeout(limits.http_body_stall_timeout.0)
        .with_connect_timeout(limits.connect_timeout.0)
        .with_first_byte_timeout(limits.first_byte_timeout.0)
        .with_idle_stream_timeout(limits.stream_idle_timeout.0)
        .with_sse_keepalive(limits.sse_keepalive.map(|silence| silence.0))
}

fn options(listening: &Listening, limits: &Limits) -> ServeOptions {
    ServeOptions::new()
        .with_header_timeout(limits.http_header_timeout.0)
        .with_max_header_bytes(limits.http_header_limit_kb.bytes())
        .with_max_headers(limits.http_header_count.get())
        .with_keep_alive_timeout(limits.http_keep_alive.0)
        .with_write_stall_timeout(limits.http_write_stall_timeout.0)
        // A client that is gone acknowledges no comment.
        .with_ack_timeout(limits.sse_keepalive.map(|_| limits.http_write_stall_timeout.0))
        .with_max_streams(limits.http2_streams.get())
        .with_max_connections(*limits.max_connections)
        .with_max_connections_per_ip(*limits.max_connections_per_ip)
        .with_drain_grace(listening.drain_grace.0)
        .with_drain_timeout(listening.drain_timeout.0)
}

/// A certificate and its key, or neither.
fn certificate(
    certificate: Value<Option<PathBuf>>,
    key: Value<Option<PathBuf>>,
) -> Result<Option<ServerTls>, Failure> {
    let labels = format!("{}, {}", certificate.setting.label(), key.setting.label());
    let Some((certificate, key)) = pair(certificate, key)? else { return Ok(None) };
    ServerTls::load(certificate, key).map(Some).context(labels).map_err(Failure::Usage)
}

/// TLS for clients, whose certificates `authorities` vouch for, if there are any.
fn for_clients(
    tls: Option<ServerTls>,
    authorities: Value<Option<PathBuf>>,
    auth: &Value<ClientAuth>,
) -> Result<Option<ServerTls>, Failure> {
    let label = authorities.setting.label();
    match (tls, authorities.take()) {
        (tls, None) if auth.origin == Origin::Default => Ok(tls),
        (_, None) => Err(Failure::usage(format!(
            "--tls-client-auth needs {label}: without it no client is asked for a certificate"
        ))),
        (None, Some(_)) => Err(Failure::usage(format!(
            "{label} needs {}: clients show a certificate over TLS only",
            Listening::tls_cert_path.label()
        ))),
        (Some(tls), Some(file)) => tls
            .with_client_authorities(file, **auth)
            .map(Some)
            .context(label)
            .map_err(Failure::Usage),
    }
}

#[cfg(test)]
mod tests {
    use dynamo_http::RouterMode;

    use super::*;
    use crate::program::tests::given;

    fn resolve<const N: usize>(
        arguments: &[&str],
        variables: [(&str, &str); N],
    ) -> Result<FrontendSettings, String> {
        let given = given(&table::FRONTEND, arguments, variables)?;
        read(&given).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_layer_below() {
        let settings = resolve(&[], []).unwrap();
        assert_eq!(format!("{:?}", settings.config), format!("{:?}", FrontendConfig::default()));
        assert_eq!(format!("{:?}", settings.options), format!("{:?}", ServeOptions::default()));
        assert_eq!(format!("{:?}", settings.hold), format!("{:?}", Hold::default()));
        assert_eq!((settings.host.as_str(), settings.port), ("0.0.0.0", 8000));
    }

    #[test]
    fn static_workers_are_used_alone_unless_etcd_is_named() {
        let none = ("OTHER", "1");
        let worker = ["--worker-url", "http://h:1"];
        let backend = |name| ["--worker-url", "http://h:1", "--discovery-backend", name];
        for (arguments, variable, etcd) in [
            (&[][..], none, true),
            (&worker, none, false),
            (&worker, ("ETCD_ENDPOINTS", "http://e:1"), true),
            (&worker, ("ETCD_ENDPOINTS", " "), false),
            (&worker, ("DYN_DISCOVERY_BACKEND", "etcd"), true),
            (&worker, ("DYN_DISCOVERY_BACKEND", "memory"), false),
            (&backend("etcd"), none, true),
            (&backend("memory"), ("ETCD_ENDPOINTS", "http://e:1"), false),
            (&[], ("DYN_DISCOVERY_BACKEND", "memory"), false),
        ] {
            let settings = resolve(arguments, [variable]).unwrap();
            assert_eq!(settings.etcd.is_some(), etcd, "{arguments:?}");
        }
        let message = resolve(&["--discovery-backend", "memory"], []).unwrap_err();
        assert!(message.contains("lives in one process"), "{message}");
    }

    #[test]
    fn no_static_worker_belongs_to_a_namespace_that_is_not_discovered() {
        let worker = ["--worker-url", "http://h:1;namespace=team-b"];
        assert!(resolve(&worker, []).is_ok());
        let message = resolve(&worker, [("DYN_NAMESPACE", "team-a")]).unwrap_err();
        assert!(message.contains("the namespace team-b is not among"), "{message}");
    }

    #[test]
    fn networks_and_keys_are_of_one_namespace_or_of_all() {
        let namespace = |name: &str| name.parse::<Namespace>().unwrap();
        let settings = resolve(
            &[
                ["--worker-network", "192.0.2.0/28"],
                ["--worker-network", "team-b=192.0.2.16/28"],
                ["--worker-network", "team-b=192.0.2.32/28"],
                ["--worker-api-key-file", "/run/shared"],
                ["--worker-api-key-file", "team-b=/run/of-b"],
            ]
            .concat(),
            [],
        )
        .unwrap();
        let config = &settings.config;
        for (name, address, expected) in [
            ("team-a", "192.0.2.1", true),
            ("team-a", "192.0.2.17", false),
            ("team-b", "192.0.2.1", false),
            ("team-b", "192.0.2.17", true),
            ("team-b", "192.0.2.33", true),
        ] {
            let networks = config.networks_of(&namespace(name));
            assert_eq!(networks.permit(address.parse().unwrap()), expected, "{name} {address}");
        }
        let files: Vec<_> = settings.worker_keys.iter().map(|(file, _)| file.as_path()).collect();
        assert_eq!(files, [std::path::Path::new("/run/shared"), std::path::Path::new("/run/of-b")]);
        settings.worker_keys[1].1.set("b").unwrap();
        assert_eq!(config.worker_key_of(&namespace("team-b")).header().unwrap(), "Bearer b");
        assert_eq!(config.worker_key_of(&namespace("team-a")).header(), None);

        let twice = ["--worker-api-key-file", "a=/x", "--worker-api-key-file", "a=/y"];
        let message = resolve(&twice, []).unwrap_err();
        assert!(message.contains("is given twice for a"), "{message}");
        for flag in ["--worker-network=team-b=192.0.2.0/24", "--worker-api-key-file=team-b=/x"] {
            let message = resolve(&[flag], [("DYN_NAMESPACE", "team-a")]).unwrap_err();
            assert!(message.contains("the namespace team-b is not among"), "{message}");
        }
    }

    #[test]
    fn every_limit_is_a_flag() {
        let settings = resolve(
            &[
                ["--http-body-limit-mb", "1"],
                ["--http-body-memory-mb", "2"],
                ["--http-header-limit-kb", "16"],
                ["--http-header-count", "7"],
                ["--http-header-timeout", "1"],
                ["--http-body-stall-timeout", "2"],
                ["--http-write-stall-timeout", "3"],
                ["--http-keep-alive", "4"],
                ["--http2-streams", "5"],
                ["--max-connections", "10"],
                ["--max-connections-per-ip", "11"],
                ["--connect-timeout", "0.5"],
                ["--first-byte-timeout", "6"],
                ["--stream-idle-timeout", "7"],
                ["--sse-keepalive", "15s"],
                ["--drain-grace", "8"],
                ["--drain-timeout", "0"],
            ]
            .concat(),
            [("DYN_HTTP_BODY_LIMIT_MB", "9")],
        )
        .unwrap();
        let seconds = std::time::Duration::from_secs_f64;
        let FrontendSettings { config, options, body_memory, .. } = settings;
        assert_eq!((*config.body_limit(), body_memory), (1 << 20, Some(2 << 20)));
        assert_eq!(*config.body_stall_timeout(), seconds(2.0));
        assert_eq!(*config.connect_timeout(), seconds(0.5));
        assert_eq!(*config.first_byte_timeout(), seconds(6.0));
        assert_eq!(*config.idle_stream_timeout(), seconds(7.0));
        assert_eq!(*config.sse_keepalive(), Some(seconds(15.0)));
        assert_eq!(*options.ack_timeout(), Some(seconds(3.0)));
        assert_eq!((*options.max_header_bytes(), *options.max_headers()), (16 << 10, 7));
        assert_eq!(*options.header_timeout(), seconds(1.0));
        assert_eq!(*options.write_stall_timeout(), seconds(3.0));
        assert_eq!(*options.keep_alive_timeout(), seconds(4.0));
        assert_eq!(*options.max_streams(), 5);
        assert_eq!(options.max_connections().map(NonZeroUsize::get), Some(10));
        assert_eq!(options.max_connections_per_ip().map(NonZeroUsize::get), Some(11));
        assert_eq!(*options.drain_grace(), seconds(8.0));
        assert_eq!(*options.drain_timeout(), seconds(0.0));

        let by_variable = resolve(&[], [("DYN_HTTP_BODY_LIMIT_MB", "9")]).unwrap();
        assert_eq!(*by_variable.config.body_limit(), 9 << 20);
    }

    #[test]
    fn clients_are_asked_for_certificates_over_tls_only() {
        let message = resolve(&["--tls-client-auth", "optional"], []).unwrap_err();
        assert!(message.contains("--tls-client-auth needs --tls-client-ca-path"), "{message}");
        let message = resolve(&[], [("DYN_TLS_CLIENT_CA_CERT_PATH", "ca.pem")]).unwrap_err();
        assert!(message.contains("needs --tls-cert-path"), "{message}");
        assert!(resolve(&["--tls-client-auth", "maybe"], []).is_err());
    }

    #[test]
    fn there_are_as_many_threads_as_the_process_has_cpus_unless_it_is_set() {
        let cpus = thread::available_parallelism().unwrap();
        let three = || [("DYN_RUNTIME_NUM_WORKER_THREADS", "3")];
        assert_eq!(resolve(&[], []).unwrap().threads, cpus);
        assert_eq!(resolve(&[], three()).unwrap().threads.get(), 3);
        assert_eq!(resolve(&["--threads", "2"], three()).unwrap().threads.get(), 2);
        assert!(resolve(&["--threads", "0"], []).is_err());
    }

    #[test]
    fn how_requests_are_spread_is_set_by_flags() {
        let settings = resolve(
            &[
                ["--router-mode", "cache-aware"],
                ["--frontends", "3"],
                ["--affinity-header", "X-Chat"],
                ["--worker-concurrency", "8"],
                ["--queue-depth", "9"],
                ["--queue-timeout", "1.5"],
                ["--wait-for-model", "30s"],
                ["--retry-budget", "30"],
                ["--panic-threshold", "0"],
                ["--worker-probe-interval", "0"],
            ]
            .concat(),
            [],
        );
        let settings = settings.unwrap();
        assert!(settings.counted_frontends.is_none(), "the number is given");
        assert!(resolve(&[], []).unwrap().counted_frontends.is_some());
        let config = settings.config;
        assert_eq!(*config.router_mode(), RouterMode::CacheAware);
        assert_eq!(config.frontends().count().get(), 3);
        assert!(resolve(&["--frontends", "0"], []).is_err());
        assert_eq!(*config.affinity_header(), "x-chat");
        assert_eq!(config.worker_concurrency().map(NonZeroUsize::get), Some(8));
        assert_eq!((*config.queue_depth(), config.queue_timeout().as_millis()), (9, 1500));
        assert_eq!(config.wait_for_model().as_secs(), 30);
        assert_eq!((*config.retry_budget(), *config.panic_threshold()), (30, 0));
        assert_eq!(*config.probe_interval(), None);
        assert!(resolve(&["--retry-budget", "101"], []).is_err());
    }

    #[test]
    fn only_a_router_mode_that_exists_is_taken() {
        let by_variable = resolve(&[], [("DYN_ROUTER_MODE", "random")]).unwrap();
        assert_eq!(*by_variable.config.router_mode(), RouterMode::Random);
        for message in [
            resolve(&["--router-mode", "kv"], []).unwrap_err(),
            resolve(&[], [("DYN_ROUTER_MODE", "kv")]).unwrap_err(),
        ] {
            assert!(message.contains("expected round-robin"), "{message}");
        }
    }
}
