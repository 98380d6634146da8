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
    /// It did not answer in time, which proves nothing: a burst of requests blocks some engines. What
    /// was asked.
    Silent(String),
}

/// Asks `/health`, and where there is none `/v1/models`.
pub(super) async fn probe(client: &Client, timeout: Duration) -> Probe {
    let [health, models] = ["/health", "/v1/models"];
    match status(client, health, timeout).await {
        Ok(StatusCode::NOT_FOUND) => match status(client, models, timeout).await {
            Ok(StatusCode::NOT_FOUND) => {
                Probe::Failed(format!("404 from {} and from {models}", client.asked(health)))
            }
            answer => judge(answer, client.asked(models)),
        },
        answer => judge(answer, client.asked(health)),
    }
}

async fn status(client: &Client, path: &str, timeout: Duration) -> Result<StatusCode, NoAnswer> {
    client.get(path, timeout).await.map(|answer| answer.status)
}

fn judge(answer: Result<StatusCode, NoAnswer>, asked: String) -> Probe {
    match answer {
        Ok(status) if status.is_success() => Probe::Healthy,
        // It wants a key, or less of us: it is there.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
            Probe::Healthy
        }
        Ok(StatusCode::SERVICE_UNAVAILABLE) => Probe::Loading,
        Ok(status) => Probe::Failed(format!("{} from {asked}", status.as_u16())),
        Err(NoAnswer::Silence) => Probe::Silent(asked),
        Err(NoAnswer::Broken(error)) => Probe::Failed(format!("{error}, from {asked}")),
    }
}

/// For logs, in a few words.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Loading => f.write_str("503, not ready yet"),
            Self::Failed(why) => f.write_str(why),
            Self::Silent(asked) => write!(f, "no answer in time from {asked}"),
        }
    }
}
