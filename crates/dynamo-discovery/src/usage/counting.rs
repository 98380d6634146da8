//! What counts at one frontend.

use std::time::Duration;

use super::part::Counts;

/// What one frontend has counted in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowCounts {
    /// The name of the window: a month, such as `2026-11`, or a day, such as `2026-11-30`.
    pub window: String,
    /// When the window ends, since 1970 in UTC.
    pub ends: Duration,
    /// The counts, each of which only grows.
    pub counts: Counts,
}

/// What counts at one frontend.
pub trait Counting: Send + Sync + 'static {
    /// What this frontend has counted, in each window that is not forgotten. Windows of this moment
    /// are among them, also where nothing was counted.
    fn counted(&self) -> Vec<WindowCounts>;

    /// Takes over what all other frontends have counted in a window. A later call has sums that are
    /// no smaller.
    fn others_counted(&self, window: &str, sums: &Counts);
}
