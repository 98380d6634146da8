//! What breaks, and comes back: workers, etcd, its history, and the network before it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use dynamo_tests::{
    Client, Etcd, Frontend, Load, Network, Program, Space, create_test_model_entry, eventually,
    lists, native_key,
};
use rustix::process::Signal;

/// What is logged when the store goes away.
const STORE_GONE: &str = "store unavailable, retrying; what is known stays in service";

const NAMESPACE: [&str; 2] = ["--namespace", "team-a"];

/// Waits until the front door knows that its store is there, or that it is not.
async fn connected(client: &Client, connected: bool) {
    let wanted = f64::from(u8::from(connected));
    eventually("the store is there or not", async || {
        client.metric("dynamo_frontend_discovery_connected").await == wanted
    })
    .await;
}

/// How often a front door has listed everything again.
async fn resyncs(client: &Client) -> f64 {
    client.metric("dynamo_frontend_discovery_resyncs_total").await
}

/// An entry that stays when nobody is behind it any more.
async fn put_ghost(space: &Space, model: &str) {
    let ghost = create_test_model_entry(model, "team-a", "backend", "generate", "Chat");
    space.put(&native_key(&ghost), ghost.to_json()).await;
}

#[tokio::test]
async fn a_killed_worker_is_gone_after_its_lease_and_fails_no_request_before() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let survivor = space.worker("team-a", "both").await;
    let models = ["--model", "alone", "--model", "both", "--lease-ttl", "2"];
    let worker = Program::worker(etcd.endpoint(), &[&NAMESPACE[..], &models].concat(), &[]);
    lists(&frontend, &["alone", "both"]).await;
    let load = Load::on(&frontend, "both", 2);
    load.flows(20).await;

    worker.signal(Signal::KILL);
    lists(&frontend, &["both"]).await;
    assert_eq!(frontend.chat("alone").await.code(), "model_not_found");
    let asked = survivor.engine.asked();
    load.flows(20).await;
    assert!(survivor.engine.asked() >= asked + 20 - 2, "the survivor has all of it");
    assert_eq!(load.failures(), []);
}

#[tokio::test]
async fn a_worker_that_was_stopped_for_longer_than_its_lease_registers_again() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let arguments = [&NAMESPACE[..], &["--model", "m", "--lease-ttl", "2"]].concat();
    let worker = Program::worker(etcd.endpoint(), &arguments, &[]);
    lists(&frontend, &["m"]).await;
    worker.signal(Signal::STOP);
    lists(&frontend, &[]).await;
    worker.signal(Signal::CONT);
    lists(&frontend, &["m"]).await;
    assert_eq!(frontend.chat("m").await.status, 200);
}

#[tokio::test]
async fn no_request_fails_while_etcd_is_killed_and_restarted_and_what_changes_then_arrives() {
    let mut etcd = Etcd::start().await;
    let (frontend, client) = Program::frontend(etcd.endpoint(), &NAMESPACE, &[]).await;
    let arguments = [&NAMESPACE[..], &["--model", "m", "--lease-ttl", "5"]].concat();
    let worker = Program::worker(etcd.endpoint(), &arguments, &[]);
    lists(&client, &["m"]).await;
    let load = Load::on(&client, "m", 4);
    load.flows(50).await;

    etcd.kill();
    frontend.says(STORE_GONE).await;
    // Longer than the lease.
    worker.says("the lease is lost").await;
    load.flows(50).await;
    assert_eq!(client.get("/ready").await.status, 200);

    etcd.launch().await;
    let _late = Space::of(&etcd).await.worker("team-a", "late").await;
    lists(&client, &["late", "m"]).await;
    assert_eq!(client.chat("late").await.engine().unwrap(), "late");
    eventually("the worker is registered again", async || worker.logged("registered").len() == 2)
        .await;
    load.flows(50).await;
    assert_eq!(load.failures(), []);
    assert_eq!(frontend.logged(STORE_GONE).len(), 1);
}

#[tokio::test]
async fn an_etcd_that_stalls_for_less_than_a_lease_flaps_nothing() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let _worker = space.worker("team-a", "m").await;
    let frontend = space.frontend("team-a").await;
    let load = Load::on(&frontend, "m", 2);
    connected(&frontend, true).await;
    etcd.pause();
    connected(&frontend, false).await;
    load.flows(50).await;
    etcd.resume();
    connected(&frontend, true).await;
    let _late = Space::of(&etcd).await.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    assert_eq!(load.failures(), []);
    assert_eq!(resyncs(&frontend).await, 0.0);
}

