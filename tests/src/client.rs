//! A client of a front door.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{becomes, eventually, soon};

/// The route that most tests use.
const CHAT: &str = "/v1/chat/completions";

/// What a test says that does not care.
const PROMPT: &str = "one two";

/// A real HTTP client of one server.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The engine that gave the answer; empty if the answer is an error.
    pub fn engine(&self) -> Option<String> {
        (self.status == 200).then(|| self.json()["engine"].as_str().unwrap_or_default().to_owned())
    }
}

impl Client {
    /// A client of the server at this base URL.
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), http: reqwest::Client::new() }
    }

    /// The server's base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A client of the same server that sends a key with every request.
    pub fn with_key(&self, key: &str) -> Self {
        let value = format!("Bearer {key}").parse().unwrap();
        let headers = [(reqwest::header::AUTHORIZATION, value)].into_iter().collect();
        let http = reqwest::Client::builder().default_headers(headers).build().unwrap();
        Self { base: self.base.clone(), http }
    }

    /// Sends a GET for a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, None).await
    }

    /// Posts JSON to a path.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        soon(path, async {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            Answer { status, body: response.text().await.unwrap() }
        })
        .await
    }

    /// Sends a chat to a model.
    pub async fn chat(&self, model: &str) -> Answer {
        self.prompt(model, PROMPT).await
    }

    /// Sends a chat with this text to a model.
    pub async fn prompt(&self, model: &str, text: &str) -> Answer {
        self.post(CHAT, &chat(model, text, false)).await
    }

    /// Sends a chat to a model, and returns at the head of the answer.
    pub async fn stream(&self, model: &str) -> reqwest::Response {
        let request =
            self.http.post(format!("{}{CHAT}", self.base)).json(&chat(model, PROMPT, true));
        soon("the head of a stream", request.send()).await.unwrap()
    }

    /// The models in `/v1/models`.
    pub async fn models(&self) -> Vec<String> {
        let list = self.get("/v1/models").await.json();
        let ids = list["data"].as_array().unwrap().iter();
        ids.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    }

    /// The routes that are open.
    pub async fn routes(&self) -> Vec<String> {
        let health = self.get("/health").await.json();
        let routes = health["routes"].as_array().unwrap().iter();
        routes.map(|route| route.as_str().unwrap().to_owned()).collect()
    }

    /// The sum of a metric over all of its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").await.body;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        metrics.lines().filter_map(of).sum()
    }

    /// The bytes that the server sends back for a request, on a connection of its own.
    pub async fn raw(&self, method: &str, path: &str, body: &str) -> String {
        let address = self.base.trim_start_matches("http://");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        soon(path, async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await
    }
}

/// Waits until a front door lists exactly these models.
pub async fn lists(client: &Client, models: &[&str]) {
    let models = models.iter().map(|&model| model.to_owned()).collect();
    becomes("the models that are listed", models, async || client.models().await).await;
}

/// Waits until the front door says that its store is connected, or that it is not.
pub async fn connected(client: &Client, connected: bool) {
    let wanted = f64::from(u8::from(connected));
    eventually("the store is there or not", async || {
        client.metric("dynamo_frontend_discovery_connected").await == wanted
    })
    .await;
}

fn chat(model: &str, text: &str, stream: bool) -> Value {
    json!({
        "model": model, "stream": stream, "messages": [{ "role": "user", "content": text }],
    })
}
