//! One probe of an engine.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::client::{Client, NoAnswer};

/// What one probe showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// It answers.
    Healthy,
    /// It answers that it is not ready (503), as engines do while they load a model.
    Loading,
    /// It refuses, breaks off, or answers that it is broken; in one line.
    Failed(String),
    /// It did not answer in time, which proves nothing: a burst of requests blocks some engines.
    Silent,
}

/// Asks `/health`, and where there is none `/v1/models`.
pub(super) async fn probe(client: &Client, timeout: Duration) -> Probe {
    match status(client, "/health", timeout).await {
        Ok(StatusCode::NOT_FOUND) => match status(client, "/v1/models", timeout).await {
            Ok(StatusCode::NOT_FOUND) => {
                Probe::Failed("404 from /health and from /v1/models".to_owned())
            }
            answer => judge(answer, "/v1/models"),
        },
        answer => judge(answer, "/health"),
    }
}

async fn status(client: &Client, path: &str, timeout: Duration) -> Result<StatusCode, NoAnswer> {
    client.get(path, timeout).await.map(|answer| answer.status)
}

fn judge(answer: Result<StatusCode, NoAnswer>, path: &str) -> Probe {
    match answer {
        Ok(status) if status.is_success() => Probe::Healthy,
        // It wants a key, or less of us: it is there.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
            Probe::Healthy
        }
        Ok(StatusCode::SERVICE_UNAVAILABLE) => Probe::Loading,
        Ok(status) => Probe::Failed(format!("{} from {path}", status.as_u16())),
        Err(NoAnswer::Silence) => Probe::Silent,
        Err(NoAnswer::Broken(error)) => Probe::Failed(error.to_string()),
    }
}

/// For logs, in a few words.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Loading => f.write_str("503, not ready yet"),
            Self::Failed(why) => f.write_str(why),
            Self::Silent => f.write_str("no answer in time"),
        }
    }
}
