//! What a worker was told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use dynamo_discovery::{EtcdConfig, Kind, Kinds, WorkerUrl, check_model_name};
use dynamo_http::{WorkerKey, WorkerTls};
use dynamo_namespace::EndpointId;

use crate::echo::EchoEngine;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::settings::identity::IdentityFlags;
use crate::settings::static_worker::default_kinds;
use crate::settings::store::{Store, StoreFlags};
use crate::settings::value::{KindList, LeaseTtl, Seconds, Timeout};
use crate::settings::{authorities, table};

#[derive(Debug, Parser)]
pub(crate) struct WorkerFlags {
    #[command(flatten)]
    identity: IdentityFlags,
    #[arg(long)]
    url: Option<WorkerUrl>,
    #[arg(long)]
    advertise_url: Option<WorkerUrl>,
    #[arg(long)]
    engine_api_key_file: Option<PathBuf>,
    #[arg(long)]
    engine_ca: Option<PathBuf>,
    #[arg(long)]
    start_timeout: Option<Timeout>,
    #[arg(long)]
    silence_timeout: Option<Timeout>,
    #[arg(long)]
    drain_grace: Option<Seconds>,
    #[arg(long)]
    stop_timeout: Option<Seconds>,
    #[arg(long, value_parser = model_name)]
    model: Vec<String>,
    #[arg(long)]
    model_type: Option<KindList>,
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    context_length: Option<u64>,
    #[arg(long)]
    echo: bool,
    #[arg(long)]
    echo_host: Option<String>,
    #[arg(long)]
    echo_port: Option<u16>,
    #[arg(long)]
    echo_delay_ms: Option<u32>,
    #[arg(long)]
    lease_ttl: Option<LeaseTtl>,
    #[command(flatten)]
    store: StoreFlags,
    /// The engine to run, after `--`.
    #[arg(
        last = true,
        value_name = "COMMAND",
        help = "The engine to run: it ends with the worker"
    )]
    command: Vec<OsString>,
}

fn model_name(text: &str) -> Result<String, dynamo_discovery::InvalidEntry> {
    check_model_name(text).map(|()| text.to_owned())
}

/// A worker's settings, checked.
#[derive(Debug)]
pub(crate) struct WorkerSettings {
    pub(crate) endpoint: EndpointId,
    pub(crate) engine: EngineSettings,
    pub(crate) advertise_url: Option<WorkerUrl>,
    /// The key for the engine, if it wants one.
    pub(crate) engine_key: WorkerKey,
    /// Which authorities an `https` engine is trusted by.
    pub(crate) engine_tls: WorkerTls,
    pub(crate) models: Vec<String>,
    pub(crate) kinds: Kinds,
    pub(crate) context_length: Option<u64>,
    pub(crate) etcd: EtcdConfig,
    pub(crate) lease_ttl: Duration,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) silence_timeout: Duration,
    pub(crate) drain_grace: Duration,
    pub(crate) stop_timeout: Duration,
}

/// Where the engine is.
#[derive(Debug, PartialEq)]
pub(crate) enum EngineSettings {
    /// Someone else runs it.
    Elsewhere(WorkerUrl),
    /// We run it.
    Command { url: WorkerUrl, command: Vec<OsString> },
    /// We are it.
    Echo { host: String, port: u16, delay: Duration },
}

