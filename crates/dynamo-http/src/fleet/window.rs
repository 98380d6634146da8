//! How often servers failed lately, counted without a lock.

use std::iter::Sum;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How many marks a window has. The oldest one is where the window begins.
const MARKS: usize = 6;
/// How far apart two marks are. So a window is 25 to 30 s long.
pub(super) const MARK_INTERVAL: Duration = Duration::from_secs(5);

/// The requests of one server or of several within a window, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    requests: u64,
    failures: u64,
}

impl Recent {
    /// Whether these requests failed at least twice as often as the others. Where the others had no
    /// request, any failure is more often.
    pub(crate) fn stands_out(self, others: Self) -> bool {
        self.failures * others.requests >= 2 * others.failures * self.requests
    }
}

impl Sum for Recent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            requests: sum.requests + one.requests,
            failures: sum.failures + one.failures,
        })
    }
}

/// The failures of one server, and marks of its two counters at earlier times.
///
/// Failures and readers come from every thread. One task marks.
#[derive(Debug, Default)]
pub(crate) struct Window {
    failures: AtomicU32,
    /// The requests in the upper half, the failures in the lower one.
    marks: [AtomicU64; MARKS],
    /// The place of the oldest mark, which is the next one to be replaced.
    oldest: AtomicUsize,
}

impl Window {
    /// A request failed.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Marks the counters of now. `requests` counts all requests so far and may wrap.
    pub(super) fn mark(&self, requests: u32) {
        let mark = u64::from(requests) << 32 | u64::from(self.failures.load(Relaxed));
        let oldest = self.oldest.load(Relaxed);
        self.marks[oldest % MARKS].store(mark, Relaxed);
        self.oldest.store((oldest + 1) % MARKS, Relaxed);
    }

    /// The requests since the oldest mark; `requests` counts all so far.
    pub(super) fn recent(&self, requests: u32) -> Recent {
        let mark = self.marks[self.oldest.load(Relaxed) % MARKS].load(Relaxed);
        let (then, failed_then) = ((mark >> 32) as u32, mark as u32);
        Recent {
            requests: requests.wrapping_sub(then).into(),
            failures: self.failures.load(Relaxed).wrapping_sub(failed_then).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(requests: u64, failures: u64) -> Recent {
        Recent { requests, failures }
    }

    #[test]
    fn a_server_stands_out_that_fails_twice_as_often_as_all_others_together() {
        for (own, others, expected) in [
            (recent(5, 5), recent(5, 0), true),
            (recent(5, 5), recent(0, 0), true),
            (recent(5, 5), recent(10, 5), true),
            (recent(5, 5), recent(10, 6), false),
            (recent(5, 5), recent(5, 5), false),
            (recent(100, 5), recent(1000, 25), true),
            (recent(100, 5), recent(1000, 26), false),
        ] {
            assert_eq!(own.stands_out(others), expected, "{own:?} beside {others:?}");
        }
    }

    #[test]
    fn a_window_forgets_what_is_older_than_its_oldest_mark() {
        let window = Window::default();
        window.failed();
        assert_eq!(window.recent(3), recent(3, 1));
        window.mark(3);
        window.failed();
        for _ in 1..MARKS {
            assert_eq!(window.recent(5), recent(5, 2));
            window.mark(5);
        }
        assert_eq!(window.recent(5), recent(2, 1));
        window.mark(5);
        assert_eq!(window.recent(5), recent(0, 0));
    }

    #[test]
    fn counters_may_wrap() {
        let window = Window::default();
        (0..MARKS).for_each(|_| window.mark(u32::MAX));
        assert_eq!(window.recent(1), recent(2, 0));
    }
}
