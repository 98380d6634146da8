//! etcd's authentication as operators run it: switched on and off, passwords that change, and one
//! that takes long to check.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::fs;
use std::time::Duration;

use dynamo_discovery::{EtcdStore, KeyRange, WatchStore as _};
use dynamo_tests::invariants::assert_serves;
use dynamo_tests::{Etcd, Load, Network, Program, Users, connected, eventually, lists};
use tokio::time::sleep;

const TEAM_A: [&str; 2] = ["--namespace", "team-a"];

/// Said when there are credentials and etcd knows no users.
const NO_USERS: &str =
    "etcd's authentication is not enabled: going on without our user, until it is";

#[tokio::test]
async fn authentication_is_switched_on_and_off_under_traffic_without_an_outage() {
    let etcd = Etcd::start().await;
    let mut users = Users::prepare(&etcd).await;
    for (name, write) in [("frontend-a", false), ("worker-a", true)] {
        users.add(name).await;
        users.grant(name, "models/", write).await;
    }
    let network = Network::to(etcd.endpoint()).await;
    let user = |name| [("ETCD_AUTH_USERNAME", name), ("ETCD_AUTH_PASSWORD", name)];
    let (frontend, client) =
        Program::frontend(network.endpoint(), &TEAM_A, &user("frontend-a")).await;
    let arguments = [&TEAM_A[..], &["--model", "m", "--lease-ttl", "3"]].concat();
    let worker = Program::registered(etcd.endpoint(), &arguments, &user("worker-a")).await;
    lists(&client, &["m"]).await;
    for program in [&frontend, &worker] {
        assert_eq!(program.says(NO_USERS).await["level"], "WARN");
    }
    let load = Load::on(&client, "m", 2);

    for (registered, switched_on) in [(2, true), (3, false), (4, true)] {
        if switched_on {
            users.switch_on().await
        } else {
            users.switch_off().await
        }
        // A renewal, which must be answered within the lease's time.
        sleep(Duration::from_secs(4)).await;
        assert_eq!(worker.logged("registered").len(), registered - 1);
        // A lease and puts.
        users.end_leases().await;
        worker.says_times("registered", registered).await;
        // A list and a watch.
        network.cut();
        connected(&client, false).await;
        network.heal();
        connected(&client, true).await;
        lists(&client, &["m"]).await;
        assert_serves(&load).await;
    }
    for program in [&frontend, &worker] {
        assert_eq!(program.logged(NO_USERS).len(), 2, "once for each time that it was off");
        assert!(!program.log().iter().any(|line| line.contains("denie")), "{:#?}", program.log());
    }
}

#[tokio::test]
async fn a_password_that_changes_in_its_file_is_taken_up_without_a_restart() {
    let etcd = Etcd::start().await;
    let mut users = Users::enable(&etcd).await;
    users.add("both").await;
    users.grant("both", "models/", true).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "both\n").unwrap();
    let network = Network::to(etcd.endpoint()).await;
    let file = file.to_str().unwrap();
    let user = ["--etcd-username", "both", "--etcd-password-file", file];
    let arguments = [&TEAM_A[..], &user].concat();
    let (_frontend, client) = Program::frontend(network.endpoint(), &arguments, &[]).await;
    let arguments = [&arguments[..], &["--model", "m", "--lease-ttl", "5"]].concat();
    let worker = Program::registered(network.endpoint(), &arguments, &[]).await;
    lists(&client, &["m"]).await;

    // Its tokens end with the old password, and the file is a little late.
    users.change_password("both", "changed").await;
    network.cut();
    connected(&client, false).await;
    network.heal();
    eventually("the old password is refused", async || {
        client.metric("dynamo_frontend_discovery_denied").await == 1.0
    })
    .await;
    fs::write(file, "changed\n").unwrap();
    eventually("the new password is taken", async || {
        client.metric("dynamo_frontend_discovery_denied").await == 0.0
    })
    .await;
    connected(&client, true).await;
    // Longer than the lease lives without a renewal.
    sleep(Duration::from_secs(8)).await;
    assert_eq!(worker.logged("the lease is lost").len(), 0);
    lists(&client, &["m"]).await;
}

#[tokio::test]
async fn a_password_that_takes_longer_to_check_than_a_call_may_take_is_asked_for_once() {
    let etcd = Etcd::start_with(&["--bcrypt-cost", "14"]).await;
    let users = Users::enable(&etcd).await;
    let asked = async || {
        let metrics = reqwest::get(format!("{}/metrics", etcd.endpoint())).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let count = metrics.lines().find(|line| {
            line.starts_with("grpc_server_started_total{grpc_method=\"Authenticate\"")
        });
        count.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap())
    };
    let before = asked().await;
    let config = users.config("root").with_call_timeout(Duration::from_millis(500));
    let store = EtcdStore::new(config).unwrap();
    let range = KeyRange::prefix("models/");
    let error = store.list(&range).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let expected = format!("etcd did not check the password within 500ms at {}", etcd.endpoint());
    assert_eq!(cause, expected);
    // Whoever else calls meanwhile waits for the same answer.
    eventually("let in", async || {
        let (one, other) = tokio::join!(store.list(&range), store.list(&range));
        one.is_ok() && other.is_ok()
    })
    .await;
    assert_eq!(asked().await - before, 1);
}
