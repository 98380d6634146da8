//! Tests of the catalog: single events, and a model of a store that disconnects.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_namespace::Namespace;
use proptest::prelude::*;

use super::*;
use crate::entry::InvalidEntry;
use crate::model_key::InvalidKey;
use crate::store::{Revision, Snapshot};
use crate::worker_url::InvalidUrl;

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
        assert_eq!(applied, Applied { out_of_scope: 1, ..Applied::default() }, "{key} {value:?}");
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
fn a_control_address_that_is_ignored_is_told_and_another_one_is_a_change() {
    let mut catalog = team_a();
    let with = |control: &str| value("team-a", "m", &format!(r#","control":"{control}""#));
    let ignored = [Ignored { key: NATIVE.into(), error: InvalidUrl::Path }];
    let applied = apply(&mut catalog, [put(NATIVE, with("http://h:1/path"))]);
    assert!(matches!(applied.updates[..], [ModelUpdate::Added(_)]));
    assert_eq!((applied.refused.len(), &applied.ignored[..]), (0, &ignored[..]));
    let applied = apply(&mut catalog, [put(NATIVE, with("http://h:1"))]);
    assert!(matches!(applied.updates[..], [ModelUpdate::Changed { .. }]));
    assert_eq!(applied.ignored, []);

    // The same in a full list, and never of a neighbour or of what is not live.
    let neighbour = NATIVE.replace("team-a", "team-b");
    let draining = value("team-a", "d", r#","control":5,"state":"draining""#);
    let entries = [
        put(NATIVE, with("http://h:1/path")),
        put(neighbour.as_str(), value("team-b", "m", r#","control":5"#)),
        put("models/team-a/backend/generate/1/d", draining),
    ];
    let entries = entries.into_iter().map(|change| match change {
        Change::Put(entry) => entry,
        Change::Delete(_) => unreachable!("there are puts only"),
    });
    let mut relist = Relist::default();
    catalog.take_page(&mut relist, entries.collect());
    let applied = catalog.resync(relist);
    assert!(matches!(applied.updates[..], [ModelUpdate::Changed { .. }]));
    assert_eq!(applied.ignored, ignored);
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
