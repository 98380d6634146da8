//! The configuration file of the real programs: read, followed, checked and shown.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use dynamo_tests::{Program, SharedEtcd, eventually, lists, unique};
use serde_json::{Value, json};

/// A new key, and its hash.
async fn new_key() -> (String, String) {
    let mut made = Program::start("dynamo-frontend", &["hash-key", "--generate"], &[]);
    let (_, printed) = made.ended().await;
    let (key, hash) = printed.trim_end().split_once('\n').unwrap();
    (key.to_owned(), hash.to_owned())
}

#[tokio::test]
async fn keys_and_logs_of_the_file_follow_it_and_a_broken_file_changes_nothing() {
    let etcd = SharedEtcd::find().await;
    let (namespace, model) = (unique("config"), unique("model"));
    let serves = ["--namespace", &namespace, "--model", &model];
    let _worker = Program::worker(etcd.endpoints(), &serves, &[]);
    let [(first, first_hash), (second, second_hash)] = [new_key().await, new_key().await];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frontend.yaml");
    let write = |hashes: &[&String], more: &str| {
        let key = |(number, hash): (usize, &&String)| json!({"name": format!("k{number}"), "hash": hash, "namespace": namespace});
        let keys: Vec<Value> = hashes.iter().enumerate().map(key).collect();
        // JSON is YAML.
        let text = format!("namespace: {namespace}\nkeys: {}\n{more}\n", json!(keys));
        std::fs::write(&path, text).unwrap();
    };
    write(&[&first_hash], "log: warn,dynamo_cli=info");
    let arguments = ["--config", path.to_str().unwrap(), "--admin-port", "0"];
    // The file says what is logged, which the harness else does by a variable.
    let (frontend, client) =
        Program::frontend(etcd.endpoints(), &arguments, &[("DYN_LOG", "")]).await;
    let [one, other] = [&first, &second].map(|key| client.with_key(key));
    lists(&one, &[&model]).await;
    assert_eq!(other.get("/v1/models").await.status, 401);

    write(&[&first_hash, &second_hash], "log: debug");
    eventually("the key is in", async || other.get("/v1/models").await.status == 200).await;
    lists(&other, &[&model]).await;
    frontend.says("the configuration file was taken up").await;

    write(&[&second_hash], "log: debug\nhttp_prt: 1");
    let refused =
        frontend.says("the configuration file cannot be used; the last good one stands").await;
    let error = refused["error"].as_str().unwrap();
    let expected = format!(
        "{}:4: dynamo-frontend has no field `http_prt`; the nearest is `http_port`",
        path.display()
    );
    assert_eq!(error, expected);
    lists(&one, &[&model]).await;
    let metrics = frontend.admin().await.get("/metrics").await.body;
    let count = "dynamo_frontend_config_reloads_total{outcome=\"refused\"} 1";
    assert!(metrics.contains(count), "{metrics}");

    write(&[&second_hash], "log: debug\nhttp_port: 1\nhold: 7");
    let waits = "the configuration file was taken up, but for settings that need a restart";
    // A flag of the harness gives the port, so the file's has no say.
    assert_eq!(frontend.says(waits).await["settings"], "hold");
    eventually("the key is out", async || one.get("/v1/models").await.status == 401).await;
    assert_eq!(other.chat(&model).await.status, 200);
}

#[tokio::test]
async fn a_file_is_checked_shown_and_described_without_starting_anything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frontend.yaml");
    let path = path.to_str().unwrap();
    for (text, code, expected) in [
        ("namespace: team-a\n", Some(0), "it can be used"),
        ("namespace: team a\n", Some(2), ""),
        ("keys: [{name: k}]\n", Some(2), ""),
    ] {
        std::fs::write(path, text).unwrap();
        let mut check = Program::start("dynamo-frontend", &["config", "check", path], &[]);
        let (ended, printed) = check.ended().await;
        assert_eq!(ended, code, "{text}");
        assert!(printed.contains(expected), "{text}: {printed}");
    }
    std::fs::write(path, "namespace: ${TEAM}\n").unwrap();
    let arguments = ["config", "print", "--config", path, "--http-port", "81"];
    let mut print = Program::start("dynamo-frontend", &arguments, &[("TEAM", "team-a")]);
    let (ended, printed) = print.ended().await;
    assert_eq!(ended, Some(0));
    assert!(printed.contains("\nnamespace: \"${TEAM}\"  # "), "{printed}");
    assert!(printed.contains("\nhttp_port: 81  # --http-port\n"), "{printed}");

    let mut schema = Program::start("dynamo-frontend", &["config", "schema"], &[]);
    let schema: Value = serde_json::from_str(&schema.ended().await.1).unwrap();
    assert_eq!(schema["properties"]["keys"]["type"], "array");
    for program in ["dynamo-frontend", "dynamo-worker", "dynamo-worker-config"] {
        for arguments in [&["completions", "zsh"][..], &["man"]] {
            let (ended, printed) = Program::start(program, arguments, &[]).ended().await;
            assert_eq!(ended, Some(0));
            assert!(printed.contains(program), "{printed}");
        }
    }
}
