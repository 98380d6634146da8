//! Waiting for an event, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::signals::check_interrupt;

/// The interval between two attempts of `until`.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `attempt` until it returns a value. An error or a signal ends the wait.
pub(crate) fn until<T>(
    event: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        check_interrupt()?;
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain: {event}", limit.as_secs());
        }
        thread::sleep(INTERVAL);
    }
}
