//! An engine as a child process, with a process group of its own.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpgid};
use tokio::process::{Child, Command};

/// A running engine. Dropped, everything in its group is killed.
#[derive(Debug)]
pub(crate) struct EngineProcess {
    child: Child,
    group: Pid,
}

impl EngineProcess {
    /// Starts a command. It inherits stdout, stderr and the environment, and reads nothing.
    ///
    /// # Errors
    ///
    /// When there is no such program, or it cannot be started.
    pub(crate) fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // So that a Ctrl-C in the terminal reaches the engine through us, after its models are
            // withdrawn, and what it leaves behind can be reached.
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
    /// What that has started is its own to tell: vLLM's server would finish its streams, but not
    /// when its core is told to end at the same moment.
    pub(crate) fn signal(&self, signal: Signal) {
        // The process leads its group, and there is an id only until its end is known.
        if self.child.id().is_some() {
            note(signal, kill_process(self.group, signal));
        }
    }

    /// Sends a signal to the engine and all that it started.
    pub(crate) fn signal_all(&self, signal: Signal) {
        note(signal, kill_process_group(self.group, signal));
    }

    /// Waits for the engine's own process. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for the engine, asks what it has left behind to end, and waits for that. May be dropped
    /// and called again.
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
        // As the first process of a container, we inherit orphans, and they stay until reaped.
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
        rustix::process::test_kill_process_group(self.group).is_ok()
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        self.signal_all(Signal::KILL);
    }
}

/// That there is no process is no error.
fn note(signal: Signal, sent: rustix::io::Result<()>) {
    if let Err(error) = sent {
        tracing::debug!(%error, ?signal, "no process to signal");
    }
}
