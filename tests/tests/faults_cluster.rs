//! Three nodes, of which some die, stall, or were never there. Rows 6 to 10 and 39 of the table of
//! faults in docs/testing.md.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{EtcdConfig, EtcdStore, Key, LeaseStore as _};
use dynamo_tests::invariants::{assert_serves, assert_within, registered};
use dynamo_tests::{
    BlackHole, Cluster, Frontend, Load, Program, REFUSED, Space, UNKNOWN, connected, lists, reaches,
};
use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn worker(endpoints: &str, ttl: &str) -> Program {
    worker_of("m", endpoints, ttl).await
}

async fn worker_of(model: &str, endpoints: &str, ttl: &str) -> Program {
    let arguments = ["--namespace", "team-a", "--model", model, "--lease-ttl", ttl];
    Program::registered(endpoints, &arguments, &[]).await
}

/// Several who write all the time, and again soon when it fails.
struct Writer {
    written: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Writer {
    async fn start(endpoints: &str, writers: usize) -> Self {
        let config = EtcdConfig::new(endpoints.split(','));
        let store = Arc::new(EtcdStore::new(config).unwrap());
        let lease = store.grant(seconds(300)).await.unwrap().id;
        let written = Arc::<AtomicU64>::default();
        let mut tasks = JoinSet::new();
        for number in 0..writers {
            let (store, count) = (Arc::clone(&store), Arc::clone(&written));
            tasks.spawn(async move {
                let key = Key::from(format!("elsewhere/{number}"));
                loop {
                    match store.put(&key, Bytes::from_static(b"x"), lease).await {
                        Ok(()) => drop(count.fetch_add(1, Ordering::SeqCst)),
                        Err(_) => sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        Self { written, _tasks: tasks }
    }

    /// Waits until several more were written: some may still have been under way.
    async fn writes(&self) {
        let enough = self.written.load(Ordering::SeqCst) + 50;
        reaches("writes", enough, async || self.written.load(Ordering::SeqCst)).await;
    }
}

#[tokio::test]
async fn a_killed_leader_stops_writes_for_3_seconds_at_most() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader(&[]).await;
    // The one that is used is another: its leader goes, and it stays.
    let endpoints = cluster.endpoints_from(cluster.after(leader));
    let space = Space::at(&endpoints).await;
    let frontend = space.frontend("team-a").await;
    // Longer than any machine takes to elect a leader.
    let worker = worker(&endpoints, "60").await;
    lists(&frontend, &["m"]).await;
    let load = Load::on(&frontend, "m", 2);
    let writer = Writer::start(&endpoints, 1).await;
    writer.writes().await;

    cluster[leader].kill();
    let killed = Instant::now();
    writer.writes().await;
    assert_within("7", "writes are back", seconds(3), killed.elapsed());
    drop(writer);
    let _late = space.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_kept_order();
    frontend.witness().assert_nothing_removed();
    assert_serves(&load).await;
    assert_eq!(worker.logged("the lease is lost").len(), 0);
}

#[tokio::test]
async fn when_the_node_with_our_watch_dies_another_one_has_it_2_seconds_later() {
    let mut cluster = Cluster::start().await;
    // The first time a follower dies, and then the leader.
    let leader = cluster.leader(&[]).await;
    let follower = cluster.after(leader);
    for (what, victim) in [("a follower", follower), ("the leader", leader)] {
        let space = Space::at(&cluster.endpoints_from(cluster.after(victim))).await;
        let stays = space.worker("team-a", "stays").await;
        let watched = space.watch_over(&cluster.endpoints_from(victim), "team-a");
        let frontend = Frontend::start(watched).await.ready().await;
        connected(&frontend, true).await;

        cluster[victim].kill();
        let killed = Instant::now();
        let again = frontend.witness().resumed_after(killed).await;
        assert_within("8", &format!("watching again, {what} died"), seconds(2), again - killed);
        let _late = space.worker("team-a", "late").await;
        lists(&frontend, &["late", "stays"]).await;
        frontend.witness().agrees(async || space.list().await).await;
        frontend.witness().assert_kept_order();
        frontend.witness().assert_nothing_removed();
        assert_eq!(frontend.witness().lists(), 1, "it resumed, and did not list again");
        cluster[victim].launch().await;
        stays.leave().await;
    }
}

#[tokio::test]
async fn a_lease_survives_a_stalled_node_be_it_the_leader() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader(&[]).await;
    let space = Space::at(&cluster.endpoints_from(leader)).await;
    let frontend = space.frontend("team-a").await;
    for (what, stalled) in [("a follower", cluster.after(leader)), ("the leader", leader)] {
        // Both begin with the node that will stall.
        let endpoints = cluster.endpoints_from(stalled);
        // The stall is noticed within 8 s; a slow machine takes its time for what comes then.
        let worker = worker(&endpoints, "20").await;
        lists(&frontend, &["m"]).await;
        let watched = space.watch_over(&endpoints, "team-a");
        let watcher = Frontend::start(watched).await.ready().await;
        connected(&watcher, true).await;
        let load = Load::on(&watcher, "m", 2);

        cluster[stalled].pause();
        let paused = Instant::now();
        let again = watcher.witness().resumed_after(paused).await;
        // The loss is noticed within 8 s, and another node is there after at most 2 more.
        assert_within("9", &format!("watching again, {what} stalled"), seconds(10), again - paused);
        // Longer than the lease lives: without a renewal it would be over.
        sleep_until(paused + seconds(23)).await;
        assert_eq!(worker.logged("the lease is lost").len(), 0, "the lease survives");
        assert_eq!(worker.logged("registered").len(), 1);
        watcher.witness().agrees(async || space.list().await).await;
        watcher.witness().assert_kept_order();
        watcher.witness().assert_nothing_removed();
        assert_serves(&load).await;
        // What a leader does that was stalled for so long is another matter.
        cluster[stalled].resume();
        worker.signal(Signal::TERM);
        worker.says("withdrawn").await;
        lists(&frontend, &[]).await;
    }
}

/// Releases before 3.4.31 let it happen, if the leader has much to do when it goes on; on later ones
/// nothing vanishes, and the rest must hold all the same.
#[tokio::test]
async fn workers_whose_leases_a_stale_leader_revokes_register_again() {
    const WORKERS: usize = 6;
    let cluster = Cluster::start().await;
    let mut rounds = 0..2;
    let space = Space::at(&cluster.endpoints_from(0)).await;
    let frontend = space.frontend("team-a").await;
    let models: Vec<_> = (0..WORKERS).map(|number| format!("m{number}")).collect();
    let models: Vec<_> = models.iter().map(String::as_str).collect();
    let endpoints = cluster.endpoints_from(0);
    let workers = join_all(models.iter().map(|model| worker_of(model, &endpoints, "5"))).await;
    lists(&frontend, &models).await;
    let lost =
        || workers.iter().map(|worker| worker.logged("the lease is lost").len()).sum::<usize>();
    while lost() == 0 && rounds.next().is_some() {
        let leader = cluster.leader(&[]).await;
        // One is under way at the leader itself when it stalls.
        let at_the_leader = Writer::start(cluster[leader].endpoint(), 64).await;
        let elsewhere = Writer::start(&cluster.endpoints_from(cluster.after(leader)), 16).await;
        at_the_leader.writes().await;
        // It knows nothing of the renewals from here on.
        cluster[leader].pause();
        cluster.leader(&[leader]).await;
        elsewhere.writes().await;
        sleep(seconds(10)).await;
        cluster[leader].resume();
        let resumed = Instant::now();
        elsewhere.writes().await;
        // Each renews at least once: then it knows whether its lease is gone.
        let mut missing = resumed;
        while resumed.elapsed() < seconds(4) {
            let count = |what| workers.iter().map(|it| it.logged(what).len()).sum::<usize>();
            if count("registered") < count("the lease is lost") + WORKERS {
                missing = Instant::now();
            }
            sleep(Duration::from_millis(20)).await;
        }
        drop((at_the_leader, elsewhere));
        println!("row 6: {} of {WORKERS} leases were revoked", lost());
        assert_within("6", "all registered", seconds(5) / 3 + seconds(2), missing - resumed);
    }
    lists(&frontend, &models).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_kept_order();
}

#[tokio::test]
async fn a_lost_quorum_is_noticed_within_5_seconds_and_stops_no_request() {
    let mut cluster = Cluster::start().await;
    let endpoints = cluster.endpoints_from(0);
    let space = Space::at(&endpoints).await;
    let frontend = space.frontend("team-a").await;
    let worker = worker(&endpoints, "10").await;
    lists(&frontend, &["m"]).await;
    let load = Load::on(&frontend, "m", 2);
    connected(&frontend, true).await;

    cluster[1].kill();
    cluster[2].kill();
    let killed = Instant::now();
    let noticed = frontend.witness().lost_after(killed).await;
    assert_within("10", "noticed", seconds(5), noticed - killed);
    sleep_until(killed + seconds(30)).await;
    assert_serves(&load).await;
    frontend.witness().assert_nothing_removed();
    assert_eq!(frontend.get("/ready").await.status, 200);

    let healing = Instant::now();
    cluster[1].spawn();
    cluster[2].spawn();
    cluster.leader(&[]).await;
    let healed = Instant::now();
    // The frontend may well find the leader before we do.
    let again = frontend.witness().resumed_after(healing).await.saturating_duration_since(healed);
    assert_within("10", "watching again after the quorum is back", seconds(3), again);
    registered(&worker, 2).await;
    lists(&frontend, &["m"]).await;
    let _late = Space::at(&endpoints).await.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_kept_order();
    frontend.witness().assert_never_empty();
    assert_serves(&load).await;
}

#[tokio::test]
async fn endpoints_that_are_not_there_hold_up_no_start_in_whatever_order() {
    let cluster = Cluster::start().await;
    let (good, hole) = (cluster[0].endpoint(), BlackHole::open().await);
    let space = Space::at(good).await;
    let _worker = space.worker("team-a", "m").await;
    for (what, bad) in [
        ("refused", vec![REFUSED]),
        ("a black hole", vec![hole.endpoint()]),
        ("unknown", vec![UNKNOWN]),
        ("two black holes", vec![hole.endpoint(), hole.endpoint()]),
        ("all three", vec![UNKNOWN, hole.endpoint(), REFUSED]),
    ] {
        let endpoints = [&bad[..], &[good]].concat().join(",");
        let started = Instant::now();
        let frontend = Frontend::start(space.watch_over(&endpoints, "team-a")).await.ready().await;
        let what = format!("ready, the first endpoint is {what}");
        assert_within("39", &what, seconds(2), started.elapsed());
        lists(&frontend, &["m"]).await;
    }
}

#[tokio::test]
async fn the_last_node_standing_is_found_among_endpoints_that_never_were() {
    let mut cluster = Cluster::start().await;
    let hole = BlackHole::open().await;
    let (first, second) = (cluster[0].endpoint().to_owned(), cluster[1].endpoint().to_owned());
    let endpoints = [&*first, UNKNOWN, hole.endpoint(), REFUSED, &*second].join(",");
    let space = Space::at(cluster[2].endpoint()).await;
    let _worker = space.worker("team-a", "m").await;
    let frontend = Frontend::start(space.watch_over(&endpoints, "team-a")).await.ready().await;
    connected(&frontend, true).await;

    cluster[0].kill();
    let killed = Instant::now();
    let again = frontend.witness().resumed_after(killed).await;
    assert_within("8", "watching again, past three bad endpoints", seconds(2), again - killed);
    let _late = space.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    assert_eq!(frontend.witness().lists(), 1);
}
