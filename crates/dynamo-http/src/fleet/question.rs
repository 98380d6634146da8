//! One question to a server or to a control port, over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::WorkerUrl;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use tokio::time::timeout;

use super::connect::{ConnectError, Connector};
use super::network::Networks;

/// An answer that came in time, with a body that was read up to the limit.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Nobody takes a connection there.
    Refused,
    /// The connection broke, or the answer is no HTTP, or its body is longer than the limit.
    Broken,
    /// Nothing came in time.
    Silent,
    /// The question was not sent, for want of what this machine lacks.
    NotAsked,
}

/// A `GET` of a path below a base URL. It follows no redirect.
pub(super) struct Question<'a> {
    pub(super) url: &'a WorkerUrl,
    pub(super) networks: &'a Networks,
    pub(super) path: &'a str,
    pub(super) authorization: Option<HeaderValue>,
    /// The longest body, in bytes; zero: the body is left unread.
    pub(super) limit: usize,
    pub(super) patience: Duration,
}

impl Question<'_> {
    pub(super) async fn ask(self, connector: &Connector) -> Result<Answer, NoAnswer> {
        let patience = self.patience;
        timeout(patience, self.exchange(connector)).await.unwrap_or(Err(NoAnswer::Silent))
    }

    async fn exchange(self, connector: &Connector) -> Result<Answer, NoAnswer> {
        let uri = self.url.to_uri();
        let connected = connector.connect(self.url, self.networks).await;
        let transport =
            connected.map(|connected| connected.transport).map_err(|error| match error {
                ConnectError::Ours(_) => NoAnswer::NotAsked,
                // A listener whose queue is full drops packets: it is as silent as a stopped one.
                ConnectError::Theirs(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    NoAnswer::Silent
                }
                ConnectError::Theirs(_) => NoAnswer::Refused,
            })?;
        let (mut sender, connection) =
            http1::handshake(transport).await.map_err(|_| NoAnswer::Broken)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        let path = format!("{}{}", uri.path().trim_end_matches('/'), self.path);
        *request.uri_mut() = path.parse().map_err(|_| NoAnswer::Broken)?;
        let headers = request.headers_mut();
        if let Some(host) = uri.authority().and_then(|host| host.as_str().parse().ok()) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(authorization) = self.authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let limit = self.limit;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|_| NoAnswer::Broken)?;
            let status = answer.status();
            let body = match limit {
                0 => Bytes::new(),
                _ => {
                    let body = Limited::new(answer.into_body(), limit).collect().await;
                    body.map_err(|_| NoAnswer::Broken)?.to_bytes()
                }
            };
            Ok(Answer { status, body })
        };
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }
}
