//! All layers in one process, over the store in memory: how a program of your own embeds them.
//!
//! ```text
//! cargo run -p dynamo-cli --example embedded             # stays up until Ctrl-C
//! cargo run -p dynamo-cli --example embedded -- --once   # ends after the story
//! ```
//!
//! Two teams share one store. Each has a frontend of its own; a worker of `team-a` comes and goes,
//! and real requests show what each frontend makes of it. With etcd instead of the memory, put an
//! `EtcdStore` where the `MemoryStore` is: nothing else changes.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_cli::EchoEngine;
use dynamo_discovery::{
    Kind, Kinds, MemoryStore, ModelEntry, ModelWatcher, Registration, RegistrationConfig, WorkerUrl,
};
use dynamo_http::{Feed, Frontend, FrontendConfig, ServeOptions, Source, Switchboard, serve};
use dynamo_namespace::{EndpointId, NamespaceScope, names};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    match story().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn story() -> Result<()> {
    let once = std::env::args().skip(1).any(|argument| argument == "--once");
    // What ends the servers, when it is set.
    let stop = watch::Sender::new(false);

    // 1. The store that everyone shares. A clone is the same store.
    let store = MemoryStore::new();

    // 2. A frontend for each team.
    let (team_a, serving_a) = start_frontend(&store, "team-a", stop.subscribe()).await?;
    let (team_b, serving_b) = start_frontend(&store, "team-b", stop.subscribe()).await?;
    println!("frontends: team-a at {team_a}, team-b at {team_b}");

    title("No worker is there: the route is closed");
    team_a.chat("hello").await?.expect(503, "endpoint_disabled")?;

    // 3. An engine, and its model in the store.
    let engine = start_engine(stop.subscribe()).await?;
    let registration = register(&store, "team-a", &engine).await?;

    title("A worker of team-a has registered: its route is open");
    team_a.wait_for(200).await?;
    team_a.models().await?.expect(200, "demo")?;
    team_a.chat("hello").await?.expect(200, "hello")?;

    title("The same as a stream, event by event");
    team_a.stream("one two three").await?;

    title("To team-b nothing has changed, and the model is not there");
    team_b.chat("hello").await?.expect(503, "endpoint_disabled")?;

    if !once {
        title("All of it stays up; Ctrl-C ends it");
        println!(
            "  curl -N {team_a}/v1/chat/completions -H 'content-type: application/json' -d '{}'",
            request("hello there", true)
        );
        tokio::signal::ctrl_c().await?;
    }

    // 4. Withdrawing marks the entry as draining before it is deleted, so that nobody takes it for
    //    a crash. (Dropped instead, the entry would stay until its lease ends.)
    registration.withdraw().await?;
    title("The worker has withdrawn: the route is closed again");
    team_a.wait_for(503).await?;
    team_a.chat("hello").await?.expect(503, "endpoint_disabled")?;

    // 5. The servers drain: requests in flight finish, and nothing is left behind.
    stop.send_replace(true);
    let (a, b) = (serving_a.await?, serving_b.await?);
    if a && b { Ok(()) } else { Err("a request outlasted the drain".into()) }
}

/// What a frontend is made of. `dynamo-frontend` does the same, over etcd.
async fn start_frontend(
    store: &MemoryStore,
    namespace: &str,
    mut stop: watch::Receiver<bool>,
) -> Result<(Address, JoinHandle<bool>)> {
    // Whose models: those of one namespace. Without one, of all.
    let scope = NamespaceScope::from_target(Some(namespace))?;

    // The watcher lists and watches the store, and never ends; while the store is away, what was
    // known stands.
    let watcher = ModelWatcher::watch(Arc::new(store.clone()), Some(namespace))?;

    // The switchboard knows which routes are open. One task writes it, the feed; the routes read it
    // without a lock.
    let (switchboard, writer) = Switchboard::new([scope.clone()]);
    let feed = Feed::new(writer, [Source::new("memory", watcher.into_stream())]);

    // The front door: every route is in the router from the start, open or closed.
    let frontend = Frontend::new(&switchboard, &scope, feed.status(), &FrontendConfig::default());
    tokio::spawn(feed.run());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = Address(format!("http://{}", listener.local_addr()?));
    let router = frontend.router();
    let serving = tokio::spawn(serve(listener, router, ServeOptions::default(), async move {
        // An error is a story that has ended already.
        let _ = stop.wait_for(|stop| *stop).await;
        frontend.drain();
    }));
    // Until the watcher has listed the store once, a closed route says `discovery_not_ready`.
    address.until("/ready", 200).await?;
    Ok((address, serving))
}

