//! How often servers are asked, and how many at one time.

use std::time::Duration;

/// How long after an answer a server is asked again, at least; and at most twice that.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many servers are asked at one time.
pub(super) const ASKED_AT_ONCE: usize = 256;

/// Spread, since all frontends ask the same servers.
pub(super) fn again() -> Duration {
    ASK_AGAIN.mul_f64(1.0 + fastrand::f64())
}
