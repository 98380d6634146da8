//! Waiting for an event, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::signals::check_interrupt;

/// How often `until` looks.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `attempt` until it answers with a value. An error ends the wait, and so does a signal.
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
