//! The catalog: the live instances of a scope, derived from a store's events.
//!
//! The catalog does no IO, reads no clock, writes no log and cannot fail. It returns refused entries as
//! data.

mod reader;
#[cfg(test)]
mod tests;
mod update;
mod verdict;

use std::collections::HashSet;
use std::sync::Arc;

use dynamo_namespace::NamespaceScope;

pub use self::reader::{EntryReader, ReadEntry};
pub use self::update::{Applied, Gone, Ignored, ModelUpdate, Refusal, Refused, StoreEvent};
use self::verdict::{Judge, Unfit, Verdict};
use crate::by_key::ByKey;
use crate::instance::Instance;
use crate::network_prefix::NetworkPrefix;
use crate::store::{Change, Entry, Key};

/// The live instances of a scope, by key.
///
/// ```
/// use dynamo_discovery::{
///     Catalog, Change, Entry, Kind, ModelEntry, ModelUpdate, NetworkPrefix, Revision, StoreEvent,
/// };
/// use dynamo_namespace::NamespaceScope;
///
/// let scope = NamespaceScope::from_target(Some("team-a"))?;
/// let mut catalog = Catalog::new(NetworkPrefix::default(), scope);
/// let value = ModelEntry::new("m", "team-a.backend.generate".parse()?, Kind::Chat.into())?;
/// let put = Change::Put(Entry {
///     key: "models/team-a/backend/generate/1/m".into(),
///     value: value.to_json(),
///     mod_revision: Revision(7),
///     lease: None,
/// });
///
/// let applied = catalog.apply(StoreEvent::Batch(vec![put]));
/// assert!(matches!(applied.updates[..], [ModelUpdate::Added(_)]));
/// assert_eq!(catalog.instances().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Catalog {
    judge: Judge,
    live: HashSet<ByKey>,
}

/// A full list of which some entries have come. They are checked as they come, and count once the
/// list is whole.
#[derive(Debug, Default)]
pub struct Relist {
    checked: Vec<(Key, Verdict)>,
    ignored: Vec<Ignored>,
}

impl Catalog {
    /// An empty catalog of the keys under `root`.
    pub fn new(root: NetworkPrefix, scope: NamespaceScope) -> Self {
        Self { judge: Judge::new(root, scope), live: HashSet::new() }
    }

    /// The live instances, in no order.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.live.iter().map(|one| &one.0)
    }

    /// Takes in an event, and returns its effect.
    pub fn apply(&mut self, event: StoreEvent) -> Applied {
        let mut applied = Applied::default();
        match event {
            StoreEvent::Batch(changes) => {
                applied.updates.reserve(changes.len());
                for change in changes {
                    match change {
                        Change::Put(entry) => {
                            let key = entry.key.clone();
                            match self.judge.verdict(entry, &mut applied.ignored) {
                                Verdict::Live(new) => {
                                    let old = self.live.replace(ByKey(new.clone()));
                                    self.keep(old, new, &mut applied);
                                }
                                Verdict::Not(unfit) => {
                                    let old = self.live.take(&key);
                                    applied.lose(old, key, unfit);
                                }
                            }
                        }
                        Change::Delete(key) => self.delete(key, &mut applied),
                    }
                }
            }
            StoreEvent::Resync(snapshot) => {
                let mut relist = Relist::default();
                self.take_page(&mut relist, snapshot.entries);
                applied = self.resync(relist);
            }
        }
        applied
    }

    /// Checks some entries of a full list. Nothing changes before [`resync`](Self::resync).
    pub fn take_page(&mut self, relist: &mut Relist, entries: Vec<Entry>) {
        let Relist { checked, ignored } = relist;
        checked.extend(entries.into_iter().map(|entry| {
            let key = entry.key.clone();
            let mut verdict = self.judge.verdict(entry, ignored);
            // An instance that has not changed is not stored a second time.
            if let (Verdict::Live(new), Some(old)) = (&mut verdict, self.live.get(&key))
                && *new == old.0
            {
                *new = old.0.clone();
            }
            (key, verdict)
        }));
    }

    /// Takes in a full list, as [`StoreEvent::Resync`] does, and returns its effect.
    pub fn resync(&mut self, relist: Relist) -> Applied {
        let mut applied = Applied { ignored: relist.ignored, ..Applied::default() };
        let is_live = |(_, verdict): &&(Key, Verdict)| matches!(verdict, Verdict::Live(_));
        let live = HashSet::with_capacity(relist.checked.iter().filter(is_live).count());
        let mut before = std::mem::replace(&mut self.live, live);
        for (key, verdict) in relist.checked {
            let old = before.take(&key);
            match verdict {
                Verdict::Live(new) => {
                    self.live.replace(ByKey(new.clone()));
                    self.keep(old, new, &mut applied);
                }
                Verdict::Not(unfit) => applied.lose(old, key, unfit),
            }
        }
        let mut vanished: Vec<_> = before.into_iter().map(|one| one.0).collect();
        vanished.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let vanished = vanished.into_iter().map(|old| ModelUpdate::Removed(old, Gone::Vanished));
        applied.updates.extend(vanished);
        applied
    }

    /// Tells of a live instance in the place of `old`.
    fn keep(&mut self, old: Option<ByKey>, new: Arc<Instance>, applied: &mut Applied) {
        applied.updates.push(match old {
            None => ModelUpdate::Added(new),
            // An equal instance adds nothing: the old one, which readers share, stays.
            Some(old) if old.0 == new => {
                self.live.replace(old);
                return;
            }
            Some(ByKey(old)) => ModelUpdate::Changed { old, new },
        });
    }

    fn delete(&mut self, key: Key, applied: &mut Applied) {
        match self.live.take(&key) {
            Some(old) => applied.updates.push(ModelUpdate::Removed(old.0, Gone::Vanished)),
            None => {
                let below_root = self.judge.below_root(&key);
                if below_root.is_some_and(|below| !below.contains(&b'/')) {
                    applied.unknown_deletes.push(key);
                }
            }
        }
    }
}

impl Applied {
    /// Tells of an entry that is not live in the place of `old`.
    fn lose(&mut self, old: Option<ByKey>, key: Key, unfit: Unfit) {
        let gone = match unfit {
            Unfit::Draining(_) => Gone::Withdrawn,
            Unfit::OutOfScope => {
                self.out_of_scope += 1;
                Gone::OutOfScope
            }
            Unfit::Refused(refused) => {
                self.refused.push(*refused);
                Gone::Refused
            }
        };
        match old {
            Some(ByKey(old)) => self.updates.push(ModelUpdate::Removed(old, gone)),
            None if gone == Gone::OutOfScope => {}
            None => self.unserved.push(key),
        }
    }
}
