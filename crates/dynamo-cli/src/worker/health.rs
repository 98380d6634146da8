//! What an engine is to its worker, judged from probes. Pure: it has no clock of its own.
//!
//! | probe | out of service | in service |
//! |---|---|---|
//! | healthy | begins the service | forgives failures and misses |
//! | busy: another route than `/health` answers | is life | is life, forgives misses |
//! | loading, failed, refused | stays out | counts as a failure: the third in a row ends the service |
//! | silent: no route answers | stays out | counts as a miss: from the third in a row on the engine is silent; the service ends when nothing was heard for the silence time-out |
//!
//! Misses neither add to failures nor forgive them. A full engine (429) is healthy.

use std::time::Duration;

use dynamo_discovery::EngineState;
use tokio::time::Instant;

use crate::engine::Probe;

/// An engine's health, as its probes show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    in_service: bool,
    /// Failed probes since it last answered well.
    failures: u32,
    /// Probes in a row that nothing answered.
    misses: u32,
    /// When it last showed life; at first, since when it is asked.
    heard: Instant,
}

/// What a probe changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The engine is in service now.
    In,
    /// It no longer is, since it failed; how.
    Failed(String),
    /// It no longer is, since it was silent; for how long.
    Silenced(Duration),
}

impl Health {
    /// So many failed probes in a row end the service.
    pub(crate) const FAILURES: u32 = 3;
    /// So many probes in a row without an answer are silence.
    pub(crate) const MISSES: u32 = 3;

    /// That of an engine that is asked from now on.
    pub(crate) fn new(now: Instant) -> Self {
        Self { in_service: false, failures: 0, misses: 0, heard: now }
    }

    /// Whether its models may be registered.
    pub(crate) fn in_service(&self) -> bool {
        self.in_service
    }

    /// What the engine is now.
    pub(crate) fn state(&self) -> EngineState {
        if self.misses >= Self::MISSES {
            EngineState::Silent
        } else if self.in_service {
            EngineState::Healthy
        } else {
            EngineState::Failing
        }
    }

    /// For how long nothing was heard of it.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Takes in a sign of life that is no probe: the engine answered another question.
    pub(crate) fn hear(&mut self, now: Instant) {
        (self.misses, self.heard) = (0, now);
    }

    /// Takes in a probe.
    ///
    /// Silence proves nothing by itself, since a burst of requests blocks some engines; only after
    /// `silence` without any sign of life does it end the service.
    pub(crate) fn observe(
        &mut self,
        probe: &Probe,
        now: Instant,
        silence: Duration,
    ) -> Option<Turn> {
        match probe {
            Probe::Healthy => {
                self.hear(now);
                self.failures = 0;
                let was_out = !std::mem::replace(&mut self.in_service, true);
                return was_out.then_some(Turn::In);
            }
            Probe::Busy => self.hear(now),
            Probe::Loading => {
                self.hear(now);
                self.failures = self.failures.saturating_add(1);
            }
            Probe::Failed(_) | Probe::Refused(_) => {
                self.misses = 0;
                self.failures = self.failures.saturating_add(1);
            }
            Probe::Silent(_) => self.misses = self.misses.saturating_add(1),
        }
        if !self.in_service {
            return None;
        }
        let turn = if self.failures >= Self::FAILURES {
            let failures = self.failures;
            Turn::Failed(format!("{failures} probes failed, the last one: {probe}"))
        } else if self.silent_for(now) >= silence {
            Turn::Silenced(self.silent_for(now))
        } else {
            return None;
        };
        self.in_service = false;
        Some(turn)
    }
}

#[cfg(test)]
mod tests;
