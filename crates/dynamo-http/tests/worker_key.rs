//! The key for workers: what reaches them in place of the client's.

mod common;

use common::{Door, Worker, chat, post, whole};
use dynamo_http::{FrontendConfig, ServeOptions};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_workers_key_takes_the_place_of_the_clients_and_changes_while_we_run() {
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::default();
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));

    let request = post(CHAT, &chat("m"))
        .replace("host: d", "host: d\r\nauthorization: Bearer mine\r\nauthorization: Bearer twice");
    assert_eq!(door.ask(&request).await.status(), 200);
    for key in ["first", "second"] {
        config.worker_key().set(key).unwrap();
        assert_eq!(door.ask(&request).await.status(), 200);
    }
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);

    let seen = worker.requests.lock().unwrap().clone();
    let keys = |request: &String| -> Vec<String> {
        let authorization = |line: &str| line.strip_prefix("authorization: ").map(str::to_owned);
        request.lines().filter_map(authorization).collect()
    };
    let seen: Vec<_> = seen.iter().map(keys).collect();
    let expected: [&[&str]; 4] = [
        &["Bearer mine", "Bearer twice"],
        &["Bearer first"],
        &["Bearer second"],
        &["Bearer second"],
    ];
    assert_eq!(seen, expected);
}
