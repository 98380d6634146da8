//! What a memory store holds, changed under one lock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::{
    Change, Cursor, Entry, Key, KeyRange, LeaseId, Revision, Stamp, StoreError, WatchItem,
};

pub(super) struct State {
    pub(super) revision: Revision,
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) leases: BTreeMap<LeaseId, Term>,
    last_lease: LeaseId,
    /// What each revision after `compacted` changed.
    history: VecDeque<(Revision, Vec<Change>)>,
    /// How many changes the history holds, and may hold.
    history_len: usize,
    history_limit: usize,
    compacted: Revision,
    /// The keys that were live at `compacted`, each with what had written it.
    compacted_keys: BTreeMap<Key, Stamp>,
    pub(super) available: bool,
    pub(super) allowed: bool,
    pub(super) full: bool,
    /// A watch that was opened under another number ends.
    pub(super) connection: u64,
    pub(super) open_watches: usize,
}

pub(super) struct Term {
    ttl: Duration,
    pub(super) ends: Instant,
}

impl State {
    pub(super) fn new(history_limit: usize) -> Self {
        Self {
            revision: Revision(1),
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: LeaseId(0),
            history: VecDeque::new(),
            history_len: 0,
            history_limit,
            compacted: Revision(1),
            compacted_keys: BTreeMap::new(),
            available: true,
            allowed: true,
            full: false,
            connection: 0,
            open_watches: 0,
        }
    }

    /// Begins again. Only who is connected, and how, goes on.
    pub(super) fn replace(&mut self) {
        *self = Self {
            connection: self.connection + 1,
            open_watches: self.open_watches,
            available: self.available,
            allowed: self.allowed,
            full: self.full,
            last_lease: self.last_lease,
            ..Self::new(self.history_limit)
        };
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        self.last_lease.0 += 1;
        self.leases.insert(self.last_lease, Term { ttl, ends: now + ttl });
        self.last_lease
    }

    pub(super) fn renew(&mut self, lease: LeaseId, now: Instant) -> Option<Duration> {
        let term = self.leases.get_mut(&lease)?;
        term.ends = now + term.ttl;
        Some(term.ttl)
    }

    pub(super) fn put(&mut self, key: Key, value: Bytes, lease: Option<LeaseId>) {
        let entry = Entry { key, value, mod_revision: Revision(self.revision.0 + 1), lease };
        self.entries.insert(entry.key.clone(), entry.clone());
        self.record(vec![Change::Put(entry)]);
    }

    /// Deletes live keys in one revision.
    pub(super) fn delete(&mut self, keys: Vec<Key>) {
        for key in &keys {
            self.entries.remove(key);
        }
        if !keys.is_empty() {
            self.record(keys.into_iter().map(Change::Delete).collect());
        }
    }

    fn record(&mut self, changes: Vec<Change>) {
        self.revision.0 += 1;
        self.history_len += changes.len();
        self.history.push_back((self.revision, changes));
        while self.history_len > self.history_limit && self.history.len() > 1 {
            self.forget_oldest();
        }
    }

    /// Compacts one revision, if there is one to forget.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let Some((revision, changes)) = self.history.pop_front() else { return false };
        self.history_len -= changes.len();
        for change in changes {
            match change {
                Change::Put(entry) => {
                    let stamp = entry.stamp();
                    self.compacted_keys.insert(entry.key, stamp)
                }
                Change::Delete(key) => self.compacted_keys.remove(&key),
            };
        }
        self.compacted = revision;
        true
    }

    pub(super) fn is_leased(&self, key: &Key, lease: LeaseId) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.lease == Some(lease))
    }

    pub(super) fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self.entries.values().filter(|entry| entry.lease == Some(lease));
        self.delete(keys.map(|entry| entry.key.clone()).collect());
    }

    /// Ends the leases whose time is over, in the order in which they ended.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let over = self.leases.iter().filter(|(_, term)| term.ends <= now);
        let mut over: Vec<_> = over.map(|(id, term)| (term.ends, *id)).collect();
        over.sort_unstable();
        for (_, lease) in &over {
            self.end_lease(*lease);
        }
        !over.is_empty()
    }

    /// Whether a watch may begin after this cursor.
    pub(super) fn prove(&self, after: &Cursor) -> Result<(), StoreError> {
        if after.revision > self.revision {
            return Err(StoreError::Replaced);
        }
        if after.revision < self.compacted {
            return Err(StoreError::Compacted);
        }
        match &after.anchor {
            Some((key, written)) if self.written(key, after.revision) != Some(*written) => {
                Err(StoreError::Replaced)
            }
            _ => Ok(()),
        }
    }

    /// What had last written the key, as of a revision that is not compacted; `None`
    /// when the key was not there.
    fn written(&self, key: &Key, at: Revision) -> Option<Stamp> {
        let changes = self.history.iter().rev().filter(|(revision, _)| *revision <= at);
        let last = changes.flat_map(|(_, changes)| changes).find_map(|change| match change {
            Change::Put(entry) if entry.key == *key => Some(Some(entry.stamp())),
            Change::Delete(deleted) if deleted == key => Some(None),
            _ => None,
        });
        last.unwrap_or_else(|| self.compacted_keys.get(key).copied())
    }

    /// What a range has seen after a revision.
    pub(super) fn batch_after(
        &self,
        position: Revision,
        range: &KeyRange,
    ) -> Result<Option<WatchItem>, StoreError> {
        if position < self.compacted {
            return Err(StoreError::Compacted);
        }
        let begin = self.history.partition_point(|(revision, _)| *revision <= position);
        let mut last = None;
        let mut in_range = Vec::new();
        for (revision, changes) in self.history.range(begin..) {
            for change in changes {
                let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
                if range.contains(key) {
                    last = Some(*revision);
                    in_range.push(change.clone());
                }
            }
        }
        Ok(last.map(|revision| WatchItem::Batch { revision, changes: in_range }))
    }
}
