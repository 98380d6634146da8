//! The value of an entry: one model that one worker serves.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use dynamo_namespace::{EndpointId, names};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::kind::{Kind, Kinds};
use crate::model_key::endpoint;
use crate::worker_url::{InvalidUrl, WorkerUrl};

/// One model that one worker serves, as stored.
///
/// The JSON is Dynamo's `ModelEntry` (releases 0.4.1 to 0.5.1) with the fields `url`, `created`
/// and `state` of our own. Unknown fields are ignored.
///
/// ```
/// use dynamo_discovery::{Kind, ModelEntry};
///
/// let entry = ModelEntry::new(
///     "Qwen/Qwen3-0.6B",
///     "team-a.backend.generate".parse()?,
///     Kind::Chat.into(),
/// )?
/// .with_url("http://10.0.0.5:8001".parse()?);
///
/// assert_eq!(ModelEntry::from_json(&entry.to_json())?, entry);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    name: Box<str>,
    endpoint: EndpointId,
    kinds: Kinds,
    unknown_kinds: Box<[String]>,
    url: Option<WorkerUrl>,
    created: Option<u64>,
    state: State,
    context_length: Option<u64>,
}

/// Whether a worker takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    #[default]
    Serving,
    /// It withdraws on purpose; the entry is deleted next.
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
            created: None,
            state: State::Serving,
            context_length: None,
        })
    }

    /// The same entry, reachable at `url`.
    #[must_use]
    pub fn with_url(self, url: WorkerUrl) -> Self {
        Self { url: Some(url), ..self }
    }

    /// The same entry, created at these unix seconds.
    #[must_use]
    pub fn with_created(self, created: u64) -> Self {
        Self { created: Some(created), ..self }
    }

    /// The same entry with a context length in tokens.
    #[must_use]
    pub fn with_context_length(self, context_length: u64) -> Self {
        Self { context_length: Some(context_length), ..self }
    }

    /// The same entry in another state.
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// The model's public name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the worker serves, in Dynamo's terms.
    #[must_use]
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// The kinds as registered.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The kinds that open a route: none for a worker that only prefills, whatever else it says.
    #[must_use]
    pub fn served_kinds(&self) -> Kinds {
        let prefills = self.kinds.contains(Kind::Prefill)
            || self.endpoint.component() == names::PREFILL_COMPONENT;
        if prefills { Kinds::NONE } else { self.kinds }
    }

    /// The flags of `model_type` that this release does not know.
    #[must_use]
    pub fn unknown_kinds(&self) -> &[String] {
        &self.unknown_kinds
    }

    /// Base URL of the OpenAI-compatible server. Real Dynamo workers have none.
    #[must_use]
    pub fn url(&self) -> Option<&WorkerUrl> {
        self.url.as_ref()
    }

    /// When the model was created, in unix seconds.
    #[must_use]
    pub fn created(&self) -> Option<u64> {
        self.created
    }

    /// Whether the worker takes requests.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The context length in tokens.
    #[must_use]
    pub fn context_length(&self) -> Option<u64> {
        self.context_length
    }

    /// The value to store.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let wire = WireOut {
            name: &self.name,
            endpoint: &self.endpoint,
            model_type: self.kinds.to_string(),
            model_input: "Text",
            url: self.url.as_ref().map(WorkerUrl::as_str),
            created: self.created,
            state: self.state,
            runtime_config: self
                .context_length
                .map(|length| RuntimeConfig { context_length: Some(length) }),
        };
        serde_json::to_vec(&wire)
            .unwrap_or_else(|_| unreachable!("strings and numbers always serialize"))
            .into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    ///
    /// When the value breaks one of the rules; no message repeats the value.
    pub fn from_json(value: &[u8]) -> Result<Self, InvalidEntry> {
        RawEntry::parse(value, None)?.validate()
    }
}

/// A value that has the shape of an entry, whose fields are not yet checked.
///
/// It tells the namespace, so that what is wrong with a neighbour's entry stays with the neighbour.
pub(crate) struct RawEntry<'a> {
    endpoint: EndpointId,
    wire: WireIn<'a>,
}

