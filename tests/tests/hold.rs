//! Leases that the store loses while their workers live: nothing that answers is taken out of
//! service, and nothing that is dead stays in it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Instant;

use dynamo_tests::{
    Client, Engine, Etcd, Load, Network, Program, Space, becomes, create_test_model_entry,
    eventually, flat_key, lists,
};
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;

/// What is logged when instances are held.
const HELD: &str =
    "vanished from the store, but their workers are there: they are held, and go on serving";

const NAMESPACE: [&str; 2] = ["--namespace", "team-a"];

/// A frontend that holds for longer than any machine takes to register everyone again.
const HOLDING: [&str; 4] = ["--namespace", "team-a", "--hold", "600"];

async fn held(client: &Client) -> f64 {
    client.metric("dynamo_frontend_held_instances").await
}

async fn held_ever(client: &Client) -> f64 {
    client.metric("dynamo_frontend_instances_held_total").await
}

/// How many instances `/health` shows as held, and how many as registered.
async fn shown(client: &Client) -> (usize, usize) {
    let health = client.get("/health").await.json();
    let instances = health["instances"].as_array().unwrap().clone();
    let held = |one: &&Value| one["held"] == true;
    let count = instances.iter().filter(held).count();
    (count, instances.len() - count)
}

/// Ends every lease at once, as a leader does that believes they have expired.
async fn revoke_all(etcd: &Etcd) {
    let leases = etcd.leases().await;
    join_all(leases.iter().map(|lease| etcd.revoke(lease))).await;
}

/// An engine that is registered at a URL of the test's choice.
async fn register_at(space: &Space, model: &str, url: &str) -> dynamo_discovery::Registration {
    let entry = create_test_model_entry(model, "team-a", "backend", "generate", "Chat")
        .with_url(url.parse().unwrap())
        .with_control(url.parse().unwrap());
    space.register(vec![entry]).await
}

#[tokio::test]
async fn fifty_live_leases_that_are_deleted_at_once_fail_no_request() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let (frontend, client) = Program::frontend(etcd.endpoint(), &HOLDING, &[]).await;
    let workers = join_all((0..50).map(|_| space.worker("team-a", "m"))).await;
    becomes("all are known", (0, 50), async || shown(&client).await).await;
    let load = Load::on(&client, "m", 4);
    load.flows(50).await;

    revoke_all(&etcd).await;
    // `/health` shows an instance as held while its worker is still being asked; the counter moves
    // with the answer.
    becomes("all are proven", 50.0, async || held_ever(&client).await).await;
    assert_eq!(shown(&client).await, (50, 0));
    assert_eq!(held(&client).await, 50.0);
    assert_eq!(client.metric("dynamo_frontend_live_instances").await, 0.0);
    assert_eq!(client.models().await, ["m"]);
    load.flows(200).await;
    frontend.says(HELD).await;

    // Their workers register again.
    let space = Space::of(&etcd).await;
    let again = workers.iter().map(|worker| register_at(&space, "m", worker.engine.url()));
    let _again = join_all(again).await;
    becomes("none is held", (0, 50), async || shown(&client).await).await;
    load.flows(50).await;
    assert_eq!(load.failures(), []);
    assert!(frontend.logged("route closed").is_empty(), "no route flaps");
    assert!(frontend.logged(HELD).len() <= 2, "told for the burst and not for each");
}

#[tokio::test]
async fn an_etcd_that_stalls_for_longer_than_a_lease_fails_no_request_and_workers_come_back() {
    let etcd = Etcd::start().await;
    let (frontend, client) = Program::frontend(etcd.endpoint(), &HOLDING, &[]).await;
    let arguments = [&NAMESPACE[..], &["--model", "m", "--lease-ttl", "2"]].concat();
    let workers =
        join_all((0..3).map(|_| Program::registered(etcd.endpoint(), &arguments, &[]))).await;
    becomes("all are known", (0, 3), async || shown(&client).await).await;
    let load = Load::on(&client, "m", 4);
    load.flows(50).await;

    etcd.pause();
    for worker in &workers {
        worker.says("the lease is lost").await;
    }
    load.flows(50).await;
    etcd.resume();
    let resumed = Instant::now();
    for worker in &workers {
        worker.says_times("registered", 2).await;
    }
    println!("all registered again after {:?}", resumed.elapsed());
    becomes("nothing is held any more", (0, 3), async || shown(&client).await).await;
    load.flows(50).await;
    assert_eq!(load.failures(), []);
    assert!(frontend.logged("route closed").is_empty(), "no route flaps");
}

