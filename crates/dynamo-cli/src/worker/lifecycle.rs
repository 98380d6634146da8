//! A worker's life: start, service, and an end in order.

use std::ffi::OsString;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use dynamo_discovery::{ModelEntry, RegistrationConfig, WorkerUrl};
use dynamo_http::ProgramProblems;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::control::{Control, Facts};
use super::engine::{EchoServer, Ended, RunningEngine};
use super::follow::{Pace, follow};
use super::life::Start;
use super::offer::Offer;
use super::process::EngineProcess;
use super::register::{Offering, RegistrationReport, register};
use super::report::EngineReport;
use super::settings::{EngineSettings, WorkerSettings};
use super::signals::{Asked, Signals};
use crate::certificates::Certificates;
use crate::echo::{EchoEngine, local_url, unix_now};
use crate::engine::{HttpEngine, somebody_listens};
use crate::failure::Failure;
use crate::settings::table::Echo;

/// The part of `--stop-timeout` that is left when the worker sends SIGTERM to each process of the
/// engine; half of `--stop-timeout`, if that is less.
const LAST_CALL: Duration = Duration::from_secs(5);

/// A worker whose engine was started.
pub(crate) struct Worker {
    settings: WorkerSettings,
    engine: RunningEngine,
    engine_url: WorkerUrl,
    engine_start: Start,
    control: Option<Control>,
    pub(crate) offer: Offer,
    signals: Signals,
}

/// An engine that could start now.
enum Prepared {
    Elsewhere,
    Command(Vec<OsString>),
    Echo(EchoEngine, TcpListener),
}

/// Why a worker ends.
enum End {
    Asked,
    EngineEnded(Ended),
    StartTimeout(Duration),
}

impl Worker {
    /// Starts the engine, if the settings name a command or the echo engine.
    ///
    /// # Errors
    ///
    /// When the command cannot be started or somebody listens where it would, or when the echo engine
    /// or the control port cannot listen.
    pub(crate) async fn start(settings: WorkerSettings) -> Result<Self, Failure> {
        // The handlers come before the engine, so that a signal after the engine's start ends the
        // worker in order.
        let signals =
            Signals::new().context("cannot listen for signals").map_err(Failure::Running)?;
        let (prepared, engine_url) = prepare_engine(&settings).await?;
        let url = settings.advertise_url.clone().unwrap_or_else(|| engine_url.clone());
        let control = match &settings.control {
            Some(config) => Control::listen(config, &url).await?,
            None => None,
        };
        let engine_start = match prepared {
            Prepared::Elsewhere => Start::Seen,
            Prepared::Command(_) | Prepared::Echo(..) => Start::Known(unix_now()),
        };
        let engine = start_engine(prepared)?;
        let offer = Offer {
            endpoint: settings.endpoint.clone(),
            url,
            control: control.as_ref().map(|control| control.url.clone()),
            kinds: settings.kinds,
            // The echo engine lists its models in `/v1/models`.
            names: match engine {
                RunningEngine::Echo(_) => Vec::new(),
                _ => settings.models.clone(),
            },
            context_length: settings.context_length,
            accepts: settings.accepts,
            created: unix_now(),
        };
        Ok(Self { settings, engine, engine_url, engine_start, control, offer, signals })
    }

    /// Serves until a signal asks the worker to stop, or the engine ends.
    ///
    /// # Errors
    ///
    /// When the engine is not healthy within `--start-timeout`.
    pub(crate) async fn run(self, registration: RegistrationConfig) -> Result<ExitCode, Failure> {
        let Self { settings, mut engine, engine_url, engine_start, control, offer, mut signals } =
            self;
        info!(
            url = %engine_url,
            advertised = %offer.url,
            instance = %registration.instance(),
            "following the engine"
        );
        let (wanted, published) = watch::channel(Vec::new());
        let (offering, offered) = watch::channel(Offering::Open);
        let (engine_report, engine_seen) = watch::channel(EngineReport::new(engine_start));
        let (registration_report, registered) = watch::channel(RegistrationReport::default());
        // A worker has no status page, so nobody reads its problems.
        let certificates = Certificates::watch(settings.certificates(), ProgramProblems::default());
        if let Some(control) = control {
            // Until the process ends: the end is to be seen.
            tokio::spawn(control.serve(Facts {
                instance: registration.instance(),
                engine: engine_seen,
                registration: registered,
                offering: offering.clone(),
                certificates,
            }));
        }
        let asked = HttpEngine::new(
            engine_url.clone(),
            settings.engine_key.clone(),
            settings.engine_tls.clone(),
        );
        settings.engine_tls.reload_on_change();
        let pace = Pace::new(settings.silence_timeout);
        let following = follow(asked, offer, pace, engine_start, wanted, engine_report);
        let (stop, stopped) = oneshot::channel::<()>();
        let until_stopped = async {
            // A dropped sender stops the registration as well.
            let _ = stopped.await;
        };
        let mut registering = pin!(register(
            registration,
            published.clone(),
            offered,
            registration_report,
            until_stopped,
        ));

        let end = tokio::select! {
            end = serve(&settings, &mut engine, published.clone(), &mut signals) => end,
            never = following => match never {},
            () = &mut registering => unreachable!("it goes on until it is stopped"),
        };
        // Without published models no frontend sends requests, so the engine needs no grace.
        let is_published = !published.borrow().is_empty();
        offering.send_replace(Offering::Stopping);
        drop(stop);
        match end {
            End::EngineEnded(ended) => {
                error!(%ended, "the engine ended by itself");
                registering.await;
                // Kills the processes that the engine may have left behind.
                engine.kill();
                Ok(ended.unasked())
            }
            End::StartTimeout(limit) => {
                registering.await;
                stop_engine(&settings, &mut engine, &mut signals).await;
                Err(Failure::Running(anyhow::anyhow!(
                    "the engine at {engine_url} was not ready within {} s",
                    limit.as_secs_f64()
                )))
            }
            End::Asked => {
                info!("stopping: withdrawing the models");
                let grace = if is_published { settings.drain_grace } else { Duration::ZERO };
                registering.await;
                let exit = drain(&settings, grace, &mut engine, &mut signals).await;
                info!("stopped");
                Ok(exit)
            }
        }
    }
}