impl<'a> RawEntry<'a> {
    /// Parses a value; its endpoint is `like`, and shares its memory, if it is equal.
    pub(crate) fn parse(value: &'a [u8], like: Option<&EndpointId>) -> Result<Self, InvalidEntry> {
        if value.len() > ModelEntry::MAX_VALUE_LEN {
            return Err(InvalidEntry::TooLarge);
        }
        let wire: Result<WireIn<'a>, _> = match std::str::from_utf8(value) {
            // Checked at once and not string by string.
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(value),
        };
        let wire = wire
            .map_err(|error| InvalidEntry::Json { line: error.line(), column: error.column() })?;
        let WireEndpoint { namespace, component, name } = &wire.endpoint;
        let endpoint =
            endpoint([namespace, component, name], like).ok_or(InvalidEntry::Endpoint)?;
        Ok(Self { endpoint, wire })
    }

    pub(crate) fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// The model's name, not yet checked.
    pub(crate) fn name(&self) -> &str {
        &self.wire.name
    }

    pub(crate) fn validate(&self) -> Result<ModelEntry, InvalidEntry> {
        let Self { endpoint, wire } = self;
        let parsed = Kinds::parse(&wire.model_type);
        let state = match wire.state.as_deref() {
            None | Some("serving") => State::Serving,
            Some("draining") => State::Draining,
            Some(_) => return Err(InvalidEntry::UnknownState),
        };
        let entry = ModelEntry::new(&wire.name, endpoint.clone(), parsed.kinds)?;
        let url = wire.url.as_ref().map(|url| url.parse().map_err(InvalidEntry::Url));
        // Dynamo's: what of it is odd says nothing, and the entry stands. Serde would take an array.
        let config = wire.runtime_config.map(RawValue::get).filter(|raw| raw.starts_with('{'));
        Ok(ModelEntry {
            unknown_kinds: parsed.unknown.into(),
            url: url.transpose()?,
            created: wire.created,
            state,
            context_length: config
                .and_then(|raw| serde_json::from_str::<RuntimeConfig>(raw).ok()?.context_length),
            ..entry
        })
    }
}

/// Whether a model may have this name: it is shown to users, in logs and in metrics.
///
/// # Errors
///
/// When it is empty, too long, or has control or bidirectional characters.
pub fn check_model_name(name: &str) -> Result<(), InvalidEntry> {
    // What makes text read differently from what it is: Unicode TR 9, the explicit marks.
    let deceives = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    // Nearly every name is plain, which is seen sooner.
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

#[derive(Serialize)]
struct WireOut<'a> {
    name: &'a str,
    endpoint: &'a EndpointId,
    model_type: String,
    model_input: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_config: Option<RuntimeConfig>,
}

#[derive(Serialize, Deserialize)]
struct RuntimeConfig {
    context_length: Option<u64>,
}

