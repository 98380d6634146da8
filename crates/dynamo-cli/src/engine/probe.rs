//! One probe of an engine: which of its routes answer, and how.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use super::client::{Client, NoAnswer};

/// What one probe showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// `/health` answers well.
    Healthy,
    /// `/health` does not answer, and another route does: the engine generates, and lives.
    Busy,
    /// It answers that it is not ready (503), as engines do while they load a model.
    Loading,
    /// It breaks off, or answers that it is broken; in one line.
    Failed(String),
    /// Nobody listens at its address. What was asked.
    Refused(String),
    /// No route answered in time, which proves nothing: a burst of requests blocks some engines. What
    /// was asked.
    Silent(String),
}

impl Probe {
    /// The names of all probes, as they are counted.
    pub(crate) const NAMES: [&'static str; 6] =
        ["healthy", "busy", "loading", "failed", "refused", "silent"];

    /// Its place among the names.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Healthy => 0,
            Self::Busy => 1,
            Self::Loading => 2,
            Self::Failed(_) => 3,
            Self::Refused(_) => 4,
            Self::Silent(_) => 5,
        }
    }

    /// Whether it shows a server that lives. A connection that breaks off shows none: it may be a
    /// forwarder's.
    pub(crate) fn shows_life(&self) -> bool {
        matches!(self, Self::Healthy | Self::Busy | Self::Loading)
    }
}

/// Asks `/health`, and `/v1/models` where there is none. `/v1/models` is asked as well when a third
/// of the time has passed: engines answer it without generating.
pub(super) async fn probe(client: &Client, timeout: Duration) -> Probe {
    let [health, models] = ["/health", "/v1/models"];
    let mut asking = pin!(status(client, health, timeout));
    let patience = timeout / 3;
    let mut beside = pin!(async {
        sleep(patience).await;
        status(client, models, timeout - patience).await
    });
    let mut lives = None;
    let answer = loop {
        tokio::select! {
            answer = &mut asking => break answer,
            other = &mut beside, if lives.is_none() => lives = Some(other.is_ok()),
        }
    };
    match answer {
        Ok(StatusCode::NOT_FOUND) => match status(client, models, timeout).await {
            Ok(StatusCode::NOT_FOUND) => {
                Probe::Failed(format!("404 from {} and from {models}", client.asked(health)))
            }
            answer => judge(answer, client.asked(models)),
        },
        Err(NoAnswer::Silence) if lives == Some(true) => Probe::Busy,
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
        Err(NoAnswer::Refused) => Probe::Refused(asked),
        Err(NoAnswer::Broken(error)) => Probe::Failed(format!("{error}, from {asked}")),
    }
}

/// For logs, in a few words.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Busy => f.write_str("/health does not answer in time, /v1/models does"),
            Self::Loading => f.write_str("503, not ready yet"),
            Self::Failed(why) => f.write_str(why),
            Self::Refused(asked) => write!(f, "connection refused, from {asked}"),
            Self::Silent(asked) => write!(f, "no answer in time from {asked}"),
        }
    }
}
