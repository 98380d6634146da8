//! The counts that frontends share: what this one tells, and what it learns of the others.

use std::collections::BTreeMap;

use dynamo_discovery::{Counting, Counts, WindowCounts};

use super::keys::ApiKeys;
use super::ledger::Amount;
use super::others::{amount, near};
use super::window::{Calendar, Window};

#[cfg(test)]
mod tests;

/// Counts by the names of the keys, for a [`UsageSharing`](dynamo_discovery::UsageSharing). A key
/// without limits on tokens counts nothing.
impl Counting for ApiKeys {
    fn counted(&self) -> Vec<WindowCounts> {
        let now = self.inner.clock.now();
        let mut windows: BTreeMap<Window, Counts> = BTreeMap::new();
        for calendar in Calendar::ALL {
            windows.entry(calendar.at(now.wall)).or_default();
        }
        for (name, usage) in self.inner.usages().iter() {
            for (window, used) in usage.ledger.used(now) {
                let counts = windows.entry(window).or_default();
                if used != Amount::default() {
                    counts.insert(name.to_string(), [used.input, used.output]);
                }
            }
        }
        let counts = |(window, counts): (Window, Counts)| WindowCounts {
            window: window.to_string(),
            ends: window.ends(),
            counts,
        };
        windows.into_iter().map(counts).collect()
    }

    fn others_counted(&self, window: &str, sums: &Counts) {
        let now = self.inner.clock.now();
        let Some(found) = near(window, now) else { return };
        self.inner.others.set(window, sums, now);
        for (name, usage) in self.inner.usages().iter() {
            if let Some(count) = sums.get(name.as_str()) {
                usage.ledger.others_used(found, amount(*count));
            }
        }
    }
}