/// An OpenAI-compatible server; any will do. This one repeats what it is told.
async fn start_engine(mut stop: watch::Receiver<bool>) -> Result<WorkerUrl> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?).parse()?;
    let engine = EchoEngine { models: vec!["demo".to_owned()], delay: Duration::from_millis(50) };
    tokio::spawn(engine.serve(listener, async move {
        let _ = stop.wait_for(|stop| *stop).await;
    }));
    Ok(url)
}

/// Puts a worker's model into the store, under a lease that is renewed for as long as the
/// registration lives.
async fn register(store: &MemoryStore, namespace: &str, url: &WorkerUrl) -> Result<Registration> {
    let endpoint =
        EndpointId::new(namespace.parse()?, names::BACKEND_COMPONENT, names::GENERATE_ENDPOINT)?;
    // The kinds decide which routes the model opens.
    let kinds = Kinds::from_iter([Kind::Chat, Kind::Completions]);
    let entry = ModelEntry::new("demo", endpoint, kinds)?.with_url(url.clone());
    let config = RegistrationConfig::new(Arc::new(store.clone()));
    Ok(Registration::publish(config, vec![entry]).await?)
}

// From here on: a client that prints what it asks and what it gets.

/// The base URL of a frontend.
#[derive(Clone)]
struct Address(String);

struct Answer {
    status: u16,
    body: String,
}

impl Address {
    async fn models(&self) -> Result<Answer> {
        let answer = self.ask("/v1/models", None).await?;
        println!("  GET /v1/models → {} {}", answer.status, answer.body);
        Ok(answer)
    }

    async fn chat(&self, text: &str) -> Result<Answer> {
        let answer = self.ask("/v1/chat/completions", Some(request(text, false))).await?;
        println!("  POST /v1/chat/completions → {} {}", answer.status, answer.body);
        Ok(answer)
    }

    /// Reads a stream to its end, as it comes.
    async fn stream(&self, text: &str) -> Result<()> {
        let url = format!("{}/v1/chat/completions", self.0);
        let request = request(text, true);
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let response = ureq::post(url).send_json(request)?;
            let mut last = String::new();
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                let line = line?;
                if !line.is_empty() {
                    println!("  {:4} ms  {line}", began.elapsed().as_millis());
                    last = line;
                }
            }
            if last == "data: [DONE]" { Ok(()) } else { Err("the stream broke off".into()) }
        })
        .await?
    }

    /// Asks until the route answers with this status.
    async fn wait_for(&self, status: u16) -> Result<()> {
        self.until("/v1/chat/completions", status).await
    }

    async fn until(&self, path: &'static str, status: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let body = (path != "/ready").then(|| request("hello", false));
            if self.ask(path, body).await.is_ok_and(|answer| answer.status == status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{path} has not answered {status} in time").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&self, path: &str, body: Option<Value>) -> Result<Answer> {
        let url = format!("{}{path}", self.0);
        tokio::task::spawn_blocking(move || {
            // An error is an answer as well.
            let agent: ureq::Agent =
                ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut response = match body {
                Some(body) => agent.post(url).send_json(body)?,
                None => agent.get(url).call()?,
            };
            let status = response.status().as_u16();
            Ok(Answer { status, body: response.body_mut().read_to_string()? })
        })
        .await?
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Answer {
    fn expect(&self, status: u16, part: &str) -> Result<()> {
        if self.status == status && self.body.contains(part) {
            Ok(())
        } else {
            Err(format!("expected {status} and {part:?}").into())
        }
    }
}

fn request(text: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": text }]);
    json!({ "model": "demo", "stream": stream, "messages": messages })
}

fn title(text: &str) {
    println!("\n== {text}");
}
