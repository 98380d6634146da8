//! More changes at once than anyone expects.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dynamo_tests::invariants::assert_within;
use dynamo_tests::{Etcd, Space, create_test_model_entry, reaches};
use etcd_client::{Client, Txn, TxnOp};

const KEYS: usize = 500;
const PUTS: usize = 32_000;
/// As many as etcd takes in one transaction.
const AT_ONCE: usize = 128;

// Fault 35 of `docs/testing.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_32_000_puts_arrives_whole_and_soon() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();

    let mut last = BTreeMap::new();
    let mut puts = Vec::new();
    for number in 0..PUTS {
        let model = format!("m{:03}", number % KEYS);
        // Every eighth is a neighbour's.
        let namespace = if number % 8 == 7 { "team-b" } else { "team-a" };
        let created = number as u64;
        let entry = create_test_model_entry(&model, namespace, "backend", "generate", "Chat")
            .with_created(created);
        let key = format!("{}{namespace}/backend/generate/1/{model}", space.root());
        if namespace == "team-a" {
            last.insert(model, created);
        }
        puts.push(TxnOp::put(key, entry.to_json().to_vec(), None));
    }
    let began = Instant::now();
    while !puts.is_empty() {
        let rest = puts.split_off(puts.len().min(AT_ONCE));
        // A transaction may put a key once.
        client.txn(Txn::new().and_then(std::mem::replace(&mut puts, rest))).await.unwrap();
    }
    let (stored, ended) = (began.elapsed(), Instant::now());

    // It grows with every put that is seen.
    reaches("the puts that are seen", last.values().sum(), async || {
        let view = frontend.view();
        let created = |model: &String| view.model(model)?.instances()[0].entry().created();
        last.keys().filter_map(created).sum()
    })
    .await;
    let lag = ended.elapsed();
    assert_within("35", "behind the last put", Duration::from_secs(5), lag);
    let view = frontend.view();
    assert!(view.models().map(|model| model.name()).eq(last.keys().map(String::as_str)));
    assert_eq!(frontend.metric("dynamo_frontend_discovery_resyncs_total").await, 0.0);
    println!("{PUTS} puts in {stored:?}");
}
