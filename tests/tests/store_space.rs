//! What a store holds, and for how long: an etcd without space, keys that were taken out of their lease
//! by hand, and a hundred models that end together.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dynamo_discovery::conformance::{Backend, Fills};
use dynamo_discovery::{EtcdConfig, EtcdStore, LeaseStore, ModelEntry, State, WatchStore};
use dynamo_tests::invariants::assert_serves;
use dynamo_tests::{
    Etcd, Link, Load, Network, Program, Space, create_test_model_entry, eventually, lists,
};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client};
use rustix::process::Signal;
use tokio::time::sleep;

const TEAM_A: [&str; 2] = ["--namespace", "team-a"];

/// What is logged when a worker cannot register.
const NOT_REGISTERED: &str = "cannot register, trying again until it works";

fn worker(endpoint: &str, model: &str, ttl: &str) -> Program {
    let arguments = [&TEAM_A[..], &["--model", model, "--lease-ttl", ttl]].concat();
    Program::worker(endpoint, &arguments, &[])
}

/// SIGTERM, and its exit code.
async fn stop(mut program: Program) -> Option<i32> {
    program.signal(Signal::TERM);
    program.ended().await.0
}

/// An etcd of its own, whose alarm can be raised.
struct Fillable(Etcd);

impl Fillable {
    async fn start() -> Self {
        Self(Etcd::start().await)
    }

    fn store(&self) -> Arc<EtcdStore> {
        Arc::new(EtcdStore::new(EtcdConfig::new([self.0.endpoint()])).unwrap())
    }
}

impl Backend for Fillable {
    fn watch_store(&self) -> Arc<dyn WatchStore> {
        self.store()
    }

    fn lease_store(&self) -> Arc<dyn LeaseStore> {
        self.store()
    }

    fn root(&self) -> &str {
        "conformance/"
    }
}

#[async_trait]
impl Fills for Fillable {
    async fn set_full(&self, full: bool) {
        let operator = Client::connect([self.0.endpoint()], None).await.unwrap();
        let action = if full { AlarmAction::Activate } else { AlarmAction::Deactivate };
        switch_alarm(operator, action).await;
    }
}

/// Raises the alarm of an etcd that has no space, or ends it.
async fn switch_alarm(mut operator: Client, action: AlarmAction) {
    let status = operator.status().await.unwrap();
    let mut member = AlarmOptions::new();
    member.with_member(status.header().unwrap().member_id());
    operator.alarm(action, AlarmType::Nospace, Some(member)).await.unwrap();
}

dynamo_discovery::conformance_tests!(
    space,
    #[tokio::test]
    Fillable::start().await
);

#[tokio::test]
async fn an_etcd_without_space_is_named_once_and_loses_what_is_withdrawn_until_it_has_space_again()
{
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "8388608"]).await;
    let space = Space::of(&etcd).await;
    let (frontend, client) = Program::frontend(etcd.endpoint(), &TEAM_A, &[]).await;
    let staying = worker(etcd.endpoint(), "staying", "3");
    let leaving = worker(etcd.endpoint(), "leaving", "60");
    for worker in [&staying, &leaving] {
        worker.says("registered").await;
    }
    lists(&client, &["leaving", "staying"]).await;
    let load = Load::on(&client, "staying", 2);
    let entry = |name| create_test_model_entry(name, "team-b", "backend", "generate", "Chat");
    let mut registration = space.register(vec![entry("kept"), entry("unloaded")]).await;

    let mut operator = Client::connect([etcd.endpoint()], None).await.unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let full = loop {
        if let Err(error) = operator.put("filling", megabyte.clone(), None).await {
            break error.to_string();
        }
    };
    assert!(full.contains("database space exceeded"), "{full}");
    let late = worker(etcd.endpoint(), "late", "10");
    let said = late.says(NOT_REGISTERED).await;
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("NOSPACE") && error.contains("etcdctl alarm disarm"), "{error}");
    assert_eq!(stop(leaving).await, Some(0));
    registration.update(vec![entry("kept")]).await.unwrap();
    let entries = space.list().await.entries;
    let names: Vec<_> = entries.iter().map(|entry| entry.key.to_string()).collect();
    for (name, stays) in
        [("staying", true), ("leaving", false), ("kept", true), ("unloaded", false)]
    {
        assert_eq!(names.iter().any(|key| key.ends_with(&format!("/{name}"))), stays, "{names:?}");
    }
    lists(&client, &["staying"]).await;
    // Renewals go on, and nobody takes the store for lost.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(staying.logged("registered").len(), 1);
    assert_eq!(late.logged(NOT_REGISTERED).len(), 1);
    for program in [&frontend, &staying, &late] {
        let lost = program.logged("an endpoint of etcd has failed");
        assert_eq!(lost.len(), 0, "{lost:?}");
    }

    etcd.compact().await;
    operator.defragment().await.unwrap();
    switch_alarm(operator, AlarmAction::Deactivate).await;
    late.says("registered").await;
    lists(&client, &["late", "staying"]).await;
    assert_eq!(late.logged(NOT_REGISTERED).len(), 1);
    assert_serves(&load).await;
}

#[tokio::test]
async fn a_key_that_an_operator_put_without_its_lease_ends_with_the_worker_all_the_same() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let (_frontend, client) = Program::frontend(etcd.endpoint(), &TEAM_A, &[]).await;
    let drained = worker(etcd.endpoint(), "m", "3");
    lists(&client, &["m"]).await;
    let entry = space.list().await.entries.pop().unwrap();
    let model = ModelEntry::from_json(&entry.value).unwrap().with_state(State::Draining);
    let mut operator = Client::connect([etcd.endpoint()], None).await.unwrap();
    operator.put(entry.key.as_bytes(), &model.to_json()[..], None).await.unwrap();
    lists(&client, &[]).await;
    let said = "somebody has deleted keys of this worker, or put them without its lease: they are put \
         under it again";
    assert_eq!(drained.says(said).await["level"], "WARN");
    let found = space.list().await.entries.pop().unwrap();
    assert_eq!((found.lease, found.value), (entry.lease, model.to_json()));
    // It stays drained, and is told once.
    sleep(Duration::from_secs(3)).await;
    lists(&client, &[]).await;
    assert_eq!(drained.logged(said).len(), 1);
    drop(drained);
    eventually("the end of the key", async || space.list().await.entries.is_empty()).await;
}

#[tokio::test]
async fn a_hundred_models_are_withdrawn_at_once_from_a_store_that_is_far_away() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let network = Network::to(etcd.endpoint()).await;
    network.set(Link::Slow { delay: Duration::from_millis(30), loss: 0 });
    let names: Vec<_> = (0..100).map(|number| format!("model-{number}")).collect();
    let mut arguments = TEAM_A.to_vec();
    arguments.extend(["--lease-ttl", "60"]);
    arguments.extend(names.iter().flat_map(|name| ["--model", name]));
    let worker = Program::registered(network.endpoint(), &arguments, &[]).await;
    assert_eq!(space.list().await.entries.len(), 100);
    assert_eq!(stop(worker).await, Some(0));
    assert_eq!(space.list().await.entries.len(), 0);
    // All puts, all marks and all deletions are one transaction each.
    let metrics = reqwest::get(format!("{}/metrics", etcd.endpoint())).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let count = metrics
        .lines()
        .find(|line| line.starts_with("grpc_server_started_total{grpc_method=\"Txn\""))
        .unwrap();
    assert!(count.ends_with(" 3"), "{count}");
}
