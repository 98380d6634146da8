//! Log lines that others can cause, at most one a minute.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a line is left out after it was written.
const PAUSE: Duration = Duration::from_secs(60);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Limits one kind of log line. It is made for a `static`.
///
/// A line that a client, a worker or a full table causes would else be written as often as that
/// happens, and fill the disk.
#[derive(Debug)]
pub(crate) struct Quiet {
    /// When the next line may be written, in milliseconds after `BEGAN`.
    next: AtomicU64,
    left_out: AtomicU64,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether the line may be written now; if so, how many were left out since the last one.
    pub(crate) fn may_write(&self) -> Option<u64> {
        self.may_write_at(BEGAN.elapsed())
    }

    fn may_write_at(&self, now: Duration) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        // Of several threads at one time, the one that moves the time on writes the line.
        let moved = millis(now) >= next
            && self
                .next
                .compare_exchange(next, millis(now + PAUSE), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if moved {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_a_minute_and_says_how_many_were_left_out() {
        let quiet = Quiet::new();
        let at = |seconds| quiet.may_write_at(Duration::from_secs(seconds));
        assert_eq!(at(5), Some(0));
        for second in 5..65 {
            assert_eq!(at(second), None, "{second}");
        }
        assert_eq!(at(65), Some(60));
        assert_eq!(at(124), None);
        assert_eq!(at(200), Some(1));
        assert_eq!(at(400), Some(0));
    }
}
