//! Who sees which entries, for every way to name a target.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dynamo_discovery::{
    Applied, Catalog, Change, DiscoveryBatch, DiscoveryEvent, Entry, Gone, InstanceId, Kind,
    MODEL_ROOT_PATH, MemoryStore, ModelEntry, ModelKey, ModelUpdate, ModelWatcher, NetworkPrefix,
    Registration, RegistrationConfig, Revision, Snapshot, State, StoreEvent, WatcherError,
};
use dynamo_namespace::{
    DYNAMO_NAMESPACE_ENV_VAR, EndpointId, GLOBAL_NAMESPACE, Namespace, NamespaceScope,
    is_global_namespace, names,
};
use dynamo_tests::{create_test_model_entry, flat_key, native_key, soon};

/// Namespaces that are easily confused, each with one model of the same name.
const NAMESPACES: [&str; 8] =
    ["team-a", "team-b", "team-ab", "team", "TEAM-A", "team-a-deadbeef", "global", "GLOBAL"];

/// Targets as a user types them, and whose models each one sees.
const TARGETS: [(Option<&str>, &[&str]); 9] = [
    (Some("team-a"), &["team-a"]),
    (Some("team-b"), &["team-b"]),
    (Some("team"), &["team"]),
    (Some("TEAM-A"), &["TEAM-A"]),
    (Some("GLOBAL"), &["GLOBAL"]),
    (Some("nobody"), &[]),
    (Some("global"), &NAMESPACES),
    (Some(""), &NAMESPACES),
    (None, &NAMESPACES),
];

fn entry_in(namespace: &str) -> ModelEntry {
    create_test_model_entry(namespace, namespace, "backend", "generate", "Chat")
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The namespaces of what was added, where nothing else happened.
fn added(updates: &[ModelUpdate]) -> BTreeSet<String> {
    let namespace = |update: &ModelUpdate| match update {
        ModelUpdate::Added(instance) => instance.endpoint().namespace().to_string(),
        other => panic!("{other:?}"),
    };
    updates.iter().map(namespace).collect()
}

/// What came and what went, by model.
fn story(updates: &[ModelUpdate]) -> Vec<String> {
    let tell = |update: &ModelUpdate| match update {
        ModelUpdate::Added(new) => format!("+{}", new.model()),
        ModelUpdate::Changed { new, .. } => format!("~{}", new.model()),
        ModelUpdate::Removed(old, gone) => format!("-{} {gone:?}", old.model()),
    };
    updates.iter().map(tell).collect()
}

async fn next_batch(watcher: &mut ModelWatcher) -> DiscoveryBatch {
    soon("a batch", watcher.next_batch()).await
}

/// Takes the first list, and waits until the watch runs: an empty list is taken twice, and what came
/// and went in between is in neither.
async fn first_batch(watcher: &mut ModelWatcher) -> DiscoveryBatch {
    let batch = next_batch(watcher).await;
    soon("the watch", async { while watcher.next().await != DiscoveryEvent::Connected {} }).await;
    batch
}

fn watch(store: &MemoryStore, target: Option<&str>) -> ModelWatcher {
    ModelWatcher::watch(Arc::new(store.clone()), target).unwrap()
}

/// A store with an entry in each namespace, every other one under a flat key.
fn populated() -> MemoryStore {
    let store = MemoryStore::new();
    for (index, namespace) in NAMESPACES.into_iter().enumerate() {
        let entry = entry_in(namespace);
        let key = if index % 2 == 0 { native_key(&entry) } else { flat_key() };
        store.put_unleased(format!("{MODEL_ROOT_PATH}{key}"), entry.to_json());
    }
    store
}

#[tokio::test]
async fn every_target_sees_what_was_there_before_it_in_its_namespaces_and_nothing_else() {
    let store = populated();
    for (target, seen) in TARGETS {
        let first = next_batch(&mut watch(&store, target)).await;
        assert!(first.resync, "{target:?}");
        assert_eq!(added(&first.updates), set(seen), "{target:?}");
        assert_eq!(first.refused, 0, "{target:?}");
        assert_eq!(first.updates.len(), seen.len(), "{target:?}");
    }
}

#[tokio::test]
async fn every_target_sees_what_comes_and_goes_in_its_namespaces_and_nothing_else() {
    for (target, seen) in TARGETS {
        let store = MemoryStore::new();
        let mut watcher = watch(&store, target);
        assert_eq!(first_batch(&mut watcher).await.updates, []);

        let entries: Vec<_> = NAMESPACES.into_iter().map(entry_in).collect();
        let keys: Vec<_> =
            entries.iter().map(|entry| format!("{MODEL_ROOT_PATH}{}", native_key(entry))).collect();
        for (key, entry) in keys.iter().zip(&entries) {
            store.put_unleased(key.clone(), entry.to_json());
        }
        for key in &keys {
            store.delete(key.clone());
        }
        // Everyone hears this, so silence before it is proven.
        let namespace = seen.first().unwrap_or(&"nobody");
        let end = create_test_model_entry("end", namespace, "backend", "generate", "Chat");
        store.put_unleased(format!("{MODEL_ROOT_PATH}{}", native_key(&end)), end.to_json());

        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "+end") {
            heard.extend(story(&next_batch(&mut watcher).await.updates));
        }
        let of = |sign: &str, gone: &str| -> Vec<String> {
            let seen = NAMESPACES.into_iter().filter(|namespace| seen.contains(namespace));
            seen.map(|namespace| format!("{sign}{namespace}{gone}")).collect()
        };
        let expected = [of("+", ""), of("-", " Vanished"), vec!["+end".into()]].concat();
        assert_eq!(heard, expected, "{target:?}");
    }
}

