//! What keys have used, shared by the frontends of a group.
//!
//! Each frontend writes what it has counted under keys of its own, and reads those of the others; the
//! sum is the usage. Nobody writes a key of somebody else, so there is neither a lock nor a leader.
//! [`UsageSharing`] does both for as long as a frontend runs, and [`UsageTally`] is what a reader
//! knows.

mod counting;
mod group;
mod part;
mod sharing;
mod tally;
mod writer;

#[cfg(test)]
mod tests;

pub use self::counting::{Counting, WindowCounts};
pub use self::group::{GroupName, InvalidGroup, UsageGroup, UsageKey};
pub use self::part::Counts;
pub use self::sharing::{UsageSharing, UsageStatus};
pub use self::tally::UsageTally;
