//! A network that loses everything without a word, one direction of it, or a little all the time.
//! Rows 11 to 14 and 26 of the table of faults in docs/testing.md.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_tests::invariants::{assert_serves, assert_within, registered};
use dynamo_tests::{Etcd, Frontend, Link, Load, Network, Program, Space, Worker, connected, lists};
use tokio::time::{Instant, sleep, sleep_until};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An etcd, a worker, and a front door that reaches the store over a network that can fail.
struct Scene {
    _etcd: Etcd,
    space: Space,
    network: Network,
    frontend: Frontend,
    _worker: Worker,
    load: Load,
}

impl Scene {
    async fn set() -> Self {
        let etcd = Etcd::start().await;
        let space = Space::of(&etcd).await;
        let network = Network::to(etcd.endpoint()).await;
        let worker = space.worker("team-a", "m").await;
        let frontend = Frontend::start(space.watch_over(network.endpoint(), "team-a")).await;
        lists(&frontend, &["m"]).await;
        connected(&frontend, true).await;
        let load = Load::on(&frontend, "m", 2);
        Self { _etcd: etcd, space, network, frontend, _worker: worker, load }
    }

    /// Loses the link in this way for a time; what changes meanwhile arrives soon after.
    async fn survives(&self, row: &str, what: &str, link: Link, time: Duration) {
        // A quiet watch: nothing is under way.
        sleep(seconds(1)).await;
        self.network.set(link);
        let lost = Instant::now();
        let noticed = self.frontend.witness().lost_after(lost).await;
        assert_within(row, &format!("{what} is noticed"), seconds(8), noticed - lost);
        let late = self.space.worker("team-a", "late").await;
        sleep_until(lost + time).await;
        assert_serves(&self.load).await;
        assert_eq!(self.frontend.models().await, ["m"], "what was known stands");

        self.network.heal();
        let healed = Instant::now();
        lists(&self.frontend, &["late", "m"]).await;
        assert_within(row, &format!("good after {what}"), seconds(3), healed.elapsed());
        late.leave().await;
        lists(&self.frontend, &["m"]).await;
        self.frontend.witness().agrees(async || self.space.list().await).await;
        self.frontend.witness().assert_kept_order();
        self.frontend.witness().assert_never_empty();
        assert_eq!(self.frontend.witness().lists(), 1, "it resumed, and did not list again");
        assert_serves(&self.load).await;
    }
}

#[tokio::test]
async fn a_network_that_died_without_a_word_is_noticed_and_stops_no_request() {
    let scene = Scene::set().await;
    scene.survives("11", "a dead link", Link::BLACK_HOLE, seconds(12)).await;
    scene.survives("12", "a black hole of 40 s", Link::BLACK_HOLE, seconds(40)).await;
}

#[tokio::test]
async fn a_loss_in_one_direction_is_noticed_like_a_loss_in_both() {
    let scene = Scene::set().await;
    for (what, requests) in [("losing requests", true), ("losing answers", false)] {
        let link = Link::Dark { requests, answers: !requests };
        scene.survives("13", what, link, seconds(15)).await;
    }
}

#[tokio::test]
async fn a_slow_and_lossy_network_causes_no_storm_of_lists() {
    let scene = Scene::set().await;
    scene.network.set(Link::Slow { delay: Duration::from_millis(200), loss: 5 });
    let began = Instant::now();
    let mut turns = 0;
    while began.elapsed() < seconds(30) {
        let comes = scene.space.worker("team-a", "comes").await;
        lists(&scene.frontend, &["comes", "m"]).await;
        comes.leave().await;
        lists(&scene.frontend, &["m"]).await;
        turns += 1;
        sleep(seconds(1)).await;
    }
    let lists = scene.frontend.witness().lists() - 1;
    println!("row 14: {lists} lists in {:.0} s, {turns} turns", began.elapsed().as_secs_f64());
    assert!(lists <= 1, "{lists} lists in half a minute");
    scene.frontend.witness().agrees(async || scene.space.list().await).await;
    scene.frontend.witness().assert_kept_order();
    assert_serves(&scene.load).await;
}

#[tokio::test]
async fn a_quiet_watch_is_not_thrown_out_for_asking_whether_etcd_is_there() {
    let scene = Scene::set().await;
    let quiet = Instant::now();
    sleep(seconds(25)).await;
    let attempts = scene.network.attempts();
    let late = scene.space.worker("team-a", "late").await;
    lists(&scene.frontend, &["late", "m"]).await;
    println!("row 11: quiet for {:.0} s, {attempts} connection", quiet.elapsed().as_secs_f64());
    assert_eq!(attempts, 1, "it had to connect again");
    late.leave().await;
}

#[tokio::test]
async fn a_worker_whose_renewals_get_no_answer_takes_its_lease_for_lost_and_comes_back() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let frontend = space.frontend("team-a").await;
    let network = Network::to(etcd.endpoint()).await;
    let arguments = ["--namespace", "team-a", "--model", "m", "--lease-ttl", "4"];
    let worker = Program::registered(network.endpoint(), &arguments, &[]).await;
    lists(&frontend, &["m"]).await;
    let load = Load::on(&frontend, "m", 2);

    // Renewals arrive and are obeyed; only the worker does not know.
    network.set(Link::Dark { requests: false, answers: true });
    let silent = Instant::now();
    worker.says("the lease is lost").await;
    assert_within("26", "taken for lost, of a lease of 4 s", seconds(4), silent.elapsed());
    assert_serves(&load).await;
    network.heal();
    let healed = Instant::now();
    let again = registered(&worker, 2).await;
    assert_within("26", "registered again", seconds(3), again - healed);
    lists(&frontend, &["m"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_kept_order();
}
