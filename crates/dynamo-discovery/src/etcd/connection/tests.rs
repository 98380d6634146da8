//! How a user is authenticated, against a server that plays an etcd whose check of passwords fails.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Credentials, EtcdConfig, EtcdStore};
use super::*;
use crate::store::{KeyRange, WatchStore as _};

/// The codes of gRPC that the server answers with.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const UNAVAILABLE: &str = "14";

/// An etcd with authentication. It knows four methods.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// How many checks of a password fail before one succeeds.
    failing: usize,
    /// When the checks began.
    checks: Vec<Instant>,
    running: usize,
    most_running: usize,
}

impl Fake {
    async fn start(failing: usize) -> (Self, EtcdStore) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self(Arc::new(Mutex::new(Seen { failing, ..Seen::default() })));
        let this = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(this.clone().serve(stream));
            }
        });
        let config = EtcdConfig::new([endpoint])
            .with_credentials(Credentials::new("user", "password"))
            .with_call_timeout(Duration::from_millis(200));
        (fake, EtcdStore::new(config).unwrap())
    }

    async fn serve(self, stream: TcpStream) {
        let Ok(mut connection) = server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        let has_token = request.headers().contains_key("token");
        // A header of etcd's with a cluster id, which is field 1 of all three answers.
        let header: &[u8] = &[0x0a, 2, 0x08, 1];
        let (code, told, message) = match request.uri().path() {
            "/etcdserverpb.Auth/Authenticate" => match self.check().await {
                true => (OK, "", [header, &[0x12, 1, b't']].concat()),
                false => (UNAVAILABLE, "etcdserver: no leader", Vec::new()),
            },
            "/etcdserverpb.Cluster/MemberList" => (OK, "", header.to_vec()),
            _ if has_token => (OK, "", header.to_vec()),
            _ => (INVALID_ARGUMENT, "etcdserver: user name is empty", Vec::new()),
        };
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static(code));
        status.insert("grpc-message", HeaderValue::from_static(told));
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        if code != OK {
            headers.extend(status);
            let _ = respond.send_response(response, true);
            return;
        }
        let Ok(mut body) = respond.send_response(response, false) else { return };
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let _ = body.send_data([&[0], &length[..], &message].concat().into(), false);
        let _ = body.send_trailers(status);
    }

    /// Checks a password, which takes a moment.
    async fn check(&self) -> bool {
        {
            let mut seen = self.0.lock().unwrap();
            seen.checks.push(Instant::now());
            seen.running += 1;
            seen.most_running = seen.most_running.max(seen.running);
        }
        sleep(Duration::from_millis(20)).await;
        let mut seen = self.0.lock().unwrap();
        seen.running -= 1;
        seen.checks.len() > seen.failing
    }
}

#[tokio::test]
async fn a_check_of_the_password_that_fails_is_asked_for_again_after_longer_and_longer_waits() {
    let failing = 3;
    let (fake, store) = Fake::start(failing).await;
    let range = KeyRange::prefix("models/");
    // Many who call at once, and do not wait between their calls.
    let call = async || {
        while store.list(&range).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    let all = async { tokio::join!(call(), call(), call(), call()) };
    timeout(Duration::from_secs(60), all).await.expect("let in");
    let seen = fake.0.lock().unwrap();
    assert_eq!((seen.checks.len(), seen.most_running), (failing + 1, 1), "one at a time");
    let waits: Vec<_> = seen.checks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Each wait is at least half of its span, and a busy machine only makes it longer.
    let mut span = AUTHENTICATE_RETRY.0;
    for wait in waits {
        assert!(wait >= span / 2, "{wait:?} of {span:?}");
        span *= 2;
    }
}
