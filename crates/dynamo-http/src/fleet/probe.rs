//! Questions to workers: does a server answer, and is it the one that registered?

use std::future::pending;
use std::time::Duration;

use dynamo_discovery::{ControlUrl, InstanceId, InstanceStatus, WorkerState, WorkerUrl};
use http::StatusCode;
use serde_json::Value;
use tokio::time::sleep;

use super::connect::Connector;
use super::identity::Finding;
use super::question::{NoAnswer, Question};
use super::standing::Event;
use super::terms::Terms;

/// The longest list of models that is read, in bytes.
const MAX_LIST: usize = 1 << 20;

/// How long a probe may take: longer than the habit of any engine. As the next one follows at once,
/// three of them that nobody answers are 15 s of silence.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long without an answer of `/health`, another route is asked as well.
const HEALTH_ALONE: Duration = Duration::from_millis(1700);

impl From<NoAnswer> for Finding {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::Refused => Self::Refused,
            NoAnswer::Broken => Self::Broken,
            NoAnswer::Silent => Self::Silent,
            NoAnswer::NotAsked => Self::NotAsked,
        }
    }
}

/// What a question to a control port showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) finding: Finding,
    /// When the engine behind the worker started, in unix seconds, if the worker says so.
    pub(super) engine_started: Option<u64>,
}

impl From<Finding> for Heard {
    fn from(finding: Finding) -> Self {
        Self { finding, engine_started: None }
    }
}

