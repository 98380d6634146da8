//! An engine as a child process, with a process group of its own.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
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
            // withdrawn, and what it started itself is reached as well.
            .process_group(0)
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
            .ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Self { child, group })
    }

    /// Sends a signal to the whole group; to none is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.group, signal) {
            tracing::debug!(%error, ?signal, "no process to signal");
        }
    }

    /// Waits for the engine's own process. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for the engine and all that it started. May be dropped and called again.
    pub(crate) async fn all_ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.ended().await?;
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
        self.signal(Signal::KILL);
    }
}
