//! Waiting for an event, with a deadline.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The deadline. It is generous, since it only ends tests that would hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(10);

/// Waits for a future.
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

/// Asks again and again until the condition holds.
///
/// # Panics
///
/// After the deadline.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    soon(what, async {
        while !holds().await {
            sleep(TICK).await;
        }
    })
    .await;
}