/// Asks a server's `/health`, and `/v1/models` as well where that takes long: some engines answer
/// their health behind the work of a prefill, and their list at once. None: nothing was asked, for
/// want of what this machine lacks.
///
/// With what a server answers hardly matters: one engine has no `/health`, another wants a key.
pub(super) async fn probe(connector: &Connector, url: &WorkerUrl, terms: &Terms) -> Option<Event> {
    let ask = |path, patience| {
        let (authorization, networks) = (terms.key.header(), &terms.networks);
        Question { url, networks, path, authorization, limit: 0, patience }.ask(connector)
    };
    let health = async {
        match ask("/health", PATIENCE).await {
            Ok(answer) if answer.status.is_server_error() => Some(Event::Broken),
            Ok(_) => Some(Event::Healthy),
            Err(NoAnswer::Refused) => Some(Event::Refused),
            Err(NoAnswer::Broken) => Some(Event::Broken),
            Err(NoAnswer::Silent) => Some(Event::Miss),
            Err(NoAnswer::NotAsked) => None,
        }
    };
    let other_route = async {
        sleep(HEALTH_ALONE).await;
        match ask("/v1/models", PATIENCE - HEALTH_ALONE).await {
            Ok(_) => Event::Busy,
            // Then its health says what there is to say.
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        biased;
        event = health => event,
        event = other_route => Some(event),
    }
}

/// Asks a worker's control port whether it knows an instance, and offers it. It gets no key of ours.
pub(super) async fn ask_control(
    connector: &Connector,
    control: &ControlUrl,
    id: InstanceId,
    terms: &Terms,
    patience: Duration,
) -> Heard {
    let path = InstanceStatus::path(id);
    let limit = InstanceStatus::MAX_LEN;
    let (url, networks) = (control.as_worker_url(), &terms.networks);
    let question = Question { url, networks, path: &path, authorization: None, limit, patience };
    match question.ask(connector).await {
        Ok(answer) if answer.status == StatusCode::OK => {
            match InstanceStatus::from_json(&answer.body) {
                Ok(status) => {
                    let withdraws = status.state == WorkerState::Draining;
                    let finding = if withdraws { Finding::Withdrawn } else { Finding::Answers };
                    Heard { finding, engine_started: status.engine_started }
                }
                Err(_) => Finding::Broken.into(),
            }
        }
        // Another worker answers there, or something that is no worker.
        Ok(_) => Finding::Refused.into(),
        Err(why) => Finding::from(why).into(),
    }
}

/// Asks whether a server lists a model in `/v1/models`.
pub(super) async fn ask_for_model(
    connector: &Connector,
    url: &WorkerUrl,
    model: &str,
    terms: &Terms,
    patience: Duration,
) -> Finding {
    let (authorization, networks, path) = (terms.key.header(), &terms.networks, "/v1/models");
    let question = Question { url, networks, path, authorization, limit: MAX_LIST, patience };
    let answer = match question.ask(connector).await {
        Ok(answer) if answer.status == StatusCode::OK => answer,
        Ok(_) => return Finding::Broken,
        Err(why) => return why.into(),
    };
    let list: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let names = list["data"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str());
    if names.into_iter().any(|name| name == model) { Finding::Answers } else { Finding::Refused }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::network::Networks;
    use super::*;

    /// Terms with a key.
    fn keyed() -> Terms {
        let terms = Terms::default();
        terms.key.set("k").unwrap();
        terms
    }

    async fn probe_of(answer: &'static str) -> (Option<Event>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let connector = Connector::default();
        let probe = probe(&connector, &url, &keyed()).await;
        (probe, server.await.unwrap())
    }

    #[tokio::test]
    async fn whatever_is_no_server_error_is_an_answer() {
        for answer in ["200 OK", "404 Not Found", "401 Unauthorized", "307 Temporary Redirect"] {
            let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(probe_of(text.leak()).await.0, Some(Event::Healthy), "{answer}");
        }
        for answer in ["HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n", "", "no http\r\n\r\n"] {
            assert_eq!(probe_of(answer).await.0, Some(Event::Broken), "{answer}");
        }
    }

    #[tokio::test]
    async fn it_asks_below_the_base_path_and_with_the_key() {
        let (_, request) = probe_of("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(request.starts_with("GET /base/health HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer k\r\n"), "{request}");
    }

    /// A server that answers these paths only, with 200, and takes every connection.
    async fn answering(paths: &'static [&str]) -> WorkerUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                if paths.contains(&path) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                } else {
                    silent.push(stream);
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn a_server_is_silent_when_neither_its_health_nor_its_list_answers() {
        let connector = Connector::default();
        for (paths, expected) in
            [(&["/v1/models"][..], Event::Busy), (&["/health"], Event::Healthy), (&[], Event::Miss)]
        {
            let url = answering(paths).await;
            assert_eq!(
                probe(&connector, &url, &Terms::default()).await,
                Some(expected),
                "{paths:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        assert_eq!(
            probe(&Connector::default(), &url, &Terms::default()).await,
            Some(Event::Refused)
        );
    }

    /// What a question shows whose answer is this text, and what was asked.
    async fn asked<F: Future<Output = Finding>>(
        answer: String,
        ask: impl FnOnce(String) -> F,
    ) -> (Finding, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (ask(url).await, server.await.unwrap())
    }

    fn with_body(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn only_the_worker_that_knows_the_id_and_offers_its_models_proves_an_instance() {
        let connector = Connector::default();
        let serving = r#"{"state":"serving","engine":"silent"}"#;
        let draining = r#"{"state":"draining","engine":"healthy"}"#;
        for (answer, expected) in [
            (with_body("200 OK", serving), Finding::Answers),
            (with_body("200 OK", draining), Finding::Withdrawn),
            (with_body("404 Not Found", ""), Finding::Refused),
            (with_body("307 Temporary Redirect", serving), Finding::Refused),
            (with_body("200 OK", "welcome"), Finding::Broken),
            (with_body("200 OK", &" ".repeat(InstanceStatus::MAX_LEN + 1)), Finding::Broken),
            (String::new(), Finding::Broken),
        ] {
            let ask = async |url: String| {
                let control = url.parse().unwrap();
                ask_control(&connector, &control, InstanceId(0xab), &keyed(), SOON).await.finding
            };
            let (finding, request) = asked(answer.clone(), ask).await;
            assert_eq!(finding, expected, "{answer}");
            assert!(request.starts_with("GET /instance/ab HTTP/1.1\r\n"), "{request}");
            assert!(!request.contains("authorization"), "{request}");
        }
    }

    #[tokio::test]
    async fn no_question_goes_to_an_address_outside_of_the_namespaces_networks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}", listener.local_addr().unwrap());
        let networks = Networks::of(["192.0.2.0/24".parse().unwrap()]);
        let (connector, terms) = (Connector::default(), Terms { networks, ..keyed() });
        let (url, control) = (here.parse().unwrap(), here.parse().unwrap());
        let id = InstanceId(0xab);
        assert_eq!(probe(&connector, &url, &terms).await, Some(Event::Refused));
        assert_eq!(
            ask_control(&connector, &control, id, &terms, SOON).await,
            Finding::Refused.into()
        );
        assert_eq!(ask_for_model(&connector, &url, "m", &terms, SOON).await, Finding::Refused);
        let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(connected.is_err(), "nobody has connected");
    }

    #[tokio::test]
    async fn a_server_that_lists_another_model_is_not_taken_for_the_one_that_registered() {
        let connector = Connector::default();
        for (body, expected) in [
            (r#"{"data":[{"id":"n"},{"id":"m"}]}"#, Finding::Answers),
            (r#"{"data":[{"id":"n"}]}"#, Finding::Refused),
            (r#"{"data":[]}"#, Finding::Refused),
            ("[]", Finding::Refused),
        ] {
            let ask = async |url: String| {
                let url = format!("{url}/base").parse().unwrap();
                ask_for_model(&connector, &url, "m", &keyed(), SOON).await
            };
            let (finding, request) = asked(with_body("200 OK", body), ask).await;
            assert_eq!(finding, expected, "{body}");
            assert!(request.starts_with("GET /base/v1/models HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("authorization: Bearer k\r\n"), "{request}");
        }
    }
}