impl WorkerFlags {
    /// # Errors
    ///
    /// When something is missing, invalid or does not go together.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<WorkerSettings, Failure> {
        let endpoint = self.identity.resolve(environment)?;
        let etcd = match self.store.resolve(environment)? {
            Store::Etcd { config, .. } => config,
            Store::Memory { .. } => {
                return Err(Failure::usage(format!(
                    "{} is memory, which lives in one process: no frontend would see this worker; \
                     use etcd, or start the frontend with --worker-url",
                    table::DISCOVERY_BACKEND.name()
                )));
            }
        };
        let engine = match (self.echo, self.url, self.command) {
            (true, None, command) if command.is_empty() => {
                let milliseconds = table::ECHO_DELAY_MS.resolve(self.echo_delay_ms, environment)?;
                EngineSettings::Echo {
                    host: table::ECHO_HOST.resolve(self.echo_host, environment)?,
                    port: table::ECHO_PORT.resolve(self.echo_port, environment)?,
                    delay: Duration::from_millis(u32::into(milliseconds)),
                }
            }
            (false, Some(url), command) if command.is_empty() => EngineSettings::Elsewhere(url),
            (false, Some(url), command) => EngineSettings::Command { url, command },
            (false, None, command) if command.is_empty() => {
                return Err(Failure::usage(
                    "no engine is given: --url for one that runs, --url and -- COMMAND for one to \
                     run, or --echo for the built-in one",
                ));
            }
            (false, None, _) => {
                return Err(Failure::usage("--url is needed: it says where COMMAND will listen"));
            }
            (true, ..) => {
                return Err(Failure::usage(
                    "--echo is an engine of its own: leave --url and COMMAND out",
                ));
            }
        };
        let is_echo = matches!(engine, EngineSettings::Echo { .. });
        let KindList(kinds) = self.model_type.unwrap_or(KindList(if is_echo {
            default_kinds().union(Kind::Embedding.into())
        } else {
            default_kinds()
        }));
        let models = match self.model {
            models if models.is_empty() && is_echo => vec![EchoEngine::DEFAULT_MODEL.to_owned()],
            models => models,
        };
        let LeaseTtl(lease_ttl) = table::LEASE_TTL.resolve(self.lease_ttl, environment)?;
        let Timeout(silence_timeout) =
            table::SILENCE_TIMEOUT.resolve(self.silence_timeout, environment)?;
        let Seconds(drain_grace) = table::DRAIN_GRACE.resolve(self.drain_grace, environment)?;
        let Seconds(stop_timeout) = table::STOP_TIMEOUT.resolve(self.stop_timeout, environment)?;
        let engine_key = WorkerKey::default();
        if let Some(file) = self.engine_api_key_file {
            read_key(&file, &engine_key)?;
        }
        Ok(WorkerSettings {
            endpoint,
            engine,
            advertise_url: self.advertise_url,
            engine_key,
            engine_tls: authorities(table::ENGINE_CA, self.engine_ca)?,
            models,
            kinds,
            context_length: self.context_length,
            etcd,
            lease_ttl,
            start_timeout: self.start_timeout.map(|Timeout(timeout)| timeout),
            silence_timeout,
            drain_grace,
            stop_timeout,
        })
    }
}

