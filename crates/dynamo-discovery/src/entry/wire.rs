//! The JSON of an entry: how it is written, read and checked.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use dynamo_namespace::EndpointId;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{InvalidEntry, ModelEntry, State};
use crate::accepts::{Accepts, RequestField};
use crate::control_url::ControlUrl;
use crate::kind::Kinds;
use crate::model_key::endpoint;
use crate::worker_url::{InvalidUrl, WorkerUrl};

impl ModelEntry {
    /// The value to store.
    pub fn to_json(&self) -> Bytes {
        let wire = WireOut {
            name: &self.name,
            endpoint: &self.endpoint,
            model_type: self.kinds.to_string(),
            model_input: "Text",
            url: self.url.as_ref().map(WorkerUrl::as_str),
            control: self.control.as_ref().map(ControlUrl::as_str),
            created: self.created,
            state: self.state,
            runtime_config: self
                .context_length
                .map(|length| RuntimeConfig { context_length: Some(length) }),
            accepts: self.accepts.iter().map(RequestField::name).collect(),
        };
        serde_json::to_vec(&wire)
            .unwrap_or_else(|_| unreachable!("strings and numbers always serialize"))
            .into()
    }

    /// A stored value with its state set to draining, and all its other fields as they lie, unknown
    /// ones included.
    ///
    /// # Errors
    ///
    /// When the value is no entry; no message repeats the value.
    pub fn drained(value: &[u8]) -> Result<Bytes, InvalidEntry> {
        let _ = Self::from_json(value)?;
        let Fields(mut fields) = serde_json::from_slice(value)
            .map_err(|error| InvalidEntry::Json { line: error.line(), column: error.column() })?;
        fields.retain(|(name, _)| name != "state");
        let mut drained = Vec::with_capacity(value.len() + 24);
        for (name, value) in &fields {
            let name = serde_json::to_string(name)
                .unwrap_or_else(|_| unreachable!("a string always serializes"));
            drained.extend_from_slice(if drained.is_empty() { b"{" } else { b"," });
            drained.extend_from_slice(name.as_bytes());
            drained.push(b':');
            drained.extend_from_slice(value.get().as_bytes());
        }
        // An entry has a name, so there is a field before.
        drained.extend_from_slice(br#","state":"draining"}"#);
        Ok(drained.into())
    }

    /// Reads a stored value.
    ///
    /// # Errors
    ///
    /// When the value breaks one of the rules; no message repeats the value. An invalid `control`
    /// breaks none: the entry is then as one without it.
    pub fn from_json(value: &[u8]) -> Result<Self, InvalidEntry> {
        RawEntry::parse(value, None)?.validate().map(|valid| valid.entry)
    }
}

/// A value that has the shape of an entry, whose fields are not yet checked.
///
/// It tells the namespace first, so that nothing else of a neighbour's entry is looked at.
pub(crate) struct RawEntry<'a> {
    endpoint: EndpointId,
    wire: WireIn<'a>,
}

/// An entry that obeys the rules.
pub(crate) struct ValidEntry {
    pub(crate) entry: ModelEntry,
    /// Why its field `control` was ignored, if it was.
    pub(crate) ignored_control: Option<InvalidUrl>,
}

impl<'a> RawEntry<'a> {
    /// Parses a value; its endpoint is `like`, and shares its memory, if it is equal.
    pub(crate) fn parse(value: &'a [u8], like: Option<&EndpointId>) -> Result<Self, InvalidEntry> {
        if value.len() > ModelEntry::MAX_VALUE_LEN {
            return Err(InvalidEntry::TooLarge);
        }
        let wire: Result<Object<WireIn<'a>>, _> = match std::str::from_utf8(value) {
            // UTF-8 is checked once for the whole value, and not for each string.
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(value),
        };
        let Object(wire) = wire
            .map_err(|error| InvalidEntry::Json { line: error.line(), column: error.column() })?;
        let Object(WireEndpoint { namespace, component, name }) = &wire.endpoint;
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

    pub(crate) fn validate(&self) -> Result<ValidEntry, InvalidEntry> {
        let Self { endpoint, wire } = self;
        let parsed = Kinds::parse(&wire.model_type);
        let state = match wire.state.as_deref() {
            None | Some("serving") => State::Serving,
            Some("draining") => State::Draining,
            Some(_) => return Err(InvalidEntry::UnknownState),
        };
        let entry = ModelEntry::new(&wire.name, endpoint.clone(), parsed.kinds)?;
        let url = wire.url.as_ref().map(|url| url.parse().map_err(InvalidEntry::Url));
        let control = wire.control.map(parse_control).transpose();
        // The field is Dynamo's, so an odd value of it does not make the entry invalid. Serde would
        // also read an array into the struct.
        let config = wire.runtime_config.map(RawValue::get).filter(|raw| raw.starts_with('{'));
        let ignored_control = control.as_ref().err().copied();
        let entry = ModelEntry {
            unknown_kinds: parsed.unknown.into(),
            url: url.transpose()?,
            control: control.unwrap_or_default(),
            created: wire.created,
            state,
            context_length: config
                .and_then(|raw| serde_json::from_str::<RuntimeConfig>(raw).ok()?.context_length),
            accepts: wire.accepts.map(parse_accepts).unwrap_or_default(),
            ..entry
        };
        Ok(ValidEntry { entry, ignored_control })
    }
}

/// Reads the field `control`. No value of it, whatever its type, makes the entry invalid.
fn parse_control(raw: &RawValue) -> Result<ControlUrl, InvalidUrl> {
    let text: Text<'_> = serde_json::from_str(raw.get()).map_err(|_| InvalidUrl::NotText)?;
    text.0.parse()
}

/// Reads the field `accepts`. No value of it makes the entry invalid: what is no list, and what is no
/// known name in it, accepts nothing.
fn parse_accepts(raw: &RawValue) -> Accepts {
    let names: Result<Vec<&RawValue>, _> = serde_json::from_str(raw.get());
    let names = names.unwrap_or_default();
    let names: Vec<_> =
        names.iter().filter_map(|name| serde_json::from_str::<Text<'_>>(name.get()).ok()).collect();
    Accepts::known(names.iter().map(|name| &*name.0))
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
    control: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_config: Option<RuntimeConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accepts: Vec<&'static str>,
}

#[derive(Serialize, Deserialize)]
struct RuntimeConfig {
    context_length: Option<u64>,
}

/// Strings are borrowed where the JSON has no escapes, since a list has many entries.
#[derive(Deserialize)]
struct WireIn<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    endpoint: Object<WireEndpoint<'a>>,
    #[serde(borrow)]
    model_type: Cow<'a, str>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    control: Option<&'a RawValue>,
    created: Option<u64>,
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    runtime_config: Option<&'a RawValue>,
    #[serde(borrow)]
    accepts: Option<&'a RawValue>,
}

/// A struct that is written as a JSON object. Serde by itself would also read a list of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// The fields of an object, in their order, with their values as they lie.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct WireEndpoint<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    component: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}
