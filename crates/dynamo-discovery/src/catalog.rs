//! The catalog: which instances are live, derived from what the store said.
//!
//! Pure: no IO, no clock, no log, and it cannot fail. What it refuses comes back as data.

use std::collections::HashSet;
use std::sync::Arc;

use dynamo_namespace::{EndpointId, Namespace, NamespaceScope};

use crate::by_key::ByKey;
use crate::entry::{InvalidEntry, RawEntry, State, check_model_name};
use crate::instance::Instance;
use crate::model_key::{InvalidKey, KeyParts, may_belong};
use crate::network_prefix::NetworkPrefix;
use crate::store::{Change, Entry, Key, Snapshot};

/// What the store said.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// This is everything there is: after the start, and whenever the history was lost.
    Resync(Snapshot),
    /// These changed, in this order.
    Batch(Vec<Change>),
}

/// What became of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelUpdate {
    /// An instance is there. For each key, `Added` and `Removed` strictly alternate.
    Added(Arc<Instance>),
    /// An instance's entry was overwritten with another value.
    Changed {
        /// What it was.
        old: Arc<Instance>,
        /// What it is.
        new: Arc<Instance>,
    },
    /// An instance is gone.
    Removed(Arc<Instance>, Gone),
}

/// Why an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gone {
    /// Its worker said that it withdraws.
    Withdrawn,
    /// Its key was deleted or its lease ended. Stores delete live leases now and then, so this
    /// proves no death.
    Vanished,
    /// Its entry was overwritten with an invalid one.
    Refused,
    /// Its entry moved to a namespace out of scope.
    OutOfScope,
}

/// An entry that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its key.
    pub key: Key,
    /// The namespace, where it is known and in scope.
    pub namespace: Option<Namespace>,
    /// The model's name, where it is known and fit to be shown.
    pub model: Option<String>,
    /// What is wrong with it.
    pub error: Refusal,
}

/// Why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// For its key.
    #[error("invalid key")]
    Key(#[from] InvalidKey),
    /// For its value.
    #[error("invalid value")]
    Value(#[from] InvalidEntry),
}

/// What an event changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The changes, in order.
    pub updates: Vec<ModelUpdate>,
    /// The entries that were refused.
    pub refused: Vec<Refused>,
    /// How many entries were out of scope. They have no names here.
    pub out_of_scope: usize,
    /// Flat keys that were deleted and not known. Keys of other layouts are not told.
    pub unknown_deletes: Vec<Key>,
    /// Keys in scope that were not live and were put draining or refused: whoever kept one of them
    /// when it vanished learns here that its worker withdrew it.
    pub unserved: Vec<Key>,
}

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
    root: NetworkPrefix,
    scope: NamespaceScope,
    live: HashSet<ByKey>,
    /// Of the last live entry, which is in scope: the next one probably has it too, and then shares
    /// it.
    recent: Option<EndpointId>,
}

/// A full list in the making: its entries are checked as they come, and count once it is whole.
#[derive(Debug, Default)]
pub struct Relist {
    checked: Vec<(Key, Verdict)>,
}

/// What an entry is to this catalog.
#[derive(Debug)]
enum Verdict {
    Live(Arc<Instance>),
    Not(Unfit),
}

/// Why an entry is not live.
#[derive(Debug)]
enum Unfit {
    Draining,
    OutOfScope,
    Refused(Box<Refused>),
}

impl Catalog {
    /// An empty catalog of the keys under `root`.
    #[must_use]
    pub fn new(root: NetworkPrefix, scope: NamespaceScope) -> Self {
        Self { root, scope, live: HashSet::new(), recent: None }
    }

