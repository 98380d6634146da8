//! The signals that a worker takes.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To stop, in order; once more, to stop sooner.
    Stop,
    /// To hand this signal on to the engine.
    Forward(Signal),
}

/// The signals of this process from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    /// None where it is ignored, as `nohup` has it.
    hang_up: Option<unix::Signal>,
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
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one. May be dropped and called again.
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
            _ = hang_up => Asked::Stop,
            _ = self.user1.recv() => Asked::Forward(Signal::USR1),
            _ = self.user2.recv() => Asked::Forward(Signal::USR2),
        }
    }
}

/// Whether whoever started us had this signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let mask = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    mask.is_some_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}
