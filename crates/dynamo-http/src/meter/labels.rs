//! The values of a label, each with its series. Their number is bounded, and they go when nobody uses
//! them any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most values of one label that have series of their own.
pub(super) const MOST: usize = 1000;
/// How long the series of a value stay that nobody uses any more: longer than a scraper is away, and
/// than a restart takes.
pub(super) const KEPT: Duration = Duration::from_secs(3600);

/// The values of a label, and the series of each.
#[derive(Debug)]
pub(super) struct Labels<T> {
    /// The value of all that come after the first [`MOST`].
    other: &'static str,
    rest: OnceLock<Arc<T>>,
    known: Mutex<HashMap<Box<str>, Known<T>>>,
}

#[derive(Debug)]
struct Known<T> {
    series: Arc<T>,
    /// When a sweep first saw that nobody uses them.
    unused: Option<Instant>,
}

impl<T> Labels<T> {
    pub(super) fn new(other: &'static str) -> Self {
        Self { other, rest: OnceLock::new(), known: Mutex::default() }
    }

    /// The series of a value, which stay for as long as the caller has them.
    pub(super) fn get(&self, value: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        let mut known = self.lock();
        if let Some(known) = known.get_mut(value) {
            known.unused = None;
            return known.series.clone();
        }
        if known.len() >= MOST {
            return self.rest.get_or_init(|| Arc::new(make(self.other))).clone();
        }
        let series = Arc::new(make(value));
        known.insert(value.into(), Known { series: series.clone(), unused: None });
        series
    }

    /// The series of all values.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let known = self.lock();
        known.values().map(|known| &known.series).chain(self.rest.get()).cloned().collect()
    }

    /// Drops the series that nobody has used for as long as they are kept.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, known| {
            if Arc::strong_count(&known.series) > 1 {
                known.unused = None;
                return true;
            }
            now - *known.unused.get_or_insert(now) < KEPT
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Known<T>>> {
        // Each change is one call, so a panic elsewhere leaves the table whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(labels: &Labels<String>) -> Vec<String> {
        let mut values: Vec<_> = labels.all().iter().map(|value| value.to_string()).collect();
        values.sort();
        values
    }

    #[test]
    fn the_values_after_the_first_thousand_share_their_series() {
        let labels = Labels::new("other");
        let all: Vec<_> =
            (0..MOST + 9).map(|n| labels.get(&n.to_string(), str::to_owned)).collect();
        assert_eq!(*all[MOST - 1], (MOST - 1).to_string());
        assert_eq!(*all[MOST], "other");
        assert!(Arc::ptr_eq(&all[MOST], &all[MOST + 8]));
        assert_eq!(values(&labels).len(), MOST + 1);
    }

    #[test]
    fn series_go_an_hour_after_their_last_user() {
        let labels = Labels::new("other");
        let (used, began) = (labels.get("used", str::to_owned), Instant::now());
        drop(labels.get("left", str::to_owned));
        drop(labels.get("back", str::to_owned));
        labels.sweep(began);
        labels.sweep(began + KEPT - Duration::from_secs(1));
        let back = labels.get("back", str::to_owned);
        labels.sweep(began + KEPT);
        assert_eq!(values(&labels), ["back", "used"]);
        drop((back, used));
        labels.sweep(began + KEPT * 2);
        labels.sweep(began + KEPT * 3);
        assert!(values(&labels).is_empty());
    }
}
