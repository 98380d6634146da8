//! Faults that need no real store, by the numbers of `docs/testing.md`: injected above the storage
//! trait, with paused time, and judged by every view that was ever published.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "test code")]
#![allow(missing_debug_implementations, reason = "nobody prints the fixtures")]

mod chain;

use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, Fault, Faulty, chat, kinds, models, native, value};
use dynamo_discovery::{
    Catalog, Change, Entry, Gone, Kind, Kinds, LeaseStore as _, MemoryStore, ModelUpdate,
    NetworkPrefix, Revision, StoreError, StoreEvent, WatchStore, WatcherConfig, run_watcher,
};
use dynamo_namespace::NamespaceScope;
use proptest::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, advance, sleep, timeout};

/// A store with these models of team-a, one worker each.
fn store_with(models: &[&str]) -> Faulty {
    let store = MemoryStore::new();
    for (instance, model) in models.iter().enumerate() {
        store.put_unleased(native(instance, model), chat(model));
    }
    Faulty::new(store)
}

// Fault 16. That etcd's own paging begins again is proven by the conformance suite:
// `a_list_that_a_compaction_interrupts_begins_again`.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_compacted_in_its_middle_begins_again_and_takes_nothing_away() {
    let faulty = store_with(&["stays", "leaves"]);
    let mut chain = Chain::over(&faulty).await;
    chain.run_for(Duration::from_secs(1)).await;
    let before = chain.published.len();
    faulty.store.delete(native(1, "leaves"));
    faulty.store.compact();
    faulty.store.disconnect();
    for _ in 0..3 {
        faulty.list_fault(Fault::Fails(StoreError::Compacted));
    }
    faulty.list_fault(Fault::Meanwhile(Box::new(|store| {
        store.put_unleased(native(2, "comes"), chat("comes"));
        store.compact();
    })));
    chain.settle().await;
    chain.holds(&["comes", "stays"]);
    chain.kept_serving(before, "stays");
    assert_eq!(chain.resyncs(), 1, "one swap, and nothing in between");
}

