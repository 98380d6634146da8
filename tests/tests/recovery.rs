//! What breaks, and comes back: workers, etcd, its history, and the network before it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_tests::invariants::{assert_serves, assert_within, registered};
use dynamo_tests::{
    Client, Etcd, Frontend, Load, Network, Program, Space, Worker, connected,
    create_test_model_entry, eventually, lists, native_key,
};
use rustix::process::Signal;
use tokio::time::Instant;

/// What is logged when the store goes away.
const STORE_GONE: &str = "store unavailable, retrying; what is known stays in service";

const NAMESPACE: [&str; 2] = ["--namespace", "team-a"];

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
    assert_eq!(frontend.chat("alone").await.code(), "model_unavailable");
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
    let arguments = [&NAMESPACE[..], &["--model", "m", "--lease-ttl", "10"]].concat();
    let worker = Program::registered(etcd.endpoint(), &arguments, &[]).await;
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
    registered(&worker, 2).await;
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

/// A frontend that is cut off from its etcd, while one worker left and another came.
struct CutOff {
    etcd: Etcd,
    space: Space,
    network: Network,
    frontend: Frontend,
    load: Load,
    _workers: [Worker; 2],
}

impl CutOff {
    async fn set() -> Self {
        let etcd = Etcd::start().await;
        let space = Space::of(&etcd).await;
        let network = Network::to(etcd.endpoint()).await;
        let stays = space.worker("team-a", "stays").await;
        let leaves = space.worker("team-a", "leaves").await;
        let frontend = Frontend::start(space.watch_over(network.endpoint(), "team-a")).await;
        lists(&frontend, &["leaves", "stays"]).await;
        let load = Load::on(&frontend, "stays", 2);
        connected(&frontend, true).await;
        network.cut();
        connected(&frontend, false).await;
        leaves.leave().await;
        let comes = space.worker("team-a", "comes").await;
        Self { etcd, space, network, frontend, load, _workers: [stays, comes] }
    }

    async fn has_all(&self) {
        lists(&self.frontend, &["comes", "stays"]).await;
        assert_eq!(self.frontend.chat("comes").await.engine().unwrap(), "comes");
        self.frontend.witness().agrees(async || self.space.list().await).await;
        self.frontend.witness().assert_kept_order();
        self.frontend.witness().assert_never_empty();
        assert_serves(&self.load).await;
    }
}

#[tokio::test]
async fn what_changes_while_a_frontend_is_cut_off_arrives_without_a_list() {
    let scene = CutOff::set().await;
    scene.load.flows(20).await;
    assert_eq!(scene.frontend.models().await, ["leaves", "stays"], "what was known stands");
    scene.network.heal();
    scene.has_all().await;
    assert_eq!(resyncs(&scene.frontend).await, 0.0);
}

#[tokio::test]
async fn a_compaction_while_a_frontend_is_cut_off_costs_it_one_list_and_no_request() {
    let scene = CutOff::set().await;
    scene.etcd.compact().await;
    scene.network.heal();
    let healed = Instant::now();
    scene.has_all().await;
    assert_within("15, 17", "listed again", Duration::from_secs(2), healed.elapsed());
    // A watch that was canceled stays open and silent: one who did not look would wait for ever.
    let _later = scene.space.worker("team-a", "later").await;
    lists(&scene.frontend, &["comes", "later", "stays"]).await;
    assert_serves(&scene.load).await;
    assert_eq!(resyncs(&scene.frontend).await, 1.0);
}

#[tokio::test]
async fn a_wiped_store_that_begins_again_leaves_no_ghost_and_workers_register_again() {
    let mut etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let arguments = [&NAMESPACE[..], &["--model", "m"]].concat();
    let worker = Program::registered(etcd.endpoint(), &arguments, &[]).await;
    // So that the new store stays behind for long.
    for _ in 0..100 {
        put_ghost(&space, "ghost").await;
    }
    lists(&frontend, &["ghost", "m"]).await;

    etcd.wipe();
    etcd.launch().await;
    let back = Instant::now();
    lists(&frontend, &["m"]).await;
    assert_within("22", "listed again, behind", Duration::from_secs(2), back.elapsed());
    registered(&worker, 2).await;
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
    let healed = Instant::now();
    lists(&frontend, &["early", "other"]).await;
    assert_within("22", "listed again, ahead", Duration::from_secs(2), healed.elapsed());
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
    let back = Instant::now();
    eventually("ready", async || client.get("/ready").await.status == 200).await;
    assert_within("40", "ready after etcd came", Duration::from_secs(1), back.elapsed());
    eventually("the route opens", async || client.chat("m").await.status == 200).await;
    assert_eq!(client.get("/ready").await.status, 200);
    assert_eq!(frontend.logged(STORE_GONE).len(), 1);
    assert_eq!(worker.logged("cannot register, trying again until it works").len(), 1);
}
