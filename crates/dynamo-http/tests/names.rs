//! Workers that are registered by name: several addresses, and addresses that change.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use common::{Answer, Door, Worker, chat, instance, post, soon, stream_until, whole};
use dynamo_http::{FrontendConfig, Resolve, ResolveError, Resolving, ServeOptions};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

/// A resolver that says of every name what the test says.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Said>>);

#[derive(Clone, Debug, Default)]
enum Said {
    Found(Vec<IpAddr>),
    NotFound,
    #[default]
    NoAnswer,
}

impl Fake {
    fn says(&self, said: Said) {
        *self.0.lock().unwrap() = said;
    }

    fn finds(&self, addresses: &[&str]) {
        self.says(Said::Found(addresses.iter().map(|one| one.parse().unwrap()).collect()));
    }
}

impl Resolve for Fake {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        let said = self.0.lock().unwrap().clone();
        Box::pin(std::future::ready(match said {
            Said::Found(addresses) => Ok(addresses),
            Said::NotFound => Err(ResolveError::NotFound),
            Said::NoAnswer => Err(ResolveError::NoAnswer("SERVFAIL".into())),
        }))
    }
}

/// A front door with a model whose worker is registered by name, and two addresses of this machine.
/// Two servers can have the same port there.
async fn stage() -> (Door, Fake, [TcpListener; 2]) {
    let fake = Fake::default();
    let config = FrontendConfig::new().with_resolver(Arc::new(fake.clone()));
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    let one = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = one.local_addr().unwrap().port();
    let two = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let url = format!("http://gpu-7.example:{port}");
    door.add(&instance("a", "m", "Chat", Some(&url)));
    (door, fake, [one, two])
}

#[tokio::test]
async fn a_busy_server_moves_to_the_new_address_of_its_name_and_running_answers_end_first() {
    let (door, fake, [one, two]) = stage().await;
    let go_on = Arc::new(Notify::new());
    let one = Worker::on(one, [stream_until(&go_on), whole("{}")]);
    let two = Worker::on(two, [whole("{}")]);
    fake.finds(&["127.0.0.2"]);
    let stream = door.begin(post(CHAT, &chat("m"))).await;
    one.until_asked().await;
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }

    fake.finds(&["127.0.0.3"]);
    // It is never idle, so no connection ends by itself.
    soon(async {
        while two.asked() == 0 {
            assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
        }
    })
    .await;
    let before = one.asked();
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
    assert_eq!(one.asked(), before, "the old address gets nothing more");
    go_on.notify_one();
    let answer = soon(Answer::read(stream)).await;
    assert!(answer.is_whole() && answer.raw.contains("[DONE]"), "{answer:?}");
}

#[tokio::test]
async fn a_name_with_several_addresses_is_one_server_which_is_there_while_one_of_them_is() {
    let (door, fake, [one, two]) = stage().await;
    drop(one);
    let two = Worker::on(two, [whole("{}")]);
    fake.finds(&["127.0.0.2", "169.254.169.254", "127.0.0.3"]);
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
    assert_eq!(two.asked(), 4);
    let health = door.get("/health").await.json();
    assert_eq!(health["instances"].as_array().unwrap().len(), 1);
    assert_eq!(health["instances"][0].get("out_of_rotation"), None);
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_ejects_nobody_and_a_name_that_is_gone_does() {
    let (door, fake, [one, _two]) = stage().await;
    let _worker = Worker::on(one, [whole("{}")]);
    let out = async || door.get("/health").await.json()["instances"][0]["out_of_rotation"].clone();
    for _ in 0..3 {
        let answer = door.post(CHAT, &chat("m")).await;
        assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
        assert_eq!(out().await, serde_json::Value::Null);
    }
    fake.finds(&["127.0.0.2"]);
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);

    let (door, fake, _addresses) = stage().await;
    fake.says(Said::NotFound);
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
    let health = door.get("/health").await.json();
    assert_eq!(health["instances"][0]["out_of_rotation"], "unreachable");
}
