//! The value of an entry: one model that one worker serves.

#[cfg(test)]
mod tests;
mod wire;

use std::fmt;

use dynamo_namespace::{EndpointId, names};
use serde::{Deserialize, Serialize};

pub(crate) use self::wire::{RawEntry, ValidEntry};
use crate::accepts::Accepts;
use crate::control_url::ControlUrl;
use crate::kind::{Kind, Kinds};
use crate::worker_url::{InvalidUrl, WorkerUrl};

/// One model that one worker serves, as stored.
///
/// The JSON is Dynamo's `ModelEntry` (releases 0.4.1 to 0.5.1). The fields `url`, `control`,
/// `created`, `state` and `accepts` are this crate's own. Unknown fields are ignored.
///
/// ```
/// use dynamo_discovery::{Kind, ModelEntry};
///
/// let entry = ModelEntry::new(
///     "Qwen/Qwen3-0.6B",
///     "team-a.backend.generate".parse()?,
///     Kind::Chat.into(),
/// )?
/// .with_url("http://192.0.2.5:8001".parse()?);
///
/// assert_eq!(ModelEntry::from_json(&entry.to_json())?, entry);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ModelEntry {
    name: Box<str>,
    endpoint: EndpointId,
    kinds: Kinds,
    unknown_kinds: Box<[String]>,
    url: Option<WorkerUrl>,
    control: Option<ControlUrl>,
    created: Option<u64>,
    state: State,
    context_length: Option<u64>,
    accepts: Accepts,
}

/// Whether a worker takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The worker takes requests.
    #[default]
    Serving,
    /// The worker withdraws on purpose. It deletes the entry next.
    Draining,
}

impl ModelEntry {
    /// The longest model name in bytes.
    pub const MAX_NAME_LEN: usize = 256;
    /// The largest value in bytes.
    pub const MAX_VALUE_LEN: usize = 64 * 1024;

    /// An entry that serves, without a URL.
    ///
    /// # Errors
    ///
    /// When the name is unfit to be shown or `kinds` is empty.
    pub fn new(name: &str, endpoint: EndpointId, kinds: Kinds) -> Result<Self, InvalidEntry> {
        check_model_name(name)?;
        if kinds.is_empty() {
            return Err(InvalidEntry::NoKnownKind);
        }
        Ok(Self {
            name: name.into(),
            endpoint,
            kinds,
            unknown_kinds: Box::default(),
            url: None,
            control: None,
            created: None,
            state: State::Serving,
            context_length: None,
            accepts: Accepts::NONE,
        })
    }

    /// The same entry, reachable at `url`.
    pub fn with_url(self, url: WorkerUrl) -> Self {
        Self { url: Some(url), ..self }
    }

    /// The same entry without a server: it is listed, and no request is sent to it.
    pub fn without_url(self) -> Self {
        Self { url: None, ..self }
    }

    /// The same entry, whose worker's control port answers at `control`.
    pub fn with_control(self, control: ControlUrl) -> Self {
        Self { control: Some(control), ..self }
    }

    /// The same entry, created at these unix seconds.
    pub fn with_created(self, created: u64) -> Self {
        Self { created: Some(created), ..self }
    }

    /// The same entry with a context length in tokens.
    pub fn with_context_length(self, context_length: u64) -> Self {
        Self { context_length: Some(context_length), ..self }
    }

    /// The same entry, whose engine accepts these fields in requests.
    pub fn with_accepts(self, accepts: Accepts) -> Self {
        Self { accepts, ..self }
    }

    /// The same entry in another state.
    pub fn with_state(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// The model's public name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the worker serves, in Dynamo's terms.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// The kinds as registered.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The kinds that open a route: none for a worker that only prefills, whatever else it says.
    pub fn served_kinds(&self) -> Kinds {
        let prefills = self.kinds.contains(Kind::Prefill)
            || self.endpoint.component() == names::PREFILL_COMPONENT;
        if prefills { Kinds::NONE } else { self.kinds }
    }

    /// The flags of `model_type` that this release does not know.
    pub fn unknown_kinds(&self) -> &[String] {
        &self.unknown_kinds
    }

    /// Base URL of the OpenAI-compatible server. Real Dynamo workers have none.
    pub fn url(&self) -> Option<&WorkerUrl> {
        self.url.as_ref()
    }

    /// Where the worker's control port answers. It tells whether the worker that wrote this entry is
    /// still there. Flat entries, those of Dynamo and those of workers without such a port have none.
    pub fn control(&self) -> Option<&ControlUrl> {
        self.control.as_ref()
    }

    /// When the model was created, in unix seconds.
    pub fn created(&self) -> Option<u64> {
        self.created
    }

    /// Whether the worker takes requests.
    pub fn state(&self) -> State {
        self.state
    }

    /// The optional fields of requests that the engine accepts. A worker that does not say so accepts
    /// none.
    pub fn accepts(&self) -> Accepts {
        self.accepts
    }

    /// The context length in tokens.
    pub fn context_length(&self) -> Option<u64> {
        self.context_length
    }
}

/// Whether a model may have this name: it is shown to users, in logs and in metrics.
///
/// # Errors
///
/// When it is empty, too long, or has control or bidirectional characters.
pub fn check_model_name(name: &str) -> Result<(), InvalidEntry> {
    // The explicit marks of Unicode TR 9 show text in another order than it is stored in.
    let deceives = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    // The check of bytes is the faster one, and nearly every name passes it.
    let plain = || name.bytes().all(|byte| byte.is_ascii_graphic());
    let fit = (1..=ModelEntry::MAX_NAME_LEN).contains(&name.len())
        && (plain() || !name.contains(deceives));
    if fit { Ok(()) } else { Err(InvalidEntry::ModelName) }
}

/// Why a value is no entry. No message repeats the value, which may be a neighbour's secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEntry {
    /// The value is larger than [`ModelEntry::MAX_VALUE_LEN`].
    #[error("the value is larger than {} bytes", ModelEntry::MAX_VALUE_LEN)]
    TooLarge,
    /// The value is not JSON of the entry's shape.
    #[error("the value is not a model entry in JSON (line {line}, column {column})")]
    Json {
        /// Line of the value, from 1.
        line: usize,
        /// Column of the line, from 1.
        column: usize,
    },
    /// The endpoint's namespace, component or name is invalid.
    #[error("the endpoint is invalid")]
    Endpoint,
    /// The model's name is empty, over [`ModelEntry::MAX_NAME_LEN`], or not fit to be shown.
    #[error(
        "the model's name is empty, longer than {} bytes, or has control or bidirectional characters",
        ModelEntry::MAX_NAME_LEN
    )]
    ModelName,
    /// `model_type` has no known flag.
    #[error("the model type has no known flag")]
    NoKnownKind,
    /// `state` is neither `serving` nor `draining`.
    #[error("the state is neither serving nor draining")]
    UnknownState,
    /// `url` is no [`WorkerUrl`].
    #[error("the url is invalid")]
    Url(#[source] InvalidUrl),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
        })
    }
}
