//! Whether an engine is in service, judged from its probes. Pure: it has no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Probe;

/// An engine's health, as its probes show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It has not answered yet, or failed.
    Out,
    /// It answers.
    In {
        /// Failed probes since it last answered well.
        failures: u32,
        /// When it last answered well.
        heard: Instant,
    },
}

/// What a probe changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The engine is in service now.
    In,
    /// It no longer is; why.
    Out(String),
}

/// So many failed probes end the service.
const FAILURES: u32 = 3;

impl Health {
    /// Takes a probe in.
    ///
    /// Silence proves nothing by itself, since a burst of requests blocks some engines; only after
    /// `silence` without a good answer does it end the service.
    pub(crate) fn observe(
        &mut self,
        probe: &Probe,
        now: Instant,
        silence: Duration,
    ) -> Option<Turn> {
        match (&mut *self, probe) {
            (Self::Out, Probe::Healthy) => {
                *self = Self::In { failures: 0, heard: now };
                return Some(Turn::In);
            }
            (Self::Out, _) => return None,
            (Self::In { failures, heard }, Probe::Healthy) => (*failures, *heard) = (0, now),
            (Self::In { .. }, Probe::Silent(_)) => {}
            (Self::In { failures, .. }, Probe::Loading | Probe::Failed(_)) => *failures += 1,
        }
        let Self::In { failures, heard } = *self else { return None };
        let why = if failures >= FAILURES {
            format!("{failures} probes failed, the last one: {probe}")
        } else if now.duration_since(heard) >= silence {
            format!("no probe was answered for {} s", now.duration_since(heard).as_secs())
        } else {
            return None;
        };
        *self = Self::Out;
        Some(Turn::Out(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(2);

    fn silent() -> Probe {
        Probe::Silent("http://192.0.2.1:8001/health".into())
    }

    fn failed() -> Probe {
        Probe::Failed("connection refused".into())
    }

    /// What each of the probes, 2 s apart, changed.
    fn turns(probes: &[Probe]) -> Vec<Option<Turn>> {
        let (mut health, mut now) = (Health::Out, Instant::now());
        let mut turns = Vec::new();
        for probe in probes {
            turns.push(health.observe(probe, now, SILENCE));
            now += INTERVAL;
        }
        turns
    }

    fn kinds(turns: &[Option<Turn>]) -> String {
        let letter = |turn: &Option<Turn>| match turn {
            None => '.',
            Some(Turn::In) => '+',
            Some(Turn::Out(_)) => '-',
        };
        turns.iter().map(letter).collect()
    }

    #[test]
    fn an_engine_is_in_service_from_its_first_good_answer_on() {
        let probes =
            [failed(), Probe::Loading, silent(), Probe::Loading, Probe::Healthy, Probe::Healthy];
        assert_eq!(kinds(&turns(&probes)), "....+.");
    }

    #[test]
    fn the_third_failure_in_a_row_ends_the_service_and_a_good_answer_begins_it_again() {
        let probes = [
            Probe::Healthy,
            failed(),
            failed(),
            Probe::Healthy,
            failed(),
            Probe::Loading,
            failed(),
            failed(),
            Probe::Healthy,
        ];
        let turns = turns(&probes);
        assert_eq!(kinds(&turns), "+.....-.+");
        assert_eq!(
            turns[6],
            Some(Turn::Out("3 probes failed, the last one: connection refused".into()))
        );
    }

    #[test]
    fn silence_between_failures_neither_adds_to_them_nor_forgives_them() {
        let probes = [Probe::Healthy, failed(), silent(), failed(), silent(), failed()];
        assert_eq!(kinds(&turns(&probes)), "+....-");
    }

    #[test]
    fn silence_alone_ends_the_service_only_after_its_own_time() {
        let mut probes = vec![Probe::Healthy];
        probes.extend(std::iter::repeat_n(silent(), 30));
        let turns = turns(&probes);
        assert_eq!(kinds(&turns), format!("+{}-", ".".repeat(29)));
        assert_eq!(turns[30], Some(Turn::Out("no probe was answered for 60 s".into())));
    }
}