#[tokio::test]
async fn what_a_new_list_does_not_have_is_held_while_it_answers() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let network = Network::to(etcd.endpoint()).await;
    let (frontend, client) = Program::frontend(network.endpoint(), &HOLDING, &[]).await;
    let lost = space.worker("team-a", "lost").await;
    lists(&client, &["lost"]).await;
    let load = Load::on(&client, "lost", 2);

    network.cut();
    eventually("the store is away", async || {
        client.metric("dynamo_frontend_discovery_connected").await == 0.0
    })
    .await;
    revoke_all(&etcd).await;
    let _new = Space::of(&etcd).await.worker("team-a", "new").await;
    etcd.compact().await;
    network.heal();

    lists(&client, &["lost", "new"]).await;
    becomes("it is held", (1, 1), async || shown(&client).await).await;
    load.flows(50).await;
    let again = register_at(&Space::of(&etcd).await, "lost", lost.engine.url()).await;
    becomes("it is registered", (0, 2), async || shown(&client).await).await;
    assert_eq!(load.failures(), []);
    assert!(frontend.logged("route closed").is_empty(), "no route flaps");
    // It was held, and is withdrawn nevertheless.
    again.withdraw().await.unwrap();
    lists(&client, &["new"]).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_with_its_engine_is_gone_after_its_lease_and_not_held() {
    let etcd = Etcd::start().await;
    let (_frontend, client) = Program::frontend(etcd.endpoint(), &NAMESPACE, &[]).await;
    let arguments = [&NAMESPACE[..], &["--model", "m", "--lease-ttl", "2"]].concat();
    let worker = Program::worker(etcd.endpoint(), &arguments, &[]);
    lists(&client, &["m"]).await;
    assert_eq!(client.chat("m").await.status, 200);

    worker.signal(Signal::KILL);
    let killed = Instant::now();
    lists(&client, &[]).await;
    println!("gone after {:?}, with a lease of 2 s", killed.elapsed());
    assert_eq!(held_ever(&client).await, 0.0);
    assert_eq!(client.chat("m").await.code(), "endpoint_disabled");
}

#[tokio::test]
async fn a_held_instance_whose_server_dies_is_dropped() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let (frontend, client) = Program::frontend(etcd.endpoint(), &HOLDING, &[]).await;
    let engine = Engine::start("e").await;
    let network = Network::to(engine.url()).await;
    let _registration = register_at(&space, "m", network.endpoint()).await;
    lists(&client, &["m"]).await;

    revoke_all(&etcd).await;
    eventually("it is held", async || held(&client).await == 1.0).await;
    assert_eq!(client.chat("m").await.status, 200);
    network.cut();
    let died = Instant::now();
    lists(&client, &[]).await;
    println!("dropped {:?} after its server died", died.elapsed());
    frontend.says("nothing is held any more").await;
}

#[tokio::test]
async fn flat_entries_go_at_once_and_so_does_everything_where_holding_is_off() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let (_frontend, client) = Program::frontend(etcd.endpoint(), &NAMESPACE, &[]).await;
    let off = [&NAMESPACE[..], &["--hold", "0"]].concat();
    let (_without, without) = Program::frontend(etcd.endpoint(), &off, &[]).await;
    let engine = Engine::start("e").await;
    let flat = create_test_model_entry("flat", "team-a", "backend", "generate", "Chat")
        .with_url(engine.url().parse().unwrap());
    space.put(&flat_key(), flat.to_json()).await;
    let _registered = space.worker("team-a", "native").await;
    lists(&client, &["flat", "native"]).await;
    lists(&without, &["flat", "native"]).await;

    revoke_all(&etcd).await;
    lists(&without, &[]).await;
    lists(&client, &["native"]).await;
    becomes("it is held", 1.0, async || held_ever(&client).await).await;
    assert_eq!(held_ever(&without).await, 0.0);
}
