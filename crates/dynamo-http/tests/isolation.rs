//! Isolation: the salt that engines get, who shares one, and which workers get requests.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;

use common::keyed::{self, A, B, both, key, with_key};
use common::{Door, Worker, chat, nowhere, post, whole};
use dynamo_discovery::{Accepts, Instance, RequestField};
use dynamo_http::{
    Alias, AliasTable, AliasTarget, Aliases, FrontendConfig, Isolation, ServeOptions, UsageMode,
};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The salt of `team-a` by this secret, without and with the client's own salt `chat-7`.
const OF_TEAM_A: &str = "LfsVPV_LsyQLoUfddzWGn4SNgULn9jNS8mvCXWEO1Lc";
const OF_TEAM_A_7: &str = "tLuwaKKiN4rKjk-wY9_-DKvTJACrXt09KYwaJlVf3jw";

fn isolated() -> FrontendConfig {
    FrontendConfig::new().with_isolation(Some(Isolation::new(SECRET).unwrap()))
}

fn best_effort() -> FrontendConfig {
    FrontendConfig::new().with_isolation(Some(Isolation::new(SECRET).unwrap().best_effort()))
}

/// The same instance, whose worker accepts these fields.
fn accepting<const N: usize>(instance: &Instance, fields: [RequestField; N]) -> Arc<Instance> {
    let entry = instance.entry().clone().with_accepts(Accepts::from_iter(fields));
    Arc::new(Instance::new(instance.key().clone(), None, entry))
}

fn salted(worker: &Worker, namespace: &str, model: &str) -> Arc<Instance> {
    accepting(&worker.instance(namespace, model), [RequestField::CacheSalt])
}

async fn door(namespace: &str, config: &FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    let mut door = Door::with(namespace, config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for instance in instances {
        door.add(instance);
    }
    door
}

async fn keyed(config: FrontendConfig, instances: &[Arc<Instance>]) -> keyed::Door {
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), config).await;
    door.synced(instances).await;
    door
}

/// The bodies that the worker got.
fn bodies(worker: &Worker) -> Vec<String> {
    let requests = worker.requests.lock().unwrap();
    requests.iter().map(|request| request.split_once("\r\n\r\n").unwrap().1.to_owned()).collect()
}

/// The salts that the worker got.
fn salts(worker: &Worker) -> Vec<Option<String>> {
    let salt = |body: &String| {
        let body: Value = serde_json::from_str(body).unwrap();
        body.get("cache_salt").map(|salt| salt.as_str().unwrap().to_owned())
    };
    bodies(worker).iter().map(salt).collect()
}

#[tokio::test]
async fn keys_with_equal_prompts_have_different_salts_and_a_key_has_the_same_at_every_frontend() {
    let worker = Worker::start([whole("{}")]).await;
    let instances = [salted(&worker, "a", "m"), salted(&worker, "b", "m")];
    for _ in 0..2 {
        let door = keyed(isolated(), &instances).await;
        for key in [A, B] {
            assert_eq!(door.chat("m", key).await.status(), 200);
        }
    }
    let got: Vec<_> = salts(&worker).into_iter().map(Option::unwrap).collect();
    assert_eq!(got[0], OF_TEAM_A);
    assert_ne!(got[1], got[0]);
    assert_eq!(got[2..], got[..2]);

    let other = Isolation::new(&[7; 32]).unwrap();
    let door = keyed(FrontendConfig::new().with_isolation(Some(other)), &instances).await;
    assert_eq!(door.chat("m", A).await.status(), 200);
    let last = salts(&worker).pop().unwrap().unwrap();
    assert!(!got.contains(&last), "another secret makes another salt");
}

