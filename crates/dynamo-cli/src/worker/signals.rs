//! The signals that a worker takes.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// The request that a signal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To stop in order; a further one skips a wait.
    Stop,
    /// To forward this signal to the engine.
    Forward(Signal),
    /// To read again what can change.
    Reload,
}

/// The signals of this process from the constructor's call on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    /// `None` if the process was started with the signal ignored, as `nohup` does.
    hang_up: Option<unix::Signal>,
    /// What SIGHUP asks for. A terminal that closes sends it, and must leave no engine behind; without
    /// a terminal, it comes from an operator.
    on_hang_up: Asked,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let hang_up = !is_ignored(Signal::HUP);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: hang_up.then(|| signal(SignalKind::hangup())).transpose()?,
            on_hang_up: if has_terminal() { Asked::Stop } else { Asked::Reload },
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal. The future may be dropped and created again.
    pub(crate) async fn next(&mut self) -> Asked {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.quit.recv() => Asked::Stop,
            _ = hang_up => self.on_hang_up,
            _ = self.user1.recv() => Asked::Forward(Signal::USR1),
            _ = self.user2.recv() => Asked::Forward(Signal::USR2),
        }
    }
}

/// Whether this process has a controlling terminal.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether whoever started us had this signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let mask = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    mask.is_some_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}