/// Makes sure that the engine can listen, and that no other one does.
async fn prepare_engine(settings: &WorkerSettings) -> Result<(Prepared, WorkerUrl), Failure> {
    match &settings.engine {
        EngineSettings::Elsewhere(url) => Ok((Prepared::Elsewhere, url.clone())),
        EngineSettings::Command { url, command } => {
            // Its models would be registered as those of COMMAND, which cannot listen there.
            if somebody_listens(url).await {
                return Err(Failure::Running(anyhow::anyhow!(
                    "a foreign engine already listens at {url}, so COMMAND was not started: end it, \
                     choose another port, or leave COMMAND out to register that engine"
                )));
            }
            Ok((Prepared::Command(command.clone()), url.clone()))
        }
        EngineSettings::Echo { host, port, delay } => {
            let listener = TcpListener::bind((host.as_str(), *port))
                .await
                .and_then(|listener| Ok((listener.local_addr()?, listener)))
                .with_context(|| {
                    let setting = Echo::echo_port.label();
                    format!("the echo engine cannot listen on {host}:{port}, which {setting} sets")
                });
            let (address, listener) = listener.map_err(Failure::Running)?;
            let url = local_url(address).map_err(|error| {
                let setting = Echo::echo_host.label();
                Failure::usage(format!("{setting}: no frontend connects to {address}: {error}"))
            })?;
            let engine = EchoEngine { models: settings.models.clone(), delay: *delay };
            info!(%url, "the echo engine listens");
            Ok((Prepared::Echo(engine, listener), url))
        }
    }
}

fn start_engine(prepared: Prepared) -> Result<RunningEngine, Failure> {
    Ok(match prepared {
        Prepared::Elsewhere => RunningEngine::Elsewhere,
        Prepared::Command(command) => {
            let process = EngineProcess::start(&command)
                .with_context(|| {
                    format!("cannot start {:?}", command.first().cloned().unwrap_or_default())
                })
                .map_err(Failure::Usage)?;
            RunningEngine::Process(process)
        }
        Prepared::Echo(engine, listener) => {
            RunningEngine::Echo(EchoServer::start(engine, listener))
        }
    })
}

/// Waits for a reason to end.
async fn serve(
    settings: &WorkerSettings,
    engine: &mut RunningEngine,
    mut published: watch::Receiver<Vec<ModelEntry>>,
    signals: &mut Signals,
) -> End {
    let late = async {
        let Some(limit) = settings.start_timeout else { return std::future::pending().await };
        match timeout(limit, published.wait_for(|entries| !entries.is_empty())).await {
            Ok(_) => std::future::pending().await,
            Err(_) => limit,
        }
    };
    let mut late = pin!(late);
    loop {
        tokio::select! {
            ended = engine.ended() => return End::EngineEnded(ended),
            limit = &mut late => return End::StartTimeout(limit),
            asked = signals.next() => match asked {
                Asked::Stop => return End::Asked,
                Asked::Forward(signal) => engine.forward(signal),
                Asked::Reload => info!("SIGHUP: files are read again whenever they change"),
            },
        }
    }
}

/// Lets the engine go on for `grace`, then ends it. Frontends send no new requests at this time.
async fn drain(
    settings: &WorkerSettings,
    grace: Duration,
    engine: &mut RunningEngine,
    signals: &mut Signals,
) -> ExitCode {
    if matches!(engine, RunningEngine::Elsewhere) {
        return ExitCode::SUCCESS;
    }
    tokio::select! {
        () = tokio::time::sleep(grace) => {}
        _ = engine.ended() => {}
        () = hurry(signals) => {}
    }
    stop_engine(settings, engine, signals).await
}

/// Sends SIGTERM to the engine, later SIGTERM to each process that is left, and at last SIGKILL.
async fn stop_engine(
    settings: &WorkerSettings,
    engine: &mut RunningEngine,
    signals: &mut Signals,
) -> ExitCode {
    if matches!(engine, RunningEngine::Elsewhere) {
        return ExitCode::SUCCESS;
    }
    info!("asking the engine to end");
    engine.terminate();
    let last_call = LAST_CALL.min(settings.stop_timeout / 2);
    let end = async {
        let in_time = timeout(settings.stop_timeout - last_call, engine.all_ended()).await;
        if in_time.is_ok() {
            return in_time;
        }
        // A shell script with a trap handles no signal while the engine runs in its foreground, so
        // the engine may not have got a SIGTERM.
        info!("asking all that the engine has started to end");
        engine.terminate_all();
        timeout(last_call, engine.all_ended()).await
    };
    let ended = tokio::select! {
        ended = end => ended.ok(),
        () = hurry(signals) => None,
    };
    if let Some(ended) = ended {
        return ended.as_asked();
    }
    warn!("the engine or what it has started has not ended: killing it");
    engine.kill();
    engine.ended().await.as_asked()
}

/// Waits for another signal to stop, which skips the present wait.
async fn hurry(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}
