//! The real programs over one etcd: from the registration of a model to the end of its stream.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use dynamo_tests::{Client, Load, Program, SharedEtcd, eventually, lists, soon, unique};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Waits until the front door lists this one, whatever else it lists.
async fn knows(client: &Client, model: &str) {
    eventually("the model is listed", async || client.models().await.iter().any(|m| m == model))
        .await;
}

/// Some fields of a log line.
fn fields<'a>(line: &'a Value, names: &[&str]) -> Vec<&'a str> {
    names.iter().map(|name| line[*name].as_str().unwrap_or("absent")).collect()
}

/// The events of a streamed answer, to its clean end.
async fn events(mut answer: reqwest::Response) -> Vec<String> {
    let mut text = String::new();
    while let Some(chunk) = soon("a chunk", answer.chunk()).await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text.split_terminator("\n\n")
        .map(|event| event.trim_start_matches("data: ").to_owned())
        .collect()
}

#[tokio::test]
async fn a_model_is_registered_discovered_opened_streamed_and_withdrawn() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("cli");
    let arguments = ["--namespace", &namespace];
    let (mut frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
    eventually("/ready", async || client.get("/ready").await.status == 200).await;
    let answer = client.chat("m").await;
    assert_eq!((answer.status, &*answer.code()), (503, "endpoint_disabled"));

    let arguments = ["--namespace", &namespace, "--model", "m", "--drain-grace", "0"];
    let mut worker = Program::worker(etcd.endpoints(), &arguments, &[]);
    assert_eq!(worker.says("registered").await["models"], "m");
    eventually("the route opens", async || client.chat("m").await.status == 200).await;
    let model = client.get("/v1/models/m").await.json();
    assert_eq!(model["id"], "m");
    let health = client.get("/health").await.json();
    assert_eq!(health["endpoints"], json!([format!("dyn://{namespace}.backend.generate")]));

    let answer = client.stream("m").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = events(answer).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let piece = |event: &String| {
        let event: Value = serde_json::from_str(event).unwrap();
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(events.iter().map(piece).collect::<String>(), "one two");

    worker.signal(Signal::TERM);
    eventually("the route closes", async || client.chat("m").await.code() == "endpoint_disabled")
        .await;
    assert_eq!(worker.ended().await.0, Some(0));
    assert_eq!(worker.logged("withdrawn").len(), 1);
    frontend.signal(Signal::TERM);
    assert_eq!(frontend.ended().await.0, Some(0));
    assert_eq!(frontend.logged("route opened").len(), frontend.logged("route closed").len());
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_costs_no_request_and_ends_its_streams() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("cli");
    let of = ["--namespace", &namespace, "--drain-grace", "0"];
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &of[..2], &[]).await;
    let slow = ["--model", "both", "--model", "slow", "--echo-delay-ms", "300"];
    let slow = [&["--echo", "--etcd-endpoints", etcd.endpoints()], &of[..], &slow].concat();
    let mut leaves = Program::start("dynamo-worker", &slow, &[]);
    let _stays = Program::worker(etcd.endpoints(), &[&of[..], &["--model", "both"]].concat(), &[]);
    eventually("both are there", async || {
        let health = client.get("/health").await.json();
        health["instances"].as_array().unwrap().len() == 3
    })
    .await;
    let load = Load::on(&client, "both", 4);
    load.flows(20).await;
    let answer = client.stream("slow").await;

    leaves.signal(Signal::TERM);
    lists(&client, &["both"]).await;
    assert_eq!(events(answer).await.pop().unwrap(), "[DONE]");
    assert_eq!(leaves.ended().await.0, Some(0));
    load.flows(20).await;
    assert_eq!(load.failures(), []);
}

#[tokio::test]
async fn one_worker_serves_several_models() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("cli");
    let arguments = ["--namespace", &namespace];
    let (_frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
    let models = ["Qwen/Qwen3-0.6B", "m", "m: 100 %"];
    let named: Vec<_> = models.iter().flat_map(|model| ["--model", model]).collect();
    let _worker = Program::worker(etcd.endpoints(), &[&arguments[..], &named].concat(), &[]);
    lists(&client, &models).await;
    for model in models {
        assert_eq!(client.chat(model).await.json()["model"], model);
    }
    for path in ["/v1/models/Qwen/Qwen3-0.6B", "/v1/models/Qwen%2FQwen3-0.6B"] {
        assert_eq!(client.get(path).await.json()["id"], models[0], "{path}");
    }
}

