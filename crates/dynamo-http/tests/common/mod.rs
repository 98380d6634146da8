//! A front door on a real port, workers that do as they are told, and a client that sees every byte.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, missing_debug_implementations, missing_docs, reason = "test code")]

pub mod keyed;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_discovery::{DiscoveryEvent, Gone, Instance, Key, Kinds, ModelEntry, ModelUpdate};
use dynamo_http::{
    AdminAccess, Feed, Frontend, FrontendConfig, ServeOptions, Switchboard, SwitchboardWriter,
    serve, update_http_endpoints,
};
use dynamo_namespace::NamespaceScope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

/// The deadline of one event that a test waits for. It only ends tests that would hang.
pub const SOON: Duration = Duration::from_secs(60);

pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("it did not happen in time")
}

/// A front door whose models the test sets by hand.
pub struct Door {
    pub address: String,
    pub writer: SwitchboardWriter,
    pub frontend: Frontend,
    stop: Option<oneshot::Sender<()>>,
    pub served: tokio::task::JoinHandle<bool>,
}

/// Access to an admin port on this machine, without a key, by the name that the tests' requests have.
pub fn local_admin() -> AdminAccess {
    AdminAccess::new(std::net::Ipv4Addr::LOCALHOST.into()).with_hosts(["d".to_owned()])
}

pub fn scope(namespace: &str) -> NamespaceScope {
    NamespaceScope::from_target(Some(namespace)).unwrap()
}

impl Door {
    pub async fn open(namespace: &str) -> Self {
        let mut door =
            Self::with(namespace, &FrontendConfig::default(), ServeOptions::default()).await;
        door.writer.stage_ready();
        door.writer.publish();
        door
    }

    /// A door before discovery has told anything.
    pub async fn with(namespace: &str, config: &FrontendConfig, options: ServeOptions) -> Self {
        let scope = scope(namespace);
        let (switchboard, writer) = Switchboard::new([scope.clone()]);
        // A feed of its own, for the status only.
        let (_, idle) = Switchboard::new([]);
        let status = Feed::new(idle, []).status();
        let frontend = Frontend::new(&switchboard, &scope, status, config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = frontend.service();
        let served = tokio::spawn(serve(listener, service, options, async {
            let _ = stopped.await;
        }));
        Self { address, writer, frontend, stop: Some(stop), served }
    }

    pub fn add(&mut self, instance: &Arc<Instance>) {
        update_http_endpoints(&mut self.writer, &[ModelUpdate::Added(instance.clone())]);
    }

    pub fn remove(&mut self, instance: &Arc<Instance>) {
        let gone = ModelUpdate::Removed(instance.clone(), Gone::Withdrawn);
        update_http_endpoints(&mut self.writer, &[gone]);
    }

    pub fn shut_down(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }

    /// Sends a request and returns the connection, on which the answer will come.
    pub async fn begin(&self, request: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = soon(TcpStream::connect(&self.address)).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        stream
    }

    /// Sends a request and returns the whole answer, when the connection ends.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let stream = self.begin(request).await;
        soon(Answer::read(stream)).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(post(path, body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n")).await
    }
}

pub fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

/// An address where nothing listens.
pub async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// The bytes of an answer, to the end of the connection.
#[derive(Debug)]
pub struct Answer {
    pub raw: String,
    /// Whether the connection ended by a reset.
    pub reset: bool,
}

impl Answer {
    pub async fn read(mut stream: TcpStream) -> Self {
        let mut raw = Vec::new();
        let reset = stream.read_to_end(&mut raw).await.is_err();
        Self { raw: String::from_utf8_lossy(&raw).into_owned(), reset }
    }

    pub fn status(&self) -> u16 {
        self.raw.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.raw.split("\r\n\r\n").next().unwrap();
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn body(&self) -> &str {
        self.raw.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.raw))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether a chunked body has its last chunk.
    pub fn is_whole(&self) -> bool {
        self.raw.ends_with("0\r\n\r\n")
    }
}

/// An instance that answers at `url`.
pub fn instance(namespace: &str, model: &str, kinds: &str, url: Option<&str>) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let mut entry = ModelEntry::new(model, endpoint, Kinds::parse(kinds).kinds).unwrap();
    if let Some(url) = url {
        entry = entry.with_url(url.parse().unwrap());
    }
    let key = format!("models/{namespace}/{model}/{}", url.unwrap_or_default());
    Arc::new(Instance::new(Key::from(key), None, entry))
}

/// A worker: for each request it gets, in order, it plays the next script; the last one repeats.
pub struct Worker {
    pub url: String,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<std::sync::atomic::AtomicUsize>,
    probed: watch::Sender<usize>,
    pub closed: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    /// Closes the connection.
    Close,
    /// Resets it: the peer gets an error, not an end.
    Reset,
    /// Waits until the peer is gone.
    AwaitPeer,
    /// Waits until the test says so.
    Await(Arc<Notify>),
}

pub fn send(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Send(bytes.into())
}

/// A whole answer with a length.
pub fn whole(body: &str) -> Vec<Act> {
    vec![send(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))]
}

pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

pub fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// A stream of one event, and when the test says so of its end.
pub fn stream_until(go_on: &Arc<Notify>) -> Vec<Act> {
    vec![
        send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))),
        Act::Await(go_on.clone()),
        send(format!("{}0\r\n\r\n", chunk("data: [DONE]\n\n"))),
    ]
}

impl Worker {
    pub async fn start(scripts: impl Into<Vec<Vec<Act>>>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), scripts)
    }

    pub fn on(listener: TcpListener, scripts: impl Into<Vec<Vec<Act>>>) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let scripts: Vec<Vec<Act>> = scripts.into();
        let scripts = Arc::new(Mutex::new(scripts));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let probed = watch::Sender::new(0);
        let closed = Arc::new(Notify::new());
        let task = tokio::spawn({
            let (requests, connections) = (requests.clone(), connections.clone());
            let (probed, closed) = (probed.clone(), closed.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let (scripts, requests) = (scripts.clone(), requests.clone());
                    tokio::spawn(play(stream, scripts, requests, probed.clone(), closed.clone()));
                }
            }
        });
        Self { url, requests, connections, probed, closed, task }
    }

    pub fn instance(&self, namespace: &str, model: &str) -> Arc<Instance> {
        instance(namespace, model, "Chat | Completions", Some(&self.url))
    }

    pub fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Waits for the first request.
    pub async fn until_asked(&self) {
        soon(async {
            while self.asked() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until it was probed so many times more.
    pub async fn until_probed(&self, times: usize) {
        let mut probed = self.probed.subscribe();
        let enough = *probed.borrow() + times;
        soon(probed.wait_for(|&probed| probed >= enough)).await.unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn play(
    mut stream: TcpStream,
    scripts: Arc<Mutex<Vec<Vec<Act>>>>,
    requests: Arc<Mutex<Vec<String>>>,
    probed: watch::Sender<usize>,
    closed: Arc<Notify>,
) {
    while let Some(request) = read_request(&mut stream).await {
        // A probe is none of the test's requests.
        if request.starts_with("GET /health ") {
            probed.send_modify(|probed| *probed += 1);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        requests.lock().unwrap().push(request);
        let script = {
            let mut scripts = scripts.lock().unwrap();
            if scripts.len() > 1 { scripts.remove(0) } else { scripts[0].clone() }
        };
        for act in script {
            match act {
                Act::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        closed.notify_one();
                        return;
                    }
                }
                Act::Close => return,
                Act::Reset => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
                Act::AwaitPeer => {
                    let mut rest = [0; 1024];
                    while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {}
                    closed.notify_one();
                    return;
                }
                Act::Await(signal) => signal.notified().await,
            }
        }
    }
    closed.notify_one();
}

/// A request, head and body, as it was sent.
pub async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut raw = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&raw).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned)
                })
                .and_then(|length| length.trim().parse::<usize>().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => raw.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

/// An event of a source that says what there is.
pub fn batch(updates: Vec<ModelUpdate>, resync: bool) -> DiscoveryEvent {
    let mut batch = dynamo_discovery::DiscoveryBatch::default();
    batch.updates = updates;
    batch.resync = resync;
    DiscoveryEvent::Batch(batch)
}
