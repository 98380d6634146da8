//! Instances that the store has lost are held for a while, if their workers prove to be there.
//!
//! Stores delete live leases now and then, and a deletion does not say why it came. What an earlier
//! run knew serves by the same rule until the store answers for the first time.

mod ask;
mod config;
mod keeper;
mod pace;
mod remembered;
mod state;
#[cfg(test)]
mod tests;
mod witness;

pub use self::config::Hold;
use self::keeper::Keeper;
use crate::feed::Feed;
use crate::fleet::Fleet;

impl Feed {
    /// The same feed, which holds instances that vanish while their workers prove to be there.
    ///
    /// The questions go through the fleet of a front door, under its networks and time-outs. Without
    /// this method, and with a time of zero, instances that vanish are dropped at once.
    #[must_use]
    pub fn with_hold(self, hold: Hold, fleet: &Fleet) -> Self {
        let keeper = Keeper::new(hold, fleet.clone(), Box::new(fleet.clone()), self.status());
        self.with_keep(Box::new(keeper))
    }
}
