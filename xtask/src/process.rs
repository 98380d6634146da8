//! Child processes that end when their owner does.
//!
//! Each child leads a process group of its own. So Ctrl-C reaches this process only, which ends the
//! children in its own order, and the children's own processes end with them.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{poll::INTERVAL, signals::check_interrupt, workspace};

/// A process and its process group. The drop kills the group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    /// Starts a command, without standard input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, reaped: false })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.reaped |= status.is_some();
        Ok(status)
    }

    /// Waits for the end of the process, or for a signal to this process.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if let Err(interrupted) = check_interrupt() {
                self.ask_to_end();
                self.end_within(Duration::from_secs(10))?;
                return Err(interrupted);
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Sends SIGTERM.
    fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end; after `limit`, SIGKILL.
    fn end_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            thread::sleep(INTERVAL);
        }
        self.kill();
        Ok(None)
    }

    fn signal(&self, signal: Signal) {
        // Once the leader is reaped, another process may have its id.
        if self.reaped {
            return;
        }
        if let Some(group) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            // The call fails only if the group is gone already.
            let _ = kill_process_group(group, signal);
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        if !self.reaped && self.child.wait().is_ok() {
            self.reaped = true;
        }
    }

    pub(crate) fn take_stdout(&mut self) -> Option<impl std::io::Read + Send + use<>> {
        self.child.stdout.take()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server in the background, with its log in a file.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    log: PathBuf,
    group: Group,
}

impl Service {
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        let group = Group::spawn(command)?;
        Ok(Self { name: name.into(), log: log.into(), group })
    }

    pub(crate) fn id(&self) -> u32 {
        self.group.id()
    }

    /// Fails, with the end of the log, if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.group.ended()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let mut tail: Vec<_> = log.lines().rev().take(5).collect();
        tail.reverse();
        Err(anyhow!("{} ended early, {status}; its last words:\n{}", self.name, tail.join("\n")))
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_end(&self) {
        self.group.ask_to_end();
    }

    /// Waits for the end of the process; fails if it had to be killed.
    pub(crate) fn end_within(mut self, limit: Duration) -> Result<ExitStatus> {
        self.group
            .end_within(limit)?
            .with_context(|| format!("{} did not end within {} s", self.name, limit.as_secs()))
    }
}

/// Runs a command to its end, with our own standard output and error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = Group::spawn(command)?.wait()?;
    ensure!(status.success(), "{}: {status}", shown(command));
    Ok(())
}

/// The standard output of a command; an error holds the last line of its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = output(command)?;
    let reason = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    ensure!(status.success(), "{}: {status}: {reason}", shown(command));
    Ok(stdout)
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, whatever its status.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    // Files, unlike pipes, need no reader during the wait.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let status = Group::spawn(command)?.wait()?;
    Ok(Output { status, stdout: content(&mut stdout)?, stderr: content(&mut stderr)? })
}

fn content(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A command as one would type it in the workspace's root.
pub(crate) fn shown(command: &Command) -> String {
    let path = Path::new(command.get_program());
    let program = match path.strip_prefix(workspace::root()) {
        Ok(inside) => inside.as_os_str(),
        Err(_) => path.file_name().unwrap_or(path.as_os_str()),
    };
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/usr/bin/curl");
        command.args(["-d", r#"{"a":1}"#, "it's", "", "http://[::1]/"]);
        assert_eq!(shown(&command), r#"curl -d '{"a":1}' 'it'\''s' '' 'http://[::1]/'"#);
    }

    #[test]
    fn a_dropped_group_takes_its_grandchildren_along() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]).stdout(Stdio::piped());
        let mut group = Group::spawn(&mut command).unwrap();
        let mut line = String::new();
        let stdout = group.take_stdout().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let grandchild = PathBuf::from(format!("/proc/{}/stat", line.trim()));
        assert!(grandchild.exists());
        drop(group);
        let gone = || {
            let stat = fs::read_to_string(&grandchild).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        };
        crate::poll::until("the grandchild ends", Duration::from_secs(5), gone).unwrap();
    }
}
