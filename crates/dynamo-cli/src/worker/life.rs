//! When an engine started, as far as its worker knows. Pure: it has no clock of its own.

use super::health::Turn;
use crate::engine::Probe;

/// How a worker knows when its engine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It started the engine itself, at these unix seconds.
    Known(u64),
    /// It takes the first sign of life for the start.
    ///
    /// Either way a sign of life that follows a refused connection, or so many failures that the
    /// engine was taken out of service, is a new start.
    Seen,
}

impl Start {
    pub(super) fn known(self) -> Option<u64> {
        match self {
            Self::Known(started) => Some(started),
            Self::Seen => None,
        }
    }
}

/// When the engine started, as its probes show it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) started: Option<u64>,
    pub(super) restarts: u64,
    was_seen: bool,
    /// Whether the next sign of life is that of another process.
    is_gone: bool,
}

impl Life {
    pub(super) fn new(start: Start) -> Self {
        Self { started: start.known(), restarts: 0, was_seen: false, is_gone: false }
    }

    pub(super) fn observe(&mut self, probe: &Probe, turn: Option<&Turn>, unix_now: u64) {
        if matches!(probe, Probe::Refused(_)) || matches!(turn, Some(Turn::Failed(_))) {
            self.is_gone = self.was_seen;
        } else if probe.shows_life() {
            self.was_seen = true;
            let again = std::mem::take(&mut self.is_gone);
            self.restarts += u64::from(again);
            self.started = match self.started {
                // Two starts within one second are two.
                Some(before) if again => Some(unix_now.max(before + 1)),
                Some(before) => Some(before),
                None => Some(unix_now),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_known_or_the_first_sign_of_life_and_again_after_a_refusal_or_a_failure() {
        let failed = Some(Turn::Failed("x".into()));
        let broken = Probe::Failed("reset".into());
        let refused = Probe::Refused("http://192.0.2.1:8001/health".into());
        for (start, first) in [(Start::Seen, Some(100)), (Start::Known(90), Some(90))] {
            let mut life = Life::new(start);
            life.observe(&refused, None, 95);
            assert_eq!((life.started, life.restarts), (start.known(), 0));
            life.observe(&Probe::Loading, None, 100);
            life.observe(&Probe::Healthy, Some(&Turn::In), 110);
            life.observe(&Probe::Silent("http://192.0.2.1:8001/health".into()), None, 120);
            life.observe(&broken, None, 130);
            life.observe(&Probe::Busy, None, 140);
            assert_eq!((life.started, life.restarts), (first, 0), "no restart: {start:?}");
            life.observe(&refused, None, 150);
            life.observe(&Probe::Loading, None, 150);
            assert_eq!((life.started, life.restarts), (Some(150), 1));
            life.observe(&refused, None, 150);
            life.observe(&Probe::Healthy, None, 150);
            assert_eq!((life.started, life.restarts), (Some(151), 2), "two starts are two");
            life.observe(&broken, failed.as_ref(), 160);
            life.observe(&Probe::Healthy, None, 170);
            assert_eq!((life.started, life.restarts), (Some(170), 3));
        }
    }
}