    /// The live instances, in no order.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.live.iter().map(|one| &one.0)
    }

    /// Takes in an event and says what it changed.
    pub fn apply(&mut self, event: StoreEvent) -> Applied {
        let mut applied = Applied::default();
        match event {
            StoreEvent::Batch(changes) => {
                applied.updates.reserve(changes.len());
                for change in changes {
                    match change {
                        Change::Put(entry) => {
                            let key = entry.key.clone();
                            match self.judge(entry) {
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
        relist.checked.extend(entries.into_iter().map(|entry| {
            let key = entry.key.clone();
            let mut verdict = self.judge(entry);
            // What has not changed is not kept twice.
            if let (Verdict::Live(new), Some(old)) = (&mut verdict, self.live.get(&key))
                && *new == old.0
            {
                *new = old.0.clone();
            }
            (key, verdict)
        }));
    }

    /// Takes in a full list, as [`StoreEvent::Resync`] does, and says what it changed.
    pub fn resync(&mut self, relist: Relist) -> Applied {
        let mut applied = Applied::default();
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

    /// Tells of an instance that took the place of `old`.
    fn keep(&mut self, old: Option<ByKey>, new: Arc<Instance>, applied: &mut Applied) {
        applied.updates.push(match old {
            None => ModelUpdate::Added(new),
            // Equal: the one that others have already stays.
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
                let below_root = key.as_bytes().strip_prefix(self.root.as_str().as_bytes());
                if below_root.is_some_and(|below| !below.contains(&b'/')) {
                    applied.unknown_deletes.push(key);
                }
            }
        }
    }

    fn judge(&mut self, entry: Entry) -> Verdict {
        let Some(below_root) = entry.key.as_bytes().strip_prefix(self.root.as_str().as_bytes())
        else {
            return Verdict::Not(Unfit::OutOfScope);
        };
        // Before anything else: what is wrong with a neighbour's entry is not ours to know.
        if !self.scope_has(below_root) {
            return Verdict::Not(Unfit::OutOfScope);
        }
        let refuse = |namespace: Option<&Namespace>, model: &str, error: Refusal| {
            let fit = namespace.is_some() && check_model_name(model).is_ok();
            Verdict::Not(Unfit::Refused(Box::new(Refused {
                key: entry.key.clone(),
                namespace: namespace.cloned(),
                model: fit.then(|| model.to_owned()),
                error,
            })))
        };
        let key = std::str::from_utf8(below_root)
            .map_err(|_| InvalidKey::NotUtf8)
            .and_then(|key| KeyParts::parse(key, self.recent.as_ref()));
        let key = match key {
            Ok(key) => key,
            Err(error) => return refuse(None, "", error.into()),
        };
        // What the key says, if it says anything, and which worker process it names.
        let (told, id) = match &key {
            KeyParts::Native { endpoint, instance, model } => {
                (Some((endpoint, model.as_ref())), Some(*instance))
            }
            KeyParts::Flat => (None, None),
        };
        let like = told.map(|(endpoint, _)| endpoint).or(self.recent.as_ref());
        let raw = match RawEntry::parse(&entry.value, like) {
            Ok(raw) => raw,
            Err(error) => {
                let (endpoint, model) = told.unzip();
                let namespace = endpoint.map(EndpointId::namespace);
                return refuse(namespace, model.unwrap_or_default(), error.into());
            }
        };
        match told {
            None if !self.scope.contains(raw.endpoint().namespace()) => {
                return Verdict::Not(Unfit::OutOfScope);
            }
            // What the value claims is told only where the key does not contradict it.
            Some((endpoint, model)) if (endpoint, model) != (raw.endpoint(), raw.name()) => {
                return refuse(Some(endpoint.namespace()), model, InvalidKey::Disagrees.into());
            }
            _ => {}
        }
        match raw.validate() {
            Ok(value) if value.state() == State::Draining => Verdict::Not(Unfit::Draining),
            Ok(value) => {
                if self.recent.as_ref() != Some(value.endpoint()) {
                    self.recent = Some(value.endpoint().clone());
                }
                Verdict::Live(Arc::new(Instance::new(entry.key, id, value)))
            }
            Err(error) => refuse(Some(raw.endpoint().namespace()), raw.name(), error.into()),
        }
    }

    /// Whether a key can belong to the scope, as that of the last live entry did.
    fn scope_has(&self, below_root: &[u8]) -> bool {
        let recent = self.recent.as_ref().map(|recent| recent.namespace().as_str().as_bytes());
        let left = recent.and_then(|recent| below_root.strip_prefix(recent));
        left.is_some_and(|left| left.starts_with(b"/")) || may_belong(&self.scope, below_root)
    }
}

impl Applied {
    /// Tells of an entry under `key` that is not live, in the place of `old`.
    fn lose(&mut self, old: Option<ByKey>, key: Key, unfit: Unfit) {
        let gone = match unfit {
            Unfit::Draining => Gone::Withdrawn,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::store::Revision;

    const NATIVE: &str = "models/team-a/backend/generate/1/m";
    const FLAT: &str = "models/0b68fe75-8fdc-442f-a23a-99df3cdf0087";

    fn value(namespace: &str, model: &str, fields: &str) -> Bytes {
        format!(
            r#"{{"name":"{model}","endpoint":{{"namespace":"{namespace}","component":"backend","name":"generate"}},"model_type":"Chat"{fields}}}"#
        )
        .into()
    }

    fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Change {
        Change::Put(Entry {
            key: key.into(),
            value: value.into(),
            mod_revision: Revision(1),
            lease: None,
        })
    }

    fn team_a() -> Catalog {
        Catalog::new(NetworkPrefix::default(), NamespaceScope::Only("team-a".parse().unwrap()))
    }

    fn apply(catalog: &mut Catalog, changes: impl IntoIterator<Item = Change>) -> Applied {
        catalog.apply(StoreEvent::Batch(changes.into_iter().collect()))
    }

    fn removed(applied: &Applied) -> Vec<Gone> {
        applied
            .updates
            .iter()
            .filter_map(|update| match update {
                ModelUpdate::Removed(_, gone) => Some(*gone),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn an_equal_value_put_again_says_nothing() {
        let mut catalog = team_a();
        let first = apply(&mut catalog, [put(NATIVE, value("team-a", "m", ""))]);
        assert!(matches!(first.updates[..], [ModelUpdate::Added(_)]));
        // Another spelling of the same value, under a new lease.
        let again = apply(&mut catalog, [put(NATIVE, value("team-a", "m", r#","x":1"#))]);
        assert_eq!(again, Applied::default());
    }

    #[test]
    fn a_changed_value_is_one_change_and_no_flap() {
        let mut catalog = team_a();
        let applied = apply(
            &mut catalog,
            [
                put(NATIVE, value("team-a", "m", "")),
                put(NATIVE, value("team-a", "m", r#","url":"http://h""#)),
            ],
        );
        let [ModelUpdate::Added(added), ModelUpdate::Changed { old, new }] = &applied.updates[..]
        else {
            panic!("{:?}", applied.updates)
        };
        assert_eq!(added, old);
        assert_eq!(new.url().unwrap().as_str(), "http://h");
    }

    #[test]
    fn a_draining_put_withdraws_and_the_delete_after_it_says_nothing() {
        let mut catalog = team_a();
        let draining = value("team-a", "m", r#","state":"draining""#);
        apply(&mut catalog, [put(NATIVE, value("team-a", "m", ""))]);
        let applied = apply(&mut catalog, [put(NATIVE, draining.clone())]);
        assert_eq!(removed(&applied), [Gone::Withdrawn]);
        assert_eq!(apply(&mut catalog, [Change::Delete(NATIVE.into())]), Applied::default());
        // One that was not there does not leave either, but whoever kept it is told.
        let applied = apply(&mut catalog, [put(NATIVE, draining)]);
        assert_eq!(applied, Applied { unserved: vec![NATIVE.into()], ..Applied::default() });
    }

    #[test]
    fn an_invalid_overwrite_removes_what_was_valid() {
        for (change, reason) in [
            (put(NATIVE, "{"), Refusal::Value(InvalidEntry::Json { line: 1, column: 1 })),
            (put(NATIVE, value("team-b", "m", "")), InvalidKey::Disagrees.into()),
            (put(NATIVE, value("team-a", "other", "")), InvalidKey::Disagrees.into()),
            (
                put(NATIVE, value("team-a", "m", r#","state":"asleep""#)),
                InvalidEntry::UnknownState.into(),
            ),
        ] {
            let mut catalog = team_a();
            apply(&mut catalog, [put(NATIVE, value("team-a", "m", ""))]);
            let applied = apply(&mut catalog, [change]);
            assert_eq!(removed(&applied), [Gone::Refused], "{reason}");
            assert_eq!(applied.refused[0].error, reason);
            assert_eq!(catalog.instances().count(), 0);
        }
    }

    #[test]
    fn a_flat_entry_that_moves_to_another_namespace_is_gone() {
        let mut catalog = team_a();
        apply(&mut catalog, [put(FLAT, value("team-a", "m", ""))]);
        let applied = apply(&mut catalog, [put(FLAT, value("team-b", "m", ""))]);
        assert_eq!(removed(&applied), [Gone::OutOfScope]);
        assert_eq!(applied.out_of_scope, 1);
    }

    #[test]
    fn nothing_of_a_neighbour_is_told_however_broken_it_is() {
        for (key, value) in [
            ("models/team-b/backend/generate/1/m", value("team-b", "m", "")),
            ("models/team-b/backend/generate/1/m", "secret".into()),
            ("models/team-b/backend/generate/1/m", value("team-a", "m", "")),
            ("models/team-b/oops", "secret".into()),
            ("models/team-ab/backend/generate/1/m", "secret".into()),
            ("models/TEAM-A/backend/generate/1/m", "secret".into()),
            ("models/team-a%2F/backend/generate/1/m", "secret".into()),
            ("models//backend/generate/1/m", "secret".into()),
            (FLAT, value("team-b", "m", "")),
            (FLAT, value("team-b", "\\u202e", "")),
            (FLAT, value("team-b", "m", r#","url":"gopher://x""#)),
            (FLAT, value("", "m", "")),
        ] {
            let applied = apply(&mut team_a(), [put(key, value.clone())]);
            assert_eq!(
                applied,
                Applied { out_of_scope: 1, ..Applied::default() },
                "{key} {value:?}"
            );
        }
    }

    #[test]
    fn deletes_of_unknown_keys_are_told_of_flat_ones_only() {
        let applied = apply(
            &mut team_a(),
            [
                Change::Delete(FLAT.into()),
                Change::Delete("models/team-b/backend/generate/1/m".into()),
                Change::Delete(NATIVE.into()),
            ],
        );
        assert_eq!(applied, Applied { unknown_deletes: vec![FLAT.into()], ..Applied::default() });
    }

    #[test]
    fn what_can_be_told_of_a_refused_entry_is_told() {
        let applied = apply(
            &mut team_a(),
            [
                put(FLAT, value("team-a", "m", r#","url":"ftp://x""#)),
                put(FLAT, value("team-a", "a\\nb", "")),
                put("models/\u{ff}", "{}"),
                put(b"models/\xff", "{}"),
                put("models/team-a/x", "{}"),
            ],
        );
        let told: Vec<_> = applied
            .refused
            .iter()
            .map(|refused| {
                (refused.namespace.as_ref().map(Namespace::as_str), refused.model.as_deref())
            })
            .collect();
        let team_a = Some("team-a");
        assert_eq!(
            told,
            [(team_a, Some("m")), (team_a, None), (None, None), (None, None), (None, None)]
        );
    }

    /// Keys and values whose meaning is known by how they are made, not by reading them.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Value {
        First,
        Second,
        Draining,
        Foreign,
        Garbage,
    }

    fn key(index: usize) -> Key {
        match index {
            0..3 => format!("models/team-a/backend/generate/{index}/m"),
            3..6 => format!("models/flat-{index}"),
            _ => format!("models/team-b/backend/generate/{index}/m"),
        }
        .into()
    }

    fn bytes(value: Value) -> Bytes {
        match value {
            Value::First => self::value("team-a", "m", ""),
            Value::Second => self::value("team-a", "m", r#","created":2"#),
            Value::Draining => self::value("team-a", "m", r#","state":"draining""#),
            Value::Foreign => self::value("team-b", "m", ""),
            Value::Garbage => "{".into(),
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Put(usize, Value),
        Delete(usize),
        /// The connection breaks; what happens next is missed.
        Disconnect,
        /// It comes back with a list.
        Resync,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let value = prop_oneof![
            3 => Just(Value::First),
            2 => Just(Value::Second),
            1 => Just(Value::Draining),
            1 => Just(Value::Foreign),
            1 => Just(Value::Garbage),
        ];
        proptest::collection::vec(
            prop_oneof![
                6 => (0..8_usize, value).prop_map(|(key, value)| Op::Put(key, value)),
                3 => (0..8_usize).prop_map(Op::Delete),
                1 => Just(Op::Disconnect),
                1 => Just(Op::Resync),
            ],
            0..60,
        )
    }

    proptest! {
        #[test]
        fn the_catalog_is_what_a_fresh_list_would_say(ops in ops()) {
            let mut catalog = team_a();
            let mut stored: BTreeMap<usize, Value> = BTreeMap::new();
            let mut connected = true;
            // What a listener knows who saw nothing but the updates.
            let mut heard: BTreeMap<Key, Arc<Instance>> = BTreeMap::new();

            for op in ops.into_iter().chain([Op::Resync]) {
                let event = match op {
                    Op::Put(index, value) => {
                        stored.insert(index, value);
                        StoreEvent::Batch(vec![put(key(index), bytes(value))])
                    }
                    Op::Delete(index) => {
                        stored.remove(&index);
                        StoreEvent::Batch(vec![Change::Delete(key(index))])
                    }
                    Op::Disconnect => {
                        connected = false;
                        continue;
                    }
                    Op::Resync => {
                        connected = true;
                        let entries = stored.iter().map(|(index, value)| Entry {
                            key: key(*index),
                            value: bytes(*value),
                            mod_revision: Revision(1),
                            lease: None,
                        });
                        StoreEvent::Resync(Snapshot { revision: Revision(1), entries: entries.collect() })
                    }
                };
                if !connected {
                    continue;
                }
                for update in catalog.apply(event).updates {
                    match update {
                        ModelUpdate::Added(new) => {
                            prop_assert_eq!(heard.insert(new.key().clone(), new), None);
                        }
                        ModelUpdate::Changed { old, new } => {
                            prop_assert_ne!(&old, &new);
                            prop_assert_eq!(heard.insert(new.key().clone(), new), Some(old));
                        }
                        ModelUpdate::Removed(old, _) => {
                            prop_assert_eq!(heard.remove(old.key()), Some(old));
                        }
                    }
                }
                let expected: BTreeMap<Key, Option<u64>> = stored
                    .iter()
                    .filter(|(index, _)| **index < 6)
                    .filter_map(|(index, value)| match value {
                        Value::First => Some((key(*index), None)),
                        Value::Second => Some((key(*index), Some(2))),
                        _ => None,
                    })
                    .collect();
                let live: BTreeMap<_, _> = catalog
                    .instances()
                    .map(|instance| (instance.key().clone(), instance.entry().created()))
                    .collect();
                prop_assert_eq!(&live, &expected);
                prop_assert!(heard.keys().eq(live.keys()));
            }
        }

        #[test]
        fn no_key_and_no_value_make_the_catalog_panic(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let key = [b"models/".as_slice(), &key].concat();
            let applied = apply(&mut team_a(), [put(key, value)]);
            prop_assert!(applied.updates.is_empty());
        }
    }
}
