//! One etcd that is killed, stalled, restored or missing, and workers and frontends that sleep.
//! Rows 1 to 5, 22, 27 and 41 of the table of faults in docs/testing.md; others are in recovery.rs.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_tests::invariants::{assert_serves, assert_within, registered};
use dynamo_tests::{
    Etcd, Load, Program, Space, connected, create_test_model_entry, eventually, lists, native_key,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn worker(etcd: &Etcd, ttl: &str) -> Program {
    let arguments = ["--namespace", "team-a", "--model", "m", "--lease-ttl", ttl];
    Program::registered(etcd.endpoint(), &arguments, &[]).await
}

/// An etcd, a worker of its program, a front door, and requests that flow.
struct Scene {
    etcd: Etcd,
    space: Space,
    frontend: dynamo_tests::Frontend,
    worker: Program,
    load: Load,
}

impl Scene {
    async fn set(ttl: &str) -> Self {
        let etcd = Etcd::start().await;
        let space = Space::of(&etcd).await;
        let frontend = space.frontend("team-a").await;
        let worker = worker(&etcd, ttl).await;
        lists(&frontend, &["m"]).await;
        connected(&frontend, true).await;
        let load = Load::on(&frontend, "m", 2);
        Self { etcd, space, frontend, worker, load }
    }

    /// L, M, N and S, and that changes arrive again.
    async fn is_as_before(&self) {
        let late = self.space.worker("team-a", "late").await;
        lists(&self.frontend, &["late", "m"]).await;
        late.leave().await;
        lists(&self.frontend, &["m"]).await;
        self.frontend.witness().agrees(async || self.space.list().await).await;
        self.frontend.witness().assert_kept_order();
        self.frontend.witness().assert_never_empty();
        assert_serves(&self.load).await;
    }
}

#[tokio::test]
async fn a_killed_and_a_terminated_etcd_cost_nothing_but_the_time_that_they_are_away() {
    // Longer than etcd is away on any machine.
    let mut scene = Scene::set("60").await;
    let lists_before = scene.frontend.witness().lists();
    for (row, terminated) in [("1", false), ("2", true)] {
        if terminated {
            scene.etcd.terminate().await;
        } else {
            scene.etcd.kill();
        }
        let away = Instant::now();
        scene.frontend.witness().lost_after(away - seconds(1)).await;
        sleep(seconds(2)).await;
        scene.etcd.launch().await;
        let back = Instant::now();
        let resumed = scene.frontend.witness().resumed_after(away).await;
        let took = resumed.saturating_duration_since(back);
        assert_within(row, "watching again after etcd answers", seconds(2), took);
        assert_eq!(scene.frontend.witness().lists(), lists_before, "it resumed");
        scene.is_as_before().await;
    }
    assert_eq!(scene.worker.logged("the lease is lost").len(), 0);
}

#[tokio::test]
async fn an_etcd_that_is_away_for_three_leases_removes_nothing() {
    // The old lease comes back with its whole time: in that, the worker has to register again.
    let mut scene = Scene::set("6").await;
    scene.etcd.kill();
    scene.worker.says("the lease is lost").await;
    sleep(seconds(12)).await;
    assert_serves(&scene.load).await;
    scene.etcd.launch().await;
    let back = Instant::now();
    let again = registered(&scene.worker, 2).await;
    assert_within("3", "registered again after etcd answers", seconds(2), again - back);
    // The old lease came back with its whole time, and ends now without taking the entry along.
    eventually("the old lease ends", async || scene.etcd.leases().await.len() <= 2).await;
    scene.frontend.witness().assert_nothing_removed();
    scene.is_as_before().await;
}

#[tokio::test]
async fn an_etcd_that_stalls_for_longer_than_a_lease_has_the_workers_back_soon() {
    let scene = Scene::set("3").await;
    scene.etcd.pause();
    sleep(seconds(5)).await;
    scene.etcd.resume();
    let resumed = Instant::now();
    let again = registered(&scene.worker, 2).await;
    assert_within("5", "registered again", seconds(1) + seconds(2), again - resumed);
    lists(&scene.frontend, &["m"]).await;
    scene.frontend.witness().agrees(async || scene.space.list().await).await;
    scene.frontend.witness().assert_kept_order();
}

#[tokio::test]
async fn a_store_restored_from_a_backup_is_noticed_though_its_old_keys_are_the_same() {
    let mut etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let _stays = space.worker("team-a", "stays").await;
    etcd.kill();
    etcd.save();
    etcd.launch().await;
    let frontend = space.frontend("team-a").await;
    let ghost = create_test_model_entry("ghost", "team-a", "backend", "generate", "Chat");
    for _ in 0..20 {
        space.put(&native_key(&ghost), ghost.to_json()).await;
    }
    lists(&frontend, &["ghost", "stays"]).await;
    let load = Load::on(&frontend, "stays", 2);
    connected(&frontend, true).await;

    etcd.restore();
    etcd.launch().await;
    let back = Instant::now();
    lists(&frontend, &["stays"]).await;
    assert_within("22", "listed again after a restore", seconds(2), back.elapsed());
    let _late = space.worker("team-a", "late").await;
    lists(&frontend, &["late", "stays"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    assert_serves(&load).await;
}

#[tokio::test]
async fn a_worker_whose_lease_was_ended_by_another_registers_again() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let others = etcd.leases().await;
    let worker = worker(&etcd, "3").await;
    lists(&frontend, &["m"]).await;
    let leases = etcd.leases().await;
    let lease = leases.iter().find(|lease| !others.contains(lease)).unwrap();
    etcd.revoke(lease).await;
    let revoked = Instant::now();
    let again = registered(&worker, 2).await;
    assert_within("27", "registered under a new lease", seconds(3), again - revoked);
    lists(&frontend, &["m"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_kept_order();
}

#[tokio::test]
async fn a_frontend_that_slept_serves_what_it_knew_and_soon_knows_the_rest() {
    for compacted in [false, true] {
        let etcd = Etcd::start().await;
        let space = Space::of(&etcd).await;
        let stays = space.worker("team-a", "stays").await;
        let leaves = space.worker("team-a", "leaves").await;
        let (frontend, client) =
            Program::frontend(etcd.endpoint(), &["--namespace", "team-a"], &[]).await;
        lists(&client, &["leaves", "stays"]).await;

        frontend.signal(Signal::STOP);
        // With its server: a frontend that has to list again cannot tell a withdrawal from a lost
        // lease, and would hold what still answers.
        leaves.leave().await.stop().await;
        let _comes = space.worker("team-a", "comes").await;
        if compacted {
            etcd.compact().await;
        }
        sleep(seconds(if compacted { 12 } else { 30 })).await;
        frontend.signal(Signal::CONT);
        let woken = Instant::now();
        assert_eq!(client.get("/ready").await.status, 200);
        assert_eq!(client.chat("stays").await.status, 200);
        lists(&client, &["comes", "stays"]).await;
        assert_within("41", "current again", seconds(8), woken.elapsed());
        let _late = space.worker("team-a", "late").await;
        lists(&client, &["comes", "late", "stays"]).await;
        assert_eq!(client.get("/ready").await.status, 200);
        drop(stays);
    }
}
