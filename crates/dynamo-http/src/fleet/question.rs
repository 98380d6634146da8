//! One question to a server or to a control port, over a connection of its own.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dynamo_discovery::WorkerUrl;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;

use super::connect::{ConnectError, Connector};
use super::network::Networks;
use crate::exchange::{self, Own, Request};

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
        let mut connection = exchange::Connection::new(transport);
        let host = uri.authority().and_then(|host| host.as_str().parse().ok());
        let path = format!("{}{}", uri.path().trim_end_matches('/'), self.path);
        let close = HeaderValue::from_static("close");
        let own = [
            (header::HOST, host.as_ref().map_or(Own::Omitted, Own::Is)),
            (header::CONNECTION, Own::Is(&close)),
            (header::AUTHORIZATION, self.authorization.as_ref().map_or(Own::Omitted, Own::Is)),
        ];
        let request = Request {
            method: Method::GET,
            target: &path,
            headers: &HeaderMap::new(),
            own: &own,
            body: None,
        };
        let answer = connection.ask(&request).await.map_err(|_| NoAnswer::Broken)?;
        let mut body = BytesMut::new();
        while self.limit > 0
            && let Some(data) = connection.data().await
        {
            body.extend_from_slice(&data.map_err(|_| NoAnswer::Broken)?);
            if body.len() > self.limit {
                return Err(NoAnswer::Broken);
            }
        }
        Ok(Answer { status: answer.status(), body: body.freeze() })
    }
}
