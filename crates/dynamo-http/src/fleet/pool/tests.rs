//! When the server of a request is judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::{FutureExt as _, ready};
use http::{HeaderMap, Method, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::exchange::Own;

/// Confirms each server or none, and counts how often it was asked.
struct Counting {
    confirms: bool,
    asked: AtomicUsize,
}

impl Judge for Counting {
    fn gives_up(&self) -> bool {
        false
    }

    fn sends(&self) {}

    fn confirms(&self) -> BoxFuture<'_, bool> {
        self.asked.fetch_add(1, SeqCst);
        ready(self.confirms).boxed()
    }
}

/// A server that answers everything, and the number of requests that it got.
async fn server() -> (Pool, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {
                    counted.fetch_add(1, SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (Pool::new(&url, Arc::default()), requests)
}

async fn send(pool: &Pool, judge: &Counting) -> Result<(), ExchangeError> {
    let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"{}"));
    let request = Request {
        method: Method::POST,
        target: "/v1/chat/completions",
        headers: &headers,
        own: &[(header::HOST, Own::Is(pool.host()))],
        body: Some(&body),
    };
    let wait = Wait { limit: Duration::from_secs(60), judge };
    let max_idle = Some(Duration::from_secs(60));
    let answer = pool.exchange(&Connector::default(), &request, max_idle, wait).await;
    let (_head, mut connection) = answer?;
    while poll_fn(|cx| connection.poll_data(cx)).await.is_some() {}
    connection.recycle(pool);
    Ok(())
}

#[tokio::test]
async fn a_server_is_judged_with_each_new_connection_and_not_with_one_that_stands() {
    let (pool, requests) = server().await;
    let judge = Counting { confirms: true, asked: AtomicUsize::new(0) };
    for _ in 0..3 {
        send(&pool, &judge).await.unwrap();
    }
    assert_eq!((requests.load(SeqCst), judge.asked.load(SeqCst)), (3, 1));
}

#[tokio::test]
async fn a_server_that_is_not_confirmed_gets_nothing() {
    let (pool, requests) = server().await;
    let judge = Counting { confirms: false, asked: AtomicUsize::new(0) };
    for _ in 0..3 {
        assert!(matches!(send(&pool, &judge).await, Err(ExchangeError::Gone)));
    }
    assert_eq!((requests.load(SeqCst), judge.asked.load(SeqCst)), (0, 3));
}
