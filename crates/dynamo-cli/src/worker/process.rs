//! An engine as a child process, with a process group of its own.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpgid};
use tokio::process::{Child, Command};

/// A running engine. Its drop kills each process of its process group.
#[derive(Debug)]
pub(crate) struct EngineProcess {
    child: Child,
    group: Pid,
}

impl EngineProcess {
    /// Starts a command. The process inherits stdout, stderr and the environment; its stdin is
    /// empty.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the program cannot be started.
    pub(crate) fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // In a group of its own, the engine gets no Ctrl-C from the terminal: the worker first
            // withdraws the models. The group also reaches processes that the engine leaves behind.
            .process_group(0)
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
            .ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Self { child, group })
    }

    /// Sends a signal to the engine's own process, unless it has ended.
    ///
    /// The engine itself ends the processes that it has started: vLLM's server finishes its streams
    /// only if its core gets no SIGTERM at the same moment.
    pub(crate) fn signal(&self, signal: Signal) {
        // The process leads its group. `id` is `None` once the end of the process is known.
        if self.child.id().is_some() {
            note(signal, kill_process(self.group, signal));
        }
    }

    /// Sends a signal to the engine and to each process that it has started.
    pub(crate) fn signal_all(&self, signal: Signal) {
        note(signal, kill_process_group(self.group, signal));
    }

    /// Waits for the engine's own process. The future may be dropped and created again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for the engine's own process, sends SIGTERM to the processes that are left, and waits
    /// for their end. The future may be dropped and created again.
    pub(crate) async fn all_ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.ended().await?;
        if self.is_group_there() {
            self.signal_all(Signal::TERM);
        }
        while self.is_group_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(status)
    }

    fn is_group_there(&self) -> bool {
        // As the first process of a container, the worker inherits orphans, which stay until the
        // worker reaps them.
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
        rustix::process::test_kill_process_group(self.group).is_ok()
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        self.signal_all(Signal::KILL);
    }
}

/// Ignores the error that the process does not exist.
fn note(signal: Signal, sent: rustix::io::Result<()>) {
    if let Err(error) = sent {
        tracing::debug!(%error, ?signal, "no process to signal");
    }
}
