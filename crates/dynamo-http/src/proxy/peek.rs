//! What must be known of a request's body, read in one pass without building a document.

use std::borrow::Cow;
use std::fmt;

use dynamo_discovery::{ModelEntry, check_model_name};
use http::StatusCode;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::ApiError;

/// What the body asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Peeked<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) stream: bool,
}

/// Reads `model` and `stream` of a JSON object.
///
/// All of it must be JSON. A duplicate of either is refused: engines take the last one, so a
/// gateway that takes the first would route one model and have another answer.
pub(crate) fn peek(body: &[u8]) -> Result<Peeked<'_>, ApiError> {
    let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
    // Also checks the strings that are skipped, which the parser would not.
    let text = std::str::from_utf8(body)
        .map_err(|_| invalid("The request body is not valid UTF-8.".into()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json
        .deserialize_map(TopLevel)
        .and_then(|fields| json.end().map(|()| fields))
        .map_err(|error| invalid(message(&error)))?;
    let model = match fields.model {
        Some(Scalar::Text(model)) => model,
        Some(_) => {
            return Err(invalid("The field 'model' must be a string.".into()).with_param("model"));
        }
        None => return Err(invalid("The field 'model' is missing.".into()).with_param("model")),
    };
    check_model_name(&model).map_err(|_| {
        invalid("The field 'model' is not a valid model name.".into()).with_param("model")
    })?;
    Ok(Peeked { model, stream: matches!(fields.stream, Some(Scalar::Bool(true))) })
}

/// The parser's words, without what they quote of the body.
fn message(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    match ["model", "stream"].into_iter().find(|field| text.starts_with(&duplicate(field))) {
        Some(field) => format!("The field '{field}' appears more than once."),
        None if error.is_data() => "The request body must be a JSON object.".into(),
        None => format!("The request body is not valid JSON (line {line}, column {column})."),
    }
}

fn duplicate(field: &str) -> String {
    format!("duplicate field `{field}`")
}

#[derive(Default)]
struct Fields<'a> {
    model: Option<Scalar<'a>>,
    stream: Option<Scalar<'a>>,
}

/// A value as far as it matters here.
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    Other,
}

struct TopLevel;

impl<'de> Visitor<'de> for TopLevel {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key_seed(FieldName)? {
            let (name, slot) = match field {
                Field::Model => ("model", &mut fields.model),
                Field::Stream => ("stream", &mut fields.stream),
                Field::Other => {
                    map.next_value_seed(Any)?;
                    continue;
                }
            };
            if slot.is_some() {
                return Err(A::Error::duplicate_field(name));
            }
            *slot = Some(map.next_value_seed(Any)?);
        }
        Ok(fields)
    }
}

enum Field {
    Model,
    Stream,
    Other,
}

/// Reads a key, escapes included.
struct FieldName;

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Field;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "model" => Field::Model,
            "stream" => Field::Stream,
            _ => Field::Other,
        })
    }
}

/// Reads any value and keeps next to nothing of it.
///
/// Not [`IgnoredAny`]: that one skips without a limit on the depth, and our bodies go on to
/// parsers that recurse.
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Scalar<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        // A string with escapes. Only a model's name is kept, and none is longer than this.
        let kept = if text.len() > ModelEntry::MAX_NAME_LEN { "" } else { text };
        Ok(Scalar::Text(Cow::Owned(kept.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element_seed(Self)?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Self)?;
        }
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn ok(body: &str) -> (String, bool) {
        let peeked = peek(body.as_bytes()).unwrap();
        (peeked.model.into_owned(), peeked.stream)
    }

    fn error(body: impl AsRef<[u8]>) -> String {
        let error = peek(body.as_ref()).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        error.message().to_owned()
    }

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        for (body, expected) in [
            (r#"{"model":"m"}"#, ("m", false)),
            (r#" { "stream" : true , "model" : "m" } "#, ("m", true)),
            (r#"{"a":{"model":"x","stream":true},"b":["model"],"model":"m"}"#, ("m", false)),
            (r#"{"model":"m","stream":"yes"}"#, ("m", false)),
            (r#"{"model":"m","stream":null}"#, ("m", false)),
            (r#"{"mod\u0065l":"m","str\u0065am":true}"#, ("m", true)),
            (r#"{"model":"Qwen\/Q\u00e9"}"#, ("Qwen/Qé", false)),
            (r#"{"MODEL":"x","model":"m","n":-1.5e3,"big":18446744073709551615}"#, ("m", false)),
        ] {
            assert_eq!(ok(body), (expected.0.to_owned(), expected.1), "{body}");
        }
    }

    #[test]
    fn a_second_model_or_stream_is_refused_however_it_is_spelled() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","model":"a"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
        ] {
            assert_eq!(error(body), "The field 'model' appears more than once.", "{body}");
        }
        assert_eq!(
            error(r#"{"stream":true,"model":"a","stream":false}"#),
            "The field 'stream' appears more than once."
        );
    }

    #[test]
    fn all_of_the_body_must_be_json() {
        for body in [
            "",
            "{",
            r#"{"model":"m""#,
            r#"{"model":"m"} x"#,
            r#"{"model":"m"}{"model":"m"}"#,
            r#"{"model":"m","a":tru}"#,
            r#"{"model":"m","a":01}"#,
            r#"{"model":"m",}"#,
            "{'model':'m'}",
            "not json",
            r#"{"model":"m","a":"\x"}"#,
            "{\"model\":\"m\",\"a\":\"\n\"}",
        ] {
            assert!(error(body).starts_with("The request body is not valid JSON"), "{body}");
        }
        for body in ["[]", "3", r#""model""#, "null"] {
            assert_eq!(error(body), "The request body must be a JSON object.", "{body}");
        }
        assert_eq!(
            error(b"{\"model\":\"m\",\"a\":\"\xff\"}"),
            "The request body is not valid UTF-8."
        );
    }

    #[test]
    fn a_model_that_no_one_could_register_is_refused() {
        assert_eq!(error(r#"{"stream":true}"#), "The field 'model' is missing.");
        for body in
            [r#"{"model":null}"#, r#"{"model":3}"#, r#"{"model":["m"]}"#, r#"{"model":true}"#]
        {
            assert_eq!(error(body), "The field 'model' must be a string.", "{body}");
        }
        for name in ["", "a\nb", "\u{1b}[31m", "\u{202e}x", &"m".repeat(10_000)] {
            let body = json!({ "model": name }).to_string();
            assert_eq!(error(body), "The field 'model' is not a valid model name.");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!(r#"{{"model":"m","a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(error(&deep).len() < 200);
        let fair = format!(r#"{{"model":"m","a":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(ok(&fair).0, "m");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\é]{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_whole_document_would_say(
            fields in proptest::collection::btree_map("[a-z]{0,6}", any_json(), 0..6),
            model in "[a-zA-Z0-9/é\"\\\\.-]{1,20}",
            stream in any::<bool>(),
        ) {
            let mut document: serde_json::Map<String, Value> = fields.into_iter().collect();
            document.insert("model".into(), model.clone().into());
            document.insert("stream".into(), stream.into());
            let body = Value::Object(document).to_string();
            prop_assert_eq!(ok(&body), (model, stream));
        }

        #[test]
        fn no_bytes_make_the_scan_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = peek(&body);
        }
    }
}
