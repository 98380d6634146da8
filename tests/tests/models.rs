//! `dynamo-models` over a real etcd: each verb, every layout of entries, and nothing of neighbours.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use dynamo_discovery::{InstanceId, ModelEntry, ModelKey, NetworkPrefix, WorkerState};
use dynamo_tests::{
    Client, Etcd, Program, Users, create_test_model_entry, eventually, free_port, lists, soon,
};
use etcd_client::{Client as EtcdClient, PutOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// What releases 0.4.1 to 1.6.1 of Dynamo put.
const RECORDED: [&str; 2] = [
    include_str!("../../crates/dynamo-discovery/testdata/dynamo-models.jsonl"),
    include_str!("../../crates/dynamo-cli/testdata/dynamo-cards.jsonl"),
];

/// An etcd, and somebody who writes into it.
struct Store {
    etcd: Etcd,
    writer: EtcdClient,
    lease: i64,
}

/// How a verb ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Store {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let mut writer = EtcdClient::connect([etcd.endpoint()], None).await.unwrap();
        let lease = writer.lease_grant(300, None).await.unwrap().id();
        Self { etcd, writer, lease }
    }

    async fn put(&mut self, key: &str, value: &str) {
        let options = PutOptions::new().with_lease(self.lease);
        self.writer.put(key, value, Some(options)).await.unwrap();
    }

    async fn value(&mut self, key: &str) -> Option<(String, i64)> {
        let found = self.writer.get(key, None).await.unwrap();
        let one = found.kvs().first()?;
        Some((one.value_str().unwrap().to_owned(), one.lease()))
    }

    async fn put_recorded(&mut self) {
        for line in RECORDED.iter().flat_map(|file| file.lines()) {
            let record: Value = serde_json::from_str(line).unwrap();
            self.put(record["key"].as_str().unwrap(), record["value"].as_str().unwrap()).await;
        }
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, &[]).await
    }

    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        let of = ["--etcd-endpoints", self.etcd.endpoint()];
        let arguments = [arguments, &of].concat();
        let mut program = Program::start("dynamo-models", &arguments, variables);
        let (code, stdout) = program.ended().await;
        Ended { code, stdout, stderr: program.log().join("\n") }
    }

    /// The objects that a verb prints.
    async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let ended = self.run(&[arguments, &["-o", "json"]].concat()).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn keys(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["key"].as_str().unwrap()).collect()
}

/// An entry without a server.
fn bare(model: &str, namespace: &str) -> ModelEntry {
    create_test_model_entry(model, namespace, "backend", "generate", "Chat")
}

/// The key of an entry, with one instance for all.
fn key_at(entry: &ModelEntry) -> String {
    let key = ModelKey::Native {
        endpoint: entry.endpoint().clone(),
        instance: InstanceId(0x1f),
        model: entry.name().to_owned(),
    };
    NetworkPrefix::default().key(&key).to_string()
}

/// An entry of a server that nobody runs.
fn entry(model: &str, namespace: &str) -> ModelEntry {
    bare(model, namespace).with_url("http://127.0.0.1:9".parse().unwrap())
}