#[tokio::test]
async fn two_frontends_of_two_namespaces_share_an_etcd_and_nothing_else() {
    let etcd = SharedEtcd::find().await;
    let teams = [(unique("cli-a"), unique("model-a")), (unique("cli-b"), unique("model-b"))];
    let loud = [("DYN_LOG", "debug,h2=info,hyper_util=info,tower=info")];
    let (mut frontends, mut workers) = (Vec::new(), Vec::new());
    for (namespace, model) in &teams {
        let of = ["--namespace", namespace];
        let with_admin = [&of[..], &["--admin-port", "0"]].concat();
        frontends.push(Program::frontend(etcd.endpoints(), &with_admin, &loud).await);
        let serves = [&of[..], &["--model", model, "--drain-grace", "0"]].concat();
        workers.push(Program::worker(etcd.endpoints(), &serves, &loud));
    }
    for ((_, client), (_, model)) in frontends.iter().zip(&teams) {
        lists(client, &[model]).await;
        for (_, asked) in &teams {
            let answer = client.chat(asked).await;
            assert_eq!(answer.status, if asked == model { 200 } else { 404 });
        }
    }
    for worker in &mut workers {
        worker.signal(Signal::TERM);
        worker.ended().await;
    }
    let last = &frontends[1].1;
    lists(last, &[]).await;
    let revision = "dynamo_frontend_discovery_revision";
    let end = frontends[1].0.admin().await.metric(revision).await;

    for ((mut frontend, client), ((own, model), (foreign, theirs))) in
        frontends.into_iter().zip(teams.iter().zip(teams.iter().rev()))
    {
        // Also of the neighbour, everything is heard by then.
        let admin = frontend.admin().await;
        eventually("the end is heard", async || admin.metric(revision).await >= end).await;
        for (port, path) in [(&admin, "/health"), (&admin, "/metrics"), (&client, "/v1/models")] {
            let body = port.get(path).await.body;
            assert!(!body.contains(foreign) && !body.contains(theirs), "{path}: {body}");
        }
        frontend.signal(Signal::TERM);
        frontend.ended().await;
        let log = frontend.log().join("\n");
        assert!(log.contains(own) && log.contains(model), "{log}");
        assert!(!log.contains(foreign) && !log.contains(theirs), "{log}");
    }
}