/// Borrowed where the JSON has no escapes, since a list has many of them.
#[derive(Deserialize)]
struct WireIn<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    endpoint: WireEndpoint<'a>,
    #[serde(borrow)]
    model_type: Cow<'a, str>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    created: Option<u64>,
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    runtime_config: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireEndpoint<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    component: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(fields: &str) -> String {
        format!(
            r#"{{"name":"m","endpoint":{{"namespace":"a","component":"backend","name":"generate"}},"model_type":"Chat"{fields}}}"#
        )
    }

    fn parse(value: &str) -> Result<ModelEntry, InvalidEntry> {
        ModelEntry::from_json(value.as_bytes())
    }

    #[test]
    fn every_entry_that_dynamo_0_4_to_0_5_wrote_is_read() {
        // The bytes that each release put, one JSON string a line.
        let recorded = include_str!("../testdata/dynamo-models.jsonl");
        let mut read = 0;
        for line in recorded.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let entry = parse(record["value"].as_str().unwrap()).unwrap();
            assert_eq!(entry.kinds(), Kind::Chat.into());
            assert_eq!(entry.url(), None);
            assert_eq!(entry.state(), State::Serving);
            read += 1;
        }
        assert_eq!(read, 4);
    }

    #[test]
    fn fields_of_our_own_are_read_and_unknown_ones_ignored() {
        let entry = parse(&json(
            r#","url":"http://h:1/","created":7,"state":"serving","runtime_config":{"context_length":32768,"x":null},"model_input":"Tokens","y":[{}]"#,
        ))
        .unwrap();
        assert_eq!(entry.url().unwrap().as_str(), "http://h:1");
        assert_eq!(entry.created(), Some(7));
        assert_eq!(entry.context_length(), Some(32768));
        for odd in [
            r#"{"context_length":"many"}"#,
            r#"{"context_length":-1}"#,
            r#"{"context_length":1,"context_length":2}"#,
            r#"{"x":1e400}"#,
            "[4096]",
            "4096",
            "null",
        ] {
            let odd = parse(&json(&format!(r#","runtime_config": {odd} "#))).unwrap();
            assert_eq!(odd.context_length(), None);
        }
        assert!(parse(&json(r#","runtime_config":{"x"}"#)).is_err());
    }

    #[test]
    fn each_broken_rule_is_named_without_the_value() {
        let invalid_name = json("").replace("\"m\"", "\"a\\u202eb\"");
        for (value, expected) in [
            (json(r#","state":"paused""#), InvalidEntry::UnknownState),
            (json(r#","url":"http://u@h""#), InvalidEntry::Url(InvalidUrl::UserInfo)),
            (json("").replace("\"Chat\"", "\"Psychic\""), InvalidEntry::NoKnownKind),
            (json("").replace("\"Chat\"", "\"\""), InvalidEntry::NoKnownKind),
            (json("").replace("\"a\"", "\"a/../b\""), InvalidEntry::Endpoint),
            (json("").replace("\"backend\"", "\"\""), InvalidEntry::Endpoint),
            (json("").replace("\"m\"", "\"\""), InvalidEntry::ModelName),
            (json("").replace("\"m\"", &format!("{:?}", "m".repeat(257))), InvalidEntry::ModelName),
            (invalid_name, InvalidEntry::ModelName),
            (" ".repeat(ModelEntry::MAX_VALUE_LEN + 1), InvalidEntry::TooLarge),
        ] {
            assert_eq!(parse(&value), Err(expected), "{value:.200}");
        }
        for value in ["", "{}", "[]", "secret", "{\"name\":\"secret\"}", "\"secret\""] {
            let error = parse(value).unwrap_err();
            assert!(matches!(error, InvalidEntry::Json { .. }), "{value}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
        assert!(ModelEntry::from_json(b"\xff\xfe").is_err());
        let endpoint_as_text = r#"{"name":"m","endpoint":"dyn://a.b.c","model_type":"Chat"}"#;
        assert!(parse(endpoint_as_text).is_err());
        assert!(parse(&json("").replace("\"Chat\"", "1")).is_err());
    }

    #[test]
    fn a_prefill_worker_opens_nothing_whatever_it_says() {
        let by_flag = json("").replace("\"Chat\"", "\"Chat | Prefill\"");
        let by_component = json("").replace("backend", "prefill");
        for value in [by_flag, by_component] {
            assert_eq!(parse(&value).unwrap().served_kinds(), Kinds::NONE);
        }
        assert_eq!(parse(&json("")).unwrap().served_kinds(), Kind::Chat.into());
    }

    proptest! {
        #[test]
        fn an_entry_round_trips_through_its_json(
            name in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,40}",
            namespace in "[A-Za-z0-9_-]{1,20}",
            bits in 1_u32..2048,
            created in any::<Option<u64>>(),
            context_length in any::<Option<u64>>(),
            url in proptest::option::of("http://[a-z]{1,9}:[1-9][0-9]{0,3}"),
            draining in any::<bool>(),
        ) {
            let endpoint = EndpointId::new(namespace.parse().unwrap(), "backend", "generate").unwrap();
            let kinds = Kinds::parse(&format!("0x{bits:x}")).kinds;
            let mut entry = ModelEntry::new(&name, endpoint, kinds).unwrap();
            entry.created = created;
            entry.context_length = context_length;
            entry.url = url.map(|url| url.parse().unwrap());
            entry.state = if draining { State::Draining } else { State::Serving };
            prop_assert_eq!(ModelEntry::from_json(&entry.to_json()).unwrap(), entry);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ModelEntry::from_json(&bytes);
        }
    }
}