// Fault 18. The watch of a slow reader at the store itself:
// `a_watch_that_falls_behind_the_history_says_compacted`.
#[tokio::test(start_paused = true)]
async fn who_falls_behind_lists_again_and_nothing_piles_up_for_it_meanwhile() {
    let faulty = Faulty::new(MemoryStore::with_history(64));
    faulty.store.put_unleased(native(0, "stays"), chat("stays"));
    let mut chain = Chain::over(&faulty).await;
    chain.run_for(Duration::from_secs(1)).await;
    let before = chain.published.len();
    for number in 0..10_000 {
        faulty.store.put_unleased(
            native(1, "busy"),
            value("team-a", "busy", "Chat", &format!(r#","created":{number}"#)),
        );
    }
    faulty.store.delete(native(1, "busy"));
    chain.settle().await;
    chain.holds(&["stays"]);
    chain.kept_serving(before, "stays");
    assert_eq!((chain.resyncs(), chain.published.len() - before), (1, 1));
}

// Fault 20. For each backend: `a_change_between_list_and_watch_is_delivered`.
#[tokio::test(start_paused = true)]
async fn what_changes_between_list_and_watch_is_neither_lost_nor_told_twice() {
    let faulty = store_with(&["stays", "leaves"]);
    faulty.list_fault(Fault::Meanwhile(Box::new(|store| {
        store.put_unleased(native(2, "before"), chat("before"));
    })));
    faulty.watch_fault(Fault::Meanwhile(Box::new(|store| {
        store.put_unleased(native(3, "between"), chat("between"));
        store.delete(native(1, "leaves"));
    })));
    let mut chain = Chain::over(&faulty).await;
    chain.run_for(Duration::from_secs(1)).await;
    chain.holds(&["before", "between", "stays"]);
    let updates = |published: &chain::Published| published.batch.updates.len();
    assert_eq!(chain.published.iter().map(updates).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(chain.resyncs(), 0);
}

// Fault 21. That a revision in several of etcd's messages is put together again:
// `fragments_are_delivered_with_the_last_of_them`, and on a real one
// `a_revision_with_several_keys_arrives_whole`.
#[tokio::test(start_paused = true)]
async fn what_one_revision_changes_is_published_whole() {
    let faulty = store_with(&["stays"]);
    let mut chain = Chain::over(&faulty).await;
    let lease = faulty.store.grant(Duration::from_secs(3600)).await.unwrap().id;
    for number in 10..60 {
        let (key, value) = (native(number, "many").into(), chat("many").into());
        faulty.store.put(&key, value, lease).await.unwrap();
    }
    chain.settle().await;
    let before = chain.published.len();
    faulty.store.revoke(lease).await.unwrap();
    chain.settle().await;
    chain.holds(&["stays"]);
    let sizes: Vec<_> = chain.published[before..]
        .iter()
        .map(|published| published.view.instances().count())
        .collect();
    assert_eq!(sizes, [1], "50 are gone at once, or none");
}

// Fault 29.
#[tokio::test(start_paused = true)]
async fn a_models_route_closes_after_the_last_of_its_workers_and_not_before() {
    let faulty = Faulty::new(MemoryStore::new());
    for instance in 0..3 {
        faulty.store.put_unleased(native(instance, "m"), chat("m"));
    }
    let mut chain = Chain::over(&faulty).await;
    let before = chain.published.len();
    for instance in [1, 0] {
        faulty.store.delete(native(instance, "m"));
        chain.settle().await;
    }
    chain.kept_serving(before, "m");
    faulty.store.delete(native(2, "m"));
    chain.settle().await;
    chain.holds(&[]);
    assert_eq!(kinds(&chain.view()), Kinds::NONE);
    assert!(chain.published.last().unwrap().changes.iter().all(|change| !change.open));
}

// Fault 30. The rule: nothing hides anything; the union of the kinds, each asked of those who serve
// it, and the smallest context. `/metrics` counts the models whose entries disagree.
#[tokio::test(start_paused = true)]
async fn entries_that_conflict_hide_nothing_of_each_other_and_are_counted() {
    let faulty = Faulty::new(MemoryStore::new());
    for (instance, kinds, context) in
        [(0, "Chat", 300), (1, "Completions", 100), (2, "Chat | Completions", 200)]
    {
        let fields = format!(
            r#","url":"http://h{instance}","runtime_config":{{"context_length":{context}}}"#
        );
        faulty.store.put_unleased(native(instance, "m"), value("team-a", "m", kinds, &fields));
    }
    let chain = Chain::over(&faulty).await;
    chain.holds(&["m"]);
    let view = chain.view();
    let model = view.model("m").unwrap();
    assert_eq!(model.kinds(), Kinds::from_iter([Kind::Chat, Kind::Completions]));
    assert_eq!(model.context_length(), Some(100));
    assert!(model.disagrees());
    let urls = |kind| {
        let mut urls: Vec<_> = model.urls(kind).map(|url| url.as_str().to_owned()).collect();
        urls.sort_unstable();
        urls
    };
    assert_eq!(urls(Kind::Chat), ["http://h0", "http://h2"]);
    assert_eq!(urls(Kind::Completions), ["http://h1", "http://h2"]);
}

// Fault 31. On a real etcd: the tests of the integration suite in `namespace.rs`.
#[tokio::test(start_paused = true)]
async fn what_is_malformed_is_skipped_and_counted_and_an_invalid_overwrite_removes() {
    let faulty = store_with(&["stays", "spoiled"]);
    let store = &faulty.store;
    let huge = value("team-a", "huge", "Chat", &format!(r#","x":"{}""#, "x".repeat(64 * 1024)));
    let malformed: [(&[u8], &[u8]); 6] = [
        (b"models/\xff\xfe", b"{}"),
        (b"models/flat-1", b"{"),
        (b"models/flat-2", b"\xff\xff"),
        (b"models/flat-3", huge.as_bytes()),
        (b"models/team-a/too/short", b"{}"),
        (b"models/team-a/backend/generate/01/m", b"{}"),
    ];
    for (key, bytes) in malformed {
        store.put_unleased(key, bytes.to_vec());
    }
    let later = value("team-a", "later", "Chat", r#","x":{"y":[1]},"model_input":7"#);
    store.put_unleased(native(9, "later"), later);
    let mut chain = Chain::over(&faulty).await;
    chain.holds(&["later", "spoiled", "stays"]);
    assert_eq!(chain.published[0].batch.refused, malformed.len());

    let before = chain.published.len();
    store.put_unleased(native(1, "spoiled"), "no entry any more");
    chain.settle().await;
    chain.holds(&["later", "stays"]);
    chain.kept_serving(before, "stays");
    let last = &chain.published.last().unwrap().batch;
    assert_eq!(last.refused, 1);
    assert!(matches!(last.updates[..], [ModelUpdate::Removed(_, Gone::Refused)]));
}

// Fault 33.
#[tokio::test(start_paused = true)]
async fn an_entry_that_moves_to_another_namespace_is_gone_and_never_seen_there() {
    let faulty = store_with(&["stays"]);
    let store = &faulty.store;
    store.put_unleased("models/moves", value("team-a", "moves", "Chat", ""));
    let mut chain = Chain::over(&faulty).await;
    let before = chain.published.len();
    for (namespace, listed) in
        [("team-b", false), ("team-a", true), ("team-ab", false), ("Team-A", false)]
    {
        store.put_unleased("models/moves", value(namespace, "secret", "Embedding", ""));
        chain.settle().await;
        assert_eq!(chain.models().contains(&"secret".to_owned()), listed, "{namespace}");
        assert_eq!(chain.view().is_open(Kind::Embedding), listed, "{namespace}");
    }
    // A native key cannot move: it says whose it is.
    store.put_unleased(native(0, "stays"), value("team-b", "stays", "Chat", ""));
    chain.settle().await;
    chain.holds(&[]);
    // N, at every moment.
    for published in &chain.published[before..] {
        for instance in published.view.instances() {
            assert_eq!(instance.endpoint().namespace().as_str(), "team-a");
        }
    }
}

// Fault 42. The deadlines of a registration run on the same monotonic clock.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_drops_nothing() {
    let faulty = store_with(&["m"]);
    let mut chain = Chain::over(&faulty).await;
    for jump in [5, 8, 60, 3_600, 86_400, 30 * 86_400] {
        advance(Duration::from_secs(jump)).await;
        chain.run_for(Duration::from_secs(10)).await;
        chain.holds(&["m"]);
    }
    // While the store is away as well.
    faulty.store.set_available(false);
    faulty.store.disconnect();
    for jump in [1, 3_600, 86_400] {
        advance(Duration::from_secs(jump)).await;
        chain.run_for(Duration::from_secs(10)).await;
    }
    assert!(chain.outages > 0);
    chain.kept_serving(0, "m");
    faulty.store.set_available(true);
    faulty.store.put_unleased(native(1, "late"), chat("late"));
    chain.settle().await;
    chain.holds(&["late", "m"]);
    chain.kept_serving(0, "m");
}

// Fault 44.
#[tokio::test(start_paused = true)]
async fn a_shutdown_during_list_watch_or_back_off_is_over_at_once_and_leaves_no_task() {
    let list = Faulty::new(MemoryStore::new());
    list.list_fault(Fault::Hangs);
    let watch = store_with(&["m"]);
    let silent = store_with(&["m"]);
    silent.watch_fault(Fault::Hangs);
    let away = Faulty::new(MemoryStore::new());
    away.store.set_available(false);
    for (phase, faulty) in
        [("list", list), ("watch", watch), ("silent", silent), ("back-off", away)]
    {
        let store: Arc<dyn WatchStore> = Arc::new(faulty.clone());
        let (events, mut received) = mpsc::channel(1);
        let running = tokio::spawn(run_watcher(WatcherConfig::new(store), events));
        // Until nothing more happens by itself.
        let _ = timeout(Duration::from_millis(5_300), async {
            while received.recv().await.is_some() {}
        })
        .await;
        let asked = Instant::now();
        drop(received);
        running.await.unwrap().unwrap();
        assert!(asked.elapsed() <= Duration::from_secs(1), "{phase}: {:?}", asked.elapsed());
        assert_eq!(faulty.store.open_watches(), 0, "{phase}");
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "{phase}");
        sleep(Duration::from_secs(1)).await;
    }
}

// Fault 46.
#[tokio::test(start_paused = true)]
async fn an_overwrite_of_a_models_only_entry_never_closes_its_route() {
    let faulty = store_with(&["m"]);
    let mut chain = Chain::over(&faulty).await;
    for fields in [r#","created":1"#, r#","url":"http://h1""#, r#","url":"http://h2""#, ""] {
        faulty.store.put_unleased(native(0, "m"), value("team-a", "m", "Chat | Embedding", fields));
        chain.settle().await;
    }
    // Also where the overwrite is found by a list, and where a new key comes for the old one.
    faulty.store.put_unleased(native(1, "m"), chat("m"));
    faulty.store.delete(native(0, "m"));
    faulty.store.compact();
    faulty.store.disconnect();
    chain.settle().await;
    chain.holds(&["m"]);
    for published in &chain.published {
        assert_eq!(models(&published.view), ["m"]);
        assert!(published.view.is_open(Kind::Chat));
    }
}

/// Names that are close to `a`, and ways to write one that are none.
fn near_a() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("global".to_owned()),
        Just(String::new()),
        "[aAbB]{1,2}",
        "a[-_./%: ]{1,2}[ab]?",
        "a/\\.\\./[ab]",
        "(%61|a%2F|%2e|\u{430}|a\u{301}|a\u{200b}|a\0)",
        any::<String>(),
    ]
}

proptest! {
    // Fault 32.
    #[test]
    fn a_scope_sees_what_is_exactly_its_own_however_a_namespace_is_written(
        in_key in near_a(),
        in_value in near_a(),
        flat in any::<bool>(),
        by_list in any::<bool>(),
    ) {
        let key = if flat {
            "models/flat".to_owned()
        } else {
            format!("models/{in_key}/backend/generate/1/m")
        };
        let value = serde_json::json!({
            "name": "m", "model_type": "Chat",
            "endpoint": { "namespace": in_value, "component": "backend", "name": "generate" },
        });
        let mut catalog = Catalog::new(NetworkPrefix::default(), NamespaceScope::Only("a".parse().unwrap()));
        let entry = Entry {
            key: key.into(),
            value: value.to_string().into(),
            mod_revision: Revision(1),
            lease: None,
        };
        let event = if by_list {
            StoreEvent::Resync(dynamo_discovery::Snapshot {
                revision: Revision(1),
                entries: vec![entry],
            })
        } else {
            StoreEvent::Batch(vec![Change::Put(entry)])
        };
        let applied = catalog.apply(event);
        let ours = in_value == "a" && (flat || in_key == "a");
        prop_assert_eq!(catalog.instances().count(), usize::from(ours));
        // What is not ours is told of only where it lies among our own keys.
        let among_ours = !flat && in_key.split('/').next() == Some("a");
        for refused in &applied.refused {
            prop_assert!(among_ours || flat, "{:?}", refused);
            let theirs = refused.namespace.as_ref().is_some_and(|name| name.as_str() != "a");
            prop_assert!(!theirs, "{:?}", refused);
        }
    }
}
