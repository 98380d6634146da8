//! Waiting for what must happen, with a deadline.
//!
//! A deadline is for one event, or for a time without progress, and never for a sum of events: how
//! long many of them take together depends on the machine.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The deadline. It is generous, since it only ends tests that would hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(10);

/// Waits for a future, which is one event.
///
/// # Panics
///
/// After the deadline.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Asks again and again until it holds, which is one event.
///
/// # Panics
///
/// After the deadline. The message tells an answer that never comes from one that never holds.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let (answers, last) = (Cell::new(0_u64), Cell::new(Instant::now()));
    let asking = async {
        while !holds().await {
            answers.set(answers.get() + 1);
            last.set(Instant::now());
            sleep(TICK).await;
        }
    };
    if timeout(DEADLINE, asking).await.is_err() {
        let (answers, ago) = (answers.get(), last.get().elapsed());
        panic!("not within {DEADLINE:?}: {what}: {answers} answers, the last one {ago:?} ago");
    }
}

/// Reads again and again until the value is as expected, which may take many events.
///
/// A value that was never read before is progress, and begins the deadline anew.
///
/// # Panics
///
/// When there is no progress for as long as the deadline.
pub async fn becomes<T: Debug + PartialEq>(what: &str, expected: T, read: impl AsyncFn() -> T) {
    let (mut seen, mut progress) = (Vec::new(), Instant::now());
    loop {
        let value = soon(what, read()).await;
        if value == expected {
            return;
        }
        if !seen.contains(&value) {
            seen.push(value);
            progress = Instant::now();
        } else if progress.elapsed() > DEADLINE {
            panic!("no progress within {DEADLINE:?}: {what}: {value:?} and not {expected:?}");
        }
        sleep(TICK).await;
    }
}

/// Counts again and again until there are enough.
///
/// A larger count is progress, and begins the deadline anew.
///
/// # Panics
///
/// When there is no progress for as long as the deadline.
pub async fn reaches(what: &str, enough: u64, count: impl AsyncFn() -> u64) {
    let (mut most, mut progress) = (0, Instant::now());
    loop {
        let counted = soon(what, count()).await;
        if counted >= enough {
            return;
        }
        if counted > most {
            (most, progress) = (counted, Instant::now());
        } else if progress.elapsed() > DEADLINE {
            panic!("no progress within {DEADLINE:?}: {what}: {counted} of {enough}");
        }
        sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::panic::AssertUnwindSafe;

    use futures_util::FutureExt as _;

    use super::*;

    /// Yields the values in turn, one each minute but a second; the last one stays.
    async fn next<T: Copy>(values: &RefCell<Vec<T>>) -> T {
        sleep(DEADLINE - Duration::from_secs(1)).await;
        let mut values = values.borrow_mut();
        if values.len() > 1 { values.remove(0) } else { values[0] }
    }

    async fn panics(waiting: impl Future<Output = ()>) -> bool {
        AssertUnwindSafe(waiting).catch_unwind().await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_sum_of_events_may_take_any_time_while_there_is_progress() {
        let values = RefCell::new((0..100).collect());
        reaches("a hundred", 99, async || next(&values).await).await;
        let values = RefCell::new((0..100).rev().collect());
        becomes("nothing", 0, async || next(&values).await).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_nothing_new_comes() {
        let values = RefCell::new(vec![1]);
        assert!(panics(reaches("two", 2, async || next(&values).await)).await);
        // What goes to and fro is no progress, and neither is what was there already.
        let turn = std::cell::Cell::new(0_u64);
        let flapping = async || {
            turn.set(turn.get() + 1);
            turn.get() % 2
        };
        assert!(panics(becomes("two", 2, flapping)).await);
        assert!(panics(reaches("two", 2, flapping)).await);
        assert!(panics(eventually("never", async || false)).await);
        assert!(panics(soon("never", std::future::pending())).await);
    }
}
