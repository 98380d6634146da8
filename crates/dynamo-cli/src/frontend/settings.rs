//! What a frontend was told.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::thread;

use anyhow::Context as _;
use clap::Parser;
use dynamo_discovery::EtcdConfig;
use dynamo_http::{FrontendConfig, Hold, Network, ServeOptions, ServerTls};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::settings::access::{AccessFlags, AccessSettings};
use crate::settings::balance::BalanceFlags;
use crate::settings::scope::{ScopeFlags, ScopeSettings};
use crate::settings::static_worker::StaticWorker;
use crate::settings::store::{Store, StoreFlags};
use crate::settings::value::{Kibibytes, Mebibytes, Seconds, Timeout};
use crate::settings::{Setting, authorities, table};

#[derive(Debug, Parser)]
pub(crate) struct FrontendFlags {
    #[command(flatten)]
    scope: ScopeFlags,
    #[arg(long)]
    http_host: Option<String>,
    #[arg(long)]
    http_port: Option<u16>,
    #[arg(long)]
    tls_cert_path: Option<PathBuf>,
    #[arg(long)]
    tls_key_path: Option<PathBuf>,
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    #[arg(long)]
    drain_grace: Option<Seconds>,
    #[arg(long)]
    drain_timeout: Option<Seconds>,
    #[command(flatten)]
    access: AccessFlags,
    #[arg(long)]
    worker_url: Vec<StaticWorker>,
    #[arg(long)]
    worker_network: Vec<Network>,
    #[arg(long)]
    worker_ca: Option<PathBuf>,
    #[arg(long)]
    hold: Option<Seconds>,
    #[arg(long)]
    state_file: Option<PathBuf>,
    #[command(flatten)]
    balance: BalanceFlags,
    #[command(flatten)]
    store: StoreFlags,
    #[arg(long)]
    http_body_limit_mb: Option<Mebibytes>,
    #[arg(long)]
    http_body_memory_mb: Option<Mebibytes>,
    #[arg(long)]
    http_header_limit_kb: Option<Kibibytes>,
    #[arg(long)]
    http_header_count: Option<NonZeroUsize>,
    #[arg(long)]
    http_header_timeout: Option<Timeout>,
    #[arg(long)]
    http_body_stall_timeout: Option<Timeout>,
    #[arg(long)]
    http_write_stall_timeout: Option<Timeout>,
    #[arg(long)]
    http_keep_alive: Option<Timeout>,
    #[arg(long)]
    http2_streams: Option<NonZeroU32>,
    #[arg(long)]
    connect_timeout: Option<Timeout>,
    #[arg(long)]
    first_byte_timeout: Option<Timeout>,
    #[arg(long)]
    stream_idle_timeout: Option<Timeout>,
}

/// A frontend's settings, checked.
#[derive(Debug)]
pub(crate) struct FrontendSettings {
    pub(crate) scope: ScopeSettings,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// How many threads serve requests.
    pub(crate) threads: NonZeroUsize,
    pub(crate) access: AccessSettings,
    /// Where workers register; none for static workers only.
    pub(crate) etcd: Option<EtcdConfig>,
    pub(crate) workers: Vec<StaticWorker>,
    pub(crate) hold: Hold,
    /// Where what the store said is kept.
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) config: FrontendConfig,
    pub(crate) options: ServeOptions,
}

impl FrontendFlags {
    /// # Errors
    ///
    /// When something is invalid or does not go together.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<FrontendSettings, Failure> {
        let etcd = match self.store.resolve(environment)? {
            Store::Memory { by_flag: true } if self.worker_url.is_empty() => {
                return Err(Failure::usage(format!(
                    "{} is memory, which lives in one process, so that no worker can register: \
                     name workers with --worker-url, or use etcd",
                    table::DISCOVERY_BACKEND.name()
                )));
            }
            Store::Memory { .. } => None,
            Store::Etcd { named: false, .. } if !self.worker_url.is_empty() => None,
            Store::Etcd { config, .. } => Some(config),
        };

