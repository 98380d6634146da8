//! etcd as operators run it: behind a proxy, a balancer or a narrow line, under a name, while it is
//! defragmented, and while a member is replaced.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_discovery::{EtcdConfig, EtcdStore, WatchStore as _};
use dynamo_tests::invariants::assert_serves;
use dynamo_tests::{Cluster, Etcd, Link, Load, Network, Program, Space, connected, lists};
use serde_json::json;
use tokio::time::sleep;

const TEAM_A: [&str; 2] = ["--namespace", "team-a"];

/// What is logged when the store does not answer.
const STORE_GONE: &str = "store unavailable, retrying; what is known stays in service";

#[tokio::test]
async fn etcds_grpc_proxy_is_refused_by_name_and_lives_on() {
    let etcd = Etcd::start().await;
    let (mut proxy, endpoint) = etcd.start_before(&["grpc-proxy", "start"]).await;
    let (frontend, client) = Program::frontend(&endpoint, &TEAM_A, &[]).await;
    let worker = Program::worker(&endpoint, &[&TEAM_A[..], &["--model", "m"]].concat(), &[]);
    for (program, message) in
        [(&frontend, STORE_GONE), (&worker, "cannot register, trying again until it works")]
    {
        let said = program.says(message).await;
        let error = said["error"].as_str().unwrap();
        let expected = format!("{endpoint}: this is etcd's gRPC proxy");
        assert!(error.contains(&expected) && error.contains("`etcd gateway`"), "{error}");
    }
    assert_eq!(client.get("/ready").await.status, 503);
    assert!(proxy.runs());
    // A member beside it is enough.
    let both = format!("{endpoint},{}", etcd.endpoint());
    let (_frontend, client) = Program::frontend(&both, &TEAM_A, &[]).await;
    let _worker = Program::worker(&both, &[&TEAM_A[..], &["--model", "m"]].concat(), &[]);
    lists(&client, &["m"]).await;
}

#[tokio::test]
async fn through_etcds_gateway_a_quiet_watch_and_a_lease_live() {
    let etcd = Etcd::start().await;
    let (_gateway, endpoint) = etcd.start_before(&["gateway", "start"]).await;
    let (frontend, client) = Program::frontend(&endpoint, &TEAM_A, &[]).await;
    let arguments = [&TEAM_A[..], &["--model", "m", "--lease-ttl", "3"]].concat();
    let worker = Program::registered(&endpoint, &arguments, &[]).await;
    lists(&client, &["m"]).await;
    // Several questions for progress, and several renewals.
    sleep(Duration::from_secs(14)).await;
    assert_eq!(frontend.logged(STORE_GONE).len(), 0);
    assert_eq!(worker.logged("registered").len(), 1);
    lists(&client, &["m"]).await;
}

#[tokio::test]
async fn a_list_over_a_narrow_line_comes_in_smaller_pages_and_their_size_is_remembered() {
    const ENTRIES: usize = 4_000;
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    for number in 0..ENTRIES {
        space.put(&format!("{number:06}"), vec![b'x'; 300]).await;
    }
    let network = Network::to(etcd.endpoint()).await;
    network.set(Link::Narrow(250_000));
    let config = EtcdConfig::new([network.endpoint()]).with_call_timeout(Duration::from_secs(1));
    let store = EtcdStore::new(config).unwrap();
    let range = dynamo_discovery::KeyRange::prefix("models/");
    assert_eq!(store.list(&range).await.unwrap().entries.len(), ENTRIES);
    // Each page that took too long cost a connection.
    let attempts = network.attempts();
    assert!(attempts > 1, "a page of {ENTRIES} came in time: the line is too wide");
    assert_eq!(store.list(&range).await.unwrap().entries.len(), ENTRIES);
    assert_eq!(network.attempts(), attempts, "the second list had to learn it again");
}

#[tokio::test]
async fn a_balancer_that_forgets_idle_connections_costs_no_lease_and_ends_no_watch() {
    let etcd = Etcd::start().await;
    let network = Network::to(etcd.endpoint()).await;
    network.set(Link::Forgetful(Duration::from_secs(5)));
    let (frontend, client) = Program::frontend(network.endpoint(), &TEAM_A, &[]).await;
    // Renewed every 6.7 s: each time the connection is forgotten.
    let arguments = [&TEAM_A[..], &["--model", "m", "--lease-ttl", "20"]].concat();
    let worker = Program::registered(network.endpoint(), &arguments, &[]).await;
    lists(&client, &["m"]).await;
    let before = network.attempts();
    sleep(Duration::from_secs(24)).await;
    assert!(network.attempts() > before, "no connection was forgotten");
    lists(&client, &["m"]).await;
    assert_eq!(worker.logged("registered").len(), 1);
    assert_eq!(worker.logged("the lease is lost").len(), 0);
    assert_eq!(frontend.logged(STORE_GONE).len(), 0);
}

#[tokio::test]
async fn a_defragmentation_ends_no_lease_and_no_request() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    for number in 0..2_000 {
        space.put(&format!("{number:06}"), vec![b'x'; 16 << 10]).await;
    }
    let (_frontend, client) = Program::frontend(etcd.endpoint(), &TEAM_A, &[]).await;
    // etcd answers nothing while it defragments. A slow disk takes over 3 s for these 32 MiB, so the
    // lease is the default one.
    let arguments = [&TEAM_A[..], &["--model", "m"]].concat();
    let worker = Program::registered(etcd.endpoint(), &arguments, &[]).await;
    lists(&client, &["m"]).await;
    let load = Load::on(&client, "m", 2);
    etcd.compact().await;
    for _ in 0..3 {
        etcd.ask("maintenance/defragment", &json!({})).await.unwrap();
        load.flows(50).await;
    }
    assert_eq!(worker.logged("the lease is lost").len(), 0);
    connected(&client, true).await;
    let late = [&TEAM_A[..], &["--model", "late"]].concat();
    let _late = Program::worker(etcd.endpoint(), &late, &[]);
    lists(&client, &["late", "m"]).await;
    assert_serves(&load).await;
}

#[tokio::test]
async fn a_member_that_is_replaced_costs_no_request_and_serves_when_another_one_goes() {
    let mut cluster = Cluster::start().await;
    let endpoints = cluster.endpoints_from(0);
    let (frontend, client) = Program::frontend(&endpoints, &TEAM_A, &[]).await;
    let arguments = [&TEAM_A[..], &["--model", "m"]].concat();
    let worker = Program::registered(&endpoints, &arguments, &[]).await;
    lists(&client, &["m"]).await;
    assert_eq!(frontend.says("etcd answers").await["endpoint"], cluster[0].endpoint());
    let load = Load::on(&client, "m", 2);

    cluster.replace(0).await;
    let moved = frontend.says("moved to another endpoint of etcd").await;
    assert_eq!(moved["from"], cluster[0].endpoint());
    connected(&client, true).await;
    // Without the new member there is no quorum now.
    cluster[1].kill();
    let late = [&TEAM_A[..], &["--model", "late"]].concat();
    let _late = Program::worker(&endpoints, &late, &[]);
    lists(&client, &["late", "m"]).await;
    connected(&client, true).await;
    assert_serves(&load).await;
    assert_eq!(worker.logged("registered").len(), 1);
}
