//! What a worker was told.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use dynamo_discovery::{Accepts, Kind, Kinds, WorkerUrl};
use dynamo_http::{WorkerKey, WorkerTls};
use dynamo_namespace::EndpointId;

use super::control::{ControlConfig, ControlKey};
use crate::certificates::Place;
use crate::echo::EchoEngine;
use crate::failure::Failure;
use crate::key_file;
use crate::settings::given::{Given, Value};
use crate::settings::static_worker::default_kinds;
use crate::settings::store::{self, Etcd, Store};
use crate::settings::table::{self, Control, Echo, Engine, Lease, Models};
use crate::settings::value::ModelName;
use crate::settings::{authorities, identity, url};

/// A worker's settings, checked.
#[derive(Debug)]
pub(crate) struct WorkerSettings {
    pub(crate) endpoint: EndpointId,
    pub(crate) engine: EngineSettings,
    pub(crate) advertise_url: Option<WorkerUrl>,
    /// None where no control port is wanted.
    pub(crate) control: Option<ControlConfig>,
    /// The key for the engine, if it wants one.
    pub(crate) engine_key: WorkerKey,
    /// The file of that key.
    pub(crate) engine_key_file: Option<PathBuf>,
    /// Which authorities an `https` engine is trusted by.
    pub(crate) engine_tls: WorkerTls,
    pub(crate) models: Vec<String>,
    pub(crate) kinds: Kinds,
    pub(crate) context_length: Option<u64>,
    /// The optional fields of requests that the engine accepts; `None` for what is known of it.
    pub(crate) accepts: Option<Accepts>,
    pub(crate) etcd: Etcd,
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

impl WorkerSettings {
    /// The certificates that the worker has loaded. Those of the machine's own authorities are not among
    /// them.
    pub(super) fn certificates(&self) -> Vec<Place> {
        let engine = self.engine_tls.clone();
        let engine = Place::authorities("engine_ca", move || engine.authorities());
        [engine].into_iter().chain(self.etcd.certificates()).collect()
    }
}

/// # Errors
///
/// When something is missing, invalid or does not go together.
pub(crate) fn read(given: &Given) -> Result<WorkerSettings, Failure> {
    let endpoint = identity::read(given)?;
    let (engine, models) = (Engine::read(given)?, Models::read(given)?);
    let (control_port, echo, lease) =
        (Control::read(given)?, Echo::read(given)?, Lease::read(given)?);
    let Store::Etcd { etcd, .. } = store::read(given)? else {
        return Err(Failure::usage(format!(
            "{} is memory, which lives in one process: no frontend would see this worker; use \
             etcd, or start the frontend with --worker-url",
            table::Store::discovery_backend.label()
        )));
    };
    let advertise_url = url::published(&engine.advertise_url)?;
    let url_label = engine.url.setting.label();
    let engine_url = engine.url.take().map(|url| url::base(url, &url_label));
    if let (Some(url), None) = (&engine_url, &advertise_url)
        && let Some(why) = url::why_unreachable(url)
    {
        return Err(Failure::usage(format!(
            "{url_label}: no frontend can reach {url}: {why}, with {}",
            engine.advertise_url.setting.label()
        )));
    }
    let place = place(echo, engine_url, given.command())?;
    let is_echo = matches!(place, EngineSettings::Echo { .. });
    let kinds = models.model_type.unwrap_or_else(|| {
        let more = if is_echo { Kind::Embedding.into() } else { Kinds::NONE };
        default_kinds().union(more)
    });
    let mut names: Vec<_> = models.model.take().into_iter().map(|ModelName(name)| name).collect();
    if names.is_empty() && is_echo {
        names.push(EchoEngine::DEFAULT_MODEL.to_owned());
    }
    Ok(WorkerSettings {
        endpoint,
        engine: place,
        advertise_url,
        control: control(control_port)?,
        engine_key: engine_key(&engine.engine_api_key_file)?,
        engine_key_file: engine.engine_api_key_file.take(),
        engine_tls: authorities(engine.engine_ca)?,
        models: names,
        kinds,
        context_length: models.context_length.map(u64::from),
        accepts: *models.accepts,
        etcd: *etcd,
        lease_ttl: lease.lease_ttl.0,
        start_timeout: engine.start_timeout.map(|timeout| timeout.0),
        silence_timeout: engine.silence_timeout.0,
        drain_grace: engine.drain_grace.0,
        stop_timeout: engine.stop_timeout.0,
    })
}

fn place(
    echo: Echo,
    url: Option<WorkerUrl>,
    command: Vec<OsString>,
) -> Result<EngineSettings, Failure> {
    match (*echo.echo, url) {
        (true, None) if command.is_empty() => Ok(EngineSettings::Echo {
            host: echo.echo_host.take(),
            port: *echo.echo_port,
            delay: Duration::from_millis((*echo.echo_delay_ms).into()),
        }),
        (false, Some(url)) if command.is_empty() => Ok(EngineSettings::Elsewhere(url)),
        (false, Some(url)) => Ok(EngineSettings::Command { url, command }),
        (false, None) if command.is_empty() => Err(Failure::usage(
            "no engine is given: --url for one that runs, --url and -- COMMAND for one to run, or \
             --echo for the built-in one",
        )),
        (false, None) => Err(Failure::usage("--url is needed: it says where COMMAND will listen")),
        (true, _) => {
            Err(Failure::usage("--echo is an engine of its own: leave --url and COMMAND out"))
        }
    }
}

fn control(control: Control) -> Result<Option<ControlConfig>, Failure> {
    if !*control.no_control {
        if let Some(url) = &*control.control_advertise_url
            && let Some(why) = url::why_unreachable(url.as_worker_url())
        {
            let source = control.control_advertise_url.source();
            return Err(Failure::usage(format!("{source}: no frontend can reach {url}: {why}")));
        }
        let key = read_key(&control.control_key_file, ControlKey::of)?;
        return Ok(Some(ControlConfig {
            host: control.control_host.take(),
            port: control.control_port.take(),
            advertise_url: control.control_advertise_url.take(),
            key: control.control_key_file.take().zip(key),
        }));
    }
    fn given<T>(value: &Value<T>) -> Option<String> {
        value.is_given().then(|| value.source())
    }
    let other = given(&control.control_host)
        .or(given(&control.control_port))
        .or(given(&control.control_advertise_url))
        .or(given(&control.control_key_file));
    match other {
        None => Ok(None),
        Some(other) => Err(Failure::usage(format!(
            "{other} is given with {}: leave one of them out",
            control.no_control.source()
        ))),
    }
}

fn engine_key(file: &Value<Option<PathBuf>>) -> Result<WorkerKey, Failure> {
    let key = WorkerKey::default();
    read_key(file, |text| key.set(text))?;
    Ok(key)
}

/// The key in a file, if a file is given.
fn read_key<T, E>(
    file: &Value<Option<PathBuf>>,
    key: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Failure>
where
    Result<T, E>: anyhow::Context<T, E>,
{
    let Some(path) = &**file else { return Ok(None) };
    let read = || {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        key_file::only(&text, path, key)
    };
    read().map(Some).with_context(|| file.setting.label()).map_err(Failure::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;

    fn resolve<const N: usize>(
        arguments: &[&str],
        variables: [(&str, &str); N],
    ) -> Result<WorkerSettings, String> {
        let given = given(&table::WORKER, arguments, variables)?;
        read(&given).map_err(|failure| failure.to_string())
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
        assert_eq!(settings.silence_timeout, Duration::from_secs(600));
        assert_eq!(settings.drain_grace, Duration::from_secs(5));
        assert_eq!(settings.stop_timeout, Duration::from_secs(60));
        assert_eq!(settings.start_timeout, None);
        assert_eq!(settings.control, Some(ControlConfig::default()));
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
    fn a_control_port_is_wanted_unless_it_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abcdefghijklmnopqrstuvwxyz\n").unwrap();
        let key_file = file.path().to_str().unwrap();
        let at = ["--echo", "--control-host", "192.0.2.7", "--control-port", "9001"];
        let more =
            ["--control-advertise-url", "https://gpu-7.example/", "--control-key-file", key_file];
        let settings = resolve(&[&at[..], &more].concat(), []).unwrap();
        let key = ControlKey::of("abcdefghijklmnopqrstuvwxyz").unwrap();
        assert_eq!(
            settings.control,
            Some(ControlConfig {
                host: Some("192.0.2.7".into()),
                port: 9001,
                advertise_url: Some("https://gpu-7.example".parse().unwrap()),
                key: Some((file.path().into(), key)),
            })
        );
        assert!(!format!("{settings:?}").contains("abcdefgh"));

        assert_eq!(resolve(&["--echo", "--no-control"], []).unwrap().control, None);
        let both = resolve(&["--echo", "--no-control", "--control-port", "0"], []).unwrap_err();
        assert!(both.contains("--control-port is given with --no-control"), "{both}");
        let nowhere = ["--echo", "--control-advertise-url", "http://0.0.0.0:9001"];
        let nowhere = resolve(&nowhere, []).unwrap_err();
        assert!(nowhere.contains("no frontend can reach http://0.0.0.0:9001"), "{nowhere}");
        std::fs::write(file.path(), "guessable").unwrap();
        let weak = resolve(&["--echo", "--control-key-file", key_file], []).unwrap_err();
        assert!(weak.contains("holds no key") && !weak.contains("guessable"), "{weak}");
    }

    #[test]
    fn invalid_values_are_named_in_one_line() {
        for (arguments, part) in [
            (["--control-advertise-url", "http://h:1/path"], "it has a path"),
            (["--lease-ttl", "1"], "expected whole seconds from 2"),
            (["--url", "ftp://h"], "neither http nor https"),
            (["--model", "a\u{202e}b"], "bidirectional"),
            (["--model-type", "telepathy"], "expected some of Chat"),
            (["--context-length", "0"], "expected a whole number from 1 to 18446744073709551615"),
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
