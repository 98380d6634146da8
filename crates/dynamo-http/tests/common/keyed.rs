//! A front door that asks for keys, and a second port for operators.

use std::sync::Arc;

use dynamo_discovery::{DiscoveryEvent, Instance, ModelUpdate};
use dynamo_http::{
    ApiKey, ApiKeys, Feed, Frontend, FrontendConfig, KeyHash, KeyList, ServeOptions, Source,
    Switchboard, serve,
};
use dynamo_namespace::NamespaceScope;
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Answer, batch, chat, post, scope, soon};

const CHAT: &str = "/v1/chat/completions";
pub const A: &str = "key-of-team-a-that-nobody-guesses";
pub const B: &str = "key-of-team-b-that-nobody-guesses";

/// A front door with keys, and a port for operators.
pub struct Door {
    pub address: String,
    pub admin: String,
    keys: ApiKeys,
    pub config: FrontendConfig,
    pub events: mpsc::UnboundedSender<DiscoveryEvent>,
}

pub fn key(name: &str, key: &str, namespace: &str) -> ApiKey {
    ApiKey::new(name.parse().unwrap(), KeyHash::of(key).unwrap(), scope(namespace))
}

pub fn both() -> Vec<ApiKey> {
    vec![key("team-a", A, "a"), key("team-b", B, "b")]
}

impl Door {
    /// A door that knows these instances.
    pub async fn open(keys: Vec<ApiKey>, instances: &[Arc<Instance>]) -> Self {
        let door = Self::starting(keys).await;
        door.synced(instances).await;
        door
    }

    /// Has discovery tell which instances there are.
    pub async fn synced(&self, instances: &[Arc<Instance>]) {
        let added = instances.iter().cloned().map(ModelUpdate::Added).collect();
        self.events.send(batch(added, true)).unwrap();
        soon(async {
            while ask(&self.admin, get("/ready", None)).await.status() != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// A door before discovery has told anything.
    pub async fn starting(keys: Vec<ApiKey>) -> Self {
        Self::starting_with(keys, ServeOptions::default()).await
    }

    /// The same, with options for the port of the clients.
    pub async fn starting_with(keys: Vec<ApiKey>, options: ServeOptions) -> Self {
        Self::starting_as(keys, options, FrontendConfig::new()).await
    }

    /// The same, as this configuration says.
    pub async fn starting_as(
        keys: Vec<ApiKey>,
        options: ServeOptions,
        config: FrontendConfig,
    ) -> Self {
        let (switchboard, writer) = Switchboard::new([NamespaceScope::All]);
        let (events, mut received) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx)).boxed();
        let feed = Feed::new(writer, [Source::new("etcd", stream)]);
        let api_keys = ApiKeys::new(feed.scopes());
        let config = config.with_api_keys(Some(api_keys.clone()));
        let frontend = Frontend::new(&switchboard, &NamespaceScope::All, feed.status(), &config);
        tokio::spawn(feed.run());
        let address = listen_with(frontend.router(), options).await;
        let admin = listen(frontend.admin_router(super::local_admin())).await;
        let door = Self { address, admin, keys: api_keys, config, events };
        door.replace(keys).await;
        door
    }

    pub async fn replace(&self, keys: Vec<ApiKey>) {
        self.keys.replace(&KeyList::new(keys, &NamespaceScope::All).unwrap()).await.unwrap();
    }

    pub async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(&self.address)).await.unwrap()
    }

    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        ask(&self.address, request).await
    }

    pub async fn get(&self, path: &str, key: Option<&str>) -> Answer {
        self.ask(get(path, key)).await
    }

    pub async fn chat(&self, model: &str, key: &str) -> Answer {
        self.ask(with_key(post(CHAT, &chat(model)), key)).await
    }

    pub async fn metrics(&self) -> String {
        ask(&self.admin, get("/metrics", None)).await.raw
    }
}

pub async fn listen(router: axum::Router) -> String {
    listen_with(router, ServeOptions::default()).await
}

async fn listen_with(router: axum::Router, options: ServeOptions) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, router, options, std::future::pending()));
    address
}

pub async fn ask(address: &str, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    soon(Answer::read(stream)).await
}

pub fn get(path: &str, key: Option<&str>) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n");
    key.map_or(request.clone(), |key| with_key(request, key))
}

pub fn with_key(request: impl Into<String>, key: &str) -> String {
    request.into().replacen(
        "host: d\r\n",
        &format!("host: d\r\nauthorization: Bearer {key}\r\n"),
        1,
    )
}

/// An answer without what differs from one to the next.
pub fn bare(answer: &Answer, name: &str) -> String {
    let of = |header| answer.header(header).unwrap_or("none").to_owned();
    let (date, id) = (of("date"), of("x-request-id"));
    answer.raw.replace(name, "NAME").replace(&date, "DATE").replace(&id, "ID")
}

/// The same, whatever the order of its headers, which a body that is not read changes.
pub fn sorted(answer: &Answer) -> Vec<String> {
    let mut lines: Vec<_> = bare(answer, "?").lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Reads one answer with a length from a connection that goes on.
pub async fn next_answer(stream: &mut TcpStream) -> String {
    let mut raw = String::new();
    soon(async {
        let mut byte = [0];
        while !raw.ends_with("\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            raw.push(byte[0].into());
        }
        let length = raw.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        raw.push_str(&String::from_utf8(body).unwrap());
    })
    .await;
    raw
}
