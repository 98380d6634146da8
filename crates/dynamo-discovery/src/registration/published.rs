//! What the store holds of a registration, as far as is known.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::entry::{ModelEntry, State};
use crate::store::{Entry, Key, LeasedWrite};

/// The entries that the store holds, or may hold, under the registration's lease.
#[derive(Debug, Default)]
pub(super) struct Published(BTreeMap<Key, Stored>);

/// One entry at the store.
#[derive(Debug)]
struct Stored {
    entry: ModelEntry,
    /// Whether the store said that it has this. A put without an answer may have been applied, and a
    /// failed mark may have been, too.
    certain: bool,
}

impl Published {
    /// The puts that bring the store to these entries. Until it has answered, it may have any of them.
    pub(super) fn puts_for(&mut self, wanted: &BTreeMap<Key, ModelEntry>) -> Vec<LeasedWrite> {
        let mut puts = Vec::new();
        for (key, entry) in wanted {
            let has = |stored: &Stored| stored.certain && stored.entry == *entry;
            if !self.0.get(key).is_some_and(has) {
                puts.push(LeasedWrite::Put(key.clone(), entry.to_json()));
                self.0.insert(key.clone(), Stored { entry: entry.clone(), certain: false });
            }
        }
        puts
    }

    /// The store has done these puts.
    pub(super) fn have(&mut self, puts: &[LeasedWrite]) {
        for put in puts {
            if let LeasedWrite::Put(key, _) = put
                && let Some(stored) = self.0.get_mut(key)
            {
                stored.certain = true;
            }
        }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.0.keys().cloned().collect()
    }

    /// The keys that are none of these entries'.
    pub(super) fn keys_but(&self, wanted: &BTreeMap<Key, ModelEntry>) -> Vec<Key> {
        self.0.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect()
    }

    /// The puts that mark these entries as draining. One that is wanted again is put again.
    pub(super) fn drains_of(&mut self, keys: &[Key]) -> Vec<LeasedWrite> {
        let mut drains = Vec::new();
        for key in keys {
            if let Some(Stored { entry, certain }) = self.0.get_mut(key) {
                *certain = false;
                let draining = entry.clone().with_state(State::Draining);
                drains.push(LeasedWrite::PutIfLeased(key.clone(), draining.to_json()));
            }
        }
        drains
    }

    pub(super) fn deletions_of(keys: &[Key]) -> Vec<LeasedWrite> {
        keys.iter().cloned().map(LeasedWrite::DeleteIfLeased).collect()
    }

    /// The store has deleted them.
    pub(super) fn forget(&mut self, keys: &[Key]) {
        for key in keys {
            self.0.remove(key);
        }
    }

    /// The keys that the store is known to have.
    pub(super) fn certain_keys(&self) -> Vec<Key> {
        let certain = self.0.iter().filter(|(_, stored)| stored.certain);
        certain.map(|(key, _)| key.clone()).collect()
    }

    /// What to put under the lease again, instead of what is there without it; nothing where it is
    /// under another one, which is a successor's.
    ///
    /// An entry that somebody has marked as draining stays so.
    pub(super) fn again(&self, key: &Key, found: Option<&Entry>) -> Option<Bytes> {
        let entry = self.0.get(key)?.entry.clone();
        let Some(found) = found else { return Some(entry.to_json()) };
        if found.lease.is_some() {
            return None;
        }
        let state = ModelEntry::from_json(&found.value).map(|found| found.state());
        Some(entry.with_state(state.unwrap_or_default()).to_json())
    }
}