        let timeout = |setting: Setting, flag: Option<Timeout>| {
            setting.resolve(flag, environment).map(|Timeout(timeout)| timeout)
        };
        let bytes = |setting: Setting, flag: Option<Mebibytes>| {
            setting.resolve(flag, environment).map(Mebibytes::bytes)
        };
        let mut config = FrontendConfig::default();
        self.balance.resolve(environment, &mut config)?;
        config.body_limit = bytes(table::HTTP_BODY_LIMIT_MB, self.http_body_limit_mb)?;
        config.bodies_limit = bytes(table::HTTP_BODY_MEMORY_MB, self.http_body_memory_mb)?;
        config.body_stall_timeout =
            timeout(table::HTTP_BODY_STALL_TIMEOUT, self.http_body_stall_timeout)?;
        config.connect_timeout = timeout(table::CONNECT_TIMEOUT, self.connect_timeout)?;
        config.first_byte_timeout = timeout(table::FIRST_BYTE_TIMEOUT, self.first_byte_timeout)?;
        config.idle_stream_timeout = timeout(table::STREAM_IDLE_TIMEOUT, self.stream_idle_timeout)?;
        config.worker_networks = self.worker_network;
        config.worker_tls = authorities(table::WORKER_CA, self.worker_ca)?;

        let mut options = ServeOptions::default();
        options.header_timeout = timeout(table::HTTP_HEADER_TIMEOUT, self.http_header_timeout)?;
        options.max_header_bytes = table::HTTP_HEADER_LIMIT_KB
            .resolve(self.http_header_limit_kb, environment)
            .map(Kibibytes::bytes)?;
        options.max_headers =
            table::HTTP_HEADER_COUNT.resolve(self.http_header_count, environment)?.get();
        options.keep_alive_timeout = timeout(table::HTTP_KEEP_ALIVE, self.http_keep_alive)?;
        options.write_stall_timeout =
            timeout(table::HTTP_WRITE_STALL_TIMEOUT, self.http_write_stall_timeout)?;
        options.max_streams = table::HTTP2_STREAMS.resolve(self.http2_streams, environment)?.get();
        options.tls = listener_tls(
            table::TLS_CERT_PATH.given(self.tls_cert_path, environment)?,
            table::TLS_KEY_PATH.given(self.tls_key_path, environment)?,
        )?;
        let Seconds(grace) = table::FRONTEND_DRAIN_GRACE.resolve(self.drain_grace, environment)?;
        options.drain_grace = grace;
        let Seconds(drain) = table::DRAIN_TIMEOUT.resolve(self.drain_timeout, environment)?;
        options.drain_timeout = drain;
        let Seconds(hold) = table::HOLD.resolve(self.hold, environment)?;

        let scope = self.scope.resolve(environment)?;
        let named = self.worker_url.iter().filter_map(|worker| worker.namespace.as_ref());
        if let Some(stranger) = named.into_iter().find(|name| !scope.scope.contains(name)) {
            return Err(Failure::usage(format!(
                "--worker-url: the namespace {stranger} is not among those that this frontend \
                 discovers ({})",
                scope.scope
            )));
        }
        Ok(FrontendSettings {
            scope,
            host: table::HTTP_HOST.resolve(self.http_host, environment)?,
            port: table::HTTP_PORT.resolve(self.http_port, environment)?,
            threads: match table::THREADS.given(self.threads, environment)? {
                Some(threads) => threads,
                None => thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            },
            access: self.access.resolve(environment)?,
            etcd,
            workers: self.worker_url,
            hold: Hold::for_at_most(hold),
            state_file: table::STATE_FILE.given(self.state_file, environment)?,
            config,
            options,
        })
    }
}

/// A certificate and its key, or neither.
fn listener_tls(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<ServerTls>, Failure> {
    let (certificate_name, key_name) = (table::TLS_CERT_PATH.name(), table::TLS_KEY_PATH.name());
    let without = |given: &str, missing: &str| {
        Err(Failure::usage(format!("{given} is given without {missing}: TLS needs both")))
    };
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(_), None) => without(&certificate_name, &key_name),
        (None, Some(_)) => without(&key_name, &certificate_name),
        (Some(certificate), Some(key)) => ServerTls::load(certificate, key)
            .map(Some)
            .with_context(|| format!("{certificate_name}, {key_name}"))
            .map_err(Failure::Usage),
    }
}

#[cfg(test)]
mod tests {
    use dynamo_http::RouterMode;

    use super::*;
    use crate::program::{Parsed, parse};

