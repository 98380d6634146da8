//! What a worker's control port says of one instance.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model_key::InstanceId;

/// The answer of a control port to `GET /instance/{id}`, for the id of its own worker.
///
/// It is one JSON object of at most [`MAX_LEN`](Self::MAX_LEN) bytes. Unknown fields are ignored, and
/// all but `state` and `engine` may be missing.
///
/// ```
/// use dynamo_discovery::{EngineState, InstanceStatus, WorkerState};
///
/// let answer = br#"{"state":"serving","engine":"silent","silent_seconds":12,"models":["m"]}"#;
/// let status = InstanceStatus::from_json(answer)?;
/// assert_eq!((status.state, status.engine), (WorkerState::Serving, EngineState::Silent));
/// assert_eq!((status.silent_seconds, status.running), (12, None));
/// # Ok::<(), dynamo_discovery::InvalidStatus>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// What the worker does.
    pub state: WorkerState,
    /// What the engine is to its worker.
    pub engine: EngineState,
    /// For how many seconds the worker has heard nothing of the engine.
    #[serde(default)]
    pub silent_seconds: u64,
    /// The models that the engine serves; all of them, unless there is [`more`](Self::more).
    #[serde(default)]
    pub models: Vec<String>,
    /// Requests that the engine generates for, where it tells.
    #[serde(default)]
    pub running: Option<u64>,
    /// Requests that wait in the engine's queue, where it tells.
    #[serde(default)]
    pub waiting: Option<u64>,
    /// Those of the models that are adapters (LoRA) of another one; all of them, unless there is
    /// [`more`](Self::more).
    #[serde(default)]
    pub adapters: Vec<String>,
    /// When the engine started, in unix seconds; where the worker does not run it itself, when it was
    /// first seen alive, or seen again after it had refused connections or failed. None before that.
    #[serde(default)]
    pub engine_started: Option<u64>,
    /// Whether names were left out, since the answer would have been too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It waits for its engine: no model is offered.
    Starting,
    /// It offers models.
    Serving,
    /// It withdraws its models or has withdrawn them, on purpose; its engine goes on.
    Draining,
}

/// What an engine is to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// It answers, or has not yet failed often enough.
    Healthy,
    /// It accepts connections and answers nothing. A burst of requests does that to some engines.
    Silent,
    /// It refuses connections, breaks them off, answers with errors, or is not ready.
    Failing,
}

/// Why an answer is no [`InstanceStatus`]. It does not repeat the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStatus {
    /// It is longer than [`InstanceStatus::MAX_LEN`].
    #[error("the answer is longer than {} bytes", InstanceStatus::MAX_LEN)]
    TooLarge,
    /// It is not JSON of the right shape.
    #[error("the answer is not an instance's status in JSON (line {line}, column {column})")]
    Json {
        /// Line of the answer, from 1.
        line: usize,
        /// Column of the line, from 1.
        column: usize,
    },
}

impl InstanceStatus {
    /// The longest answer in bytes.
    pub const MAX_LEN: usize = 4096;

    /// The status without models, figures and times.
    pub fn new(state: WorkerState, engine: EngineState) -> Self {
        Self {
            state,
            engine,
            silent_seconds: 0,
            models: Vec::new(),
            running: None,
            waiting: None,
            adapters: Vec::new(),
            engine_started: None,
            more: false,
        }
    }

    /// The path at which a control port answers for an instance.
    pub fn path(id: InstanceId) -> String {
        format!("/instance/{id}")
    }

    /// The answer. Names that do not fit are left out, adapters before models, and `more` says so.
    pub fn to_json(&self) -> Bytes {
        let json = write(self);
        if json.len() <= Self::MAX_LEN {
            return json.into();
        }
        let bare = Self { models: Vec::new(), adapters: Vec::new(), more: true, ..self.clone() };
        let mut left = Self::MAX_LEN.saturating_sub(write(&bare).len());
        let mut fitting = |names: &[String]| -> Vec<String> {
            let fits = |name: &&String| {
                // With its comma.
                let length = write(name).len() + 1;
                let fits = length <= left;
                left -= if fits { length } else { left };
                fits
            };
            names.iter().take_while(fits).cloned().collect()
        };
        let models = fitting(&self.models);
        let adapters = fitting(&self.adapters);
        write(&Self { models, adapters, ..bare }).into()
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// When it is too long, or not of this shape; no message repeats it.
    pub fn from_json(answer: &[u8]) -> Result<Self, InvalidStatus> {
        if answer.len() > Self::MAX_LEN {
            return Err(InvalidStatus::TooLarge);
        }
        // Serde would take an array as well.
        if answer.trim_ascii_start().first() != Some(&b'{') {
            return Err(InvalidStatus::Json { line: 1, column: 1 });
        }
        serde_json::from_slice(answer)
            .map_err(|error| InvalidStatus::Json { line: error.line(), column: error.column() })
    }
}

fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value)
        .unwrap_or_else(|_| unreachable!("strings and numbers always serialize"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_answer_is_as_the_reference_has_it() {
        let status = InstanceStatus {
            silent_seconds: 1,
            models: vec!["base".into(), "lora".into()],
            running: Some(3),
            adapters: vec!["lora".into()],
            engine_started: Some(1_790_000_000),
            ..InstanceStatus::new(WorkerState::Serving, EngineState::Healthy)
        };
        let json = r#"{"state":"serving","engine":"healthy","silent_seconds":1,"models":["base","lora"],"running":3,"waiting":null,"adapters":["lora"],"engine_started":1790000000}"#;
        assert_eq!(status.to_json(), json);
        assert_eq!(InstanceStatus::from_json(json.as_bytes()), Ok(status));
    }

    #[test]
    fn what_is_no_answer_of_a_control_port_is_refused() {
        for answer in [
            "",
            "{}",
            "[]",
            "OK",
            r#"["serving","healthy"]"#,
            r#"{"state":"x","engine":"healthy"}"#,
        ] {
            let error = InstanceStatus::from_json(answer.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidStatus::Json { .. }), "{answer}: {error}");
        }
        let long = " ".repeat(InstanceStatus::MAX_LEN + 1);
        assert_eq!(InstanceStatus::from_json(long.as_bytes()), Err(InvalidStatus::TooLarge));
    }

    proptest! {
        #[test]
        fn every_answer_fits_and_says_when_it_is_not_whole(
            models in proptest::collection::vec("[ -~]{1,256}", 0..40),
            adapters in 0..40_usize,
        ) {
            let adapters = models.iter().take(adapters).cloned().collect();
            let status = InstanceStatus {
                models,
                adapters,
                ..InstanceStatus::new(WorkerState::Serving, EngineState::Healthy)
            };
            let told = InstanceStatus::from_json(&status.to_json()).unwrap();
            prop_assert!(status.models.starts_with(&told.models));
            prop_assert!(status.adapters.starts_with(&told.adapters));
            if told.more {
                prop_assert!(told.models.len() < status.models.len() || told.adapters.len() < status.adapters.len());
            } else {
                prop_assert_eq!(told, status);
            }
        }
    }
}
