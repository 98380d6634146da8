//! Instances that the store has lost are held for a while, if their servers answer.
//!
//! Stores delete live leases now and then, and a deletion does not say why it came. What an earlier
//! run knew serves by the same rule until the store answers for the first time.

mod ask;
mod keeper;
mod remembered;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use self::ask::Prober;
pub(crate) use self::keeper::Keeper;

/// How instances that vanish are held.
///
/// One that vanishes without having been withdrawn goes on serving while its server is asked
/// whether it answers. If it does within a second, the instance is held: until it is published
/// again, until its server takes no connection or fails a probe (there is one every 1 to 2 s),
/// until its worker withdraws it, and for no longer than [`longest`](Self::longest). Entries under
/// flat keys, and such without a URL, are not held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Hold {
    /// How long an instance is held at most. Default 30 s.
    pub longest: Duration,
    /// How many instances are held at one time; those above go at once. Default 1024.
    pub at_most: usize,
}

impl Default for Hold {
    fn default() -> Self {
        Self { longest: Duration::from_secs(30), at_most: 1024 }
    }
}

impl Hold {
    /// The default, for as long as this.
    #[must_use]
    pub fn for_at_most(longest: Duration) -> Self {
        Self { longest, ..Self::default() }
    }
}
