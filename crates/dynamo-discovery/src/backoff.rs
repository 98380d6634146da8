//! Back-off: the wait between two tries, longer each time, with jitter.

use std::time::Duration;

/// An exponential back-off with jitter.
///
/// Each wait is drawn from the upper half of a span, which doubles from the first to the longest. So
/// clients that failed together do not try again together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait now.
    pub(crate) fn wait(&mut self) -> Duration {
        let span = self.next;
        self.next = (span * 2).min(self.longest);
        jitter(span / 2) + span / 2
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random part of `span`.
pub(crate) fn jitter(span: Duration) -> Duration {
    span.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(1000));
        for span in [50, 100, 200, 400, 800, 1000, 1000].map(ms) {
            let wait = backoff.wait();
            assert!((span / 2..=span).contains(&wait), "{wait:?} of {span:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= ms(50));
    }
}
