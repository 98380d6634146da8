//! What was counted in the last minute, model by model and worker by worker.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::meter::{Metrics, Totals};

/// How often the counts are noted.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How many notes are kept: rates are those of the last minute.
const KEPT: usize = 6;

/// All counts at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    models: HashMap<Box<str>, Totals>,
    workers: HashMap<Box<str>, Totals>,
}

/// The counts of the last minute.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

/// What was counted between two moments.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) models: HashMap<Box<str>, Totals>,
    pub(super) workers: HashMap<Box<str>, Totals>,
    /// How far the two moments are apart; zero where there is only one.
    pub(super) window: Duration,
}

impl Sample {
    pub(super) fn of(metrics: &Metrics, at: Instant) -> Self {
        Self {
            at,
            models: metrics.model_totals().collect(),
            workers: metrics.worker_totals().collect(),
        }
    }
}

impl History {
    pub(super) fn note(&mut self, sample: Sample) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// What was counted between the earliest note and `now`.
    pub(super) fn until(&self, now: &Sample) -> Recent {
        let Some(first) = self.0.front() else { return Recent::default() };
        let between = |now: &HashMap<Box<str>, Totals>, first: &HashMap<Box<str>, Totals>| {
            let none = Totals::default();
            let since =
                |name: &str, totals: &Totals| totals.since(first.get(name).unwrap_or(&none));
            now.iter().map(|(name, totals)| (name.clone(), since(name, totals))).collect()
        };
        Recent {
            models: between(&now.models, &first.models),
            workers: between(&now.workers, &first.workers),
            window: now.at.saturating_duration_since(first.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, requests: u64) -> Sample {
        let totals = Totals { requests, ..Totals::default() };
        Sample { at, models: [("m".into(), totals)].into(), workers: HashMap::new() }
    }

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let (began, mut history) = (Instant::now(), History::default());
        assert_eq!(history.until(&sample(began, 3)).window, Duration::ZERO);
        for second in (0_u32..=120).step_by(10) {
            history.note(sample(began + Duration::from_secs(second.into()), second.into()));
        }
        let recent = history.until(&sample(began + Duration::from_secs(130), 130));
        assert_eq!(recent.window, Duration::from_secs(60));
        assert_eq!(recent.models["m"].requests, 60);
    }

    #[test]
    fn a_model_that_came_within_the_minute_counts_from_its_first_request() {
        let (began, mut history) = (Instant::now(), History::default());
        history.note(Sample { at: began, models: HashMap::new(), workers: HashMap::new() });
        let recent = history.until(&sample(began + EVERY, 7));
        assert_eq!(recent.models["m"].requests, 7);
    }
}