#[tokio::test]
async fn the_own_salt_of_a_client_parts_its_requests_and_reaches_nobody_elses() {
    let worker = Worker::start([whole("{}")]).await;
    let door = keyed(isolated(), &[salted(&worker, "a", "m"), salted(&worker, "b", "m")]).await;
    // What B sends here is what A's requests have at the engine.
    for (key, own) in [(A, "chat-7"), (A, "chat-8"), (B, "chat-7"), (B, OF_TEAM_A), (A, "chat-7")] {
        let body = format!(r#"{{"model":"m","cache_salt":"{own}"}}"#);
        assert_eq!(door.ask(with_key(post(CHAT, &body), key)).await.status(), 200);
    }
    let got: Vec<_> = salts(&worker).into_iter().map(Option::unwrap).collect();
    assert_eq!((got[0].as_str(), &got[4]), (OF_TEAM_A_7, &got[0]));
    for (at, salt) in got[..4].iter().enumerate() {
        assert!(!got[..at].contains(salt) && salt != OF_TEAM_A, "{at}: {got:?}");
    }
}

#[tokio::test]
async fn without_keys_the_scope_has_the_salt_and_only_the_salt_changes() {
    let worker = Worker::start([whole("{}")]).await;
    let config = isolated();
    let door = door("team-a", &config, &[salted(&worker, "team-a", "m")]).await;
    let body =
        |salt: &str| format!("{{ \"é\":1.50, \"cache_s\\u0061lt\" :\n{salt}, \"model\":\"m\" }}");
    assert_eq!(door.post(CHAT, &body("\"chat-7\"")).await.status(), 200);
    assert_eq!(door.post(CHAT, " { \"model\":\"m\", \"é\":1.50 }").await.status(), 200);
    let inserted = format!(" {{\"cache_salt\":\"{OF_TEAM_A}\", \"model\":\"m\", \"é\":1.50 }}");
    assert_eq!(bodies(&worker), [body(&format!("\"{OF_TEAM_A_7}\"")), inserted]);
}

#[tokio::test]
async fn several_salts_and_those_that_are_no_string_go_nowhere() {
    let worker = Worker::start([whole("{}")]).await;
    let several = r#"{"model":"m","cache_salt":"a","cache_salt":"b"}"#;
    for config in [isolated(), best_effort()] {
        let door = door("a", &config, &[salted(&worker, "a", "m")]).await;
        for body in [several, r#"{"model":"m","cache_salt":7}"#] {
            assert_eq!(door.post(CHAT, body).await.status(), 400, "{body}");
        }
    }
    assert_eq!(worker.asked(), 0);
    let plain = door("a", &FrontendConfig::new(), &[salted(&worker, "a", "m")]).await;
    assert_eq!(plain.post(CHAT, several).await.status(), 200);
    assert_eq!(bodies(&worker), [several], "nothing at all without the setting");
}

#[tokio::test]
async fn a_worker_that_does_not_accept_a_salt_gets_no_request() {
    let (deaf, hearing) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let deaf_one = accepting(&deaf.instance("a", "m"), [RequestField::IncludeUsage]);
    let mut door = door("a", &isolated(), std::slice::from_ref(&deaf_one)).await;
    for path in [CHAT, "/v1/completions", "/v1/responses"] {
        let refused = door.post(path, &chat("m")).await;
        assert_eq!((refused.status(), refused.code().as_str()), (503, "isolation_unavailable"));
        assert_eq!(refused.header("retry-after"), None, "a wait changes nothing");
        assert!(refused.body().contains("cache_salt"), "{refused:?}");
    }
    door.add(&salted(&hearing, "a", "m"));
    for _ in 0..8 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
    assert_eq!((deaf.asked(), hearing.asked()), (0, 8));
}

#[tokio::test]
async fn no_failure_sends_a_request_to_a_worker_that_does_not_accept_a_salt() {
    let deaf = Worker::start([whole("{}")]).await;
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    let busy = Worker::start([vec![common::send(busy)]]).await;
    let gone = common::instance("a", "gone", "Chat", Some(&nowhere().await));
    let gone = accepting(&gone, [RequestField::CacheSalt]);
    let instances =
        [deaf.instance("a", "m"), salted(&busy, "a", "m"), deaf.instance("a", "gone"), gone];
    let door = door("a", &isolated(), &instances).await;
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 503, "the refusal is passed on");
        assert_eq!(door.post(CHAT, &chat("gone")).await.status(), 502);
    }
    assert_eq!((deaf.asked(), busy.asked()), (0, 4));
}

#[tokio::test]
async fn with_best_effort_such_a_worker_gets_the_body_as_it_came() {
    let (deaf, hearing) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let instances = [deaf.instance("a", "one"), salted(&hearing, "a", "two")];
    let door = door("a", &best_effort(), &instances).await;
    let body = |model| format!(r#"{{"model":"{model}","cache_salt":"own"}}"#);
    for model in ["one", "two"] {
        assert_eq!(door.post(CHAT, &body(model)).await.status(), 200);
    }
    assert_eq!(bodies(&deaf), [body("one")]);
    let got = salts(&hearing).remove(0).unwrap();
    assert_eq!(got.len(), 43);
}

#[tokio::test]
async fn the_salt_goes_with_the_name_of_an_alias_and_the_usage() {
    let (deaf, hearing) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let both = [RequestField::CacheSalt, RequestField::IncludeUsage];
    let instances =
        [deaf.instance("team-a", "first"), accepting(&hearing.instance("team-a", "second"), both)];
    let alias =
        Alias::new("gpt", [AliasTarget::new("first")]).with_fallback([AliasTarget::new("second")]);
    let aliases = Aliases::default();
    aliases.replace(AliasTable::new([alias]).unwrap());
    let config = isolated().with_aliases(aliases).with_usage(UsageMode::Ask);
    let door = door("team-a", &config, &instances).await;
    let got = door.post(CHAT, r#"{"model":"gpt","stream":true,"cache_salt":"chat-7"}"#).await;
    assert_eq!((got.status(), got.header("x-dynamo-model")), (200, Some("second")));
    let expected = format!(
        r#"{{"stream_options":{{"include_usage":true}},"model":"second","stream":true,"cache_salt":"{OF_TEAM_A_7}"}}"#
    );
    assert_eq!(bodies(&hearing), [expected]);
    assert_eq!(deaf.asked(), 0);
}

#[tokio::test]
async fn where_prompts_were_placed_is_known_by_the_salt_that_engines_get() {
    let worker = Worker::start([whole("{}")]).await;
    // Two keys of one scope share what is known of placed prompts, but not these.
    let keys = vec![key("one", A, "a"), key("two", B, "a")];
    let door = keyed::Door::starting_as(keys, ServeOptions::default(), isolated()).await;
    door.synced(&[salted(&worker, "a", "m")]).await;
    let prompt = "x".repeat(8 << 10);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
    let known = async |key| {
        assert_eq!(door.ask(with_key(post(CHAT, &body), key)).await.status(), 200);
        let (name, metrics) = ("dynamo_frontend_expected_cached_tokens_sum", door.metrics().await);
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(known(A).await, 0.0);
    assert_eq!(known(B).await, 0.0, "another salt");
    assert!(known(A).await > 0.0);
}
