//! Frontends that restart while etcd is away, with a state file.
//! Row 45 of the table of faults in docs/testing.md.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::path::Path;

use dynamo_tests::{Client, Etcd, Program, Space, eventually, lists};
use rustix::process::Signal;

async fn frontend(etcd: &Etcd, namespace: &str, file: &Path) -> (Program, Client) {
    let file = file.to_str().unwrap();
    let arguments = ["--namespace", namespace, "--state-file", file, "--drain-grace", "0"];
    Program::frontend(etcd.endpoint(), &arguments, &[]).await
}

async fn stop(mut frontend: Program) {
    frontend.signal(Signal::TERM);
    assert_eq!(frontend.ended().await.0, Some(0));
}

async fn keeps(file: &Path, models: usize) {
    eventually("the file holds what was said", async || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"key\"")).count() == models
    })
    .await;
}

#[tokio::test]
async fn a_frontend_that_restarts_while_etcd_is_away_serves_what_it_knew_and_still_answers() {
    let mut etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let _stays = space.worker("team-a", "stays").await;
    let _theirs = space.worker("team-b", "theirs").await;
    let leaves = space.worker("team-a", "leaves").await;
    let dead = space.worker("team-a", "dead").await;

    let (first, client) = frontend(&etcd, "team-a", &file).await;
    lists(&client, &["dead", "leaves", "stays"]).await;
    keeps(&file, 3).await;
    assert!(!std::fs::read_to_string(&file).unwrap().contains("theirs"));
    stop(first).await;

    let still_there = leaves.leave().await;
    dead.engine.stop().await;
    etcd.kill();
    let (again, client) = frontend(&etcd, "team-a", &file).await;
    eventually("ready without etcd", async || client.get("/ready").await.status == 200).await;
    assert_eq!(client.models().await, ["leaves", "stays"]);
    assert_eq!(client.chat("stays").await.engine().unwrap(), "stays");
    assert_eq!(client.chat("dead").await.status, 404);
    let source = &client.get("/health").await.json()["discovery"][0];
    assert_eq!((&source["synced"], &source["remembered"]), (&false.into(), &2.into()));
    let metric = "dynamo_frontend_discovery_remembered_instances";
    assert_eq!(client.metric(metric).await, 2.0);
    let message = "the source has not answered yet: what an earlier run knew of it serves";
    again.says_once(message).await;

    // A frontend of another scope has no use for this file, and leaves it alone.
    let (foreign, stranger) = frontend(&etcd, "team-b", &file).await;
    let line = foreign.says("another frontend's state file is neither used nor written").await;
    assert_eq!(line["error"], "it is of another scope: \"team-a\", and not \"team-b\"");
    assert_eq!(stranger.get("/ready").await.status, 503);
    assert_eq!(stranger.models().await, [""; 0]);

    let asked = still_there.asked();
    etcd.launch().await;
    // Its first answer is the truth: what left meanwhile is not held, though it answers.
    lists(&client, &["dead", "stays"]).await;
    assert_eq!(client.chat("leaves").await.code(), "model_unavailable");
    assert_eq!(still_there.asked(), asked);
    assert_eq!(client.metric(metric).await, 0.0);
    let _late = space.worker("team-a", "late").await;
    lists(&client, &["dead", "late", "stays"]).await;
    keeps(&file, 3).await;
    assert_eq!(client.get("/ready").await.status, 200);
    lists(&stranger, &["theirs"]).await;
    assert!(!std::fs::read_to_string(&file).unwrap().contains("theirs"));
    drop(foreign);
}

#[tokio::test]
async fn a_file_that_is_torn_costs_one_line_and_is_made_good() {
    let etcd = Etcd::start().await;
    let space = Space::of(&etcd).await;
    let _worker = space.worker("team-a", "m").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let (first, client) = frontend(&etcd, "team-a", &file).await;
    lists(&client, &["m"]).await;
    keeps(&file, 1).await;
    stop(first).await;
    let good = std::fs::read(&file).unwrap();

    std::fs::write(&file, &good[..good.len() - 20]).unwrap();
    let (again, client) = frontend(&etcd, "team-a", &file).await;
    lists(&client, &["m"]).await;
    assert_eq!(client.chat("m").await.status, 200);
    let refused = again.says_once("the state file is not used").await;
    assert_eq!(refused["error"], "it is torn: its checksum is missing or wrong");
    eventually("the file is whole", async || std::fs::read(&file).unwrap().len() == good.len())
        .await;
    stop(again).await;
    let (third, client) = frontend(&etcd, "team-a", &file).await;
    lists(&client, &["m"]).await;
    assert_eq!(third.says_once("state file read").await["instances"], 1);
}
