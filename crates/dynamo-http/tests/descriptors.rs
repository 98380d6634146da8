//! What a front door does that has no file descriptor left. A process of its own: the limit is the
//! process's.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd as _;

use common::{Door, Worker, chat, soon, whole};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends a request on an open connection, and returns the answer, which has a length.
async fn ask(client: &mut TcpStream) -> String {
    let body = chat("m");
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: d\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = soon(client.read(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn a_front_door_without_descriptors_says_that_it_is_overloaded_and_blames_no_worker() {
    let workers = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    let mut door = Door::open("a").await;
    for worker in &workers {
        door.add(&worker.instance("a", "m"));
    }
    // The client's connection is accepted before descriptors run out.
    let mut client = soon(TcpStream::connect(&door.address)).await.unwrap();
    client.write_all(b"GET /live HTTP/1.1\r\nhost: d\r\n\r\n").await.unwrap();
    assert_ne!(soon(client.read(&mut [0; 1024])).await.unwrap(), 0);

    let limit = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    let none_left = Rlimit { current: Some(u64::try_from(next).unwrap()), ..limit };
    setrlimit(Resource::Nofile, none_left).unwrap();
    for _ in 0..4 {
        let answer = ask(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""code":"overloaded""#), "{answer}");
    }
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(workers.each_ref().map(Worker::asked), [0, 0]);
    let health = door.get("/health").await.raw;
    assert!(!health.contains("out_of_rotation"), "{health}");
    let answer = ask(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