#[tokio::test]
async fn one_frontend_serves_two_teams_by_their_keys_over_one_watch() {
    let etcd = SharedEtcd::find().await;
    let teams = [(unique("key-a"), unique("model-a")), (unique("key-b"), unique("model-b"))];
    let (mut keys, mut entries, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    for (namespace, model) in &teams {
        let made =
            Program::start("dynamo-frontend", &["hash-key", "--generate"], &[]).ended().await;
        let (key, hash) = made.1.trim_end().split_once('\n').unwrap();
        keys.push(key.to_owned());
        entries.push(json!({ "name": namespace, "hash": hash, "namespace": namespace }));
        let serves = ["--namespace", namespace, "--model", model];
        workers.push(Program::worker(etcd.endpoints(), &serves, &[]));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("api-keys.json");
    std::fs::write(&file, json!(entries).to_string()).unwrap();
    let arguments = ["--api-keys", file.to_str().unwrap(), "--admin-port", "0"];
    let (frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;

    let clients: Vec<_> = keys.iter().map(|key| client.with_key(key)).collect();
    for (client, (_, model)) in clients.iter().zip(&teams) {
        lists(client, &[model]).await;
        for (_, asked) in &teams {
            let answer = client.chat(asked).await;
            assert_eq!(answer.status, if asked == model { 200 } else { 404 });
        }
    }
    assert_eq!(client.get("/v1/models").await.status, 401);
    // One watch for all.
    frontend.says_once("watching").await;
    let metrics = frontend.admin().await.get("/metrics").await.body;
    assert!(teams.iter().all(|(namespace, _)| metrics.contains(&format!("key=\"{namespace}\""))));

    // A team that is taken out is out at once; the other one notices nothing.
    std::fs::write(&file, json!(entries[1..]).to_string()).unwrap();
    eventually("the key is taken out", async || clients[0].get("/v1/models").await.status == 401)
        .await;
    assert_eq!(clients[1].chat(&teams[1].1).await.status, 200);
}

#[tokio::test]
async fn below_a_root_workers_and_frontends_meet_and_those_of_another_root_do_not_see_them() {
    let etcd = SharedEtcd::find().await;
    let (namespace, root) = (unique("root"), unique("below"));
    let [within, without] = [unique("within"), unique("without")];
    let plain = ["--namespace", &namespace];
    let rooted = [&plain[..], &["--root", &root]].concat();
    let (_inside, inside) = Program::frontend(etcd.endpoints(), &rooted, &[]).await;
    let (_outside, outside) = Program::frontend(etcd.endpoints(), &plain, &[]).await;
    let of = |place: &[&str], model: &str| {
        Program::worker(etcd.endpoints(), &[place, &["--model", model]].concat(), &[])
    };
    let workers = [of(&rooted, &within), of(&plain, &without)];
    for worker in &workers {
        worker.says("registered").await;
    }
    lists(&inside, &[&within]).await;
    lists(&outside, &[&without]).await;
    assert_eq!(inside.chat(&within).await.status, 200);
    assert_eq!(outside.chat(&within).await.code(), "model_not_found");
    assert_eq!(inside.chat(&without).await.code(), "model_not_found");
}

#[tokio::test]
async fn a_blank_namespace_variable_counts_as_unset() {
    let etcd = SharedEtcd::find().await;
    let model = unique("model");
    for blank in ["", " ", "\t "] {
        let variables = [("DYN_NAMESPACE", blank)];
        let (frontend, client) = Program::frontend(etcd.endpoints(), &[], &variables).await;
        let starting = frontend.says("starting").await;
        assert_eq!(fields(&starting, &["discovery", "namespace"]), ["global", "global"]);

        let worker = Program::worker(etcd.endpoints(), &["--model", &model], &variables);
        assert_eq!(worker.says("worker identity").await["namespace"], "global");
        knows(&client, &model).await;

        let mut config = Program::start("dynamo-worker-config", &[], &variables);
        let (code, printed) = config.ended().await;
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((code, &printed["endpoint_id"]), (Some(0), &json!("global.backend.generate")));
    }
}

#[tokio::test]
async fn a_frontend_logs_its_endpoint_id_and_whose_models_it_discovers() {
    let etcd = SharedEtcd::find().await;
    let namespace = unique("cli");
    let ns = namespace.as_str();
    let prefixed = format!("{ns}[-generation]");
    for (arguments, variables, [id, discovery, target]) in [
        (&["--namespace", ns][..], [("DYN_NAMESPACE", "other")], [ns, "scoped", ns]),
        (&[], [("DYN_NAMESPACE", ns)], [ns, "scoped", ns]),
        (&[], [("DYN_NAMESPACE_PREFIX", ns)], [ns, "scoped", &prefixed]),
        (&["--namespace", "global"], [("DYN_NAMESPACE", ns)], ["global", "global", "all"]),
        (&[], [("DYN_NAMESPACE", "GLOBAL")], ["GLOBAL", "scoped", "GLOBAL"]),
        (&[], [("DYN_NAMESPACE", "")], ["global", "global", "all"]),
    ] {
        let (frontend, _) = Program::frontend(etcd.endpoints(), arguments, &variables).await;
        let starting = frontend.says("starting").await;
        assert_eq!(
            fields(&starting, &["level", "endpoint_id", "discovery", "namespace"]),
            ["INFO", &format!("{id}.frontend.http"), discovery, id]
        );
        let watching = frontend.says("watching").await;
        assert_eq!(
            fields(&watching, &["level", "target_namespace", "prefix"]),
            ["INFO", target, "models/"]
        );
    }
}

#[tokio::test]
async fn a_frontend_with_static_workers_only_logs_that_and_watches_no_store() {
    let etcd = SharedEtcd::find().await;
    let worker = Program::worker(etcd.endpoints(), &["--namespace", &unique("cli")], &[]);
    let url = worker.says("the echo engine listens").await["url"].as_str().unwrap().to_owned();
    let arguments =
        ["--http-host", "127.0.0.1", "--http-port", "0", "--namespace", "a", "--worker-url", &url];
    let frontend = Program::start("dynamo-frontend", &arguments, &[]);
    let starting = frontend.says("starting").await;
    assert_eq!(fields(&starting, &["endpoint_id", "discovery"]), ["a.frontend.http", "static"]);
    let address = frontend.says("listening").await["address"].as_str().unwrap().to_owned();
    lists(&Client::new(&format!("http://{address}")), &["echo"]).await;
    let watched: Vec<_> =
        frontend.logged("watching").into_iter().map(|line| line["prefix"].clone()).collect();
    assert!(!watched.contains(&json!("models/")), "{watched:?}");
}

#[tokio::test]
async fn worker_config_logs_the_identity_in_one_info_line_and_prints_it() {
    for (arguments, variables, [namespace, component]) in [
        (&[][..], ("DYN_NAMESPACE", "team-a"), ["team-a", "backend"]),
        (&["--is-prefill-worker"], ("DYN_NAMESPACE", "team-a"), ["team-a", "prefill"]),
        (&["--namespace", "team-b"], ("DYN_NAMESPACE", "team-a"), ["team-b", "backend"]),
        (&[], ("DYN_NAMESPACE", "GLOBAL"), ["GLOBAL", "backend"]),
        (&[], ("UNRELATED", "x"), ["global", "backend"]),
    ] {
        let mut config = Program::start("dynamo-worker-config", arguments, &[variables]);
        let (code, printed) = config.ended().await;
        assert_eq!(code, Some(0));
        let id = format!("{namespace}.{component}.generate");
        let identity = json!({
            "namespace": namespace, "component": component, "endpoint": "generate",
            "endpoint_id": id,
        });
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), identity);

        let log = config.log();
        assert_eq!(log.len(), 1, "{log:?}");
        let line = config.says("worker identity").await;
        let names = ["level", "namespace", "component", "endpoint"];
        assert_eq!(fields(&line, &names), ["INFO", namespace, component, "generate"]);
    }
}

#[tokio::test]
async fn a_prefix_takes_in_generations_and_only_a_literal_one_what_merely_begins_so() {
    let etcd = SharedEtcd::find().await;
    let base = unique("cli");
    let namespaces = ["", "-0f3c9a1b", "-canary", "work"].map(|rest| format!("{base}{rest}"));
    let of = async |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["--namespace-prefix", &base], arguments].concat();
        Program::frontend(etcd.endpoints(), &arguments, variables).await
    };
    let (_one, generations) = of(&[], &[("DYN_NAMESPACE", "other")]).await;
    let (_two, by_key) = of(&["--watch-scope", "key"], &[]).await;
    let (_three, literal) = of(&["--namespace-prefix-literal"], &[]).await;
    let (_four, by_variable) = of(&[], &[("DYN_NAMESPACE_PREFIX_STRICT", "0")]).await;

    let worker = |namespace: &String| {
        let model = ["--model", namespace];
        Program::worker(etcd.endpoints(), &model, &[("DYN_NAMESPACE", namespace)])
    };
    let _workers = [&namespaces[0], &namespaces[2], &namespaces[3]].map(worker);
    // As operators make a generation: by a suffix to the namespace.
    let variables = [("DYN_NAMESPACE", &*base), ("DYN_NAMESPACE_WORKER_SUFFIX", "0f3c9a1b")];
    let _generation = Program::worker(etcd.endpoints(), &["--model", &namespaces[1]], &variables);
    let [plain, generation, canary, work] = namespaces.each_ref().map(String::as_str);
    for frontend in [&generations, &by_key] {
        lists(frontend, &[plain, generation]).await;
    }
    for frontend in [&literal, &by_variable] {
        lists(frontend, &[plain, generation, canary, work]).await;
    }
    // All four were there when these were asked again.
    for frontend in [&generations, &by_key] {
        lists(frontend, &[plain, generation]).await;
    }
}