#[tokio::test]
async fn what_changes_while_a_frontend_is_cut_off_arrives_without_a_list() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let network = Network::to(etcd.endpoint()).await;
    let _stays = space.worker("team-a", "stays").await;
    let leaves = space.worker("team-a", "leaves").await;
    let frontend = Frontend::start(space.watch_over(network.endpoint(), "team-a")).await;
    lists(&frontend, &["leaves", "stays"]).await;
    let load = Load::on(&frontend, "stays", 2);

    connected(&frontend, true).await;
    network.cut();
    connected(&frontend, false).await;
    leaves.leave().await;
    let _comes = space.worker("team-a", "comes").await;
    load.flows(20).await;
    assert_eq!(frontend.models().await, ["leaves", "stays"], "what was known stands");

    network.heal();
    lists(&frontend, &["comes", "stays"]).await;
    assert_eq!(frontend.chat("comes").await.engine().unwrap(), "comes");
    assert_eq!(load.failures(), []);
    assert_eq!(resyncs(&frontend).await, 0.0);
}

#[tokio::test]
async fn a_compaction_while_a_frontend_is_cut_off_costs_it_one_list_and_no_request() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let network = Network::to(etcd.endpoint()).await;
    let _stays = space.worker("team-a", "stays").await;
    let leaves = space.worker("team-a", "leaves").await;
    let frontend = Frontend::start(space.watch_over(network.endpoint(), "team-a")).await;
    lists(&frontend, &["leaves", "stays"]).await;
    let load = Load::on(&frontend, "stays", 2);

    connected(&frontend, true).await;
    network.cut();
    connected(&frontend, false).await;
    leaves.leave().await;
    let _comes = space.worker("team-a", "comes").await;
    etcd.compact().await;

    network.heal();
    lists(&frontend, &["comes", "stays"]).await;
    let _later = space.worker("team-a", "later").await;
    lists(&frontend, &["comes", "later", "stays"]).await;
    load.flows(20).await;
    assert_eq!(load.failures(), []);
    assert_eq!(resyncs(&frontend).await, 1.0);
}

#[tokio::test]
async fn a_wiped_store_that_begins_again_leaves_no_ghost_and_workers_register_again() {
    let mut etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let arguments = [&NAMESPACE[..], &["--model", "m"]].concat();
    let worker = Program::worker(etcd.endpoint(), &arguments, &[]);
    // So that the new store stays behind for long.
    for _ in 0..100 {
        put_ghost(&space, "ghost").await;
    }
    lists(&frontend, &["ghost", "m"]).await;

    etcd.wipe();
    etcd.launch().await;
    lists(&frontend, &["m"]).await;
    eventually("the worker is registered again", async || worker.logged("registered").len() == 2)
        .await;
    let space = Space::of(&etcd).await;
    assert!(space.revision().await.0 < 100);
    let _late = space.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    assert_eq!(frontend.chat("m").await.status, 200);
}

#[tokio::test]
async fn a_wiped_store_that_has_passed_our_revision_leaves_no_ghost_either() {
    let mut etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let network = Network::to(etcd.endpoint()).await;
    put_ghost(&space, "ghost").await;
    let frontend = Frontend::start(space.watch_over(network.endpoint(), "team-a")).await;
    lists(&frontend, &["ghost"]).await;
    let before = space.revision().await;

    connected(&frontend, true).await;
    network.cut();
    connected(&frontend, false).await;
    etcd.wipe();
    etcd.launch().await;
    // What happens before the old revision is in no watch that would go on from it.
    let space = Space::of(&etcd).await;
    let _early = space.worker("team-a", "early").await;
    while space.revision().await <= before {
        put_ghost(&space, "other").await;
    }
    assert_eq!(frontend.models().await, ["ghost"]);

    network.heal();
    lists(&frontend, &["early", "other"]).await;
    assert_eq!(frontend.chat("early").await.engine().unwrap(), "early");
    assert_eq!(resyncs(&frontend).await, 1.0);
}

#[tokio::test]
async fn without_an_etcd_at_the_start_everyone_waits_says_so_once_and_comes_up_by_itself() {
    let mut etcd = Etcd::prepare();
    let network = Network::to(etcd.endpoint()).await;
    let (frontend, client) = Program::frontend(network.endpoint(), &NAMESPACE, &[]).await;
    let arguments = [&NAMESPACE[..], &["--model", "m"]].concat();
    let worker = Program::worker(network.endpoint(), &arguments, &[]);
    frontend.says(STORE_GONE).await;
    worker.says("cannot register, trying again until it works").await;
    // Both, several times.
    let tried = network.attempts() + 12;
    eventually("they try again", async || network.attempts() >= tried).await;

    assert_eq!(client.get("/live").await.status, 200);
    assert_eq!(client.get("/ready").await.status, 503);
    let answer = client.chat("m").await;
    assert_eq!((answer.status, &*answer.code()), (503, "discovery_not_ready"));

    etcd.launch().await;
    eventually("the route opens", async || client.chat("m").await.status == 200).await;
    assert_eq!(client.get("/ready").await.status, 200);
    assert_eq!(frontend.logged(STORE_GONE).len(), 1);
    assert_eq!(worker.logged("cannot register, trying again until it works").len(), 1);
}
