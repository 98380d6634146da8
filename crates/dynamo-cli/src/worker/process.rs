//! An engine as a child process, with a process group of its own, and all that it has started.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::watch;

use crate::settings::table::PROGRAMS;

/// A running engine. Its drop kills each process that it has started.
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
    /// From now on this process inherits those that the engine leaves behind, as the first process of a
    /// container does, and reaps every child.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the program cannot be started.
    pub(crate) fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        // Before there is a child, so that no end is missed.
        let ends = signal(SignalKind::child())?;
        // A server or its core may begin a session of its own, in which no signal to the group reaches
        // it. It stays a descendant of this process even if its parent ends.
        set_child_subreaper(Some(getpid()))?;
        let mut command = Command::new(program);
        for setting in PROGRAMS.iter().flat_map(|program| program.settings()) {
            // An engine may send traces to the same collector.
            let ours = |variable: &&str| setting.is_secret && !variable.starts_with("OTEL_");
            for secret in setting.variables().filter(ours) {
                command.env_remove(secret);
            }
        }
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            // In a group of its own, the engine gets no Ctrl-C from the terminal: the worker first
            // withdraws the models.
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
        for process in descendants().into_iter().filter(|process| process.group != self.group) {
            note(signal, kill_process(process.id, signal));
        }
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
        if self.is_any_there() {
            self.signal_all(Signal::TERM);
        }
        while self.is_any_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(status)
    }

    fn is_any_there(&self) -> bool {
        rustix::process::test_kill_process_group(self.group).is_ok() || !descendants().is_empty()
    }
}

/// A process that descends from this one.
struct Descendant {
    id: Pid,
    group: Pid,
}

/// All processes that descend from this one and have not ended: the engine, and what it has started.
fn descendants() -> Vec<Descendant> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let stats = all.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let mut others: Vec<_> = stats.filter_map(|stat| lineage(&stat)).collect();
    let (mut known, mut found) = (BTreeSet::from([getpid().as_raw_pid()]), Vec::new());
    loop {
        let (new, rest): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(_, parent)| known.contains(&parent.as_raw_pid()));
        if new.is_empty() {
            return found;
        }
        known.extend(new.iter().map(|(process, _)| process.id.as_raw_pid()));
        found.extend(new.into_iter().map(|(process, _)| process));
        others = rest;
    }
}

/// A process and its parent, from `/proc/PID/stat`; nothing if the process has ended, or has no
/// parent here.
fn lineage(stat: &str) -> Option<(Descendant, Pid)> {
    // The second field is the name in parentheses, which may hold any character.
    let (id, rest) = (stat.split_once(' ')?.0, stat.rsplit_once(')')?.1);
    let mut fields = rest.split_whitespace();
    let pid = |text: &str| Pid::from_raw(text.parse().ok()?);
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let (parent, group) = (pid(fields.next()?)?, pid(fields.next()?)?);
    (!has_ended).then_some((Descendant { id: pid(id)?, group }, parent))
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

    #[test]
    fn a_process_is_known_by_its_parent_whatever_its_name_is() {
        let known =
            |stat| lineage(stat).map(|(it, parent)| [it.id, parent, it.group].map(Pid::as_raw_pid));
        assert_eq!(known("17 (a) b) (c) S 4 9 9 0 -1"), Some([17, 4, 9]));
        assert_eq!(known("17 (sh) Z 4 9 9 0 -1"), None, "it has ended");
        assert_eq!(known("1 (init) S 0 1 1 0 -1"), None, "it has no parent");
        assert_eq!(known("17 (sh"), None);
    }

    #[tokio::test]
    async fn what_an_engine_leaves_behind_is_reaped_while_it_runs() {
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