    fn resolve(
        arguments: &[&str],
        environment: impl Into<Environment>,
    ) -> Result<FrontendSettings, String> {
        let arguments = ["dynamo-frontend"].iter().chain(arguments);
        match parse::<FrontendFlags>(&table::FRONTEND, arguments) {
            Ok(Parsed::Flags(flags)) => {
                flags.resolve(&environment.into()).map_err(|failure| failure.to_string())
            }
            Ok(Parsed::Help(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
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
        let none = || Environment::default();
        let worker = ["--worker-url", "http://h:1"];
        let backend = |name| ["--worker-url", "http://h:1", "--discovery-backend", name];
        for (arguments, environment, etcd) in [
            (&[][..], none(), true),
            (&worker, none(), false),
            (&worker, Environment::from([("ETCD_ENDPOINTS", "http://e:1")]), true),
            (&worker, Environment::from([("ETCD_ENDPOINTS", " ")]), false),
            (&worker, Environment::from([("DYN_DISCOVERY_BACKEND", "etcd")]), true),
            (&worker, Environment::from([("DYN_DISCOVERY_BACKEND", "memory")]), false),
            (&backend("etcd"), none(), true),
            (&backend("memory"), Environment::from([("ETCD_ENDPOINTS", "http://e:1")]), false),
            (&[], Environment::from([("DYN_DISCOVERY_BACKEND", "memory")]), false),
        ] {
            let settings = resolve(arguments, environment).unwrap();
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
                ["--connect-timeout", "0.5"],
                ["--first-byte-timeout", "6"],
                ["--stream-idle-timeout", "7"],
                ["--drain-grace", "8"],
                ["--drain-timeout", "0"],
            ]
            .concat(),
            [("DYN_HTTP_BODY_LIMIT_MB", "9")],
        )
        .unwrap();
        let seconds = std::time::Duration::from_secs_f64;
        let FrontendSettings { config, options, .. } = settings;
        assert_eq!((config.body_limit, config.bodies_limit), (1 << 20, 2 << 20));
        assert_eq!(config.body_stall_timeout, seconds(2.0));
        assert_eq!(config.connect_timeout, seconds(0.5));
        assert_eq!(config.first_byte_timeout, seconds(6.0));
        assert_eq!(config.idle_stream_timeout, seconds(7.0));
        assert_eq!((options.max_header_bytes, options.max_headers), (16 << 10, 7));
        assert_eq!(options.header_timeout, seconds(1.0));
        assert_eq!(options.write_stall_timeout, seconds(3.0));
        assert_eq!(options.keep_alive_timeout, seconds(4.0));
        assert_eq!(options.max_streams, 5);
        assert_eq!(options.drain_grace, seconds(8.0));
        assert_eq!(options.drain_timeout, seconds(0.0));

        let by_variable = resolve(&[], [("DYN_HTTP_BODY_LIMIT_MB", "9")]).unwrap();
        assert_eq!(by_variable.config.body_limit, 9 << 20);
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
                ["--router-mode", "affinity"],
                ["--affinity-header", "X-Chat"],
                ["--worker-concurrency", "8"],
                ["--queue-depth", "9"],
                ["--queue-timeout", "1.5"],
                ["--retry-budget", "30"],
                ["--panic-threshold", "0"],
                ["--worker-probe-interval", "0"],
            ]
            .concat(),
            [],
        );
        let config = settings.unwrap().config;
        assert_eq!(config.router_mode, RouterMode::Affinity);
        assert_eq!(config.affinity_header, "x-chat");
        assert_eq!(config.worker_concurrency.map(NonZeroUsize::get), Some(8));
        assert_eq!((config.queue_depth, config.queue_timeout.as_millis()), (9, 1500));
        assert_eq!((config.retry_budget, config.panic_threshold), (30, 0));
        assert_eq!(config.probe_interval, None);
        assert!(resolve(&["--retry-budget", "101"], []).is_err());
    }

    #[test]
    fn only_a_router_mode_that_exists_is_taken() {
        let by_variable = resolve(&[], [("DYN_ROUTER_MODE", "random")]).unwrap();
        assert_eq!(by_variable.config.router_mode, RouterMode::Random);
        for message in [
            resolve(&["--router-mode", "kv"], []).unwrap_err(),
            resolve(&[], [("DYN_ROUTER_MODE", "kv")]).unwrap_err(),
        ] {
            assert!(message.contains("expected round-robin"), "{message}");
        }
    }
}
