//! The keys by which a resume proves that the history is the same.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::store::{Change, Entry, Key, Stamp};

/// The live keys that were written last, with the revision and the lease of each.
///
/// The newest key proves the history: a store that was restored from a backup has its old keys, but
/// not the latest. Several keys are kept, since a deletion takes one away.
#[derive(Default)]
pub(super) struct Anchors(VecDeque<(Key, Stamp)>);

impl Anchors {
    const KEPT: usize = 16;

    /// Takes in a page of a list.
    pub(super) fn take_in(&mut self, page: &[Entry]) {
        let mut newest: Vec<&Entry> = page.iter().collect();
        let newest_first = |entry: &&Entry| Reverse(entry.mod_revision);
        if newest.len() > Self::KEPT {
            newest.select_nth_unstable_by_key(Self::KEPT, newest_first);
            newest.truncate(Self::KEPT);
        }
        self.0.extend(newest.into_iter().map(|entry| (entry.key.clone(), entry.stamp())));
        let newest_first = |(_, stamp): &(Key, Stamp)| Reverse(stamp.revision);
        self.0.make_contiguous().sort_unstable_by_key(newest_first);
        self.0.truncate(Self::KEPT);
    }

    /// Takes in the changes of a batch.
    pub(super) fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            let key = match change {
                Change::Put(entry) => &entry.key,
                Change::Delete(key) => key,
            };
            self.0.retain(|(anchor, _)| anchor != key);
            if let Change::Put(entry) = change {
                self.0.truncate(Self::KEPT - 1);
                self.0.push_front((entry.key.clone(), entry.stamp()));
            }
        }
    }

    pub(super) fn newest(&self) -> Option<(Key, Stamp)> {
        self.0.front().cloned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn entry(key: String, revision: u64) -> Entry {
        let mod_revision = Revision(revision);
        Entry { key: key.into(), value: "v".into(), mod_revision, lease: None }
    }

    #[test]
    fn the_anchor_is_the_live_key_that_was_written_last() {
        let stamp = |revision| Stamp { revision: Revision(revision), lease: None };
        let mut anchors = Anchors::default();
        let entries: Vec<_> = (1..=40).map(|n| entry(format!("models/{n}"), 100 - n)).collect();
        for page in [&entries[20..], &entries[..20]] {
            anchors.take_in(page);
        }
        assert_eq!(anchors.newest(), Some(("models/1".into(), stamp(99))));
        anchors.follow(&[Change::Delete("models/1".into())]);
        assert_eq!(anchors.newest(), Some(("models/2".into(), stamp(98))));
        anchors.follow(&[Change::Put(entry("models/30".into(), 101))]);
        assert_eq!(anchors.newest(), Some(("models/30".into(), stamp(101))));
        for n in 1..=40 {
            anchors.follow(&[Change::Delete(format!("models/{n}").into())]);
        }
        assert!(anchors.is_empty());
    }
}