#[test]
fn the_catalog_of_every_target_holds_its_namespaces_and_nothing_else() {
    for (target, seen) in TARGETS {
        let scope = NamespaceScope::from_target(target).unwrap();
        let entries = NAMESPACES.into_iter().map(|namespace| {
            let entry = entry_in(namespace);
            Entry {
                key: format!("{MODEL_ROOT_PATH}{}", native_key(&entry)).into(),
                value: entry.to_json(),
                mod_revision: Revision(1),
                lease: None,
            }
        });
        let entries: Vec<_> = entries.collect();
        let listed = Snapshot { revision: Revision(1), entries: entries.clone() };
        let changed = entries.into_iter().map(Change::Put).collect();
        for event in [StoreEvent::Resync(listed), StoreEvent::Batch(changed)] {
            let mut catalog = Catalog::new(NetworkPrefix::default(), scope.clone());
            let Applied { updates, refused, out_of_scope, .. } = catalog.apply(event);
            assert_eq!(added(&updates), set(seen), "{target:?}");
            assert_eq!(refused, [], "{target:?}");
            assert_eq!(out_of_scope, NAMESPACES.len() - seen.len(), "{target:?}");
            assert_eq!(catalog.instances().count(), seen.len(), "{target:?}");
        }
    }
}

#[tokio::test]
async fn a_namespace_that_nobody_registered_in_is_seen_when_somebody_does() {
    let store = populated();
    let mut watcher = watch(&store, Some("nobody"));
    assert_eq!(next_batch(&mut watcher).await.updates, []);
    let entry = entry_in("nobody");
    store.put_unleased(format!("{MODEL_ROOT_PATH}{}", native_key(&entry)), entry.to_json());
    assert_eq!(story(&next_batch(&mut watcher).await.updates), ["+nobody"]);
}

#[test]
fn a_blank_or_malformed_target_is_refused_and_not_trimmed() {
    for target in [" ", "\t", "\n", "global ", " global", "team-a ", "a b", "a.b", "a/b", "a/../b"]
    {
        let refused = ModelWatcher::watch(Arc::new(MemoryStore::new()), Some(target));
        assert!(matches!(refused, Err(WatcherError::Namespace(_))), "{target:?}");
    }
}

