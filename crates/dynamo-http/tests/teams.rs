//! One front door for several teams: no team makes it call another team's engine.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use common::{Door, Worker, chat, instance, whole};
use dynamo_http::{FrontendConfig, Network, Resolve, Resolving, ServeOptions, WorkerKey};
use tokio::net::TcpListener;

const CHAT: &str = "/v1/chat/completions";

/// A resolver to which every name is team-a's engine.
#[derive(Debug)]
struct AllAreTeamA;

impl Resolve for AllAreTeamA {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 2])])))
    }
}

/// A front door where team-a is at 127.0.0.2 and team-b at 127.0.0.3, with a key each; and an engine
/// at each address, at the same port.
async fn stage() -> (Door, [Worker; 2], u16) {
    let namespace = |name: &str| name.parse().unwrap();
    let network = |text: &str| -> Vec<Network> { vec![text.parse().unwrap()] };
    let key = |text: &str| {
        let key = WorkerKey::default();
        key.set(text).unwrap();
        key
    };
    let config = FrontendConfig::new()
        .with_namespace_networks(
            [("team-a", "127.0.0.2"), ("team-b", "127.0.0.3")]
                .map(|(name, text)| (namespace(name), network(text)))
                .into(),
        )
        .with_namespace_keys(["team-a", "team-b"].map(|name| (namespace(name), key(name))).into())
        .with_resolver(Arc::new(AllAreTeamA));
    let door = Door::with("global", &config, ServeOptions::default()).await;
    let one = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = one.local_addr().unwrap().port();
    let two = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    (door, [one, two].map(|listener| Worker::on(listener, [whole("{}")])), port)
}

/// The keys that a worker was sent.
fn keys(worker: &Worker) -> Vec<String> {
    let seen = worker.requests.lock().unwrap();
    let key = |request: &String| {
        let key = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
        key.unwrap_or("none").to_owned()
    };
    seen.iter().map(key).collect()
}

#[tokio::test]
async fn no_team_makes_the_front_door_call_the_engine_of_another_one_nor_with_its_key() {
    let (mut door, [of_a, of_b], port) = stage().await;
    let theirs = format!("http://127.0.0.2:{port}");
    let thieves = [
        ("team-b", "by-address", theirs.clone()),
        ("team-b", "in-ipv6", format!("http://[::ffff:127.0.0.2]:{port}")),
        ("team-b", "by-name", format!("http://engine.team-b.example:{port}")),
        // Whoever may write team-b's entries may call itself a generation of team-b.
        ("team-b-0f3c9a1b", "of-a-generation", theirs.clone()),
        ("team-c", "of-nobody", theirs.clone()),
        ("global", "of-all", theirs.clone()),
    ];
    for (namespace, model, url) in &thieves {
        door.add(&instance(namespace, model, "Chat", Some(url)));
        let answer = door.post(CHAT, &chat(model)).await;
        assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"), "{model}");
    }
    assert_eq!(of_a.connections.load(SeqCst), 0, "no probe came either");

    door.add(&of_a.instance("team-a", "a"));
    door.add(&of_b.instance("team-b", "b"));
    for model in ["a", "b", "a", "b"] {
        assert_eq!(door.post(CHAT, &chat(model)).await.status(), 200, "{model}");
    }
    assert_eq!((keys(&of_a), keys(&of_b)), (vec!["team-a".into(); 2], vec!["team-b".into(); 2]));
    // Now there are connections to team-a's engine that could be used.
    for (_, model, _) in &thieves {
        assert_ne!(door.post(CHAT, &chat(model)).await.status(), 200, "{model}");
    }
    assert_eq!(of_a.asked(), 2);
}

#[tokio::test]
async fn an_engine_that_two_teams_name_gets_the_key_of_the_team_that_may_call_it() {
    let (mut door, [of_a, _of_b], _) = stage().await;
    door.add(&of_a.instance("team-b", "m"));
    door.add(&of_a.instance("team-a", "m"));
    for _ in 0..6 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
    assert_eq!(keys(&of_a), ["team-a"; 6]);
}
