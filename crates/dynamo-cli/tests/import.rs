//! Moving over from LiteLLM, as one does it: the file is translated, checked, and served.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::fs;
use std::path::Path;
use std::time::Duration;

use process::{Ended, FRONTEND, Running, WORKER, finish, until};
use serde_json::{Value, json};

/// The echo engine alone: its worker tries an etcd that is not there.
const NO_ETCD: [&str; 3] = ["--echo", "--etcd-endpoints", "http://127.0.0.1:1"];

fn echo(model: &str) -> (Running, String) {
    let more = ["--model", model, "--echo-delay-ms", "0"];
    let worker = Running::start(WORKER, &[&NO_ETCD[..], &more].concat(), &[]);
    let url = worker.wait_for_field("the echo engine listens", "url");
    (worker, url)
}

fn import(directory: &Path, text: &str) -> Ended {
    let path = directory.join("litellm.yaml");
    fs::write(&path, text).unwrap();
    finish(FRONTEND, &["config", "import", "--from", "litellm", path.to_str().unwrap()], &[])
}

/// Four files in different shapes.
const FILES: [&str; 4] = [
    // One server, in the shape of a first trial.
    "model_list:\n- model_name: local\n  litellm_params:\n    model: hosted_vllm/Qwen/Qwen3-0.6B\n    \
     api_base: http://192.0.2.1:8000\n    api_key: none\n",
    // Shares and limits, and a key for all.
    "model_list:\n- model_name: chat\n  litellm_params: {model: openai/big, api_base: \
     'http://192.0.2.1:8000/v1', rpm: 60, tpm: 9000}\n- model_name: chat\n  litellm_params: {model: \
     openai/big, api_base: 'http://192.0.2.2:8000/v1', rpm: 20}\ngeneral_settings: {master_key: \
     sk-secret}\n",
    // A cloud beside an own server, with fallbacks, and a URL in a variable.
    "model_list:\n- model_name: own\n  litellm_params: {model: openai/own, api_base: \
     os.environ/OWN_BASE, api_key: os.environ/OWN_KEY}\n- model_name: cloud\n  litellm_params: {model: \
     bedrock/anthropic.x, aws_region_name: eu-west-1}\nrouter_settings:\n  fallbacks: [{own: \
     [cloud]}]\n  num_retries: 3\nenvironment_variables: {REDIS_PASSWORD: secret}\n",
    // Embeddings, a prompt that is too long, and all that surrounds a proxy.
    "model_list:\n- model_name: e\n  litellm_params: {model: openai/bge, api_base: \
     'http://192.0.2.3:80'}\n  model_info: {mode: embedding, max_tokens: 512}\n- model_name: short\n  \
     litellm_params: {model: openai/s, api_base: 'http://192.0.2.4'}\n- model_name: long\n  \
     litellm_params: {model: openai/l, api_base: 'http://192.0.2.5'}\nlitellm_settings:\n  \
     context_window_fallbacks: [{short: [long]}]\n  drop_params: true\n  success_callback: \
     [langfuse]\n  cache: true\n  cache_params: {type: redis, password: secret}\nrouter_settings: \
     {routing_strategy: latency-based-routing, timeout: 600}\n",
];

#[test]
fn files_in_different_shapes_become_files_that_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("frontend.yaml");
    for (text, told) in FILES.into_iter().zip([1, 4, 6, 8]) {
        let Ended { code, stdout, stderr } = import(directory.path(), text);
        assert_eq!(code, 0, "{stderr}");
        assert!(!format!("{stdout}{stderr}").contains("secret"), "{stdout}\n{stderr}");
        assert_eq!(stderr.lines().count(), told, "{stderr}");
        for line in stderr.lines() {
            assert!(line.contains("litellm.yaml:"), "{line}");
        }
        fs::write(&made, &stdout).unwrap();
        let variables = [("OWN_BASE", "http://192.0.2.9:8000/v1")];
        let check = finish(FRONTEND, &["config", "check", made.to_str().unwrap()], &variables);
        assert_eq!(check.code, 0, "{stdout}\n{}", check.stderr);
    }
}

#[test]
fn a_translated_file_is_served() {
    let (_big, big) = echo("Qwen/big");
    let (_second, second) = echo("Qwen/big");
    let (_small, small) = echo("Qwen/small");
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "model_list:\n- model_name: gpt-4o\n  litellm_params: {{model: hosted_vllm/Qwen/big, api_base: \
         '{big}/v1', weight: 3}}\n- model_name: gpt-4o\n  litellm_params: {{model: \
         hosted_vllm/Qwen/big, api_base: '{second}', weight: 1}}\n- model_name: gone\n  litellm_params: {{model: openai/lost, api_base: \
         'http://127.0.0.1:1'}}\n- model_name: mini\n  litellm_params: {{model: openai/Qwen/small, \
         api_base: '{small}'}}\nrouter_settings: {{fallbacks: [{{gone: [mini]}}]}}\n"
    );
    let ended = import(directory.path(), &text);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    for share in ["litellm-1, weight: 3}", "litellm-2, weight: 1}"] {
        assert!(ended.stdout.contains(share), "{}", ended.stdout);
    }
    let made = directory.path().join("frontend.yaml");
    fs::write(&made, &ended.stdout).unwrap();
    let flags =
        ["--http-host", "127.0.0.1", "--http-port", "0", "--config", made.to_str().unwrap()];
    let frontend = Running::start(FRONTEND, &flags, &[]);
    let base = format!("http://{}", frontend.wait_for_field("listening", "address"));
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent();
    let listed = || -> Vec<String> {
        let mut answer = agent.get(format!("{base}/v1/models")).call().unwrap();
        let list: Value = answer.body_mut().read_json().unwrap();
        let models = list["data"].as_array().cloned().unwrap_or_default();
        models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    until("both engines are listed", || {
        let listed = listed();
        ["gpt-4o", "mini"].iter().all(|name| listed.iter().any(|other| other == name))
    });
    for (asked, served) in [("gpt-4o", "Qwen/big"), ("mini", "Qwen/small"), ("gone", "Qwen/small")]
    {
        let body = json!({ "model": asked, "messages": [{ "role": "user", "content": "hello" }] });
        let request = agent.post(format!("{base}/v1/chat/completions"));
        let mut answer = request.send_json(body).unwrap();
        assert_eq!(answer.status(), 200, "{asked}");
        assert_eq!(answer.headers()["x-dynamo-model"], served, "{asked}");
        let answer: Value = answer.body_mut().read_json().unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], "hello");
        assert_eq!(answer["model"], asked);
    }
}

#[test]
fn only_a_file_of_a_known_gateway_is_translated() {
    for arguments in [
        &["config", "import", "--from", "envoy", "f.yaml"][..],
        &["config", "import", "f.yaml"],
        &["config", "import", "--from", "litellm"],
        &["config", "import", "--from", "litellm", "/nowhere/f.yaml"],
    ] {
        let ended = finish(FRONTEND, arguments, &[]);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
    }
    let worker = finish(WORKER, &["config", "import", "--from", "litellm", "f.yaml"], &[]);
    assert_eq!(worker.code, 2, "it has no names to translate");
}
