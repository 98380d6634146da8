//! What a reader knows of a group's usage.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use super::group::{UsageGroup, UsageKey};
use super::part::{self, Counts};
use crate::store::Entry;

/// The usage of a group: of each counter, the greatest value that was seen.
///
/// Counters only grow, so an older value that is seen later changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageTally {
    /// By window, frontend and name.
    windows: BTreeMap<String, BTreeMap<String, Counts>>,
    /// The frontends that live.
    present: BTreeSet<String>,
}

/// What an entry has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    /// Counts of a window.
    Window(String),
    Present,
    /// The entry is none that a frontend writes.
    Invalid,
}

impl UsageTally {
    /// The usage in some entries of a group. Entries that no frontend writes are left out.
    pub fn of<'a>(group: &UsageGroup, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut tally = Self::default();
        for entry in entries {
            tally.take(group, entry);
        }
        tally
    }

    /// Takes in an entry.
    pub(super) fn take(&mut self, group: &UsageGroup, entry: &Entry) -> Taken {
        match group.parse(&entry.key) {
            Some(UsageKey::Frontend(frontend)) => {
                self.present.insert(frontend.to_owned());
                Taken::Present
            }
            Some(UsageKey::Counts { window, frontend }) => {
                let Some(counts) = part::decode(&entry.value) else { return Taken::Invalid };
                let window_counts = self.windows.entry(window.to_owned()).or_default();
                let known = window_counts.entry(frontend.to_owned()).or_default();
                let mut has_changed = false;
                for (name, count) in counts {
                    has_changed |= raise(known, name, count);
                }
                if has_changed { Taken::Window(window.to_owned()) } else { Taken::Nothing }
            }
            None => Taken::Invalid,
        }
    }

    /// Notes that a frontend has ended. Its counts stay.
    pub(super) fn left(&mut self, frontend: &str) {
        self.present.remove(frontend);
    }

    /// Begins a list of those that live.
    pub(super) fn forget_present(&mut self) {
        self.present.clear();
    }

    /// Forgets windows.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&str) -> bool) {
        self.windows.retain(|window, _| keeps(window));
    }

    /// The windows in which something was counted, in their order: `2026-11`, `2026-11-30`.
    pub fn windows(&self) -> impl Iterator<Item = &str> {
        self.windows.keys().map(String::as_str)
    }

    /// The usage of each key in a window.
    pub fn sums(&self, window: &str) -> Counts {
        self.sums_without(window, "")
    }

    /// The usage that was counted by all frontends but one.
    pub(super) fn sums_without(&self, window: &str, own: &str) -> Counts {
        let mut sums = Counts::new();
        for (frontend, counts) in self.windows.get(window).into_iter().flatten() {
            if frontend == own {
                continue;
            }
            for (name, count) in counts {
                let sum = sums.entry(name.clone()).or_default();
                *sum = [0, 1].map(|at| sum[at].saturating_add(count[at]));
            }
        }
        sums
    }

    /// How many frontends have counted in a window.
    pub fn frontends(&self, window: &str) -> usize {
        self.windows.get(window).map_or(0, BTreeMap::len)
    }

    /// How many frontends live now.
    pub fn present(&self) -> usize {
        self.present.len()
    }

    /// How many of the frontends that have counted in a window do not live any more.
    pub(super) fn dead(&self, window: &str) -> usize {
        let counted = self.windows.get(window).into_iter().flat_map(BTreeMap::keys);
        counted.filter(|frontend| !self.present.contains(*frontend)).count()
    }
}

/// Raises a counter, and returns whether it was lower.
fn raise(known: &mut Counts, name: String, count: [u64; 2]) -> bool {
    match known.entry(name) {
        Slot::Vacant(slot) => {
            slot.insert(count);
            true
        }
        Slot::Occupied(mut slot) => {
            let raised = [0, 1].map(|at| slot.get()[at].max(count[at]));
            slot.insert(raised) != raised
        }
    }
}
