//! Three nodes in containers, and real partitions: rows 7 to 10 of the table of faults in
//! docs/testing.md once more, on a network that is a network.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_tests::invariants::{assert_serves, assert_within};
use dynamo_tests::{ComposeCluster, Frontend, Load, Program, Space, connected, lists};
use tokio::time::{Instant, sleep_until};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a node of the cluster suffers.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It has no peers, and is there for us.
    Cut,
    /// It does nothing.
    Paused,
    /// It is gone, without a word.
    Gone,
}

#[tokio::test]
async fn a_node_with_our_watch_that_is_partitioned_stalled_or_gone_costs_no_lease_and_no_request() {
    let cluster = ComposeCluster::up().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    // The last one does not come back, so it comes last.
    for (fault, node, noticed_within) in [
        (Fault::Cut, follower, seconds(5)),
        (Fault::Paused, follower, seconds(8)),
        (Fault::Cut, leader, seconds(5)),
        (Fault::Gone, leader, seconds(8)),
    ] {
        let what = format!("{fault:?} n{node}");
        cluster.settles().await;
        let space = Space::at(&cluster.endpoints_from((node + 1) % 3)).await;
        let endpoints = cluster.endpoints_from(node);
        let arguments = ["--namespace", "team-a", "--model", "m", "--lease-ttl", "10"];
        let mut worker = Program::registered(&endpoints, &arguments, &[]).await;
        let watched = space.watch_over(&endpoints, "team-a");
        let frontend = Frontend::start(watched).await.ready().await;
        lists(&frontend, &["m"]).await;
        connected(&frontend, true).await;
        let load = Load::on(&frontend, "m", 2);

        let began = Instant::now();
        match fault {
            Fault::Cut => cluster.cut_from_peers(node).await,
            Fault::Paused => cluster.pause(node).await,
            Fault::Gone => cluster.cut_off(node).await,
        }
        let noticed = frontend.witness().lost_after(began).await;
        assert_within("8, 10", &format!("{what}: noticed"), noticed_within, noticed - began);
        let again = frontend.witness().resumed_after(noticed).await;
        assert_within("8", &format!("{what}: watching again"), seconds(2), again - noticed);
        // Longer than a lease lives.
        sleep_until(began + seconds(12)).await;
        let late = space.worker("team-a", "late").await;
        lists(&frontend, &["late", "m"]).await;
        frontend.witness().agrees(async || space.list().await).await;
        frontend.witness().assert_kept_order();
        frontend.witness().assert_nothing_removed();
        assert_serves(&load).await;
        assert_eq!(worker.logged("the lease is lost").len(), 0, "{what}");
        assert_eq!(frontend.witness().lists(), 1, "{what}");
        late.leave().await;
        worker.signal(rustix::process::Signal::TERM);
        worker.ended().await;

        match fault {
            Fault::Cut => cluster.join_peers(node).await,
            Fault::Paused => cluster.resume(node).await,
            Fault::Gone => {}
        }
    }
}