#[tokio::test]
async fn an_entry_with_a_blank_namespace_is_refused_and_one_with_an_empty_one_is_global() {
    let store = MemoryStore::new();
    let value = |namespace: &str| {
        format!(
            r#"{{"name":"m{}","endpoint":{{"namespace":"{namespace}","component":"backend","name":"generate"}},"model_type":"Chat"}}"#,
            namespace.len()
        )
    };
    store.put_unleased(format!("{MODEL_ROOT_PATH}{}", flat_key()), value(" "));
    store.put_unleased(format!("{MODEL_ROOT_PATH}{}", flat_key()), value("global "));
    store.put_unleased(format!("{MODEL_ROOT_PATH}{}", flat_key()), value(""));

    let all = next_batch(&mut watch(&store, None)).await;
    assert_eq!((added(&all.updates), all.refused), (set(&["global"]), 2));
    // What is wrong in nobody's namespace is nobody else's business.
    let other = next_batch(&mut watch(&store, Some("team-a"))).await;
    assert_eq!(other.updates, []);
}

#[tokio::test]
async fn an_entry_that_moves_leaves_one_namespace_and_comes_into_the_other() {
    let store = MemoryStore::new();
    let key = format!("{MODEL_ROOT_PATH}{}", flat_key());
    let put = |namespace: &str| {
        let entry = create_test_model_entry("m", namespace, "backend", "generate", "Chat");
        store.put_unleased(key.clone(), entry.to_json());
    };
    let [mut from, mut to, mut all] =
        [Some("team-a"), Some("team-b"), None].map(|target| watch(&store, target));
    for watcher in [&mut from, &mut to, &mut all] {
        first_batch(watcher).await;
    }
    put("team-a");
    put("team-b");
    put("team-b");
    store.delete(key.clone());

    let mut told: [Vec<String>; 3] = Default::default();
    for (watcher, told) in [&mut from, &mut to, &mut all].into_iter().zip(&mut told) {
        while !told.last().is_some_and(|last: &String| last.starts_with('-')) {
            told.extend(story(&next_batch(watcher).await.updates));
        }
    }
    assert_eq!(told[0], ["+m", &format!("-m {:?}", Gone::OutOfScope)]);
    assert_eq!(told[1], ["+m", &format!("-m {:?}", Gone::Vanished)]);
    assert_eq!(told[2], ["+m", "~m", &format!("-m {:?}", Gone::Vanished)]);
}

#[tokio::test]
async fn an_entry_comes_out_of_a_registration_as_it_went_in() {
    let store = MemoryStore::new();
    let mut watcher = watch(&store, Some("team-a"));
    next_batch(&mut watcher).await;
    let entry = |name| create_test_model_entry(name, "team-a", "backend", "generate", "Chat");
    let entries = vec![
        entry("plain"),
        entry("Qwen/Qwen3-0.6B").with_url("http://10.0.0.5:8001/base".parse().unwrap()),
        entry("ein Modell: 100 %").with_created(1_790_000_000),
        entry("模型").with_context_length(u64::MAX),
        create_test_model_entry(
            "all",
            "team-a",
            "backend",
            "generate",
            "Chat | Embedding | Pooling",
        ),
        create_test_model_entry("prefill", "team-a", "prefill", "generate", "Chat"),
    ];
    let config =
        RegistrationConfig::new(Arc::new(store.clone())).with_instance(InstanceId(u64::MAX));
    let registration = Registration::publish(config, entries.clone()).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < entries.len() {
        for update in next_batch(&mut watcher).await.updates {
            let ModelUpdate::Added(instance) = update else { panic!("{update:?}") };
            assert_eq!(instance.id(), Some(InstanceId(u64::MAX)));
            seen.push(instance.entry().clone());
        }
    }
    let by_name = |entry: &ModelEntry| entry.name().to_owned();
    seen.sort_by_key(by_name);
    let mut published = entries.clone();
    published.sort_by_key(by_name);
    assert_eq!(seen, published);

    registration.withdraw().await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < entries.len() {
        gone.extend(story(&next_batch(&mut watcher).await.updates));
    }
    assert!(gone.iter().all(|line| line.ends_with(" Withdrawn")), "{gone:?}");
}

