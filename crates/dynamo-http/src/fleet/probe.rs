//! One question to a worker's server: does it answer?

use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::WorkerUrl;
use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use tokio::time::timeout;

use super::connect::{ConnectError, Connector};

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It answers. With what hardly matters: one engine has no `/health`, another wants a key.
    Answers,
    /// It takes no connection.
    Refused,
    /// It broke off, or answered that it is broken or not ready (5xx).
    Broken,
    /// It did not answer in time.
    Silent,
    /// It was not asked, for want of what this machine lacks.
    NotAsked,
}

/// Asks a server's `/health`, over a connection of its own.
pub(crate) async fn probe(
    connector: &Connector,
    url: &WorkerUrl,
    authorization: Option<HeaderValue>,
    patience: Duration,
) -> Finding {
    let uri = url.to_uri();
    let ask = async {
        let transport = match connector.connect(&uri).await {
            Ok(transport) => transport,
            Err(ConnectError::Ours(_)) => return Finding::NotAsked,
            // A listener whose queue is full drops what comes: as silent as one that is stopped.
            Err(ConnectError::Theirs(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Finding::Silent;
            }
            Err(ConnectError::Theirs(_)) => return Finding::Refused,
        };
        let Ok((mut sender, connection)) = http1::handshake(transport).await else {
            return Finding::Broken;
        };
        let mut request = Request::new(Empty::<Bytes>::new());
        let path = format!("{}/health", uri.path().trim_end_matches('/'));
        *request.uri_mut() = path.parse().unwrap_or_else(|_| unreachable!("a valid path"));
        let headers = request.headers_mut();
        if let Some(host) = uri.authority().and_then(|host| host.as_str().parse().ok()) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let answer = sender.send_request(request);
        tokio::pin!(connection, answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        };
        match answer {
            Ok(answer) if !answer.status().is_server_error() => Finding::Answers,
            Ok(_) | Err(_) => Finding::Broken,
        }
    };
    timeout(patience, ask).await.unwrap_or(Finding::Silent)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn probe_of(answer: &'static str) -> (Finding, String) {
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
        let key = Some(HeaderValue::from_static("Bearer k"));
        let probe = probe(&connector, &url, key, Duration::from_secs(20)).await;
        (probe, server.await.unwrap())
    }

    #[tokio::test]
    async fn whatever_is_no_server_error_is_an_answer() {
        for answer in ["200 OK", "404 Not Found", "401 Unauthorized", "307 Temporary Redirect"] {
            let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(probe_of(text.leak()).await.0, Finding::Answers, "{answer}");
        }
        for answer in ["HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n", "", "no http\r\n\r\n"] {
            assert_eq!(probe_of(answer).await.0, Finding::Broken, "{answer}");
        }
    }

    #[tokio::test]
    async fn it_asks_below_the_base_path_and_with_the_key() {
        let (_, request) = probe_of("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(request.starts_with("GET /base/health HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer k\r\n"), "{request}");
    }

    #[tokio::test]
    async fn one_that_says_nothing_is_silent_and_one_that_is_not_there_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connector = Connector::default();
        let patience = Duration::from_millis(50);
        assert_eq!(probe(&connector, &url, None, patience).await, Finding::Silent);
        drop(listener);
        let patience = Duration::from_secs(20);
        assert_eq!(probe(&connector, &url, None, patience).await, Finding::Refused);
    }
}