fn read_key(file: &Path, key: &WorkerKey) -> Result<(), Failure> {
    let name = table::ENGINE_API_KEY_FILE.name();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{name}: cannot read {}", file.display()))
        .map_err(Failure::Usage)?;
    key.set(text.trim())
        .with_context(|| format!("{name}: {} holds no key", file.display()))
        .map_err(Failure::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Parsed, parse};

    fn resolve(
        arguments: &[&str],
        environment: impl Into<Environment>,
    ) -> Result<WorkerSettings, String> {
        let arguments = ["dynamo-worker"].iter().chain(arguments);
        match parse::<WorkerFlags>(&table::WORKER, arguments) {
            Ok(Parsed::Flags(flags)) => {
                flags.resolve(&environment.into()).map_err(|failure| failure.to_string())
            }
            Ok(Parsed::Help(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn the_engine_is_elsewhere_or_ours_to_run_or_ourselves() {
        let url: WorkerUrl = "http://h:1".parse().unwrap();
        let engine = |arguments: &[&str]| resolve(arguments, []).unwrap().engine;
        assert_eq!(engine(&["--url", "http://h:1"]), EngineSettings::Elsewhere(url.clone()));
        assert_eq!(
            engine(&["--url", "http://h:1", "--", "serve", "--url", "x"]),
            EngineSettings::Command {
                url,
                command: ["serve", "--url", "x"].map(Into::into).into()
            }
        );
        assert_eq!(
            engine(&["--echo", "--echo-delay-ms", "0"]),
            EngineSettings::Echo { host: "127.0.0.1".into(), port: 0, delay: Duration::ZERO }
        );
        for (arguments, part) in [
            (&[][..], "no engine is given"),
            (&["--", "serve"], "--url is needed"),
            (&["--echo", "--url", "http://h:1"], "--echo is an engine of its own"),
            (&["--echo", "--", "serve"], "--echo is an engine of its own"),
            (&["serve"], "unexpected argument 'serve'"),
        ] {
            let message = resolve(arguments, []).unwrap_err();
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn the_memory_is_no_store_for_a_worker_whoever_says_so() {
        for message in [
            resolve(&["--echo", "--discovery-backend", "memory"], []).unwrap_err(),
            resolve(&["--echo"], [("DYN_DISCOVERY_BACKEND", "memory")]).unwrap_err(),
        ] {
            assert!(message.contains("lives in one process"), "{message}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = resolve(&["--url", "http://h:1"], []).unwrap();
        assert_eq!(settings.endpoint.to_string(), "global.backend.generate");
        assert_eq!(settings.kinds.to_string(), "Chat | Completions");
        assert_eq!(settings.models, [""; 0]);
        assert_eq!(settings.lease_ttl, Duration::from_secs(10));
        assert_eq!(settings.silence_timeout, Duration::from_secs(60));
        assert_eq!(settings.drain_grace, Duration::from_secs(5));
        assert_eq!(settings.stop_timeout, Duration::from_secs(60));
        assert_eq!(settings.start_timeout, None);
        let echo = resolve(&["--echo"], []).unwrap();
        assert_eq!(echo.kinds.to_string(), "Chat | Completions | Embedding");
        assert_eq!(echo.models, [EchoEngine::DEFAULT_MODEL]);
    }

    #[test]
    fn flags_and_variables_are_read() {
        let settings = resolve(
            &["--echo", "--model", "a", "--model", "b", "--model-type", "embedding"],
            [("ETCD_LEASE_TTL", "30"), ("DYN_NAMESPACE", "team-a")],
        )
        .unwrap();
        assert_eq!(settings.models, ["a", "b"]);
        assert_eq!(settings.kinds.to_string(), "Embedding");
        assert_eq!(settings.lease_ttl, Duration::from_secs(30));
        assert_eq!(settings.endpoint.to_string(), "team-a.backend.generate");
    }

    #[test]
    fn invalid_values_are_named_in_one_line() {
        for (arguments, part) in [
            (["--lease-ttl", "1"], "expected whole seconds from 2"),
            (["--url", "ftp://h"], "neither http nor https"),
            (["--model", "a\u{202e}b"], "bidirectional"),
            (["--model-type", "telepathy"], "expected some of Chat"),
            (["--context-length", "0"], "not in 1.."),
            (["--drain-grace", "-1"], "unexpected argument '-1'"),
            (["--echo-port", "65536"], "65536"),
        ] {
            let message = resolve(&arguments, []).unwrap_err();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
        let message = resolve(&["--echo"], [("ETCD_LEASE_TTL", "1")]).unwrap_err();
        assert!(message.starts_with("ETCD_LEASE_TTL=\"1\": expected"), "{message}");
    }

    #[test]
    fn the_engine_key_is_read_from_its_file_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let arguments =
            ["--url", "http://h:1", "--engine-api-key-file", file.path().to_str().unwrap()];
        let message = resolve(&arguments, []).unwrap_err();
        assert!(message.contains("holds no key"), "{message}");
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let settings = resolve(&arguments, []).unwrap();
        assert_eq!(settings.engine_key.header().unwrap(), "Bearer s3cret");
        assert!(!format!("{settings:?}").contains("s3cret"));
        let missing = ["--url", "http://h:1", "--engine-api-key-file", "/nonexistent"];
        assert!(resolve(&missing, []).unwrap_err().contains("cannot read /nonexistent"));
    }
}
