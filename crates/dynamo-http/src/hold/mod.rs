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

use self::keeper::Keeper;
use crate::config::config;
use crate::feed::Feed;
use crate::fleet::Fleet;

config! {
    /// How instances that vanish are held.
    ///
    /// An instance that vanishes without having been withdrawn goes on serving while its server is
    /// asked whether it answers. If the server does within a second, the instance is held: until it
    /// is published again, until its server takes no connection or fails a probe (there is one every
    /// 1 to 2 s), until its worker withdraws it, and for no longer than
    /// [`longest`](Self::with_longest). Entries under flat keys, and entries without a URL, are not
    /// held.
    pub struct Hold {
        /// How long an instance is held at most; zero: not at all. Default 30 s.
        longest, with_longest: Duration = Duration::from_secs(30);
        /// How many instances are held at one time; those above go at once. Default 1024.
        at_most, with_at_most: usize = 1024;
    }
}

impl Feed {
    /// The same feed, which holds instances that vanish while their servers answer.
    ///
    /// Servers are asked as the front door asks them whose fleet this is. Without this, and with a
    /// time of zero, what vanishes goes at once.
    #[must_use]
    pub fn with_hold(self, hold: Hold, fleet: &Fleet) -> Self {
        let keeper = Keeper::new(hold, fleet.clone(), Box::new(fleet.clone()), self.status());
        self.with_keep(Box::new(keeper))
    }
}