/// The key of the only entry of a model.
async fn key_of(store: &Store, model: &str) -> String {
    let items = store.json(&["get", model]).await;
    assert_eq!(items.len(), 1, "{items:?}");
    items[0]["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn entries_of_every_layout_are_listed_with_where_they_lie() {
    let mut store = Store::start().await;
    store.put_recorded().await;
    let _worker =
        Program::worker(store.etcd.endpoint(), &["--namespace", "team-a", "--model", "m"], &[]);
    eventually("the worker has registered", async || {
        store.json(&["list"]).await.iter().any(|item| item["layout"] == "native")
    })
    .await;

    let items = store.json(&["list"]).await;
    let count = |layout: &str| items.iter().filter(|item| item["layout"] == layout).count();
    assert_eq!((count("native"), count("flat"), count("dynamo")), (1, 4, 10));
    for item in &items {
        assert!(item["namespace"] == "team-a" || item["namespace"] == "team-b", "{item}");
        assert!(item["lease"].is_string(), "{item}");
        match item["layout"].as_str().unwrap() {
            "native" => {
                assert_eq!((&item["state"], &item["model"]), (&json!("serving"), &json!("m")))
            }
            "flat" => {
                assert_eq!((&item["state"], &item["url"]), (&json!("unroutable"), &Value::Null))
            }
            _ => {
                assert_eq!(
                    (&item["state"], &item["context_length"]),
                    (&json!("dynamo"), &json!(2048))
                );
                let transport = item["transport"].as_str().unwrap();
                assert!(transport.contains(item["instance"].as_str().unwrap()), "{item}");
            }
        }
    }
    let table = store.run(&["list", "--namespace", "team-a"]).await.stdout;
    assert!(table.starts_with("NAMESPACE   MODEL"), "{table}");
    let wide = store.run(&["--namespace", "team-a", "list", "-o", "wide"]).await.stdout;
    assert!(wide.lines().next().unwrap().contains("CONTROL"), "flags may stand before the verb");
    assert_eq!(table.lines().count(), wide.lines().count());
}

#[tokio::test]
async fn no_verb_shows_or_changes_an_entry_of_another_namespace() {
    let mut store = Store::start().await;
    store.put_recorded().await;
    let secret = entry("secret-model", "team-b");
    let native = key_at(&secret);
    store.put(&native, std::str::from_utf8(&secret.to_json()).unwrap()).await;
    store.put("models/secret-flat", std::str::from_utf8(&secret.to_json()).unwrap()).await;
    store.put("models/secret-broken", "secret: this is no JSON").await;
    store.put("models/team-b/secret", "secret").await;
    store.put("v1/mdc/team-b/secret", "secret").await;
    // Somebody of team-b writes into team-a's keys: only the key is team-a's.
    let foreign = native.replace("models/team-b/", "models/team-a/");
    store.put(&foreign, std::str::from_utf8(&secret.to_json()).unwrap()).await;

    let all = store.json(&["list"]).await;
    for secret in [&native, "models/secret-flat", "models/secret-broken", "models/team-b/secret"] {
        assert!(keys(&all).contains(&secret), "{secret}");
    }
    for of in [
        &["--namespace", "team-a"][..],
        &["--namespace-prefix", "team-a"],
        &["--namespace", "team-a", "--watch-scope", "key"],
    ] {
        for verb in [&["list"][..], &["list", "-o", "wide"], &["list", "-o", "json"], &["doctor"]] {
            let ended = store.run(&[verb, of].concat()).await;
            let text = ended.stdout.replace(&foreign, "").replace("secret-model", "");
            for told in ["secret", "team-b", "other-model"] {
                assert!(!text.contains(told), "{verb:?} {of:?}: {}", ended.stdout);
                assert!(!ended.stderr.contains(told), "{verb:?} {of:?}: {}", ended.stderr);
            }
        }
    }
    // A neighbour's key and one that is not there get the same answer.
    for verb in ["get", "drain", "rm"] {
        let there = store.run(&[verb, &native, "--namespace", "team-a"]).await;
        let absent = native.replace("models/", "models_");
        let not_there = store.run(&[verb, &absent, "--namespace", "team-a"]).await;
        assert_eq!((there.code, not_there.code), (Some(1), Some(1)));
        assert_eq!(there.stderr.replace(&native, ""), not_there.stderr.replace(&absent, ""));
        assert!(there.stderr.contains("no entry"), "{}", there.stderr);
        assert_eq!(there.stdout, "");
    }
    let expected = String::from_utf8(secret.to_json().to_vec()).unwrap();
    assert_eq!(store.value(&native).await, Some((expected, store.lease)));
}

#[tokio::test]
async fn below_a_root_there_are_the_entries_of_that_root_alone() {
    let mut store = Store::start().await;
    store.put_recorded().await;
    let ours = entry("ours", "team-a");
    let key = key_at(&ours);
    store.put(&format!("llm/{key}"), std::str::from_utf8(&ours.to_json()).unwrap()).await;
    let rooted = store.json(&["list", "--root", "llm"]).await;
    assert_eq!(keys(&rooted), [format!("llm/{key}")]);
    let by_variable =
        store.run_with(&["list", "-o", "json"], &[("DYN_STORE_ROOT", "llm/")]).await.stdout;
    assert_eq!(by_variable.lines().count(), 1);
    assert!(store.json(&["list"]).await.iter().all(|item| item["model"] != "ours"));
}

#[tokio::test]
async fn an_entry_is_shown_with_its_value_as_it_lies_and_nothing_in_it_moves_the_cursor() {
    let mut store = Store::start().await;
    let value = r#"{"name":"m","endpoint":{"namespace":"a","component":"backend","name":"generate"},"model_type":"Chat","note":"\u001b[2J\u202e","big":18446744073709551615}"#;
    store.put("models/by-hand", value).await;
    store.put("models/odd\x1b[2J", "\x1b[2J").await;
    let shown = store.json(&["get", "models/by-hand"]).await;
    assert_eq!(shown[0]["value"], serde_json::from_str::<Value>(value).unwrap());
    for arguments in [
        &["get", "m"][..],
        &["list"],
        &["list", "-o", "wide"],
        &["get", "models/odd\\x1b[2J"],
        &["doctor"],
    ] {
        let ended = store.run(arguments).await;
        assert!(!ended.stdout.is_empty(), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stdout.contains(['\u{1b}', '\u{202e}']), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_worker_is_drained_by_its_control_port_with_the_key() {
    let store = Store::start().await;
    let of = ["--namespace", "team-a"];
    let (_frontend, client) = Program::frontend(store.etcd.endpoint(), &of, &[]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-key-that-nobody-could-guess\n").unwrap();
    let path = file.path().to_str().unwrap();
    let models = ["--model", "m", "--model", "n", "--control-key-file", path];
    let worker = Program::worker(store.etcd.endpoint(), &[&of[..], &models].concat(), &[]);
    lists(&client, &["m", "n"]).await;
    let key = key_of(&store, "m").await;

    let refused = store.run(&["drain", &key]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--control-key-file"), "{}", refused.stderr);
    assert_eq!(client.models().await.len(), 2);

    let drained = store.run(&["drain", &key, "--control-key-file", path]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    assert!(drained.stdout.contains("withdrawn all its models"), "{}", drained.stdout);
    lists(&client, &[]).await;
    assert_eq!(client.metric("dynamo_frontend_held_instances").await, 0.0, "it was withdrawn");
    let line = worker.says("the control port listens").await;
    let control = Client::new(line["url"].as_str().unwrap());
    let id = key.split('/').nth(4).unwrap();
    let status = control.get(&format!("/instance/{id}")).await;
    let status = dynamo_discovery::InstanceStatus::from_json(status.body.as_bytes()).unwrap();
    assert_eq!(status.state, WorkerState::Draining);
}

#[tokio::test]
async fn an_entry_without_a_control_port_is_marked_as_it_lies_under_its_lease() {
    let mut store = Store::start().await;
    let (_frontend, client) =
        Program::frontend(store.etcd.endpoint(), &["--namespace", "team-a"], &[]).await;
    let value = r#"{"name":"m","endpoint":{"namespace":"team-a","component":"backend","name":"generate"},"model_type":"Chat","url":"http://127.0.0.1:9","theirs":{"a":[1e400]}}"#;
    store.put("models/by-a-script", value).await;
    lists(&client, &["m"]).await;
    let drained = store.run(&["drain", "models/by-a-script", "--namespace", "team-a"]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    lists(&client, &[]).await;
    let expected = value.replace(r#"]}}"#, r#"]},"state":"draining"}"#);
    assert_eq!(store.value("models/by-a-script").await, Some((expected, store.lease)));
    let again = store.run(&["drain", "models/by-a-script"]).await;
    assert!(again.stdout.contains("draining already"), "{}", again.stdout);

    // Without a lease there is no worker.
    store.writer.put("models/left-behind", value, None).await.unwrap();
    let refused = store.run(&["drain", "models/left-behind"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("`rm` deletes it"), "{}", refused.stderr);
    assert_eq!(store.value("models/left-behind").await, Some((value.to_owned(), 0)));
}

#[tokio::test]
async fn an_entry_is_deleted_and_those_of_newer_dynamo_are_left_alone() {
    let mut store = Store::start().await;
    store.put_recorded().await;
    let value = entry("m", "team-a");
    let key = key_at(&value);
    let value = String::from_utf8(value.to_json().to_vec()).unwrap();
    store.writer.put(key.as_str(), value.as_str(), None).await.unwrap();
    let removed = store.run(&["rm", &key]).await;
    assert_eq!((removed.code, removed.stdout), (Some(0), format!("{key}: deleted\n")));
    assert_eq!(store.value(&key).await, None);

    store.put(&key, &value).await;
    let removed = store.run(&["rm", &key]).await;
    assert!(removed.stdout.contains("writes it again"), "{}", removed.stdout);
    assert_eq!(store.value(&key).await, None);

    let items = store.json(&["list"]).await;
    let card =
        items.iter().find(|item| item["layout"] == "dynamo").unwrap()["key"].as_str().unwrap();
    for verb in ["rm", "drain"] {
        let refused = store.run(&[verb, card]).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("only shown here"), "{}", refused.stderr);
    }
    assert!(store.value(card).await.is_some());
}

#[tokio::test]
async fn a_watch_prints_each_change_of_its_scope_until_it_is_stopped() {
    let store = Store::start().await;
    let mut watch = tokio::process::Command::new(Program::path("dynamo-models"))
        .args(["watch", "--namespace", "team-a", "-o", "json"])
        .args(["--etcd-endpoints", store.etcd.endpoint()])
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let _neighbour =
        Program::registered(store.etcd.endpoint(), &["--namespace", "team-b"], &[]).await;
    let arguments = ["--namespace", "team-a", "--model", "m", "--drain-grace", "0"];
    let mut worker = Program::registered(store.etcd.endpoint(), &arguments, &[]).await;
    worker.signal(Signal::TERM);
    worker.ended().await;
    for (event, reason) in [("added", Value::Null), ("removed", json!("withdrawn"))] {
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["event"], &line["reason"]), (&json!(event), &reason), "{line}");
        assert_eq!(
            (&line["entry"]["namespace"], &line["entry"]["model"]),
            (&json!("team-a"), &json!("m"))
        );
    }
    let pid = rustix::process::Pid::from_raw(watch.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(soon("the end", watch.wait()).await.unwrap().code(), Some(0));
    assert_eq!(lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_with_entries_and_servers_and_nothing_where_all_is_well() {
    let mut store = Store::start().await;
    let of = ["--namespace", "team-a", "--model", "m"];
    let worker = Program::registered(store.etcd.endpoint(), &of, &[]).await;
    let well = store.run(&["doctor"]).await;
    assert_eq!(well.code, Some(0), "{}", well.stdout);
    assert!(
        well.stdout.contains("looked at 1 endpoint of etcd, 1 entry and 1 server"),
        "{}",
        well.stdout
    );

    let engine = worker.says("following the engine").await["url"].as_str().unwrap().to_owned();
    let control = worker.says("the control port listens").await["url"].as_str().unwrap().to_owned();
    // The echo engine serves any model and lists those that it was given.
    let other = bare("other", "team-a").with_url(engine.parse().unwrap());
    let gone = bare("gone", "team-a")
        .with_url(format!("http://127.0.0.1:{}", free_port()).parse().unwrap())
        .with_control(control.parse().unwrap());
    let foreign = bare("m", "team-b");
    for (key, value) in [
        (key_at(&other), other.to_json()),
        (key_at(&gone), gone.to_json()),
        (key_at(&foreign).replace("team-b", "team-a"), foreign.to_json()),
        ("models/broken".to_owned(), "{}".into()),
    ] {
        store.put(&key, std::str::from_utf8(&value).unwrap()).await;
    }
    let left = key_at(&other).replace("other", "left");
    store.writer.put(left.as_str(), "{}", None).await.unwrap();

    let ended = store.run(&["doctor", "-o", "json"]).await;
    assert_eq!(ended.code, Some(1));
    let findings: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (about, what) in [
        (key_at(&other), "does not list the model"),
        (key_at(&gone), "does not answer"),
        (key_at(&gone), "does not know it"),
        (key_at(&foreign).replace("team-b", "team-a"), "not theirs"),
        ("models/broken".to_owned(), "frontends refuse it"),
        (left.clone(), "under no lease"),
    ] {
        let found = findings.iter().any(|finding| {
            finding["severity"] == "fault"
                && finding["about"] == about
                && finding["what"].as_str().unwrap().contains(what)
        });
        assert!(found, "{about}: {what}: {findings:#?}");
    }
}

#[tokio::test]
async fn the_doctor_tells_a_role_that_is_too_narrow_or_too_wide() {
    let etcd = Etcd::start().await;
    let mut users = Users::prepare(&etcd).await;
    for (name, prefix) in [("narrow", "models/team-a/"), ("wide", "")] {
        users.add(name).await;
        users.grant(name, prefix, true).await;
    }
    // What a frontend of the team needs to share what keys have used.
    users.grant("narrow", "usage/team-a/", true).await;
    users.switch_on().await;
    let store = async |name: &str, arguments: &[&str]| {
        let of = ["--etcd-endpoints", etcd.endpoint(), "--etcd-username", name];
        let variables = [("ETCD_AUTH_PASSWORD", name)];
        let mut program = Program::start("dynamo-models", &[arguments, &of].concat(), &variables);
        let (code, stdout) = program.ended().await;
        (code, stdout, program.log().join("\n"))
    };
    let (code, stdout, _) = store("narrow", &["doctor"]).await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("too narrow"), "{stdout}");
    let fenced = ["doctor", "--namespace", "team-a", "--watch-scope", "key"];
    let (code, stdout, _) = store("narrow", &fenced).await;
    assert_eq!(code, Some(0), "{stdout}");
    assert!(!stdout.contains("too "), "{stdout}");
    let (code, stdout, _) = store("wide", &fenced).await;
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("too wide: this user may read and write"), "{stdout}");

    let (code, stdout, stderr) = store("narrow", &["list"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("--watch-scope key"), "{stderr}");
    let (code, _, stderr) =
        store("narrow", &["list", "--namespace", "team-a", "--watch-scope", "key"]).await;
    assert_eq!(code, Some(0), "{stderr}");
}

#[tokio::test]
async fn a_store_that_is_away_and_a_wrong_command_line_are_told_in_one_line() {
    let away = format!("http://127.0.0.1:{}", free_port());
    for (arguments, code, told) in [
        (&["list", "--etcd-endpoints", &away][..], 1, "ETCD_ENDPOINTS"),
        (&["doctor", "--etcd-endpoints", &away], 1, ""),
        (&["list", "--discovery-backend", "memory"], 2, "memory lives in one process"),
        (&["list", "--namespace", "a b"], 2, "invalid namespace"),
        (&["list", "-o", "yaml"], 2, "expected table, wide or json"),
        (&["rm"], 2, "<KEY>"),
        (&[], 2, "list, get, watch, drain, rm, doctor"),
    ] {
        let mut program = Program::start("dynamo-models", arguments, &[]);
        let (ended, stdout) = program.ended().await;
        assert_eq!(ended, Some(code), "{arguments:?}: {:?} {stdout}", program.log());
        if told.is_empty() {
            assert!(stdout.contains(&away), "{stdout}");
        } else {
            let log = program.log();
            assert_eq!(log.len(), 1, "{log:?}");
            assert!(log[0].starts_with("error: ") && log[0].contains(told), "{log:?}");
        }
    }
}
