//! The engine of a worker: a process of the worker, the echo engine, or a server elsewhere.

use std::fmt;
use std::io;
use std::process::{ExitCode, ExitStatus};

use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::process::EngineProcess;
use crate::echo::EchoEngine;

/// An engine, by the party that runs it.
#[derive(Debug)]
pub(crate) enum RunningEngine {
    /// Another party runs the engine: the worker cannot end the engine, and does not see its end.
    Elsewhere,
    /// The worker runs the engine as a child process.
    Process(EngineProcess),
    /// The worker itself is the engine.
    Echo(EchoServer),
}

/// The echo engine as a task.
#[derive(Debug)]
pub(crate) struct EchoServer {
    task: JoinHandle<io::Result<()>>,
    /// The engine drains when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    ended: Option<Ended>,
}

/// How an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code; for a signal, 128 and the signal's number, as in a shell.
    With(u8),
    /// By SIGTERM, the signal that asks the engine to end.
    Terminated,
}

impl RunningEngine {
    /// Waits for the engine's end. The future may be dropped and created again.
    pub(crate) async fn ended(&mut self) -> Ended {
        match self {
            Self::Elsewhere => std::future::pending().await,
            Self::Process(process) => Ended::of(&process.ended().await),
            Self::Echo(echo) => echo.ended().await,
        }
    }

    /// Waits for the engine's end, sends SIGTERM to the processes that are left, and waits for
    /// their end. The future may be dropped and created again.
    pub(crate) async fn all_ended(&mut self) -> Ended {
        match self {
            Self::Process(process) => Ended::of(&process.all_ended().await),
            _ => self.ended().await,
        }
    }

    /// Asks the engine to end after the requests that it has.
    pub(crate) fn terminate(&mut self) {
        match self {
            Self::Elsewhere => {}
            Self::Process(process) => process.signal(Signal::TERM),
            Self::Echo(echo) => echo.stop = None,
        }
    }

    /// Sends SIGTERM to the engine and to each process that it has started, also to those that had
    /// one before.
    pub(crate) fn terminate_all(&self) {
        if let Self::Process(process) = self {
            process.signal_all(Signal::TERM);
        }
    }

    /// Kills the engine and each process that it has started.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Elsewhere => {}
            Self::Process(process) => process.signal_all(Signal::KILL),
            Self::Echo(echo) => echo.task.abort(),
        }
    }

    /// Forwards a signal to the engine.
    pub(crate) fn forward(&self, signal: Signal) {
        if let Self::Process(process) = self {
            process.signal(signal);
        }
    }
}

impl EchoServer {
    pub(crate) fn start(engine: EchoEngine, listener: TcpListener) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(engine.serve(listener, async {
            let _ = stopped.await;
        }));
        Self { task, stop: Some(stop), ended: None }
    }

    async fn ended(&mut self) -> Ended {
        // A task gives its result once, so the result is kept.
        if let Some(ended) = self.ended {
            return ended;
        }
        let ended = match (&mut self.task).await {
            Ok(Ok(())) => Ended::With(0),
            // The task was aborted, after it was asked to end.
            Err(error) if error.is_cancelled() => Ended::With(0),
            _ => Ended::With(1),
        };
        *self.ended.insert(ended)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::With(code @ 129..) => write!(f, "by signal {}", code - 128),
            Self::With(code) => write!(f, "with exit code {code}"),
            Self::Terminated => f.write_str("by SIGTERM"),
        }
    }
}

impl Ended {
    fn of(status: &io::Result<ExitStatus>) -> Self {
        use std::os::unix::process::ExitStatusExt as _;

        let Ok(status) = status else { return Self::With(1) };
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::With(u8::try_from(code).unwrap_or(1)),
            (None, Some(signal)) if signal == Signal::TERM.as_raw() => Self::Terminated,
            (None, signal) => Self::With(128 | u8::try_from(signal.unwrap_or(0)).unwrap_or(0)),
        }
    }

    /// The worker's exit code if the engine was asked to end: the engine's own code, or success if
    /// SIGTERM ended the engine.
    pub(crate) fn as_asked(self) -> ExitCode {
        match self {
            Self::With(code) => code.into(),
            Self::Terminated => ExitCode::SUCCESS,
        }
    }

    /// The worker's exit code if the engine ended by itself: the engine's own code, or failure if
    /// that code is 0, since an engine should go on.
    pub(crate) fn unasked(self) -> ExitCode {
        match self {
            Self::With(0) => ExitCode::FAILURE,
            Self::With(code) => code.into(),
            Self::Terminated => (128 | 15).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn exit_codes_are_passed_on_but_an_engine_that_leaves_unasked_has_failed() {
        let exited = |code: i32| Ended::of(&Ok(ExitStatus::from_raw(code << 8)));
        let killed_by = |signal: i32| Ended::of(&Ok(ExitStatus::from_raw(signal)));
        let code = |code: u8| ExitCode::from(code);
        for (ended, as_asked, unasked) in [
            (exited(0), 0, 1),
            (exited(7), 7, 7),
            (exited(255), 255, 255),
            (killed_by(15), 0, 143),
            (killed_by(9), 137, 137),
            (killed_by(11), 139, 139),
        ] {
            assert_eq!(ended.as_asked(), code(as_asked), "{ended:?}");
            assert_eq!(ended.unasked(), code(unasked), "{ended:?}");
        }
    }
}
