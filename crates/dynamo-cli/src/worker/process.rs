//! An engine as a child process, with a process group of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::watch;

use crate::settings::table::PROGRAMS;

/// A running engine. Its drop kills each process of its process group.
#[derive(Debug)]
pub(crate) struct EngineProcess {
    /// The process's id, and its group's, since it leads one.
    group: Pid,
    status: watch::Receiver<Option<ExitStatus>>,
}

impl EngineProcess {
    /// Starts a command. It inherits stdout, stderr and the environment without our secrets, and reads
    /// nothing.
    ///
    /// From now on every child of this process is reaped: as the first process of a container, we
    /// inherit those that the engine leaves behind.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the program cannot be started.
    pub(crate) fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        // Before there is a child, so that no end is missed.
        let ends = signal(SignalKind::child())?;
        let mut command = Command::new(program);
        for setting in PROGRAMS.iter().flat_map(|program| program.settings()) {
            for secret in setting.variables().filter(|_| setting.is_secret) {
                command.env_remove(secret);
            }
        }
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            // In a group of its own, the engine gets no Ctrl-C from the terminal: the worker first
            // withdraws the models. The group also reaches processes that the engine leaves behind.
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        let (sender, status) = watch::channel(None);
        tokio::spawn(reap(ends, group, sender));
        Ok(Self { group, status })
    }

    /// Sends a signal to the engine's own process, unless it has ended.
    ///
    /// The engine itself ends the processes that it has started: vLLM's server finishes its streams
    /// only if its core gets no SIGTERM at the same moment.
    pub(crate) fn signal(&self, signal: Signal) {
        // While this is borrowed, the process is not reaped, and nothing else can have its id.
        let status = self.status.borrow();
        if status.is_none() {
            note(signal, kill_process(self.group, signal));
        }
    }

    /// Sends a signal to the engine and to each process that it has started.
    pub(crate) fn signal_all(&self, signal: Signal) {
        note(signal, kill_process_group(self.group, signal));
    }

    /// Waits for the engine's own process. The future may be dropped and created again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.status.wait_for(Option::is_some).await.map_err(io::Error::other)?;
        (*status).ok_or_else(|| io::Error::other("the engine has no status"))
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
        rustix::process::test_kill_process_group(self.group).is_ok()
    }
}

/// Reaps every child that ends, and tells the status of the engine.
async fn reap(mut ends: unix::Signal, engine: Pid, status: watch::Sender<Option<ExitStatus>>) {
    loop {
        // Under the channel's lock, as `EngineProcess::signal` needs it.
        status.send_if_modified(|status| {
            let before = *status;
            while let Ok(Some((child, ended))) = wait(WaitOptions::NOHANG) {
                if child == engine {
                    *status = Some(ExitStatus::from_raw(ended.as_raw()));
                }
            }
            *status != before
        });
        if ends.recv().await.is_none() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The processes whose parent is this one, and how they are.
    fn children() -> Vec<char> {
        let us = std::process::id().to_string();
        let stats = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?.chars().next()?;
            (fields.next()? == us).then_some(state)
        });
        stats.collect()
    }

    #[tokio::test]
    async fn what_an_engine_leaves_behind_is_reaped_while_it_runs() {
        // So that this process inherits orphans, as the first one of a container does.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let script = "for _ in 1 2 3 4 5; do (setsid sh -c 'exit 0' &) ; done; \
                      trap 'exit 7' TERM; echo > $0; while :; do sleep 0.05; done";
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("begun");
        let command = ["sh".into(), "-c".into(), script.into(), file.clone().into()];
        let mut engine = EngineProcess::start(&command).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !file.exists() || children() != ['S'] {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", children());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.signal(Signal::TERM);
        let ended = tokio::time::timeout(Duration::from_secs(60), engine.all_ended()).await;
        assert_eq!(ended.unwrap().unwrap(), ExitStatus::from_raw(7 << 8));
        assert_eq!(children(), [] as [char; 0]);
    }
}