#[test]
fn an_entry_and_its_key_round_trip_through_what_is_stored() {
    for kinds in ["Chat", "Completions", "Embedding", "Chat | Completions", "Chat|Prefill"] {
        for state in [State::Serving, State::Draining] {
            let entry = create_test_model_entry("org/m:1", "team-a", "backend", "generate", kinds)
                .with_url("https://h.example:8443".parse().unwrap())
                .with_created(7)
                .with_context_length(4096)
                .with_state(state);
            assert_eq!(ModelEntry::from_json(&entry.to_json()).unwrap(), entry);

            let ModelKey::Native { endpoint, model, .. } = native_key(&entry).parse().unwrap()
            else {
                panic!("a native key")
            };
            assert_eq!((&endpoint, &*model), (entry.endpoint(), entry.name()));
        }
    }
    assert!(matches!(flat_key().parse(), Ok(ModelKey::Flat(_))));
}

#[test]
fn what_real_dynamo_workers_wrote_is_read_under_flat_keys() {
    let mut catalog = Catalog::new(NetworkPrefix::default(), NamespaceScope::All);
    // Dynamo 0.4.1, 0.5.0 and 0.5.1.
    let values = [
        r#"{"name":"m","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"},"model_type":"Chat"}"#,
        r#"{"name":"m","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"},"model_type":"Backend","runtime_config":null}"#,
        r#"{"name":"m","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"},"model_type":"Chat | Completions","model_input":"Tokens"}"#,
    ];
    let changes = values.into_iter().map(|value| {
        Change::Put(Entry {
            key: format!("{MODEL_ROOT_PATH}{}", flat_key()).into(),
            value: Bytes::from_static(value.as_bytes()),
            mod_revision: Revision(2),
            lease: None,
        })
    });
    let Applied { updates, refused, .. } = catalog.apply(StoreEvent::Batch(changes.collect()));
    assert_eq!((updates.len(), refused.len()), (3, 0));
    let completes = |update: &&ModelUpdate| match update {
        ModelUpdate::Added(instance) => instance.kinds().contains(Kind::Completions),
        _ => false,
    };
    assert_eq!(updates.iter().filter(completes).count(), 2);
}

#[test]
fn every_spelling_of_an_endpoint_id_tells_whether_its_namespace_is_the_global_one() {
    for (namespace, global) in [
        ("global", true),
        ("GLOBAL", false),
        ("Global", false),
        ("global-1", false),
        ("team-a", false),
        ("default", false),
    ] {
        let ids = [
            format!("dyn://{namespace}.backend.generate"),
            format!("dyn://{namespace}/backend/generate"),
            format!("{namespace}.backend.generate"),
            format!("{namespace}/backend/generate"),
        ];
        for text in ids {
            let id: EndpointId = text.parse().unwrap();
            assert_eq!(id.namespace().as_str(), namespace, "{text}");
            assert_eq!(id.namespace().is_global(), global, "{text}");
            assert_eq!(is_global_namespace(id.namespace().as_str()), global, "{text}");
            assert_eq!((id.component(), id.name()), ("backend", "generate"), "{text}");
            assert_eq!(id.as_url(), format!("dyn://{namespace}.backend.generate"));
            assert_eq!(id.as_url().parse::<EndpointId>().unwrap(), id);
        }
    }
}

#[test]
fn what_is_no_endpoint_id_is_refused() {
    for text in [
        "",
        "dyn://",
        "generate",
        "backend.generate",
        "dyn://backend.generate",
        "a.b.c.d",
        ".backend.generate",
        " .backend.generate",
        "a..generate",
        "a.backend.",
        "a.back end.generate",
        "http://a.backend.generate",
    ] {
        assert!(text.parse::<EndpointId>().is_err(), "{text:?}");
    }
}

#[test]
fn the_names_are_those_that_dynamo_uses() {
    assert_eq!(GLOBAL_NAMESPACE, "global");
    assert_eq!(DYNAMO_NAMESPACE_ENV_VAR, "DYN_NAMESPACE");
    assert_eq!(MODEL_ROOT_PATH, "models/");
    let id = |component, endpoint| {
        EndpointId::new(Namespace::global(), component, endpoint).unwrap().to_string()
    };
    assert_eq!(id(names::BACKEND_COMPONENT, names::GENERATE_ENDPOINT), "global.backend.generate");
    assert_eq!(id(names::PREFILL_COMPONENT, names::GENERATE_ENDPOINT), "global.prefill.generate");
    assert_eq!(id(names::FRONTEND_COMPONENT, names::HTTP_ENDPOINT), "global.frontend.http");
}
