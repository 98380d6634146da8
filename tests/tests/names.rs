//! Names that clients ask for, over real workers in etcd: generations come and go, and a team's only
//! worker restarts.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use dynamo_tests::{Program, SharedEtcd, eventually, lists, unique};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn a_restart_of_a_teams_only_worker_ends_none_of_its_requests() {
    let etcd = SharedEtcd::find().await;
    let (namespace, model, alias) = (unique("team"), unique("model"), unique("alias"));
    let serves = ["--namespace", &namespace, "--model", &model, "--drain-grace", "0"];
    let start = || Program::worker(etcd.endpoints(), &serves, &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frontend.yaml");
    let models =
        json!([{ "name": alias, "targets": [{ "model": model, "namespace": namespace }] }]);
    std::fs::write(&path, format!("wait_for_model: 55s\nmodels: {models}\n")).unwrap();
    let config = ["--config", path.to_str().unwrap()];
    let arguments = [&config[..], &["--namespace", &namespace]].concat();
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;

    // Nobody has served the alias yet, and it may come.
    let waiting = tokio::spawn({
        let (client, alias) = (client.clone(), alias.clone());
        async move { client.chat(&alias).await }
    });
    let worker = start();
    assert_eq!(waiting.await.unwrap().status, 200);
    lists(&client, &[&alias, &model]).await;

    worker.signal(Signal::TERM);
    lists(&client, &[]).await;
    let asked = [&model, &alias].map(|name| {
        let (client, name) = (client.clone(), name.clone());
        tokio::spawn(async move { client.chat(&name).await })
    });
    // A model that nobody has had is not waited for; its route is closed.
    assert_eq!(client.chat("nobodys").await.code(), "endpoint_disabled");
    let _again = start();
    for waiting in asked {
        assert_eq!(waiting.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_generation_that_leaves_hands_its_share_to_the_other_and_another_team_sees_nothing() {
    let etcd = SharedEtcd::find().await;
    let (team, other, model) = (unique("team"), unique("other"), unique("model"));
    let generation = |suffix: &str| {
        let variables = [("DYN_NAMESPACE", team.as_str()), ("DYN_NAMESPACE_WORKER_SUFFIX", suffix)];
        Program::worker(etcd.endpoints(), &["--model", &model, "--drain-grace", "0"], &variables)
    };
    let (old, _new) = (generation("0f3c9a1b"), generation("77ab01cd"));
    let _theirs = Program::worker(etcd.endpoints(), &["--namespace", &other, "--model", "n"], &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frontend.yaml");
    let target = |suffix: &str| json!({ "model": model, "namespace": format!("{team}-{suffix}") });
    let alias = |name: &str, targets| json!({ "name": name, "targets": targets });
    let models = json!([
        alias("both", json!([target("0f3c9a1b"), target("77ab01cd")])),
        alias("old", json!([target("0f3c9a1b")])),
    ]);
    std::fs::write(&path, format!("models: {models}\n")).unwrap();
    let config = ["--config", path.to_str().unwrap()];
    let of_team = [&config[..], &["--namespace-prefix", &team]].concat();
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &of_team, &[]).await;
    let of_other = [&config[..], &["--namespace", &other]].concat();
    let (_stranger, stranger) = Program::frontend(etcd.endpoints(), &of_other, &[]).await;
    lists(&client, &["both", &model, "old"]).await;
    lists(&stranger, &["n"]).await;
    for _ in 0..10 {
        assert_eq!(client.chat("both").await.status, 200);
    }
    old.signal(Signal::TERM);
    eventually("the old generation has left", async || {
        let code = client.chat("old").await;
        code.status == 503 && code.code() == "model_unavailable"
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.chat("both").await.status, 200);
    }
    for name in ["both", "old", &model] {
        let (theirs, none) = (stranger.chat(name).await, stranger.chat("nobodys").await);
        assert_eq!(theirs.body.replace(name, "?"), none.body.replace("nobodys", "?"));
        assert_eq!((theirs.status, none.status), (404, 404));
    }
}
